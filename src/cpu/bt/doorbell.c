/* Doorbells: guest writes that become eventfd signals. A small table per VM that vCPU threads read without a lock:
 * entries are published by a release store of their state and never move. */
#include "cpu/bt/doorbell.h"

#include <errno.h>

#include "cpu/bt/raw.h"

int bt_bell_add(struct bt_bells *b, const struct cpu_doorbell *bell)
{
    for (uint32_t i = 0; i < BT_BELLS_MAX; i++) {
        struct bt_bell *slot = &b->bells[i];
        uint32_t free_slot = 0;

        /* 2: being filled in; readers take only 1. */
        if (!atomic_compare_exchange_strong(&slot->on, &free_slot, 2))
            continue;
        slot->bell = *bell;
        atomic_store_explicit(&slot->on, 1, memory_order_release);
        for (uint32_t n = atomic_load(&b->n); n <= i && !atomic_compare_exchange_weak(&b->n, &n, i + 1);) {
        }
        return 0;
    }
    return -ENOSPC;
}

int bt_bell_del(struct bt_bells *b, const struct cpu_doorbell *bell)
{
    for (uint32_t i = 0; i < BT_BELLS_MAX; i++) {
        struct bt_bell *slot = &b->bells[i];

        if (atomic_load_explicit(&slot->on, memory_order_acquire) == 1 && slot->bell.addr == bell->addr &&
            slot->bell.len == bell->len && slot->bell.pio == bell->pio && slot->bell.fd == bell->fd) {
            atomic_store_explicit(&slot->on, 0, memory_order_release);
            return 0;
        }
    }
    return -ENOENT;
}

static uint64_t bell_value(const void *data, unsigned len)
{
    const uint8_t *p = data;
    uint64_t v = 0;

    for (unsigned i = 0; i < len && i < 8; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

bool bt_bell_ring(struct bt_vm *vm, bool pio, uint64_t addr, const void *data, unsigned len)
{
    struct bt_bells *b = vm->bells;
    uint32_t n = atomic_load_explicit(&b->n, memory_order_acquire);

    for (uint32_t i = 0; i < n; i++) {
        const struct bt_bell *slot = &b->bells[i];
        const struct cpu_doorbell *bell = &slot->bell;
        uint64_t one = 1;

        if (atomic_load_explicit(&slot->on, memory_order_acquire) != 1 || bell->addr != addr || bell->pio != pio ||
            (bell->len != 0 && bell->len != len) || (bell->match && bell->datamatch != bell_value(data, len)))
            continue;
        bt_raw_syscall3(SYS_write, bell->fd, (long)&one, sizeof(one));
        return true;
    }
    return false;
}
