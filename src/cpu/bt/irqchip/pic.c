/* The two 8259A interrupt controllers in cascade, with the ELCR of PCI chipsets. The state is kept in KVM's structure,
 * so that it moves without translation. priority_add is the line with the highest priority. All under chip->lock; the
 * output of the master is published in chip->pic_intr. Not implemented: 8080 mode, buffered mode and single mode (no PC
 * uses them). */
#include "cpu/bt/irqchip/chip.h"

#define PIC_CASCADE 2U

void bt_pic_reset(struct bt_irqchip *chip)
{
    for (unsigned i = 0; i < 2; i++)
        chip->pic[i] = (struct kvm_pic_state){ .elcr_mask = i == 0 ? 0xf8 : 0xde };
    atomic_store(&chip->pic_intr, false);
}

/* The line of highest priority in a set, -1 if that is empty; *rank (0 highest .. 8 none). */
static int pic_first(const struct kvm_pic_state *s, unsigned set, unsigned *rank)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned line = (i + s->priority_add) & 7;

        if (set & 1U << line) {
            *rank = i;
            return (int)line;
        }
    }
    *rank = 8;
    return -1;
}

/* The request that this controller signals at its output, -1 none. */
static int pic_request(const struct bt_irqchip *chip, unsigned which)
{
    const struct kvm_pic_state *s = &chip->pic[which];
    unsigned busy = s->isr, rank, busy_rank;
    int line = pic_first(s, s->irr & ~(unsigned)s->imr, &rank);

    if (s->special_mask)
        busy &= ~(unsigned)s->imr;
    /* In special fully nested mode the master lets further requests of the slave through. */
    if (which == 0 && s->special_fully_nested_mode)
        busy &= ~(1U << PIC_CASCADE);
    pic_first(s, busy, &busy_rank);
    return rank < busy_rank ? line : -1;
}

void bt_pic_update(struct bt_irqchip *chip)
{
    bool was = atomic_load(&chip->pic_intr), is;

    /* The slave's output is a level on the master's line 2: its request bit follows. */
    if (pic_request(chip, 1) >= 0)
        chip->pic[0].irr |= 1U << PIC_CASCADE;
    else
        chip->pic[0].irr &= (uint8_t) ~(1U << PIC_CASCADE);
    is = pic_request(chip, 0) >= 0;
    atomic_store(&chip->pic_intr, is);
    if (!is)
        return;
    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *l = chip_lapic(chip, i);

        if (!l)
            continue;
        if (bt_lapic_takes_pic(l))
            bt_vcpu_signal(l->c, BT_EV_IRQ);
        else if (!was && lapic_enabled(l))
            bt_lapic_local(l, LAPIC_LVT0); /* the wire programmed as fixed interrupt or NMI */
    }
}

int bt_pic_line(struct bt_irqchip *chip, unsigned irq, bool level)
{
    struct kvm_pic_state *s = &chip->pic[irq >> 3];
    uint8_t bit = (uint8_t)(1U << (irq & 7));
    int ret = -1;

    if (level) {
        /* Edge: a request only where the line was low; level: as long as it is high. */
        if ((s->elcr & bit) || !(s->last_irr & bit)) {
            if (!(s->imr & bit))
                ret = (s->irr & bit) ? 0 : 1;
            s->irr |= bit;
        }
        s->last_irr |= bit;
    } else {
        if (s->elcr & bit)
            s->irr &= (uint8_t)~bit;
        s->last_irr &= (uint8_t)~bit;
    }
    bt_pic_update(chip);
    return ret;
}

static void pic_take(struct kvm_pic_state *s, unsigned line)
{
    uint8_t bit = (uint8_t)(1U << line);

    if (!s->auto_eoi)
        s->isr |= bit;
    else if (s->rotate_on_auto_eoi)
        s->priority_add = (uint8_t)((line + 1) & 7);
    if (!(s->elcr & bit)) /* a level request lasts as long as the line does */
        s->irr &= (uint8_t)~bit;
}

int bt_pic_peek(struct bt_irqchip *chip)
{
    int line, second, vector = -1;

    bt_lock(&chip->lock);
    line = pic_request(chip, 0);
    second = pic_request(chip, 1);
    if (line == (int)PIC_CASCADE && second >= 0)
        vector = chip->pic[1].irq_base + second;
    else if (line >= 0)
        vector = chip->pic[0].irq_base + line;
    bt_unlock(&chip->lock);
    return vector;
}

int bt_pic_ack(struct bt_irqchip *chip)
{
    int line = pic_request(chip, 0), vector;

    if (line == (int)PIC_CASCADE) {
        int second = pic_request(chip, 1);

        pic_take(&chip->pic[0], PIC_CASCADE);
        if (second >= 0)
            pic_take(&chip->pic[1], (unsigned)second);
        else
            second = 7; /* spurious */
        vector = chip->pic[1].irq_base + second;
    } else if (line >= 0) {
        pic_take(&chip->pic[0], (unsigned)line);
        vector = chip->pic[0].irq_base + line;
    } else {
        vector = chip->pic[0].irq_base + 7;
    }
    bt_pic_update(chip);
    return vector;
}

static void pic_icw1(struct kvm_pic_state *s, uint8_t value)
{
    /* Edge sense is reset: last_irr stays, so a line that is high must go low before it counts again. */
    s->irr &= s->elcr;
    s->imr = s->isr = 0;
    s->priority_add = 0;
    s->special_mask = s->read_reg_select = s->poll = 0;
    s->auto_eoi = s->rotate_on_auto_eoi = s->special_fully_nested_mode = 0;
    s->init4 = value & 1;
    s->init_state = 1;
}

static void pic_ocw2(struct kvm_pic_state *s, uint8_t value)
{
    unsigned command = value >> 5, line = value & 7, busy = s->isr, rank;
    int first;

    switch (command) {
    case 0:
    case 4:
        s->rotate_on_auto_eoi = (uint8_t)(command >> 2);
        break;
    case 1:
    case 5: /* non-specific; in special mask mode it passes over masked levels */
        if (s->special_mask)
            busy &= ~(unsigned)s->imr;
        first = pic_first(s, busy, &rank);
        if (first < 0)
            break;
        s->isr &= (uint8_t) ~(1U << first);
        if (command == 5)
            s->priority_add = (uint8_t)((first + 1) & 7);
        break;
    case 3:
    case 7:
        s->isr &= (uint8_t) ~(1U << line);
        if (command == 7)
            s->priority_add = (uint8_t)((line + 1) & 7);
        break;
    case 6:
        s->priority_add = (uint8_t)((line + 1) & 7);
        break;
    default:
        break;
    }
}

static void pic_ocw3(struct kvm_pic_state *s, uint8_t value)
{
    if (value & 0x04)
        s->poll = 1;
    if (value & 0x02)
        s->read_reg_select = value & 1;
    if (value & 0x40)
        s->special_mask = value >> 5 & 1;
}

/* Even address: ICW1, OCW2, OCW3. Odd: ICW2..4 during initialisation, then the mask. */
static void pic_write_one(struct kvm_pic_state *s, bool odd, uint8_t value)
{
    if (!odd) {
        if (value & 0x10)
            pic_icw1(s, value);
        else if (value & 0x08)
            pic_ocw3(s, value);
        else
            pic_ocw2(s, value);
        return;
    }
    switch (s->init_state) {
    case 1:
        s->irq_base = value & 0xf8;
        s->init_state = 2;
        break;
    case 2: /* ICW3: the cascade is wired */
        s->init_state = s->init4 ? 3 : 0;
        break;
    case 3:
        s->special_fully_nested_mode = value >> 4 & 1;
        s->auto_eoi = value >> 1 & 1;
        s->init_state = 0;
        break;
    default:
        s->imr = value;
        break;
    }
}

void bt_pic_write(struct bt_irqchip *chip, uint16_t port, uint8_t value)
{
    if (port == 0x4d0 || port == 0x4d1)
        chip->pic[port & 1].elcr = value & chip->pic[port & 1].elcr_mask;
    else
        pic_write_one(&chip->pic[port >> 7 & 1], port & 1, value);
    bt_pic_update(chip);
}

uint8_t bt_pic_read(struct bt_irqchip *chip, uint16_t port)
{
    unsigned which = port >> 7 & 1;
    struct kvm_pic_state *s = &chip->pic[which];

    if (port == 0x4d0 || port == 0x4d1)
        return chip->pic[port & 1].elcr;
    if (s->poll) { /* a read after the poll command acknowledges */
        int line = pic_request(chip, which);

        s->poll = 0;
        if (line < 0)
            return 0;
        pic_take(s, (unsigned)line);
        bt_pic_update(chip);
        return (uint8_t)(0x80 | line);
    }
    if (port & 1)
        return s->imr;
    return s->read_reg_select ? s->isr : s->irr;
}
