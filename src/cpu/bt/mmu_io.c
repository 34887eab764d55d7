/* The way out of the run path to devices: the engine's own interrupt controllers first, then doorbells, then the VMM's
 * bus, for which the guest's vector state is put away. It must not know who serves what. */
#include "cpu/bt/copy.h"
#include "cpu/bt/doorbell.h"
#include "cpu/bt/fp.h"
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/sys_priv.h"

void bt_mmio(struct bt_vcpu *c, uint64_t gpa, void *data, unsigned len, bool write)
{
    c->stat[BT_STAT_MMIO]++;
    if (bt_irqchip_mmio(c, gpa, data, len, write))
        return;
    if (write && bt_bell_ring(c->vm, false, gpa, data, len))
        return;
    bt_fp_sync(c);
    c->vm->bus->mmio(c->vm->bus_opaque, gpa, data, len, write);
}

void bt_pio(struct bt_vcpu *c, uint16_t port, void *data, unsigned len, bool write)
{
    c->stat[BT_STAT_PIO]++;
    if (bt_irqchip_pio(c, port, data, len, write))
        return;
    if (write && bt_bell_ring(c->vm, true, port, data, len))
        return;
    bt_fp_sync(c);
    c->vm->bus->pio(c->vm->bus_opaque, port, data, len, write);
}
