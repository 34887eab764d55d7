/* Eviction: the caches of a VM are dropped whole when one of them is full, without stopping anybody for longer than it
 * takes each vCPU to come to the end of its block.
 *
 *   vCPU that finds it full    evicting = 1, BT_EV_CACHE to all that are inside; goes on with uncached instructions
 *   each vCPU                  at its next instruction boundary: inside = 0, waits until evicting is 0 again
 *   whoever comes out last     resets the arenas, epoch++, evicting = 0, wakes the others
 *   each vCPU, when it enters  sees the epoch, forgets its pointers, serialises
 *
 * A vCPU that sleeps or is not in vcpu_run is outside anyway. Both sides write their own word first and then look at
 * the other's (`evicting`, `cache_in`; sequentially consistent), so an entering vCPU and the one that resets cannot
 * miss each other. Nobody waits for a vCPU with a lock held, and a waiting vCPU can be kicked out: a bus callback that
 * waits for other vCPUs to stop must not hang.
 *
 * The serialising instruction is for code memory: what another processor has fetched ahead from it must not be run once
 * it has been written anew. */
#include "cpu/bt/block_priv.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/raw.h"
#include "cpu/bt/t1.h"

/* Everything is free again. Lock held, no vCPU inside, this thread's FP state saved. */
static void evict_reset(struct bt_vm *vm)
{
    struct bt_cache *cache = vm->cache;

    vm->stat_evictions += cache->n_blocks > 0;
    for (unsigned i = 0; i < BLOCK_HASH; i++)
        atomic_store_explicit(&cache->hash[i], NULL, memory_order_relaxed);
    cache->n_blocks = 0;
    cache->n_ops = 0;
    for (unsigned i = 0; i < cache->n_checked_pages; i++) /* they may try anew */
        atomic_store_explicit(cache->checked_pages[i], 0, memory_order_relaxed);
    cache->n_checked_pages = 0;
    bt_stubs_reset(vm->stubs);
    if (vm->t1)
        bt_t1_reset(vm->t1);
}

static bool evict_all_outside(const struct bt_vm *vm)
{
    for (unsigned i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpus[i] && atomic_load(&vm->vcpus[i]->cache_in))
            return false;
    }
    return true;
}

/* Do the eviction that was asked for, if nobody is in the way any more. */
static void evict_try(struct bt_vm *vm)
{
    struct bt_cache *cache = vm->cache;
    bool done = false;

    bt_lock(&cache->lock);
    if (atomic_load(&cache->evicting) && evict_all_outside(vm)) {
        evict_reset(vm);
        atomic_fetch_add(&cache->epoch, 1);
        atomic_store(&cache->evicting, 0);
        done = true;
    }
    bt_unlock(&cache->lock);
    for (unsigned i = 0; done && i < vm->max_vcpus; i++) {
        if (vm->vcpus[i] && atomic_load(&vm->vcpus[i]->cache_waits))
            bt_vcpu_signal(vm->vcpus[i], 0);
    }
}

void bt_cache_evict_locked(struct bt_vm *vm)
{
    if (atomic_load(&vm->cache->evicting))
        return;
    atomic_store(&vm->cache->evicting, 1);
    for (unsigned i = 0; i < vm->max_vcpus; i++) {
        if (vm->vcpus[i] && atomic_load(&vm->vcpus[i]->cache_in))
            bt_vcpu_signal(vm->vcpus[i], BT_EV_CACHE);
    }
}

void bt_cache_flush(struct bt_vm *vm)
{
    bt_lock(&vm->cache->lock);
    bt_cache_evict_locked(vm);
    bt_unlock(&vm->cache->lock);
    evict_try(vm);
}

void bt_cache_leave(struct bt_vcpu *c)
{
    atomic_store(&c->cache_in, 0);
    if (UNLIKELY(atomic_load(&c->vm->cache->evicting))) {
        bt_fp_sync(c); /* libc clears tables with vector registers */
        evict_try(c->vm);
    }
}

/* Sleep until the eviction is over or something else wants this vCPU. false: it was kicked. */
static bool evict_wait(struct bt_vcpu *c)
{
    uint32_t seen;

    atomic_store(&c->cache_waits, 1);
    atomic_store(&c->sleeping, 1);
    seen = atomic_load(&c->wake);
    if (atomic_load(&c->vm->cache->evicting) && !(atomic_load(&c->events) & BT_EV_KICK))
        bt_raw_futex_wait(&c->wake, seen, UINT64_MAX);
    atomic_store(&c->sleeping, 0);
    atomic_store(&c->cache_waits, 0);
    return !(atomic_load(&c->events) & BT_EV_KICK);
}

/* IRET is the one serialising instruction that a hypervisor does not trap. */
NOINLINE void bt_serialise(void)
{
    unsigned long tmp, sp;

    __asm__ volatile("movq %%rsp, %[sp]\n\t"
                     "leaq -128(%%rsp), %%rsp\n\t"
                     "pushq $0x202\n\t" /* with NT set, which a test may have left so, IRET would fault */
                     "popfq\n\t"
                     "movl %%ss, %k[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "pushq %[sp]\n\t"
                     "pushq $0x202\n\t"
                     "movl %%cs, %k[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "leaq 1f(%%rip), %[tmp]\n\t"
                     "pushq %[tmp]\n\t"
                     "iretq\n"
                     "1:"
                     : [tmp] "=&r"(tmp), [sp] "=&r"(sp)
                     :
                     : "memory", "cc");
}

/* Forget all pointers into the cache. */
static void evict_forget(struct bt_vcpu *c)
{
    for (unsigned i = 0; i < BLOCK_FAST; i++)
        c->front->fast[i] = NULL;
    if (c->t1)
        bt_t1_forget(c);
    bt_serialise();
}

bool bt_cache_enter(struct bt_vcpu *c)
{
    struct bt_cache *cache = c->vm->cache;
    uint32_t epoch;

    if (LIKELY(atomic_load_explicit(&c->cache_in, memory_order_relaxed)))
        return true;
    for (;;) {
        atomic_store(&c->cache_in, 1);
        if (LIKELY(!atomic_load(&cache->evicting)))
            break;
        bt_cache_leave(c);
        if (!evict_wait(c))
            return false;
    }
    epoch = atomic_load(&cache->epoch);
    if (UNLIKELY(epoch != c->front->epoch)) {
        evict_forget(c);
        c->front->epoch = epoch;
    }
    return true;
}
