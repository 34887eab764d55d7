/* The bits of a dirty bitmap: in memory, where any number of threads set them without a lock, and in the file.
 * Spec: QEMU docs/interop/qcow2.txt, "Bitmap table", "Bitmap data". */
#include "block/qcow2/bitmap_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define WORD 64u

int q2_bitmap_bits_new(struct q2 *q, struct q2_bitmap *b, uint64_t disk_size)
{
    uint64_t n_bits = q2_bitmap_n_bits(disk_size, b->gran_bits);
    /* Whole clusters, so that they can be read and written as they are. */
    uint64_t len = MAX(q2_bitmap_table_size(q, n_bits), 1) << q->cluster_bits;
    void *p;

    if ((n_bits + 7) / 8 > Q2_BITMAP_BYTES_MAX)
        return -EFBIG;
    p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    b->bits = p;
    b->n_bits = n_bits;
    b->bits_len = len;
    return 0;
}

void q2_bitmap_bits_free(struct q2_bitmap *b)
{
    if (b->bits)
        munmap(b->bits, b->bits_len);
    b->bits = NULL;
}

static uint8_t *cluster_of(const struct q2 *q, const struct q2_bitmap *b, uint64_t i)
{
    return (uint8_t *)b->bits + (i << q->cluster_bits);
}

int q2_bitmap_bits_load(struct q2 *q, struct q2_bitmap *b)
{
    uint64_t words = b->bits_len / 8, tail = b->n_bits / WORD;
    int res = 0;

    for (uint32_t i = 0; i < b->table_size && res == 0; i++) {
        if (b->table[i] & Q2_OFFSET_MASK)
            res = blk_pread(q->node.file, b->table[i] & Q2_OFFSET_MASK, cluster_of(q, b, i), q->cluster_size);
        else if (b->table[i] & 1)
            memset(cluster_of(q, b, i), 0xff, q->cluster_size);
    }
    /* Nothing is behind the end of the disk, whatever the file says. */
    if (tail < words)
        b->bits[tail] &= BIT64(b->n_bits % WORD) - 1;
    for (uint64_t i = tail + 1; i < words; i++) {
        if (b->bits[i])
            b->bits[i] = 0;
    }
    return res;
}

/* ---- setting and finding ---- */

static void set_word(uint64_t *word, uint64_t mask)
{
    /* Most writes hit what is dirty already: then the cache line stays shared. */
    if ((__atomic_load_n(word, __ATOMIC_RELAXED) & mask) != mask)
        __atomic_fetch_or(word, mask, __ATOMIC_RELAXED);
}

void q2_bitmap_mark(struct q2_bitmap *b, uint64_t off, uint64_t len)
{
    uint64_t first = off >> b->gran_bits, last = (off + len - 1) >> b->gran_bits;

    if (len == 0 || first >= b->n_bits)
        return;
    last = MIN(last, b->n_bits - 1);
    for (uint64_t w = first / WORD; w <= last / WORD; w++) {
        unsigned lo = w == first / WORD ? first % WORD : 0, hi = w == last / WORD ? last % WORD : WORD - 1;

        set_word(&b->bits[w], BITS64(hi, lo));
    }
}

/* The first bit at or behind i that has this value; n_bits: none. */
static uint64_t find_bit(const struct q2_bitmap *b, uint64_t i, bool value)
{
    while (i < b->n_bits) {
        uint64_t word = __atomic_load_n(&b->bits[i / WORD], __ATOMIC_RELAXED);

        word = (value ? word : ~word) >> (i % WORD);
        if (word)
            return MIN(i + (uint64_t)__builtin_ctzll(word), b->n_bits);
        i = align_down(i, WORD) + WORD;
    }
    return b->n_bits;
}

bool q2_bitmap_find(const struct q2_bitmap *b, uint64_t off, uint64_t *ret_off, uint64_t *ret_len)
{
    uint64_t first = find_bit(b, off >> b->gran_bits, true), end;

    if (first == b->n_bits)
        return false;
    end = find_bit(b, first, false);
    /* Behind off only, where off is inside a dirty granule. */
    *ret_off = MAX(off, first << b->gran_bits);
    *ret_len = (end << b->gran_bits) - *ret_off;
    return true;
}

uint64_t q2_bitmap_count(const struct q2_bitmap *b)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < (b->n_bits + WORD - 1) / WORD; i++)
        n += (uint64_t)__builtin_popcountll(__atomic_load_n(&b->bits[i], __ATOMIC_RELAXED));
    return n;
}

/* ---- storing ---- */

/* Whether all bits of the disk in cluster i are set. */
static bool all_ones(const struct q2 *q, const struct q2_bitmap *b, uint64_t i)
{
    uint64_t per_cluster = (uint64_t)q->cluster_size * 8, first = i * per_cluster;
    uint64_t end = MIN(first + per_cluster, b->n_bits);

    return end - first == per_cluster && find_bit(b, first, false) >= end;
}

/* What the table's entry i is going to be: a new cluster's place where one is needed. */
static int plan_entry(struct q2 *q, const struct q2_bitmap *b, uint64_t i, uint64_t *entry)
{
    if (blk_buf_is_zero(cluster_of(q, b, i), q->cluster_size)) {
        *entry = 0;
        return 0;
    }
    if (all_ones(q, b, i)) {
        *entry = 1;
        return 0;
    }
    if (*entry & Q2_OFFSET_MASK)
        return 0;
    return q2_alloc_meta_locked(q, q->cluster_size, entry);
}

static int write_table(struct q2 *q, uint64_t off, const uint64_t *table, uint64_t n)
{
    AUTO_FREE uint64_t *be = malloc(MAX(n * 8, 8));

    if (!be)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i++)
        be[i] = htobe64(table[i]);
    return blk_pwrite(q->node.file, off, be, n * 8);
}

/* Clusters that the old table has and the new one has not. */
static void free_old(struct q2 *q, const struct q2_bitmap *b, const uint64_t *table, uint64_t n)
{
    for (uint64_t i = 0; i < b->table_size; i++) {
        uint64_t off = b->table[i] & Q2_OFFSET_MASK;

        if (off && (i >= n || (table[i] & Q2_OFFSET_MASK) != off))
            q2_free_meta_locked(q, off, q->cluster_size);
    }
}

int q2_bitmap_bits_store(struct q2 *q, struct q2_bitmap *b)
{
    uint64_t n = q2_bitmap_table_size(q, b->n_bits), old_off = b->table_off, old_bytes = (uint64_t)b->table_size * 8;
    uint64_t *table = calloc(MAX(n, 1), 8), off = n == b->table_size ? b->table_off : 0;
    int res = table ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < n && res == 0; i++) {
        table[i] = i < b->table_size ? b->table[i] : 0;
        res = plan_entry(q, b, i, &table[i]);
    }
    if (res == 0 && !off && n)
        res = q2_alloc_meta_locked(q, n * 8, &off);
    /* References only to what is counted in the file. The bits may be overwritten: in_use says that they mean nothing.
     */
    if (res == 0)
        res = q2_writeback_locked(q, true);
    for (uint64_t i = 0; i < n && res == 0; i++) {
        if (table[i] & Q2_OFFSET_MASK)
            res = blk_pwrite(q->node.file, table[i] & Q2_OFFSET_MASK, cluster_of(q, b, i), q->cluster_size);
    }
    if (res == 0)
        res = write_table(q, off, table, n);
    if (res == 0)
        res = blk_flush(q->node.file);
    if (res < 0) { /* new clusters leak */
        free(table);
        return res;
    }
    free_old(q, b, table, n);
    free(b->table);
    b->table = table;
    b->table_size = (uint32_t)n;
    b->table_off = off;
    if (old_off != off) { /* the entry in the directory first, before its old table goes */
        res = q2_bitmap_write_entry(q, b, b->flags);
        if (res == 0)
            q2_free_meta_locked(q, old_off, old_bytes);
    }
    return res;
}
