/* Running a stream in an engine: a 2 MiB guest in long mode whose exception handlers do nothing but report. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "stream.h"

/* Guest-physical addresses; the kernel half is mapped at KBASE. */
#define KBASE 0xffffffff80000000ULL
#define G_PML4 0x1000
#define G_PDPT_LOW 0x2000
#define G_PDPT_HIGH 0x3000
#define G_PD_LOW 0x4000
#define G_PD_HIGH 0x5000
#define G_PT_CODE 0x6000
#define G_PT_DATA 0x7000
#define G_GDT 0x8000
#define G_IDT 0x9000
#define G_TSS 0xa000
#define G_HANDLERS 0xb000
#define G_STACK_TOP 0xe000
#define G_CODE 0x100000
#define G_DATA 0x110000
#define G_SIZE 0x200000
#define G_PORT 0xf4

struct stream_guest {
    const struct cpu_ops *ops;
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpu;
    struct kvm_sregs sregs; /* as at the start of each run, 64-bit code segment */
};

static void guest_die(const char *what, int r)
{
    fprintf(stderr, "stream_guest: %s: %s\n", what, strerror(-r));
    exit(1);
}

static void guest_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct stream_guest *g = opaque;

    if (!write)
        memset(data, 0xff, len);
    else if (port == G_PORT)
        g->ops->vcpu_kick(g->vcpu);
}

static void guest_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    (void)opaque;
    (void)gpa;
    if (!write)
        memset(data, 0xff, len);
}

static void guest_put(struct stream_guest *g, uint64_t gpa, const void *data, size_t len)
{
    int r = mem_write(g->mem, GPA(gpa), data, len);

    if (r < 0)
        guest_die("guest memory", r);
}

static void guest_put64(struct stream_guest *g, uint64_t gpa, uint64_t v)
{
    guest_put(g, gpa, &v, 8);
}

static void guest_tables(struct stream_guest *g)
{
    enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
    const uint64_t nx = 1ULL << 63;

    guest_put64(g, G_PML4, G_PDPT_LOW | P | W | U | A);
    guest_put64(g, G_PML4 + 8 * 511, G_PDPT_HIGH | P | W | A);
    guest_put64(g, G_PDPT_LOW, G_PD_LOW | P | W | U | A);
    guest_put64(g, G_PDPT_HIGH + 8 * 510, G_PD_HIGH | P | W | A);
    guest_put64(g, G_PD_HIGH, 0 | P | W | PS | A | D);
    guest_put64(g, G_PD_LOW + 8 * (STREAM_CODE >> 21), G_PT_CODE | P | W | U | A);
    guest_put64(g, G_PD_LOW + 8 * (STREAM_DATA >> 21), G_PT_DATA | P | W | U | A);
    guest_put64(g, G_PT_CODE, G_CODE | P | U | A);
    for (unsigned i = 0; i < STREAM_DATA_SIZE >> 12; i++)
        guest_put64(g, G_PT_DATA + 8 * i,
                    (G_DATA + 0x1000 * i) | P | U | A | nx | (i < STREAM_DATA_RW >> 12 ? W | D : 0));
}

static void guest_handlers(struct stream_guest *g)
{
    static const uint8_t handler[] = { 0xe6, G_PORT, 0xf4, 0xeb, 0xfd }; /* out; hlt; jmp */

    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = KBASE + G_HANDLERS + 16 * v;
        uint64_t low = (at & 0xffff) | 0x10ULL << 16 | (v == 3 || v == 4 ? 0xee00ULL : 0x8e00ULL) << 32 |
                       (at >> 16 & 0xffff) << 48;

        guest_put(g, G_HANDLERS + 16 * v, handler, sizeof(handler));
        guest_put64(g, G_IDT + 16 * v, low);
        guest_put64(g, G_IDT + 16 * v + 8, at >> 32);
    }
    guest_put64(g, G_TSS + 4, KBASE + G_STACK_TOP);
    guest_put64(g, G_GDT + 0x10, 0x00af9b000000ffffULL);
    guest_put64(g, G_GDT + 0x18, 0x00cf93000000ffffULL);
    guest_put64(g, G_GDT + 0x20, 0x00cffb000000ffffULL);
    guest_put64(g, G_GDT + 0x28, 0x00cff3000000ffffULL);
    guest_put64(g, G_GDT + 0x30, 0x00affb000000ffffULL);
}

static struct kvm_segment guest_code(bool compat)
{
    return (struct kvm_segment){ .limit = 0xffffffff,
                                 .selector = compat ? 0x23 : 0x33,
                                 .type = 11,
                                 .present = 1,
                                 .dpl = 3,
                                 .db = compat,
                                 .s = 1,
                                 .l = !compat,
                                 .g = 1 };
}

static void guest_sregs(struct stream_guest *g)
{
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x2b, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1
    };
    struct kvm_sregs *s = &g->sregs;
    int r = g->ops->get_sregs(g->vcpu, s);

    if (r < 0)
        guest_die("get_sregs", r);
    s->cs = guest_code(false);
    s->ds = s->es = s->ss = data;
    s->fs = s->gs = (struct kvm_segment){ .unusable = 1 };
    s->ldt = (struct kvm_segment){ .unusable = 1, .type = 2 };
    s->tr = (struct kvm_segment){ .base = KBASE + G_TSS, .limit = 103, .selector = 0x38, .type = 11, .present = 1 };
    s->gdt.base = KBASE + G_GDT;
    s->gdt.limit = 0x3f;
    s->idt.base = KBASE + G_IDT;
    s->idt.limit = 16 * 256 - 1;
    s->cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    s->cr3 = G_PML4;
    s->cr4 = 0x40620; /* OSXSAVE OSXMMEXCPT OSFXSR PAE */
    s->efer = 0xd01;  /* NXE LMA LME SCE */
}

struct stream_guest *stream_guest_new(const struct cpu_ops *ops)
{
    static const struct cpu_bus_ops bus = { .pio = guest_pio, .mmio = guest_mmio };
    struct stream_guest *g = calloc(1, sizeof(*g));
    struct cpu_vm_config config = { .bus = &bus, .bus_opaque = g, .max_vcpus = 1 };
    struct kvm_cpuid_entry2 cpuid[128];
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 7 };
    unsigned n = 128;
    int r = g ? mem_new(&g->mem) : -12;

    if (r >= 0)
        r = mem_add_ram(g->mem, 0, G_SIZE, false, NULL);
    if (r < 0)
        guest_die("memory", r);
    g->ops = ops;
    config.mem = g->mem;
    r = ops->vm_new(&config, &g->vm);
    if (r >= 0)
        r = ops->vcpu_new(g->vm, 0, &g->vcpu);
    if (r >= 0)
        r = ops->supported_cpuid(g->vm, cpuid, &n);
    if (r >= 0)
        r = ops->vcpu_set_cpuid(g->vcpu, cpuid, n);
    if (r < 0)
        guest_die("engine", r);
    guest_tables(g);
    guest_handlers(g);
    guest_sregs(g);
    r = ops->set_sregs(g->vcpu, &g->sregs);
    if (r >= 0)
        r = ops->set_xcrs(g->vcpu, &xcrs);
    if (r < 0)
        guest_die("start state", r);
    return g;
}

void stream_guest_free(struct stream_guest *g)
{
    if (!g)
        return;
    g->ops->vcpu_free(g->vcpu);
    g->ops->vm_free(g->vm);
    mem_free(g->mem);
    free(g);
}

static void guest_set_state(struct stream_guest *g, const struct stream *s)
{
    const uint64_t *gpr = s->start.regs.gpr;
    struct kvm_regs regs = { .rax = gpr[0],
                             .rcx = gpr[1],
                             .rdx = gpr[2],
                             .rbx = gpr[3],
                             .rsp = gpr[4],
                             .rbp = gpr[5],
                             .rsi = gpr[6],
                             .rdi = gpr[7],
                             .r8 = gpr[8],
                             .r9 = gpr[9],
                             .r10 = gpr[10],
                             .r11 = gpr[11],
                             .r12 = gpr[12],
                             .r13 = gpr[13],
                             .r14 = gpr[14],
                             .r15 = gpr[15],
                             .rip = s->start.regs.rip,
                             .rflags = s->start.regs.rflags };
    struct kvm_xsave xsave = { 0 };
    uint8_t page[STREAM_DATA_SIZE];
    int r;

    memset(page, 0xcc, STREAM_CODE_SIZE);
    memcpy(page, s->code, s->n_bytes);
    guest_put(g, G_CODE, page, STREAM_CODE_SIZE);
    stream_fill_data(s->data_seed, page, STREAM_DATA_SIZE);
    guest_put(g, G_DATA, page, STREAM_DATA_SIZE);
    g->sregs.cs = guest_code(s->compat);
    memcpy(xsave.region, s->start.xsave, STREAM_XSAVE_SIZE);
    r = g->ops->set_regs(g->vcpu, &regs);
    if (r >= 0)
        r = g->ops->set_sregs(g->vcpu, &g->sregs);
    if (r >= 0)
        r = g->ops->set_xsave(g->vcpu, &xsave);
    if (r < 0)
        guest_die("set state", r);
}

/* The exception frame on the handler's stack, with error code where the vector has one. */
static void guest_frame(struct stream_guest *g, const struct kvm_regs *regs, struct stream_result *ret)
{
    const uint32_t with_error = 1U << 8 | 1U << 10 | 1U << 11 | 1U << 12 | 1U << 13 | 1U << 14 | 1U << 17;
    uint64_t frame[6] = { 0 };
    bool has_error;

    ret->vector = (unsigned)((regs->rip - KBASE - G_HANDLERS) / 16);
    has_error = ret->vector < 32 && with_error >> ret->vector & 1;
    if (mem_read(g->mem, GPA(regs->rsp - KBASE), frame, has_error ? 48 : 40) < 0)
        guest_die("exception frame", -14);
    if (has_error) {
        ret->error = frame[0];
        memmove(frame, frame + 1, 40);
    }
    ret->end.regs.rip = frame[0];
    ret->end.regs.rflags = frame[2];
    ret->end.regs.gpr[4] = frame[3];
}

void stream_guest_run(struct stream_guest *g, const struct stream *s, struct stream_result *ret)
{
    struct cpu_exit exit = { .reason = CPU_EXIT_INTERNAL_ERROR };
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    int r;

    memset(ret, 0, sizeof(*ret));
    guest_set_state(g, s);
    r = g->ops->vcpu_run(g->vcpu, &exit);
    if (r < 0 || exit.reason != CPU_EXIT_KICK) {
        ret->vector = 1000 + exit.reason; /* never equal to a native result */
        return;
    }
    r = g->ops->get_regs(g->vcpu, &regs);
    if (r >= 0)
        r = g->ops->get_sregs(g->vcpu, &sregs);
    if (r >= 0)
        r = g->ops->get_xsave(g->vcpu, &xsave);
    if (r < 0)
        guest_die("get state", r);
    const uint64_t gpr[16] = { regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
                               regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15 };
    memcpy(ret->end.regs.gpr, gpr, sizeof(gpr));
    guest_frame(g, &regs, ret);
    ret->cr2 = sregs.cr2;
    memcpy(ret->end.xsave, xsave.region, STREAM_XSAVE_SIZE);
    if (mem_read(g->mem, GPA(G_DATA), ret->data, STREAM_DATA_RW) < 0)
        guest_die("data", -14);
}
