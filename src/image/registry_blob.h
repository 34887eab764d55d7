/* Fetching blobs into the store: side by side, resumed where an earlier try ended, verified. Inside the registry
 * client. */
#ifndef IMAGE_REGISTRY_BLOB_H
#define IMAGE_REGISTRY_BLOB_H

#include <openssl/evp.h>

#include "image/image.h"
#include "image/registry_priv.h"

struct registry_blob {
    /* The caller's. */
    char digest[REGISTRY_DIGEST_MAX];
    uint64_t size;
    bool config; /* for texts: a configuration, not a layer */
    /* registry_blob.c's. */
    struct registry_job job;
    char path[1200]; /* of the partial file */
    int fd;
    uint64_t have;
    bool inherited; /* an earlier process wrote some of it */
    bool no_range, present;
    EVP_MD_CTX *hash;
};

/* Bring n blobs in, those that are here already left alone. Blobs with one digest must be one. What is complete stays
 * in partial/ until all are. ret_bytes: fetched now. -ENOSPC, -EBADMSG (not what the digest says), -ECANCELED, ... with
 * text. */
int registry_blobs_fetch(struct registry *r, struct registry_blob *blobs, size_t n, struct image_add *add,
                         uint64_t *ret_bytes, struct err *e) MUST_USE;
/* Delete what pulls left unfinished and nobody has touched for this long. *ret_bytes is increased by what they had. */
int registry_partial_sweep(const char *images, uint64_t seconds, uint64_t *ret_bytes) MUST_USE;

#endif
