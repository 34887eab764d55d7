/* The 8254 interval timer (ports 0x40..0x43) and the bits of port 0x61 that belong to it. Nothing ticks: counts and
 * outputs are computed from the time since a count was loaded. Channel 0 drives GSI 0; channel 2's gate and output are
 * in port 0x61. One simplification: a count is in force at once, where the chip takes it over with the next clock pulse
 * (0.8 us). All under chip->lock. */
#include "cpu/bt/irqchip/chip.h"

#define PIT_HZ 1193182ULL
#define NS_PER_S 1000000000ULL
/* Ticks that a guest can be owed, delivered as fast as it takes them: bridges a stalled host, not a stopped VM. */
#define PIT_OWED_MAX 64U
#define PIT_MIN_PERIOD_NS 50000ULL

static uint64_t pit_from_ns(uint64_t ns)
{
    return bt_muldiv(ns, PIT_HZ, NS_PER_S);
}

/* Rounded up: pit_from_ns(pit_to_ns(n)) == n. */
static uint64_t pit_to_ns(uint64_t ticks)
{
    uint64_t ns = bt_muldiv(ticks, NS_PER_S, PIT_HZ);

    return ns == UINT64_MAX ? ns : ns + 1;
}

static bool pit_is_periodic(const struct bt_pit_channel *ch)
{
    return ch->mode == 2 || ch->mode == 3;
}

static uint64_t pit_ticks(const struct bt_pit_channel *ch, uint64_t now)
{
    if (ch->held)
        return ch->held_ticks;
    return now > ch->load_ns ? pit_from_ns(now - ch->load_ns) : 0;
}

static void pit_load(struct bt_pit_channel *ch, uint32_t count, uint64_t now)
{
    ch->count = count;
    ch->next_count = 0;
    ch->load_ns = now;
    ch->held_ticks = 0;
    ch->edges = 0;
    ch->running = true;
}

/* Rising edges of OUT in the first d ticks after loading (the level right after loading is no edge). */
static uint64_t pit_edges(const struct bt_pit_channel *ch, uint64_t d)
{
    if (!ch->running)
        return 0;
    switch (ch->mode) {
    case 2:
    case 3:
        return d / ch->count;
    case 4:
    case 5:
        return d >= (uint64_t)ch->count + 1;
    default:
        return d >= ch->count;
    }
}

static void pit_owe(struct bt_irqchip *chip, uint64_t edges)
{
    uint64_t owed = atomic_load_explicit(&chip->pit.owed, memory_order_relaxed) + MIN(edges, PIT_OWED_MAX);

    atomic_store(&chip->pit.owed, (uint32_t)MIN(owed, PIT_OWED_MAX));
}

/* Bring a channel to the present: take over a new count at the end of a period, and count channel 0's edges. */
static void pit_sync(struct bt_irqchip *chip, struct bt_pit_channel *ch, uint64_t now)
{
    uint64_t d = pit_ticks(ch, now), edges;

    if (ch->next_count && pit_is_periodic(ch) && ch->running && d >= ch->switch_ticks) {
        edges = pit_edges(ch, ch->switch_ticks) - ch->edges;
        if (ch == &chip->pit.ch[0])
            pit_owe(chip, edges);
        pit_load(ch, ch->next_count, ch->load_ns + pit_to_ns(ch->switch_ticks));
        d = pit_ticks(ch, now);
    }
    edges = pit_edges(ch, d);
    if (ch == &chip->pit.ch[0] && edges > ch->edges)
        pit_owe(chip, edges - ch->edges);
    ch->edges = edges;
}

static bool pit_out(const struct bt_pit_channel *ch, uint64_t now)
{
    uint64_t d = pit_ticks(ch, now);

    if (!ch->running)
        return ch->mode != 0;
    switch (ch->mode) {
    case 0:
    case 1:
        return d >= ch->count;
    case 2:
        return ch->held || d % ch->count != ch->count - 1;
    case 3:
        return ch->held || d % ch->count < (ch->count + 1) / 2;
    default:
        return d != ch->count;
    }
}

static uint32_t pit_to_bcd(uint32_t v)
{
    return v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12;
}

/* What a read of the counting element gives. */
static uint16_t pit_counter(const struct bt_pit_channel *ch, uint64_t now)
{
    uint64_t d = pit_ticks(ch, now), left, wrap = ch->bcd ? 10000 : 65536;

    if (!ch->loaded)
        return 0;
    if (!ch->running)
        left = ch->count;
    else if (ch->mode == 3) /* counts by two, twice in a period */
        left = (ch->count & ~1U) - 2 * d % MAX(ch->count & ~1U, 2U);
    else if (ch->mode == 2)
        left = ch->count - d % ch->count;
    else
        left = ch->count + wrap - d % wrap; /* goes on below zero */
    left %= wrap;
    return (uint16_t)(ch->bcd ? pit_to_bcd((uint32_t)left) : left);
}

static void pit_latch_count(struct bt_pit_channel *ch, uint64_t now)
{
    if (ch->count_latched)
        return;
    ch->latched_count = pit_counter(ch, now);
    ch->count_latched = ch->rw_mode;
}

static void pit_latch_status(struct bt_pit_channel *ch, uint64_t now)
{
    bool null = !ch->loaded || ch->next_count != 0;

    if (ch->status_latched)
        return;
    ch->status = (uint8_t)(pit_out(ch, now) << 7 | null << 6 | ch->rw_mode << 4 | ch->mode << 1 | ch->bcd);
    ch->status_latched = 1;
}

static void pit_control(struct bt_irqchip *chip, uint8_t value, uint64_t now)
{
    unsigned which = value >> 6, rw = value >> 4 & 3, mode = value >> 1 & 7;
    struct bt_pit_channel *ch;

    if (which == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & 2U << i))
                continue;
            pit_sync(chip, &chip->pit.ch[i], now);
            if (!(value & 0x20))
                pit_latch_count(&chip->pit.ch[i], now);
            if (!(value & 0x10))
                pit_latch_status(&chip->pit.ch[i], now);
        }
        return;
    }
    ch = &chip->pit.ch[which];
    pit_sync(chip, ch, now);
    if (rw == 0) {
        pit_latch_count(ch, now);
        return;
    }
    ch->rw_mode = (uint8_t)rw;
    ch->mode = (uint8_t)(mode > 5 ? mode - 4 : mode);
    ch->bcd = value & 1;
    ch->read_msb = ch->write_msb = ch->count_latched = ch->status_latched = 0;
    ch->loaded = ch->running = false;
    ch->held = !ch->gate;
    ch->next_count = 0;
    ch->held_ticks = ch->edges = 0;
}

/* A whole count has been written. */
static void pit_write_count(struct bt_irqchip *chip, struct bt_pit_channel *ch, unsigned value, uint64_t now)
{
    uint32_t count = value;

    if (ch->bcd)
        count = (value & 0xf) + (value >> 4 & 0xf) * 10 + (value >> 8 & 0xf) * 100 + (value >> 12 & 0xf) * 1000;
    if (count == 0)
        count = ch->bcd ? 10000 : 65536;
    pit_sync(chip, ch, now);
    if (ch->mode == 1 || ch->mode == 5) { /* waits for the trigger */
        if (!ch->running)
            ch->count = count;
        ch->next_count = ch->running ? count : 0;
    } else if (pit_is_periodic(ch) && ch->running && !ch->held) {
        ch->next_count = count;
        ch->switch_ticks = (pit_ticks(ch, now) / ch->count + 1) * ch->count;
    } else {
        pit_load(ch, count, now);
    }
    ch->loaded = true;
}

static void pit_write_data(struct bt_irqchip *chip, struct bt_pit_channel *ch, uint8_t value, uint64_t now)
{
    switch (ch->rw_mode) {
    case 1:
        pit_write_count(chip, ch, value, now);
        break;
    case 2:
        pit_write_count(chip, ch, (unsigned)value << 8, now);
        break;
    case 3:
        if (ch->write_msb) {
            ch->write_msb = 0;
            pit_write_count(chip, ch, (unsigned)value << 8 | ch->write_low, now);
            break;
        }
        ch->write_low = value;
        ch->write_msb = 1;
        if (ch->mode == 0) { /* the first byte stops the count, and OUT goes low */
            pit_sync(chip, ch, now);
            ch->running = false;
            ch->edges = 0;
        }
        break;
    default: /* no control word yet */
        break;
    }
}

static uint8_t pit_read_data(struct bt_pit_channel *ch, uint64_t now)
{
    uint16_t value;

    if (ch->status_latched) {
        ch->status_latched = 0;
        return ch->status;
    }
    value = ch->count_latched ? ch->latched_count : pit_counter(ch, now);
    if (ch->rw_mode == 3) {
        bool msb = ch->read_msb != 0;

        ch->read_msb = !msb;
        if (msb)
            ch->count_latched = 0;
        return (uint8_t)(msb ? value >> 8 : value);
    }
    ch->count_latched = 0;
    return (uint8_t)(ch->rw_mode == 2 ? value >> 8 : value);
}

static void pit_gate(struct bt_irqchip *chip, struct bt_pit_channel *ch, bool gate, uint64_t now)
{
    if (gate == ch->gate)
        return;
    pit_sync(chip, ch, now);
    ch->gate = gate;
    if (ch->mode == 1 || ch->mode == 5) {
        ch->held = false;
        if (gate && ch->loaded)
            pit_load(ch, ch->next_count ? ch->next_count : ch->count, now);
        return;
    }
    if (!gate) {
        ch->held_ticks = pit_ticks(ch, now);
        ch->held = true;
        return;
    }
    ch->held = false;
    if (!ch->running)
        return;
    if (pit_is_periodic(ch)) /* a rising gate starts the period anew */
        pit_load(ch, ch->next_count ? ch->next_count : ch->count, now);
    else
        ch->load_ns = now - MIN(now, pit_to_ns(ch->held_ticks));
}

/* VM ns of channel 0's next rising edge. */
static uint64_t pit_next_edge(const struct bt_pit_channel *ch)
{
    uint64_t ticks;

    if (!ch->running || ch->held)
        return UINT64_MAX;
    if (pit_is_periodic(ch)) {
        ticks = (ch->edges + 1) * ch->count;
    } else {
        if (ch->edges)
            return UINT64_MAX;
        ticks = (uint64_t)ch->count + (ch->mode >= 4);
    }
    return ch->load_ns + pit_to_ns(ticks);
}

void bt_pit_run(struct bt_irqchip *chip, uint64_t now)
{
    struct bt_pit_channel *ch = &chip->pit.ch[0];
    uint32_t owed;
    uint64_t next;

    pit_sync(chip, ch, now);
    owed = atomic_load_explicit(&chip->pit.owed, memory_order_relaxed);
    if (owed && (chip->pit.flags & KVM_PIT_FLAGS_HPET_LEGACY)) {
        atomic_store(&chip->pit.owed, 0);
    } else if (owed) {
        int r = bt_chip_line(chip, 0, true);

        bt_chip_line(chip, 0, false);
        /* Masked everywhere: these ticks are nobody's. Coalesced: try again when the guest has taken the last. */
        if (r < 0)
            atomic_store(&chip->pit.owed, 0);
        else if (r > 0)
            atomic_store(&chip->pit.owed, owed - 1);
    }
    /* Ticks that follow each other faster than this are counted together. */
    next = MAX(pit_next_edge(ch), now + PIT_MIN_PERIOD_NS);
    atomic_store(&chip->pit_next_ns, next);
    if (next != UINT64_MAX)
        bt_ticker_arm(chip, next);
}

void bt_pit_reset(struct bt_irqchip *chip)
{
    for (unsigned i = 0; i < 3; i++)
        chip->pit.ch[i] = (struct bt_pit_channel){ .count = 65536, .mode = 3, .gate = i != 2, .held = i == 2 };
    chip->pit.speaker = 0;
    chip->pit.flags = 0;
    atomic_store(&chip->pit.owed, 0);
    atomic_store(&chip->pit_next_ns, UINT64_MAX);
}

uint8_t bt_pit_read(struct bt_irqchip *chip, uint16_t port)
{
    uint64_t now = chip_now(chip);

    if (port == 0x61) {
        struct bt_pit_channel *ch = &chip->pit.ch[2];

        pit_sync(chip, ch, now);
        return (uint8_t)(ch->gate | chip->pit.speaker << 1 | (now >> 14 & 1) << 4 | pit_out(ch, now) << 5);
    }
    if (port == 0x43)
        return 0xff; /* write-only */
    pit_sync(chip, &chip->pit.ch[port & 3], now);
    return pit_read_data(&chip->pit.ch[port & 3], now);
}

void bt_pit_write(struct bt_irqchip *chip, uint16_t port, uint8_t value)
{
    uint64_t now = chip_now(chip);

    if (port == 0x61) {
        chip->pit.speaker = value >> 1 & 1;
        pit_gate(chip, &chip->pit.ch[2], value & 1, now);
        return;
    }
    if (port == 0x43)
        pit_control(chip, value, now);
    else
        pit_write_data(chip, &chip->pit.ch[port & 3], value, now);
    if (port == 0x40 || port == 0x43) {
        struct bt_lapic *first = chip_lapic(chip, 0);

        bt_pit_run(chip, now);
        /* vCPU 0 serves the PIT; if it waits in HLT, its timeout is for the old count. */
        if (first && atomic_load(&first->idle))
            bt_vcpu_signal(first->c, BT_EV_TIMER);
    }
}

/* count_load_time is a host time in KVM, which no one can use elsewhere and which KVM ignores when it is set. Here it
 * is minus the age of the count in ns: a transfer between two of these engines keeps the phase. */
static void pit_export(struct bt_irqchip *chip, unsigned i, struct kvm_pit_channel_state *s, uint64_t now)
{
    struct bt_pit_channel *ch = &chip->pit.ch[i];
    uint64_t age;

    pit_sync(chip, ch, now);
    age = ch->held ? pit_to_ns(ch->held_ticks) : now - MIN(now, ch->load_ns);
    if (pit_is_periodic(ch) && ch->running && ch->edges)
        age -= MIN(age, pit_to_ns(ch->edges * ch->count)); /* since the last period began */
    *s = (struct kvm_pit_channel_state){
        .count = ch->loaded ? (ch->next_count ? ch->next_count : ch->count) : 0,
        .latched_count = ch->latched_count,
        .count_latched = ch->count_latched,
        .status_latched = ch->status_latched,
        .status = ch->status,
        /* KVM: 1 low byte, 2 high byte, 3 and 4 first and second of both */
        .read_state = ch->rw_mode == 3 ? (uint8_t)(3 + ch->read_msb) : ch->rw_mode,
        .write_state = ch->rw_mode == 3 ? (uint8_t)(3 + ch->write_msb) : ch->rw_mode,
        .write_latch = ch->write_low,
        .rw_mode = ch->rw_mode,
        .mode = ch->mode,
        .bcd = ch->bcd,
        .gate = ch->gate,
        .count_load_time = ch->running ? -(int64_t)(age & INT64_MAX) : 0,
    };
}

static void pit_import(struct bt_irqchip *chip, unsigned i, const struct kvm_pit_channel_state *s, uint64_t now)
{
    struct bt_pit_channel *ch = &chip->pit.ch[i];
    uint64_t age = s->count_load_time < 0 ? 0 - (uint64_t)s->count_load_time : 0;

    *ch = (struct bt_pit_channel){
        .count = s->count == 0 || s->count > 65536 ? 65536 : s->count,
        .latched_count = s->latched_count,
        .count_latched = s->count_latched & 3,
        .status_latched = s->status_latched & 1,
        .status = s->status,
        .read_msb = s->read_state == 4,
        .write_msb = s->write_state == 4,
        .write_low = s->write_latch,
        .rw_mode = s->rw_mode & 3,
        .mode = (uint8_t)((s->mode & 7) > 5 ? (s->mode & 7) - 4 : s->mode & 7),
        .bcd = s->bcd & 1,
        .gate = s->gate & 1,
    };
    ch->loaded = s->count != 0;
    if (!ch->loaded || ((ch->mode == 1 || ch->mode == 5) && s->count_load_time == 0))
        return;
    pit_load(ch, ch->count, now - MIN(now, age));
    ch->held = !ch->gate && ch->mode != 1 && ch->mode != 5;
    ch->held_ticks = ch->held ? pit_from_ns(age) : 0;
    ch->edges = pit_edges(ch, pit_ticks(ch, now)); /* those have been delivered */
}

int bt_pit_get(struct bt_vm *vm, struct kvm_pit_state2 *pit)
{
    struct bt_irqchip *chip = vm->irqchip;
    uint64_t now = chip_now(chip);

    bt_lock(&chip->lock);
    for (unsigned i = 0; i < 3; i++)
        pit_export(chip, i, &pit->channels[i], now);
    pit->flags = chip->pit.flags | (chip->pit.speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
    for (unsigned i = 0; i < ARRAY_SIZE(pit->reserved); i++)
        pit->reserved[i] = 0;
    pit->reserved[0] = atomic_load(&chip->pit.owed); /* KVM ignores it */
    bt_unlock(&chip->lock);
    return 0;
}

int bt_pit_set(struct bt_vm *vm, const struct kvm_pit_state2 *pit)
{
    struct bt_irqchip *chip = vm->irqchip;
    uint64_t now = chip_now(chip);

    bt_lock(&chip->lock);
    for (unsigned i = 0; i < 3; i++)
        pit_import(chip, i, &pit->channels[i], now);
    chip->pit.flags = pit->flags & KVM_PIT_FLAGS_HPET_LEGACY;
    chip->pit.speaker = (pit->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) != 0;
    atomic_store(&chip->pit.owed, MIN(pit->reserved[0], PIT_OWED_MAX));
    bt_pit_run(chip, now);
    bt_unlock(&chip->lock);
    return 0;
}
