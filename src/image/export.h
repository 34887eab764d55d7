/* Images to files that other tools read. */
#ifndef IMAGE_EXPORT_H
#define IMAGE_EXPORT_H

#include "image/image.h"

enum image_format {
    IMAGE_FORMAT_OCI,     /* tar of an OCI layout */
    IMAGE_FORMAT_OCI_DIR, /* the layout as a folder */
    IMAGE_FORMAT_DOCKER,  /* what docker save writes */
    IMAGE_FORMAT_ROOTFS,  /* tar of the root file system, without layers */
};
/* "oci", "oci-dir", "docker", "rootfs"; -EINVAL. */
int image_format_parse(const char *text, enum image_format *ret_format) MUST_USE;

struct image_export {
    const char *const *images; /* n names or ids; with IMAGE_FORMAT_ROOTFS one */
    size_t n;
    enum image_format format;
    const char
        *path; /* "-": standard output; a folder for IMAGE_FORMAT_OCI_DIR, which must not be there, or be empty */
    const struct disk_progress *progress;
};
/* A file gets its name when it is complete; what fails leaves nothing. */
int image_export(struct store *s, const struct image_export *x, struct err *e) MUST_USE;

#endif
