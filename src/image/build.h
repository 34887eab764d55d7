/* `image build` from a Containerfile: each instruction that changes files becomes a layer, kept under a key of what it
 * came from, so that the next build need not run it again. Stages that the target does not need are not built. RUN is
 * a container of caisson-oci. */
#ifndef IMAGE_BUILD_H
#define IMAGE_BUILD_H

#include <stdio.h>

#include "image/registry_pull.h"
#include "proto/inst_spec.h"

struct image_build {
    const char *context;                              /* folder */
    const char *file;                                 /* NULL: Containerfile or Dockerfile in the context */
    const char *target;                               /* name or number of a stage; NULL: the last */
    const char *platform;                             /* of base images that are pulled; NULL: this machine's */
    const struct inst_strings *names, *args, *labels; /* as typed: -t, --build-arg K[=V], --label K=V */
    bool no_cache;
    enum image_pull_policy pull;     /* of base images; MISSING where the user says nothing */
    bool network_none;               /* RUN without a network instead of the host's */
    const char *runtime;             /* path of caisson-oci */
    struct registry_config registry; /* also step: total 0 */
    /* One line about what happens now, without its end. NULL: nobody wants to know. Output of RUN goes to stderr
     * anyway, unless quiet. */
    void (*told)(void *opaque, const char *line);
    void *told_opaque;
    bool quiet;
};

/* ret_id: of the image. What was built before a step failed is kept as layers of an image without a name, so that the
 * next build goes on there; `image prune` takes it away. -errno with text that names the line. */
int image_build(struct store *s, const struct image_build *config, char ret_id[IMAGE_DIGEST_MAX],
                struct err *e) MUST_USE;

#endif
