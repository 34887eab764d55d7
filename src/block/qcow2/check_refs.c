/* Who refers to which host cluster (check_priv.h). What counts as what is qemu-img check's way, so that figures agree.
 */
#include "block/qcow2/check_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "block/qcow2/bitmap_priv.h"

#define L1_RESERVED (BITS64(62, 56) | BITS64(8, 0))
#define L2_RESERVED (BITS64(61, 56) | BITS64(8, 1))
#define RT_RESERVED BITS64(8, 0)
#define CHUNK 512u /* entries of a table that are read at once */

/* ---- L2 tables ---- */

static int l2_ref_order(const void *a, const void *b)
{
    const struct q2_l2_ref *x = a, *y = b;

    return x->off < y->off ? -1 : x->off > y->off;
}

/* Sort, and merge those of the same table. */
static void l2_refs_compact(struct q2_refs *r)
{
    size_t out = 0;

    if (r->n_l2 == 0)
        return;
    qsort(r->l2, r->n_l2, sizeof(*r->l2), l2_ref_order);
    for (size_t i = 1; i < r->n_l2; i++) {
        if (r->l2[i].off != r->l2[out].off) {
            r->l2[++out] = r->l2[i];
            continue;
        }
        /* 2^16 tables of 2^22 entries cannot overflow what saturates. */
        r->l2[out].n = r->l2[i].n > UINT32_MAX - r->l2[out].n ? UINT32_MAX : r->l2[out].n + r->l2[i].n;
        r->l2[out].n_active += r->l2[i].n_active;
    }
    r->n_l2 = out + 1;
}

static int l2_refs_add(struct q2_refs *r, uint64_t off, uint32_t times, bool active)
{
    if (r->n_l2 == r->room) {
        l2_refs_compact(r);
        if (r->n_l2 >= r->room / 2) {
            size_t room = r->room ? r->room * 2 : 1024;
            struct q2_l2_ref *grown = room > Q2_L2_REFS_MAX ? NULL : realloc(r->l2, room * sizeof(*grown));

            if (!grown)
                return room > Q2_L2_REFS_MAX ? -EFBIG : -ENOMEM;
            r->l2 = grown;
            r->room = room;
        }
    }
    r->l2[r->n_l2++] = (struct q2_l2_ref){ .off = off, .n = times, .n_active = active };
    return 0;
}

/* One L1 entry. */
static int l1_entry(struct q2_refs *r, uint64_t entry, uint32_t times, bool active)
{
    uint64_t off = entry & Q2_OFFSET_MASK;

    if (entry == 0)
        return 0;
    if (entry & L1_RESERVED)
        r->res->corruptions++;
    if (!q2_aligned(r->q, off))
        r->res->corruptions++;
    return l2_refs_add(r, off, times, active);
}

/* The entries of a table in the file, as they are there. */
static int l1_table(struct q2_refs *r, uint64_t off, uint32_t size, bool active)
{
    uint64_t chunk[CHUNK];
    int res = 0;

    for (uint32_t i = 0; i < size && res == 0; i++) {
        uint32_t in = i % CHUNK;

        if (in == 0)
            res = blk_pread(r->q->node.file, off + (uint64_t)i * 8, chunk, 8 * MIN(CHUNK, size - i));
        if (res == 0)
            res = l1_entry(r, be64toh(chunk[in]), 1, active);
    }
    return res;
}

static int l1_collect(struct q2_refs *r)
{
    const struct q2_state *s = r->state;
    int res = s->l1 ? 0 : l1_table(r, s->l1_off, s->l1_size, true);

    for (uint32_t i = 0; s->l1 && i < s->l1_size && res == 0; i++)
        res = l1_entry(r, s->l1[i], s->l1_times, true);
    for (unsigned k = 0; k < s->snaps->n && res == 0; k++)
        res = l1_table(r, s->snaps->snaps[k].l1_off, s->snaps->snaps[k].l1_size, false);
    l2_refs_compact(r);
    return res;
}

int q2_refs_init(struct q2_refs *r, struct q2 *q, const struct q2_state *state, struct blk_check *res)
{
    *r = (struct q2_refs){ .q = q, .state = state, .res = res, .rb_index = UINT64_MAX };
    r->file_size = q->node.file->size;
    r->n_clusters = q2_clusters(q, r->file_size);
    r->window = MIN(Q2_WINDOW, align_up(r->n_clusters + 1, BIT64(q->rb_bits)));
    r->counts = malloc(r->window * sizeof(*r->counts));
    r->table = malloc(q->cluster_size);
    r->rb = malloc(q->cluster_size);
    if (!r->counts || !r->table || !r->rb)
        return -ENOMEM;
    return l1_collect(r);
}

void q2_refs_done(struct q2_refs *r)
{
    free(r->l2);
    free(r->counts);
    free(r->table);
    free(r->rb);
    *r = (struct q2_refs){ 0 };
}

struct q2_l2_ref *q2_refs_find(const struct q2_refs *r, uint64_t off)
{
    const struct q2_l2_ref key = { .off = off };

    return r->n_l2 ? bsearch(&key, r->l2, r->n_l2, sizeof(key), l2_ref_order) : NULL;
}

int q2_refs_read_l2(struct q2_refs *r, const struct q2_l2_ref *l2)
{
    return blk_pread(r->q->node.file, l2->moved ? l2->moved : l2->off, r->table, r->q->cluster_size);
}

/* ---- counting ---- */

static void wrong(struct q2_refs *r, uint64_t n)
{
    if (r->first)
        r->res->corruptions += n;
}

static void count_cluster(struct q2_refs *r, uint64_t cluster, uint32_t m)
{
    uint32_t max = (uint32_t)MIN(r->q->refcount_max, UINT32_MAX);
    uint32_t *count;

    if (cluster < r->lo)
        return;
    if (cluster >= r->hi) {
        r->next = MIN(r->next, cluster);
        return;
    }
    count = &r->counts[cluster - r->lo];
    if (m > max - *count) { /* the width of the refcounts cannot say so many */
        r->res->corruptions += m - (max - *count);
        m = max - *count;
    }
    *count += m;
}

void q2_refs_add(struct q2_refs *r, uint64_t off, uint64_t bytes, uint32_t m)
{
    uint64_t first = off >> r->q->cluster_bits, last;

    if (bytes == 0 || m == 0)
        return;
    /* The last cluster may be there in part. */
    if (off > INT64_MAX || bytes > INT64_MAX - off ||
        (off + bytes > r->file_size && off + bytes - r->file_size >= r->q->cluster_size)) {
        wrong(r, m);
        return;
    }
    last = (off + bytes - 1) >> r->q->cluster_bits;
    r->n_clusters = MAX(r->n_clusters, last + 1);
    for (uint64_t i = MAX(first, r->lo); i <= last; i++) {
        count_cluster(r, i, m);
        if (i >= r->hi)
            break;
    }
}

/* ---- L2 entries ---- */

static void frag_info(struct q2_refs *r, const struct q2_l2_ref *l2, uint64_t off, uint64_t *next)
{
    struct blk_check *res = r->res;

    if (!r->first || !l2->n_active)
        return;
    res->allocated_clusters += l2->n_active;
    if (*next && off != *next)
        res->fragmented_clusters += l2->n_active;
    *next = off + r->q->cluster_size;
}

static void compressed_entry(struct q2_refs *r, const struct q2_l2_ref *l2, uint64_t entry, uint64_t bits)
{
    uint64_t off, len;

    if (entry & Q2_COPIED)
        wrong(r, l2->n);
    if (r->q->own_data || (r->q->extl2 && bits)) {
        wrong(r, l2->n);
        return;
    }
    q2_compressed_place(r->q, entry & ~(Q2_COPIED | Q2_COMPRESSED), &off, &len);
    q2_refs_add(r, off, len, l2->n);
    if (r->first) {
        r->res->allocated_clusters += l2->n_active;
        r->res->compressed_clusters += l2->n_active;
        r->res->fragmented_clusters += l2->n_active;
    }
}

bool q2_entry_broken(const struct q2 *q, uint64_t entry, uint64_t bits)
{
    uint64_t off = entry & Q2_OFFSET_MASK;
    bool has_data = q->extl2 ? (bits & UINT32_MAX) != 0 : !(entry & Q2_ZERO);

    if (entry & Q2_COMPRESSED)
        return false;
    if (off == 0 && !q->own_data)
        return q->extl2 && bits & UINT32_MAX; /* subclusters without a cluster */
    return (q->extl2 && (bits >> 32) & bits & UINT32_MAX) || (!q2_aligned(q, off) && !has_data);
}

static void l2_entry(struct q2_refs *r, const struct q2_l2_ref *l2, uint64_t entry, uint64_t bits, uint64_t *next)
{
    struct q2 *q = r->q;
    uint64_t off = entry & Q2_OFFSET_MASK;
    bool plain_zero = !q->extl2 && entry & Q2_ZERO && !off;

    if (entry & Q2_COMPRESSED) {
        compressed_entry(r, l2, entry, bits);
        return;
    }
    if (entry & L2_RESERVED)
        wrong(r, l2->n);
    if (!q2_aligned(q, off))
        wrong(r, l2->n);
    if (q2_entry_broken(q, entry, bits)) {
        if (q2_aligned(q, off) || bits >> 32 & bits & UINT32_MAX)
            wrong(r, l2->n);
        if (r->first)
            r->n_broken++;
    }
    if (!off && (!q->own_data || !(entry & Q2_COPIED) || plain_zero))
        return;
    frag_info(r, l2, off, next);
    if (!q->own_data)
        q2_refs_add(r, off, q->cluster_size, l2->n);
}

static int l2_table(struct q2_refs *r, const struct q2_l2_ref *l2)
{
    uint64_t next = 0;
    int res;

    q2_refs_add(r, l2->moved ? l2->moved : l2->off, r->q->cluster_size, l2->n);
    if (l2->off > r->file_size) /* was counted as wrong just now; what it holds are zeroes */
        return 0;
    res = q2_refs_read_l2(r, l2);
    for (unsigned i = 0; i < BIT(r->q->l2_bits) && res == 0; i++) {
        uint64_t entry = be64toh(r->table[i << (r->q->extl2)]), bits = r->q->extl2 ? be64toh(r->table[i * 2 + 1]) : 0;

        if (entry | bits)
            l2_entry(r, l2, entry, bits, &next);
    }
    return res;
}

/* ---- refcount structures ---- */

/* Block i of the table; qemu-img gives up on repair in place when a block is not where it can be. */
static void refcount_block(struct q2_refs *r, uint64_t entry)
{
    uint64_t off = entry & ~RT_RESERVED, cluster = off >> r->q->cluster_bits;

    if (entry == 0)
        return;
    if (entry & RT_RESERVED || !q2_aligned(r->q, off) || off >= align_up(r->file_size, r->q->cluster_size)) {
        wrong(r, 1);
        r->rebuild = r->bad_blocks = true;
        return;
    }
    q2_refs_add(r, off, r->q->cluster_size, 1);
    if (cluster >= r->lo && cluster < r->hi && r->counts[cluster - r->lo] != 1) {
        r->res->corruptions++;
        r->rebuild = r->bad_blocks = true;
    }
}

static int refcount_table(struct q2_refs *r)
{
    const struct q2_state *s = r->state;
    uint64_t bytes = (uint64_t)s->rt_clusters << r->q->cluster_bits, chunk[CHUNK];
    int res = 0;

    if (!s->rt_off)
        return 0;
    q2_refs_add(r, s->rt_off, bytes, 1);
    for (uint64_t at = 0; at < bytes && res == 0; at += sizeof(chunk)) {
        uint64_t n = MIN(sizeof(chunk), bytes - at);

        res = blk_pread(r->q->node.file, s->rt_off + at, chunk, n);
        for (uint64_t i = 0; i < n / 8 && res == 0; i++) {
            /* A block that describes clusters behind this window makes another one. */
            uint64_t describes = (at / 8 + i) << r->q->rb_bits;

            if (chunk[i] && describes >= r->hi)
                r->next = MIN(r->next, describes);
            refcount_block(r, be64toh(chunk[i]));
        }
    }
    return res;
}

/* ---- the whole ---- */

static void tables(struct q2_refs *r)
{
    const struct q2_state *s = r->state;
    const struct q2_header *h = &r->q->h;

    q2_refs_add(r, 0, r->q->cluster_size, 1);
    if (s->l1_off)
        q2_refs_add(r, s->l1_off, (uint64_t)s->l1_size * 8, 1);
    if (r->q->own_data && s->snaps->n)
        wrong(r, 1); /* the two exclude each other */
    for (unsigned i = 0; i < s->snaps->n; i++)
        q2_refs_add(r, s->snaps->snaps[i].l1_off, (uint64_t)s->snaps->snaps[i].l1_size * 8, 1);
    q2_refs_add(r, s->snaps->off, s->snaps->bytes, 1);
    if (h->has_luks)
        q2_refs_add(r, h->luks_off, h->luks_len, 1);
}

/* Whether each L2 table has its cluster to itself, by the counts of this window. */
static void find_sole(struct q2_refs *r)
{
    for (size_t i = 0; i < r->n_l2; i++) {
        uint64_t cluster = r->l2[i].off >> r->q->cluster_bits;

        if (cluster >= r->lo && cluster < r->hi)
            r->l2[i].sole = q2_aligned(r->q, r->l2[i].off) && r->counts[cluster - r->lo] == r->l2[i].n;
    }
}

static int count_all(struct q2_refs *r)
{
    int res = 0;

    memset(r->counts, 0, r->window * sizeof(*r->counts));
    tables(r);
    for (size_t i = 0; i < r->n_l2 && res == 0; i++)
        res = l2_table(r, &r->l2[i]);
    if (res == 0)
        res = q2_bitmaps_refs(r);
    if (res == 0)
        res = refcount_table(r);
    if (res == 0)
        find_sole(r);
    return res;
}

int q2_refs_window(struct q2_refs *r, uint64_t lo)
{
    r->first = lo == 0;
    r->lo = lo;
    r->hi = lo + r->window;
    r->next = UINT64_MAX;
    return count_all(r);
}

/* ---- refcounts in the file ---- */

bool q2_refs_has_block(const struct q2_refs *r, uint64_t cluster)
{
    uint64_t i = cluster >> r->q->rb_bits;

    return i < r->q->rt_size && r->q->rt[i] && q2_aligned(r->q, r->q->rt[i]) && r->q->rt[i] < r->file_size;
}

int q2_refs_stored(struct q2_refs *r, uint64_t cluster, uint64_t *ret)
{
    uint64_t i = cluster >> r->q->rb_bits;
    int res = 0;

    *ret = 0;
    if (!q2_refs_has_block(r, cluster))
        return 0;
    if (r->rb_index != i) {
        r->rb_index = UINT64_MAX;
        res = blk_pread(r->q->node.file, r->q->rt[i], r->rb, r->q->cluster_size);
        if (res < 0)
            return res;
        r->rb_index = i;
    }
    *ret = q2_rc_load(r->q, r->rb, cluster & (BIT64(r->q->rb_bits) - 1));
    return 0;
}
