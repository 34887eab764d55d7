/* Random instruction streams against the real CPU:
 *   stream [--engine interp|bt|kvm] [--seed N] [--count N] [--first N] [--loop] [--verbose]
 * Exit status 0: all equal; 1: a difference (printed with the disassembly); 77: cannot run here. The streams run in
 * child processes, because a random store can hit the test's own memory; such a stream is counted as skipped. */
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
#include "stream.h"
#include "vendor.h"

#define CMP_RFLAGS 0x244dd5ULL /* CF PF AF ZF SF TF DF OF NT AC ID; RF depends on how the frame was made */
#define CMP_FAILURES_MAX 10

struct progress {
    volatile uint64_t next; /* the stream that runs now */
    volatile uint64_t failures;
    volatile uint64_t without; /* 32-bit streams, where the host runs no 32-bit code */
    volatile uint64_t vectors[32];
};

struct options {
    const struct cpu_ops *ops;
    uint64_t seed, first, count;
    bool verbose;
    bool loop;
};

static const char *const reg_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void print_stream(const struct stream *s)
{
    ZydisMachineMode mode = s->compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64;
    ZydisDisassembledInstruction in;

    for (unsigned i = 0; i < 16; i++)
        printf("  %s=%" PRIx64 "%s", reg_names[i], s->start.regs.gpr[i], i % 4 == 3 ? "\n" : "");
    for (unsigned at = 0; at < s->n_bytes;) {
        if (!ZYAN_SUCCESS(ZydisDisassembleIntel(mode, STREAM_CODE + at, s->code + at, s->n_bytes - at, &in)))
            break;
        printf("    %llx:", STREAM_CODE + at);
        for (unsigned i = 0; i < in.info.length; i++)
            printf(" %02x", s->code[at + i]);
        printf("  %s\n", in.text);
        at += in.info.length;
    }
}

/* Prints one difference; returns 1. */
static unsigned differ(const char *what, uint64_t start, uint64_t cpu, uint64_t engine)
{
    printf("  %-10s start %016" PRIx64 "  CPU %016" PRIx64 "  engine %016" PRIx64 "\n", what, start, cpu, engine);
    return 1;
}

/* Whether the stream ended with a fault inside a repeated CMPS or SCAS, whose flags are the vendor's choice; it is
 * restarted either way. */
static bool ended_in_compare(const struct stream *s, const struct stream_result *r)
{
    uint64_t at = r->end.regs.rip - STREAM_CODE;

    return at < s->n_bytes && r->vector != 3 && vendor_rep_compare(s->code + at, s->n_bytes - (unsigned)at, s->compat);
}

static unsigned compare_regs(const struct stream *s, const struct stream_result *a, const struct stream_result *b,
                             bool print)
{
    uint64_t mask = s->compat ? 0xffffffff : ~0ULL;
    unsigned n = 0;

    for (unsigned i = 0; i < (s->compat ? 8 : 16); i++) {
        if ((a->end.regs.gpr[i] ^ b->end.regs.gpr[i]) & mask)
            n += print ? differ(reg_names[i], s->start.regs.gpr[i], a->end.regs.gpr[i], b->end.regs.gpr[i]) : 1;
    }
    if ((a->end.regs.rip ^ b->end.regs.rip) & mask)
        n += print ? differ("rip", s->start.regs.rip, a->end.regs.rip, b->end.regs.rip) : 1;
    if ((a->end.regs.rflags ^ b->end.regs.rflags) & (ended_in_compare(s, a) ? CMP_RFLAGS & ~0x8d5ULL : CMP_RFLAGS))
        n += print ? differ("rflags", s->start.regs.rflags, a->end.regs.rflags, b->end.regs.rflags) : 1;
    return n;
}

static unsigned compare_fault(const struct stream_result *a, const struct stream_result *b, bool print)
{
    /* The host's kernel says "present" for all addresses of its own half, to hide what is there. */
    uint64_t hidden = a->vector == 14 && a->cr2 >> 63 ? 1 : 0;
    unsigned n = 0;

    if (a->vector != b->vector)
        n += print ? differ("vector", 0, a->vector, b->vector) : 1;
    else if (a->vector == 14 && a->cr2 != b->cr2)
        n += print ? differ("cr2", 0, a->cr2, b->cr2) : 1;
    else if ((a->vector == 14 || a->vector == 13 || a->vector == 12 || a->vector == 17) &&
             (a->error ^ b->error) & ~hidden)
        n += print ? differ("error", 0, a->error, b->error) : 1;
    return n;
}

/* What of the XSAVE area a program sees: not the x87 pointers (bytes 6..23; tests/guest has those), not the header. */
static void normalise_xsave(uint8_t *x, bool compat)
{
    uint64_t bv;

    memcpy(&bv, x + 512, 8);
    if (bv != 0) { /* an engine's image: components in their initial state */
        if (!(bv & 1)) {
            memset(x, 0, 24);
            memset(x + 32, 0, 128);
            x[0] = 0x7f;
            x[1] = 0x03;
        }
        if (!(bv & 2))
            memset(x + 160, 0, 256);
        if (!(bv & 4))
            memset(x + 576, 0, 256);
    }
    memset(x + 6, 0, 18);
    memset(x + 28, 0, 4);
    memset(x + 416, 0, 160);
    for (unsigned i = 0; i < 8; i++)
        memset(x + 32 + 16 * i + 10, 0, 6);
    if (compat) {
        memset(x + 160 + 128, 0, 128);
        memset(x + 576 + 128, 0, 128);
    }
}

static unsigned compare_bytes(const char *what, const uint8_t *start, const uint8_t *a, const uint8_t *b, unsigned len,
                              bool print)
{
    unsigned n = 0;

    for (unsigned i = 0; i < len; i += 8) {
        uint64_t was, x, y;
        char name[32];

        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        memcpy(&was, start + i, 8);
        if (x == y)
            continue;
        snprintf(name, sizeof(name), "%s+%x", what, i);
        n += print ? differ(name, was, x, y) : 1;
    }
    return n;
}

/* Decode the instruction of the stream at rip. */
static bool decode_at(const struct stream *s, uint64_t rip, ZydisDisassembledInstruction *ret)
{
    uint64_t at = rip - STREAM_CODE;
    ZydisMachineMode mode = s->compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64;

    return at < s->n_bytes && ZYAN_SUCCESS(ZydisDisassembleIntel(mode, rip, s->code + at, s->n_bytes - at, ret));
}

/* Whether the memory operand of the instruction at rip is larger than a long double: vectors, x87 environments. On
 * Intel's CPUs MMX operands count among them. */
static bool large_operand_at(const struct stream *s, uint64_t rip)
{
    const unsigned large = vendor_intel() ? 63 : 80;
    ZydisDisassembledInstruction in;

    if (!decode_at(s, rip, &in))
        return false;
    for (unsigned i = 0; i < in.info.operand_count; i++) {
        if (in.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in.operands[i].size > large)
            return true;
    }
    return false;
}

/* Faults of the engine, or of both, at instructions that Intel's CPUs carry out in another order. */
static bool excused_on_intel(const struct stream *s, const struct stream_result *cpu,
                             const struct stream_result *engine)
{
    ZydisDisassembledInstruction in;

    if (!vendor_intel() || engine->vector == 3 || !decode_at(s, engine->end.regs.rip, &in))
        return false;
    /* An operand that wraps at 4 GiB: a page fault where the upper half of the address space has no pages either. */
    if (s->compat && cpu->vector == 14 && (engine->vector == 12 || engine->vector == 13) &&
        cpu->end.regs.rip == engine->end.regs.rip)
        return true;
    /* A repeated string instruction with 32-bit addresses: the upper halves of its registers are cleared before the
     * fault. */
    if (!s->compat && in.info.meta.category == ZYDIS_CATEGORY_STRINGOP && in.info.address_width == 32 &&
        cpu->vector == engine->vector)
        return true;
    if (cpu->end.regs.rip == engine->end.regs.rip &&
        (vendor_gather(&in.info) || vendor_mmx_store(&in.info, in.operands)))
        return true;
    return (cpu->vector != engine->vector || cpu->end.regs.rip != engine->end.regs.rip) &&
           vendor_x87_store(&in.info, in.operands);
}

/* Differences that CPUs have among themselves: when a large operand counts as misaligned (#AC), which fault comes first
 * for one that is misaligned or wraps at 4 GiB as well as unmapped, which operand of CMPS is read first (Zen 4: the one
 * at RDI, Zen 5: the one at RSI), and undefined flags that a single-step trap shows. */
static bool excused(const struct stream *s, const struct stream_result *a, const struct stream_result *b)
{
    const uint32_t access_faults = 1U << 12 | 1U << 13 | 1U << 14;
    ZydisDisassembledInstruction in;

    if ((a->vector == 17 && large_operand_at(s, a->end.regs.rip)) ||
        (b->vector == 17 && large_operand_at(s, b->end.regs.rip)))
        return true;
    if (a->vector == 1 && b->vector == 1 && s->decimal)
        return true;
    if (excused_on_intel(s, a, b))
        return true;
    return a->vector < 32 && b->vector < 32 && access_faults >> a->vector & access_faults >> b->vector & 1 &&
           a->end.regs.rip == b->end.regs.rip &&
           (large_operand_at(s, a->end.regs.rip) || (decode_at(s, a->end.regs.rip, &in) && vendor_compares(&in.info)));
}

static unsigned compare(const struct stream *s, struct stream_result *a, struct stream_result *b, bool print)
{
    static uint8_t start[STREAM_DATA_SIZE];
    unsigned n;

    if (excused(s, a, b))
        return 0;
    n = compare_fault(a, b, print) + compare_regs(s, a, b, print);
    normalise_xsave(a->end.xsave, s->compat);
    normalise_xsave(b->end.xsave, s->compat);
    n += compare_bytes("xsave", s->start.xsave, a->end.xsave, b->end.xsave, STREAM_XSAVE_SIZE, print);
    stream_fill_data(s->data_seed, start, STREAM_DATA_SIZE);
    n += compare_bytes("data", start, a->data, b->data, STREAM_DATA_RW, print);
    return n;
}

/* Some hosts run 64-bit user code only. */
static bool host_runs_compat(void)
{
    static struct stream_result native;
    struct stream s;
    uint64_t n = 0;

    do
        stream_make(1, n++, &s);
    while (!s.compat);
    s.code[0] = 0xcc; /* INT3 */
    s.n_bytes = 1;
    stream_native_run(&s, &native);
    return native.vector == 3;
}

/* The child: run streams from p->next on. */
static void run_streams(const struct options *o, struct progress *p)
{
    struct stream_guest *g = stream_guest_new(o->ops);
    static struct stream_result native, guest;
    struct stream s;
    bool compat;

    stream_native_init();
    compat = host_runs_compat();
    for (; p->next < o->first + o->count && p->failures < CMP_FAILURES_MAX; p->next++) {
        stream_make(o->seed, p->next, &s);
        if (s.compat && !compat) {
            p->without++;
            continue;
        }
        if (o->loop) {
            stream_loop(&s);
            alarm(10); /* ends this process; the stream counts as skipped */
        }
        if (o->verbose) {
            printf("stream %" PRIu64 "%s\n", p->next, s.compat ? " (32-bit)" : "");
            print_stream(&s);
            fflush(stdout);
        }
        stream_native_run(&s, &native);
        stream_guest_run(g, &s, &guest);
        p->vectors[native.vector & 31]++;
        if (compare(&s, &native, &guest, false) == 0)
            continue;
        p->failures++;
        printf("stream %" PRIu64 " of seed %" PRIu64 "%s differs:\n", p->next, o->seed, s.compat ? " (32-bit)" : "");
        print_stream(&s);
        printf("  CPU: vector %u at %" PRIx64 "; engine: vector %u at %" PRIx64 "\n", native.vector,
               native.end.regs.rip, guest.vector, guest.end.regs.rip);
        compare(&s, &native, &guest, true);
        fflush(stdout);
    }
    stream_guest_free(g);
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        { "engine", required_argument, NULL, 'e' },
        { "seed", required_argument, NULL, 's' },
        { "count", required_argument, NULL, 'c' },
        { "first", required_argument, NULL, 'f' },
        { "verbose", no_argument, NULL, 'v' },
        { "loop", no_argument, NULL, 'l' },
        { 0 },
    };
    int c;

    *o = (struct options){ .ops = &cpu_interp_ops, .seed = 20261121, .count = 100000 };
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'e':
            if (strcmp(optarg, "kvm") == 0)
                o->ops = &cpu_kvm_ops;
            else if (strcmp(optarg, "bt") == 0)
                o->ops = &cpu_bt_eager_ops;
            else if (strcmp(optarg, "interp") != 0)
                return -1;
            break;
        case 's':
            o->seed = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            o->count = strtoull(optarg, NULL, 0);
            break;
        case 'f':
            o->first = strtoull(optarg, NULL, 0);
            break;
        case 'l':
            o->loop = true;
            break;
        case 'v':
            o->verbose = true;
            break;
        default:
            return -1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct progress *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t skipped = 0;
    struct options o;
    int status = 0;

    if (parse(argc, argv, &o) < 0 || p == MAP_FAILED) {
        fprintf(stderr,
                "usage: stream [--engine interp|bt|kvm] [--seed N] [--count N] [--first N] [--loop] [--verbose]\n");
        return 2;
    }
    p->next = o.first;
    while (p->next < o.first + o.count && p->failures < CMP_FAILURES_MAX) {
        pid_t pid;

        fflush(stdout);
        pid = fork();
        if (pid == 0) {
            run_streams(&o, p);
            fflush(stdout);
            _exit(0);
        }
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            return 77;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            printf("stream %" PRIu64 ": the test process ended with status 0x%x; skipped\n", p->next, (unsigned)status);
            skipped++;
            p->next++;
        }
    }
    printf("figure: %s: %" PRIu64 " streams of seed %" PRIu64 ", %" PRIu64 " differences, %" PRIu64
           " skipped; ends by vector:",
           o.ops->name, p->next - o.first, o.seed, p->failures, skipped);
    for (unsigned i = 0; i < 32; i++) {
        if (p->vectors[i])
            printf(" %u:%" PRIu64, i, p->vectors[i]);
    }
    if (p->without)
        printf("; %" PRIu64 " in 32 bits not run: the CPU here takes 64-bit code only", p->without);
    printf("\n");
    /* Skips come from streams that write at random; more than one in a thousand means that something else is wrong. */
    return p->failures == 0 && skipped * 1000 <= o.count ? 0 : 1;
}
