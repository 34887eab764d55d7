/* See bt_native.h. Generated code: save the host's stack pointer and callee-saved registers, load flags and registers
 * from the state beside the code (RIP-relative), the instruction, store everything, return. */
#include "bt_native.h"

#include <stddef.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { CODE_BYTES = 4096 };

static const int signals[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS };

struct bt_native {
    uint8_t *code;     /* one page of code, one of state */
    unsigned prologue; /* length */
    unsigned epilogue; /* offset of the code that stores the state */
    struct sigaction old[4];
    stack_t old_stack;
    void *stack;
    int signal;
};
#define STORE_BYTES 7 /* of one register in the epilogue */

/* Signal handlers have no other way to find it. */
static struct bt_native *the_native;

static unsigned put(struct bt_native *n, unsigned at, const void *bytes, unsigned len)
{
    memcpy(n->code + at, bytes, len);
    return at + len;
}

/* An instruction with a RIP-relative operand at offset off in the state; tail: bytes behind the displacement. */
static unsigned put_rip(struct bt_native *n, unsigned at, const void *bytes, unsigned len, unsigned off, unsigned tail)
{
    int32_t disp = (int32_t)(CODE_BYTES + off - (at + len + 4 + tail));

    at = put(n, at, bytes, len);
    return put(n, at, &disp, 4);
}

static unsigned put_mov(struct bt_native *n, unsigned at, uint8_t opcode, unsigned reg)
{
    uint8_t b[] = { reg >= 8 ? 0x4c : 0x48, opcode, (uint8_t)(0x05 | (reg & 7) << 3) };

    return put_rip(n, at, b, 3, reg * 8, 0);
}

#define OFF(member) ((unsigned)offsetof(struct bt_native_state, member))

static unsigned put_prologue(struct bt_native *n)
{
    static const uint8_t save[] = { 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57 };
    static const uint8_t data_segments[] = { 0xb8, 0x2b, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0 };
    unsigned at = put(n, 0, save, sizeof(save));

    at = put_rip(n, at, (uint8_t[]){ 0x48, 0x89, 0x25 }, 3, OFF(host_rsp), 0);
    at = put(n, at, data_segments, sizeof(data_segments));
    at = put_rip(n, at, (uint8_t[]){ 0xff, 0x35 }, 2, OFF(rflags), 0);
    at = put(n, at, (uint8_t[]){ 0x9d }, 1);
    for (unsigned reg = 0; reg < 16; reg++)
        at = put_mov(n, at, 0x8b, reg);
    return at;
}

static void put_epilogue(struct bt_native *n, unsigned at)
{
    static const uint8_t restore[] = { 0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3 };

    n->epilogue = at;
    for (unsigned reg = 0; reg < 16; reg++)
        at = put_mov(n, at, 0x89, reg);
    at = put_rip(n, at, (uint8_t[]){ 0x48, 0x8b, 0x25 }, 3, OFF(host_rsp), 0);
    at = put(n, at, (uint8_t[]){ 0x9c }, 1);
    at = put_rip(n, at, (uint8_t[]){ 0x8f, 0x05 }, 2, OFF(rflags), 0);
    put(n, at, restore, sizeof(restore));
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    struct bt_native_state *live = (void *)(the_native->code + CODE_BYTES);
    ucontext_t *u = context;
    uintptr_t code = (uintptr_t)the_native->code, rip = (uintptr_t)u->uc_mcontext.gregs[REG_RIP];

    if (rip - code >= CODE_BYTES)
        abort(); /* not ours */
    the_native->signal = sig;
    u->uc_mcontext.gregs[REG_CSGSFS] = (u->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffLL) | 0x33;
    /* Some hosts cannot return to a stack pointer that is not canonical: the registers are stored here, and the
     * epilogue is entered behind its own stores. */
    for (unsigned reg = 0; reg < 16; reg++)
        live->r[reg] = (uint64_t)u->uc_mcontext.gregs[order[reg]];
    u->uc_mcontext.gregs[REG_RSP] = (greg_t)live->host_rsp;
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)(code + the_native->epilogue + 16 * STORE_BYTES);
}

struct bt_native *bt_native_new(void)
{
    struct bt_native *n = calloc(1, sizeof(*n));
    struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    stack_t st = { .ss_size = 65536 };

    if (!n)
        return NULL;
    n->code =
        mmap(NULL, 2 * CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    n->stack = malloc(st.ss_size);
    if (n->code == MAP_FAILED || !n->stack) {
        free(n->stack);
        free(n);
        return NULL;
    }
    st.ss_sp = n->stack;
    sigaltstack(&st, &n->old_stack);
    for (unsigned i = 0; i < 4; i++)
        sigaction(signals[i], &sa, &n->old[i]);
    the_native = n;
    n->prologue = put_prologue(n);
    return n;
}

void bt_native_free(struct bt_native *n)
{
    for (unsigned i = 0; i < 4; i++)
        sigaction(signals[i], &n->old[i], NULL);
    sigaltstack(&n->old_stack, NULL);
    munmap(n->code, 2 * CODE_BYTES);
    free(n->stack);
    free(n);
}

/* Far jump into 32-bit code, the instruction, far jump back. */
static void load32(struct bt_native *n, const uint8_t *bytes, unsigned len)
{
    struct bt_native_state *live = (void *)(n->code + CODE_BYTES);
    unsigned at = put_rip(n, n->prologue, (uint8_t[]){ 0xff, 0x2d }, 2, OFF(far_ptr), 0);
    uint32_t target = (uint32_t)(uintptr_t)(n->code + at + len + 7);

    live->far_ptr.offset = (uint32_t)(uintptr_t)(n->code + at);
    live->far_ptr.sel = 0x23;
    at = put(n, at, bytes, len);
    at = put(n, at, (uint8_t[]){ 0xea }, 1);
    at = put(n, at, &target, 4);
    at = put(n, at, (uint8_t[]){ 0x33, 0 }, 2);
    put_epilogue(n, at);
}

int bt_native_load(struct bt_native *n, const uint8_t *bytes, unsigned len, unsigned bits)
{
    static const uint8_t skip[] = { 0xeb, 11 }, one[] = { 1, 0, 0, 0 };
    unsigned at, target;

    if (bits == 32) {
        load32(n, bytes, len);
        return 0;
    }
    at = put(n, n->prologue, bytes, len);
    /* Fall through: jump over the landing pad. */
    at = put(n, at, skip, 2);
    target = at;
    at = put_rip(n, at, (uint8_t[]){ 0x48, 0xc7, 0x05 }, 3, OFF(reached), 4);
    at = put(n, at, one, 4);
    put_epilogue(n, at);
    return (int)(target - n->prologue - len);
}

int bt_native_run(struct bt_native *n, struct bt_native_state *s)
{
    struct bt_native_state *live = (void *)(n->code + CODE_BYTES);
    void (*run)(void);

    memcpy(&run, &n->code, sizeof(run));
    s->far_ptr = live->far_ptr;
    *live = *s;
    live->reached = 0;
    n->signal = 0;
    run();
    *s = *live;
    return n->signal;
}
