/* The documents of OCI images (image-spec 1.1) and of Docker's archives as C structures, read and checked: index,
 * manifest, configuration, and the manifest.json of `docker save`. Docker's own media types (manifest v2 schema 2) mean
 * the same. Strings belong to the document. What Caisson does not know stays in the JSON, so that an image is passed on
 * as it came. Pure: no file is touched. Spec: OCI image-spec, manifest.md, image-index.md, config.md. */
#ifndef WIRE_OCI_IMAGE_H
#define WIRE_OCI_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "wire/oci_spec.h"

#define OCI_DIGEST_MAX 72           /* "sha256:" and 64 lower-case digits, with its terminator */
#define OCI_DOCUMENT_MAX (4u << 20) /* bytes of a manifest, an index or a configuration, as registries have it */
#define OCI_IMAGE_LAYERS_MAX 128
#define OCI_IMAGE_INDEX_MAX 1024
#define OCI_BLOB_MAX (1ull << 42) /* bytes that a descriptor may promise */

/* What a blob is, by its media type. */
enum oci_media {
    OCI_MEDIA_OTHER,
    OCI_MEDIA_INDEX,
    OCI_MEDIA_MANIFEST,
    OCI_MEDIA_CONFIG,
    OCI_MEDIA_LAYER, /* tar, perhaps compressed; how is seen from its first bytes */
    OCI_MEDIA_VM_CONFIG,
    OCI_MEDIA_VM_DISK,
    OCI_MEDIA_VM_KERNEL,
    OCI_MEDIA_VM_INITRD,
};
/* The name that we write for a kind of blob; layers: uncompressed. */
const char *oci_media_name(enum oci_media media);

struct oci_descriptor {
    const char *media_type;
    enum oci_media media;
    char digest[OCI_DIGEST_MAX];
    uint64_t size;
    const char *os, *arch, *variant; /* of the platform; NULL: not said */
    const char *ref_name;            /* the name that an index gives it; NULL: none */
};

struct oci_history {
    int64_t created_ns; /* 0: not said */
    const char *created_by, *comment;
    bool empty_layer;
};

/* One of Docker's images in an archive: names of files in it. */
struct oci_docker_entry {
    const char *config;
    struct oci_strings names, layers;
};

/* One document; which part is filled follows from the function that read it. */
struct oci_image {
    struct oci_spec *memory; /* owns strings and arrays */
    const char *media_type;  /* NULL: not said */
    /* index */
    struct oci_descriptor *manifests;
    size_t n_manifests;
    /* manifest */
    struct oci_descriptor config;
    struct oci_descriptor *layers;
    size_t n_layers;
    /* configuration */
    const char *os, *arch, *variant; /* NULL: not said */
    int64_t created_ns;              /* since 1970, UTC; 0: not said */
    const char **diff_ids;           /* n_diff_ids checked digests */
    size_t n_diff_ids;
    struct oci_history *history;
    size_t n_history;
    /* manifest.json */
    struct oci_docker_entry *docker;
    size_t n_docker;
};

/* Each fills *ret_image, which the caller ends with oci_image_done; after an error it is untouched. -EINVAL with why
 * (may be NULL): malformed JSON, missing or ill-typed fields, digests that are none or not of sha256, too many layers
 * or entries, sizes that are negative or above OCI_BLOB_MAX. -ENOMEM. */
int oci_index_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why) MUST_USE;
int oci_manifest_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why) MUST_USE;
int oci_config_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why) MUST_USE;
int oci_docker_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why) MUST_USE;
void oci_image_done(struct oci_image *i); /* a zeroed one is accepted */

/* Whether text is "sha256:" and 64 lower-case hexadecimal digits. */
bool oci_digest_ok(const char *text);
/* RFC 3339 to nanoseconds since 1970; -EINVAL. */
int oci_time_parse(const char *text, int64_t *ret_ns) MUST_USE;

#endif
