/* The file node: a regular file or a host block device, locked against other users, with blocking calls. With O_DIRECT,
 * transfers whose memory, offset or length the host would refuse go through a bounce buffer, and writes that cover a
 * part of a block only read the rest of it first, under a lock. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/align.h"
#include "block/open.h"

struct blk_file {
    struct blk_node node;
    int fd;
    bool direct, regular, no_sync;
    uint32_t align;                      /* of offset, length and memory with O_DIRECT, else 1 */
    pthread_mutex_t edge_lock;           /* read-modify-write of partial blocks; growth of node.size */
    atomic_bool no_punch, no_zero_range; /* found out that the host file has no such thing */
};

static struct blk_file *blk_file_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct blk_file, node);
}

/* ---- transfers ---- */

/* One flat transfer, whole or -errno. Behind the end of the file are zeroes. */
static int blk_file_flat(void *opaque, bool write, uint64_t off, uint8_t *data, uint64_t len)
{
    struct blk_file *f = opaque;

    while (len > 0) {
        ssize_t n = write ? pwrite(f->fd, data, len, (off_t)off) : pread(f->fd, data, len, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 && write)
            return -ENOSPC;
        if (n == 0) {
            memset(data, 0, len);
            return 0;
        }
        data += n;
        off += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* The vector is tried whole; what a short transfer left over goes on piece by piece. */
static int blk_file_vector(struct blk_file *f, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov)
{
    ssize_t n = -1;
    uint64_t done;
    int res = 0;

    if (n_iov > 1 && n_iov <= IOV_MAX) {
        do
            n = write ? pwritev(f->fd, iov, (int)n_iov, (off_t)off) : preadv(f->fd, iov, (int)n_iov, (off_t)off);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            return -errno;
    }
    done = n > 0 ? (uint64_t)n : 0;
    for (unsigned i = 0; i < n_iov && res == 0; i++) {
        uint64_t part = MIN(done, iov[i].iov_len);

        res = blk_file_flat(f, write, off + part, (uint8_t *)iov[i].iov_base + part, iov[i].iov_len - part);
        done -= part;
        off += iov[i].iov_len;
    }
    return res;
}

static bool blk_file_aligned(const struct blk_file *f, uint64_t off, const struct iovec *iov, unsigned n_iov,
                             uint64_t len)
{
    uint64_t all = off | len;

    for (unsigned i = 0; i < n_iov; i++)
        all |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return f->align <= 1 || all % f->align == 0;
}

/* O_DIRECT with what it does not like: block by block through memory that it does. */
static int blk_file_bounce(struct blk_file *f, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov,
                           uint64_t len)
{
    const struct blk_align a = { .align = f->align, .flat = blk_file_flat, .opaque = f };

    return blk_align_bounce(&a, write, off, iov, n_iov, 0, len);
}

static int blk_file_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct blk_file *f = blk_file_of(n);

    if (!blk_file_aligned(f, off, iov, n_iov, len))
        return blk_file_bounce(f, false, off, iov, n_iov, len);
    return blk_file_vector(f, false, off, iov, n_iov);
}

static void blk_file_grow(struct blk_file *f, uint64_t end)
{
    if (end <= __atomic_load_n(&f->node.size, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&f->edge_lock);
    if (end > f->node.size)
        __atomic_store_n(&f->node.size, end, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&f->edge_lock);
}

static int blk_file_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct blk_file *f = blk_file_of(n);
    int res;

    if (blk_file_aligned(f, off, iov, n_iov, len)) {
        res = blk_file_vector(f, true, off, iov, n_iov);
    } else {
        pthread_mutex_lock(&f->edge_lock);
        res = blk_file_bounce(f, true, off, iov, n_iov, len);
        pthread_mutex_unlock(&f->edge_lock);
    }
    if (res == 0)
        blk_file_grow(f, off + len);
    return res;
}

static int blk_file_flush(struct blk_node *n)
{
    struct blk_file *f = blk_file_of(n);

    return f->no_sync || fdatasync(f->fd) == 0 ? 0 : -errno;
}

/* ---- zeroes, discard, extents ---- */

static bool blk_file_refused(int code)
{
    return code == EOPNOTSUPP || code == ENOSYS || code == EINVAL || code == EPERM;
}

static int blk_file_fallocate(struct blk_file *f, int mode, uint64_t off, uint64_t len)
{
    int res;

    do
        res = fallocate(f->fd, mode, (off_t)off, (off_t)len);
    while (res < 0 && errno == EINTR);
    return res < 0 ? -errno : 0;
}

static int blk_file_punch(struct blk_file *f, uint64_t off, uint64_t len)
{
    int res = f->no_punch ? -EOPNOTSUPP : blk_file_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);

    if (res < 0 && blk_file_refused(-res))
        f->no_punch = true;
    return res;
}

static int blk_file_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct blk_file *f = blk_file_of(n);
    int res;

    if (f->regular && off >= n->size)
        return 0;
    res = blk_file_punch(f, off, len);
    return res < 0 && blk_file_refused(-res) ? 0 : res;
}

static int blk_file_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct blk_file *f = blk_file_of(n);
    int res = -EOPNOTSUPP;

    if (flags & BLK_ZERO_UNMAP && off + len <= n->size)
        res = blk_file_punch(f, off, len);
    if (res < 0 && blk_file_refused(-res)) {
        res = f->no_zero_range ? -EOPNOTSUPP : blk_file_fallocate(f, FALLOC_FL_ZERO_RANGE, off, len);
        if (res < 0 && blk_file_refused(-res))
            f->no_zero_range = true;
        else if (res == 0)
            blk_file_grow(f, off + len);
    }
    return res < 0 && blk_file_refused(-res) ? -ENOTSUP : res;
}

static int blk_file_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct blk_file *f = blk_file_of(n);
    struct blk_extent x = { .flags = BLK_EXT_DATA | BLK_EXT_ALLOCATED | BLK_EXT_HOST, .len = len, .host_off = off };
    off_t data = f->regular ? lseek(f->fd, (off_t)off, SEEK_DATA) : (off_t)off;

    if (data < 0 && errno != ENXIO) /* cannot say: data */
        data = (off_t)off;
    if (data < 0 || (uint64_t)data > off) {
        x.flags = BLK_EXT_ZERO | BLK_EXT_ALLOCATED | BLK_EXT_HOST;
        x.len = data < 0 ? len : MIN(len, (uint64_t)data - off);
    } else if (f->regular) {
        off_t hole = lseek(f->fd, (off_t)off, SEEK_HOLE);

        if (hole > 0 && (uint64_t)hole > off)
            x.len = MIN(len, (uint64_t)hole - off);
    }
    *ret_extent = x;
    return 0;
}

static int blk_file_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len,
                        struct blk_piece pieces[BLK_PIECES_MAX])
{
    struct blk_file *f = blk_file_of(n);

    (void)op;
    pieces[0] = (struct blk_piece){ .fd = f->fd, .off = off, .len = len, .align = f->align };
    return 1;
}

/* ---- size ---- */

static int blk_file_preallocate(struct blk_file *f, uint64_t off, uint64_t len, enum blk_prealloc prealloc)
{
    static const uint8_t zeroes[64u << 10];
    int res = 0;

    if (prealloc == BLK_PREALLOC_OFF || prealloc == BLK_PREALLOC_METADATA || len == 0)
        return 0;
    if (prealloc == BLK_PREALLOC_FALLOC) {
        res = posix_fallocate(f->fd, (off_t)off, (off_t)len);
        return -res;
    }
    for (uint64_t done = 0; done < len && res == 0; done += sizeof(zeroes)) {
        const struct iovec iov = { (uint8_t *)(uintptr_t)zeroes, MIN(len - done, sizeof(zeroes)) };

        res = blk_file_pwrite(&f->node, off + done, &iov, 1, iov.iov_len);
    }
    return res;
}

static int blk_file_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    struct blk_file *f = blk_file_of(n);
    uint64_t old = n->size;
    int res;

    if (!f->regular)
        return size <= n->size
                   ? 0
                   : blk_why_set(why, ENOSPC, n->path, "is a block device, whose size the host alone can change");
    if (ftruncate(f->fd, (off_t)size) < 0)
        return -errno;
    __atomic_store_n(&n->size, size, __ATOMIC_RELAXED);
    res = size > old ? blk_file_preallocate(f, old, size - old, prealloc) : 0;
    if (res < 0 && ftruncate(f->fd, (off_t)old) == 0)
        __atomic_store_n(&n->size, old, __ATOMIC_RELAXED);
    return res;
}

static void blk_file_info(struct blk_node *n, struct blk_info *ret_info)
{
    struct blk_file *f = blk_file_of(n);
    struct stat st;

    if (f->regular && fstat(f->fd, &st) == 0)
        ret_info->actual_size = (uint64_t)st.st_blocks * 512;
}

static void blk_file_close(struct blk_node *n)
{
    struct blk_file *f = blk_file_of(n);

    if (f->fd >= 0)
        close(f->fd);
    pthread_mutex_destroy(&f->edge_lock);
    free(n->path);
    free(f);
}

static const struct blk_node_ops blk_file_ops = {
    .name = "file",
    .pread = blk_file_pread,
    .pwrite = blk_file_pwrite,
    .flush = blk_file_flush,
    .discard = blk_file_discard,
    .write_zeroes = blk_file_write_zeroes,
    .extent = blk_file_extent,
    .map = blk_file_map,
    .resize = blk_file_resize,
    .info = blk_file_info,
    .close = blk_file_close,
};

/* ---- opening ---- */

/* Byte ranges of the file that are locked. Our own programs exclude each other by the first: a reader shares it, a
 * writer has it alone, and one of two who come at once gets it. The others are QEMU's protocol, so that its programs
 * and ours exclude each other too: bit B of what one does with the image is a shared lock of byte USE + B, of what one
 * does not let others do, of byte DENY + B; whoever holds both looks whether anybody else holds the counterpart. A
 * writer denies reading too: QEMU's tools that read a raw image do not deny writing, and would copy a disk in the
 * middle of its changes. */
enum {
    FILE_LOCK_OWN_LEN = 100, /* from 0 on */
    FILE_LOCK_USE = 100,
    FILE_LOCK_DENY = 200,
    FILE_LOCK_READ = 1 << 0,
    FILE_LOCK_WRITE = 1 << 1,
    FILE_LOCK_RESIZE = 1 << 3,
    FILE_LOCK_BITS = 4,
};

static int blk_file_lock_range(int fd, short type, off_t start, off_t len)
{
    struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

    if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* 0, -EBUSY: somebody else has a lock on the byte. */
static int blk_file_lock_test(int fd, off_t byte)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
        return -errno;
    return fl.l_type == F_UNLCK ? 0 : -EBUSY;
}

/* The locks last as long as the open file description. */
static int blk_file_lock(int fd, bool read_only)
{
    const unsigned use = read_only ? FILE_LOCK_READ : FILE_LOCK_READ | FILE_LOCK_WRITE | FILE_LOCK_RESIZE;
    const unsigned deny = FILE_LOCK_WRITE | FILE_LOCK_RESIZE | (read_only ? 0u : FILE_LOCK_READ);
    int res = blk_file_lock_range(fd, read_only ? F_RDLCK : F_WRLCK, 0, FILE_LOCK_OWN_LEN);

    for (int bit = 0; bit < FILE_LOCK_BITS && res == 0; bit++) {
        if (use & 1u << bit)
            res = blk_file_lock_range(fd, F_RDLCK, FILE_LOCK_USE + bit, 1);
        if (res == 0 && deny & 1u << bit)
            res = blk_file_lock_range(fd, F_RDLCK, FILE_LOCK_DENY + bit, 1);
    }
    for (int bit = 0; bit < FILE_LOCK_BITS && res == 0; bit++) {
        if (use & 1u << bit)
            res = blk_file_lock_test(fd, FILE_LOCK_DENY + bit);
        if (res == 0 && deny & 1u << bit)
            res = blk_file_lock_test(fd, FILE_LOCK_USE + bit);
    }
    return res;
}

static int blk_file_bdev(struct blk_file *f)
{
    int logical = 0;
    unsigned physical = 0;

    if (ioctl(f->fd, BLKGETSIZE64, &f->node.size) < 0 || ioctl(f->fd, BLKSSZGET, &logical) < 0)
        return -errno;
    if (ioctl(f->fd, BLKPBSZGET, &physical) < 0)
        physical = 0;
    if (logical >= (int)BLK_SECTOR && is_pow2((uint64_t)logical))
        f->node.block_size = (uint32_t)logical;
    f->node.physical_block_size = is_pow2(physical) ? MAX(physical, f->node.block_size) : f->node.block_size;
    return 0;
}

/* What O_DIRECT demands of offsets in a file; 512 where the kernel does not say. */
static uint32_t blk_file_dio_align(int fd)
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

static int blk_file_setup(struct blk_file *f, const struct stat *st)
{
    struct blk_node *n = &f->node;

    n->block_size = BLK_SECTOR;
    n->physical_block_size = 4096;
    f->align = 1;
    f->regular = S_ISREG(st->st_mode);
    if (!f->regular) {
        int res = blk_file_bdev(f);

        if (res < 0)
            return res;
        f->align = f->direct ? n->block_size : 1;
        return 0;
    }
    n->size = (uint64_t)st->st_size;
    if (f->direct)
        f->align = n->block_size = blk_file_dio_align(f->fd);
    n->physical_block_size = MAX(n->physical_block_size, n->block_size);
    return 0;
}

/* Open the file itself; type and lock are checked before anything else is done with it. */
static int blk_file_open_fd(const struct blk_open_config *config, struct stat *ret_st)
{
    /* O_NONBLOCK: a FIFO must not hold us up. */
    const int direct = config->cache == BLK_CACHE_NONE ? O_DIRECT : 0;
    int flags = (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | direct;
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
    res = config->sharing == BLK_LOCK ? blk_file_lock(fd, config->read_only) : 0;
    return res < 0 ? res : STEAL_FD(fd);
}

int blk_file_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    struct blk_file *f = calloc(1, sizeof(*f));
    struct stat st;
    int res;

    if (!f)
        return -ENOMEM;
    pthread_mutex_init(&f->edge_lock, NULL);
    f->node.ops = &blk_file_ops;
    f->node.read_only = config->read_only;
    f->direct = config->cache == BLK_CACHE_NONE;
    f->no_sync = config->cache == BLK_CACHE_UNSAFE;
    f->no_punch = config->discard_no_unmap;
    f->fd = -1;
    f->node.path = strdup(config->path);
    if (!f->node.path) {
        res = -ENOMEM;
    } else {
        f->fd = res = blk_file_open_fd(config, &st);
        if (res >= 0)
            res = blk_file_setup(f, &st);
        if (res < 0)
            (void)blk_why_set(why, -res, config->path, NULL);
    }
    if (res < 0) {
        blk_file_close(&f->node);
        return res;
    }
    *ret_node = &f->node;
    return 0;
}
