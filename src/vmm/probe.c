/* Engine probe: sets up a machine of 4 MiB and one vCPU, runs probe_guest.S and judges it. Invariant: expected values
 * are computed here or taken from the architecture, never from an engine's output. It must not know which engine it
 * probes. */
#include "vmm/probe.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "vmm/probe_guest.h"

#define PROBE_LIMIT_NS 2000000000ULL
/* Hardware takes well below 1 ns and the interpreter about 15 ns for each instruction, software that traps and emulates
 * a microsecond and more. Best of several rounds, so that a busy host does not fail it. */
#define PROBE_INSN_PS_MAX 300000ULL
#define PROBE_CPUID_MAX 256

extern const uint8_t vmm_probe_guest[], vmm_probe_guest_end[];

struct probe {
    const struct cpu_ops *ops;
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpu;
    /* Written by the guest's port accesses, on the vCPU's thread. */
    unsigned step, speed_marks;
    bool done, faulted;
    uint8_t fault_vector;
    uint64_t mark_ns, best_round_ns;
    /* Watchdog. */
    pthread_mutex_t lock;
    pthread_cond_t finished_cond;
    bool finished, expired;
};

static const char *const probe_step_names[PROBE_STEPS] = {
    [0] = "first instruction",
    [PROBE_STEP_REAL] = "real mode",
    [PROBE_STEP_PROTECTED] = "protected mode",
    [PROBE_STEP_LONG] = "long mode",
    [PROBE_STEP_INT3] = "INT3 and IRETQ",
    [PROBE_STEP_PAGE_FAULT] = "page fault",
    [PROBE_STEP_INVLPG] = "INVLPG",
    [PROBE_STEP_MSR] = "MSRs and SWAPGS",
    [PROBE_STEP_CMPXCHG16B] = "CMPXCHG16B",
    [PROBE_STEP_SSE] = "SSE",
    [PROBE_STEP_XSAVE] = "XSAVE and XRSTOR",
    [PROBE_STEP_AVX] = "AVX",
    [PROBE_STEP_USER] = "user mode, SYSCALL and SYSRET",
    [PROBE_STEP_TIMER] = "HLT and LAPIC timer",
    [PROBE_STEP_SPEED] = "speed",
};

static uint64_t probe_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void probe_enter_step(struct probe *p, unsigned step)
{
    uint64_t now;

    if (step >= PROBE_STEPS)
        return;
    p->step = step;
    if (step != PROBE_STEP_SPEED)
        return;
    now = probe_now_ns();
    if (p->speed_marks++ > 0)
        p->best_round_ns = MIN(p->best_round_ns, now - p->mark_ns);
    p->mark_ns = now;
}

static void probe_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct probe *p = opaque;
    uint8_t value = *(const uint8_t *)data;

    if (!write) {
        memset(data, 0xff, len);
        return;
    }
    switch (port) {
    case PROBE_PORT_STEP:
        probe_enter_step(p, value);
        return;
    case PROBE_PORT_FAULT:
        p->faulted = true;
        p->fault_vector = value;
        break;
    case PROBE_PORT_DONE:
        p->done = true;
        break;
    default:
        return;
    }
    p->ops->vcpu_kick(p->vcpu);
}

static void probe_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    (void)opaque;
    (void)gpa;
    if (!write)
        memset(data, 0xff, len);
}

static const struct cpu_bus_ops probe_bus = { .pio = probe_pio, .mmio = probe_mmio };

/* Kicks the vCPU at the limit, and again every 10 ms in case the engine took the first kick for itself. */
static void *probe_watchdog(void *opaque)
{
    struct probe *p = opaque;
    uint64_t until = probe_now_ns() + PROBE_LIMIT_NS;

    pthread_mutex_lock(&p->lock);
    while (!p->finished) {
        struct timespec ts = { .tv_sec = (time_t)(until / 1000000000ULL), .tv_nsec = (long)(until % 1000000000ULL) };

        if (pthread_cond_timedwait(&p->finished_cond, &p->lock, &ts) == ETIMEDOUT) {
            p->expired = true;
            p->ops->vcpu_kick(p->vcpu);
            until = probe_now_ns() + 10000000ULL;
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static bool probe_expired(struct probe *p)
{
    bool expired;

    pthread_mutex_lock(&p->lock);
    expired = p->expired;
    pthread_mutex_unlock(&p->lock);
    return expired;
}

static void PRINTF_LIKE(2, 3) probe_fail(struct vmm_probe_result *ret, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(ret->reason, sizeof(ret->reason), fmt, args);
    va_end(args);
}

/* One row of the comparison; a row with a `needs` index counts only where the guest set that result to 1. */
struct probe_expect {
    uint8_t result, step, needs;
    uint64_t value;
};

#define PROBE_ALWAYS 0xff

static uint64_t probe_expected_generator(void)
{
    uint64_t x = 1;

    for (int i = 0; i < 64; i++)
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    return x;
}

/* The sum of the low halves of the 512 page-table entries, modulo 2^32. */
static uint64_t probe_expected_page_sum(void)
{
    uint32_t sum = 0;

    for (uint32_t page = 0; page < 512; page++)
        sum += page * 4096 + 7;
    return sum;
}

/* What `speed` in probe_guest.S computes. */
static uint64_t probe_expected_speed(void)
{
    uint64_t memory[PROBE_SPEED_LOOPS + 1] = { 0 };
    uint64_t acc = 1;

    /* Only the word at index 1 is read, and it holds what CMPXCHG16B left there until the first round's end. */
    memory[1] = 0x123456789abcdef0ULL;
    for (unsigned round = 0; round < PROBE_SPEED_ROUNDS; round++) {
        for (uint64_t i = PROBE_SPEED_LOOPS; i > 0; i--) {
            uint64_t before = acc;

            acc += i;
            memory[i] = acc;
            acc ^= memory[1];
            acc += before + 3;
            acc = acc >> 7 | acc << 57;
        }
    }
    return acc;
}

/* 2 * (7^2 + 13^2): PMULUDQ takes lanes 0 and 2 of 7 + {0, 3, 6, 9}. */
#define PROBE_SSE_INT (2 * (7 * 7 + 13 * 13))

static bool probe_compare(struct probe *p, struct vmm_probe_result *ret)
{
    const struct probe_expect expects[] = {
        { PROBE_R_REAL, PROBE_STEP_REAL, PROBE_ALWAYS, 4096 },
        { PROBE_R_PROTECTED, PROBE_STEP_PROTECTED, PROBE_ALWAYS, probe_expected_page_sum() },
        { PROBE_R_LONG, PROBE_STEP_LONG, PROBE_ALWAYS, probe_expected_generator() },
        { PROBE_R_INT3_COUNT, PROBE_STEP_INT3, PROBE_ALWAYS, 3 },
        { PROBE_R_INT3_CS, PROBE_STEP_INT3, PROBE_ALWAYS, 0x10 },
        { PROBE_R_PF_ERROR, PROBE_STEP_PAGE_FAULT, PROBE_ALWAYS, 1 },
        { PROBE_R_PF_CR2, PROBE_STEP_PAGE_FAULT, PROBE_ALWAYS, PROBE_HOLE },
        { PROBE_R_PF_VALUE, PROBE_STEP_PAGE_FAULT, PROBE_ALWAYS, 0x1234567 },
        { PROBE_R_INVLPG_OLD, PROBE_STEP_INVLPG, PROBE_ALWAYS, 0x1234567 },
        { PROBE_R_INVLPG_NEW, PROBE_STEP_INVLPG, PROBE_ALWAYS, 0x89abcde },
        { PROBE_R_MSR_GS, PROBE_STEP_MSR, PROBE_ALWAYS, 0xffff800011223344ULL },
        { PROBE_R_MSR_SWAPGS, PROBE_STEP_MSR, PROBE_ALWAYS, 0 },
        { PROBE_R_CX16_HIT, PROBE_STEP_CMPXCHG16B, PROBE_ALWAYS, 1 },
        { PROBE_R_CX16_LO, PROBE_STEP_CMPXCHG16B, PROBE_ALWAYS, 0xaaaabbbbccccddddULL },
        { PROBE_R_CX16_HI, PROBE_STEP_CMPXCHG16B, PROBE_ALWAYS, 0x123456789abcdef0ULL },
        { PROBE_R_CX16_MISS, PROBE_STEP_CMPXCHG16B, PROBE_ALWAYS, 0 },
        { PROBE_R_CX16_MISS_RAX, PROBE_STEP_CMPXCHG16B, PROBE_ALWAYS, 0xaaaabbbbccccddddULL },
        { PROBE_R_SSE_INT, PROBE_STEP_SSE, PROBE_ALWAYS, PROBE_SSE_INT },
        { PROBE_R_SSE_FP, PROBE_STEP_SSE, PROBE_ALWAYS, 0x40115edd3345d340ULL }, /* sqrt(2) * 3 + 0.1 */
        { PROBE_R_XSAVE_LO, PROBE_STEP_XSAVE, PROBE_R_HAS_XSAVE, 0x5152535455565758ULL },
        { PROBE_R_XSAVE_X87, PROBE_STEP_XSAVE, PROBE_R_HAS_XSAVE, 0x400921fb54442d18ULL },
        { PROBE_R_AVX, PROBE_STEP_AVX, PROBE_R_HAS_AVX, 0x40a0000040400000ULL }, /* 5.0f, 3.0f */
        { PROBE_R_USER_CS, PROBE_STEP_USER, PROBE_ALWAYS, 0x33 },
        { PROBE_R_USER_SYSCALLS, PROBE_STEP_USER, PROBE_ALWAYS, 0x51 + 0x52 },
        { PROBE_R_USER_INT3_CS, PROBE_STEP_USER, PROBE_ALWAYS, 0x33 },
        { PROBE_R_TIMER, PROBE_STEP_TIMER, PROBE_ALWAYS, 1 },
        { PROBE_R_SPEED, PROBE_STEP_SPEED, PROBE_ALWAYS, probe_expected_speed() },
    };
    const uint8_t *results = mem_ptr(p->mem, GPA(PROBE_RESULTS), PROBE_R_COUNT * 8);

    for (unsigned i = 0; i < ARRAY_SIZE(expects); i++) {
        const struct probe_expect *e = &expects[i];
        uint64_t got = load_le64(results + 8 * e->result);

        if (e->needs != PROBE_ALWAYS && load_le64(results + 8 * e->needs) != 1)
            continue;
        if (got != e->value) {
            probe_fail(ret, "%s: wrong result: 0x%" PRIx64 " instead of 0x%" PRIx64 " (check %u)",
                       probe_step_names[e->step], got, e->value, e->result);
            return false;
        }
    }
    return true;
}

static int probe_set_start_state(struct probe *p)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    int res = p->ops->get_sregs(p->vcpu, &sregs);

    if (res < 0)
        return res;
    sregs.cs.selector = PROBE_BASE >> 4;
    sregs.cs.base = PROBE_BASE;
    res = p->ops->set_sregs(p->vcpu, &sregs);
    if (res < 0)
        return res;
    res = p->ops->get_regs(p->vcpu, &regs);
    if (res < 0)
        return res;
    regs.rip = 0;
    regs.rflags = 2;
    return p->ops->set_regs(p->vcpu, &regs);
}

static int probe_set_up(struct probe *p)
{
    const struct cpu_vm_config config = { .bus = &probe_bus, .bus_opaque = p, .max_vcpus = 1, .mem = p->mem };
    AUTO_FREE struct kvm_cpuid_entry2 *cpuid = calloc(PROBE_CPUID_MAX, sizeof(*cpuid));
    unsigned n_cpuid = PROBE_CPUID_MAX;
    int res;

    if (!cpuid)
        return -ENOMEM;
    res = p->ops->vm_new(&config, &p->vm);
    if (res < 0)
        return res;
    res = mem_add_ram(p->mem, 0, PROBE_RAM_BYTES, false, NULL);
    if (res < 0)
        return res;
    res = mem_write(p->mem, GPA(PROBE_BASE), vmm_probe_guest, (size_t)(vmm_probe_guest_end - vmm_probe_guest));
    if (res < 0)
        return res;
    res = p->ops->supported_cpuid(p->vm, cpuid, &n_cpuid);
    if (res < 0)
        return res;
    res = p->ops->vcpu_new(p->vm, 0, &p->vcpu);
    if (res < 0)
        return res;
    res = p->ops->vcpu_set_cpuid(p->vcpu, cpuid, n_cpuid);
    if (res < 0)
        return res;
    return probe_set_start_state(p);
}

static void probe_tear_down(struct probe *p)
{
    if (p->vcpu)
        p->ops->vcpu_free(p->vcpu);
    if (p->vm)
        p->ops->vm_free(p->vm);
    mem_free(p->mem);
}

/* Run under the watchdog until the guest is done or something else ended it. */
static int probe_run(struct probe *p, struct cpu_exit *ret_exit)
{
    pthread_condattr_t attr;
    pthread_t watchdog;
    int res;

    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->finished_cond, &attr);
    pthread_condattr_destroy(&attr);
    res = -pthread_create(&watchdog, NULL, probe_watchdog, p);
    if (res == 0) {
        do {
            res = p->ops->vcpu_run(p->vcpu, ret_exit);
        } while (res >= 0 && ret_exit->reason == CPU_EXIT_KICK && !p->done && !p->faulted && !probe_expired(p));
        pthread_mutex_lock(&p->lock);
        p->finished = true;
        pthread_cond_signal(&p->finished_cond);
        pthread_mutex_unlock(&p->lock);
        pthread_join(watchdog, NULL);
    }
    pthread_cond_destroy(&p->finished_cond);
    pthread_mutex_destroy(&p->lock);
    return res;
}

static void probe_explain_exit(struct probe *p, const struct cpu_exit *exit, struct vmm_probe_result *ret)
{
    const char *step = probe_step_names[p->step];
    char bytes[3 * sizeof(exit->internal.bytes) + 1] = "";

    switch (exit->reason) {
    case CPU_EXIT_KICK:
        ret->out_of_time = true;
        probe_fail(ret, "%s: no end within %llu s", step, PROBE_LIMIT_NS / 1000000000ULL);
        return;
    case CPU_EXIT_INTERNAL_ERROR:
        for (unsigned i = 0; i < exit->internal.n_bytes && i < sizeof(exit->internal.bytes); i++)
            snprintf(bytes + 3 * i, 4, " %02x", exit->internal.bytes[i]);
        probe_fail(ret, "%s: %s at rip 0x%" PRIx64 "%s%s", step, exit->internal.why, exit->internal.rip,
                   bytes[0] ? ", bytes" : "", bytes);
        return;
    case CPU_EXIT_SHUTDOWN:
        probe_fail(ret, "%s: triple fault", step);
        return;
    default:
        probe_fail(ret, "%s: unexpected exit %d", step, (int)exit->reason);
        return;
    }
}

static void probe_judge(struct probe *p, int res, const struct cpu_exit *exit, struct vmm_probe_result *ret)
{
    const uint64_t insns = (uint64_t)PROBE_SPEED_LOOPS * PROBE_SPEED_LOOP_INSNS;

    if (p->speed_marks > PROBE_SPEED_ROUNDS)
        ret->insn_ps = p->best_round_ns * 1000 / insns;
    if (res < 0) {
        ret->error = res;
        probe_fail(ret, "%s: cannot run: %s", probe_step_names[p->step], strerror(-res));
    } else if (p->faulted) {
        probe_fail(ret, "%s: unexpected exception %u", probe_step_names[p->step], p->fault_vector);
    } else if (!p->done) {
        probe_explain_exit(p, exit, ret);
    } else if (!probe_compare(p, ret)) {
        return;
    } else if (ret->insn_ps > PROBE_INSN_PS_MAX) {
        ret->out_of_time = true;
        probe_fail(ret, "too slow: %" PRIu64 " instructions took %" PRIu64 " us", insns, p->best_round_ns / 1000);
    } else {
        ret->ok = true;
    }
}

void vmm_probe_engine(const struct cpu_ops *ops, struct vmm_probe_result *ret)
{
    struct probe p = { .ops = ops, .best_round_ns = UINT64_MAX };
    struct cpu_exit exit = { .reason = CPU_EXIT_KICK };
    uint64_t start = probe_now_ns();
    int res = mem_new(&p.mem);

    *ret = (struct vmm_probe_result){ 0 };
    if (res >= 0)
        res = probe_set_up(&p);
    if (res < 0) {
        ret->error = res;
        probe_fail(ret, "cannot be set up: %s", strerror(-res));
    } else {
        res = probe_run(&p, &exit);
        probe_judge(&p, res, &exit, ret);
    }
    probe_tear_down(&p);
    ret->elapsed_ns = probe_now_ns() - start;
}
