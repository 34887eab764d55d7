/* Running programs in an engine: a 2 MiB guest in long mode. Its exception handlers write to a port, where we kick the
 * vCPU, and spin; vcpu_run comes back, and the event is read from the frame on the handler's stack. Then the handler
 * goes on behind its loop, with a frame that says where the program goes on. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "cpu/cpu.h"
#include "prog.h"

/* Guest-physical addresses; the kernel half is mapped at KBASE, the local APIC at its address less 2^32. */
#define KBASE 0xffffffff80000000ULL
#define G_PML4 0x1000
#define G_PDPT_LOW 0x2000
#define G_PDPT_HIGH 0x3000
#define G_PD_LOW 0x4000
#define G_PD_HIGH 0x5000
#define G_PD_TOP 0x6000
#define G_GDT 0x8000
#define G_IDT 0x9000
#define G_TSS 0xa000
#define G_HANDLERS 0xb000
#define G_STACK_TOP 0xf000
#define G_TABLES 0x10000 /* a page table for each range */
#define G_CODE 0x100000
#define G_DATA 0x120000
#define G_CONST 0x130000
#define G_STACK 0x140000
#define G_SIZE 0x200000
#define G_DEV 0x40000000 /* no RAM */
#define G_PORT 0xf4
#define G_VECTOR 0x50
#define G_SECONDS 30
#define G_KICK_NS 30000

#define STUB_BYTES 32
#define STUB_SPIN 2 /* offset of the loop that waits for the kick */
#define STUB_ON 4   /* where the handler goes on */

struct prog_guest {
    const struct cpu_ops *ops;
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpu;
    struct kvm_sregs sregs; /* as at the start of each run */
    struct kvm_lapic_state lapic;
    uint8_t dev[PROG_DEV_SIZE];
    timer_t kicker;
    uint64_t random;
    enum prog_irq irq;
    _Atomic bool stop;      /* ends the thread that raises interrupts */
    struct kvm_xsave xsave; /* may have a tail of variable length, which is not ours */
};

/* Of the run in progress, for the signal handler. */
static struct cpu_vcpu *volatile late_vcpu;
static const struct cpu_ops *volatile late_ops;
static volatile bool late;

static void guest_check(const char *what, int r)
{
    if (r >= 0)
        return;
    fprintf(stderr, "prog_guest: %s: %s\n", what, strerror(-r));
    exit(1);
}

static void guest_late(int sig)
{
    (void)sig;
    late = true;
    if (late_vcpu)
        late_ops->vcpu_kick(late_vcpu);
}

static void guest_kick(int sig)
{
    (void)sig;
    if (late_vcpu)
        late_ops->vcpu_kick(late_vcpu);
}

static void guest_raise(struct prog_guest *g, uint64_t r)
{
    guest_check("signal_msi", g->ops->signal_msi(g->vm, 0xfee00000, (r & 1) ? 0x400 : G_VECTOR));
}

static void guest_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct prog_guest *g = opaque;

    if (!write)
        memset(data, 0xff, len);
    else if (port == G_PORT)
        g->ops->vcpu_kick(g->vcpu);
}

/* The device: memory; it raises interrupts when it is used. */
static void guest_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    struct prog_guest *g = opaque;
    uint64_t at = gpa - G_DEV;

    if (at >= PROG_DEV_SIZE || len > PROG_DEV_SIZE - at) {
        if (!write)
            memset(data, 0xff, len);
        return;
    }
    if (write)
        memcpy(g->dev + at, data, len);
    else
        memcpy(data, g->dev + at, len);
    if (g->irq == PROG_IRQ_DEVICE)
        guest_raise(g, stream_random(&g->random) >> 32);
}

/* ---- setting up ---- */

static void guest_put(struct prog_guest *g, uint64_t gpa, const void *data, size_t len)
{
    guest_check("guest memory", mem_write(g->mem, GPA(gpa), data, len));
}

static void guest_put64(struct prog_guest *g, uint64_t gpa, uint64_t v)
{
    guest_put(g, gpa, &v, 8);
}

enum { P = 1, W = 2, U = 4, CD = 0x10, A = 0x20, D = 0x40, PS = 0x80 };
#define NX (1ULL << 63)

static void guest_map(struct prog_guest *g, unsigned table, uint64_t lin, uint64_t gpa, uint64_t size, uint64_t flags)
{
    uint64_t at = G_TABLES + 0x1000ULL * table + 8 * (lin >> 12 & 511);

    guest_put64(g, G_PD_LOW + 8 * (lin >> 21), (G_TABLES + 0x1000ULL * table) | P | W | U | A);
    for (uint64_t i = 0; i < size >> 12; i++)
        guest_put64(g, at + 8 * i, (gpa + (i << 12)) | P | U | A | flags);
}

static void guest_tables(struct prog_guest *g)
{
    guest_put64(g, G_PML4, G_PDPT_LOW | P | W | U | A);
    guest_put64(g, G_PML4 + 8 * 511, G_PDPT_HIGH | P | W | A);
    guest_put64(g, G_PDPT_LOW, G_PD_LOW | P | W | U | A);
    guest_put64(g, G_PDPT_HIGH + 8 * 510, G_PD_HIGH | P | W | A);
    guest_put64(g, G_PDPT_HIGH + 8 * 511, G_PD_TOP | P | W | A);
    guest_put64(g, G_PD_HIGH, 0 | P | W | PS | A | D);
    guest_put64(g, G_PD_TOP + 8 * 503, 0xfee00000 | P | W | PS | A | D | CD);
    guest_map(g, 0, PROG_CODE, G_CODE, PROG_CODE_SIZE, W | D);
    guest_map(g, 1, PROG_ALIAS, G_CODE, PROG_CODE_SIZE, W | D);
    guest_map(g, 2, PROG_DATA, G_DATA, PROG_DATA_RW, W | D | NX);
    guest_map(g, 2, PROG_DATA + PROG_DATA_RW, G_DATA + PROG_DATA_RW, PROG_DATA_SIZE - PROG_DATA_RW, NX);
    guest_map(g, 3, PROG_CONST, G_CONST, PROG_CONST_SIZE, NX);
    guest_map(g, 4, PROG_STACK, G_STACK, PROG_STACK_SIZE, W | D | NX);
    guest_map(g, 5, PROG_DEV, G_DEV, PROG_DEV_SIZE, W | D | NX | CD);
}

static bool guest_has_error(uint64_t vector)
{
    return vector < 32 && 0x27d00 >> vector & 1; /* 8, 10 to 14, 17 */
}

static void guest_handlers(struct prog_guest *g)
{
    static const uint8_t report[] = { 0xe6, G_PORT, 0xeb, 0xfe };                          /* out; jmp . */
    static const uint8_t drop[] = { 0x48, 0x8d, 0x64, 0x24, 0x08 };                        /* the error code */
    static const uint8_t eoi[] = { 0xc7, 0x04, 0x25, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0 }; /* changes no flags */
    static const uint8_t back[] = { 0x48, 0xcf };

    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = KBASE + G_HANDLERS + STUB_BYTES * v;
        uint64_t low = (at & 0xffff) | 0x10ULL << 16 | (v == 3 || v == 4 ? 0xee00ULL : 0x8e00ULL) << 32 |
                       (at >> 16 & 0xffff) << 48;
        uint8_t stub[STUB_BYTES] = { 0 };
        unsigned n = sizeof(report);

        memcpy(stub, report, n);
        if (guest_has_error(v)) {
            memcpy(stub + n, drop, sizeof(drop));
            n += sizeof(drop);
        } else if (v == G_VECTOR) {
            memcpy(stub + n, eoi, sizeof(eoi));
            n += sizeof(eoi);
        }
        memcpy(stub + n, back, sizeof(back));
        guest_put(g, G_HANDLERS + STUB_BYTES * v, stub, sizeof(stub));
        guest_put64(g, G_IDT + 16 * v, low);
        guest_put64(g, G_IDT + 16 * v + 8, at >> 32);
    }
    guest_put64(g, G_TSS + 4, KBASE + G_STACK_TOP);
    guest_put64(g, G_TSS + 0x60, 0xffffULL << 48); /* no I/O bitmap: IN and OUT raise #GP, as on the host */
    guest_put64(g, G_GDT + 0x10, 0x00af9b000000ffffULL);
    guest_put64(g, G_GDT + 0x18, 0x00cf93000000ffffULL);
    guest_put64(g, G_GDT + 0x28, 0x00cff3000000ffffULL);
    guest_put64(g, G_GDT + 0x30, 0x00affb000000ffffULL);
}

static void guest_sregs(struct prog_guest *g)
{
    const struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x2b, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1
    };
    struct kvm_sregs *s = &g->sregs;

    guest_check("get_sregs", g->ops->get_sregs(g->vcpu, s));
    s->cs = (struct kvm_segment){
        .limit = 0xffffffff, .selector = 0x33, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1
    };
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
    s->efer = 0xd00;  /* NXE LMA LME */
}

struct prog_guest *prog_guest_new(const struct cpu_ops *ops)
{
    static const struct cpu_bus_ops bus = { .pio = guest_pio, .mmio = guest_mmio };
    struct prog_guest *g = aligned_alloc(64, (sizeof(*g) + 63) & ~63UL);
    struct cpu_vm_config config = { .bus = &bus, .bus_opaque = g, .max_vcpus = 1 };
    struct kvm_cpuid_entry2 cpuid[128];
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 7 };
    struct sigevent kick = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    uint32_t svr = 0x1ff;
    unsigned n = 128;

    guest_check("memory", g ? 0 : -12);
    memset(g, 0, sizeof(*g));
    guest_check("memory", mem_new(&g->mem));
    guest_check("memory", mem_add_ram(g->mem, 0, G_SIZE, false, NULL));
    g->ops = ops;
    config.mem = g->mem;
    guest_check("vm_new", ops->vm_new(&config, &g->vm));
    guest_check("vcpu_new", ops->vcpu_new(g->vm, 0, &g->vcpu));
    guest_check("supported_cpuid", ops->supported_cpuid(g->vm, cpuid, &n));
    guest_check("vcpu_set_cpuid", ops->vcpu_set_cpuid(g->vcpu, cpuid, n));
    guest_tables(g);
    guest_handlers(g);
    guest_sregs(g);
    guest_check("set_sregs", ops->set_sregs(g->vcpu, &g->sregs));
    guest_check("set_xcrs", ops->set_xcrs(g->vcpu, &xcrs));
    guest_check("get_lapic", ops->get_lapic(g->vcpu, &g->lapic));
    memcpy(g->lapic.regs + 0xf0, &svr, 4);
    signal(SIGALRM, guest_late);
    signal(SIGUSR1, guest_kick);
    guest_check("timer_create", timer_create(CLOCK_MONOTONIC, &kick, &g->kicker));
    return g;
}

void prog_guest_free(struct prog_guest *g)
{
    if (!g)
        return;
    timer_delete(g->kicker);
    g->ops->vcpu_free(g->vcpu);
    g->ops->vm_free(g->vm);
    mem_free(g->mem);
    free(g);
}

/* ---- running ---- */

static void guest_set_state(struct prog_guest *g, const struct prog *p)
{
    const uint64_t *gpr = p->start.regs.gpr;
    struct kvm_regs regs = { gpr[0],
                             gpr[3],
                             gpr[1],
                             gpr[2],
                             gpr[6],
                             gpr[7],
                             gpr[4],
                             gpr[5],
                             gpr[8],
                             gpr[9],
                             gpr[10],
                             gpr[11],
                             gpr[12],
                             gpr[13],
                             gpr[14],
                             gpr[15],
                             p->start.regs.rip,
                             p->start.regs.rflags };
    struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = p->dr7 | 0x400 };
    struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };
    uint8_t stack[PROG_STACK_SIZE];

    memset(stack, 0x5a, sizeof(stack));
    memset(g->dev, 0xa5, sizeof(g->dev));
    guest_put(g, G_CODE, p->code, PROG_CODE_SIZE);
    guest_put(g, G_DATA, p->data, PROG_DATA_SIZE);
    guest_put(g, G_CONST, p->consts, PROG_CONST_SIZE);
    guest_put(g, G_STACK, stack, sizeof(stack));
    memset(&g->xsave, 0, sizeof(g->xsave));
    memcpy(g->xsave.region, p->start.xsave, STREAM_XSAVE_SIZE);
    memcpy(debug.db, p->dr, sizeof(debug.db));
    guest_check("set_lapic", g->ops->set_lapic(g->vcpu, &g->lapic));
    guest_check("set_events", g->ops->set_events(g->vcpu, &events));
    guest_check("set_sregs", g->ops->set_sregs(g->vcpu, &g->sregs));
    guest_check("set_debugregs", g->ops->set_debugregs(g->vcpu, &debug));
    guest_check("set_regs", g->ops->set_regs(g->vcpu, &regs));
    guest_check("set_xsave", g->ops->set_xsave(g->vcpu, &g->xsave));
}

static uint64_t guest_dr6(struct prog_guest *g)
{
    struct kvm_debugregs debug;
    uint64_t dr6;

    guest_check("get_debugregs", g->ops->get_debugregs(g->vcpu, &debug));
    dr6 = debug.dr6;
    debug.dr6 = 0xffff0ff0;
    guest_check("set_debugregs", g->ops->set_debugregs(g->vcpu, &debug));
    return dr6 & 0x400f;
}

static uint64_t guest_cr2(struct prog_guest *g)
{
    struct kvm_sregs sregs;

    guest_check("get_sregs", g->ops->get_sregs(g->vcpu, &sregs));
    return sregs.cr2;
}

/* The event that the handler at regs->rip stands for. *ret_frame: the address of RIP, CS, RFLAGS, RSP, SS. */
static void guest_event(struct prog_guest *g, const struct kvm_regs *regs, bool breakpoints, struct prog_event *e,
                        uint64_t *ret_frame, uint64_t frame[5])
{
    const uint64_t gpr[16] = { regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp, regs->rsi, regs->rdi,
                               regs->r8,  regs->r9,  regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15 };
    uint64_t at = regs->rsp - KBASE, error = 0;

    memset(e, 0, sizeof(*e));
    e->vector = (regs->rip - KBASE - G_HANDLERS) / STUB_BYTES;
    if (guest_has_error(e->vector)) {
        guest_check("error code", mem_read(g->mem, GPA(at), &error, 8));
        at += 8;
    }
    guest_check("frame", mem_read(g->mem, GPA(at), frame, 40));
    memcpy(e->gpr, gpr, sizeof(gpr));
    e->gpr[4] = frame[3];
    e->rip = frame[0];
    e->rflags = frame[2] & ~0x10000ULL;
    e->error = error;
    if (e->vector == 14)
        e->cr2 = guest_cr2(g);
    if (e->vector == 1 && breakpoints)
        e->dr6 = guest_dr6(g);
    guest_check("get_xsave", g->ops->get_xsave(g->vcpu, &g->xsave));
    e->xhash = prog_hash_xsave((uint8_t *)g->xsave.region);
    *ret_frame = at;
}

static bool guest_spins(uint64_t rip)
{
    uint64_t at = rip - KBASE - G_HANDLERS;

    return at < 256ULL * STUB_BYTES && at % STUB_BYTES == STUB_SPIN;
}

/* Handle the event that the vCPU waits with. False: the program is at its end. */
static bool guest_handle(struct prog_guest *g, const struct prog *p, struct kvm_regs *regs, struct prog_result *ret,
                         prog_on_irq *on_irq, void *opaque)
{
    uint64_t frame[5], at;
    struct prog_event e;

    guest_event(g, regs, p->features & PROG_BREAK, &e, &at, frame);
    regs->rip += STUB_ON - STUB_SPIN;
    if (e.vector == 2 || e.vector == G_VECTOR) {
        if (frame[1] == 0x33)
            on_irq(opaque, &e);
        else if (guest_spins(frame[0]))
            g->ops->vcpu_kick(g->vcpu); /* an NMI came between a handler and its kick */
    } else {
        bool goes_on = prog_resume(p, &e, mem_ptr(g->mem, GPA(G_CODE), PROG_CODE_SIZE));

        ret->events[ret->n_events++] = e;
        ret->cut = ret->n_events >= p->events_max;
        if (ret->cut || !goes_on)
            return false;
        guest_put64(g, at, e.next_rip);
        guest_put64(g, at + 16, e.next_rflags);
    }
    guest_check("set_regs", g->ops->set_regs(g->vcpu, regs));
    return true;
}

/* The timer that kicks the vCPU: 0 stops it. */
static void guest_timer(struct prog_guest *g, long ns)
{
    const struct itimerspec when = { .it_interval.tv_nsec = ns, .it_value.tv_nsec = ns };

    guest_check("timer_settime", timer_settime(g->kicker, 0, &when, NULL));
}

static void *guest_raiser(void *opaque)
{
    struct prog_guest *g = opaque;
    uint64_t seed = 88172645463325252ULL;

    while (!g->stop) {
        uint64_t r = stream_random(&seed) >> 16;

        for (unsigned i = 0; i < (r & 0x1ff); i++)
            __asm__ volatile("pause");
        if (r >> 12 & 7)
            guest_raise(g, r >> 16);
        else
            g->ops->vcpu_kick(g->vcpu);
    }
    return NULL;
}

/* A kick stopped the program itself. */
static void guest_kicked(struct prog_guest *g, const struct kvm_regs *regs, prog_on_irq *on_irq, void *opaque)
{
    const uint64_t gpr[16] = { regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp, regs->rsi, regs->rdi,
                               regs->r8,  regs->r9,  regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15 };
    struct prog_event e = { .rip = regs->rip, .rflags = regs->rflags & ~0x10000ULL };

    memcpy(e.gpr, gpr, sizeof(gpr));
    guest_check("get_xsave", g->ops->get_xsave(g->vcpu, &g->xsave));
    e.xhash = prog_hash_xsave((uint8_t *)g->xsave.region);
    on_irq(opaque, &e);
    guest_raise(g, stream_random(&g->random) >> 32);
}

static void guest_loop(struct prog_guest *g, const struct prog *p, prog_on_irq *on_irq, void *opaque,
                       struct prog_result *ret)
{
    struct cpu_exit exit = { .reason = CPU_EXIT_KICK };
    struct kvm_regs regs;

    do {
        int r = g->ops->vcpu_run(g->vcpu, &exit);

        if (r < 0 || exit.reason != CPU_EXIT_KICK || late) {
            printf("  engine: %s\n", late ? "does not come to an end" : r < 0 ? strerror(-r) : "unexpected exit");
            ret->events[ret->n_events++] = (struct prog_event){ .vector = 1000 + exit.reason };
            return;
        }
        guest_check("get_regs", g->ops->get_regs(g->vcpu, &regs));
        if (g->irq != PROG_IRQ_NONE && regs.rip < KBASE)
            guest_kicked(g, &regs, on_irq, opaque);
    } while (!guest_spins(regs.rip) || guest_handle(g, p, &regs, ret, on_irq, opaque));
}

void prog_guest_run(struct prog_guest *g, const struct prog *p, enum prog_irq irq, prog_on_irq *on_irq, void *opaque,
                    struct prog_result *ret)
{
    struct itimerval timer = { .it_value.tv_sec = G_SECONDS };
    pthread_t thread;

    ret->n_events = 0;
    ret->cut = false;
    guest_set_state(g, p);
    g->irq = irq;
    g->random = p->seed + p->n * 2 + 1;
    late = false;
    late_ops = g->ops;
    late_vcpu = g->vcpu;
    setitimer(ITIMER_REAL, &timer, NULL);
    if (irq == PROG_IRQ_KICK)
        guest_timer(g, G_KICK_NS);
    g->stop = false;
    if (irq == PROG_IRQ_THREAD)
        guest_check("thread", -pthread_create(&thread, NULL, guest_raiser, g));
    guest_loop(g, p, on_irq, opaque, ret);
    g->stop = true;
    if (irq == PROG_IRQ_THREAD)
        pthread_join(thread, NULL);
    if (irq == PROG_IRQ_KICK)
        guest_timer(g, 0);
    timer = (struct itimerval){ 0 };
    setitimer(ITIMER_REAL, &timer, NULL);
    late_vcpu = NULL;
    guest_check("get_xsave", g->ops->get_xsave(g->vcpu, &g->xsave));
    memcpy(ret->xsave, g->xsave.region, STREAM_XSAVE_SIZE);
    prog_hash_xsave(ret->xsave);
    guest_check("code", mem_read(g->mem, GPA(G_CODE), ret->code, PROG_CODE_SIZE));
    guest_check("data", mem_read(g->mem, GPA(G_DATA), ret->data, PROG_DATA_RW));
    guest_check("stack", mem_read(g->mem, GPA(G_STACK), ret->stack, PROG_STACK_SIZE));
    memcpy(ret->dev, g->dev, PROG_DEV_SIZE);
}

static void guest_print_stat(void *opaque, const char *name, uint64_t value)
{
    (void)opaque;
    if (value)
        printf(" %s %llu", name, (unsigned long long)value);
}

void prog_guest_stats(struct prog_guest *g)
{
    printf("engine:");
    if (g->ops->stats(g->vm, guest_print_stat, NULL) < 0)
        printf(" has no statistics");
    printf("\n");
}
