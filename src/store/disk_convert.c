/* Converting: a new image under a temporary name, filled by disk_copy_run or cloned by the file system, flushed, then
 * renamed. The temporary file goes away on every way out but a kill -9. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "store/disk_priv.h"

#define CONVERT_CLUSTER_DEFAULT 65536u

struct convert {
    const struct disk_convert_config *config;
    const struct disk_progress *progress;
    struct blk_create_config target; /* with the size, and the temporary name as its path */
    struct blk_node *from, *to, *base;
    char *temp;  /* NULL: written in place */
    int sync_fd; /* on the temporary file: flushes are ignored while it grows, this makes it stable at the end. -1: not
                    so */
    struct disk_convert_report report;
};

/* ---- the target ---- */

/* A device or a remote disk is not made, but filled. */
static bool convert_in_place(const char *path)
{
    struct stat st;

    return !disk_path_is_file(path) || (stat(path, &st) == 0 && S_ISBLK(st.st_mode));
}

/* A target that exists is replaced only if that was said, and not while somebody uses it, nor if it is the source. */
static int convert_check_target(const struct convert *v, struct err *e)
{
    const struct blk_create_config *target = &v->config->target;
    struct stat from, to;

    if (lstat(target->path, &to) < 0)
        return errno == ENOENT ? 0 : disk_fail(e, -errno, target->path, NULL, "make it");
    if (!target->overwrite)
        return disk_fail(e, -EEXIST, target->path, NULL, "make it");
    if (stat(v->config->source.path, &from) == 0 && from.st_dev == to.st_dev && from.st_ino == to.st_ino)
        return err_set(e, EINVAL, "disk %s: it is the source and the target; choose another name for the target",
                       target->path);
    return disk_check_replace(target->path, e);
}

/* Nobody needs half of a temporary file, so it need not be stable before the end. A data file beside it is not ours
 * alone. */
static bool convert_syncs_late(const struct convert *v)
{
    return v->temp && !v->target.data_file;
}

static int convert_temp(struct convert *v, struct err *e)
{
    const char *path = v->config->target.path;
    AUTO_FREE char *name = NULL;
    int fd;

    if (asprintf(&name, "%s.part-XXXXXX", path) < 0) {
        name = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        return disk_fail(e, -errno, path, NULL, "make it");
    close(fd);
    v->temp = STEAL(name);
    v->target.path = v->temp;
    v->target.overwrite = true;
    v->target.no_sync = convert_syncs_late(v);
    return 0;
}

/* The data is stable; now the name. */
static int convert_publish(struct convert *v, struct err *e)
{
    const char *path = v->config->target.path;
    const char *slash = strrchr(path, '/');
    AUTO_FREE char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    AUTO_FD int fd = -1;
    int res;

    if (!folder)
        return err_set(e, ENOMEM, "out of memory");
    res = blk_name(v->temp, path, v->config->target.overwrite);
    if (res < 0)
        return disk_fail(e, res, path, NULL, "give it its name");
    free(STEAL(v->temp));
    if (v->config->no_sync)
        return 0;
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return disk_fail(e, -errno, path, NULL, "make sure of its name");
    return 0;
}

static int convert_open_target(struct convert *v, struct err *e)
{
    const struct blk_open_config config = { .path = v->target.path,
                                            .format = v->target.format,
                                            .secret = v->target.secret,
                                            .secret_len = v->target.secret_len,
                                            .cache = convert_syncs_late(v) ? BLK_CACHE_UNSAFE : BLK_CACHE_WRITEBACK,
                                            .allowed_dirs = v->config->source.allowed_dirs };
    struct blk_why why = { 0 };
    int res = v->temp ? blk_create(&v->target, &why) : 0;

    if (res == 0)
        res = blk_open(&config, &v->to, &why);
    if (res == 0 && convert_syncs_late(v)) {
        v->sync_fd = open(v->temp, O_RDONLY | O_CLOEXEC);
        res = v->sync_fd < 0 ? -errno : 0;
    }
    if (res < 0) { /* the user knows the target by the name that it shall get */
        snprintf(why.path, sizeof(why.path), "%s", v->config->target.path);
        return disk_fail(e, res, v->config->target.path, &why, "make it");
    }
    if (v->to->size < v->target.size)
        return err_set(e, ENOSPC, "disk %s: it has %llu bytes, the source %llu; take a larger one",
                       v->config->target.path, (unsigned long long)v->to->size, (unsigned long long)v->target.size);
    if (v->config->compress && !v->to->ops->pwrite_compressed)
        return err_set(e, EINVAL, "disk %s: the format %s has no compression; use --format qcow2",
                       v->config->target.path, v->to->ops->name);
    return 0;
}

/* ---- the content ---- */

/* The one host file that a raw node is, -1 where it is not as simple. *ret_n: to be unmapped. */
static int convert_plain_fd(struct blk_node *n, enum blk_op op)
{
    struct blk_piece pieces[BLK_PIECES_MAX];
    int count;

    if (strcmp(n->ops->name, "raw") != 0 || !n->file || strcmp(n->file->ops->name, "file") != 0)
        return -1;
    count = blk_map(n, op, 0, n->size, pieces);
    if (count > 0)
        blk_unmap(n);
    return count == 1 && pieces[0].off == 0 && pieces[0].len == n->size ? pieces[0].fd : -1;
}

/* Where the file system can share blocks between files, a raw copy takes no time. */
static bool convert_clone(struct convert *v)
{
    int from, to;

    if (!v->temp || v->target.prealloc != BLK_PREALLOC_OFF)
        return false;
    from = convert_plain_fd(v->from, BLK_READ);
    to = convert_plain_fd(v->to, BLK_WRITE);
    return from >= 0 && to >= 0 && ioctl(to, FICLONE, from) == 0;
}

static uint64_t convert_align(struct convert *v)
{
    struct blk_info info;

    blk_node_info(v->to, &info);
    return info.cluster_size ? info.cluster_size : MAX((uint64_t)DISK_SPARSE_DEFAULT, v->to->block_size);
}

/* Besides telling the caller: have the host write out what was copied, so that the disk is busy while we are. */
static bool convert_step(void *opaque, uint64_t done, uint64_t total)
{
    struct convert *v = opaque;

    if (v->sync_fd >= 0 && !v->config->no_sync)
        (void)sync_file_range(v->sync_fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint */
    return !v->progress || v->progress->step(v->progress->opaque, done, total);
}

static int convert_stabilise(struct convert *v)
{
    int res = blk_flush(v->to);

    if (res < 0 || v->sync_fd < 0)
        return res;
    blk_node_close(STEAL(v->to)); /* what is written by this belongs to it */
    return !v->config->no_sync && fsync(v->sync_fd) < 0 ? -errno : 0;
}

/* Whether the target reads as zeroes where nothing was written yet. What a LUKS volume is made of decrypts to noise. */
static bool convert_blank(const struct convert *v)
{
    return v->temp && !v->base && strcmp(v->to->ops->name, "luks") != 0;
}

static int convert_copy(struct convert *v, struct err *e)
{
    const struct disk_convert_config *c = v->config;
    const struct disk_progress progress = { .step = convert_step, .opaque = v };
    struct disk_copy copy = { .from = v->from,
                              .to = v->to,
                              .base = v->base,
                              .what = DISK_COPY_ALL,
                              .size = v->target.size,
                              .align = convert_align(v),
                              .sparse = c->sparse,
                              .blank = convert_blank(v),
                              .compress = c->compress,
                              .one_writer = !c->compress && !v->target.secret,
                              .threads = c->threads,
                              .progress = &progress };
    struct blk_node *guilty = NULL;
    int res;

    if (v->base || (c->compress && c->sparse))
        copy.sparse = copy.align;
    res = disk_copy_run(&copy, &v->report.written, &guilty);
    if (res == -ECANCELED)
        return err_set(e, ECANCELED, "disk %s: cancelled; nothing is left of it", c->target.path);
    if (res < 0)
        return disk_fail(e, res, guilty && guilty != v->to ? guilty->path : c->target.path, NULL,
                         guilty == v->to ? "write it" : "read it");
    return 0;
}

/* ---- the whole ---- */

static int convert_open_source(struct convert *v, struct err *e)
{
    const struct disk_convert_config *c = v->config;
    struct blk_open_config source = c->source;
    struct blk_why why = { 0 };
    int res;

    source.read_only = true;
    source.snapshot = c->snapshot;
    res = blk_open(&source, &v->from, &why);
    if (res == -ENOENT && c->snapshot && why.text)
        return err_set(e, ENOENT, "disk %s: there is no snapshot '%s'; see 'caisson disk snapshot ls %s'", source.path,
                       c->snapshot, source.path);
    if (res < 0)
        return disk_fail(e, res, source.path, &why, "open it");
    v->target.size = v->from->size;
    return 0;
}

/* The target's backing file: what it has is not copied again. */
static int convert_open_base(struct convert *v, struct err *e)
{
    const struct disk_convert_config *c = v->config;
    struct blk_open_config open = { .path = NULL,
                                    .format = c->target.backing_format,
                                    .read_only = true,
                                    .secret = c->target.secret,
                                    .secret_len = c->target.secret_len,
                                    .allowed_dirs = c->source.allowed_dirs };
    AUTO_FREE char *full = NULL;
    struct blk_info info;
    int res;

    if (!c->target.backing_path)
        return 0;
    if (strcmp(c->target.format, "qcow2") != 0)
        return err_set(e, EINVAL, "disk %s: the format %s has no backing files; use --format qcow2", c->target.path,
                       c->target.format);
    if (disk_backing_path(c->target.path, c->target.backing_path, &full) < 0)
        return err_set(e, ENOMEM, "out of memory");
    open.path = full;
    res = disk_open(&open, &v->base, e);
    if (res == 0)
        res = disk_check_loop(v->base, c->target.path, e);
    if (res < 0)
        return res;
    blk_node_info(v->base, &info);
    if (!v->target.backing_format)
        v->target.backing_format = info.format;
    return 0;
}

static int convert_run(struct convert *v, struct err *e)
{
    const char *path = v->config->target.path;
    bool in_place = convert_in_place(path);
    int res = convert_open_source(v, e);

    if (res == 0 && in_place && strcmp(v->target.format, "raw") != 0)
        res = err_set(e, EINVAL, "disk %s: a device or remote disk is written as it is; use --format raw", path);
    if (res == 0)
        res = convert_open_base(v, e);
    if (res == 0 && !in_place) /* while all of them are open: none of their files is replaced either */
        res = convert_check_target(v, e);
    if (res == 0 && !in_place)
        res = convert_temp(v, e);
    if (res == 0)
        res = convert_open_target(v, e);
    if (res < 0)
        return res;
    v->report.virtual_size = v->target.size;
    v->report.cloned = convert_clone(v);
    if (!v->report.cloned)
        res = convert_copy(v, e);
    if (res == 0) {
        res = convert_stabilise(v);
        if (res < 0)
            res = disk_fail(e, res, path, NULL, "write it");
    }
    return res == 0 && v->temp ? convert_publish(v, e) : res;
}

int disk_convert(const struct disk_convert_config *config, const struct disk_progress *progress,
                 struct disk_convert_report *ret_report, struct err *e)
{
    struct convert v = { .config = config, .progress = progress, .target = config->target, .sync_fd = -1 };
    int res = 0;

    if (config->sparse && (!is_pow2(config->sparse) || config->sparse < BLK_SECTOR))
        return err_set(e, EINVAL, "disk %s: --sparse is a power of two from 512, or 0", config->target.path);
    if (v.target.cluster_size == 0)
        v.target.cluster_size = CONVERT_CLUSTER_DEFAULT;
    res = convert_run(&v, e);
    blk_node_close(v.to);
    blk_node_close(v.base);
    blk_node_close(v.from);
    base_closep(&v.sync_fd);
    if (v.temp)
        unlink(v.temp);
    free(v.temp);
    if (res == 0)
        *ret_report = v.report;
    return res;
}
