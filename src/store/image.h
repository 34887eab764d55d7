/* Images in the state database: which there are, by which names, and of which parts they consist. A part is the digest
 * of a blob ("sha256:...") or a chain of unpacked layers ("layer:..."): what no image has as a part can be deleted. The
 * files themselves are image/'s. */
#ifndef STORE_IMAGE_H
#define STORE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

#define STORE_IMAGE_DIGEST_MAX 72
#define STORE_IMAGE_NAME_MAX 512

struct store_image {
    char id[STORE_IMAGE_DIGEST_MAX], manifest[STORE_IMAGE_DIGEST_MAX];
    int kind;
    uint64_t size;                /* bytes of all blobs */
    int64_t created_ns, added_ns; /* since 1970, UTC */
};

/* Add an image with its parts (n_parts strings), or replace the one with this id; names stay. In the caller's
 * transaction, or one of its own. added_ns is chosen. */
int store_image_put(struct store *s, const struct store_image *image, const char *const *parts, size_t n_parts,
                    struct err *e) MUST_USE;
/* 1: there is none with exactly this id. */
int store_image_find(struct store *s, const char *id, struct store_image *ret_image, struct err *e) MUST_USE;
/* The image of exactly this name; 1: there is none. */
int store_image_named(struct store *s, const char *name, struct store_image *ret_image, struct err *e) MUST_USE;
/* The newest first. fn borrows the image until it returns. A result other than 0 ends the walk and is returned. */
int store_image_each(struct store *s, int (*fn)(void *opaque, const struct store_image *image), void *opaque,
                     struct err *e) MUST_USE;
/* With its names and parts. 1: there is none. */
int store_image_remove(struct store *s, const char *id, struct err *e) MUST_USE;

/* Give an image a name, which it takes from another image that had it. */
int store_image_name_set(struct store *s, const char *name, const char *id, struct err *e) MUST_USE;
/* 1: there is no such name. */
int store_image_name_remove(struct store *s, const char *name, struct err *e) MUST_USE;
/* Names of one image, or of all with id NULL, in order. */
int store_image_name_each(struct store *s, const char *id, int (*fn)(void *opaque, const char *name, const char *id),
                          void *opaque, struct err *e) MUST_USE;
/* Every part that some image has, once, in order; id: of this image only. */
int store_image_part_each(struct store *s, const char *id, int (*fn)(void *opaque, const char *part), void *opaque,
                          struct err *e) MUST_USE;

#endif
