/* The directory of bitmaps: reading with all its checks, writing, opening and closing.
 * Spec: QEMU docs/interop/qcow2.txt, "Bitmaps extension", "Bitmap directory". */
#include "block/qcow2/bitmap_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"
#include "block/qcow2/check_priv.h"

#define TABLE_RESERVED (BITS64(63, 56) | BITS64(8, 1))

enum {
    AT_TABLE_OFF = 0,
    AT_TABLE_SIZE = 8,
    AT_FLAGS = 12,
    AT_TYPE = 16,
    AT_GRAN = 17,
    AT_NAME_LEN = 18,
    AT_EXTRA_LEN = 20,
    ENTRY_LEN = 24,
    TYPE_DIRTY = 1,
    GRAN_MIN = 9,
    GRAN_MAX = 31,
};

uint64_t q2_bitmap_n_bits(uint64_t disk_size, unsigned gran_bits)
{
    return (disk_size >> gran_bits) + ((disk_size & (BIT64(gran_bits) - 1)) != 0);
}

uint64_t q2_bitmap_table_size(const struct q2 *q, uint64_t n_bits)
{
    return q2_clusters(q, (n_bits + 7) / 8);
}

void q2_bitmap_done(struct q2_bitmap *b)
{
    q2_bitmap_bits_free(b);
    free(b->name);
    free(b->extra);
    free(b->table);
    *b = (struct q2_bitmap){ 0 };
}

/* ---- reading ---- */

static int load_table(struct q2 *q, struct q2_bitmap *b)
{
    uint64_t file_size = q->node.file->size, bytes = (uint64_t)b->table_size * 8;
    int res;

    if (bytes > Q2_BITMAP_BYTES_MAX / 512 * 8 || (bytes && (!b->table_off || !q2_aligned(q, b->table_off))) ||
        b->table_off > file_size || bytes > file_size - b->table_off)
        return -EMEDIUMTYPE;
    b->table = malloc(MAX(bytes, 8));
    if (!b->table)
        return -ENOMEM;
    res = blk_pread(q->node.file, b->table_off, b->table, bytes);
    for (uint32_t i = 0; i < b->table_size && res == 0; i++) {
        uint64_t entry = be64toh(b->table[i]), off = entry & Q2_OFFSET_MASK;

        if (entry & TABLE_RESERVED || (off && entry & 1) || !q2_aligned(q, off) || off >= file_size)
            return -EMEDIUMTYPE;
        b->table[i] = entry;
    }
    return res;
}

/* One entry in dir, of which `room` bytes are left; *ret_len: its length. */
static int parse_entry(struct q2 *q, const uint8_t *p, uint64_t room, struct q2_bitmap *b, uint64_t *ret_len)
{
    uint64_t name_len, len;

    if (room < ENTRY_LEN)
        return -EMEDIUMTYPE;
    name_len = (uint64_t)(p[AT_NAME_LEN] << 8 | p[AT_NAME_LEN + 1]);
    *b = (struct q2_bitmap){ .table_off = q2_be64(p + AT_TABLE_OFF),
                             .table_size = q2_be32(p + AT_TABLE_SIZE),
                             .flags = q2_be32(p + AT_FLAGS),
                             .type = p[AT_TYPE],
                             .gran_bits = p[AT_GRAN],
                             .extra_len = q2_be32(p + AT_EXTRA_LEN) };
    len = align_up(ENTRY_LEN + b->extra_len + name_len, 8);
    if (b->extra_len > Q2_BITMAP_EXTRA_MAX || len > room || !name_len || name_len >= BLK_NAME_MAX || b->gran_bits > 63)
        return -EMEDIUMTYPE;
    b->name = text_copy(p + ENTRY_LEN + b->extra_len, name_len);
    b->extra = malloc(b->extra_len + 1u);
    if (!b->name || !b->extra)
        return -ENOMEM;
    memcpy(b->extra, p + ENTRY_LEN, b->extra_len);
    *ret_len = len;
    return load_table(q, b);
}

/* Whether we can record in it and say what it holds. One that was in use when somebody went away cannot be trusted. */
static bool is_usable(const struct q2 *q, const struct q2_bitmap *b)
{
    uint64_t n_bits = q2_bitmap_n_bits(q->h.size, MIN(b->gran_bits, (unsigned)GRAN_MAX));

    return !(b->flags & Q2_BITMAP_IN_USE) && b->type == TYPE_DIRTY && b->gran_bits >= GRAN_MIN &&
           b->gran_bits <= GRAN_MAX && (!b->extra_len || b->flags & Q2_BITMAP_EXTRA_COMPATIBLE) &&
           b->table_size == q2_bitmap_table_size(q, n_bits);
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Each name stands for one bitmap. */
static int check_names(const struct q2_bitmaps *m)
{
    AUTO_FREE const char **names = malloc(m->n * sizeof(*names));

    if (!names)
        return -ENOMEM;
    for (unsigned i = 0; i < m->n; i++)
        names[i] = m->list[i].name;
    qsort(names, m->n, sizeof(*names), name_order);
    for (unsigned i = 1; i < m->n; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            return -EMEDIUMTYPE;
    }
    return 0;
}

static int load_dir(struct q2 *q, struct q2_bitmaps *m)
{
    AUTO_FREE uint8_t *dir = NULL;
    uint64_t at = 0, all = 0, size = q->h.bitmap_dir_size;
    int res;

    if (q->h.n_bitmaps == 0 || q->h.n_bitmaps > Q2_BITMAPS_MAX || size > Q2_BITMAP_DIR_MAX ||
        size < (uint64_t)q->h.n_bitmaps * ENTRY_LEN)
        return -EMEDIUMTYPE;
    dir = malloc(size);
    m->list = calloc(q->h.n_bitmaps, sizeof(*m->list));
    if (!dir || !m->list)
        return -ENOMEM;
    res = blk_pread(q->node.file, q->h.bitmap_dir_off, dir, size);
    while (res == 0 && m->n < q->h.n_bitmaps) {
        struct q2_bitmap *b = &m->list[m->n++];
        uint64_t len = 0;

        res = parse_entry(q, dir + at, size - at, b, &len);
        b->entry_off = q->h.bitmap_dir_off + at;
        at += len;
        all += (uint64_t)b->table_size << q->cluster_bits;
        if (res == 0 && all > Q2_BITMAP_ALL_MAX)
            res = -EFBIG;
        if (res == 0 && is_usable(q, b)) {
            b->usable = true;
            res = q2_bitmap_bits_new(q, b, q->h.size);
            if (res == 0)
                res = q2_bitmap_bits_load(q, b);
        }
    }
    if (res == 0 && at != size)
        return -EMEDIUMTYPE;
    return res == 0 ? check_names(m) : res;
}

int q2_bitmaps_note(struct q2 *q)
{
    int res = q->h.has_bitmaps ? q2_meta_add(q, q->h.bitmap_dir_off, q->h.bitmap_dir_size) : 0;

    for (unsigned k = 0; q->bitmaps && k < q->bitmaps->n && res == 0; k++) {
        const struct q2_bitmap *b = &q->bitmaps->list[k];

        res = q2_meta_add(q, b->table_off, (uint64_t)b->table_size * 8);
        for (uint32_t i = 0; i < b->table_size && res == 0; i++) {
            if (b->table[i] & Q2_OFFSET_MASK)
                res = q2_meta_add(q, b->table[i] & Q2_OFFSET_MASK, q->cluster_size);
        }
    }
    return res;
}

int q2_bitmaps_refs(struct q2_refs *r)
{
    const struct q2 *q = r->q;

    if (!q->h.has_bitmaps)
        return 0;
    q2_refs_add(r, q->h.bitmap_dir_off, q->h.bitmap_dir_size, 1);
    if (!q->bitmaps) { /* could not be read */
        if (r->first)
            r->res->corruptions++;
        return 0;
    }
    for (unsigned k = 0; k < q->bitmaps->n; k++) {
        const struct q2_bitmap *b = &q->bitmaps->list[k];

        q2_refs_add(r, b->table_off, (uint64_t)b->table_size * 8, 1);
        for (uint32_t i = 0; i < b->table_size; i++) {
            if (b->table[i] & Q2_OFFSET_MASK)
                q2_refs_add(r, b->table[i] & Q2_OFFSET_MASK, q->cluster_size, 1);
        }
    }
    return 0;
}

int q2_bitmaps_start(struct q2 *q)
{
    int res = 0;

    for (unsigned k = 0; q->bitmaps && k < q->bitmaps->n && res == 0; k++) {
        struct q2_bitmap *b = &q->bitmaps->list[k];

        if (b->usable && !b->changed && b->flags & Q2_BITMAP_AUTO) {
            res = q2_bitmap_write_entry(q, b, b->flags | Q2_BITMAP_IN_USE);
            b->changed = res == 0;
        }
    }
    return res;
}

int q2_bitmaps_read(struct q2 *q)
{
    int res;

    q->bitmaps = calloc(1, sizeof(*q->bitmaps));
    if (!q->bitmaps)
        return -ENOMEM;
    res = load_dir(q, q->bitmaps);
    if (res < 0)
        q2_bitmaps_done(q);
    return res;
}

int q2_bitmaps_open(struct q2 *q, struct blk_why *why)
{
    int res = q2_bitmaps_read(q);

    if ((res == -EMEDIUMTYPE || res == -EFBIG) && !q->node.read_only)
        return blk_why_set(
            why, -res, q->node.file->path,
            "has a directory of dirty bitmaps that makes no sense, so it can only be opened for reading");
    if (res < 0 && res != -EMEDIUMTYPE && res != -EFBIG)
        return res;
    res = q2_bitmaps_note(q); /* the disk can be read without them */
    return res == 0 && !q->node.read_only && !q->corrupt ? q2_bitmaps_start(q) : res;
}

void q2_bitmaps_done(struct q2 *q)
{
    if (!q->bitmaps)
        return;
    for (unsigned i = 0; i < q->bitmaps->n; i++)
        q2_bitmap_done(&q->bitmaps->list[i]);
    free(q->bitmaps->list);
    free(q->bitmaps);
    q->bitmaps = NULL;
}

/* ---- writing ---- */

static uint64_t entry_len(const struct q2_bitmap *b)
{
    return align_up(ENTRY_LEN + b->extra_len + strlen(b->name), 8);
}

static void put_entry(const struct q2_bitmap *b, uint8_t *p)
{
    size_t name_len = strlen(b->name);

    q2_put_be64(p + AT_TABLE_OFF, b->table_off);
    q2_put_be32(p + AT_TABLE_SIZE, b->table_size);
    q2_put_be32(p + AT_FLAGS, b->flags);
    p[AT_TYPE] = b->type;
    p[AT_GRAN] = (uint8_t)b->gran_bits;
    p[AT_NAME_LEN] = (uint8_t)(name_len >> 8);
    p[AT_NAME_LEN + 1] = (uint8_t)name_len;
    q2_put_be32(p + AT_EXTRA_LEN, b->extra_len);
    memcpy(p + ENTRY_LEN, b->extra, b->extra_len);
    memcpy(p + ENTRY_LEN + b->extra_len, b->name, name_len);
}

int q2_bitmap_write_entry(struct q2 *q, struct q2_bitmap *b, uint32_t flags)
{
    uint8_t fixed[AT_TYPE]; /* within one sector, as entries are aligned to 8 and it is written as a whole ... */
    int res;

    q2_put_be64(fixed + AT_TABLE_OFF, b->table_off);
    q2_put_be32(fixed + AT_TABLE_SIZE, b->table_size);
    q2_put_be32(fixed + AT_FLAGS, flags);
    /* ... or at least in_use stands alone: it is written first when it is set, and last when it is cleared. */
    res = blk_pwrite(q->node.file, b->entry_off, fixed, sizeof(fixed));
    if (res == 0)
        res = blk_flush(q->node.file);
    if (res == 0)
        b->flags = flags;
    return res;
}

/* Switch the header to a directory of the bitmaps in q->bitmaps; none: to no directory. */
static int switch_dir(struct q2 *q, uint64_t off, uint64_t size)
{
    struct q2_header old = q->h;
    int res;

    q->h.has_bitmaps = q->bitmaps->n > 0;
    q->h.n_bitmaps = q->bitmaps->n;
    q->h.bitmap_dir_off = off;
    q->h.bitmap_dir_size = size;
    q->h.autoclear = (q->h.autoclear & ~Q2_AUTOCLEAR_BITMAPS) | (q->h.has_bitmaps ? Q2_AUTOCLEAR_BITMAPS : 0);
    res = q2_header_write_locked(q);
    if (res == 0)
        res = blk_flush(q->node.file);
    if (res < 0)
        q->h = old;
    else if (old.has_bitmaps)
        q2_free_meta_locked(q, old.bitmap_dir_off, old.bitmap_dir_size);
    return res;
}

int q2_bitmaps_write_dir(struct q2 *q)
{
    struct q2_bitmaps *m = q->bitmaps;
    AUTO_FREE uint8_t *dir = NULL;
    uint64_t size = 0, off = 0, at = 0;
    int res;

    for (unsigned i = 0; i < m->n; i++)
        size += entry_len(&m->list[i]);
    if (size == 0)
        return switch_dir(q, 0, 0);
    if (size > Q2_BITMAP_DIR_MAX)
        return -EFBIG;
    dir = calloc(1, size);
    if (!dir)
        return -ENOMEM;
    res = q2_alloc_meta_locked(q, size, &off);
    if (res < 0)
        return res;
    for (unsigned i = 0; i < m->n; i++) {
        put_entry(&m->list[i], dir + at);
        at += entry_len(&m->list[i]);
    }
    res = blk_pwrite(q->node.file, off, dir, size);
    if (res == 0)
        res = q2_writeback_locked(q, true); /* refcounts, and a flush */
    if (res == 0)
        res = switch_dir(q, off, size);
    if (res < 0) {
        q2_free_meta_locked(q, off, size);
        return res;
    }
    for (unsigned i = 0; i < m->n; i++) {
        m->list[i].entry_off = off;
        off += entry_len(&m->list[i]);
    }
    return 0;
}
