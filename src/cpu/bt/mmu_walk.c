/* The page walk: reads the guest's paging structures through host pointers, checks them as the architecture demands and
 * sets accessed and dirty bits by compare-exchange, because other vCPUs and the guest's own stores race with it.
 *
 * Rules (SDM vol. 3 chapter 4): a non-present entry ends the walk before the reserved bits of that entry count;
 * reserved bits end it before permissions count; permissions are judged after the whole walk; A and D are set only
 * where the access is allowed. Tables outside RAM read as all ones. It knows neither the TLB nor faults: it only says
 * what is wrong. */
#include "cpu/bt/sys_priv.h"

#define PTE_P 1ULL
#define PTE_RW 2ULL
#define PTE_US 4ULL
#define PTE_A 0x20ULL
#define PTE_D 0x40ULL
#define PTE_PS 0x80ULL
#define PTE_G 0x100ULL
#define PTE_NX BIT64(63)

/* An entry that was read on the way, to have A or D set in it. */
struct walk_entry {
    struct mem_region *region; /* NULL: not RAM, nothing to set */
    uint64_t off;              /* in the region */
    uint64_t val;
};

struct walk_path {
    struct walk_entry e[4];
    unsigned n;
    bool wide; /* 8-byte entries */
};

static uint64_t walk_read(struct bt_vcpu *c, struct walk_path *p, uint64_t gpa)
{
    struct walk_entry *e = &p->e[p->n++];

    e->region = bt_find_region(c, gpa);
    if (!e->region) {
        e->val = p->wide ? ~0ULL : 0xffffffffULL;
        return e->val;
    }
    e->off = gpa - e->region->gpa;
    if (p->wide)
        e->val = __atomic_load_n((const uint64_t *)(void *)(e->region->host + e->off), __ATOMIC_RELAXED);
    else
        e->val = __atomic_load_n((const uint32_t *)(void *)(e->region->host + e->off), __ATOMIC_RELAXED);
    return e->val;
}

/* false: the entry changed meanwhile. */
static bool walk_set(struct bt_vcpu *c, struct walk_path *p, struct walk_entry *e, uint64_t bits)
{
    bool ok;

    if ((e->val & bits) == bits || !e->region || e->region->read_only)
        return true;
    if (p->wide) {
        uint64_t old = e->val;

        ok = __atomic_compare_exchange_n((uint64_t *)(void *)(e->region->host + e->off), &old, old | bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        uint32_t old = (uint32_t)e->val;

        ok = __atomic_compare_exchange_n((uint32_t *)(void *)(e->region->host + e->off), &old, old | (uint32_t)bits,
                                         false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (!ok)
        return false;
    e->val |= bits;
    mem_note_write(c->vm->mem, e->region, e->off >> MEM_PAGE_SHIFT, (unsigned)(e->off & (MEM_PAGE_SIZE - 1)),
                   p->wide ? 8 : 4);
    return true;
}

static bool walk_fail(struct bt_walk *w, uint32_t error)
{
    w->error = error;
    return false;
}

static void walk_account(struct bt_walk *w, uint64_t e)
{
    w->user = w->user && (e & PTE_US);
    w->write = w->write && (e & PTE_RW);
    w->nx = w->nx || (e & PTE_NX);
}

static void walk_leaf(const struct bt_vcpu *c, struct bt_walk *w, uint64_t e, uint64_t base, unsigned shift,
                      uint64_t lin)
{
    uint64_t mask = (BIT64(shift) - 1) & ~(MEM_PAGE_SIZE - 1);

    w->shift = (uint8_t)shift;
    w->gpa = base | (lin & mask);
    w->global = (e & PTE_G) && (c->cr4 & BT_CR4_PGE);
    w->dirty = (e & PTE_D) != 0;
}

/* Reserved bits common to all 8-byte entries. */
static uint64_t walk_rsvd64(const struct bt_vcpu *c)
{
    uint64_t rsvd = ~c->phys_mask & BITS64(51, 12);

    return (c->efer & BT_EFER_NXE) ? rsvd : rsvd | PTE_NX;
}

static bool walk_long(struct bt_vcpu *c, uint64_t lin, struct walk_path *p, struct bt_walk *w)
{
    uint64_t common = walk_rsvd64(c), table = c->cr3;

    for (unsigned level = 4;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t rsvd = common, e;
        bool leaf;

        e = walk_read(c, p, (table & c->phys_mask & BITS64(51, 12)) | ((lin >> shift & 0x1ff) << 3));
        if (!(e & PTE_P))
            return walk_fail(w, 0);
        leaf = level == 1 || (level < 4 && (e & PTE_PS));
        if (level == 4)
            rsvd |= c->sys.amd ? PTE_PS | PTE_G : PTE_PS;
        else if (leaf && level > 1)
            rsvd |= level == 3 && !c->sys.gbpages ? PTE_PS : BITS64(shift - 1, 13);
        if (e & rsvd)
            return walk_fail(w, BT_PF_P | BT_PF_RSVD);
        walk_account(w, e);
        if (leaf) {
            walk_leaf(c, w, e, e & c->phys_mask & BITS64(51, shift), shift, lin);
            return true;
        }
        table = e;
    }
}

static bool walk_pae(struct bt_vcpu *c, uint64_t lin, struct walk_path *p, struct bt_walk *w)
{
    uint64_t common = walk_rsvd64(c) | BITS64(62, 52), table = c->pdpte[lin >> 30 & 3];

    if (!(table & PTE_P))
        return walk_fail(w, 0);
    for (unsigned level = 2;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t rsvd = common, e;
        bool leaf;

        e = walk_read(c, p, (table & c->phys_mask & BITS64(51, 12)) | ((lin >> shift & 0x1ff) << 3));
        if (!(e & PTE_P))
            return walk_fail(w, 0);
        leaf = level == 1 || (e & PTE_PS);
        if (leaf && level == 2)
            rsvd |= BITS64(20, 13);
        if (e & rsvd)
            return walk_fail(w, BT_PF_P | BT_PF_RSVD);
        walk_account(w, e);
        if (leaf) {
            walk_leaf(c, w, e, e & c->phys_mask & BITS64(51, shift), shift, lin);
            return true;
        }
        table = e;
    }
}

/* Page address of a 4M page and the reserved bits above it: PSE-36 puts address bits 39:32 in bits 20:13, as far as the
 * physical width goes. */
static bool walk_large32(const struct bt_vcpu *c, uint64_t e, uint64_t *ret_base)
{
    uint64_t high = bits_get(e, 20, 13) << 32;

    if ((e & BIT64(21)) || (high & ~c->phys_mask))
        return false;
    *ret_base = high | (e & 0xffc00000);
    return true;
}

static bool walk_32(struct bt_vcpu *c, uint64_t lin, struct walk_path *p, struct bt_walk *w)
{
    uint64_t e = walk_read(c, p, (c->cr3 & 0xfffff000) | ((lin >> 22 & 0x3ff) << 2)), base;

    if (!(e & PTE_P))
        return walk_fail(w, 0);
    if ((e & PTE_PS) && (c->cr4 & BT_CR4_PSE)) {
        if (!walk_large32(c, e, &base))
            return walk_fail(w, BT_PF_P | BT_PF_RSVD);
        walk_account(w, e);
        walk_leaf(c, w, e, base, 22, lin);
        return true;
    }
    walk_account(w, e);
    e = walk_read(c, p, (e & 0xfffff000) | ((lin >> 12 & 0x3ff) << 2));
    if (!(e & PTE_P))
        return walk_fail(w, 0);
    walk_account(w, e);
    walk_leaf(c, w, e, e & 0xfffff000, 12, lin);
    return true;
}

static bool walk_any(struct bt_vcpu *c, uint64_t lin, struct walk_path *p, struct bt_walk *w)
{
    p->n = 0;
    p->wide = (c->cr4 & BT_CR4_PAE) != 0;
    w->user = w->write = true;
    w->nx = w->global = w->dirty = false;
    w->error = 0;
    if (!(c->cr0 & BT_CR0_PG)) {
        w->gpa = lin & 0xfffff000;
        w->shift = 12;
        w->dirty = true;
        return true;
    }
    if (BT_LONG_MODE(c))
        return walk_long(c, lin, p, w);
    return p->wide ? walk_pae(c, lin, p, w) : walk_32(c, lin, p, w);
}

bool bt_walk_allows(const struct bt_vcpu *c, unsigned ctx, unsigned acc, const struct bt_walk *w)
{
    if (!(c->cr0 & BT_CR0_PG))
        return true;
    if (acc & BT_ACC_FETCH) {
        if (w->nx)
            return false;
        return ctx == BT_CTX_USER ? w->user : !(w->user && (c->cr4 & BT_CR4_SMEP));
    }
    if (ctx == BT_CTX_USER)
        return w->user && (!(acc & BT_ACC_WRITE) || w->write);
    if (w->user && (c->cr4 & BT_CR4_SMAP) && ctx == BT_CTX_KERNEL)
        return false;
    return !(acc & BT_ACC_WRITE) || w->write || !(c->cr0 & BT_CR0_WP);
}

/* The bits of the error code that come from the access, not from the tables. */
static uint32_t walk_access_bits(const struct bt_vcpu *c, unsigned ctx, unsigned acc)
{
    uint32_t bits = ctx == BT_CTX_USER ? BT_PF_U : 0;

    if (acc & BT_ACC_FETCH) {
        if (((c->cr4 & BT_CR4_PAE) && (c->efer & BT_EFER_NXE)) || (c->cr4 & BT_CR4_SMEP))
            bits |= BT_PF_I;
    } else if (acc & BT_ACC_WRITE) {
        bits |= BT_PF_W;
    }
    return bits;
}

static bool walk_commit(struct bt_vcpu *c, struct walk_path *p, unsigned acc, struct bt_walk *w)
{
    for (unsigned i = 0; i + 1 < p->n; i++) {
        if (!walk_set(c, p, &p->e[i], PTE_A))
            return false;
    }
    if (p->n == 0)
        return true;
    if (!walk_set(c, p, &p->e[p->n - 1], (acc & BT_ACC_WRITE) ? PTE_A | PTE_D : PTE_A))
        return false;
    if (acc & BT_ACC_WRITE)
        w->dirty = true;
    return true;
}

bool bt_page_walk(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned acc, struct bt_walk *w)
{
    struct walk_path p;

    do {
        if (!walk_any(c, lin, &p, w)) {
            w->error |= walk_access_bits(c, ctx, acc);
            return false;
        }
        if (!bt_walk_allows(c, ctx, acc, w)) {
            w->error = BT_PF_P | walk_access_bits(c, ctx, acc);
            return false;
        }
    } while (!walk_commit(c, &p, acc, w));
    return true;
}

bool bt_page_peek(struct bt_vcpu *c, uint64_t lin, struct bt_walk *w)
{
    struct walk_path p;

    return walk_any(c, lin, &p, w);
}

bool bt_load_pdptes(struct bt_vcpu *c, uint64_t cr3, uint64_t ret[4])
{
    struct walk_path p = { .wide = true };
    uint64_t v[4];

    for (unsigned i = 0; i < 4; i++) {
        v[i] = walk_read(c, &p, (cr3 & 0xffffffe0) + i * 8);
        /* Bits 2:1, 8:5 and everything above the physical address. */
        if ((v[i] & PTE_P) && (v[i] & (0x1e6 | (~c->phys_mask & BITS64(63, 12)))))
            return false;
    }
    for (unsigned i = 0; i < 4; i++)
        ret[i] = v[i];
    return true;
}
