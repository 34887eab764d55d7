/* Random writes, zeroes and discards on a Ceph image, against a buffer that remembers: rbd_io NAME COPY. What the
 * buffer holds at the end is written to COPY, for `rbd export` to be compared with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/attr.h"
#include "block/open.h"

static int fail(const char *what, int res)
{
    fprintf(stderr, "rbd_io: %s: %s\n", what, strerror(-res));
    return 1;
}

static int random_io(struct blk_node *n, uint8_t *shadow, uint8_t *back)
{
    unsigned seed = 4;

    for (unsigned i = 0; i < 120; i++) {
        uint64_t off = (unsigned)rand_r(&seed) % n->size, len = 1 + (unsigned)rand_r(&seed) % (6u << 20);
        int res;

        len = MIN(len, n->size - off);
        memset(shadow + off, i % 4 ? (int)i : 0, len);
        res = i % 4 ? blk_pwrite(n, off, shadow + off, len) : blk_write_zeroes(n, off, len, i % 8 ? BLK_ZERO_UNMAP : 0);
        if (res < 0)
            return fail("write", res);
        off = (unsigned)rand_r(&seed) % n->size;
        len = MIN(len, n->size - off);
        res = blk_pread(n, off, back, len);
        if (res < 0 || memcmp(back, shadow + off, len) != 0)
            return fail("read gives other bytes", res);
    }
    return 0;
}

/* Ranges that are said to be zeroes are. */
static int check_extents(struct blk_node *n, const uint8_t *shadow)
{
    for (uint64_t off = 0; off < n->size;) {
        struct blk_extent x;
        int res = blk_extent(n, off, n->size - off, &x);

        if (res < 0 || x.len == 0 || x.len > n->size - off)
            return fail("extent", res);
        if (x.flags & BLK_EXT_ZERO && !blk_buf_is_zero(shadow + off, x.len))
            return fail("extent says zeroes where there are none", 0);
        off += x.len;
    }
    return 0;
}

int main(int argc, char **argv)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    AUTO_FREE uint8_t *shadow = NULL, *back = NULL;
    struct blk_why why;
    FILE *copy = argc == 3 ? fopen(argv[2], "wb") : NULL;
    int res;

    if (!copy)
        return 2;
    res = blk_open(&(struct blk_open_config){ .path = argv[1], .format = "raw" }, &n, &why);
    if (res < 0)
        return fail(why.text ? why.text : "open", res);
    shadow = calloc(1, n->size);
    back = malloc(n->size);
    if (!shadow || !back || random_io(n, shadow, back) || check_extents(n, shadow))
        return 1;
    res = blk_resize(n, n->size + (1u << 20), BLK_PREALLOC_OFF, &why);
    if (res < 0 || blk_flush(n) < 0)
        return fail("resize or flush", res);
    if (fwrite(shadow, 1, n->size - (1u << 20), copy) != n->size - (1u << 20) || fclose(copy) != 0)
        return fail("copy", 0);
    return 0;
}
