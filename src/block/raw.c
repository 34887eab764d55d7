/* Raw images: regular files and host block devices.
 *
 * A request is one asynchronous call in the usual case. It becomes a sequence of calls where the host cannot do better:
 * zeroes written as data where it has no fallocate for the file, and bounce buffers where O_DIRECT demands an alignment
 * that the caller's memory does not have. blk_req.at and .left say how far a sequence has come. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/image.h"

#define BLK_RAW_BOUNCE (1u << 20)
#define BLK_RAW_ALIGN 4096u

struct blk_raw {
    struct blk_image img;
    int fd;
    struct blk_aio *aio;
    bool direct;
    bool no_punch, no_zero_range; /* found out that the host file has no such thing */
};

static struct blk_raw *blk_raw_of(struct blk_req *req)
{
    return (struct blk_raw *)req->img;
}

static void blk_raw_issue(struct blk_req *req, enum blk_aio_op op, void (*done)(struct blk_aio_req *, int))
{
    struct blk_raw *raw = blk_raw_of(req);

    req->aio.op = op;
    req->aio.fd = raw->fd;
    req->aio.done = done;
    req->aio.opaque = req;
    blk_aio_submit(raw->aio, &req->aio);
}

static void blk_raw_done(struct blk_aio_req *aio, int res)
{
    struct blk_req *req = aio->opaque;

    req->done(req, res);
}

/* End of a sequence. */
static void blk_raw_finish(struct blk_req *req, int res)
{
    free(req->bounce);
    req->bounce = NULL;
    req->done(req, res);
}

/* ---- transfers ---- */

static void blk_raw_bounce_next(struct blk_req *req);

/* Copy between the bounce buffer and the caller's iovecs, which are consumed. */
static void blk_raw_bounce_copy(struct blk_req *req, bool to_bounce)
{
    uint8_t *at = req->bounce;
    size_t left = req->part;

    while (left > 0) {
        size_t n = MIN(left, req->iov->iov_len);

        if (to_bounce)
            memcpy(at, req->iov->iov_base, n);
        else
            memcpy(req->iov->iov_base, at, n);
        at += n;
        left -= n;
        req->iov->iov_base = (uint8_t *)req->iov->iov_base + n;
        req->iov->iov_len -= n;
        if (req->iov->iov_len == 0)
            req->iov++;
    }
}

static void blk_raw_bounce_done(struct blk_aio_req *aio, int res)
{
    struct blk_req *req = aio->opaque;

    if (res == 0 && req->op == BLK_READ)
        blk_raw_bounce_copy(req, false);
    req->at += req->part;
    req->left -= req->part;
    if (res < 0 || req->left == 0) {
        blk_raw_finish(req, res);
        return;
    }
    blk_raw_bounce_next(req);
    blk_aio_kick(blk_raw_of(req)->aio);
}

static void blk_raw_bounce_next(struct blk_req *req)
{
    req->part = (unsigned)MIN(req->left, BLK_RAW_BOUNCE);
    if (req->op == BLK_WRITE)
        blk_raw_bounce_copy(req, true);
    req->bounce_iov = (struct iovec){ .iov_base = req->bounce, .iov_len = req->part };
    req->aio.iov = &req->bounce_iov;
    req->aio.n_iov = 1;
    req->aio.off = req->at;
    req->aio.len = req->part;
    blk_raw_issue(req, req->op == BLK_READ ? BLK_AIO_READ : BLK_AIO_WRITE, blk_raw_bounce_done);
}

static bool blk_raw_aligned(const struct blk_raw *raw, const struct blk_req *req)
{
    for (unsigned i = 0; i < req->n_iov; i++) {
        if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) % raw->img.block_size)
            return false;
    }
    return true;
}

static int blk_raw_transfer(struct blk_raw *raw, struct blk_req *req)
{
    if (raw->direct && !blk_raw_aligned(raw, req)) {
        req->bounce = aligned_alloc(BLK_RAW_ALIGN, align_up(MIN(req->len, BLK_RAW_BOUNCE), BLK_RAW_ALIGN));
        if (!req->bounce)
            return -ENOMEM;
        req->at = req->off;
        req->left = req->len;
        blk_raw_bounce_next(req);
        return 0;
    }
    req->aio.iov = req->iov;
    req->aio.n_iov = req->n_iov;
    req->aio.off = req->off;
    req->aio.len = req->len;
    blk_raw_issue(req, req->op == BLK_READ ? BLK_AIO_READ : BLK_AIO_WRITE, blk_raw_done);
    return 0;
}

/* ---- zeroes and discard ---- */

static void blk_raw_zero_next(struct blk_req *req);

static void blk_raw_zero_done(struct blk_aio_req *aio, int res)
{
    struct blk_req *req = aio->opaque;

    req->at += req->part;
    req->left -= req->part;
    if (res < 0 || req->left == 0) {
        blk_raw_finish(req, res);
        return;
    }
    blk_raw_zero_next(req);
    blk_aio_kick(blk_raw_of(req)->aio);
}

/* Write the next part of a range of zeroes as data. */
static void blk_raw_zero_next(struct blk_req *req)
{
    req->part = (unsigned)MIN(req->left, BLK_RAW_BOUNCE);
    req->bounce_iov = (struct iovec){ .iov_base = req->bounce, .iov_len = req->part };
    req->aio.iov = &req->bounce_iov;
    req->aio.n_iov = 1;
    req->aio.off = req->at;
    req->aio.len = req->part;
    blk_raw_issue(req, BLK_AIO_WRITE, blk_raw_zero_done);
}

static int blk_raw_zero_by_data(struct blk_req *req)
{
    size_t size = align_up(MIN(req->len, BLK_RAW_BOUNCE), BLK_RAW_ALIGN);

    req->bounce = aligned_alloc(BLK_RAW_ALIGN, size);
    if (!req->bounce)
        return -ENOMEM;
    memset(req->bounce, 0, size);
    req->at = req->off;
    req->left = req->len;
    blk_raw_zero_next(req);
    return 0;
}

static int blk_raw_zero(struct blk_raw *raw, struct blk_req *req);

static void blk_raw_fallocate_done(struct blk_aio_req *aio, int res)
{
    struct blk_req *req = aio->opaque;
    struct blk_raw *raw = blk_raw_of(req);
    bool refused = res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL || res == -EPERM;

    if (!refused) {
        req->done(req, res);
        return;
    }
    if (aio->mode & FALLOC_FL_PUNCH_HOLE)
        raw->no_punch = true;
    else
        raw->no_zero_range = true;
    /* Discard is a hint; zeroes are a promise, to be kept by the next best means. */
    res = req->op == BLK_DISCARD ? 0 : blk_raw_zero(raw, req);
    if (res < 0 || req->op == BLK_DISCARD)
        req->done(req, res);
    else
        blk_aio_kick(raw->aio);
}

static void blk_raw_fallocate(struct blk_req *req, int mode)
{
    req->aio.mode = mode | FALLOC_FL_KEEP_SIZE;
    req->aio.off = req->off;
    req->aio.len = req->len;
    blk_raw_issue(req, BLK_AIO_FALLOCATE, blk_raw_fallocate_done);
}

static int blk_raw_zero(struct blk_raw *raw, struct blk_req *req)
{
    if (req->unmap && !raw->no_punch) {
        blk_raw_fallocate(req, FALLOC_FL_PUNCH_HOLE);
        return 0;
    }
    if (!raw->no_zero_range) {
        blk_raw_fallocate(req, FALLOC_FL_ZERO_RANGE);
        return 0;
    }
    return blk_raw_zero_by_data(req);
}

/* ---- operations ---- */

static int blk_raw_submit(struct blk_image *img, struct blk_req *req)
{
    struct blk_raw *raw = (struct blk_raw *)img;

    req->bounce = NULL;
    switch (req->op) {
    case BLK_READ:
    case BLK_WRITE:
        return blk_raw_transfer(raw, req);
    case BLK_FLUSH:
        blk_raw_issue(req, img->read_only ? BLK_AIO_NOP : BLK_AIO_SYNC, blk_raw_done);
        return 0;
    case BLK_DISCARD:
        if (raw->no_punch)
            blk_raw_issue(req, BLK_AIO_NOP, blk_raw_done);
        else
            blk_raw_fallocate(req, FALLOC_FL_PUNCH_HOLE);
        return 0;
    case BLK_WRITE_ZEROES:
        return blk_raw_zero(raw, req);
    }
    return -EINVAL;
}

static void blk_raw_kick(struct blk_image *img)
{
    blk_aio_kick(((struct blk_raw *)img)->aio);
}

static void blk_raw_drain(struct blk_image *img)
{
    blk_aio_drain(((struct blk_raw *)img)->aio);
}

static void blk_raw_close(struct blk_image *img)
{
    struct blk_raw *raw = (struct blk_raw *)img;

    blk_aio_free(raw->aio);
    if (raw->fd >= 0)
        close(raw->fd);
    free(raw);
}

static const struct blk_image_ops blk_raw_ops = {
    .format = "raw",
    .submit = blk_raw_submit,
    .kick = blk_raw_kick,
    .drain = blk_raw_drain,
    .close = blk_raw_close,
};

/* ---- opening ---- */

static int blk_raw_lock(int fd, bool read_only)
{
    struct flock fl = { .l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static int blk_raw_bdev_size(struct blk_raw *raw)
{
    int logical = 0;
    unsigned physical = 0;

    if (ioctl(raw->fd, BLKGETSIZE64, &raw->img.size) < 0 || ioctl(raw->fd, BLKSSZGET, &logical) < 0)
        return -errno;
    if (ioctl(raw->fd, BLKPBSZGET, &physical) < 0)
        physical = 0;
    if (logical >= (int)BLK_SECTOR && is_pow2((uint64_t)logical))
        raw->img.block_size = (uint32_t)logical;
    raw->img.physical_block_size = is_pow2(physical) ? MAX(physical, raw->img.block_size) : raw->img.block_size;
    return 0;
}

/* What O_DIRECT demands of offsets in a file; 512 where the kernel does not say. */
static uint32_t blk_raw_dio_align(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx sx;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && sx.stx_mask & STATX_DIOALIGN &&
        is_pow2(sx.stx_dio_offset_align))
        return MAX(sx.stx_dio_offset_align, MAX(sx.stx_dio_mem_align, BLK_SECTOR));
#endif
    (void)fd;
    return BLK_SECTOR;
}

static int blk_raw_probe(struct blk_raw *raw, const struct stat *st)
{
    raw->img.block_size = BLK_SECTOR;
    raw->img.physical_block_size = 4096;
    if (S_ISBLK(st->st_mode)) {
        int res = blk_raw_bdev_size(raw);

        if (res < 0)
            return res;
    } else {
        raw->img.size = (uint64_t)st->st_size;
        if (raw->direct)
            raw->img.block_size = blk_raw_dio_align(raw->fd);
        raw->img.physical_block_size = MAX(raw->img.physical_block_size, raw->img.block_size);
    }
    if (raw->img.size == 0)
        return -ENOMEDIUM;
    return raw->img.size % BLK_SECTOR ? -EMEDIUMTYPE : 0;
}

/* Open the file itself; type and lock are checked before anything else is done with it. */
static int blk_raw_open_fd(const struct blk_open_config *config, struct stat *ret_st)
{
    /* O_NONBLOCK: a FIFO must not hold us up. */
    int flags = (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | (config->direct ? O_DIRECT : 0);
    AUTO_FD int fd = -1;
    int res;

    if (stat(config->path, ret_st) < 0)
        return -errno;
    if (S_ISDIR(ret_st->st_mode))
        return -EISDIR;
    if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
        return -ENOTBLK;
    /* For block devices, O_EXCL keeps us off those that the host has mounted. */
    if (S_ISBLK(ret_st->st_mode) && !config->read_only)
        flags |= O_EXCL;
    fd = open(config->path, flags);
    if (fd < 0)
        return -errno;
    if (fstat(fd, ret_st) < 0)
        return -errno;
    if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
        return -ENOTBLK;
    /* Not for the transfers, which io_uring would fail with EAGAIN instead of waiting. */
    if (fcntl(fd, F_SETFL, flags & (O_RDWR | O_DIRECT)) < 0)
        return -errno;
    res = blk_raw_lock(fd, config->read_only);
    return res < 0 ? res : STEAL_FD(fd);
}

int blk_raw_open(const struct blk_open_config *config, struct loop *loop, struct blk_image **ret_img)
{
    struct blk_raw *raw = calloc(1, sizeof(*raw));
    struct stat st;
    int res;

    if (!raw)
        return -ENOMEM;
    raw->img.ops = &blk_raw_ops;
    raw->img.read_only = config->read_only;
    raw->direct = config->direct;
    raw->fd = res = blk_raw_open_fd(config, &st);
    if (res >= 0)
        res = blk_raw_probe(raw, &st);
    if (res >= 0)
        res = blk_aio_new(loop, config->aio, &raw->aio);
    if (res < 0) {
        blk_raw_close(&raw->img);
        return res;
    }
    *ret_img = &raw->img;
    return 0;
}
