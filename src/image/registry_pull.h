/* `image pull` and `image push`: an image with all its blobs between a registry and the store. Layers come in side by
 * side; what has arrived of one is kept under STATE/images/partial and the next try goes on there; the name appears
 * when everything is there and verified. */
#ifndef IMAGE_REGISTRY_PULL_H
#define IMAGE_REGISTRY_PULL_H

#include "base/attr.h"
#include "base/err.h"
#include "image/image.h"
#include "image/registry.h"

enum image_pull_policy { IMAGE_PULL_ALWAYS, IMAGE_PULL_MISSING, IMAGE_PULL_NEWER, IMAGE_PULL_NEVER };

struct image_pull_config {
    const char *name; /* as typed */
    enum image_pull_policy policy;
    const char *platform; /* "linux/arm64[/v8]"; NULL: this machine's */
    struct registry_config registry;
};

struct image_pull_result {
    char id[IMAGE_DIGEST_MAX];
    char manifest[IMAGE_DIGEST_MAX];
    char name[IMAGE_NAME_MAX]; /* as it is called here now */
    bool pulled;               /* false: what was here is what the registry has, or the policy left it */
    uint64_t bytes;            /* fetched, not counting what had arrived before */
};

/* -errno with text; -ECANCELED: step said so (what has arrived is kept). */
int image_pull(struct store *s, const struct image_pull_config *config, struct image_pull_result *ret_result,
               struct err *e) MUST_USE;
/* "always", "missing", "newer" or "never". -EINVAL. */
int image_pull_policy_parse(const char *text, enum image_pull_policy *ret) MUST_USE;

struct image_push_config {
    const char *image;       /* name or id here */
    const char *destination; /* name there; NULL: the same */
    struct registry_config registry;
};
/* ret_digest: of the manifest. */
int image_push(struct store *s, const struct image_push_config *config, char ret_digest[IMAGE_DIGEST_MAX],
               struct err *e) MUST_USE;

#endif
