/* The soft TLB and the slow path of memory accesses: fills, flushes, page-crossing and device accesses, ROM, write
 * tracking, locked accesses. mmu.h has the fast path and the contract.
 *
 * Invariants of an entry: a tag is set only where the access needs nothing but the host pointer. So tag_r and tag_w
 * stay empty for devices, for pages under a data breakpoint and for user pages while #AC is armed; tag_w also for ROM
 * and until the dirty bit is set. Implicit supervisor accesses use BT_CTX_KERNEL whatever the CPL. It must not know
 * instructions. */
#include "cpu/bt/mmu.h"

#include "cpu/bt/copy.h"
#include "cpu/bt/sys_priv.h"

/* Entry number i of all contexts' entries. */
static struct bt_tlbe *mmu_slot(struct bt_vcpu *c, unsigned i)
{
    return &c->tlb[i >> BT_TLB_BITS][i & (BT_TLB_SIZE - 1)];
}

static void mmu_slot_clear(struct bt_vcpu *c, unsigned i)
{
    struct bt_tlbe *e = mmu_slot(c, i);

    e->tag_r = e->tag_w = bt_tlb_none(i & (BT_TLB_SIZE - 1));
    e->info = 0;
}

/* #SS or #GP for an address that is not canonical. */
static _Noreturn void mmu_raise_canonical(struct bt_vcpu *c, unsigned seg)
{
    bt_raise_error(c, seg == BT_SS ? BT_SSV : BT_GP, 0);
}

/* Remember what a later flush has to look at. */
static void mmu_log_fill(struct bt_vcpu *c, unsigned set, uint64_t lin, const struct bt_walk *w)
{
    struct bt_sys *s = &c->sys;

    if (!w->global) {
        if (s->n_log < BT_TLB_LOG)
            s->log[s->n_log] = (uint16_t)(set << BT_TLB_BITS | ((lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1)));
        if (s->n_log <= BT_TLB_LOG)
            s->n_log++;
    }
    if (w->shift > MEM_PAGE_SHIFT) {
        unsigned half = (unsigned)(lin >> 63);
        uint64_t first = lin & ~(BIT64(w->shift) - 1), last = first + BIT64(w->shift) - 1;

        s->large_lo[half] = MIN(s->large_lo[half], first);
        s->large_hi[half] = MAX(s->large_hi[half], last);
    }
}

/* Fill the entry for lin in `set`, with the rights of context ctx; they differ for fetches only. */
static struct bt_tlbe *mmu_fill_set(struct bt_vcpu *c, unsigned set, unsigned ctx, uint64_t lin, unsigned acc,
                                    unsigned seg)
{
    struct bt_tlbe *e = bt_tlbe(c, set, lin);
    uint64_t page = lin & ~(MEM_PAGE_SIZE - 1);
    struct bt_walk w;

    if (BT_LONG_MODE(c) && !bt_canonical(lin))
        mmu_raise_canonical(c, seg);
    if (!bt_page_walk(c, ctx, lin, acc, &w))
        bt_raise_pf(c, BT_LONG_MODE(c) ? lin : (uint32_t)lin, w.error);
    c->stat[BT_STAT_TLB_FILL]++;
    mmu_log_fill(c, set, lin, &w);
    e->gpa = w.gpa;
    e->info = page | (w.global ? BT_TLB_GLOBAL : 0) | w.shift;
    e->region = bt_find_region(c, w.gpa);
    e->mask = e->region ? &e->region->code_mask[(w.gpa - e->region->gpa) >> MEM_PAGE_SHIFT] : NULL;
    e->host = e->region ? (uint64_t)(uintptr_t)e->region->host + (w.gpa - e->region->gpa) : 0;
    e->add = e->host - page;
    e->tag_r = e->tag_w = bt_tlb_none((unsigned)(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1));
    if (set >= BT_CTX_FETCH) {
        if (bt_walk_allows(c, ctx, BT_ACC_FETCH, &w))
            e->tag_x = page;
        return e;
    }
    if (!e->region || (c->sys.bp_data && bt_bp_page(c, lin)) || (ctx == BT_CTX_USER && c->sys.align_check))
        return e;
    if (bt_walk_allows(c, ctx, BT_ACC_READ, &w))
        e->tag_r = page;
    if (w.dirty && !e->region->read_only && bt_walk_allows(c, ctx, BT_ACC_WRITE, &w))
        e->tag_w = page;
    return e;
}

static struct bt_tlbe *mmu_fill(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned acc, unsigned seg)
{
    return mmu_fill_set(c, ctx, ctx, lin, acc, seg);
}

/* An entry through which acc is allowed; its tags may be empty all the same. */
static struct bt_tlbe *mmu_get(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned acc, unsigned seg)
{
    struct bt_tlbe *e = bt_tlbe(c, ctx, lin);
    uint64_t page = lin & ~(MEM_PAGE_SIZE - 1);

    if (((acc & BT_ACC_WRITE) ? e->tag_w : e->tag_r) == page)
        return e;
    return mmu_fill(c, ctx, lin, acc, seg);
}

/* Bytes of [lin, lin+size) in the first page. */
static unsigned mmu_first_part(uint64_t lin, unsigned size)
{
    unsigned room = (unsigned)(MEM_PAGE_SIZE - (lin & (MEM_PAGE_SIZE - 1)));

    return MIN(room, size);
}

/* Where an access goes on in the next page; wraps at 4 GiB outside long mode. */
static uint64_t mmu_next_page(const struct bt_vcpu *c, uint64_t lin, unsigned size)
{
    uint64_t next = lin + size;

    /* Compatibility mode wraps too, but its accesses never go beyond 32 bits except for system tables. */
    if (!BT_LONG_MODE(c) || (c->mode != BT_MODE_64 && lin <= UINT32_MAX))
        next &= UINT32_MAX;
    return next;
}

/* Device access of any length in naturally aligned pieces. */
static void mmu_device(struct bt_vcpu *c, uint64_t gpa, uint8_t *buf, unsigned size, bool write)
{
    while (size > 0) {
        unsigned part = 8;
        uint64_t word = 0;

        while (part > size || (gpa & (part - 1)))
            part >>= 1;
        if (write)
            bt_copy(&word, buf, part);
        bt_mmio(c, gpa, &word, part, write);
        if (!write)
            bt_copy(buf, &word, part);
        gpa += part;
        buf += part;
        size -= part;
    }
}

static void mmu_load(struct bt_vcpu *c, const struct bt_tlbe *e, uint64_t lin, void *buf, unsigned size)
{
    if (e->region)
        bt_copy(buf, bt_host(e, lin), size);
    else
        mmu_device(c, e->gpa | (lin & (MEM_PAGE_SIZE - 1)), buf, size, false);
}

static void mmu_store(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, const void *buf, unsigned size)
{
    if (!e->region) {
        mmu_device(c, e->gpa | (lin & (MEM_PAGE_SIZE - 1)), (uint8_t *)(uintptr_t)buf, size, true);
    } else if (!e->region->read_only) {
        bt_copy(bt_host(e, lin), buf, size);
        bt_note_write(c, e, lin, size);
    }
}

/* #AC; a non-canonical address comes first. Vector operands count with their whole size. */
static void mmu_align_check(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size)
{
    unsigned align = size == 10 ? 8 : size;

    if (LIKELY(!c->sys.align_check) || ctx != BT_CTX_USER)
        return;
    if (is_pow2(align) && align <= 32 && (lin & (align - 1)) && bt_canonical(lin))
        bt_raise_error(c, BT_ACV, 0);
}

static void mmu_breakpoints(struct bt_vcpu *c, uint64_t lin, unsigned size, bool write)
{
    if (UNLIKELY(c->sys.bp_data != 0))
        bt_bp_data(c, lin, size, write);
}

void bt_read_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    unsigned part = mmu_first_part(lin, size);
    struct bt_tlbe *e, *next = NULL;
    uint64_t next_lin = mmu_next_page(c, lin, part);

    mmu_align_check(c, ctx, lin, size);
    e = mmu_get(c, ctx, lin, BT_ACC_READ, seg);
    if (part < size)
        next = mmu_get(c, ctx, next_lin, BT_ACC_READ, seg);
    mmu_load(c, e, lin, buf, part);
    if (next)
        mmu_load(c, next, next_lin, (uint8_t *)buf + part, size - part);
    mmu_breakpoints(c, lin, size, false);
}

void bt_write_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    unsigned part = mmu_first_part(lin, size);
    struct bt_tlbe *e, *next = NULL;
    uint64_t next_lin = mmu_next_page(c, lin, part);

    mmu_align_check(c, ctx, lin, size);
    e = mmu_get(c, ctx, lin, BT_ACC_WRITE, seg);
    if (part < size)
        next = mmu_get(c, ctx, next_lin, BT_ACC_WRITE, seg);
    mmu_store(c, e, lin, buf, part);
    if (next)
        mmu_store(c, next, next_lin, (const uint8_t *)buf + part, size - part);
    mmu_breakpoints(c, lin, size, true);
}

/* Loops inside a translation look at events only: let them go through a head, which looks at the generation. */
static void mmu_code_changed(struct bt_vcpu *c)
{
    unsigned n = atomic_load_explicit(&c->vm->n_vcpus, memory_order_relaxed);

    for (unsigned i = 0; n > 1 && i < c->vm->max_vcpus; i++) {
        struct bt_vcpu *v = c->vm->vcpus[i];

        if (v && v != c)
            atomic_fetch_or(&v->events, BT_EV_CODE);
    }
}

/* A write to bytes that some vCPU has decoded: end this vCPU's block where the generation moved. */
static void mmu_note(struct bt_vcpu *c, struct mem_region *r, uint64_t page, unsigned off, unsigned size)
{
    uint32_t gen = atomic_load_explicit(&r->code_gen[page], memory_order_relaxed);

    mem_note_write(c->vm->mem, r, page, off, size);
    if (atomic_load_explicit(&r->code_gen[page], memory_order_relaxed) != gen) {
        c->op_end = NULL;
        c->stat[BT_STAT_SMC]++;
        mmu_code_changed(c);
    }
}

void bt_note_write_slow(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, unsigned size)
{
    mmu_note(c, e->region, bt_tlbe_page(e), (unsigned)(lin & (MEM_PAGE_SIZE - 1)), size);
}

void bt_note_write_host(struct bt_vcpu *c, uint64_t host, unsigned size)
{
    struct mem *m = c->vm->mem;

    for (unsigned i = 0; i < m->n_regions; i++) {
        uint64_t off = host - (uint64_t)(uintptr_t)m->regions[i].host;

        if (off < m->regions[i].size)
            mmu_note(c, &m->regions[i], off >> MEM_PAGE_SHIFT, (unsigned)(off & (MEM_PAGE_SIZE - 1)), size);
    }
}

void bt_probe_write(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg)
{
    unsigned part = mmu_first_part(lin, size);

    mmu_align_check(c, ctx, lin, size);
    mmu_get(c, ctx, lin, BT_ACC_WRITE, seg);
    if (part < size)
        mmu_get(c, ctx, mmu_next_page(c, lin, part), BT_ACC_WRITE, seg);
}

void *bt_lock_ptr(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg)
{
    struct bt_tlbe *e = bt_tlbe(c, ctx, lin);

    if (LIKELY(bt_page_hit(e->tag_w, lin, size)))
        return bt_host(e, lin);
    bt_probe_write(c, ctx, lin, size, seg);
    if (mmu_first_part(lin, size) < size)
        return NULL;
    e = mmu_get(c, ctx, lin, BT_ACC_WRITE, seg);
    if (!e->region || e->region->read_only)
        return NULL;
    mmu_breakpoints(c, lin, size, true);
    return bt_host(e, lin);
}

void bt_split_lock(struct bt_vm *vm)
{
    int expected = 0;

    while (!atomic_compare_exchange_weak_explicit(&vm->split_lock, &expected, 1, memory_order_acquire,
                                                  memory_order_relaxed)) {
        long res;

        expected = 0;
        /* sched_yield: libc's wrapper is outside the register rules. */
        __asm__ volatile("syscall" : "=a"(res) : "0"(24L) : "rcx", "r11", "memory");
    }
}

void bt_split_unlock(struct bt_vm *vm)
{
    atomic_store_explicit(&vm->split_lock, 0, memory_order_release);
}

void bt_ld_bytes(struct bt_vcpu *c, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    const struct bt_tlbe *e = bt_tlbe(c, c->ctx, lin);

    if (LIKELY(bt_page_hit(e->tag_r, lin, size)))
        bt_copy(buf, bt_host(e, lin), size);
    else
        bt_read_slow(c, c->ctx, lin, buf, size, seg);
}

void bt_st_bytes(struct bt_vcpu *c, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    struct bt_tlbe *e = bt_tlbe(c, c->ctx, lin);

    if (LIKELY(bt_page_hit(e->tag_w, lin, size))) {
        bt_copy(bt_host(e, lin), buf, size);
        bt_note_write(c, e, lin, size);
    } else {
        bt_write_slow(c, c->ctx, lin, buf, size, seg);
    }
}

static void mmu_large_reset(struct bt_vcpu *c)
{
    for (unsigned i = 0; i < 2; i++) {
        c->sys.large_lo[i] = UINT64_MAX;
        c->sys.large_hi[i] = 0;
    }
}

void bt_tlb_flush_all(struct bt_vcpu *c)
{
    for (unsigned i = 0; i < BT_NCTX * BT_TLB_SIZE; i++)
        mmu_slot_clear(c, i);
    c->sys.n_log = 0;
    mmu_large_reset(c);
    c->stat[BT_STAT_TLB_FLUSH]++;
}

void bt_tlb_flush_nonglobal(struct bt_vcpu *c)
{
    if (c->sys.n_log <= BT_TLB_LOG) {
        for (unsigned i = 0; i < c->sys.n_log; i++) {
            if (!(mmu_slot(c, c->sys.log[i])->info & BT_TLB_GLOBAL))
                mmu_slot_clear(c, c->sys.log[i]);
        }
    } else {
        for (unsigned i = 0; i < BT_NCTX * BT_TLB_SIZE; i++) {
            if (!(mmu_slot(c, i)->info & BT_TLB_GLOBAL))
                mmu_slot_clear(c, i);
        }
    }
    c->sys.n_log = 0;
    c->stat[BT_STAT_TLB_FLUSH]++;
}

void bt_tlb_flush_page(struct bt_vcpu *c, uint64_t lin)
{
    unsigned half = (unsigned)(lin >> 63);

    for (unsigned ctx = 0; ctx < BT_NCTX; ctx++)
        mmu_slot_clear(c, ctx << BT_TLB_BITS | ((unsigned)(lin >> MEM_PAGE_SHIFT) & (BT_TLB_SIZE - 1)));
    if (lin < c->sys.large_lo[half] || lin > c->sys.large_hi[half])
        return;
    /* lin may lie in a large page, whose other 4K pieces go too. */
    for (unsigned i = 0; i < BT_NCTX * BT_TLB_SIZE; i++) {
        struct bt_tlbe *e = mmu_slot(c, i);
        unsigned shift = (unsigned)(e->info & BT_TLB_SHIFT);

        if (shift > MEM_PAGE_SHIFT && ((e->info ^ lin) >> shift) == 0)
            mmu_slot_clear(c, i);
    }
}

void bt_ctx_update(struct bt_vcpu *c)
{
    bool armed = c->cpl == 3 && (c->cr0 & BT_CR0_AM) && (c->rflags & BT_AC);

    if (c->cpl == 3)
        c->ctx = BT_CTX_USER;
    else
        c->ctx = (c->cr4 & BT_CR4_SMAP) && (c->rflags & BT_AC) ? BT_CTX_KERNEL_AC : BT_CTX_KERNEL;
    if (UNLIKELY(armed != (c->sys.align_check != 0))) {
        c->sys.align_check = armed;
        bt_tlb_flush_all(c);
    }
}

/* One page's worth of a guest-physical access. */
static bool mmu_phys_part(struct bt_vcpu *c, uint64_t gpa, void *buf, unsigned size, bool write)
{
    struct mem_region *r = bt_find_region(c, gpa);

    if (!r || (write && r->read_only))
        return false;
    if (!write) {
        bt_copy(buf, r->host + (gpa - r->gpa), size);
        return true;
    }
    bt_copy(r->host + (gpa - r->gpa), buf, size);
    mmu_note(c, r, (gpa - r->gpa) >> MEM_PAGE_SHIFT, (unsigned)(gpa & (MEM_PAGE_SIZE - 1)), size);
    return true;
}

static bool mmu_phys(struct bt_vcpu *c, uint64_t gpa, uint8_t *buf, unsigned size, bool write)
{
    while (size > 0) {
        unsigned part = mmu_first_part(gpa, size);

        if (!mmu_phys_part(c, gpa, buf, part, write))
            return false;
        gpa += part;
        buf += part;
        size -= part;
    }
    return true;
}

bool bt_phys_read(struct bt_vcpu *c, uint64_t gpa, void *buf, unsigned size)
{
    return mmu_phys(c, gpa, buf, size, false);
}

bool bt_phys_write(struct bt_vcpu *c, uint64_t gpa, const void *buf, unsigned size)
{
    return mmu_phys(c, gpa, (uint8_t *)(uintptr_t)buf, size, true);
}

struct bt_tlbe *bt_fetch_page(struct bt_vcpu *c, uint64_t lin)
{
    unsigned ctx = c->cpl == 3 ? BT_CTX_USER : BT_CTX_KERNEL; /* AC has no say in fetches */
    struct bt_tlbe *e = bt_tlbe(c, BT_CTX_FETCH + ctx, lin);

    if (LIKELY(e->tag_x == (lin & ~(MEM_PAGE_SIZE - 1))))
        return e;
    return mmu_fill_set(c, BT_CTX_FETCH + ctx, ctx, lin, BT_ACC_FETCH, BT_CS);
}

bool bt_translate(struct bt_vcpu *c, uint64_t lin, uint64_t *ret_gpa)
{
    struct bt_walk w;

    if ((BT_LONG_MODE(c) && !bt_canonical(lin)) || !bt_page_peek(c, lin, &w))
        return false;
    *ret_gpa = w.gpa | (lin & (MEM_PAGE_SIZE - 1));
    return true;
}
