/* The block cache's memory, shared by block.c and block_evict.c (run path), block_mem.c (set-up) and the translator. */
#ifndef CPU_BT_BLOCK_PRIV_H
#define CPU_BT_BLOCK_PRIV_H

#include "cpu/bt/block.h"
#include "cpu/bt/irqchip/host.h"

/* Room for one VM; touched as it fills. Together with FP_STUBS_SIZE and the T1_ sizes of t1_priv.h this is what keeps
 * the engine below 64 MiB (docs/engine.md has the sum). */
#define BLOCK_ARENA_OPS (448U << 10) /* 21 MiB */
#define BLOCK_MAX (104U << 10)
#define BLOCK_HASH (64U << 10)
#define BLOCK_FAST 16384U

/* A page whose code was written to this often gets content-checked blocks, until the next eviction. */
#define BLOCK_WRITES_MAX 24U
#define BLOCK_CHECKED (1U << 31) /* in code_gen: so it is */
#define BLOCK_CHECKED_PAGES 4096U
/* Slots of the operations' arena that one block can need: its operations and a copy of its bytes. */
#define BLOCK_OPS_RESERVE (BT_BLOCK_OPS_MAX + 15U * BT_BLOCK_OPS_MAX / (unsigned)sizeof(struct bt_op) + 1)
/* Content-checked blocks of one address that are kept beside the valid one: code may change back. */
#define BLOCK_VERSIONS 4U

/* Of a VM. What is not atomic is written under the lock, and read there or (blocks and operations that were found
 * through an atomic pointer) by vCPUs that are inside. */
struct bt_cache {
    struct bt_lock lock;       /* leaf lock but for the wake-ups of vCPUs */
    _Atomic uint32_t epoch;    /* counts evictions; starts at 1 */
    _Atomic uint32_t evicting; /* one is asked for and waits for vCPUs to leave */
    _Atomic(struct bt_block *) hash[BLOCK_HASH];
    struct bt_block *blocks; /* BLOCK_MAX */
    struct bt_op *ops;       /* BLOCK_ARENA_OPS */
    uint32_t n_blocks, n_ops;
    const struct bt_cache_limits *limits;
    _Atomic uint32_t constant;                            /* 0: the generation of blocks that do not look at one */
    _Atomic uint32_t *checked_pages[BLOCK_CHECKED_PAGES]; /* generation counters that have BLOCK_CHECKED set */
    uint32_t n_checked_pages;
};

/* Of a vCPU. */
struct bt_front {
    struct bt_block *fast[BLOCK_FAST]; /* direct-mapped, by guest-physical address */
    uint32_t epoch;                    /* of the cache, when the vCPU last entered */
    struct bt_block single;            /* for code that is not kept: MMIO, or cut by the CS limit */
    struct bt_op single_op;
    _Atomic uint32_t single_gen;
};

/* Let nothing that this processor has fetched ahead be executed. What was written through one mapping of code memory is
 * going to be executed through another: the SDM wants a serialising instruction between. */
void bt_serialise(void);

/* Whether the bytes of a content-checked block are what they were. */
bool bt_block_same(const struct bt_block *b);

static ALWAYS_INLINE bool bt_block_current(const struct bt_block *b)
{
    return LIKELY(atomic_load_explicit(b->gen_ptr[0], memory_order_acquire) == b->gen[0]) &&
           LIKELY(atomic_load_explicit(b->gen_ptr[1], memory_order_acquire) == b->gen[1]) &&
           (LIKELY(!b->snap) || bt_block_same(b));
}

#endif
