/* One layer of a build: the layers below are mounted, a step changes what it sees, and what it changed becomes a blob
 * of the store. All of that happens in a process with mounts of its own, which vanish with it. */
#ifndef IMAGE_BUILD_LAYER_H
#define IMAGE_BUILD_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "image/pack.h"

/* A stack of layers: absolute paths of "diff" folders, topmost first. Borrowed. */
struct build_stack {
    char *const *paths;
    size_t n;
};

struct build_step {
    struct image_add *add;
    struct build_stack lower;
    const struct build_stack *from; /* another root to read from; NULL: none */
    /* Runs in the child, with a mount namespace of its own. root: the mounted tree, at path; from: -1 without one. */
    int (*run)(void *opaque, const char *path, int root, int from, struct err *e);
    void *opaque;
    bool (*step)(void *opaque); /* called ten times a second meanwhile; false: stop. May be NULL */
    void *step_opaque;
};

int build_layer_make(const struct build_step *step, struct image_layer *ret_layer, struct err *e) MUST_USE;

/* Mount stack (upper and work NULL: read-only) at target. -errno with text. */
int build_mount_stack(const struct build_stack *stack, const char *upper, const char *work, const char *target,
                      struct err *e) MUST_USE;

#endif
