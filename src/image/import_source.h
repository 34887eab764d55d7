/* Where an import reads from: the files of a folder, or those of a tar, which is read once and all of whose files
 * become blobs. Private to image/. */
#ifndef IMAGE_IMPORT_SOURCE_H
#define IMAGE_IMPORT_SOURCE_H

#include "image/image_priv.h"

struct import_source;
int import_source_open(struct image_add *a, const char *path, const struct disk_progress *progress,
                       struct import_source **ret_source, struct err *e) MUST_USE;
void import_source_free(struct import_source *s);
DEFINE_AUTO(import_source, struct import_source, import_source_free)
bool import_source_has(struct import_source *s, const char *name);
/* Bring a file in as a blob. digest and size as in image_blob_end. -ENOENT with text. */
int import_source_blob(struct import_source *s, const char *name, const char *digest, uint64_t size,
                       char ret_digest[IMAGE_DIGEST_MAX], uint64_t *ret_size, struct err *e) MUST_USE;
/* A document whole; the caller ends buf in any case. */
int import_source_document(struct import_source *s, const char *name, struct buf *ret, struct err *e) MUST_USE;
/* Copy all of fd into a blob. */
int import_copy(struct image_add *a, int fd, const char *digest, uint64_t size, const struct disk_progress *progress,
                char ret_digest[IMAGE_DIGEST_MAX], uint64_t *ret_size, struct err *e) MUST_USE;

#endif
