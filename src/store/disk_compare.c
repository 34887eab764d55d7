/* Comparing two disks. Ranges that both call zero are not read; of a range that one of them calls zero, only the other
 * is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "store/disk_priv.h"

#define COMPARE_CHUNK (1u << 20)
#define COMPARE_ALLOCATION (BLK_EXT_DATA | BLK_EXT_ZERO | BLK_EXT_ALLOCATED)

struct compare {
    struct blk_node *n[2];
    uint8_t *data[2];
    bool strict;
    struct disk_difference difference;
};

static uint64_t compare_first(const uint8_t *a, const uint8_t *b, uint64_t len)
{
    uint64_t at = 0;

    while (at + 4096 < len && memcmp(a + at, b + at, 4096) == 0)
        at += 4096;
    while (at < len && a[at] == b[at])
        at++;
    return at;
}

static int compare_fail(struct compare *c, unsigned which, int res, struct err *e)
{
    return disk_fail(e, res, c->n[which]->path, NULL, "read it");
}

/* Compare what is at off; *ret_len: how much that was. 1: a difference. */
static int compare_range(struct compare *c, uint64_t off, uint64_t len, uint64_t *ret_len, struct err *e)
{
    struct blk_extent x[2];

    for (unsigned i = 0; i < 2; i++) {
        int res = disk_extent_padded(c->n[i], off, len, &x[i]);

        if (res < 0)
            return compare_fail(c, i, res, e);
        len = x[i].len;
    }
    if (c->strict && (x[0].flags ^ x[1].flags) & COMPARE_ALLOCATION) {
        c->difference = (struct disk_difference){ false, off, "allocation" };
        return 1;
    }
    *ret_len = len;
    if (x[0].flags & x[1].flags & BLK_EXT_ZERO)
        return 0;
    *ret_len = len = MIN(len, COMPARE_CHUNK);
    for (unsigned i = 0; i < 2; i++) {
        int res = 0;

        if (x[i].flags & BLK_EXT_ZERO)
            memset(c->data[i], 0, len);
        else
            res = disk_read_padded(c->n[i], off, c->data[i], len);
        if (res < 0)
            return compare_fail(c, i, res, e);
    }
    if (memcmp(c->data[0], c->data[1], len) == 0)
        return 0;
    c->difference = (struct disk_difference){ false, off + compare_first(c->data[0], c->data[1], len), "content" };
    return 1;
}

static int compare_run(struct compare *c, const struct disk_progress *progress, struct err *e)
{
    uint64_t end = MAX(c->n[0]->size, c->n[1]->size), len = 0;
    int res = 0;

    c->difference = (struct disk_difference){ .same = true };
    if (c->strict && c->n[0]->size != c->n[1]->size) {
        c->difference = (struct disk_difference){ false, MIN(c->n[0]->size, c->n[1]->size), "size" };
        return 0;
    }
    for (uint64_t at = 0; at < end && res == 0; at += len) {
        res = compare_range(c, at, end - at, &len, e);
        if (res == 0 && progress && !progress->step(progress->opaque, at + len, end))
            return err_set(e, ECANCELED, "cancelled before a difference was found");
    }
    return MIN(res, 0);
}

int disk_compare(const struct blk_open_config *a, const struct blk_open_config *b, bool strict,
                 const struct disk_progress *progress, struct disk_difference *ret_difference, struct err *e)
{
    AUTO(blk_node) struct blk_node *one = NULL;
    AUTO(blk_node) struct blk_node *other = NULL;
    AUTO_FREE uint8_t *one_data = aligned_alloc(4096, COMPARE_CHUNK);
    AUTO_FREE uint8_t *other_data = aligned_alloc(4096, COMPARE_CHUNK);
    struct blk_open_config config = *a;
    struct compare c;
    int res;

    if (!one_data || !other_data)
        return err_set(e, ENOMEM, "out of memory");
    config.read_only = true;
    res = disk_open(&config, &one, e);
    config = *b;
    config.read_only = true;
    if (res == 0)
        res = disk_open(&config, &other, e);
    if (res < 0)
        return res;
    c = (struct compare){ .n = { one, other }, .data = { one_data, other_data }, .strict = strict };
    res = compare_run(&c, progress, e);
    if (res == 0)
        *ret_difference = c.difference;
    return res;
}
