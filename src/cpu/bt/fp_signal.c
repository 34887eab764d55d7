/* The process's handler of SIGFPE, SIGILL and SIGSEGV: a host trap inside a stub becomes a return from that stub with
 * the vector in rsi; one in translated code goes on where its table of traps says (t1_trap.c); traps elsewhere go to
 * the handler that was there before.
 *
 * SIGFPE is in the nature of both, and SIGSEGV is how translated code learns of a misaligned operand. For stubs the
 * last two are a second line: an instruction that this host lacks, or an operand that it wants aligned although the
 * binder did not know, must be the guest's exception, never the end of the VMM.
 *
 * The kernel delivers the signal with a clean FPU and puts the guest's live state back on return, so the handler may do
 * what it likes. The handler and its tables are the global things of this folder: signal dispositions belong to the
 * process. */
#include "cpu/bt/fp_signal.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "cpu/bt/fp.h"
#include "cpu/bt/fp_priv.h"
#include "cpu/bt/t1_priv.h"

#define FP_REGIONS_MAX 1024U
#define FP_CODES_MAX 1024U

/* check: allow(globals:fp_regions) a signal handler has no argument of ours */
static _Atomic uintptr_t fp_regions[FP_REGIONS_MAX];
/* check: allow(globals:fp_codes) the same for translated code */
static struct bt_t1 *_Atomic fp_codes[FP_CODES_MAX];
/* check: allow(globals:fp_previous) the disposition that it replaced is as much the process's as its own */
static struct sigaction fp_previous[3];
/* check: allow(globals:fp_lock) guards the two above while the handler is installed */
static _Atomic int fp_lock;

static const int fp_signals[3] = { SIGFPE, SIGILL, SIGSEGV };

int bt_fp_signal_add(uintptr_t base, uintptr_t size)
{
    if (size != FP_STUBS_SIZE)
        return -EINVAL;
    for (unsigned i = 0; i < FP_REGIONS_MAX; i++) {
        uintptr_t none = 0;

        if (atomic_compare_exchange_strong(&fp_regions[i], &none, base))
            return 0;
    }
    return -ENOSPC;
}

void bt_fp_signal_del(uintptr_t base)
{
    for (unsigned i = 0; i < FP_REGIONS_MAX; i++) {
        uintptr_t want = base;

        if (atomic_compare_exchange_strong(&fp_regions[i], &want, 0))
            return;
    }
}

static uintptr_t fp_region_of(uintptr_t pc)
{
    for (unsigned i = 0; i < FP_REGIONS_MAX; i++) {
        uintptr_t base = atomic_load_explicit(&fp_regions[i], memory_order_relaxed);

        if (base != 0 && pc - base < FP_STUBS_SIZE)
            return base;
    }
    return 0;
}

int bt_fp_signal_add_code(struct bt_t1 *t)
{
    for (unsigned i = 0; i < FP_CODES_MAX; i++) {
        struct bt_t1 *none = NULL;

        if (atomic_compare_exchange_strong(&fp_codes[i], &none, t))
            return 0;
    }
    return -ENOSPC;
}

void bt_fp_signal_del_code(struct bt_t1 *t)
{
    for (unsigned i = 0; i < FP_CODES_MAX; i++) {
        struct bt_t1 *want = t;

        if (atomic_compare_exchange_strong(&fp_codes[i], &want, NULL))
            return;
    }
}

/* Where translated code goes on after a trap at pc; 0: that is none, or not a place that may trap. */
static uintptr_t fp_code_after(uintptr_t pc)
{
    for (unsigned i = 0; i < FP_CODES_MAX; i++) {
        const struct bt_t1 *t = atomic_load_explicit(&fp_codes[i], memory_order_acquire);
        uint32_t to;

        if (!t || pc - (uintptr_t)t->rx >= T1_ARENA)
            continue;
        to = bt_t1_trap(t, (uint32_t)(pc - (uintptr_t)t->rx));
        return to ? (uintptr_t)t->rx + to : 0;
    }
    return 0;
}

/* Not ours: what would have happened without us. */
static void fp_chain(int sig, siginfo_t *info, void *context)
{
    const struct sigaction *old = &fp_previous[sig == SIGFPE ? 0 : sig == SIGILL ? 1 : 2];

    if (old->sa_flags & SA_SIGINFO)
        old->sa_sigaction(sig, info, context);
    else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN)
        /* A program error: let it happen again with the default action. */
        (void)sigaction(sig, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
    else
        old->sa_handler(sig);
}

static void fp_on_trap(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    uintptr_t base = fp_region_of((uintptr_t)g[REG_RIP]);
    greg_t vector = g[REG_TRAPNO];
    uintptr_t after = base ? 0 : fp_code_after((uintptr_t)g[REG_RIP]);

    if (after) { /* the operation's handler meets the same trap and makes the guest's exception of it */
        g[REG_RIP] = (greg_t)after;
        return;
    }
    if (base == 0 || (vector != BT_MF && vector != BT_XM && vector != BT_UD && vector != BT_GP)) {
        fp_chain(sig, info, context);
        return;
    }
    g[REG_RSI] = vector;
    g[REG_RIP] = (greg_t)(base + FP_SLOT * FP_SLOT_RET);
}

static int fp_install(unsigned i)
{
    struct sigaction sa = { .sa_sigaction = fp_on_trap, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK }, now;

    sigemptyset(&sa.sa_mask);
    if (sigaction(fp_signals[i], NULL, &now) < 0)
        return -errno;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == fp_on_trap)
        return 0;
    fp_previous[i] = now;
    return sigaction(fp_signals[i], &sa, NULL) < 0 ? -errno : 0;
}

int bt_fp_init_process(void)
{
    int r = 0;

    while (atomic_exchange(&fp_lock, 1) != 0) /* another thread is in the few lines below */
        ;
    for (unsigned i = 0; i < ARRAY_SIZE(fp_signals) && r == 0; i++)
        r = fp_install(i);
    atomic_store(&fp_lock, 0);
    return r;
}
