/* Making and freeing the memory of a block cache. */
#include <errno.h>
#include <sys/mman.h>

#include "cpu/bt/block_priv.h"

static void *block_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int bt_cache_new(struct bt_cache **ret)
{
    struct bt_cache *cache = block_map(sizeof(*cache));

    if (!cache)
        return -ENOMEM;
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
