/* Entrances of the interrupt controllers: lines, device registers, state of the shared chips. */
#include "cpu/bt/irqchip/chip.h"

#include <errno.h>

#define IOAPIC_BASE 0xfec00000ULL

int bt_chip_line(struct bt_irqchip *chip, unsigned gsi, bool level)
{
    int pic = -1, io = -1;

    if (gsi < 16 && gsi != 2)
        pic = bt_pic_line(chip, gsi, level);
    /* The timer's line goes to pin 2 (the usual interrupt source override); GSI 2 is the PICs' cascade. */
    if (gsi != 2)
        io = bt_ioapic_line(chip, gsi == 0 ? 2 : gsi, level);
    return MAX(pic, io);
}

void bt_irq_line(struct bt_vm *vm, unsigned gsi, bool level)
{
    struct bt_irqchip *chip = vm->irqchip;

    if (gsi >= KVM_IOAPIC_NUM_PINS)
        return;
    bt_lock(&chip->lock);
    bt_chip_line(chip, gsi, level);
    bt_unlock(&chip->lock);
}

static void ioapic_mmio(struct bt_irqchip *chip, uint64_t gpa, void *data, unsigned len, bool write)
{
    unsigned off = (unsigned)(gpa & 0xff);
    uint8_t *bytes = data;
    uint32_t value = 0;

    bt_lock(&chip->lock);
    if (write) {
        /* A byte write reaches the select register, whose other bytes are reserved; the window takes 32 bits. */
        for (unsigned i = 0; i < MIN(len, 4U); i++)
            value |= (uint32_t)bytes[i] << (8 * i);
        if ((off == 0 || len >= 4) && (off & 0xf) == 0)
            bt_ioapic_write(chip, off, value);
    } else {
        value = bt_ioapic_read(chip, off & ~0xfU);
        for (unsigned i = 0; i < len; i++) {
            unsigned at = (off & 0xf) + i;

            bytes[i] = (uint8_t)(at < 4 ? value >> (8 * at) : 0);
        }
    }
    bt_unlock(&chip->lock);
}

bool bt_irqchip_mmio(struct bt_vcpu *c, uint64_t gpa, void *data, unsigned len, bool write)
{
    if (bt_lapic_mmio(c->lapic, gpa, data, len, write))
        return true;
    if ((gpa & ~0xfffULL) != IOAPIC_BASE)
        return false;
    ioapic_mmio(c->lapic->chip, gpa, data, len, write);
    return true;
}

/* One byte; false: not our port. */
static bool chip_pio_byte(struct bt_irqchip *chip, uint16_t port, uint8_t *byte, bool write)
{
    switch (port) {
    case 0x20:
    case 0x21:
    case 0xa0:
    case 0xa1:
    case 0x4d0:
    case 0x4d1:
        if (write)
            bt_pic_write(chip, port, *byte);
        else
            *byte = bt_pic_read(chip, port);
        return true;
    case 0x40 ... 0x43:
    case 0x61:
        if (write)
            bt_pit_write(chip, port, *byte);
        else
            *byte = bt_pit_read(chip, port);
        return true;
    default:
        return false;
    }
}

bool bt_irqchip_pio(struct bt_vcpu *c, uint16_t port, void *data, unsigned len, bool write)
{
    struct bt_irqchip *chip = c->lapic->chip;
    uint8_t *bytes = data;

    /* Quick way out for everything else: all ports of ours are below 0x4d2. */
    if (port > 0x4d1)
        return false;
    bt_lock(&chip->lock);
    if (!chip_pio_byte(chip, port, &bytes[0], write)) {
        bt_unlock(&chip->lock);
        return false;
    }
    /* Wider accesses go to consecutive byte ports; those of others are not reached. */
    for (unsigned i = 1; i < len; i++) {
        if (!chip_pio_byte(chip, (uint16_t)(port + i), &bytes[i], write) && !write)
            bytes[i] = 0xff;
    }
    bt_unlock(&chip->lock);
    return true;
}

static void pic_import(struct bt_irqchip *chip, unsigned which, const struct kvm_pic_state *s)
{
    struct kvm_pic_state *to = &chip->pic[which];

    *to = *s;
    to->elcr_mask = which == 0 ? 0xf8 : 0xde;
    to->elcr &= to->elcr_mask;
    to->priority_add &= 7;
    to->irq_base &= 0xf8;
    to->init_state &= 3;
}

int bt_irqchip_get(struct bt_vm *vm, struct kvm_irqchip *chip)
{
    struct bt_irqchip *own = vm->irqchip;
    int ret = 0;

    bt_lock(&own->lock);
    switch (chip->chip_id) {
    case KVM_IRQCHIP_PIC_MASTER:
    case KVM_IRQCHIP_PIC_SLAVE:
        chip->chip.pic = own->pic[chip->chip_id];
        break;
    case KVM_IRQCHIP_IOAPIC:
        bt_ioapic_get(own, &chip->chip.ioapic);
        break;
    default:
        ret = -EINVAL;
    }
    bt_unlock(&own->lock);
    return ret;
}

int bt_irqchip_set(struct bt_vm *vm, const struct kvm_irqchip *chip)
{
    struct bt_irqchip *own = vm->irqchip;
    int ret = 0;

    bt_lock(&own->lock);
    switch (chip->chip_id) {
    case KVM_IRQCHIP_PIC_MASTER:
    case KVM_IRQCHIP_PIC_SLAVE:
        pic_import(own, chip->chip_id, &chip->chip.pic);
        bt_pic_update(own);
        break;
    case KVM_IRQCHIP_IOAPIC:
        bt_ioapic_set(own, &chip->chip.ioapic);
        break;
    default:
        ret = -EINVAL;
    }
    bt_unlock(&own->lock);
    return ret;
}
