/* Guest x87/SSE/AVX state and the host instructions that work on it.
 *
 * Floating-point and vector instructions are executed by the host CPU itself: fp_stub.c re-encodes each one into a tiny
 * stub in executable memory (RX view, written through an RW alias) in which a memory operand became [rdi] (= c->scratch)
 * and general registers became fixed ones. While c->fp_live is set, the guest's vector state is in the host's registers;
 * the run path is compiled with -mgeneral-regs-only and does not disturb it. Before anything else runs on this thread
 * that might (bus callbacks, Zydis, libc), bt_fp_sync saves it. Under sanitizers the state is saved after each stub. */
#ifndef CPU_BT_FP_H
#define CPU_BT_FP_H

#include "cpu/bt/state.h"

/* Save the live state into c->xsave, if it is live. Cheap otherwise. */
void bt_fp_save(struct bt_vcpu *c);
static ALWAYS_INLINE void bt_fp_sync(struct bt_vcpu *c)
{
    if (UNLIKELY(c->fp_live))
        bt_fp_save(c);
}
/* Load the state into the host registers, if it is not. */
void bt_fp_load(struct bt_vcpu *c);

/* Reset state (FNINIT values, MXCSR 0x1f80) as after RESET (init = false) or INIT. */
void bt_fp_reset(struct bt_vcpu *c);

/* Per-vCPU stub memory. */
int bt_stubs_new(struct bt_stubs **ret) MUST_USE;
void bt_stubs_free(struct bt_stubs *s);
/* Whether so little stub memory is left that it must be reset before another block is decoded; and the reset, which makes
 * all stubs (so all blocks: bt_cache_flush) void. vCPU thread, between blocks. */
bool bt_stubs_full(const struct bt_vcpu *c);
void bt_stubs_reset(struct bt_vcpu *c);

/* Install the SIGFPE handler that turns host FP traps inside stubs into guest #MF/#XM; once per process, idempotent. */
int bt_fp_init_process(void) MUST_USE;

#endif
