/* What COPY and ADD copy: sources below a root (the build context, or another stage's file system) by names and
 * patterns, walked in a fixed order without leaving the root, whatever links are in it. */
#ifndef IMAGE_BUILD_SOURCE_H
#define IMAGE_BUILD_SOURCE_H

#include <sys/stat.h>

#include "base/err.h"
#include "image/build_match.h"

#define BUILD_PATH_MAX 4096
#define BUILD_DEPTH_MAX 128

/* One file, folder, link or device on the way. Valid during the call. */
struct build_entry {
    int dir;            /* the folder that it is in, */
    const char *name;   /* and its name there */
    const char *path;   /* relative to its source; "" is the source itself, with a folder that is copied as such */
    const char *source; /* base name of the source, for "into a folder" */
    const struct stat *st;
    bool top; /* it is the source itself */
};

struct build_walk {
    int root;                          /* borrowed */
    const struct build_ignore *ignore; /* NULL: nothing is left out */
    /* A folder is told before what is in it. -errno with text. */
    int (*visit)(void *opaque, const struct build_entry *entry, struct err *e);
    void *opaque;
};

/* Walk one source; it may be a pattern. ret_n is increased by how many names it stood for. ret_folder (may be NULL) is
 * set where one of them is a folder. -ENOENT with text: nothing. */
int build_walk(const struct build_walk *w, const char *source, size_t *ret_n, bool *ret_folder, struct err *e) MUST_USE;
/* The SHA-256 of all that a walk over the sources tells of names, kinds, modes, owners and contents, as hexadecimal
 * digits; times do not count. */
int build_sum(int root, const struct build_ignore *ignore, const struct inst_strings *sources, char ret_hex[65],
              struct err *e) MUST_USE;
/* All names of a folder but "." and "..", in the order of their bytes. dir is borrowed. -errno. */
int build_names(int dir, struct inst_strings *ret_names) MUST_USE;
/* Open path below root, links followed inside it. -errno. */
int build_open_in(int root, const char *path, int flags);

#endif
