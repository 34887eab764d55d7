/* Importing images from files: an OCI layout (a folder, or a tar of one), an archive of `docker save`, or the tar of a
 * root file system. */
#ifndef IMAGE_IMPORT_H
#define IMAGE_IMPORT_H

#include "image/image.h"

struct image_import {
    const char *path;     /* a folder, a file (perhaps compressed), or "-": standard input */
    const char *name;     /* for the one image in it; NULL: the names that it brings */
    const char *platform; /* "linux/arm64[/v8]"; NULL: this machine's */
    bool rootfs;          /* the tar is a root file system, and becomes an image of one layer */
    const struct disk_progress *progress;
};
/* Import all images of that platform. told (may be NULL) is called for each that is in; it borrows the image. -ENOENT:
 * no such file, or nothing for the platform; -EBADMSG: what it is not, or damaged. */
int image_import(struct store *s, const struct image_import *import, void (*told)(void *opaque, const struct image *i),
                 void *opaque, struct err *e) MUST_USE;

/* This machine as images name it: "amd64". Constant. */
const char *image_arch(void);
/* Choose among the entries of an index by platform ("linux/amd64[/v3]"; NULL: this machine's): the first that fits
 * exactly, else the first that does not say its platform. -1: none. For pull, too. */
struct oci_image;
int image_choose(const struct oci_image *index, const char *platform) MUST_USE;

#endif
