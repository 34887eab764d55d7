/* Shared by the files of `caisson disk`. Private to store/. */
#ifndef STORE_DISK_PRIV_H
#define STORE_DISK_PRIV_H

#include "store/disk.h"

/* Which parts a copy is about. */
enum disk_copy_what {
    DISK_COPY_ALL,       /* all of it, through the chain */
    DISK_COPY_OWN,       /* what `from` itself decides, without its backing files */
    DISK_COPY_NOT_OWNED, /* what `to` does not decide itself */
};

/* A copy of [0, size) between two nodes by several threads. Behind the end of from (and of base) are zeroes. */
struct disk_copy {
    struct blk_node *from, *to; /* from NULL: all zeroes */
    struct blk_node *base; /* what `to` shows where nothing is written: equal parts are left out. NULL: see blank */
    enum disk_copy_what what;
    uint64_t size;
    uint64_t align;  /* a power of two >= 512: ranges are cut at multiples of it (compression: the cluster size) */
    uint64_t sparse; /* unit in which zeroes and equal parts are looked for, a power of two >= 512; 0: not at all */
    bool blank;      /* `to` reads as zeroes: zeroes are left out */
    /* `to` will stand on something else later, so that it is not enough that it shows zeroes already: write them as
     * data, but for whole units above a backing file, which it has to note. */
    bool explicit_zeroes;
    bool compress;
    /* One thread writes at a time, while others read: a host file takes one write at a time anyway, and threads that
     * wait for it inside the kernel burn the CPU. For targets where a write is no more than that. */
    bool one_writer;
    unsigned threads; /* 0: one for each CPU */
    const struct disk_progress *progress;
};
/* Returns 0 or -errno (-ECANCELED), then with *ret_guilty the node whose call failed, or NULL. */
int disk_copy_run(const struct disk_copy *copy, uint64_t *ret_written, struct blk_node **ret_guilty) MUST_USE;

/* Read what may lie behind the end of the node, where zeroes are. n NULL: all zeroes. */
int disk_read_padded(struct blk_node *n, uint64_t off, uint8_t *data, uint64_t len) MUST_USE;
/* Likewise blk_extent. */
int disk_extent_padded(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent) MUST_USE;

/* disk_open of the image alone, for what it says about itself: no backing file and no passphrase is needed for that. */
int disk_open_alone(const struct blk_open_config *config, bool read_only, struct blk_node **ret_node,
                    struct err *e) MUST_USE;

/* Whether a new image may take the place of what has this name: a regular file that nobody uses, or nothing. -EBUSY. */
int disk_check_replace(const char *path, struct err *e) MUST_USE;

bool disk_same_file(const char *a, const char *b);
/* An image at path may not stand on this chain if one of its files is the image itself. -ELOOP. */
int disk_check_loop(struct blk_node *backing, const char *path, struct err *e) MUST_USE;

/* Whether a path is a name in the file system, not an URI. */
bool disk_path_is_file(const char *path);
/* The name of a backing file as it stands in an image, as seen from here: relative ones start at the image's folder.
 * Caller frees *ret_path. -ENOMEM. */
int disk_backing_path(const char *image, const char *backing, char **ret_path) MUST_USE;

json_object *disk_snapshots_json(struct blk_node *n);
json_object *disk_bitmaps_json(struct blk_node *n);

#endif
