/* The file that a VM is saved to: it has no name before it is complete and on stable storage, so that a program that is
 * killed leaves nothing. The calls block. */
#ifndef VMM_SAVE_TARGET_H
#define VMM_SAVE_TARGET_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"

struct save_target {
    int fd;           /* -1: none */
    int dir_fd;       /* that holds path; -1: none */
    const char *path; /* borrowed; NULL: the descriptor was given, and keeps its name */
    bool replace;
    bool named; /* the file system has no files without a name: it stands in temp */
    char temp[4096];
};

/* For the user only (0600). -EEXIST: there is such a file, and it is not to be replaced; errors with text. */
int save_target_open(struct save_target *t, const char *path, bool replace, struct err *e) MUST_USE;
/* fd (taken over): an empty regular file, open for writing. */
int save_target_take(struct save_target *t, int fd, struct err *e) MUST_USE;
/* The file is complete: put it on stable storage under its name. */
int save_target_commit(struct save_target *t, struct err *e) MUST_USE;
/* Close; without a commit nothing is left. */
void save_target_close(struct save_target *t);

/* Text for an error of writing. */
int save_target_error(const struct save_target *t, int r, struct err *e);

#endif
