/* The block cache's memory, shared by block.c (run path) and block_mem.c (set-up). */
#ifndef CPU_BT_BLOCK_PRIV_H
#define CPU_BT_BLOCK_PRIV_H

#include "cpu/bt/block.h"

#define BLOCK_ARENA_OPS (256U << 10) /* 16 MiB a vCPU, touched as needed */
#define BLOCK_MAX (64U << 10)
#define BLOCK_HASH (32U << 10)
#define BLOCK_FAST 4096U

struct bt_cache {
    struct bt_block *fast[BLOCK_FAST];
    struct bt_block *hash[BLOCK_HASH];
    struct bt_block *blocks; /* BLOCK_MAX */
    struct bt_op *ops;       /* BLOCK_ARENA_OPS */
    uint32_t n_blocks, n_ops;
    struct bt_block single; /* for code that is not kept: MMIO, or cut by the CS limit */
    struct bt_op single_op;
    _Atomic uint32_t single_gen;
};

#endif
