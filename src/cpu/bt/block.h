/* The cache of decoded code: blocks of operations, keyed by guest-physical address and mode, valid while the code
 * generation of their page(s) is unchanged. One cache per vCPU; see mem/guest.h for how writers tell. */
#ifndef CPU_BT_BLOCK_H
#define CPU_BT_BLOCK_H

#include "cpu/bt/state.h"

#define BT_BLOCK_OPS_MAX 48

struct bt_block {
    uint64_t gpa; /* of the first byte */
    uint32_t key; /* mode bits */
    uint32_t n_ops;
    bool crossing; /* one instruction that straddles a page boundary: the second page may be mapped anew under it */
    _Atomic uint32_t *gen_ptr[2]; /* generation counters of the page(s) that it lies in; [1] == [0] usually */
    uint32_t gen[2];
    uint32_t runs;          /* how often it was interpreted, where there is a translator */
    struct bt_trans *trans; /* its translations (t1.h) */
    struct bt_block *hash_next;
    struct bt_op *ops;
};

int bt_cache_new(struct bt_cache **ret) MUST_USE;
void bt_cache_free(struct bt_cache *cache);
/* Drop all blocks (between blocks only). */
void bt_cache_flush(struct bt_vcpu *c);

/* The block that starts at the present CS:RIP, decoded if need be. Raises fetch faults. The pointer is good until the
 * next call of bt_block_get or bt_cache_flush. */
struct bt_block *bt_block_get(struct bt_vcpu *c);

/* The block at a guest-physical address for a key, if it is decoded and current; else NULL. */
struct bt_block *bt_block_find(struct bt_vcpu *c, uint64_t gpa, uint32_t key);

#endif
