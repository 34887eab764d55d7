/* KVM engine: interrupts into the guest (lines, MSIs, irqfds with their routing table) and doorbells out of it.
 * Invariant: route i + KVM_FIRST_MSI_GSI exists in the kernel exactly while irqfds[i].fd >= 0. */
#include "cpu/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define KVM_PIC_PINS 16
#define KVM_IOAPIC_PINS 24
#define KVM_FIRST_MSI_GSI KVM_IOAPIC_PINS

void kvm_irq_init(struct cpu_vm *vm)
{
    for (unsigned i = 0; i < KVM_IRQFDS_MAX; i++)
        vm->irqfds[i].fd = -1;
}

static struct kvm_irq_routing_entry *kvm_route_add(struct kvm_irq_routing *table, unsigned gsi, unsigned type)
{
    struct kvm_irq_routing_entry *e = &table->entries[table->nr++];

    e->gsi = gsi;
    e->type = type;
    return e;
}

static void kvm_route_chips(struct kvm_irq_routing *table)
{
    for (unsigned gsi = 0; gsi < KVM_PIC_PINS; gsi++) {
        struct kvm_irq_routing_entry *e;

        if (gsi == 2) /* the cascade */
            continue;
        e = kvm_route_add(table, gsi, KVM_IRQ_ROUTING_IRQCHIP);
        e->u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
        e->u.irqchip.pin = gsi & 7;
    }
    for (unsigned gsi = 0; gsi < KVM_IOAPIC_PINS; gsi++) {
        struct kvm_irq_routing_entry *e;

        if (gsi == 2)
            continue;
        e = kvm_route_add(table, gsi, KVM_IRQ_ROUTING_IRQCHIP);
        e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        e->u.irqchip.pin = gsi == 0 ? 2 : gsi;
    }
}

int kvm_irq_load_routes_locked(struct cpu_vm *vm)
{
    AUTO_FREE struct kvm_irq_routing *table = NULL;
    size_t entries = KVM_PIC_PINS + KVM_IOAPIC_PINS + KVM_IRQFDS_MAX;

    table = calloc(1, sizeof(*table) + entries * sizeof(table->entries[0]));
    if (!table)
        return -ENOMEM;
    kvm_route_chips(table);
    for (unsigned i = 0; i < KVM_IRQFDS_MAX; i++) {
        struct kvm_irq_routing_entry *e;

        if (vm->irqfds[i].fd < 0)
            continue;
        e = kvm_route_add(table, KVM_FIRST_MSI_GSI + i, KVM_IRQ_ROUTING_MSI);
        e->u.msi.address_lo = (uint32_t)vm->irqfds[i].addr;
        e->u.msi.address_hi = (uint32_t)(vm->irqfds[i].addr >> 32);
        e->u.msi.data = vm->irqfds[i].data;
    }
    return kvm_ioctl_ptr(vm->fd, KVM_SET_GSI_ROUTING, table);
}

int kvm_irq_line(struct cpu_vm *vm, unsigned gsi, bool level)
{
    const struct kvm_irq_level line = { .irq = gsi, .level = level };

    if (gsi >= KVM_IOAPIC_PINS)
        return -EINVAL;
    return kvm_ioctl_ptr(vm->fd, KVM_IRQ_LINE, &line);
}

int kvm_signal_msi(struct cpu_vm *vm, uint64_t addr, uint32_t data)
{
    const struct kvm_msi msi = { .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data };
    /* > 0 delivered, 0 blocked by the guest: neither is an error of the caller. */
    int res = kvm_ioctl_ptr(vm->fd, KVM_SIGNAL_MSI, &msi);

    return res < 0 ? res : 0;
}

static int kvm_irqfd_set(struct cpu_vm *vm, unsigned index, int fd, bool on)
{
    const struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd,
        .gsi = KVM_FIRST_MSI_GSI + index,
        .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };

    return kvm_ioctl_ptr(vm->fd, KVM_IRQFD, &irqfd);
}

static int kvm_irqfd_find_locked(const struct cpu_vm *vm, int fd)
{
    for (unsigned i = 0; i < KVM_IRQFDS_MAX; i++) {
        if (vm->irqfds[i].fd == fd)
            return (int)i;
    }
    return -ENOENT;
}

static int kvm_irqfd_add_locked(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data)
{
    int slot, res;

    if (kvm_irqfd_find_locked(vm, fd) >= 0)
        return -EEXIST;
    slot = kvm_irqfd_find_locked(vm, -1);
    if (slot < 0)
        return -ENOSPC;
    vm->irqfds[slot] = (struct kvm_irqfd_entry){ .fd = fd, .addr = addr, .data = data };
    res = kvm_irq_load_routes_locked(vm);
    if (res >= 0)
        res = kvm_irqfd_set(vm, (unsigned)slot, fd, true);
    if (res < 0)
        vm->irqfds[slot].fd = -1; /* a stale route to a GSI that nobody raises is harmless until the next load */
    return res;
}

int kvm_irqfd_add(struct cpu_vm *vm, int fd, uint64_t addr, uint32_t data)
{
    int res;

    if (fd < 0)
        return -EBADF;
    pthread_mutex_lock(&vm->lock);
    res = kvm_irqfd_add_locked(vm, fd, addr, data);
    pthread_mutex_unlock(&vm->lock);
    return res;
}

int kvm_irqfd_del(struct cpu_vm *vm, int fd)
{
    int slot, res;

    if (fd < 0)
        return -EBADF;
    pthread_mutex_lock(&vm->lock);
    slot = kvm_irqfd_find_locked(vm, fd);
    res = slot;
    if (slot >= 0) {
        res = kvm_irqfd_set(vm, (unsigned)slot, fd, false);
        vm->irqfds[slot].fd = -1;
        if (res >= 0)
            res = kvm_irq_load_routes_locked(vm);
    }
    pthread_mutex_unlock(&vm->lock);
    return res;
}

static int kvm_doorbell_set(struct cpu_vm *vm, const struct cpu_doorbell *bell, bool on)
{
    struct kvm_ioeventfd io = {
        .addr = bell->addr,
        .len = bell->len,
        .fd = bell->fd,
        .datamatch = bell->match ? bell->datamatch : 0,
    };

    /* With any length the kernel compares no data. */
    if (bell->len == 0 && (bell->match || !vm->has_any_length))
        return -EINVAL;
    if (bell->pio)
        io.flags |= KVM_IOEVENTFD_FLAG_PIO;
    if (bell->match)
        io.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    if (!on)
        io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    return kvm_ioctl_ptr(vm->fd, KVM_IOEVENTFD, &io);
}

int kvm_doorbell_add(struct cpu_vm *vm, const struct cpu_doorbell *bell)
{
    return kvm_doorbell_set(vm, bell, true);
}

int kvm_doorbell_del(struct cpu_vm *vm, const struct cpu_doorbell *bell)
{
    return kvm_doorbell_set(vm, bell, false);
}
