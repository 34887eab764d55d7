/* What users do with dirty bitmaps, and what happens to them while the image is in use. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "block/qcow2/bitmap_priv.h"

static struct q2_bitmap *bitmap_find(struct q2 *q, const char *name)
{
    for (unsigned i = 0; q->bitmaps && i < q->bitmaps->n; i++) {
        if (strcmp(q->bitmaps->list[i].name, name) == 0)
            return &q->bitmaps->list[i];
    }
    return NULL;
}

static int no_bitmap(const struct q2 *q, struct blk_why *why)
{
    return blk_why_set(why, ENOENT, q->node.file->path, "has no dirty bitmap of that name");
}

static int not_usable(const struct q2 *q, struct blk_why *why)
{
    return blk_why_set(why, ESTALE, q->node.file->path,
                       "has that dirty bitmap, but was not closed cleanly since, so it is incomplete: remove it");
}

/* Before the bits change in memory. Alone. */
static int bitmap_touch(struct q2 *q, struct q2_bitmap *b)
{
    int res = b->changed ? 0 : q2_bitmap_write_entry(q, b, b->flags | Q2_BITMAP_IN_USE);

    if (res == 0)
        b->changed = true;
    return res;
}

void q2_bitmaps_mark(struct q2 *q, uint64_t off, uint64_t len)
{
    const struct q2_bitmaps *m = q->bitmaps;

    if (!m)
        return;
    for (unsigned i = 0; i < m->n; i++) {
        struct q2_bitmap *b = &m->list[i];

        if (b->usable && b->flags & Q2_BITMAP_AUTO)
            q2_bitmap_mark(b, off, len);
    }
}

/* ---- store, resize ---- */

/* The bits in memory for another size of the disk: what is new is clean, as it reads as zeroes on either side. */
static int bitmap_resize(struct q2 *q, struct q2_bitmap *b, uint64_t size)
{
    struct q2_bitmap resized = *b;
    uint64_t n;
    int res = bitmap_touch(q, b);

    if (res == 0)
        res = q2_bitmap_bits_new(q, &resized, size);
    if (res < 0)
        return res;
    n = MIN(b->n_bits, resized.n_bits);
    memcpy(resized.bits, b->bits, (n + 7) / 8);
    if (n % 64)
        resized.bits[n / 64] &= BIT64(n % 64) - 1;
    q2_bitmap_bits_free(b);
    b->bits = resized.bits;
    b->n_bits = resized.n_bits;
    b->bits_len = resized.bits_len;
    return 0;
}

static int store_locked(struct q2 *q)
{
    int res = 0;

    for (unsigned i = 0; i < q->bitmaps->n && res == 0; i++) {
        struct q2_bitmap *b = &q->bitmaps->list[i];

        if (!b->changed)
            continue;
        /* A change of the disk's size that failed has left it behind, or ahead. */
        if (b->n_bits != q2_bitmap_n_bits(q->h.size, b->gran_bits))
            res = bitmap_resize(q, b, q->h.size);
        if (res == 0)
            res = q2_bitmap_bits_store(q, b);
        if (res == 0)
            res = q2_bitmap_write_entry(q, b, b->flags & ~Q2_BITMAP_IN_USE);
        if (res == 0)
            b->changed = false;
    }
    return res;
}

int q2_bitmaps_store(struct q2 *q)
{
    bool any = false;
    int res;

    if (!q->bitmaps || q->node.read_only || q->corrupt)
        return 0;
    for (unsigned i = 0; i < q->bitmaps->n; i++)
        any |= q->bitmaps->list[i].changed;
    if (!any)
        return 0;
    res = q2_exclusive_begin(q);
    if (res < 0)
        return res;
    res = store_locked(q);
    if (res == 0) /* what was freed */
        res = q2_writeback_locked(q, true);
    q2_exclusive_end(q);
    return res;
}

int q2_bitmaps_touch(struct q2 *q)
{
    int res = 0;

    for (unsigned i = 0; q->bitmaps && i < q->bitmaps->n && res == 0; i++) {
        if (q->bitmaps->list[i].usable)
            res = bitmap_touch(q, &q->bitmaps->list[i]);
    }
    return res;
}

int q2_bitmaps_resize(struct q2 *q, uint64_t size, struct blk_why *why)
{
    for (unsigned i = 0; q->bitmaps && i < q->bitmaps->n; i++) {
        struct q2_bitmap *b = &q->bitmaps->list[i];
        int res = b->usable ? bitmap_resize(q, b, size) : 0;

        if (res == -EFBIG)
            return blk_why_set(why, EFBIG, q->node.file->path,
                               "has a dirty bitmap whose granularity is too fine for that size: remove it first");
        if (res < 0)
            return res;
    }
    return 0;
}

/* ---- list ---- */

int q2_bitmap_list(struct blk_node *n, struct blk_bitmap **ret_list, unsigned *ret_n)
{
    struct q2 *q = q2_of(n);
    unsigned token = q2_enter(q), count = q->bitmaps ? q->bitmaps->n : 0;
    struct blk_bitmap *list = calloc(MAX(count, 1u), sizeof(*list));

    for (unsigned i = 0; list && i < count; i++) {
        const struct q2_bitmap *b = &q->bitmaps->list[i];

        snprintf(list[i].name, sizeof(list[i].name), "%s", b->name);
        list[i].granularity = b->gran_bits < 32 ? BIT(b->gran_bits) : 0;
        list[i].enabled = b->flags & Q2_BITMAP_AUTO;
        list[i].in_use = !b->usable;
        list[i].dirty = b->usable ? q2_bitmap_count(b) << b->gran_bits : 0;
    }
    q2_leave(q, token);
    if (!list)
        return -ENOMEM;
    *ret_list = list;
    *ret_n = count;
    return 0;
}

/* ---- add, remove ---- */

static int bitmap_make(struct q2 *q, const char *name, uint32_t granularity, bool enabled, struct q2_bitmap *ret)
{
    uint64_t n;
    int res;

    *ret = (struct q2_bitmap){ .gran_bits = (unsigned)__builtin_ctz(granularity),
                               .flags = Q2_BITMAP_IN_USE | (enabled ? Q2_BITMAP_AUTO : 0),
                               .type = 1,
                               .usable = true,
                               .changed = true };
    ret->name = strdup(name);
    ret->extra = malloc(1);
    if (!ret->name || !ret->extra)
        return -ENOMEM;
    res = q2_bitmap_bits_new(q, ret, q->h.size);
    if (res < 0)
        return res;
    n = q2_bitmap_table_size(q, ret->n_bits);
    ret->table = calloc(MAX(n, 1), 8);
    if (!ret->table)
        return -ENOMEM;
    ret->table_size = (uint32_t)n;
    if (n == 0)
        return 0;
    res = q2_alloc_meta_locked(q, n * 8, &ret->table_off);
    return res < 0 ? res : blk_write_zeroes(q->node.file, ret->table_off, n * 8, 0);
}

/* m->list with room for one more. */
static int list_grow(struct q2 *q)
{
    struct q2_bitmaps *m = q->bitmaps ? q->bitmaps : calloc(1, sizeof(*m));
    struct q2_bitmap *list = m ? realloc(m->list, (m->n + 1) * sizeof(*list)) : NULL;

    if (!list) {
        if (m != q->bitmaps)
            free(m);
        return -ENOMEM;
    }
    m->list = list;
    q->bitmaps = m;
    return 0;
}

static int add_locked(struct q2 *q, const char *name, uint32_t granularity, bool enabled, struct blk_why *why)
{
    const char *path = q->node.file->path;
    struct q2_bitmap b = { 0 };
    int res;

    if (q->node.read_only)
        return -EROFS;
    if (q->h.version < 3)
        return blk_why_set(why, ENOTSUP, path, "is of qcow2 version 2, which has no dirty bitmaps");
    if (!name[0] || strlen(name) >= BLK_NAME_MAX || !is_pow2(granularity) || granularity < BLK_SECTOR)
        return blk_why_set(why, EINVAL, path,
                           "cannot have a bitmap of such a name or granularity (a power of two >= 512)");
    if (bitmap_find(q, name))
        return blk_why_set(why, EEXIST, path, "has a dirty bitmap of that name already");
    if (q->bitmaps && q->bitmaps->n >= Q2_BITMAPS_MAX)
        return blk_why_set(why, EFBIG, path, "has 65535 dirty bitmaps, the most that are possible");
    res = list_grow(q);
    if (res == 0)
        res = bitmap_make(q, name, granularity, enabled, &b);
    if (res == -EFBIG)
        (void)blk_why_set(why, EFBIG, path, "is too big for a bitmap of so fine a granularity");
    if (res == 0) {
        q->bitmaps->list[q->bitmaps->n++] = b;
        res = q2_bitmaps_write_dir(q);
        if (res == 0)
            return 0;
        q->bitmaps->n--;
    }
    if (b.table_off)
        q2_free_meta_locked(q, b.table_off, (uint64_t)b.table_size * 8);
    q2_bitmap_done(&b);
    return res;
}

int q2_bitmap_add(struct blk_node *n, const char *name, uint32_t granularity, bool enabled, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = add_locked(q, name, granularity, enabled, why);
    q2_exclusive_end(q);
    return res;
}

static int remove_locked(struct q2 *q, const char *name, struct blk_why *why)
{
    struct q2_bitmap *b = bitmap_find(q, name), gone;
    struct q2_bitmaps *m = q->bitmaps;
    size_t after;
    int res;

    if (q->node.read_only)
        return -EROFS;
    if (!b)
        return no_bitmap(q, why);
    gone = *b;
    after = m->n - 1 - (size_t)(b - m->list);
    memmove(b, b + 1, after * sizeof(*b));
    m->n--;
    res = q2_bitmaps_write_dir(q);
    if (res < 0) {
        memmove(b + 1, b, after * sizeof(*b));
        *b = gone;
        m->n++;
        return res;
    }
    for (uint32_t i = 0; i < gone.table_size; i++) {
        if (gone.table[i] & Q2_OFFSET_MASK)
            q2_free_meta_locked(q, gone.table[i] & Q2_OFFSET_MASK, q->cluster_size);
    }
    q2_free_meta_locked(q, gone.table_off, (uint64_t)gone.table_size * 8);
    q2_bitmap_done(&gone);
    return q2_writeback_locked(q, true);
}

int q2_bitmap_remove(struct blk_node *n, const char *name, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = remove_locked(q, name, why);
    q2_exclusive_end(q);
    return res;
}

/* ---- enable, clear, set, next ---- */

enum action { BITMAP_ON, BITMAP_OFF, BITMAP_CLEAR, BITMAP_TOUCH };

static int act_locked(struct q2 *q, const char *name, enum action action, struct blk_why *why)
{
    struct q2_bitmap *b = bitmap_find(q, name);
    int res;

    if (q->node.read_only)
        return -EROFS;
    if (!b)
        return no_bitmap(q, why);
    if (!b->usable)
        return not_usable(q, why);
    res = bitmap_touch(q, b);
    if (res == 0 && action == BITMAP_ON)
        res = q2_bitmap_write_entry(q, b, b->flags | Q2_BITMAP_AUTO);
    if (res == 0 && action == BITMAP_OFF)
        res = q2_bitmap_write_entry(q, b, b->flags & ~Q2_BITMAP_AUTO);
    if (res == 0 && action == BITMAP_CLEAR) {
        struct q2_bitmap fresh = *b;

        res = q2_bitmap_bits_new(q, &fresh, q->h.size);
        if (res == 0) {
            q2_bitmap_bits_free(b);
            b->bits = fresh.bits;
        }
    }
    return res;
}

static int act(struct blk_node *n, const char *name, enum action action, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = act_locked(q, name, action, why);
    q2_exclusive_end(q);
    return res;
}

int q2_bitmap_enable(struct blk_node *n, const char *name, bool on, struct blk_why *why)
{
    return act(n, name, on ? BITMAP_ON : BITMAP_OFF, why);
}

int q2_bitmap_clear(struct blk_node *n, const char *name, struct blk_why *why)
{
    return act(n, name, BITMAP_CLEAR, why);
}

int q2_bitmap_set(struct blk_node *n, const char *name, uint64_t off, uint64_t len)
{
    struct q2 *q = q2_of(n);
    unsigned token = q2_enter(q);
    struct q2_bitmap *b = bitmap_find(q, name);
    bool ready = b && b->usable && b->changed;
    int res = off > n->size || len > n->size - off ? -EINVAL : 0;

    if (res == 0 && ready)
        q2_bitmap_mark(b, off, len);
    q2_leave(q, token);
    if (res < 0 || ready)
        return res;
    res = act(n, name, BITMAP_TOUCH, NULL);
    return res < 0 ? res : q2_bitmap_set(n, name, off, len);
}

int q2_bitmap_next(struct blk_node *n, const char *name, uint64_t off, uint64_t *ret_off, uint64_t *ret_len)
{
    struct q2 *q = q2_of(n);
    unsigned token = q2_enter(q);
    const struct q2_bitmap *b = bitmap_find(q, name);
    uint64_t at, len;
    int res = !b ? -ENOENT : !b->usable ? -ESTALE : 0;

    if (res == 0 && off < n->size && q2_bitmap_find(b, off, &at, &len) && at < n->size) {
        *ret_off = at;
        *ret_len = MIN(len, n->size - at);
        res = 1;
    }
    q2_leave(q, token);
    return res;
}
