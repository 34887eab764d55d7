#include "image/build_layer.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/build_child.h"
#include "image/image_priv.h"

/* In memory that the processes share: the result comes back in it. */
struct layer_work {
    const struct build_step *step;
    char base[IMAGE_PATH_MAX + 32], upper[IMAGE_PATH_MAX + 48], work[IMAGE_PATH_MAX + 48], root[IMAGE_PATH_MAX + 48],
        from[IMAGE_PATH_MAX + 48];
    struct image_layer layer;
};

static int layer_fail(const char *what, const char *path, struct err *e)
{
    return err_set(e, errno, "cannot %s %s: %s", what, path, strerror(errno));
}

/* Folders for upper, work and the mounts. The upper one gets the attributes that "/" has. */
static int layer_make_folders(struct layer_work *w, struct err *e)
{
    const struct build_stack *lower = &w->step->lower;
    const char *const folders[] = { w->base, w->upper, w->work, w->root, w->from };
    struct stat st = { .st_mode = S_IFDIR | 0755 };

    for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
        if (mkdir(folders[i], 0755) < 0)
            return layer_fail("make", folders[i], e);
    if (lower->n > 0 && stat(lower->paths[0], &st) < 0)
        return layer_fail("look at", lower->paths[0], e);
    if (chmod(w->upper, st.st_mode & 07777) < 0 || (lower->n > 0 && chown(w->upper, st.st_uid, st.st_gid) < 0))
        return layer_fail("prepare", w->upper, e);
    return 0;
}

/* The child: its mounts are nobody else's. */
static int layer_child(void *opaque, struct err *e)
{
    struct layer_work *w = opaque;
    const struct build_step *step = w->step;
    AUTO_FD int root = -1, from = -1;
    int r;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return err_set(e, errno, "cannot make a mount namespace: %s; run as root, or allow user namespaces",
                       strerror(errno));
    if (step->lower.n > 0)
        r = build_mount_stack(&step->lower, w->upper, w->work, w->root, e);
    else
        r = mount(w->upper, w->root, NULL, MS_BIND, NULL) < 0 ? layer_fail("mount", w->root, e) : 0;
    if (r == 0 && step->from)
        r = build_mount_stack(step->from, NULL, NULL, w->from, e);
    if (r < 0)
        return r;
    root = open(w->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return layer_fail("open", w->root, e);
    if (step->from) {
        from = open(w->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (from < 0)
            return layer_fail("open", w->from, e);
    }
    return step->run(step->opaque, w->root, root, from, e);
}

static int layer_work(void *opaque, const struct image_work *ids, struct err *e)
{
    struct layer_work *w = opaque;
    AUTO_FD int upper = -1;
    int r = layer_make_folders(w, e);

    (void)ids;
    if (r == 0)
        r = build_child_run(layer_child, w, w->step->step, w->step->step_opaque, e);
    if (r < 0)
        return r;
    upper = open(w->upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (upper < 0)
        return layer_fail("open", w->upper, e);
    return image_layer_pack(w->step->add, upper, true, IMAGE_COMPRESS_GZIP, NULL, &w->layer, e);
}

int build_layer_make(const struct build_step *step, struct image_layer *ret_layer, struct err *e)
{
    struct layer_work *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct image_place *place = &step->add->place;
    char name[32];
    struct err ignored = { 0 };
    int r, left;

    if (w == MAP_FAILED)
        return err_set(e, ENOMEM, "out of memory");
    snprintf(name, sizeof(name), "step%u", ++step->add->serial);
    w->step = step;
    snprintf(w->base, sizeof(w->base), "%s/%s", place->tmp, name);
    snprintf(w->upper, sizeof(w->upper), "%s/upper", w->base);
    snprintf(w->work, sizeof(w->work), "%s/work", w->base);
    snprintf(w->root, sizeof(w->root), "%s/root", w->base);
    snprintf(w->from, sizeof(w->from), "%s/from", w->base);
    r = image_ids_run(layer_work, w, NULL, e);
    if (r == 0)
        *ret_layer = w->layer;
    left = image_tree_remove_owned(place->tmp_fd, name, &ignored);
    (void)left; /* the temporary folder goes as a whole later */
    munmap(w, sizeof(*w));
    return r;
}
