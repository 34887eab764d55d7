/* `image build --debian`: a root file system of Debian packages by mmdebstrap, as a container image, or as the disk,
 * kernel and initrd of a VM image. Works without root (user namespaces) and without mounting anything. */
#ifndef IMAGE_BUILD_DEBIAN_H
#define IMAGE_BUILD_DEBIAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "image/image.h"
#include "proto/inst_spec.h"

struct image_debian {
    const char *suite;    /* "bookworm" */
    const char *packages; /* "a,b"; NULL: none besides the variant's */
    const char *mirror;   /* NULL: what mmdebstrap takes by itself */
    uint64_t disk_bytes;  /* 0: a container image, else a VM image with a disk of this size */
    const char *agent;    /* path of caisson-agent, which goes into a VM image; NULL: without */
    bool cloud_init;      /* Debian's cloud-init instead of our own first-boot script */
    const struct inst_strings *names;
    bool quiet;
    void (*told)(void *opaque, const char *line); /* NULL: nobody wants to know */
    void *told_opaque;
    bool (*step)(void *opaque, uint64_t done, uint64_t total); /* as registry_config's */
    void *opaque;
};

int image_build_debian(struct store *s, const struct image_debian *config, char ret_id[IMAGE_DIGEST_MAX],
                       struct err *e) MUST_USE;

#endif
