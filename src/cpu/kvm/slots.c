/* KVM engine: guest RAM as memory slots (slot n = region n) and KVM's dirty log, merged into mem's. */
#include "cpu/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"

static int kvm_slot_set(struct cpu_vm *vm, unsigned index, bool log)
{
    const struct mem_region *r = &vm->mem->regions[index];
    struct kvm_userspace_memory_region slot = {
        .slot = index,
        .guest_phys_addr = r->gpa,
        .memory_size = r->size,
        .userspace_addr = (uintptr_t)r->host,
    };

    if (r->read_only) {
        if (!vm->has_readonly)
            return -EOPNOTSUPP;
        slot.flags |= KVM_MEM_READONLY;
    } else if (log) {
        slot.flags |= KVM_MEM_LOG_DIRTY_PAGES;
    }
    return kvm_ioctl_ptr(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

int kvm_slots_set_locked(struct cpu_vm *vm)
{
    if (vm->slots_set)
        return 0;
    for (unsigned i = 0; i < vm->mem->n_regions; i++) {
        int res = kvm_slot_set(vm, i, vm->logging);

        if (res < 0)
            return res;
    }
    vm->slots_set = true;
    return 0;
}

int kvm_log_dirty(struct cpu_vm *vm, bool on)
{
    int res = 0;

    pthread_mutex_lock(&vm->lock);
    vm->logging = on;
    if (on)
        mem_log_dirty(vm->mem, true);
    for (unsigned i = 0; vm->slots_set && i < vm->mem->n_regions && res >= 0; i++)
        res = kvm_slot_set(vm, i, on);
    if (!on || res < 0)
        mem_log_dirty(vm->mem, false);
    pthread_mutex_unlock(&vm->lock);
    return res;
}

static int kvm_sync_slot(struct cpu_vm *vm, unsigned index)
{
    struct mem_region *r = &vm->mem->regions[index];
    uint64_t words = ((r->size >> MEM_PAGE_SHIFT) + 63) / 64;
    AUTO_FREE uint64_t *bitmap = calloc(words, sizeof(*bitmap));
    struct kvm_dirty_log log = { .slot = index, .dirty_bitmap = bitmap };
    int res;

    if (!bitmap)
        return -ENOMEM;
    res = kvm_ioctl_ptr(vm->fd, KVM_GET_DIRTY_LOG, &log);
    if (res < 0)
        return res;
    for (uint64_t i = 0; i < words; i++) {
        for (uint64_t word = bitmap[i]; word != 0; word &= word - 1)
            atomic_store_explicit(&r->dirty[i * 64 + (unsigned)__builtin_ctzll(word)], 1, memory_order_relaxed);
    }
    return 0;
}

int kvm_sync_dirty(struct cpu_vm *vm)
{
    int res = 0;

    pthread_mutex_lock(&vm->lock);
    if (!vm->logging)
        res = -EINVAL;
    for (unsigned i = 0; vm->slots_set && i < vm->mem->n_regions && res >= 0; i++) {
        if (!vm->mem->regions[i].read_only)
            res = kvm_sync_slot(vm, i);
    }
    pthread_mutex_unlock(&vm->lock);
    return res;
}
