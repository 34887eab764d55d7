/* Guest x87/SSE/AVX state and the host instructions that work on it.
 *
 * Floating-point and vector instructions are executed by the host CPU itself: fp_stub.c re-encodes each one into a tiny
 * stub in executable memory (RX view, written through an RW alias) in which a memory operand became [rdi] (=
 * c->scratch) and general registers became fixed ones. While c->fp_live is set, the guest's vector state is in the
 * host's registers; the run path is compiled with -mgeneral-regs-only and does not disturb it. Before anything else
 * runs on this thread that might (bus callbacks, Zydis, libc), bt_fp_sync saves it. Under sanitizers the state is saved
 * after each stub. */
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

/* Recompute c->fp_ready: after fp_live, CR0, CR4, XCR0 or RFLAGS.VM changed. */
static ALWAYS_INLINE void bt_fp_ready_update(struct bt_vcpu *c)
{
    enum { PE = 1 << 0, EM = 1 << 2, TS = 1 << 3, OSFXSR = 1 << 9, OSXSAVE = 1 << 18 };
    unsigned ready = 0;

    if (c->fp_live && !(c->cr0 & (EM | TS)) && (c->cr4 & OSFXSR))
        ready |= BT_FP_READY_SSE;
    if (c->fp_live && (c->cr0 & (TS | PE)) == PE && !(c->rflags & BT_VM) && (c->cr4 & OSXSAVE) && (c->xcr0 & 6) == 6)
        ready |= BT_FP_READY_AVX;
    c->fp_ready = (uint8_t)ready;
}

/* For translated code: make the state live. Whether instructions of the kinds in want (BT_FP_READY_*) may run. */
bool bt_fp_enter(struct bt_vcpu *c, unsigned want);

/* Reset state (FNINIT values, MXCSR 0x1f80) as after RESET (init = false) or INIT. */
void bt_fp_reset(struct bt_vcpu *c);

/* The state as a standard-format XSAVE image (components 0..2) with the guest's x87 pointers, for the engine's
 * get_xsave: size bytes at buf, zero beyond what there is. */
void bt_fp_get_state(struct bt_vcpu *c, void *buf, unsigned size);
/* The reverse. -EINVAL (and nothing changed): size < 576, components that this host lacks, reserved bits in the header
 * or in MXCSR. */
int bt_fp_set_state(struct bt_vcpu *c, const void *buf, unsigned size) MUST_USE;

/* Stub memory of a VM. After storing it in c->stubs, call bt_fp_reset. */
int bt_stubs_new(struct bt_stubs **ret) MUST_USE;
void bt_stubs_free(struct bt_stubs *s);
/* Whether the stub memory may be too small for another block: then drop all blocks and call bt_stubs_reset before
 * decoding. Operations decoded earlier must not run any more. FP state saved; cache's lock held. */
bool bt_stubs_full(const struct bt_stubs *s);
void bt_stubs_reset(struct bt_stubs *s);

/* Install the handler of SIGFPE, SIGILL and SIGSEGV that turns host traps inside stubs and translated code into guest
 * exceptions, in front of the ones that are there. Idempotent; a call puts it back where somebody (a test framework)
 * has replaced it. */
int bt_fp_init_process(void) MUST_USE;

#endif
