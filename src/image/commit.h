/* A new image from an old one and what a container changed in it. */
#ifndef IMAGE_COMMIT_H
#define IMAGE_COMMIT_H

#include "image/image.h"

struct json_object;

struct image_commit {
    const char *base;           /* id of the image below; NULL: none */
    const char *folder;         /* absolute: upper folder of overlayfs with base, a whole root file system without */
    const char *name;           /* of the new image, as typed; NULL: none */
    const char *const *changes; /* instructions: "CMD [\"sh\"]", "ENV A=b"; n_changes */
    size_t n_changes;
    struct json_object *config; /* members that replace those of the image's "config" (Env, Cmd, ...); NULL: none */
    const char *author, *message, *created_by; /* NULL: not said */
    enum image_compress compress;
    const struct disk_progress *progress;
};
/* The folder must not change meanwhile. What was not changed makes no layer. */
int image_commit(struct store *s, const struct image_commit *c, struct image *ret_image, struct err *e) MUST_USE;

/* One instruction to an image's configuration document: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER,
 * VOLUME, WORKDIR. -EINVAL with text. */
int image_config_change(struct json_object *document, const char *instruction, struct err *e) MUST_USE;

/* The upper folder of a container as a layer that stands for itself, for snapshots: a file (tar) at path, which
 * must not be there. *ret_size: bytes of it. */
int image_layer_from_upper(const char *folder, const char *path, const struct disk_progress *progress,
                           uint64_t *ret_size, struct err *e) MUST_USE;
/* The way back: fill an empty upper folder, as overlayfs would have it. lower: the layers that it stands on, topmost
 * first (image_layers). */
int image_layer_to_upper(const char *path, const char *folder, char *const *lower, size_t n_lower,
                         const struct disk_progress *progress, struct err *e) MUST_USE;

#endif
