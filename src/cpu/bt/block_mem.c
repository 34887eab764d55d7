/* Making and freeing the memory of a block cache. */
#include <errno.h>
#include <sys/mman.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/fp_priv.h"
#include "cpu/bt/t1_priv.h"

const struct bt_cache_limits bt_cache_usual = { .ops = BLOCK_ARENA_OPS, .blocks = BLOCK_MAX, .code = T1_ARENA };
const struct bt_cache_limits bt_cache_small = { .ops = 512, .blocks = 64, .code = 2 * T1_RESERVE };

static void *block_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int bt_cache_new(const struct bt_cache_limits *limits, struct bt_cache **ret)
{
    struct bt_cache *cache = block_map(sizeof(*cache));

    if (!cache)
        return -ENOMEM;
    cache->limits = limits;
    cache->epoch = 1;
    cache->blocks = block_map(BLOCK_MAX * sizeof(*cache->blocks));
    cache->ops = block_map(BLOCK_ARENA_OPS * sizeof(*cache->ops));
    if (!cache->blocks || !cache->ops) {
        bt_cache_free(cache);
        return -ENOMEM;
    }
    *ret = cache;
    return 0;
}

void bt_cache_free(struct bt_cache *cache)
{
    if (!cache)
        return;
    if (cache->blocks)
        munmap(cache->blocks, BLOCK_MAX * sizeof(*cache->blocks));
    if (cache->ops)
        munmap(cache->ops, BLOCK_ARENA_OPS * sizeof(*cache->ops));
    munmap(cache, sizeof(*cache));
}

uint64_t bt_cache_bytes(const struct bt_vm *vm)
{
    struct bt_cache *cache = vm->cache;
    uint64_t bytes = sizeof(*cache);

    bt_lock(&cache->lock);
    bytes += cache->n_blocks * sizeof(*cache->blocks) + cache->n_ops * sizeof(*cache->ops);
    bytes += vm->stubs->used * FP_SLOT + sizeof(*vm->stubs);
    if (vm->t1)
        bytes += sizeof(*vm->t1) + vm->t1->used + vm->t1->n_trans * sizeof(*vm->t1->trans);
    bt_unlock(&cache->lock);
    return bytes;
}

int bt_front_new(struct bt_front **ret)
{
    struct bt_front *front = block_map(sizeof(*front));

    if (!front)
        return -ENOMEM;
    *ret = front;
    return 0;
}

void bt_front_free(struct bt_front *front)
{
    if (front)
        munmap(front, sizeof(*front));
}
