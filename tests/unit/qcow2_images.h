/* qcow2 images of many kinds, made by qemu-img, and what qemu-img check says of them. */
#ifndef TESTS_UNIT_QCOW2_IMAGES_H
#define TESTS_UNIT_QCOW2_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "block/open.h"

#define IMG_SECRET "open sesame"
#define IMG_SIZE (4u << 20)

struct img_kind {
    const char *name, *options;               /* of qemu-img create -o */
    bool luks, snapshots, compressed, bitmap; /* done to it besides */
    bool data_file;
};
extern const struct img_kind img_kinds[];
extern const unsigned img_n_kinds;

/* Make the image: data here and there, zeroes, an unallocated rest; and what the kind says. */
void img_make(const struct img_kind *kind, const char *path);
/* Open with our code; fails the test unless the result is `want`. */
struct blk_node *img_open(const char *path, bool read_only, int want);
/* qemu-img check: exit status, and the figures where it gave any. repair: NULL, "leaks", "all". */
int img_qemu_check(const char *path, bool luks, const char *repair, struct blk_check *ret_check);
/* How qemu's programs are told of an image; valid until the next call. */
const char *img_target(const char *path, bool luks);
/* Let qemu-io do something to it: "-c 'write ...' -c ...". */
void img_io(const char *path, bool luks, const char *commands);
/* Let the file node below n fail every write behind the first n_writes, as if the process had been killed then. One
 * image at a time. */
void img_dying(struct blk_node *n, int n_writes);
/* How many of those writes were not made. */
int img_dying_left(void);
/* Digest of the whole disk as our code reads it. */
uint64_t img_digest(struct blk_node *n);

#endif
