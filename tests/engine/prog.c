/* Random programs against the real CPU:
 *   prog [--engine interp|bt|bt-eager|bt-small|kvm] [--seed N] [--count N] [--first N] [--with LIST] [--irq
 * device|thread|kick]
 *        [--verbose] [--stats]
 * LIST: smc, faults, tf, device, step, break, separated by commas. With --irq the program is also single-stepped on the
 * CPU, and each interrupt that it gets in the engine must show one of the states between two instructions, in order.
 * Exit status 0: all equal; 1: a difference (printed with the code around it); 77: cannot run here. */
#include <Zydis/Zydis.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/bt/bt.h"
#include "cpu/cpu.h"
#include "cpu/kvm/kvm.h"
#include "base/attr.h"
#include "prog.h"
#include "vendor.h"

#define PROG_FLAGS 0x244dd5ULL /* CF PF AF ZF SF TF DF OF NT AC ID */
#define PROG_ARITH 0x8d5ULL
#define PROG_TF_BIT 0x100ULL
#define PROG_FAILURES_MAX 5

struct progress {
    volatile uint64_t next;
    volatile uint64_t failures, skipped, cut, events, irqs;
    volatile bool native_once; /* the CPU's side has worked */
    volatile uint64_t vectors[32];
    volatile uint8_t irq_places[PROG_CODE_SIZE];
};

struct options {
    const struct cpu_ops *ops;
    const char *engine;
    uint64_t seed, first, count;
    unsigned features;
    enum prog_irq irq;
    bool verbose, stats;
};

/* What interrupts are checked against. */
struct trace {
    const struct prog *p;
    const struct prog_result *native;
    struct progress *progress;
    unsigned at; /* the event whose state the last interrupt had, or the first */
    bool at_start, lost;
    struct prog_event missed; /* the first interrupt in a state that does not exist */
};

static const char *const reg_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

/* ---- comparing ---- */

static void print_code(const uint8_t *code, uint64_t rip, unsigned n)
{
    ZydisDisassembledInstruction in;
    uint64_t at = rip - PROG_CODE;

    for (unsigned i = 0; i < n && at < PROG_CODE_SIZE - 15; i++) {
        if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, PROG_CODE + at, code + at, 15, &in)))
            break;
        printf("    %llx: %s\n", PROG_CODE + at, in.text);
        at += in.info.length;
    }
}

static void print_event(const char *who, const struct prog_event *e)
{
    printf("  %s: vector %" PRIu64 " error %" PRIx64 " cr2 %" PRIx64 " dr6 %" PRIx64 " rip %" PRIx64 " rflags %" PRIx64
           " fp %" PRIx64 "\n",
           who, e->vector, e->error, e->cr2, e->dr6, e->rip, e->rflags, e->xhash);
}

static unsigned compare_event(const struct prog_event *a, const struct prog_event *b, uint64_t flags, bool print)
{
    /* The host's kernel says "present" for all addresses of its own half, to hide what is there. */
    uint64_t hidden = a->vector == 14 && a->cr2 >> 63 ? 1 : 0;
    unsigned n = 0;

    for (unsigned i = 0; i < 16; i++) {
        if (a->gpr[i] == b->gpr[i])
            continue;
        n++;
        if (print)
            printf("  %-6s CPU %016" PRIx64 "  engine %016" PRIx64 "\n", reg_names[i], a->gpr[i], b->gpr[i]);
    }
    n += a->rip != b->rip;
    n += ((a->rflags ^ b->rflags) & flags) != 0;
    n += a->vector != b->vector || a->cr2 != b->cr2 || ((a->error ^ b->error) & ~hidden) || a->dr6 != b->dr6;
    n += a->xhash != b->xhash || a->next_rip != b->next_rip;
    return n;
}

/* Registers of the vector and x87 state that differ. */
static void print_xsave(const uint8_t *a, const uint8_t *b)
{
    for (unsigned i = 0; i < STREAM_XSAVE_SIZE; i += 8) {
        uint64_t x, y;

        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            printf("  xsave+%x CPU %016" PRIx64 "  engine %016" PRIx64 "\n", i, x, y);
    }
}

static unsigned compare_bytes(const char *what, const uint8_t *a, const uint8_t *b, unsigned len)
{
    unsigned n = 0;

    for (unsigned i = 0; i < len; i += 8) {
        uint64_t x, y;

        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y && n++ < 8)
            printf("  %s+%x CPU %016" PRIx64 "  engine %016" PRIx64 "\n", what, i, x, y);
    }
    return n;
}

/* The native result's next event that an engine without TF has too. */
static const struct prog_event *next_event(const struct prog_result *r, bool traced, unsigned *at)
{
    while (*at < r->n_events) {
        const struct prog_event *e = &r->events[(*at)++];

        if (!traced || e->vector != 1)
            return e;
    }
    return NULL;
}

/* Vendors differ in the flags that a fault, a trap or an interrupt inside REP CMPS or SCAS shows. */
static bool in_rep_compare(const uint8_t *code, uint64_t rip)
{
    uint64_t at = rip - PROG_CODE < PROG_CODE_SIZE ? rip - PROG_CODE : rip - PROG_ALIAS;

    return at < PROG_CODE_SIZE && vendor_rep_compare(code + at, (unsigned)MIN(PROG_CODE_SIZE - at, 15), false);
}

/* Equal but for which of the two operands of CMPS faulted: Intel's CPUs read the other one first. */
static bool same_but_operand(const uint8_t *code, const struct prog_event *cpu, const struct prog_event *engine,
                             uint64_t flags)
{
    const uint64_t faults = 1U << 12 | 1U << 13 | 1U << 14;
    struct prog_event e = *engine;

    if (!vendor_intel() || cpu->vector > 31 || e.vector > 31 || !(faults >> cpu->vector & faults >> e.vector & 1) ||
        !in_rep_compare(code, cpu->rip))
        return false;
    e.vector = cpu->vector;
    e.error = cpu->error;
    e.cr2 = cpu->cr2;
    return compare_event(cpu, &e, flags & ~PROG_ARITH, false) == 0;
}

static unsigned compare(const struct prog *p, const struct prog_result *a, const struct prog_result *b, bool traced)
{
    uint64_t flags = traced ? PROG_FLAGS & ~PROG_TF_BIT : PROG_FLAGS;
    unsigned at = 0, i;

    for (i = 0; i < b->n_events; i++) {
        const struct prog_event *x = next_event(a, traced, &at), *y = &b->events[i];

        if (!x && a->cut)
            return 0;
        if (x && compare_event(x, y, flags, false) == 0)
            continue;
        if (x && in_rep_compare(a->code, x->rip) && compare_event(x, y, flags & ~PROG_ARITH, false) == 0)
            continue;
        if (x && same_but_operand(a->code, x, y, flags))
            continue;
        printf("event %u of %u/%u differs:\n", i, a->n_events, b->n_events);
        if (i > 0)
            print_event("before", &b->events[i - 1]);
        if (x) {
            print_event("CPU   ", x);
            compare_event(x, y, flags, true);
            print_code(a->code, x->rip, 6);
        }
        print_event("engine", y);
        return 1;
    }
    if (a->cut != b->cut)
        return traced ? 0 : (unsigned)printf("  only one side came to its end\n");
    if (next_event(a, traced, &at))
        return (unsigned)printf("the engine lacks events: %u of %u\n", b->n_events, a->n_events);
    i = compare_bytes("code", a->code, b->code, PROG_CODE_SIZE) +
        compare_bytes("data", a->data, b->data, PROG_DATA_RW) +
        compare_bytes("stack", a->stack, b->stack, PROG_STACK_SIZE) +
        compare_bytes("device", a->dev, b->dev, PROG_DEV_SIZE);
    if (i)
        print_xsave(a->xsave, b->xsave);
    return i;
}

/* ---- interrupts ---- */

static bool same_state(const struct prog_event *a, const struct prog_event *irq, uint64_t rip, uint64_t rflags,
                       uint64_t flags)
{
    return rip == irq->rip && ((rflags ^ irq->rflags) & flags) == 0 && a->xhash == irq->xhash &&
           memcmp(a->gpr, irq->gpr, sizeof(a->gpr)) == 0;
}

/* An interrupt came: somewhere from the last one on, the CPU had this state. */
static void check_irq(void *opaque, const struct prog_event *irq)
{
    struct trace *t = opaque;
    uint64_t flags = PROG_FLAGS & ~PROG_TF_BIT;

    if (in_rep_compare(t->native->code, irq->rip))
        flags &= ~PROG_ARITH;
    t->progress->irqs++;
    if (irq->rip - PROG_CODE < PROG_CODE_SIZE)
        t->progress->irq_places[irq->rip - PROG_CODE] = 1;
    if (t->lost || (t->at_start && irq->rip == t->p->start.regs.rip &&
                    memcmp(irq->gpr, t->p->start.regs.gpr, sizeof(irq->gpr)) == 0))
        return;
    t->at_start = false;
    for (unsigned i = t->at; i < t->native->n_events; i++) {
        const struct prog_event *e = &t->native->events[i];

        if (same_state(e, irq, e->rip, e->rflags, flags) || same_state(e, irq, e->next_rip, e->next_rflags, flags)) {
            t->at = i;
            return;
        }
    }
    t->lost = true;
    t->missed = *irq;
}

/* ---- the run ---- */

/* Returns whether the engine was equal. */
static bool run_one(const struct options *o, struct progress *p, struct prog_native *n, struct prog_guest *g,
                    struct prog *prog, struct prog_result *result)
{
    const struct prog_result *native;
    struct trace trace = { .p = prog, .progress = p, .at_start = true };
    bool traced = o->irq != PROG_IRQ_NONE, ok;

    prog_make(o->seed, p->next, o->features, prog);
    if (traced) {
        prog->start.regs.rflags |= PROG_TF_BIT;
        prog->events_max = PROG_EVENTS_MAX;
    }
    native = prog_native_run(n, prog);
    if (!native || (native->cut && !native->stuck && native->n_events < prog->events_max)) {
        p->skipped++;
        return true;
    }
    p->native_once = true;
    p->cut += native->cut;
    p->events += native->n_events;
    for (unsigned i = 0; i < native->n_events; i++)
        p->vectors[native->events[i].vector & 31]++;
    trace.native = native;
    if (o->verbose)
        print_code(prog->code, PROG_CODE, prog->code_used);
    for (unsigned i = 0; o->verbose && i < native->n_events; i++) {
        print_event("CPU", &native->events[i]);
        print_code(native->code, native->events[i].rip, 1);
    }
    if (traced)
        prog->start.regs.rflags &= ~PROG_TF_BIT;
    prog_guest_run(g, prog, o->irq, check_irq, &trace, result);
    ok = compare(prog, native, result, traced) == 0;
    if (trace.lost && !native->cut) {
        printf("an interrupt came in a state that the program never has:\n");
        print_event("engine", &trace.missed);
        for (unsigned i = 0; i < 16; i++)
            printf("  %-4s %016" PRIx64 "%s", reg_names[i], trace.missed.gpr[i], i % 4 == 3 ? "\n" : "");
        print_code(result->code, trace.missed.rip, 6);
        ok = false;
    }
    return ok;
}

static void run_programs(const struct options *o, struct progress *p)
{
    struct prog_native *n = prog_native_new(o->features & PROG_BREAK);
    struct prog_guest *g = prog_guest_new(o->ops);
    struct prog *prog = aligned_alloc(64, (sizeof(*prog) + 63) & ~63UL);
    struct prog_result *result = aligned_alloc(64, (sizeof(*result) + 63) & ~63UL);

    if (!n || !prog || !result)
        exit(1);
    for (; p->next < o->first + o->count && p->failures < PROG_FAILURES_MAX; p->next++) {
        if (o->verbose) {
            printf("program %" PRIu64 "\n", p->next);
            fflush(stdout);
        }
        /* Engines treat pages whose code has changed often in another way, and loading a program changes it: two of
         * three programs find a new machine. */
        if (p->next % 3) {
            prog_guest_free(g);
            g = prog_guest_new(o->ops);
        }
        if (run_one(o, p, n, g, prog, result))
            continue;
        p->failures++;
        printf("program %" PRIu64 " of seed %" PRIu64 " differs (%s).\n", p->next, o->seed, o->engine);
        fflush(stdout);
    }
    if (o->stats)
        prog_guest_stats(g);
    prog_guest_free(g);
    prog_native_free(n);
    free(prog);
    free(result);
}

static int parse_features(const char *list, unsigned *ret)
{
    static const char *const names[] = { "smc", "faults", "tf", "device", "step", "break" };
    char *copy = strdup(list), *save = NULL;
    int r = copy ? 0 : -1;

    for (char *w = strtok_r(copy, ",", &save); w && r == 0; w = strtok_r(NULL, ",", &save)) {
        r = -1;
        for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            if (strcmp(w, names[i]) == 0) {
                *ret |= 1U << i;
                r = 0;
            }
        }
    }
    free(copy);
    return r;
}

static int parse_engine(const char *name, struct options *o)
{
    static const struct {
        const char *name;
        const struct cpu_ops *ops;
    } engines[] = { { "interp", &cpu_interp_ops },
                    { "bt", &cpu_bt_ops },
                    { "bt-eager", &cpu_bt_eager_ops },
                    { "bt-small", &cpu_bt_small_ops },
                    { "kvm", &cpu_kvm_ops } };

    for (unsigned i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        if (strcmp(name, engines[i].name) == 0) {
            o->ops = engines[i].ops;
            o->engine = engines[i].name;
            return 0;
        }
    }
    return -1;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        { "engine", required_argument, NULL, 'e' },
        { "seed", required_argument, NULL, 's' },
        { "count", required_argument, NULL, 'c' },
        { "first", required_argument, NULL, 'f' },
        { "with", required_argument, NULL, 'w' },
        { "irq", required_argument, NULL, 'i' },
        { "verbose", no_argument, NULL, 'v' },
        { "stats", no_argument, NULL, 't' },
        { 0 },
    };
    int c, r = 0;

    *o = (struct options){ .ops = &cpu_interp_ops, .engine = "interp", .seed = 20261127, .count = 200 };
    while (r == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'e')
            r = parse_engine(optarg, o);
        else if (c == 's')
            o->seed = strtoull(optarg, NULL, 0);
        else if (c == 'c')
            o->count = strtoull(optarg, NULL, 0);
        else if (c == 'f')
            o->first = strtoull(optarg, NULL, 0);
        else if (c == 'w')
            r = parse_features(optarg, &o->features);
        else if (c == 'i' && strcmp(optarg, "device") == 0)
            o->irq = PROG_IRQ_DEVICE;
        else if (c == 'i' && strcmp(optarg, "thread") == 0)
            o->irq = PROG_IRQ_THREAD;
        else if (c == 'i' && strcmp(optarg, "kick") == 0)
            o->irq = PROG_IRQ_KICK;
        else if (c == 't')
            o->stats = true;
        else if (c == 'v')
            o->verbose = true;
        else
            r = -1;
    }
    if (o->irq == PROG_IRQ_DEVICE)
        o->features |= PROG_DEVICE;
    if (o->irq != PROG_IRQ_NONE)
        o->features |= PROG_TRACED;
    if (o->features & PROG_TRACED && o->features & (PROG_TF | PROG_STEP | PROG_BREAK))
        r = -1;
    return optind == argc ? r : -1;
}

static void print_figure(const struct options *o, const struct progress *p)
{
    unsigned places = 0;

    printf("figure: %s: %" PRIu64 " programs of seed %" PRIu64 ", %" PRIu64 " differences, %" PRIu64
           " skipped, %" PRIu64 " cut short, %" PRIu64 " events by vector:",
           o->engine, p->next - o->first, o->seed, p->failures, p->skipped, p->cut, p->events);
    for (unsigned i = 0; i < 32; i++) {
        if (p->vectors[i])
            printf(" %u:%" PRIu64, i, p->vectors[i]);
    }
    for (unsigned i = 0; i < PROG_CODE_SIZE; i++)
        places += p->irq_places[i];
    if (o->irq != PROG_IRQ_NONE)
        printf("; %" PRIu64 " interrupts at %u addresses", p->irqs, places);
    printf("\n");
}

int main(int argc, char **argv)
{
    struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct options o;
    int status = 0;

    if (parse(argc, argv, &o) < 0 || p == MAP_FAILED) {
        fprintf(
            stderr,
            "usage: prog [--engine interp|bt|bt-eager|bt-small|kvm] [--seed N] [--count N] [--first N] [--verbose]\n"
            "            [--with smc,faults,tf,device,step,break] [--irq device|thread|kick] [--stats]\n");
        return 2;
    }
    p->next = o.first;
    while (p->next < o.first + o.count && p->failures < PROG_FAILURES_MAX) {
        pid_t pid;

        fflush(stdout);
        pid = fork();
        if (pid == 0) {
            run_programs(&o, p);
            fflush(stdout);
            _exit(0);
        }
        waitpid(pid, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            printf("program %" PRIu64 " of seed %" PRIu64 " (%s): the engine's process ended with status 0x%x\n",
                   p->next, o.seed, o.engine, (unsigned)status);
            p->failures++;
            p->next++;
        }
    }
    print_figure(&o, p);
    if (!p->native_once && p->skipped > 0) {
        printf("skipped: programs cannot be run on this CPU (seccomp, AVX%s)\n",
               o.features & PROG_BREAK ? ", ptrace with debug registers" : "");
        return 77;
    }
    /* Programs with breakpoints hit them all the time: paravirtual hosts take debug registers and do not use them. */
    if (o.features & PROG_BREAK && p->native_once && p->vectors[1] == 0) {
        printf("skipped: the debug registers of this host do nothing\n");
        return 77;
    }
    /* Programs can overwrite their loop counters and run for ever; more than one in twenty means that something is
     * wrong. */
    return p->failures == 0 && p->skipped * 20 <= o.count ? 0 : 1;
}
