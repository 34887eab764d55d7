/* Decoded blocks: finding them, and decoding what is not there yet. A chained hash finds a block by guest-physical
 * address and mode; each vCPU has a direct-mapped array in front of it that finds the usual one in a few loads.
 *
 * Several vCPUs: looking something up takes no lock. A block is filled in under the cache's lock and then published at
 * the head of its chain (release; readers acquire), and from then on only its counters, its chain and the list of its
 * translations change. Blocks that became stale are taken out of their chains under the lock; a reader that stands on
 * one goes on from there, since memory is reused after an eviction only.
 *
 * Staleness protocol (with mem_note_write): the decoder marks the 64-byte chunks that it is going to read in the page's
 * code mask, makes that visible to every store that other vCPUs have in flight (membarrier: the writers then need no
 * fence between their store and their look at the mask), remembers the page's generation, reads, and at the end checks
 * that generation and marks still stand. A block is only entered while its generations are current.
 *
 * Pages with code that is written to often (BLOCK_WRITES_MAX): their blocks leave no mark, so that stores cost nothing
 * there, and are valid while the bytes are the same as when they were decoded, which is looked at whenever one is
 * entered. They end behind each instruction that may store, so that a store into the block itself is seen in time. */
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

bool bt_block_same(const struct bt_block *b)
{
    const uint8_t *snap = b->snap;

    for (unsigned k = 0; k < 2; k++) {
        const uint8_t *p = b->host[k];
        unsigned n = b->bytes[k];

        for (; n >= 8; n -= 8, p += 8, snap += 8) {
            if (*(const volatile bt_u64 *)p != *(const bt_u64 *)snap)
                return false;
        }
        for (; n > 0; n--, p++, snap++) {
            if (*(const volatile uint8_t *)p != *snap)
                return false;
        }
    }
    return true;
}

/* One page of code that is being read. */
struct block_page {
    struct mem_region *region;
    uint64_t page;   /* index in the region */
    uint64_t marked; /* chunks that this decoding has marked */
    uint32_t gen;
    bool checked; /* its blocks are content-checked */
};

static void block_page_begin(struct bt_vcpu *c, struct block_page *p, const struct bt_tlbe *e)
{
    struct bt_cache *cache = c->cache;
    _Atomic uint32_t *gen;

    *p = (struct block_page){ .region = e->region, .page = bt_tlbe_page(e) };
    gen = &p->region->code_gen[p->page];
    p->gen = atomic_load(gen);
    if (LIKELY(p->gen < BLOCK_WRITES_MAX))
        return;
    if (!(p->gen & BLOCK_CHECKED)) {
        if (cache->n_checked_pages == BLOCK_CHECKED_PAGES)
            return;
        cache->checked_pages[cache->n_checked_pages++] = gen;
        atomic_fetch_or(gen, BLOCK_CHECKED); /* what was decoded before is stale by that */
        c->stat[BT_STAT_CHECKED]++;
    }
    p->checked = true;
}

static uint8_t *block_page_host(const struct block_page *p)
{
    return p->region->host + (p->page << MEM_PAGE_SHIFT);
}

/* Mark the chunks of bytes [off, off+len) before they are read. */
static void block_page_mark(struct bt_vcpu *c, struct block_page *p, unsigned off, unsigned len)
{
    uint64_t want = (~0ULL << (off / 64)) & (~0ULL >> (63 - (off + len - 1) / 64));
    uint64_t had;

    if (p->checked || (p->marked & want) == want)
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

    if (p->checked)
        return true;
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

/* Make the vCPU's single operation a block that is good for one entry. */
static struct bt_block *block_single(struct bt_vcpu *c, uint64_t gpa)
{
    struct bt_front *front = c->front;

    front->single = (struct bt_block){ .gpa = gpa, .n_ops = 1, .ops = &front->single_op };
    front->single.gen_ptr[0] = front->single.gen_ptr[1] = &front->single_gen;
    return &front->single;
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
        bt_lock(&c->cache->lock); /* stubs are shared */
        r = bt_decode(c, buf, n, c->mode, &c->front->single_op);
        bt_unlock(&c->cache->lock);
    }
    c->stat[BT_STAT_DECODED]++;
    return block_single(c, gpa);
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

/* How decoding under the lock ended. */
enum block_result {
    BLOCK_DONE,
    BLOCK_CROSSES, /* the first instruction needs the next page */
    BLOCK_SINGLE,  /* must be decoded for this once only */
};

/* Keep the bytes that a content-checked block was decoded from, behind its operations. `head` of the n bytes are in the
 * first page. */
static void block_keep_bytes(struct bt_vcpu *c, struct bt_block *b, const uint8_t *snap, unsigned n, unsigned head)
{
    uint8_t *to = (uint8_t *)&b->ops[b->n_ops];

    block_copy(to, snap, n);
    b->snap = to;
    b->bytes[0] = (uint16_t)MIN(n, head);
    b->bytes[1] = (uint16_t)(n - b->bytes[0]);
    b->gen_ptr[0] = b->gen_ptr[1] = &c->cache->constant;
}

/* An instruction that straddles a page boundary: a block of its own that depends on both pages. */
static enum block_result block_decode_crossing(struct bt_vcpu *c, struct bt_block *b, const struct bt_tlbe *e,
                                               const struct bt_tlbe *next, uint64_t rip)
{
    unsigned off = (unsigned)(block_lin(c, rip) & (MEM_PAGE_SIZE - 1));
    unsigned head = (unsigned)MEM_PAGE_SIZE - off;
    struct block_page first, second;
    uint8_t buf[15];

    if (!next->region || block_limit(c, rip) < 15)
        return BLOCK_SINGLE;
    block_page_begin(c, &first, e);
    block_page_begin(c, &second, next);
    first.checked = second.checked = first.checked || second.checked;
    block_page_mark(c, &first, off, head);
    block_page_mark(c, &second, 0, 15 - head);
    block_copy(buf, block_page_host(&first) + off, head);
    block_copy(buf + head, block_page_host(&second), 15 - head);
    if (bt_decode(c, buf, 15, c->mode, b->ops) < 0 || !block_page_clean(&first) || !block_page_clean(&second))
        return BLOCK_SINGLE;
    b->n_ops = 1;
    b->crossing = true;
    b->host[0] = block_page_host(&first) + off;
    b->host[1] = block_page_host(&second);
    b->gen_ptr[0] = &first.region->code_gen[first.page];
    b->gen_ptr[1] = &second.region->code_gen[second.page];
    b->gen[0] = first.gen;
    b->gen[1] = second.gen;
    if (first.checked) {
        b->gen[0] = b->gen[1] = 0;
        block_keep_bytes(c, b, buf, b->ops[0].len, head);
    }
    return BLOCK_DONE;
}

/* Fill b with the instructions from rip to the end of the block or page. */
static enum block_result block_decode(struct bt_vcpu *c, struct bt_block *b, const struct bt_tlbe *e, uint64_t rip)
{
    struct block_page page;
    unsigned off = (unsigned)(block_lin(c, rip) & (MEM_PAGE_SIZE - 1)), n_snap = 0;
    uint8_t buf[15], snap[BT_BLOCK_OPS_MAX * 15];

    block_page_begin(c, &page, e);
    b->host[0] = block_page_host(&page) + off;
    while (b->n_ops < BT_BLOCK_OPS_MAX && off < MEM_PAGE_SIZE) {
        unsigned n = MIN(15U, (unsigned)MEM_PAGE_SIZE - off);
        struct bt_op *op = &b->ops[b->n_ops];

        if (block_limit(c, rip) < n)
            break;
        block_page_mark(c, &page, off, n);
        block_copy(buf, block_page_host(&page) + off, n);
        if (bt_decode(c, buf, n, c->mode, op) < 0) {
            if (b->n_ops == 0)
                return BLOCK_CROSSES;
            break;
        }
        block_copy(snap + n_snap, buf, op->len);
        n_snap += op->len;
        b->n_ops++;
        off += op->len;
        rip += op->len;
        if (op->flags & BT_OPF_END || (page.checked && op->stores))
            break;
    }
    if (b->n_ops == 0 || !block_page_clean(&page))
        return BLOCK_SINGLE;
    b->gen_ptr[0] = b->gen_ptr[1] = &page.region->code_gen[page.page];
    b->gen[0] = b->gen[1] = page.gen;
    if (page.checked) {
        b->gen[0] = b->gen[1] = 0;
        block_keep_bytes(c, b, snap, n_snap, n_snap);
    }
    return BLOCK_DONE;
}

/* Take predecessors of b, whose place it takes, out of its chain: those that cannot become valid again, and all but a
 * few content-checked ones. Lock held. */
static void block_prune(struct bt_cache *cache, const struct bt_block *b, unsigned h)
{
    _Atomic(struct bt_block *) *link = &cache->hash[h];
    unsigned versions = 0;
    struct bt_block *old;

    while ((old = atomic_load_explicit(link, memory_order_relaxed)) != NULL) {
        bool gone = old->gpa == b->gpa && (old->snap ? versions++ >= BLOCK_VERSIONS : UNLIKELY(!bt_block_current(old)));

        if (gone)
            atomic_store_explicit(link, atomic_load_explicit(&old->hash_next, memory_order_relaxed),
                                  memory_order_release);
        else
            link = &old->hash_next;
    }
}

struct bt_block *bt_block_find_locked(struct bt_cache *cache, uint64_t gpa, uint32_t key)
{
    struct bt_block *b = atomic_load_explicit(&cache->hash[block_hash(gpa, key)], memory_order_relaxed);

    while (b && (b->gpa != gpa || b->key != key || b->crossing || !bt_block_current(b)))
        b = atomic_load_explicit(&b->hash_next, memory_order_relaxed);
    return b;
}

/* Make the block and publish it. next: the second page of a crossing instruction, else NULL. Lock held. */
static enum block_result block_add_locked(struct bt_vcpu *c, const struct bt_tlbe *e, const struct bt_tlbe *next,
                                          uint64_t rip, struct bt_block **ret_b)
{
    struct bt_cache *cache = c->cache;
    const struct bt_cache_limits *limits = cache->limits;
    uint64_t gpa = e->gpa | (block_lin(c, rip) & (MEM_PAGE_SIZE - 1));
    unsigned h = block_hash(gpa, block_key(c));
    struct bt_block *b = bt_block_find_locked(cache, gpa, block_key(c));
    enum block_result r;

    if (b && !next && block_in_limit(c, b, rip)) {
        *ret_b = b;
        return BLOCK_DONE;
    }
    if (cache->n_blocks >= limits->blocks || cache->n_ops + BLOCK_OPS_RESERVE > limits->ops || bt_stubs_full(c->stubs))
        bt_cache_evict_locked(c->vm);
    if (atomic_load(&cache->evicting))
        return BLOCK_SINGLE;
    b = &cache->blocks[cache->n_blocks];
    *b = (struct bt_block){ .gpa = gpa, .key = block_key(c), .ops = &cache->ops[cache->n_ops] };
    r = next ? block_decode_crossing(c, b, e, next, rip) : block_decode(c, b, e, rip);
    if (r != BLOCK_DONE)
        return r;
    cache->n_blocks++;
    cache->n_ops +=
        b->n_ops + (uint32_t)((b->bytes[0] + b->bytes[1] + sizeof(struct bt_op) - 1) / sizeof(struct bt_op));
    c->stat[BT_STAT_DECODED] += b->n_ops;
    c->stat[BT_STAT_BLOCKS_DECODED]++;
    block_prune(cache, b, h);
    b->hash_next = atomic_load_explicit(&cache->hash[h], memory_order_relaxed);
    atomic_store_explicit(&cache->hash[h], b, memory_order_release);
    *ret_b = b;
    return BLOCK_DONE;
}

static enum block_result block_add(struct bt_vcpu *c, const struct bt_tlbe *e, const struct bt_tlbe *next, uint64_t rip,
                                   struct bt_block **ret_b)
{
    enum block_result r;

    bt_fp_sync(c);
    bt_lock(&c->cache->lock);
    r = block_add_locked(c, e, next, rip, ret_b);
    bt_unlock(&c->cache->lock);
    return r;
}

static struct bt_block *block_make(struct bt_vcpu *c, uint64_t gpa, uint64_t rip)
{
    uint64_t lin = block_lin(c, rip), next;
    struct bt_tlbe *e = bt_fetch_page(c, lin); /* a look at a second page may have evicted it */
    enum block_result r;
    struct bt_block *b;

    if (!e->region)
        return block_decode_single(c, rip, gpa);
    r = block_add(c, e, NULL, rip, &b);
    if (r == BLOCK_CROSSES) {
        /* Neighbours are in different entries, so both stay. May raise, therefore without the lock. */
        next = block_lin(c, rip + MEM_PAGE_SIZE - (lin & (MEM_PAGE_SIZE - 1)));
        r = block_add(c, e, bt_fetch_page(c, next), rip, &b);
    }
    return r == BLOCK_DONE ? b : block_decode_single(c, rip, gpa);
}

/* Whether the second page of a crossing instruction is still the one that b was decoded from; the key knows the first
 * page's address only. Raises the fetch fault where it is gone or may no longer be executed. */
static bool block_second_page_same(struct bt_vcpu *c, const struct bt_block *b, uint64_t rip)
{
    const struct bt_tlbe *e;

    if (LIKELY(!b->crossing))
        return true;
    e = bt_fetch_page(c, block_lin(c, rip + MEM_PAGE_SIZE - (b->gpa & (MEM_PAGE_SIZE - 1))));
    return e->region && e->region->host + (bt_tlbe_page(e) << MEM_PAGE_SHIFT) == b->host[1];
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
    fast = &c->front->fast[(gpa ^ (gpa >> 12)) & (BLOCK_FAST - 1)];
    b = *fast;
    if (LIKELY(b && b->gpa == gpa && b->key == key && bt_block_current(b) && block_second_page_same(c, b, rip))) {
        if (LIKELY(block_in_limit(c, b, rip)))
            return b;
        return block_decode_single(c, rip, gpa);
    }
    b = atomic_load_explicit(&cache->hash[block_hash(gpa, key)], memory_order_acquire);
    while (b && !(b->gpa == gpa && b->key == key && bt_block_current(b) && block_in_limit(c, b, rip) &&
                  block_second_page_same(c, b, rip)))
        b = atomic_load_explicit(&b->hash_next, memory_order_acquire);
    if (!b)
        b = block_make(c, gpa, rip);
    if (b != &c->front->single)
        *fast = b;
    return b;
}
