/* The process's SIGFPE handler: a host floating-point trap inside a stub becomes a return from that stub with the
 * vector in rsi; traps elsewhere go to the handler that was there before.
 *
 * The kernel delivers the signal with a clean FPU and puts the guest's live state back on return, so the handler may do
 * what it likes. The handler and its table are the one global thing of this folder: signal dispositions belong to the
 * process. */
#include "cpu/bt/fp_signal.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "cpu/bt/fp.h"
#include "cpu/bt/fp_priv.h"

#define FP_REGIONS_MAX 1024U

/* check: allow(globals:fp_regions) a signal handler has no argument of ours */
static _Atomic uintptr_t fp_regions[FP_REGIONS_MAX];
/* check: allow(globals:fp_previous) the disposition that it replaced is as much the process's as its own */
static struct sigaction fp_previous;
/* check: allow(globals:fp_lock) guards the two above while the handler is installed */
static _Atomic int fp_lock;

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

static void fp_on_sigfpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    uintptr_t base = fp_region_of((uintptr_t)g[REG_RIP]);

    if (base != 0) {
        g[REG_RSI] = g[REG_TRAPNO] == BT_XM ? BT_XM : BT_MF;
        g[REG_RIP] = (greg_t)(base + FP_SLOT * FP_SLOT_RET);
        return;
    }
    if (fp_previous.sa_flags & SA_SIGINFO) {
        fp_previous.sa_sigaction(sig, info, context);
    } else if (fp_previous.sa_handler == SIG_DFL || fp_previous.sa_handler == SIG_IGN) {
        /* A program error: let it happen again with the default action. */
        (void)sigaction(sig, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
    } else {
        fp_previous.sa_handler(sig);
    }
}

int bt_fp_init_process(void)
{
    struct sigaction sa = { .sa_sigaction = fp_on_sigfpe, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK }, now;
    int r = 0;

    sigemptyset(&sa.sa_mask);
    while (atomic_exchange(&fp_lock, 1) != 0) /* another thread is in the few lines below */
        ;
    if (sigaction(SIGFPE, NULL, &now) < 0) {
        r = -errno;
    } else if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != fp_on_sigfpe) {
        fp_previous = now;
        if (sigaction(SIGFPE, &sa, NULL) < 0)
            r = -errno;
    }
    atomic_store(&fp_lock, 0);
    return r;
}
