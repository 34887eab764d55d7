#include "vmm/backup_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/backup.h"
#include "block/image.h"
#include "block/open.h"
#include "block/record.h"
#include "proto/json.h"

void backup_files_path(const struct backup_files *f, unsigned i, char *ret_path, size_t size)
{
    snprintf(ret_path, size, "%s/%s", f->request->dir, f->point.disks[i].file);
}

/* ---- the directory ---- */

static int files_lock(struct backup_files *f, struct err *e)
{
    const char *dir = f->request->dir;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "backup directory %s: %s%s", dir, strerror(errno),
                       errno == ENOENT ? "; make its parent directory first" : "");
    f->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0)
        return err_set(e, errno, "backup directory %s: %s", dir, strerror(errno));
    if (flock(f->dir_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(e, errno == EWOULDBLOCK ? EBUSY : errno, "backup directory %s: %s", dir,
                       errno == EWOULDBLOCK ? "another backup is being made there; wait for it, or name another"
                                            : strerror(errno));
    return 0;
}

static int files_manifest(struct backup_files *f, struct err *e)
{
    const char *dir = f->request->dir, *chain = f->request->chain;
    int r = backup_manifest_load(f->dir_fd, dir, &f->manifest, e);

    if (r == -ENOENT) {
        snprintf(f->manifest.vm, sizeof(f->manifest.vm), "%s", f->vm);
        snprintf(f->manifest.chain, sizeof(f->manifest.chain), "%s", chain);
        return 0;
    }
    if (r < 0)
        return r;
    if (strcmp(f->manifest.vm, f->vm) != 0)
        return err_set(e, EINVAL, "backup directory %s: has backups of VM %s; name another directory with --to", dir,
                       f->manifest.vm);
    if (strcmp(f->manifest.chain, chain) != 0)
        return err_set(e, EINVAL, "backup directory %s: has the chain %s, not %s; give --name %s, or another directory",
                       dir, f->manifest.chain, chain, f->manifest.chain);
    return 0;
}

static int files_new_point(struct backup_files *f, struct err *e)
{
    const struct backup_point *last = backup_manifest_point(&f->manifest, 0);
    struct backup_point *point = &f->point;
    uint8_t random[(BACKUP_ID_MAX - 1) / 2];

    if (f->manifest.n_points >= BACKUP_POINTS_MAX || (last && last->number >= BACKUP_NUMBER_MAX))
        return err_set(e, ENOSPC, "backup directory %s: has as many points as are possible; name another with --to",
                       f->request->dir);
    point->number = last ? last->number + 1 : 1;
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return err_set(e, EIO, "cannot get random numbers");
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(point->id + 2 * i, 3, "%02x", random[i]);
    return 0;
}

void backup_files_stamp(struct backup_files *f)
{
    struct timespec now;
    json_object *text;

    clock_gettime(CLOCK_REALTIME, &now);
    text = proto_json_time((int64_t)now.tv_sec * 1000000000);
    snprintf(f->point.time, sizeof(f->point.time), "%s", text ? json_object_get_string(text) : "");
    json_object_put(text);
}

/* ---- full or incremental ---- */

/* Why disk d cannot be an increment of the point last, as the end of a sentence; NULL: it can. */
static const char *files_why_full(const struct backup_files *f, const struct backup_files_disk *d,
                                  const struct backup_point *last)
{
    if (!last)
        return "has no backup there yet";
    if (!d->prev_id[0])
        return blk_records_persistent(blk_watch_records(d->watch))
                   ? "was not closed cleanly or was changed otherwise since the last point, so what has changed is not "
                     "known"
                   : "is no qcow2 image, so what has changed is only known as long as its VM runs, and this one was "
                     "started since the last point";
    if (backup_point_disk(last, d->name)->size != blk_watch_image(d->watch)->size)
        return "has another size than at the last point";
    if (backup_manifest_depth(&f->manifest, last, d->name) >= BACKUP_DEPTH_MAX)
        return "has as many increments one upon the other as are possible";
    return NULL;
}

static int files_decide(struct backup_files *f, unsigned i, struct err *e)
{
    struct backup_files_disk *d = &f->disks[i];
    struct backup_disk *entry = &f->point.disks[i];
    const struct backup_point *last = backup_manifest_last(&f->manifest, d->name);
    char file[BACKUP_FILE_MAX];
    struct blk_info info;
    const char *why;

    if (last && blk_records_has(blk_watch_records(d->watch), f->request->chain, last->id))
        snprintf(d->prev_id, sizeof(d->prev_id), "%s", last->id);
    why = files_why_full(f, d, last);
    if (why && f->request->mode == VM_BACKUP_INCREMENTAL)
        return err_set(e, EINVAL, "disk %s: %s; take a full backup with --full", d->path, why);
    if (why && last && f->request->mode == VM_BACKUP_AUTO && !f->note[0])
        snprintf(f->note, sizeof(f->note), "%s %s; it is copied in full", d->name, why);
    blk_node_info(blk_image_node(blk_watch_image(d->watch)), &info);
    if (info.encryption && !f->note[0])
        snprintf(f->note, sizeof(f->note), "%s is encrypted, its backup is not", d->name);
    *entry = (struct backup_disk){ .index = d->index,
                                   .full = why || f->request->mode == VM_BACKUP_FULL,
                                   .size = blk_watch_image(d->watch)->size };
    memcpy(entry->name, d->name, sizeof(entry->name));
    entry->base = entry->full ? 0 : last->number;
    snprintf(file, sizeof(file), "%s-%04" PRIu32 "-%s.qcow2", d->name, f->point.number, entry->full ? "full" : "inc");
    memcpy(entry->file, file, sizeof(entry->file));
    f->point.n_disks = i + 1;
    return 0;
}

/* ---- the files ---- */

static int files_target_error(const struct blk_why *why, const char *path, int r, struct err *e)
{
    if (why->text)
        return err_set(e, -r, "backup file %s: %s", why->path[0] ? why->path : path, why->text);
    return err_set(e, -r, "backup file %s: %s%s", why->path[0] ? why->path : path, strerror(-r),
                   r == -ENOENT ? "; put it back, or take a full backup with --full" : "");
}

static int files_make(struct backup_files *f, unsigned i, struct err *e)
{
    const struct backup_disk *entry = &f->point.disks[i];
    const struct backup_point *base = entry->full ? NULL : backup_manifest_point(&f->manifest, entry->base);
    const char *const dirs[] = { f->request->dir, NULL };
    char path[BLK_PATH_MAX];
    struct blk_create_config create = { .path = path,
                                        .format = "qcow2",
                                        .size = entry->size,
                                        .cluster_size = BLK_BACKUP_CLUSTER,
                                        .overwrite = true, /* what a killed backup has left */
                                        .no_sync = true };
    struct blk_open_config open = { .path = path, .format = "qcow2", .allowed_dirs = dirs };
    struct blk_why *why = calloc(1, sizeof(*why));
    int r;

    if (!why)
        return err_set(e, ENOMEM, "out of memory");
    backup_files_path(f, i, path, sizeof(path));
    if (base) {
        create.backing_path = backup_point_disk(base, entry->name)->file;
        create.backing_format = "qcow2";
    }
    r = blk_create(&create, why);
    if (r == 0)
        r = blk_open(&open, &f->disks[i].target, why);
    if (r < 0)
        (void)files_target_error(why, path, r, e);
    free(why);
    return r;
}

int backup_files_open(struct backup_files *f, struct err *e)
{
    int r = files_lock(f, e);

    if (r == 0)
        r = files_manifest(f, e);
    if (r == 0)
        r = files_new_point(f, e);
    for (unsigned i = 0; i < f->n_disks && r == 0; i++)
        r = files_decide(f, i, e);
    for (unsigned i = 0; i < f->n_disks && r == 0; i++)
        r = files_make(f, i, e);
    return r;
}

int backup_files_commit(struct backup_files *f, struct err *e)
{
    int r = 0;

    for (unsigned i = 0; i < f->n_disks && r == 0; i++) {
        char path[BLK_PATH_MAX];

        backup_files_path(f, i, path, sizeof(path));
        r = blk_flush(f->disks[i].target);
        if (r < 0)
            return err_set(e, -r, "backup file %s: %s", path, strerror(-r));
        blk_node_close(f->disks[i].target);
        f->disks[i].target = NULL;
    }
    if (fsync(f->dir_fd) < 0)
        return err_set(e, errno, "backup directory %s: %s", f->request->dir, strerror(errno));
    r = backup_manifest_add(&f->manifest, &f->point);
    if (r < 0)
        return err_set(e, -r, "backup directory %s: %s", f->request->dir, strerror(-r));
    return backup_manifest_save(f->dir_fd, f->request->dir, &f->manifest, e);
}

void backup_files_close(struct backup_files *f, bool keep)
{
    for (unsigned i = 0; i < f->n_disks; i++) {
        blk_node_close(f->disks[i].target);
        f->disks[i].target = NULL;
    }
    for (unsigned i = 0; i < f->point.n_disks && !keep && f->dir_fd >= 0; i++)
        (void)unlinkat(f->dir_fd, f->point.disks[i].file, 0);
    backup_manifest_done(&f->manifest);
    base_closep(&f->dir_fd);
    f->dir_fd = -1;
}
