/* Files to tar: what a container changed as a layer, or stacked layers as the tar of one file system. Private to
 * image/. */
#ifndef IMAGE_PACK_H
#define IMAGE_PACK_H

#include "image/image_priv.h"

struct image_pack {
    const int *layers; /* n folders, topmost first */
    size_t n;
    bool changes; /* one layer by itself: deleted names as .wh.NAME, opaque folders with .wh..wh..opq */
    /* Where the tar goes, in order. < 0: it fails with that. */
    int (*write)(void *opaque, const void *data, size_t len);
    void *opaque;
    const struct disk_progress *progress; /* bytes of files; the total is not known */
};
/* *ret_entries: how many (may be NULL). -errno with text. */
int image_pack(const struct image_pack *p, uint64_t *ret_entries, struct err *e) MUST_USE;

/* ---- a layer ---- */

struct image_layer {
    bool empty; /* nothing was changed; nothing is stored */
    char digest[IMAGE_DIGEST_MAX], diff_id[IMAGE_DIGEST_MAX];
    uint64_t size;
    enum image_compress compress;
};
/* The files of one folder (changes: an upper folder of overlayfs, else a whole file system) as a blob of the store. */
int image_layer_pack(struct image_add *a, int folder, bool changes, enum image_compress compress,
                     const struct disk_progress *progress, struct image_layer *ret_layer, struct err *e) MUST_USE;

#endif
