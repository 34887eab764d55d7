/* A file node in memory, for fuzz targets and tests of block formats: reads beyond its end give zeroes, writes make it
 * longer up to a bound, as those of a file do. Not thread-safe where it grows. */
#ifndef TESTS_FUZZ_FUZZ_BLOCK_H
#define TESTS_FUZZ_FUZZ_BLOCK_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/attr.h"
#include "base/check.h"
#include "block/open.h"

struct fuzz_file {
    struct blk_node node;
    uint8_t *data; /* room bytes; zeroes behind node.size */
    uint64_t room;
};

static int fuzz_file_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct fuzz_file *f = CONTAINER_OF(n, struct fuzz_file, node);
    uint64_t part = off < f->room ? MIN(len, f->room - off) : 0;

    if (part)
        blk_iov_from_buf(iov, n_iov, 0, f->data + off, part);
    blk_iov_zero(iov, n_iov, part, len - part);
    return 0;
}

static int fuzz_file_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct fuzz_file *f = CONTAINER_OF(n, struct fuzz_file, node);

    if (off > f->room || len > f->room - off)
        return -ENOSPC;
    blk_iov_to_buf(iov, n_iov, 0, f->data + off, len);
    n->size = MAX(n->size, off + len);
    return 0;
}

static int fuzz_file_flush(struct blk_node *n)
{
    (void)n;
    return 0;
}

static int fuzz_file_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    struct fuzz_file *f = CONTAINER_OF(n, struct fuzz_file, node);

    (void)prealloc;
    (void)why;
    if (size > f->room)
        return -ENOSPC;
    if (size < n->size)
        memset(f->data + size, 0, n->size - size);
    n->size = size;
    return 0;
}

static void fuzz_file_close(struct blk_node *n)
{
    struct fuzz_file *f = CONTAINER_OF(n, struct fuzz_file, node);

    free(f->data);
    free(f);
}

/* A file of size bytes (data NULL: zeroes) that can get room bytes long. */
static inline struct blk_node *fuzz_file_new(const uint8_t *data, uint64_t size, uint64_t room)
{
    static const struct blk_node_ops ops = {
        .name = "memory",
        .pread = fuzz_file_pread,
        .pwrite = fuzz_file_pwrite,
        .flush = fuzz_file_flush,
        .resize = fuzz_file_resize,
        .close = fuzz_file_close,
    };
    struct fuzz_file *f = calloc(1, sizeof(*f));

    CHECK(f);
    f->node = (struct blk_node){
        .ops = &ops, .path = (char *)(uintptr_t) "memory", .block_size = 512, .physical_block_size = 512, .size = size
    };
    f->room = MAX(room, size);
    f->data = calloc(1, f->room);
    CHECK(f->data);
    if (data)
        memcpy(f->data, data, size);
    return &f->node;
}

/* Reads at the beginning, the end and between, and extents, of a disk that is closed then. */
static inline void fuzz_read_all_over(struct blk_node *n)
{
    uint8_t buf[9000];

    for (unsigned i = 0; i < 16; i++) {
        uint64_t off = n->size / 16 * i + i * 700u, room = n->size - MIN(off, n->size);
        struct blk_extent x;

        if (room == 0)
            continue;
        (void)!blk_pread(n, off, buf, MIN(room, sizeof(buf)));
        if (blk_extent_here(n, off, MIN(room, 1u << 24), &x) == 0)
            CHECK(x.len > 0 && x.len <= room);
    }
    blk_node_close(n);
}

#endif
