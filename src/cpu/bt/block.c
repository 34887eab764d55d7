/* Decoded blocks. The cache is an arena of operations that is filled from one end and dropped whole when it is full; a
 * chained hash finds a block by guest-physical address and mode, and a direct-mapped array in front of it finds the
 * usual one in a few loads.
 *
 * Staleness protocol (with mem_note_write): the decoder marks the 64-byte chunks that it is going to read in the page's
 * code mask, makes that visible to every store that other vCPUs have in flight (membarrier: the writers then need no
 * fence between their store and their look at the mask), remembers the page's generation, reads, and at the end checks
 * that generation and marks still stand. A block is only entered while its generations are current. */
#include "cpu/bt/block.h"

#include <errno.h>
#include <linux/membarrier.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/decode.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/sys.h"
#include "cpu/bt/t1.h"

void bt_cache_flush(struct bt_vcpu *c)
{
    struct bt_cache *cache = c->cache;

    for (unsigned i = 0; i < BLOCK_FAST; i++)
        cache->fast[i] = NULL;
    for (unsigned i = 0; i < BLOCK_HASH; i++)
        cache->hash[i] = NULL;
    cache->n_blocks = 0;
    cache->n_ops = 0;
    c->stat[BT_STAT_CACHE_FLUSH]++;
    if (c->t1)
        bt_t1_reset(c);
}

static unsigned block_hash(uint64_t gpa, unsigned key)
{
    return (unsigned)((gpa ^ (gpa >> 13) ^ ((uint64_t)key << 11)) & (BLOCK_HASH - 1));
}

/* What else decides how bytes decode: the mode, and outside 64-bit mode whether this is protected mode (VEX). */
static ALWAYS_INLINE uint32_t block_key(const struct bt_vcpu *c)
{
    bool protected = (c->cr0 & 1) != 0 && !(c->rflags & BT_VM);

    return c->mode == BT_MODE_64 ? BT_MODE_64 : c->mode | (uint32_t) protected << 2;
}

static bool block_current(const struct bt_block *b)
{
    return atomic_load_explicit(b->gen_ptr[0], memory_order_acquire) == b->gen[0] &&
           atomic_load_explicit(b->gen_ptr[1], memory_order_acquire) == b->gen[1];
}

/* One page of code that is being read. */
struct block_page {
    struct mem_region *region;
    uint64_t page;   /* index in the region */
    uint64_t marked; /* chunks that this decoding has marked */
    uint32_t gen;
};

static void block_page_begin(struct block_page *p, const struct bt_tlbe *e)
{
    *p = (struct block_page){ .region = e->region, .page = bt_tlbe_page(e) };
    p->gen = atomic_load(&p->region->code_gen[p->page]);
}

/* Mark the chunks of bytes [off, off+len) before they are read. */
static void block_page_mark(struct bt_vcpu *c, struct block_page *p, unsigned off, unsigned len)
{
    uint64_t want = (~0ULL << (off / 64)) & (~0ULL >> (63 - (off + len - 1) / 64));
    uint64_t had;

    if ((p->marked & want) == want)
        return;
    p->marked |= want;
    had = atomic_fetch_or(&p->region->code_mask[p->page], want);
    if ((had & want) != want && atomic_load_explicit(&c->vm->n_vcpus, memory_order_relaxed) > 1)
        bt_raw_syscall3(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

/* Whether nothing was written to the marked chunks since block_page_begin. */
static bool block_page_clean(const struct block_page *p)
{
    uint64_t mask = atomic_load(&p->region->code_mask[p->page]);

    return (mask & p->marked) == p->marked && atomic_load(&p->region->code_gen[p->page]) == p->gen;
}

static void block_copy(uint8_t *to, const uint8_t *from, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        to[i] = ((const volatile uint8_t *)from)[i];
}

/* How many bytes the CS limit leaves at offset rip, at most 15; 0 where rip is beyond it. 64-bit mode has no limit. */
static unsigned block_limit(const struct bt_vcpu *c, uint64_t rip)
{
    uint64_t left;

    if (c->mode == BT_MODE_64)
        return 15;
    if (rip > c->seg[BT_CS].limit)
        return 0;
    left = (uint64_t)c->seg[BT_CS].limit - rip + 1;
    return (unsigned)MIN(left, (uint64_t)15);
}

static uint64_t block_lin(const struct bt_vcpu *c, uint64_t rip)
{
    if (c->mode == BT_MODE_64)
        return rip;
    return (uint32_t)(c->segbase[BT_CS] + rip);
}

/* Make cache->single current: it is good for one entry. */
static struct bt_block *block_single(struct bt_vcpu *c, uint64_t gpa)
{
    struct bt_cache *cache = c->cache;

    cache->single = (struct bt_block){ .gpa = gpa, .n_ops = 1, .ops = &cache->single_op };
    cache->single.gen_ptr[0] = cache->single.gen_ptr[1] = &cache->single_gen;
    return &cache->single;
}

/* Fetch n bytes at linear address lin, page by page, from RAM or device memory. Raises fetch faults. */
static void block_fetch(struct bt_vcpu *c, uint64_t lin, uint8_t *buf, unsigned n)
{
    while (n > 0) {
        struct bt_tlbe *e = bt_fetch_page(c, lin);
        unsigned off = (unsigned)(lin & (MEM_PAGE_SIZE - 1));
        unsigned part = MIN(n, (unsigned)MEM_PAGE_SIZE - off);

        if (e->region) {
            block_copy(buf, e->region->host + (bt_tlbe_page(e) << MEM_PAGE_SHIFT) + off, part);
        } else {
            for (unsigned i = 0; i < part; i++)
                bt_mmio(c, e->gpa + off + i, buf + i, 1, false);
        }
        lin += part;
        buf += part;
        n -= part;
    }
}

/* Decode exactly one instruction that is not kept, byte by byte as far as it needs, so that only the pages that it
 * really touches can fault. */
static struct bt_block *block_decode_single(struct bt_vcpu *c, uint64_t rip, uint64_t gpa)
{
    unsigned limit = block_limit(c, rip);
    uint64_t lin = block_lin(c, rip);
    uint8_t buf[15];
    unsigned n = 0;
    int r = -EAGAIN;

    while (r == -EAGAIN) {
        if (n == limit)
            bt_gp(c, 0); /* beyond the CS limit, or longer than 15 bytes */
        block_fetch(c, lin + n, buf + n, 1);
        n++;
        bt_fp_sync(c);
        r = bt_decode(c, buf, n, c->mode, &c->cache->single_op);
    }
    c->stat[BT_STAT_DECODED]++;
    return block_single(c, gpa);
}

/* An instruction that straddles a page boundary: a block of its own that depends on both pages. */
static struct bt_block *block_decode_crossing(struct bt_vcpu *c, struct bt_block *b, struct block_page *first,
                                              uint64_t rip)
{
    uint64_t lin = block_lin(c, rip);
    unsigned off = (unsigned)(lin & (MEM_PAGE_SIZE - 1));
    unsigned head = (unsigned)MEM_PAGE_SIZE - off;
    struct block_page second;
    uint8_t buf[15];
    struct bt_tlbe *e = bt_fetch_page(c, block_lin(c, rip + head));

    if (!e->region || block_limit(c, rip) < 15)
        return NULL;
    block_page_begin(&second, e);
    block_page_mark(c, &second, 0, 15 - head);
    block_copy(buf, first->region->host + (first->page << MEM_PAGE_SHIFT) + off, head);
    block_copy(buf + head, second.region->host + (second.page << MEM_PAGE_SHIFT), 15 - head);
    bt_fp_sync(c);
    if (bt_decode(c, buf, 15, c->mode, b->ops) < 0 || !block_page_clean(first) || !block_page_clean(&second))
        return NULL;
    b->n_ops = 1;
    b->crossing = true;
    b->gen_ptr[0] = &first->region->code_gen[first->page];
    b->gen_ptr[1] = &second.region->code_gen[second.page];
    b->gen[0] = first->gen;
    b->gen[1] = second.gen;
    return b;
}

/* Fill b with the instructions from rip to the end of the block or page. NULL: must be done as a single. */
static struct bt_block *block_decode(struct bt_vcpu *c, struct bt_block *b, const struct bt_tlbe *e, uint64_t rip)
{
    struct block_page page;
    unsigned off = (unsigned)(block_lin(c, rip) & (MEM_PAGE_SIZE - 1));
    const uint8_t *code;
    uint8_t buf[15];

    block_page_begin(&page, e);
    code = page.region->host + (page.page << MEM_PAGE_SHIFT);
    while (b->n_ops < BT_BLOCK_OPS_MAX && off < MEM_PAGE_SIZE) {
        unsigned n = MIN(15U, (unsigned)MEM_PAGE_SIZE - off);
        struct bt_op *op = &b->ops[b->n_ops];

        if (block_limit(c, rip) < n)
            break;
        block_page_mark(c, &page, off, n);
        block_copy(buf, code + off, n);
        if (bt_decode(c, buf, n, c->mode, op) < 0) {
            if (b->n_ops == 0)
                return block_decode_crossing(c, b, &page, rip);
            break;
        }
        b->n_ops++;
        off += op->len;
        rip += op->len;
        if (op->flags & BT_OPF_END)
            break;
    }
    if (b->n_ops == 0 || !block_page_clean(&page))
        return NULL;
    b->gen_ptr[0] = b->gen_ptr[1] = &page.region->code_gen[page.page];
    b->gen[0] = b->gen[1] = page.gen;
    return b;
}

static struct bt_block *block_make(struct bt_vcpu *c, const struct bt_tlbe *e, uint64_t gpa, uint64_t rip)
{
    struct bt_cache *cache = c->cache;
    unsigned h = block_hash(gpa, block_key(c));
    struct bt_block *b;

    if (!e->region)
        return block_decode_single(c, rip, gpa);
    bt_fp_sync(c);
    if (cache->n_blocks == BLOCK_MAX || cache->n_ops + BT_BLOCK_OPS_MAX > BLOCK_ARENA_OPS || bt_stubs_full(c)) {
        bt_cache_flush(c);
        bt_stubs_reset(c);
    }
    b = &cache->blocks[cache->n_blocks];
    *b = (struct bt_block){ .gpa = gpa, .key = block_key(c), .ops = &cache->ops[cache->n_ops] };
    if (!block_decode(c, b, e, rip))
        return block_decode_single(c, rip, gpa);
    cache->n_blocks++;
    cache->n_ops += b->n_ops;
    c->stat[BT_STAT_DECODED] += b->n_ops;
    b->hash_next = cache->hash[h];
    cache->hash[h] = b;
    return b;
}

/* Whether all of b lies within the CS limit (64-bit mode and flat segments: always). */
static bool block_in_limit(const struct bt_vcpu *c, const struct bt_block *b, uint64_t rip)
{
    uint64_t bytes = 0;

    if (LIKELY(c->mode == BT_MODE_64 || c->seg[BT_CS].limit == UINT32_MAX))
        return true;
    for (unsigned i = 0; i < b->n_ops; i++)
        bytes += b->ops[i].len;
    return rip + bytes - 1 <= c->seg[BT_CS].limit;
}

/* Whether the second page of a crossing instruction is still the one that b was decoded from; the key knows the first
 * page's address only. Raises the fetch fault where it is gone or may no longer be executed. */
static bool block_second_page_same(struct bt_vcpu *c, const struct bt_block *b, uint64_t rip)
{
    const struct bt_tlbe *e;

    if (LIKELY(!b->crossing))
        return true;
    e = bt_fetch_page(c, block_lin(c, rip + MEM_PAGE_SIZE - (b->gpa & (MEM_PAGE_SIZE - 1))));
    return e->region && &e->region->code_gen[bt_tlbe_page(e)] == b->gen_ptr[1];
}

struct bt_block *bt_block_find(struct bt_vcpu *c, uint64_t gpa, uint32_t key)
{
    struct bt_block *b = c->cache->hash[block_hash(gpa, key)];

    while (b && (b->gpa != gpa || b->key != key || !block_current(b)))
        b = b->hash_next;
    return b;
}

struct bt_block *bt_block_get(struct bt_vcpu *c)
{
    struct bt_cache *cache = c->cache;
    uint64_t rip = c->r[BT_RIP], lin = block_lin(c, rip);
    struct bt_tlbe *e = bt_tlbe(c, BT_CTX_FETCH + (c->cpl == 3 ? BT_CTX_USER : BT_CTX_KERNEL), lin);
    uint32_t key = block_key(c);
    struct bt_block **fast, *b;
    uint64_t gpa;

    if (UNLIKELY(c->mode != BT_MODE_64 && rip > c->seg[BT_CS].limit))
        bt_gp(c, 0);
    if (UNLIKELY(e->tag_x != (lin & ~(MEM_PAGE_SIZE - 1))))
        e = bt_fetch_page(c, lin);
    gpa = e->gpa | (lin & (MEM_PAGE_SIZE - 1));
    fast = &cache->fast[(gpa ^ (gpa >> 12)) & (BLOCK_FAST - 1)];
    b = *fast;
    if (LIKELY(b && b->gpa == gpa && b->key == key && block_current(b) && block_second_page_same(c, b, rip))) {
        if (LIKELY(block_in_limit(c, b, rip)))
            return b;
        return block_decode_single(c, rip, gpa);
    }
    for (struct bt_block **link = &cache->hash[block_hash(gpa, key)]; (b = *link) != NULL;) {
        if (!block_current(b)) {
            *link = b->hash_next; /* stale: drop it from the chain */
            continue;
        }
        if (b->gpa == gpa && b->key == key && block_in_limit(c, b, rip) && block_second_page_same(c, b, rip)) {
            *fast = b;
            return b;
        }
        link = &b->hash_next;
    }
    /* A look at a second page may have evicted the first page's entry. */
    b = block_make(c, bt_fetch_page(c, lin), gpa, rip);
    if (b != &cache->single)
        *fast = b;
    return b;
}
