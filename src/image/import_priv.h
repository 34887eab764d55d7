/* Documents that we write ourselves. Private to image/. */
#ifndef IMAGE_IMPORT_PRIV_H
#define IMAGE_IMPORT_PRIV_H

#include <json-c/json.h>

#include "image/image_priv.h"

/* A descriptor; suffix: "+gzip", "+zstd" or "", behind the media type. */
json_object *import_descriptor(const char *media, const char *suffix, const char *digest, uint64_t size);
/* A manifest for a configuration and layers that are there; layers: descriptors, taken over. */
int import_write_manifest(struct image_add *a, const char *config, uint64_t config_size, json_object *layers,
                          char ret_digest[IMAGE_DIGEST_MAX], struct err *e) MUST_USE;

#endif
