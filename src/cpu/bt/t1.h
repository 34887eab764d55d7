/* Tier T1: translations of blocks that run often (docs/engine.md). A translation belongs to one block, one linear
 * address and one data context (privilege and AC); 64-bit mode only. One set of them per VM: translated code finds all
 * that is a vCPU's own through a register.
 *
 * The code memory is filled from one end, under the cache's lock, and dropped whole, together with the blocks that it
 * was made from. What other vCPUs may be executing is changed only in displacements of jumps, each in one store. */
#ifndef CPU_BT_T1_H
#define CPU_BT_T1_H

#include "cpu/bt/block.h"
#include "cpu/bt/state.h"

/* Set in c->t1_link: the jump leads to the page that it stands in. */
#define T1_LINK_NEAR (1U << 31)
/* ... and to a plain translation (bt_trans.plain). */
#define T1_LINK_PLAIN (1U << 30)

struct bt_trans {
    uint64_t rip, gpa;
    uint32_t entry; /* offset of the entrance that checks the mapping of the page */
    uint32_t near;  /* offset of the one behind that check, for jumps within the page */
    uint32_t xid;   /* id of linear page, physical page and generation of the code; two of them for a crossing */
    uint32_t xid2;  /* ... instruction, else 0 */
    uint32_t stale; /* offset of the displacement of the jump that is taken where the page has another id; 0: none */
    uint8_t ctx;
    bool plain;            /* looks up every access by itself (t1_group.c); only jumped to from others */
    struct bt_trans *next; /* other translations of the block */
};

/* code_bytes: as much may be used, at most T1_ARENA, at least 2 * T1_RESERVE. */
int bt_t1_new(uint32_t code_bytes, struct bt_t1 **ret) MUST_USE;
void bt_t1_free(struct bt_t1 *t);
/* Forget all translations; part of an eviction. Cache's lock held, no vCPU inside. */
void bt_t1_reset(struct bt_t1 *t);
/* Forget what this vCPU knows of translations. */
void bt_t1_forget(struct bt_vcpu *c);
/* Whether there may be too little room for one more translation. Cache's lock held. */
bool bt_t1_full(const struct bt_t1 *t);
/* Translate b for the present rip and context; bt_t1_full was false. NULL: cannot be translated. Cache's lock held;
 * between blocks only; ordinary code: guest FP state has been saved. */
const struct bt_trans *bt_t1_translate(struct bt_vcpu *c, struct bt_block *b, bool plain);

/* t belongs to b, which is current, at the present rip: let chained jumps into its page find their way. false: the code
 * was changed just now. */
bool bt_t1_claim(struct bt_vcpu *c, const struct bt_block *b, const struct bt_trans *t) MUST_USE;
/* Put t into the branch cache of its context. */
void bt_t1_remember(struct bt_vcpu *c, const struct bt_trans *t);

/* This thread is going to run c: its base of GS becomes the vCPU's, which translated code works with. */
void bt_t1_thread_begin(struct bt_vcpu *c);
/* Run translated code from t on until it comes back to the run loop, at an instruction boundary with everything in c.
 * Faults leave by bt_raise. c->op_end must not be NULL. */
void bt_t1_run(struct bt_vcpu *c, const struct bt_trans *t);
/* The same from the present rip, if the branch cache knows it; else false. The translation checks by itself that it is
 * still the right one, and comes back with itself in c->t1_stale where it is not. */
bool bt_t1_run_known(struct bt_vcpu *c);
/* The last bt_t1_run came back for want of a chained jump to t, or because the code of an older translation is stale:
 * connect them. */
void bt_t1_connect(struct bt_vcpu *c, const struct bt_trans *t);

#endif
