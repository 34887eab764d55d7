#include "vmm/devices_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/backup.h"
#include "block/image.h"
#include "block/open.h"
#include "block/sched.h"
#include "virtio/blk.h"
#include "vmm/machine_priv.h"
#include "vmm/save_disks.h"

#define DISK_SECRET_MAX 65536
#define DISK_READAHEAD (1U << 20)
#define DISK_DEPTH 128 /* requests at the host at once, of all disks of the VM */

/* ---- what went wrong ---- */

static int disk_error_io(const char *path, bool read_only, int code, struct err *e)
{
    switch (code) {
    case EBUSY:
        return err_set(e, EBUSY, "disk %s: in use by another VM or program%s", path,
                       read_only ? " that writes to it; stop that one first"
                                 : "; stop that one, or open it read-only in both with ,ro");
    case EISDIR:
        return err_set(e, EINVAL, "disk %s: a directory; name an image file or a block device", path);
    case ENOTBLK:
        return err_set(e, EINVAL, "disk %s: neither a file nor a block device; name one of these", path);
    case ENOENT:
        return err_set(e, ENOENT, "disk %s: no such file; check the name, or make it with truncate -s 1G %s", path,
                       path);
    case EACCES:
    case EPERM:
    case EROFS:
        return err_set(e, code, "disk %s: %s; %s", path, strerror(code),
                       read_only ? "check the file's permissions"
                                 : "check the file's permissions, or open it read-only with ,ro");
    default:
        return err_set(e, code, "disk %s: %s", path, strerror(code));
    }
}

/* Errors that say something about the image itself. The path is that of the file at fault, perhaps a backing file. */
static int disk_error(const struct vm_disk *d, int code, const struct blk_why *why, struct err *e)
{
    const char *path = why->path[0] ? why->path : d->path;
    const char *remedy = "";

    if (!why->text && strcmp(path, d->path) != 0)
        return err_set(e, code, "disk %s: its backing file %s: %s; %s", d->path, path, strerror(code),
                       code == ENOENT  ? "put it back, or name another with caisson disk rebase"
                       : code == EBUSY ? "stop the VM or program that writes to it"
                                       : "check that it can be read");
    if (code == ENOMEDIUM)
        return err_set(e, EINVAL, "disk %s: empty; make it bigger, e.g. with truncate -s 1G %s", path, path);
    if (!why->text)
        return disk_error_io(path, d->read_only, code, e);
    if (code == EROFS)
        remedy = "; open it read-only with ,ro";
    else if (code == ENOKEY)
        remedy = "; give the file with its passphrase with ,secret=file:PATH";
    else if (code == EMEDIUMTYPE && strstr(why->text, "512"))
        return err_set(e, EINVAL, "disk %s: %s; open it with ,ro, or fix it with truncate -s %%512 %s", path, why->text,
                       path);
    return err_set(e, code == EMEDIUMTYPE || code == ENOTSUP ? EINVAL : code, "disk %s: %s%s", path, why->text, remedy);
}

static void disk_event(void *opaque, enum blk_image_event event, int error)
{
    const struct machine_disk *disk = opaque;
    const char *path = disk->spec->path;

    switch (event) {
    case BLK_EVENT_WAITING:
        log_warn("disk %s: %s; the guest waits until the host can go on", path, strerror(error));
        break;
    case BLK_EVENT_RESUMED:
        log_warn("disk %s: works again, the guest goes on", path);
        break;
    case BLK_EVENT_REFUSED:
        log_warn(
            "disk %s: the guest wrote what looks like the header of another image format, which was refused; start "
            "it with ,format=raw to allow that",
            path);
        break;
    }
}

/* ---- opening ---- */

/* The content of the file, without one newline at its end. *ret: malloc'd; the caller wipes it. */
static int disk_read_secret(const char *path, uint8_t **ret, size_t *ret_len, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    uint8_t *data;
    ssize_t n = 0;
    size_t len = 0;

    if (fd < 0)
        return err_set(e, errno, "secret %s: %s; name a file with the passphrase", path, strerror(errno));
    data = malloc(DISK_SECRET_MAX + 1);
    if (!data)
        return err_set(e, ENOMEM, "out of memory");
    while (len <= DISK_SECRET_MAX && (n = read(fd, data + len, DISK_SECRET_MAX + 1 - len)) > 0)
        len += (size_t)n;
    if (n >= 0 && len > 0 && len <= DISK_SECRET_MAX) {
        len -= data[len - 1] == '\n';
        *ret = data;
        *ret_len = len;
        return 0;
    }
    n = n < 0 ? errno : 0;
    explicit_bzero(data, DISK_SECRET_MAX + 1);
    free(data);
    if (n > 0)
        return err_set(e, (int)n, "secret %s: %s", path, strerror((int)n));
    return err_set(e, EINVAL, "secret %s: %s; name a file with the passphrase", path,
                   len == 0 ? "empty" : "longer than 64 KiB");
}

static enum blk_cache disk_cache(enum vm_cache cache)
{
    switch (cache) {
    case VM_CACHE_NONE:
        return BLK_CACHE_NONE;
    case VM_CACHE_WRITETHROUGH:
        return BLK_CACHE_WRITETHROUGH;
    case VM_CACHE_UNSAFE:
        return BLK_CACHE_UNSAFE;
    case VM_CACHE_WRITEBACK:
        break;
    }
    return BLK_CACHE_WRITEBACK;
}

static int disk_open_node(const struct vm_disk *d, struct blk_node **ret_node, struct err *e)
{
    struct blk_open_config open = { .path = d->path,
                                    .format = d->cdrom && !d->format ? "raw" : d->format,
                                    .read_only = d->read_only,
                                    .cache = disk_cache(d->cache),
                                    .discard_no_unmap = d->ignore_discard };
    struct blk_why *why;
    uint8_t *secret = NULL;
    int r = d->secret_file ? disk_read_secret(d->secret_file, &secret, &open.secret_len, e) : 0;

    if (r < 0)
        return r;
    why = calloc(1, sizeof(*why));
    open.secret = secret;
    r = why ? blk_open(&open, ret_node, why) : -ENOMEM;
    if (secret)
        explicit_bzero(secret, open.secret_len);
    free(secret);
    if (r < 0)
        r = why ? disk_error(d, -r, why, e) : err_set(e, ENOMEM, "out of memory");
    free(why);
    return r;
}

/* A disk of which nobody said that it is raw. */
static bool disk_is_guess(const struct vm_disk *d, struct blk_node *node)
{
    struct blk_info info;

    blk_node_info(node, &info);
    return !d->format && !d->read_only && strcmp(info.format, "raw") == 0;
}

static int disk_open(struct machine *m, struct machine_disk *disk, struct err *e)
{
    const struct vm_disk *d = disk->spec;
    struct blk_image_config config = { .writethrough = d->cache == VM_CACHE_WRITETHROUGH,
                                       .ignore_flush = d->cache == VM_CACHE_UNSAFE,
                                       .ignore_discard = d->ignore_discard,
                                       .wait_on_error = d->wait_on_error,
                                       .sched = m->disk_sched,
                                       .weight = d->weight,
                                       .readahead = d->no_readahead ? 0
                                                    : d->readahead  ? d->readahead
                                                                    : DISK_READAHEAD,
                                       .event = disk_event,
                                       .opaque = disk };
    AUTO(blk_node) struct blk_node *node = NULL;
    struct blk_limit *const limits[VM_LIMITS] = {
        [VM_IOPS] = &config.limits.iops,
        [VM_IOPS_READ] = &config.limits.iops_read,
        [VM_IOPS_WRITE] = &config.limits.iops_write,
        [VM_BPS] = &config.limits.bps,
        [VM_BPS_READ] = &config.limits.bps_read,
        [VM_BPS_WRITE] = &config.limits.bps_write,
    };
    int r = disk_open_node(d, &node, e);

    if (r == 0 && m->disk_snapshot && !d->read_only)
        r = save_disk_apply(node, d->path, m->disk_snapshot, e);
    if (r < 0)
        return r;
    config.aio = d->aio == VM_AIO_URING ? BLK_AIO_URING : d->aio == VM_AIO_THREADS ? BLK_AIO_THREADS : BLK_AIO_AUTO;
    config.guard = disk_is_guess(d, node);
    for (unsigned i = 0; i < VM_LIMITS; i++)
        *limits[i] = (struct blk_limit){ .rate = d->limits[i].rate, .burst = d->limits[i].burst };
    r = blk_image_new(node, &config, m->loop, &disk->image);
    if (r < 0 && d->aio == VM_AIO_URING && (r == -ENOSYS || r == -EPERM))
        return err_set(e, -r, "disk %s: this host has no io_uring; leave out aio=, or use aio=threads", d->path);
    if (r < 0)
        return err_set(e, -r, "disk %s: %s", d->path, strerror(-r));
    (void)STEAL(node);
    r = blk_watch_new(disk->image, &disk->watch);
    return r < 0 ? err_set(e, -r, "disk %s: %s", d->path, strerror(-r)) : 0;
}

int machine_disks_new(struct machine *m, const struct virtio_env *env, struct err *e)
{
    const struct vm_spec *s = m->spec;
    int r = s->n_disks > 0 ? blk_sched_new(DISK_DEPTH, &m->disk_sched) : 0;

    if (r < 0)
        return err_set(e, ENOMEM, "out of memory");
    for (unsigned i = 0; i < s->n_disks; i++) {
        const struct vm_disk *d = &s->disks[i];
        struct virtio_blk_config config = { .serial = d->serial,
                                            .n_queues = d->queues ? d->queues : MIN(s->cpus, 4U),
                                            .slot = -1 };
        struct machine_disk *disk = calloc(1, sizeof(*disk));

        if (!disk)
            return err_set(e, ENOMEM, "out of memory");
        m->disks[i] = disk;
        disk->spec = d;
        r = disk_open(m, disk, e);
        if (r < 0)
            return r;
        config.image = disk->image;
        r = virtio_blk_new(env, &config, &disk->blk);
        if (r < 0)
            return err_set(e, -r, "disk %s: cannot make its device: %s", d->path, strerror(-r));
    }
    return 0;
}

/* One operation of disk number i; response time = wait time + service time. */
static void disk_op_stats(unsigned i, const char *name, const struct blk_op_stats *s,
                          void (*print)(void *opaque, const char *name, uint64_t value), void *opaque)
{
    const struct {
        const char *what;
        uint64_t value;
    } rows[] = { { "ops", s->ops },
                 { "bytes", s->bytes },
                 { "errors", s->errors },
                 { "merged", s->merged },
                 { "wait_us", s->ops ? s->wait.sum_ns / s->ops / 1000 : 0 },
                 { "service_us", s->ops ? s->service.sum_ns / s->ops / 1000 : 0 },
                 { "p50_us", blk_histogram_quantile_us(&s->response, 500) },
                 { "p99_us", blk_histogram_quantile_us(&s->response, 990) } };

    for (size_t k = 0; k < ARRAY_SIZE(rows) && s->ops > 0; k++) {
        char text[64];

        snprintf(text, sizeof(text), "vd%c_%s_%s", (char)('a' + i), name, rows[k].what);
        print(opaque, text, rows[k].value);
    }
}

void machine_disks_stats(const struct machine *m, void (*print)(void *opaque, const char *name, uint64_t value),
                         void *opaque)
{
    static const char *const names[BLK_STATS_KINDS] = { "read", "write", "flush", "discard" };

    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        for (unsigned k = 0; k < BLK_STATS_KINDS && m->disks[i] && m->disks[i]->image; k++)
            disk_op_stats(i, names[k], &blk_image_stats(m->disks[i]->image)->op[k], print, opaque);
    }
}

void machine_disks_free(struct machine *m)
{
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        struct machine_disk *disk = m->disks[i];

        if (!disk)
            continue;
        virtio_blk_free(disk->blk);
        blk_watch_free(disk->watch);
        blk_image_close(disk->image);
        free(disk);
    }
    blk_sched_free(m->disk_sched);
}
