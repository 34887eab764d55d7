/* Running a stream on the real CPU: a signal handler swaps the interrupted context for the stream's registers and
 * vector state, sigreturn starts it, and the exception that ends it comes back as a signal with everything in its
 * frame. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "stream.h"

#define NATIVE_SW_RESERVED 464
#define NATIVE_XSTATE_MAX 16384
#define NATIVE_XSTATE_MAGIC 0x46505853
#define NATIVE_CS32 0x23

static const int native_gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* The run in progress; signals leave no other way to hand it over. */
static struct {
    const struct stream *stream;
    struct stream_result *result;
    gregset_t saved_gregs;
    uint8_t saved_fp[NATIVE_XSTATE_MAX];
    uint32_t fp_size;
    volatile bool running;
    struct sigaction engine; /* the engine's own handler of traps, while no stream runs */
} native;

static uint32_t native_fp_size(const uint8_t *fp)
{
    uint32_t sw[5]; /* struct _fpx_sw_bytes: magic, extended size, features (2), state size */

    memcpy(sw, fp + NATIVE_SW_RESERVED, sizeof(sw));
    if (sw[0] != NATIVE_XSTATE_MAGIC || sw[4] > NATIVE_XSTATE_MAX || sw[4] < STREAM_XSAVE_SIZE) {
        fprintf(stderr, "the kernel's signal frames have no AVX state; this test needs a CPU with AVX\n");
        _exit(77);
    }
    return sw[4];
}

static void native_start(ucontext_t *uc, uint8_t *fp)
{
    const struct stream_state *start = &native.stream->start;
    uint64_t bv;

    native.fp_size = native_fp_size(fp);
    memcpy(native.saved_gregs, uc->uc_mcontext.gregs, sizeof(native.saved_gregs));
    memcpy(native.saved_fp, fp, native.fp_size);
    for (unsigned i = 0; i < 16; i++)
        uc->uc_mcontext.gregs[native_gregs[i]] = (greg_t)start->regs.gpr[i];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)start->regs.rip;
    uc->uc_mcontext.gregs[REG_EFL] = (greg_t)start->regs.rflags;
    if (native.stream->compat)
        uc->uc_mcontext.gregs[REG_CSGSFS] = (uc->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffLL) | NATIVE_CS32;
    memcpy(fp, start->xsave, NATIVE_SW_RESERVED);
    memcpy(&bv, fp + 512, 8);
    bv |= 7;
    memcpy(fp + 512, &bv, 8);
    memcpy(fp + 576, start->xsave + 576, 256);
    native.running = true;
}

/* Components in their initial state are not written by XSAVE: give them their values. */
static void native_copy_fp(const uint8_t *fp, uint8_t *to)
{
    static const uint8_t x87_init[2] = { 0x7f, 0x03 };
    uint64_t bv;

    memcpy(&bv, fp + 512, 8);
    memset(to, 0, STREAM_XSAVE_SIZE);
    if (bv & 1) {
        memcpy(to, fp, 24);
        memcpy(to + 32, fp + 32, 128);
    } else {
        memcpy(to, x87_init, 2);
    }
    memcpy(to + 24, fp + 24, 4);
    if (bv & 2)
        memcpy(to + 160, fp + 160, 256);
    if (bv & 4)
        memcpy(to + 576, fp + 576, 256);
}

static void native_end(ucontext_t *uc, const uint8_t *fp)
{
    struct stream_result *r = native.result;

    native.running = false;
    for (unsigned i = 0; i < 16; i++)
        r->end.regs.gpr[i] = (uint64_t)uc->uc_mcontext.gregs[native_gregs[i]];
    r->end.regs.rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    r->end.regs.rflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
    r->vector = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
    r->error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
    r->cr2 = (uint64_t)uc->uc_mcontext.gregs[REG_CR2];
    native_copy_fp(fp, r->end.xsave);
    memcpy(uc->uc_mcontext.gregs, native.saved_gregs, sizeof(native.saved_gregs));
    memcpy(uc->uc_mcontext.fpregs, native.saved_fp, native.fp_size);
}

static void native_handler(int sig, siginfo_t *info, void *ctx)
{
    ucontext_t *uc = ctx;
    uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;

    /* A stream may have set AC; our own accesses are not all aligned. */
    __asm__ volatile("pushfq\n\tandl %0, (%%rsp)\n\tpopfq" : : "i"(~0x40000) : "memory", "cc");
    if (sig == SIGUSR1) {
        native_start(uc, fp);
    } else if (native.running) {
        native_end(uc, fp);
    } else if ((sig == SIGFPE || sig == SIGSEGV) && native.engine.sa_sigaction) {
        native.engine.sa_sigaction(sig, info, ctx);
    } else {
        signal(sig, SIG_DFL); /* a fault of the test itself */
    }
}

void stream_native_init(void)
{
    static const int sigs[] = { SIGUSR1, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
    const int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    stack_t stack = { .ss_size = 1 << 16 };
    struct sigaction sa = { .sa_sigaction = native_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };

    stack.ss_sp = malloc(stack.ss_size);
    if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0 ||
        mmap((void *)STREAM_CODE, STREAM_CODE_SIZE, PROT_READ | PROT_WRITE, fixed, -1, 0) == MAP_FAILED ||
        mmap((void *)STREAM_DATA, STREAM_DATA_SIZE, PROT_READ | PROT_WRITE, fixed, -1, 0) == MAP_FAILED) {
        perror("stream_native_init");
        exit(1);
    }
    sigfillset(&sa.sa_mask);
    sigaction(SIGFPE, NULL, &native.engine);
    for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        sigaction(sigs[i], &sa, NULL);
    /* Flat data segments for 32-bit streams; 64-bit code does not mind. */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0x2b));
}

void stream_native_run(const struct stream *s, struct stream_result *ret)
{
    uint8_t *code = (uint8_t *)STREAM_CODE, *data = (uint8_t *)STREAM_DATA;

    mprotect(code, STREAM_CODE_SIZE, PROT_READ | PROT_WRITE);
    memset(code, 0xcc, STREAM_CODE_SIZE);
    memcpy(code, s->code, s->n_bytes);
    mprotect(code, STREAM_CODE_SIZE, PROT_READ | PROT_EXEC);
    mprotect(data, STREAM_DATA_SIZE, PROT_READ | PROT_WRITE);
    stream_fill_data(s->data_seed, data, STREAM_DATA_SIZE);
    mprotect(data + STREAM_DATA_RW, STREAM_DATA_SIZE - STREAM_DATA_RW, PROT_READ);
    memset(ret, 0, sizeof(*ret));
    native.stream = s;
    native.result = ret;
    /* sigreturn leaves NT and ID as they are, and a POPF of an earlier stream may have set them. */
    __asm__ volatile("pushfq\n\tandl %0, (%%rsp)\n\tpopfq" : : "i"(~0x204000) : "memory", "cc");
    raise(SIGUSR1);
    memcpy(ret->data, data, STREAM_DATA_RW);
}
