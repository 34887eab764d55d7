/* The files of an image as one tar, without layers. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/export_priv.h"
#include "image/pack.h"

struct rootfs_work {
    char **paths;
    size_t n;
    int fd;
};

static int rootfs_write(void *opaque, const void *data, size_t len)
{
    return fd_write_all(*(int *)opaque, data, len);
}

static int rootfs_work(void *opaque, const struct image_work *work, struct err *e)
{
    struct rootfs_work *w = opaque;
    int layers[IMAGE_LAYERS_MAX];
    struct image_pack pack = { .layers = layers, .write = rootfs_write, .opaque = &w->fd, .progress = work->progress };
    int r = 0;

    for (; r == 0 && pack.n < w->n; pack.n++) {
        layers[pack.n] = open(w->paths[pack.n], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (layers[pack.n] < 0) {
            r = err_set(e, errno, "cannot open layer %s: %s", w->paths[pack.n], strerror(errno));
            break;
        }
    }
    if (r == 0)
        r = image_pack(&pack, NULL, e);
    for (size_t i = 0; i < pack.n; i++)
        close(layers[i]);
    return r;
}

int export_rootfs(struct store *s, const struct image *i, int fd, const struct disk_progress *progress, struct err *e)
{
    struct rootfs_work w = { .fd = fd };
    int r = image_layers(s, i, &w.paths, &w.n, e);

    if (r == 0 && w.n == 0)
        r = err_set(e, EINVAL, "image %s has no files", i->id);
    if (r == 0)
        r = image_ids_run(rootfs_work, &w, progress, e);
    image_paths_free(w.paths, w.n);
    return r;
}
