#include "fake_node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

#define FAKE_BLOCK 4096u

static struct fake_node *fake_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct fake_node, node);
}

static int fake_enter(struct fake_node *f, enum blk_op op, uint64_t off, uint64_t len)
{
    uint64_t fail_off = f->fail_off;

    f->calls[op]++;
    pthread_mutex_lock(&f->lock);
    f->held++;
    while (f->hold)
        pthread_cond_wait(&f->cond, &f->lock);
    f->held--;
    pthread_mutex_unlock(&f->lock);
    if (f->fail_left > 0 && (op != BLK_FLUSH || f->fail_flush) &&
        (fail_off == UINT64_MAX || (fail_off >= off && fail_off - off < len))) {
        f->fail_left--;
        return -f->error;
    }
    return 0;
}

static int fake_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct fake_node *f = fake_of(n);
    int res = fake_enter(f, BLK_READ, off, len);

    pthread_mutex_lock(&f->lock);
    if (res == 0)
        blk_iov_from_buf(iov, n_iov, 0, f->mem + off, len);
    pthread_mutex_unlock(&f->lock);
    return res;
}

static int fake_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct fake_node *f = fake_of(n);
    int res = fake_enter(f, BLK_WRITE, off, len);

    pthread_mutex_lock(&f->lock);
    if (res == 0)
        blk_iov_to_buf(iov, n_iov, 0, f->mem + off, len);
    pthread_mutex_unlock(&f->lock);
    return res;
}

static int fake_flush(struct blk_node *n)
{
    return fake_enter(fake_of(n), BLK_FLUSH, 0, 0);
}

static int fake_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return fake_enter(fake_of(n), BLK_DISCARD, off, len);
}

static int fake_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct fake_node *f = fake_of(n);
    int res = fake_enter(f, BLK_WRITE_ZEROES, off, len);

    pthread_mutex_lock(&f->lock);
    if (res == 0)
        memset(f->mem + off, 0, len);
    pthread_mutex_unlock(&f->lock);
    return res;
}

/* Pieces: each block by itself, so that one request has many. */
static int fake_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len,
                    struct blk_piece pieces[BLK_PIECES_MAX])
{
    struct fake_node *f = fake_of(n);
    unsigned count = 0;

    if (!f->maps)
        return 0;
    for (uint64_t end = off + len; off < end; count++) {
        uint64_t block = off / FAKE_BLOCK, part = MIN(end, (block + 1) * FAKE_BLOCK) - off;
        bool zero;

        pthread_mutex_lock(&f->lock);
        zero = op == BLK_READ && blk_buf_is_zero(f->mem + block * FAKE_BLOCK, FAKE_BLOCK);
        pthread_mutex_unlock(&f->lock);
        if (count == BLK_PIECES_MAX || block % 8 == 7)
            return 0;
        pieces[count] = (struct blk_piece){ .fd = zero ? -1 : f->fd, .off = off, .len = part, .align = f->align };
        off += part;
    }
    f->mapped++;
    f->most_pieces = MAX(f->most_pieces, count);
    return (int)count;
}

static void fake_unmap(struct blk_node *n)
{
    fake_of(n)->unmapped++;
}

static void fake_close(struct blk_node *n)
{
    struct fake_node *f = fake_of(n);

    CHECK(f->mapped == f->unmapped);
    munmap(f->mem, n->size);
    close(f->fd);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->cond);
    free(f);
}

static const struct blk_node_ops fake_ops = {
    .name = "fake",
    .pread = fake_pread,
    .pwrite = fake_pwrite,
    .flush = fake_flush,
    .discard = fake_discard,
    .write_zeroes = fake_write_zeroes,
    .map = fake_map,
    .unmap = fake_unmap,
    .close = fake_close,
};

struct fake_node *fake_node_new(uint64_t size)
{
    struct fake_node *f = calloc(1, sizeof(*f));

    CHECK(f);
    f->node = (struct blk_node){ .ops = &fake_ops, .size = size, .block_size = 512, .physical_block_size = 4096 };
    f->fail_off = UINT64_MAX;
    f->align = 1;
    f->fd = memfd_create("fake", MFD_CLOEXEC);
    CHECK(f->fd >= 0 && ftruncate(f->fd, (off_t)size) == 0);
    f->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    CHECK(f->mem != MAP_FAILED);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->cond, NULL);
    return f;
}

void fake_node_hold(struct fake_node *f, bool hold)
{
    pthread_mutex_lock(&f->lock);
    f->hold = hold;
    pthread_cond_broadcast(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

unsigned fake_node_held(struct fake_node *f)
{
    unsigned held;

    pthread_mutex_lock(&f->lock);
    held = f->hold ? f->held : 0;
    pthread_mutex_unlock(&f->lock);
    return held;
}
