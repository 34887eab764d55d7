/* COPY and ADD into a root file system that stands mounted. Nothing is written outside it, whatever links it has. Runs
 * in a process of its own that may change its root (ADD of archives does). */
#ifndef IMAGE_BUILD_COPY_H
#define IMAGE_BUILD_COPY_H

#include <sys/types.h>

#include "image/build_source.h"

struct build_copy {
    int from;                          /* root of the sources */
    const struct build_ignore *ignore; /* NULL: none */
    const struct inst_strings *sources;
    const char *to;    /* absolute path in the root; a "/" at its end, or several sources, make it a folder */
    const char *owner; /* USER[:GROUP]; NULL: root, or with keep_owner the source's */
    bool keep_owner;
    bool chmod, extract; /* extract: archives among the sources are unpacked (ADD) */
    mode_t mode;         /* with chmod */
};

int build_copy(const struct build_copy *c, int root, struct err *e) MUST_USE;

/* Make a folder with its parents below root (links in it followed inside), and open it. -errno. */
int build_make_folder(int root, const char *path, uid_t uid, gid_t gid);

#endif
