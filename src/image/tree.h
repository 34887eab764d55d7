/* Walking the files of stacked layers as overlayfs shows them, without mounting anything. Private to image/. */
#ifndef IMAGE_TREE_H
#define IMAGE_TREE_H

#include <limits.h>

#include "image/image_priv.h"

struct image_tree_entry {
    const char *path;      /* below the root: "etc/hosts" */
    int dir;               /* the folder that it is in, in the layer that shows it */
    const char *name;      /* in dir */
    size_t layer;          /* which */
    const struct stat *st; /* of it; a whiteout only where the walk shows them */
    bool opaque;           /* a folder that hides what is below it */
};
struct image_tree {
    const int *layers; /* n folders, topmost first */
    size_t n;
    bool whiteouts; /* show them, for one layer by itself; else they only hide */
    /* Called for each, folders before what is in them, in the order of names. < 0 ends the walk. */
    int (*fn)(void *opaque, const struct image_tree_entry *entry);
    void *opaque;
};
/* Returns what fn returned, or -errno (-ELOOP: too deep) with *ret_path: where it failed. */
int image_tree_walk(const struct image_tree *t, char ret_path[PATH_MAX]) MUST_USE;

#endif
