/* Running programs on the real CPU. A child process has the program's memory at its addresses, and lives in signal
 * handlers: one starts the program by putting its registers into the signal frame, and each exception comes back as a
 * signal with everything in its frame. The child gives up system calls before (seccomp's strict mode), so a program
 * that jumps to wherever it likes can do no harm. With breakpoints its parent traces it, for the debug registers' sake.
 */
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prog.h"

#define NATIVE_SW_RESERVED 464
#define NATIVE_XSTATE_MAX 16384
#define NATIVE_XSTATE_MAGIC 0x46505853
/* CPU time for one program, in ticks. Loops whose counters went astray can take an engine a hundred times as long. */
#define NATIVE_TICK_US 50000
#define NATIVE_TICKS 2
#define NATIVE_TICKS_STEPPED 40
#define NATIVE_RF 0x10000ULL

/* What a stop of a traced child with SIGTRAP means. */
enum native_stage {
    NATIVE_RUNNING,  /* the program's own */
    NATIVE_IDLE,     /* the child waits for a program */
    NATIVE_STARTING, /* breakpoints are to be set now */
    NATIVE_ENDED,    /* breakpoints are to be taken away: the child will read the program's memory */
};

/* What parent and child share. */
struct native_shared {
    struct prog prog;
    struct prog_result result;
    volatile enum native_stage stage;
    bool returns_anywhere; /* native_returns_anywhere() */
    uint64_t dr6;
};

struct prog_native {
    struct native_shared *shared;
    pid_t pid; /* 0: to be started */
    int to, from;
    bool breakpoints;
};

static const int native_gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* The child's state; signals leave no other way to hand it over. */
static struct {
    struct native_shared *shared;
    gregset_t saved_gregs;
    uint8_t saved_fp[NATIVE_XSTATE_MAX];
    uint32_t fp_size;
    unsigned ticks;
    volatile bool running;
} native;

/* ---- in the child ---- */

static void native_start(ucontext_t *uc, uint8_t *fp)
{
    const struct stream_state *start = &native.shared->prog.start;
    uint32_t sw[5]; /* struct _fpx_sw_bytes: magic, extended size, features (2), state size */
    uint64_t bv;

    memcpy(sw, fp + NATIVE_SW_RESERVED, sizeof(sw));
    if (sw[0] != NATIVE_XSTATE_MAGIC || sw[4] > NATIVE_XSTATE_MAX || sw[4] < STREAM_XSAVE_SIZE)
        _exit(77);
    native.fp_size = sw[4];
    memcpy(native.saved_gregs, uc->uc_mcontext.gregs, sizeof(native.saved_gregs));
    memcpy(native.saved_fp, fp, native.fp_size);
    for (unsigned i = 0; i < 16; i++)
        uc->uc_mcontext.gregs[native_gregs[i]] = (greg_t)start->regs.gpr[i];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)start->regs.rip;
    uc->uc_mcontext.gregs[REG_EFL] = (greg_t)start->regs.rflags;
    memcpy(fp, start->xsave, NATIVE_SW_RESERVED);
    memcpy(&bv, fp + 512, 8);
    bv |= 7;
    memcpy(fp + 512, &bv, 8);
    memcpy(fp + 576, start->xsave + 576, 256);
    native.ticks = 0;
    native.running = true;
}

static void native_event(const ucontext_t *uc, const uint8_t *fp, struct prog_event *e)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    uint8_t x[STREAM_XSAVE_SIZE];

    for (unsigned i = 0; i < 16; i++)
        e->gpr[i] = (uint64_t)g[native_gregs[i]];
    e->rip = (uint64_t)g[REG_RIP];
    e->rflags = (uint64_t)g[REG_EFL] & ~NATIVE_RF;
    e->vector = (uint64_t)g[REG_TRAPNO];
    e->error = e->vector == 14 || e->vector == 13 || e->vector == 12 ? (uint64_t)g[REG_ERR] : 0;
    e->cr2 = e->vector == 14 ? (uint64_t)g[REG_CR2] : 0;
    e->dr6 = e->vector == 1 ? native.shared->dr6 & 0x400f : 0;
    native.shared->dr6 = 0;
    memcpy(x, fp, sizeof(x));
    e->xhash = prog_hash_xsave(x);
}

static void native_end(ucontext_t *uc, const uint8_t *fp, bool cut)
{
    struct prog_result *r = &native.shared->result;

    native.running = false;
    r->cut = cut;
    memcpy(r->xsave, fp, STREAM_XSAVE_SIZE);
    prog_hash_xsave(r->xsave);
    memcpy(uc->uc_mcontext.gregs, native.saved_gregs, sizeof(native.saved_gregs));
    memcpy(uc->uc_mcontext.fpregs, native.saved_fp, native.fp_size);
}

/* What the probe below puts into RSP: not canonical. */
#define NATIVE_WILD_RSP 0x1f00eb2448becf34ULL

static bool native_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static void native_probe(int sig, siginfo_t *info, void *ctx)
{
    ucontext_t *uc = ctx;

    (void)info;
    if ((uint64_t)uc->uc_mcontext.gregs[REG_RSP] == NATIVE_WILD_RSP)
        _exit(sig == SIGTRAP);
    uc->uc_mcontext.gregs[REG_RIP]--; /* the INT3 once more */
    uc->uc_mcontext.gregs[REG_RSP] = (greg_t)NATIVE_WILD_RSP;
}

/* Whether a signal handler can return to a stack pointer that is not canonical. Paravirtual hosts refuse it, with a #GP
 * in place of what the instruction there does. */
static bool native_returns_anywhere(void)
{
    struct sigaction sa = { .sa_sigaction = native_probe, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        stack_t ss = { .ss_size = 1 << 16, .ss_sp = malloc(1 << 16) };

        sigaltstack(&ss, NULL);
        sigaction(SIGTRAP, &sa, NULL);
        sigaction(SIGSEGV, &sa, NULL);
        __asm__ volatile("int3");
        _exit(0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static void native_handler(int sig, siginfo_t *info, void *ctx)
{
    ucontext_t *uc = ctx;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;
    struct prog_result *r = &native.shared->result;
    struct prog_event *e;
    bool goes_on;

    (void)info;
    if (sig == SIGPROF) {
        unsigned most = native.shared->prog.features & (PROG_STEP | PROG_TF | PROG_TRACED | PROG_BREAK)
                            ? NATIVE_TICKS_STEPPED
                            : NATIVE_TICKS;

        if (native.running && ++native.ticks >= most)
            native_end(uc, fp, true);
        return;
    }
    if (!native.running) {
        if (sig != SIGTRAP)
            _exit(1); /* a fault of the test itself */
        native.shared->stage = NATIVE_RUNNING;
        native_start(uc, fp);
        return;
    }
    e = &r->events[r->n_events++];
    native_event(uc, fp, e);
    goes_on = prog_resume(&native.shared->prog, e, (const uint8_t *)PROG_CODE);
    r->stuck = goes_on && !native.shared->returns_anywhere && !native_canonical(e->gpr[4]);
    if (r->n_events >= native.shared->prog.events_max || r->stuck) {
        native_end(uc, fp, true);
    } else if (goes_on) {
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)e->next_rip;
        uc->uc_mcontext.gregs[REG_EFL] = (greg_t)e->next_rflags;
    } else {
        native_end(uc, fp, false);
    }
}

static void native_map(uint64_t at, uint64_t size, int prot, int fd, uint64_t offset)
{
    int flags = MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);

    if (mmap((void *)at, size, prot, flags, fd, (off_t)offset) == MAP_FAILED)
        _exit(1);
}

/* Pages that programs may only read are one file's, which is mapped again at NATIVE_WINDOW, for us to write. */
#define NATIVE_WINDOW 0x50000000ULL
#define NATIVE_RO_SIZE (PROG_DATA_SIZE - PROG_DATA_RW)

static void native_prepare(void)
{
    static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGPROF };
    const int rw = PROT_READ | PROT_WRITE;
    const struct itimerval tick = { .it_interval.tv_usec = NATIVE_TICK_US, .it_value.tv_usec = NATIVE_TICK_US };
    stack_t stack = { .ss_size = 1 << 17, .ss_sp = malloc(1 << 17) };
    struct sigaction sa = { .sa_sigaction = native_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int code = memfd_create("code", MFD_CLOEXEC), ro = memfd_create("ro", MFD_CLOEXEC);

    if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0 || code < 0 || ftruncate(code, PROG_CODE_SIZE) < 0 || ro < 0 ||
        ftruncate(ro, PROG_CONST_SIZE + NATIVE_RO_SIZE) < 0)
        _exit(1);
    native_map(PROG_CODE, PROG_CODE_SIZE, rw | PROT_EXEC, code, 0);
    native_map(PROG_ALIAS, PROG_CODE_SIZE, rw | PROT_EXEC, code, 0);
    native_map(PROG_DATA, PROG_DATA_RW, rw, -1, 0);
    native_map(PROG_CONST, PROG_CONST_SIZE, PROT_READ, ro, 0);
    native_map(PROG_DATA + PROG_DATA_RW, NATIVE_RO_SIZE, PROT_READ, ro, PROG_CONST_SIZE);
    native_map(NATIVE_WINDOW, PROG_CONST_SIZE + NATIVE_RO_SIZE, rw, ro, 0);
    native_map(PROG_STACK, PROG_STACK_SIZE, rw, -1, 0);
    native_map(PROG_DEV, PROG_DEV_SIZE, rw, -1, 0);
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        sigaction(sigs[i], &sa, NULL);
    setitimer(ITIMER_PROF, &tick, NULL);
}

static void native_load(const struct prog *p)
{
    memcpy((void *)PROG_CODE, p->code, PROG_CODE_SIZE);
    memcpy((void *)PROG_DATA, p->data, PROG_DATA_RW);
    memcpy((void *)NATIVE_WINDOW, p->consts, PROG_CONST_SIZE);
    memcpy((void *)(NATIVE_WINDOW + PROG_CONST_SIZE), p->data + PROG_DATA_RW, NATIVE_RO_SIZE);
    memset((void *)PROG_STACK, 0x5a, PROG_STACK_SIZE);
    memset((void *)PROG_DEV, 0xa5, PROG_DEV_SIZE);
    /* Mapped, so that the error code of a write says that it was for want of permission. */
    for (uint64_t at = 0; at < NATIVE_RO_SIZE; at += 0x1000)
        *(volatile uint8_t *)(PROG_DATA + PROG_DATA_RW + at);
    for (uint64_t at = 0; at < PROG_CONST_SIZE; at += 0x1000)
        *(volatile uint8_t *)(PROG_CONST + at);
    native.shared->result.n_events = 0;
    native.shared->dr6 = 0;
}

static void native_stop(enum native_stage stage)
{
    native.shared->stage = stage;
    __asm__ volatile("int3" ::: "memory");
}

static void native_run_one(bool traced)
{
    struct prog_result *r = &native.shared->result;

    native_load(&native.shared->prog);
    native_stop(NATIVE_STARTING); /* comes back when the program has ended */
    if (traced)
        native_stop(NATIVE_ENDED);
    memcpy(r->code, (void *)PROG_CODE, PROG_CODE_SIZE);
    memcpy(r->data, (void *)PROG_DATA, PROG_DATA_RW);
    memcpy(r->stack, (void *)PROG_STACK, PROG_STACK_SIZE);
    memcpy(r->dev, (void *)PROG_DEV, PROG_DEV_SIZE);
}

static _Noreturn void native_child(const struct prog_native *n, int from, int to)
{
    char c = 0;

    native.shared = n->shared;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    native_prepare();
    if (n->breakpoints && ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(77);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) < 0)
        _exit(77);
    while (n->breakpoints) {
        native_stop(NATIVE_IDLE);
        native_run_one(true);
    }
    while (read(from, &c, 1) == 1) {
        native_run_one(false);
        if (write(to, &c, 1) != 1)
            break;
    }
    syscall(SYS_exit, 0); /* exit_group is not among the calls that are left */
    __builtin_unreachable();
}

/* ---- in the parent ---- */

/* Wait for the child to stop idly, doing what its other stops ask for. False: it is gone. */
static bool native_trace(struct prog_native *n)
{
    struct native_shared *s = n->shared;
    int status, sig;

    for (;;) {
        if (waitpid(n->pid, &status, 0) < 0 || !WIFSTOPPED(status))
            return false;
        sig = WSTOPSIG(status);
        if (sig == SIGTRAP && s->stage == NATIVE_IDLE)
            return true;
        if (sig == SIGTRAP && s->stage == NATIVE_STARTING) {
            for (unsigned i = 0; i < PROG_BREAKPOINTS; i++)
                ptrace(PTRACE_POKEUSER, n->pid, offsetof(struct user, u_debugreg[i]), s->prog.dr[i]);
            if (ptrace(PTRACE_POKEUSER, n->pid, offsetof(struct user, u_debugreg[7]), s->prog.dr7) < 0)
                return false;
        } else if (sig == SIGTRAP && s->stage == NATIVE_ENDED) {
            ptrace(PTRACE_POKEUSER, n->pid, offsetof(struct user, u_debugreg[7]), 0);
            sig = 0;
        } else if (sig == SIGTRAP) {
            s->dr6 = (uint64_t)ptrace(PTRACE_PEEKUSER, n->pid, offsetof(struct user, u_debugreg[6]), NULL);
            ptrace(PTRACE_POKEUSER, n->pid, offsetof(struct user, u_debugreg[6]), 0);
        }
        ptrace(PTRACE_CONT, n->pid, NULL, (long)sig);
    }
}

static void native_stop_child(struct prog_native *n)
{
    if (n->pid > 0) {
        kill(n->pid, SIGKILL);
        waitpid(n->pid, NULL, 0);
    }
    if (n->to >= 0)
        close(n->to);
    if (n->from >= 0)
        close(n->from);
    n->pid = 0;
    n->to = n->from = -1;
}

static bool native_start_child(struct prog_native *n)
{
    int down[2], up[2];

    if (pipe(down) < 0 || pipe(up) < 0)
        return false;
    n->shared->stage = NATIVE_RUNNING;
    fflush(NULL);
    n->pid = fork();
    if (n->pid == 0) {
        close(down[1]);
        close(up[0]);
        native_child(n, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    n->to = down[1];
    n->from = up[0];
    return n->pid > 0 && (!n->breakpoints || native_trace(n));
}

struct prog_native *prog_native_new(bool breakpoints)
{
    struct prog_native *n = calloc(1, sizeof(*n));

    if (!n)
        return NULL;
    *n = (struct prog_native){ .breakpoints = breakpoints, .to = -1, .from = -1 };
    n->shared = mmap(NULL, sizeof(*n->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (n->shared == MAP_FAILED) {
        free(n);
        return NULL;
    }
    n->shared->returns_anywhere = native_returns_anywhere();
    signal(SIGPIPE, SIG_IGN);
    return n;
}

void prog_native_free(struct prog_native *n)
{
    if (!n)
        return;
    native_stop_child(n);
    munmap(n->shared, sizeof(*n->shared));
    free(n);
}

const struct prog_result *prog_native_run(struct prog_native *n, const struct prog *p)
{
    char c = 1;
    bool ok;

    if (n->pid == 0 && !native_start_child(n)) {
        native_stop_child(n);
        return NULL;
    }
    n->shared->prog = *p;
    if (n->breakpoints)
        ok = ptrace(PTRACE_CONT, n->pid, NULL, NULL) == 0 && native_trace(n);
    else
        ok = write(n->to, &c, 1) == 1 && read(n->from, &c, 1) == 1;
    if (!ok)
        native_stop_child(n);
    return ok ? &n->shared->result : NULL;
}
