/* Making and unmaking of interrupt controllers and of the paravirtual state: what needs the heap. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpu/bt/irqchip/chip.h"
#include "cpu/bt/irqchip/pv.h"

/* VM ns at creation: a day, so that what began before (a PIT count that comes with a saved state) has a time too. */
#define CHIP_START_NS (24ULL * 3600 * 1000000000)

int bt_irqchip_new(struct bt_vm *vm, struct bt_irqchip **ret)
{
    struct bt_irqchip *chip = calloc(1, sizeof(*chip));
    int r;

    if (!chip)
        return -ENOMEM;
    if (!vm->tsc_khz)
        vm->tsc_khz = bt_tsc_khz_measure();
    chip->vm = vm;
    bt_clock_init(&chip->clock, vm->tsc_khz, bt_host_tsc(), CHIP_START_NS);
    bt_pic_reset(chip);
    bt_ioapic_reset(&chip->ioapic);
    bt_pit_reset(chip);
    r = bt_ticker_start(chip);
    if (r < 0) {
        free(chip);
        return r;
    }
    *ret = chip;
    return 0;
}

void bt_irqchip_free(struct bt_irqchip *chip)
{
    if (!chip)
        return;
    bt_ticker_stop(chip);
    free(chip);
}

int bt_lapic_new(struct bt_vcpu *c, struct bt_lapic **ret)
{
    struct bt_lapic *l;

    if (c->id >= CPU_VCPUS_MAX || !c->vm->irqchip)
        return -EINVAL;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->c = c;
    l->chip = c->vm->irqchip;
    atomic_store(&l->next_ns, UINT64_MAX);
    atomic_store(&l->base, APIC_BASE_DEFAULT | APIC_BASE_EN | (c->id == 0 ? APIC_BASE_BSP : 0));
    bt_lapic_reset_regs(l);
    if (c->id == 0)
        lapic_put(l, LAPIC_LVT0, APIC_EXTINT << 8); /* as bt_lapic_reset */
    atomic_store_explicit(&l->chip->lapics[c->id], l, memory_order_release);
    *ret = l;
    return 0;
}

void bt_lapic_free(struct bt_lapic *l)
{
    if (!l)
        return;
    bt_lock(&l->chip->lock);
    atomic_store(&l->chip->lapics[l->c->id], NULL);
    bt_unlock(&l->chip->lock);
    free(l);
}

int bt_pv_new_vm(struct bt_vm *vm, struct bt_pv_vm **ret)
{
    struct bt_pv_vm *pv = calloc(1, sizeof(*pv));

    if (!pv)
        return -ENOMEM;
    if (!vm->tsc_khz)
        vm->tsc_khz = bt_tsc_khz_measure();
    bt_clock_init(&pv->clock, vm->tsc_khz, bt_host_tsc(), 0);
    *ret = pv;
    return 0;
}

void bt_pv_free_vm(struct bt_pv_vm *pv)
{
    free(pv);
}

int bt_pv_new_vcpu(struct bt_vcpu *c, struct bt_pv **ret)
{
    struct bt_pv *pv = calloc(1, sizeof(*pv));

    if (!pv)
        return -ENOMEM;
    pv->schedstat_fd = -1;
    *ret = pv;
    return 0;
}

void bt_pv_free_vcpu(struct bt_pv *pv)
{
    if (!pv)
        return;
    if (pv->schedstat_fd >= 0)
        close(pv->schedstat_fd);
    free(pv);
}
