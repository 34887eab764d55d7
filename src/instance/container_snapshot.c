#include "instance/container_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/commit.h"
#include "instance/client.h"
#include "instance/place.h"
#include "sys/tree.h"

struct ctr_snapshot {
    char upper[INST_PATH_MAX + 8], fresh[INST_PATH_MAX + 16], file[INST_PATH_MAX + 128];
};

static int ctr_snapshot_paths(const struct store_instance *i, const char *tag, struct ctr_snapshot *ret, struct err *e)
{
    char dir[INST_PATH_MAX];
    int r = inst_dir(i->id, dir, e);

    if (r < 0)
        return r;
    snprintf(ret->upper, sizeof(ret->upper), "%s/upper", dir);
    snprintf(ret->fresh, sizeof(ret->fresh), "%s/upper.new", dir);
    snprintf(ret->file, sizeof(ret->file), "%s/snapshots/%s.tar", dir, tag);
    return 0;
}

static int ctr_snapshot_pause(const struct store_instance *i, bool pause, struct err *e)
{
    const struct shim_msg_request request = { .op = pause ? SHIM_MSG_PAUSE : SHIM_MSG_RESUME };

    return inst_call(i, &request, INST_CALL_MS, NULL, e);
}

int inst_container_snapshot_resume(const struct store_instance *i, struct err *e)
{
    return ctr_snapshot_pause(i, false, e);
}

int inst_container_snapshot_path(const struct store_instance *i, const char *tag, char *ret_path, size_t size,
                                 struct err *e)
{
    struct ctr_snapshot p;
    int r = ctr_snapshot_paths(i, tag, &p, e);

    if (r == 0)
        snprintf(ret_path, size, "%s", p.file);
    return r;
}

int inst_container_snapshot_take(const struct store_instance *i, const char *tag, const struct disk_progress *progress,
                                 struct err *e)
{
    struct ctr_snapshot p;
    struct inst_info info;
    struct err later = { 0 };
    uint64_t size = 0;
    bool pause = false;
    int r = ctr_snapshot_paths(i, tag, &p, e);

    if (r == 0)
        r = inst_ask(i, &info, e);
    if (r == 0 && access(p.upper, F_OK) < 0) { /* it has never run */
        r = mkdir(p.upper, 0755) < 0 && errno != EEXIST ? err_set(e, errno, "%s: %s", p.upper, strerror(errno)) : 0;
    }
    if (r == 0 && info.alive && strcmp(info.status, "running") == 0) {
        r = ctr_snapshot_pause(i, true, e);
        pause = r == 0;
    }
    if (r == 0)
        r = image_layer_from_upper(p.upper, p.file, progress, &size, e);
    if (pause && ctr_snapshot_pause(i, false, &later) < 0 && r == 0) {
        *e = later;
        r = -later.code;
    }
    return r;
}

/* The new upper folder is complete before the old one goes. */
static int ctr_snapshot_swap(const struct ctr_snapshot *p, struct err *e)
{
    int r = sys_tree_remove(p->upper);

    if (r < 0)
        return err_set(e, -r, "cannot remove %s: %s", p->upper, strerror(-r));
    return rename(p->fresh, p->upper) < 0 ? err_set(e, errno, "cannot rename %s: %s", p->fresh, strerror(errno)) : 0;
}

int inst_container_snapshot_apply(struct store *s, const struct store_instance *i, const char *tag, struct err *e)
{
    struct image image = { 0 };
    struct ctr_snapshot p;
    char **layers = NULL;
    size_t n = 0;
    int r = ctr_snapshot_paths(i, tag, &p, e);

    if (r < 0)
        return r;
    r = sys_tree_remove(p.fresh);
    if (r < 0)
        return err_set(e, -r, "cannot remove %s: %s", p.fresh, strerror(-r));
    if (mkdir(p.fresh, 0755) < 0)
        return err_set(e, errno, "cannot make %s: %s", p.fresh, strerror(errno));
    r = image_get(s, i->spec.image_id, &image, e);
    if (r == 0)
        r = image_layers(s, &image, &layers, &n, e);
    if (r == 0)
        r = image_layer_to_upper(p.file, p.fresh, layers, n, NULL, e);
    if (r == 0)
        r = ctr_snapshot_swap(&p, e);
    for (size_t k = 0; k < n; k++)
        free(layers[k]);
    free(layers);
    image_done(&image);
    return r;
}

int inst_container_snapshot_drop(const struct store_instance *i, const char *tag, struct err *e)
{
    struct ctr_snapshot p;
    int r = ctr_snapshot_paths(i, tag, &p, e);

    if (r == 0 && unlink(p.file) < 0 && errno != ENOENT)
        r = err_set(e, errno, "cannot remove %s: %s", p.file, strerror(errno));
    return r;
}
