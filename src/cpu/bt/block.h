/* The cache of decoded code: blocks of operations, keyed by guest-physical address and mode. One for all vCPUs of a VM,
 * whose CPU models are the same. A block is valid while the code generation of its page(s) is unchanged (mem/guest.h
 * says how writers tell); a content-checked one, while the bytes that it was decoded from are unchanged.
 *
 * Memory is bounded: when something is full, everything is dropped (block_evict.c). */
#ifndef CPU_BT_BLOCK_H
#define CPU_BT_BLOCK_H

#include "cpu/bt/state.h"

#define BT_BLOCK_OPS_MAX 48

struct bt_block {
    uint64_t gpa; /* of the first byte */
    uint32_t key; /* mode bits */
    uint16_t n_ops;
    bool crossing; /* one instruction that straddles a page boundary: the second page may be mapped anew under it */
    _Atomic uint32_t *gen_ptr[2]; /* generation counters of the page(s) that it lies in; [1] == [0] usually */
    uint32_t gen[2];
    const uint8_t *snap;    /* content-checked: the bytes that it was decoded from, else NULL; gen_ptr never changes */
    const uint8_t *host[2]; /* ... where they are in guest memory, */
    uint16_t bytes[2];      /* ... and how many; [1]: in the second page of a crossing instruction */
    _Atomic uint32_t runs;  /* how often it was interpreted (about), where there is a translator */
    _Atomic(struct bt_trans *) trans; /* its translations (t1.h) */
    _Atomic(struct bt_block *) hash_next;
    struct bt_op *ops;
};

/* How much the caches of a VM may hold. */
struct bt_cache_limits {
    uint32_t ops, blocks; /* at most BLOCK_ARENA_OPS, BLOCK_MAX; at least two blocks' worth */
    uint32_t code;        /* bytes of translations, at most T1_ARENA */
};
extern const struct bt_cache_limits bt_cache_usual, bt_cache_small; /* the second is for tests: evicts all the time */

/* Of a VM. limits must live as long. */
int bt_cache_new(const struct bt_cache_limits *limits, struct bt_cache **ret) MUST_USE;
void bt_cache_free(struct bt_cache *cache);
/* Bytes in use of the VM's arenas (blocks, operations, stubs, translations). Any thread; about. */
uint64_t bt_cache_bytes(const struct bt_vm *vm);

/* A vCPU's own part. */
int bt_front_new(struct bt_front **ret) MUST_USE;
void bt_front_free(struct bt_front *front);

/* ---- eviction (block_evict.c) ----
 * From bt_cache_enter to bt_cache_leave a vCPU's thread may hold pointers to blocks, operations, stubs and
 * translations; outside it may not, and does not keep others from evicting. */

/* Waits while an eviction is going on. false: a kick came first, and the vCPU is still outside. Idempotent. Between
 * blocks; FP state may be live. */
bool bt_cache_enter(struct bt_vcpu *c) MUST_USE;
/* Idempotent. The vCPU's thread, or whoever owns a vCPU that does not run. */
void bt_cache_leave(struct bt_vcpu *c);
/* Have everything dropped as soon as all vCPUs are outside; BT_EV_CACHE makes them leave. Until then nothing is added.
 * cache->lock held. */
void bt_cache_evict_locked(struct bt_vm *vm);
/* Drop all that was decoded, on behalf of a vCPU that is outside. Any thread. */
void bt_cache_flush(struct bt_vm *vm);

/* The block that starts at the present CS:RIP, decoded if need be. Raises fetch faults. Inside; the pointer is good
 * until bt_cache_leave, or, for a block that is not kept, until the next bt_block_get. */
struct bt_block *bt_block_get(struct bt_vcpu *c);

/* The block at a guest-physical address for a key, if there is a current one; else NULL. Cache's lock held. */
struct bt_block *bt_block_find_locked(struct bt_cache *cache, uint64_t gpa, uint32_t key);

#endif
