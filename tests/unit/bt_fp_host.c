/* See bt_fp_host.h. A page of generated code loads everything from a context in the pages behind it, runs the
 * instruction and stores everything. Signal handlers send a trapped instruction to the storing half, so that the state
 * at the fault is seen. The context is addressed RIP-relative: no register is lost to the harness, not even RSP. */
#include "bt_fp_host.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct host_ctx {
    uint64_t r_in[16], r_out[16];
    uint64_t rsp, flags_in, flags_out;
    uint32_t mxcsr, pad;
    uint8_t env[32];
    uint64_t stack[64];
    uint8_t x_in[1024] __attribute__((aligned(64)));
    uint8_t x_out[1024] __attribute__((aligned(64)));
};

struct host_cpu {
    uint8_t *code; /* one page, then the context */
    struct host_ctx *ctx;
    uint8_t *data_map, *data;
    unsigned at, insn_at, out_at;
    volatile unsigned vector;
    uint8_t *alt;
};

#define STORE_BYTES 7 /* of one register in the epilogue */
#define CTX(field) offsetof(struct host_ctx, field)

static struct host_cpu *host_current; /* signal handlers have no argument */

static void put(struct host_cpu *h, const void *p, unsigned n)
{
    memcpy(h->code + h->at, p, n);
    h->at += n;
}

/* op bytes, ModRM with RIP-relative operand, displacement to the context member. */
static void put_rip(struct host_cpu *h, const char *op, unsigned n, unsigned reg, size_t member)
{
    uint8_t modrm = (uint8_t)(reg << 3 | 5);
    int32_t rel;

    put(h, op, n);
    put(h, &modrm, 1);
    rel = (int32_t)(4096 + member) - (int32_t)(h->at + 4);
    put(h, &rel, 4);
}

static void put_mov(struct host_cpu *h, bool load, unsigned reg, size_t member)
{
    char op[2] = { (char)(reg >= 8 ? 0x4c : 0x48), (char)(load ? 0x8b : 0x89) };

    put_rip(h, op, 2, reg & 7, member);
}

static void build_prologue(struct host_cpu *h)
{
    put(h, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57", 10); /* push rbx rbp r12-r15 */
    put_mov(h, false, 4, CTX(rsp));
    put(h, "\xb8\x07\0\0\0\x31\xd2", 7);            /* mov eax,7; xor edx,edx */
    put_rip(h, "\x48\x0f\xae", 3, 5, CTX(x_in));    /* xrstor64 */
    put_rip(h, "\x48\x8d", 2, 4, CTX(stack) + 256); /* lea rsp */
    put_rip(h, "\xff", 1, 6, CTX(flags_in));        /* push */
    put(h, "\x9d", 1);                              /* popfq */
    for (unsigned i = 0; i < 16; i++)
        put_mov(h, true, i, CTX(r_in) + 8 * i);
    h->insn_at = h->at;
}

static void build_epilogue(struct host_cpu *h)
{
    h->at = h->out_at = h->insn_at + 16;
    for (unsigned i = 0; i < 16; i++)
        put_mov(h, false, i, CTX(r_out) + 8 * i);
    put_rip(h, "\x48\x8d", 2, 4, CTX(stack) + 256);
    put(h, "\x9c", 1);                        /* pushfq */
    put_rip(h, "\x8f", 1, 0, CTX(flags_out)); /* pop */
    put(h, "\xb8\x07\0\0\0\x31\xd2", 7);
    put_rip(h, "\x48\x0f\xae", 3, 4, CTX(x_out)); /* xsave64 */
    put_rip(h, "\xd9", 1, 6, CTX(env));           /* fnstenv */
    put(h, "\xdb\xe3", 2);                        /* fninit */
    put_rip(h, "\x0f\xae", 2, 2, CTX(mxcsr));     /* ldmxcsr */
    put_mov(h, true, 4, CTX(rsp));
    put(h, "\xfc\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 12); /* cld; pops; ret */
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct host_cpu *h = host_current;

    (void)info;
    if (!h || (uintptr_t)g[REG_RIP] - (uintptr_t)h->code >= 4096) {
        (void)signal(sig, SIG_DFL);
        return;
    }
    h->vector = (unsigned)g[REG_TRAPNO];
    /* Some hosts cannot return to a stack pointer that is not canonical: see bt_native.c. */
    for (unsigned reg = 0; reg < 16; reg++)
        h->ctx->r_out[reg] = (uint64_t)g[order[reg]];
    g[REG_RSP] = (greg_t)h->ctx->rsp;
    g[REG_RIP] = (greg_t)(uintptr_t)(h->code + h->out_at + 16 * STORE_BYTES);
}

int host_cpu_new(struct host_cpu **ret)
{
    struct host_cpu *h = calloc(1, sizeof(*h));
    stack_t ss = { .ss_size = 1 << 16 };

    if (!h)
        return -ENOMEM;
    h->code = mmap(NULL, 4096 * 3, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    h->data_map = mmap(NULL, 4096 * (HOST_DATA_PAGES + 2), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    h->alt = malloc(ss.ss_size);
    if (h->code == MAP_FAILED || h->data_map == MAP_FAILED || !h->alt)
        return -ENOMEM;
    h->ctx = (struct host_ctx *)(void *)(h->code + 4096);
    h->data = h->data_map + 4096;
    if (mprotect(h->data, HOST_DATA_SIZE, PROT_READ | PROT_WRITE) < 0)
        return -errno;
    ss.ss_sp = h->alt;
    (void)sigaltstack(&ss, NULL);
    h->ctx->mxcsr = 0x1f80;
    build_prologue(h);
    build_epilogue(h);
    host_current = h;
    *ret = h;
    return 0;
}

void host_catch_signals(void)
{
    struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };

    for (unsigned i = 0; i < sizeof(sigs) / sizeof(*sigs); i++)
        (void)sigaction(sigs[i], &sa, NULL);
}

void host_cpu_free(struct host_cpu *h)
{
    stack_t ss = { .ss_flags = SS_DISABLE };

    if (!h)
        return;
    host_current = NULL;
    (void)sigaltstack(&ss, NULL);
    (void)munmap(h->code, 4096 * 3);
    (void)munmap(h->data_map, 4096 * (HOST_DATA_PAGES + 2));
    free(h->alt);
    free(h);
}

uint8_t *host_data(struct host_cpu *h)
{
    return h->data;
}

uint64_t host_insn_address(const struct host_cpu *h)
{
    return (uintptr_t)(h->code + h->insn_at);
}

unsigned host_run(struct host_cpu *h, const uint8_t *code, unsigned n, const struct host_state *in,
                  struct host_state *out)
{
    memset(h->code + h->insn_at, 0x90, 16);
    memcpy(h->code + h->insn_at, code, n);
    memcpy(h->ctx->r_in, in->r, sizeof(in->r));
    memcpy(h->ctx->x_in, in->x, sizeof(in->x));
    memset(h->ctx->x_out, 0, sizeof(h->ctx->x_out));
    h->ctx->flags_in = in->flags;
    h->vector = 0;
    __builtin___clear_cache((char *)h->code, (char *)h->code + 4096);
    ((void (*)(void))(uintptr_t)h->code)();
    memcpy(out->r, h->ctx->r_out, sizeof(out->r));
    memcpy(out->x, h->ctx->x_out, sizeof(out->x));
    memcpy(out->env, h->ctx->env, sizeof(out->env));
    out->flags = h->ctx->flags_out;
    return h->vector;
}
