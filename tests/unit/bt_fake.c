/* See bt_fake.h. */
#include "bt_fake.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/bt/mmu.h"
#include "cpu/bt/sys.h"

/* The one vCPU under test: the engine's interfaces have no opaque pointer to find it by. */
static struct bt_fake *the_fake;

#define SCRATCH_BYTES (BT_FAKE_PAGES * MEM_PAGE_SIZE)

struct bt_fake *bt_fake_new(void)
{
    struct bt_fake *f = calloc(1, sizeof(*f));
    void *p;

    if (!f || posix_memalign(&p, 64, sizeof(struct bt_vcpu)))
        abort();
    f->c = p;
    /* Guard pages around it come from the address space being empty there. */
    f->scratch = mmap(NULL, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (f->scratch == MAP_FAILED)
        abort();
    f->region.code_mask = f->code_mask;
    f->region.host = f->scratch;
    f->vm.mem = &f->mem;
    the_fake = f;
    bt_fake_reset(f, BT_MODE_64);
    return f;
}

void bt_fake_free(struct bt_fake *f)
{
    munmap(f->scratch, SCRATCH_BYTES);
    free(f->c);
    free(f);
    the_fake = NULL;
}

void bt_fake_no_tlb(struct bt_fake *f)
{
    for (unsigned i = 0; i < BT_TLB_SIZE; i++)
        f->c->tlb[0][i] = (struct bt_tlbe){ .tag_r = bt_tlb_none(i), .tag_w = bt_tlb_none(i) };
}

void bt_fake_reset(struct bt_fake *f, enum bt_mode mode)
{
    struct bt_vcpu *c = f->c;

    memset(c, 0, sizeof(*c));
    c->vm = &f->vm;
    c->mode = (uint8_t)mode;
    c->rflags = 0x202;
    c->cr0 = 1;
    c->flat = 0x3f;
    c->stack_bits = mode == BT_MODE_64 ? 64 : mode == BT_MODE_32 ? 32 : 16;
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] =
            (struct bt_seg){ .limit = 0xffffffff, .type = 3, .s = 1, .present = 1, .sel = (uint16_t)(8 * i + 8) };
    c->seg[BT_FS].sel = c->seg[BT_GS].sel = 0; /* as on the host */
    c->n_cpuid = 1;
    __cpuid(0, c->cpuid[0].eax, c->cpuid[0].ebx, c->cpuid[0].ecx, c->cpuid[0].edx);
    bt_fake_no_tlb(f);
    for (unsigned i = 0; i < BT_FAKE_PAGES; i++) {
        uint64_t lin = (uintptr_t)f->scratch + i * MEM_PAGE_SIZE;

        *bt_tlbe(c, 0, lin) =
            (struct bt_tlbe){ .tag_r = lin, .tag_w = lin, .host = lin, .region = &f->region, .mask = &f->code_mask[i] };
    }
    f->vector = -1;
    f->writes_noted = 0;
}

int bt_fake_run(struct bt_fake *f, const struct bt_op *op)
{
    f->vector = -1;
    if (setjmp(f->on_raise))
        return -1;
    return (int)op->fn(f->c, op);
}

static _Noreturn void fake_raise(unsigned vector, uint32_t error)
{
    the_fake->vector = (int)vector;
    the_fake->error = error;
    longjmp(the_fake->on_raise, 1);
}

/* ---- the engine's side ---- */
void bt_raise(struct bt_vcpu *c, unsigned vector)
{
    fake_raise(vector, 0);
}

void bt_raise_error(struct bt_vcpu *c, unsigned vector, uint32_t error)
{
    fake_raise(vector, error);
}

void bt_rep_yield(struct bt_vcpu *c)
{
    c->rflags |= BT_RF;
}

static void fake_check(uint64_t lin, unsigned size, uint32_t error)
{
    uint64_t start = (uintptr_t)the_fake->scratch;

    if (lin < start || lin - start > SCRATCH_BYTES - size)
        fake_raise(BT_PFV, error);
}

void bt_read_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, void *buf, unsigned size, unsigned seg)
{
    fake_check(lin, size, 0);
    memcpy(buf, (void *)(uintptr_t)lin, size);
}

void bt_write_slow(struct bt_vcpu *c, unsigned ctx, uint64_t lin, const void *buf, unsigned size, unsigned seg)
{
    fake_check(lin, size, 2);
    memcpy((void *)(uintptr_t)lin, buf, size);
}

void bt_probe_write(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg)
{
    fake_check(lin, size, 2);
}

void *bt_lock_ptr(struct bt_vcpu *c, unsigned ctx, uint64_t lin, unsigned size, unsigned seg)
{
    const struct bt_tlbe *e = bt_tlbe(c, ctx, lin);

    return bt_page_hit(e->tag_w, lin, size) ? bt_host(e, lin) : NULL;
}

void bt_split_lock(struct bt_vm *vm)
{
    vm->split_lock++;
}

void bt_split_unlock(struct bt_vm *vm)
{
    vm->split_lock--;
}

void bt_note_write_slow(struct bt_vcpu *c, struct bt_tlbe *e, uint64_t lin, unsigned size)
{
    the_fake->writes_noted++;
}

uint64_t bt_seg_check(struct bt_vcpu *c, unsigned seg, uint64_t off, unsigned size, unsigned acc)
{
    const struct bt_seg *s = &c->seg[seg];

    if (off > s->limit || size - 1 > s->limit - off)
        fake_raise(seg == BT_SS ? BT_SSV : BT_GP, 0);
    return (uint32_t)(c->segbase[seg] + off);
}

void bt_check_rip(struct bt_vcpu *c, uint64_t rip)
{
    if (c->mode == BT_MODE_64 ? (uint64_t)((int64_t)(rip << 16) >> 16) != rip : rip > c->seg[BT_CS].limit)
        fake_raise(BT_GP, 0);
}

void bt_rflags_write(struct bt_vcpu *c, uint64_t value, uint64_t mask)
{
    c->rflags = (c->rflags & ~mask) | (value & mask) | 2;
}

bool bt_has_cpuid(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    uint32_t r[4];

    if (the_fake->hide_features || !__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]))
        return false;
    return r[reg] >> bit & 1;
}

int bt_bind_sys(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    the_fake->foreign++;
    return -ENOENT;
}

int bt_bind_fp(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    return -ENOENT;
}
