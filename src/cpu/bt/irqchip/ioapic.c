/* IOAPIC (82093AA): 24 pins, indirect registers at 0xfec00000. Polarity is kept but not applied: devices say "asserted"
 * or not. A level-triggered pin is served when its line is asserted, it is unmasked and its remote IRR is clear; EOI
 * clears the latter and serves the pin again if the line still is asserted. All under chip->lock. */
#include "cpu/bt/irqchip/chip.h"

#define IOAPIC_VERSION (0x11U | (KVM_IOAPIC_NUM_PINS - 1U) << 16)
#define REDIR_LOGICAL (1ULL << 11)
#define REDIR_STATUS (1ULL << 12)
#define REDIR_REMOTE_IRR (1ULL << 14)
#define REDIR_LEVEL (1ULL << 15)
#define REDIR_MASKED (1ULL << 16)
/* Bits that software can write; 55..49 are the extended destination of KVM_FEATURE_MSI_EXT_DEST_ID. */
#define REDIR_WRITABLE (0xfffe000000000000ULL | 0x1afffULL)

void bt_ioapic_reset(struct bt_ioapic *io)
{
    io->select = io->id = io->lines = 0;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        io->redir[i] = REDIR_MASKED;
}

/* Send the message of a pin that is due. */
static int ioapic_serve(struct bt_irqchip *chip, unsigned pin)
{
    uint64_t e = chip->ioapic.redir[pin];
    struct bt_msg m = { .vector = (uint8_t)e, .mode = (uint8_t)(e >> 8 & 7), .logical = (e & REDIR_LOGICAL) != 0 };
    int r;

    m.level = (e & REDIR_LEVEL) != 0;
    m.dest = (uint32_t)(e >> 56) | (uint32_t)(e >> 49 & 0x7f) << 8;
    m.broadcast = m.dest == 0xff;
    /* ExtINT pins are not connected to the PIC here (LINT0 is). */
    r = bt_msg_send(chip, &m);
    if (m.level && r >= 0) /* where nobody took it, it is tried again */
        chip->ioapic.redir[pin] |= REDIR_REMOTE_IRR;
    return r;
}

/* A level-triggered pin: serve it if it is due. */
static int ioapic_check_level(struct bt_irqchip *chip, unsigned pin)
{
    uint64_t e = chip->ioapic.redir[pin];

    if (!(e & REDIR_LEVEL) || !(chip->ioapic.lines & 1U << pin) || (e & REDIR_MASKED))
        return -1;
    return (e & REDIR_REMOTE_IRR) ? 0 : ioapic_serve(chip, pin);
}

int bt_ioapic_line(struct bt_irqchip *chip, unsigned pin, bool level)
{
    struct bt_ioapic *io = &chip->ioapic;
    bool was = (io->lines & 1U << pin) != 0;
    uint64_t e = io->redir[pin];

    if (level)
        io->lines |= 1U << pin;
    else
        io->lines &= ~(1U << pin);
    if (e & REDIR_LEVEL)
        return ioapic_check_level(chip, pin);
    if (was || !level || (e & REDIR_MASKED))
        return -1;
    return ioapic_serve(chip, pin);
}

void bt_ioapic_eoi(struct bt_irqchip *chip, unsigned vector)
{
    for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
        uint64_t e = chip->ioapic.redir[pin];

        if ((e & 0xff) != vector || !(e & REDIR_LEVEL) || !(e & REDIR_REMOTE_IRR))
            continue;
        chip->ioapic.redir[pin] = e & ~REDIR_REMOTE_IRR;
        ioapic_check_level(chip, pin);
    }
}

uint32_t bt_ioapic_read(struct bt_irqchip *chip, unsigned offset)
{
    const struct bt_ioapic *io = &chip->ioapic;
    unsigned reg = io->select, pin = (reg - 0x10) / 2;

    if (offset == 0)
        return io->select;
    if (offset != 0x10)
        return 0;
    if (reg == 0)
        return io->id << 24;
    if (reg == 1)
        return IOAPIC_VERSION;
    if (reg == 2)
        return io->id << 24;
    if (reg < 0x10 || pin >= KVM_IOAPIC_NUM_PINS)
        return 0;
    return (uint32_t)(io->redir[pin] >> (reg & 1 ? 32 : 0));
}

static void ioapic_write_redir(struct bt_irqchip *chip, unsigned pin, bool high, uint32_t value)
{
    uint64_t *e = &chip->ioapic.redir[pin], v;

    v = high ? (*e & 0xffffffff) | (uint64_t)value << 32 : (*e & 0xffffffff00000000ULL) | value;
    v = (v & REDIR_WRITABLE) | (*e & REDIR_REMOTE_IRR);
    /* Making a pin edge-triggered clears its remote IRR; guests use that in place of an EOI register. */
    if (!(v & REDIR_LEVEL))
        v &= ~REDIR_REMOTE_IRR;
    *e = v;
    ioapic_check_level(chip, pin);
}

void bt_ioapic_write(struct bt_irqchip *chip, unsigned offset, uint32_t value)
{
    struct bt_ioapic *io = &chip->ioapic;
    unsigned reg = io->select, pin = (reg - 0x10) / 2;

    if (offset == 0)
        io->select = value & 0xff;
    else if (offset != 0x10)
        return; /* an EOI register at 0x40 came with version 0x20 */
    else if (reg == 0)
        io->id = value >> 24 & 0xf;
    else if (reg >= 0x10 && pin < KVM_IOAPIC_NUM_PINS)
        ioapic_write_redir(chip, pin, (reg & 1) != 0, value);
}

void bt_ioapic_get(struct bt_irqchip *chip, struct kvm_ioapic_state *s)
{
    s->base_address = 0xfec00000;
    s->ioregsel = chip->ioapic.select;
    s->id = chip->ioapic.id;
    s->irr = chip->ioapic.lines;
    s->pad = 0;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        s->redirtbl[i].bits = chip->ioapic.redir[i];
}

void bt_ioapic_set(struct bt_irqchip *chip, const struct kvm_ioapic_state *s)
{
    chip->ioapic.select = s->ioregsel & 0xff;
    chip->ioapic.id = s->id & 0xf;
    chip->ioapic.lines = s->irr & 0xffffff;
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        uint64_t v = s->redirtbl[i].bits & (REDIR_WRITABLE | REDIR_REMOTE_IRR);

        chip->ioapic.redir[i] = (v & REDIR_LEVEL) ? v : v & ~REDIR_REMOTE_IRR;
    }
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        ioapic_check_level(chip, i);
}
