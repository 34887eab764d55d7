/* Private to irqchip/: the structures behind struct bt_irqchip and struct bt_lapic.
 *
 * Who may touch what
 *  - PIC, IOAPIC, PIT and gsi levels: under chip->lock. bt_vcpu_signal may be called with the lock held; it takes none
 * of ours.
 *  - LAPIC registers are written by the vCPU's own thread (or while it does not run), except IRR, TMR and the ESR
 *    accumulator, which any thread may set; others read LDR, DFR, SVR, TPR, LVT0 and the base. Hence all are atomics,
 * relaxed but for IRR. No lock is needed to send an interrupt from one vCPU to another.
 *  - times are "VM ns": nanoseconds of chip->clock, so that nothing here needs a system call to know the time. */
#ifndef CPU_BT_IRQCHIP_CHIP_H
#define CPU_BT_IRQCHIP_CHIP_H

#include <pthread.h>

#include "cpu/bt/irqchip/host.h"
#include "cpu/bt/irqchip/irqchip.h"
#include "cpu/bt/state.h"

/* LAPIC registers: offset in the xAPIC page >> 4, which is also the x2APIC MSR number - 0x800. */
enum {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_RRD = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10,
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_ICR = 0x30,
    LAPIC_ICR2 = 0x31,
    LAPIC_LVTT = 0x32,
    LAPIC_LVT_THERMAL = 0x33,
    LAPIC_LVT_PERF = 0x34,
    LAPIC_LVT0 = 0x35,
    LAPIC_LVT1 = 0x36,
    LAPIC_LVT_ERROR = 0x37,
    LAPIC_TMICT = 0x38,
    LAPIC_TMCCT = 0x39,
    LAPIC_TDCR = 0x3e,
    LAPIC_SELF_IPI = 0x3f,
    LAPIC_NREGS = 0x40
};
#define LAPIC_VERSION_VALUE 0x00050014U /* integrated, 6 LVT entries (no CMCI), no directed EOI */
#define LAPIC_LVT_MASKED (1U << 16)
#define LAPIC_SVR_ENABLE (1U << 8)
#define LAPIC_ESR_SEND_VECTOR (1U << 5)
#define LAPIC_ESR_RECV_VECTOR (1U << 6)
#define LAPIC_ESR_REGISTER (1U << 7)

#define APIC_BASE_BSP (1ULL << 8)
#define APIC_BASE_EXTD (1ULL << 10)
#define APIC_BASE_EN (1ULL << 11)
#define APIC_BASE_DEFAULT 0xfee00000ULL

/* Delivery modes */
enum { APIC_FIXED, APIC_LOWEST, APIC_SMI, APIC_RESERVED, APIC_NMI, APIC_INIT, APIC_SIPI, APIC_EXTINT };
/* LVT timer modes */
enum { APIC_TIMER_ONESHOT, APIC_TIMER_PERIODIC, APIC_TIMER_DEADLINE };

struct bt_lapic {
    struct bt_vcpu *c;
    struct bt_irqchip *chip;
    _Atomic uint64_t base; /* IA32_APIC_BASE */
    _Atomic uint32_t regs[LAPIC_NREGS];
    _Atomic uint32_t esr;         /* errors since the last write to ESR */
    _Atomic uint32_t arbitration; /* lowest-priority messages received: evens out the choice */
    /* The timer. target_ns: VM ns of expiry, 0 = stopped; period_ns: TMICT times divider. */
    uint64_t target_ns, period_ns;
    uint64_t tsc_deadline; /* guest TSC, 0 = disarmed */
    bool pv_eoi_armed;     /* the guest was told that it may skip the EOI of the present interrupt */
    /* For the ticker */
    _Atomic uint64_t next_ns; /* VM ns of the next expiry, UINT64_MAX none */
    _Atomic bool told;        /* BT_EV_TIMER was signalled and bt_timers_run has not run since */
    _Atomic bool idle;        /* waits in HLT with its own timeout */
};

struct bt_ioapic {
    uint32_t select, id;
    uint32_t lines; /* levels of the 24 inputs */
    uint64_t redir[KVM_IOAPIC_NUM_PINS];
};

struct bt_pit_channel {
    uint32_t count;      /* in use: 1..65536 */
    uint32_t next_count; /* written, taken over at switch_ticks (modes 2, 3) or by the next trigger (1, 5); 0 none */
    uint64_t switch_ticks;
    uint64_t load_ns;    /* VM ns at which count was loaded */
    uint64_t held_ticks; /* ticks done when the gate closed */
    uint64_t edges;      /* rising edges of OUT since load that were seen */
    uint16_t latched_count;
    uint8_t count_latched; /* rw mode of the latched count, bytes still to read; 0 none */
    uint8_t status_latched, status;
    uint8_t read_msb, write_msb; /* rw mode 3: the next access is the high byte */
    uint8_t write_low;           /* low byte, waiting for the high one */
    uint8_t rw_mode, mode, bcd, gate;
    bool loaded;  /* a count was written since the control word */
    bool running; /* counting has begun (modes 1 and 5: triggered) */
    bool held;    /* gate closed */
};

struct bt_pit {
    struct bt_pit_channel ch[3];
    uint8_t speaker;       /* port 0x61 bit 1 */
    uint32_t flags;        /* KVM_PIT_FLAGS_HPET_LEGACY: channel 0 does not drive its line */
    _Atomic uint32_t owed; /* ticks that the guest has not taken yet */
};

struct bt_irqchip {
    struct bt_vm *vm;
    struct bt_clock clock;
    struct bt_lock lock;
    struct kvm_pic_state pic[2];
    _Atomic bool pic_intr; /* INTR output of the master */
    struct bt_ioapic ioapic;
    struct bt_pit pit;
    _Atomic(struct bt_lapic *) lapics[CPU_VCPUS_MAX];
    /* The ticker thread (ticker.c) */
    _Atomic uint64_t pit_next_ns; /* VM ns of the PIT's next interrupt, UINT64_MAX none */
    _Atomic uint64_t armed_ns;    /* when the ticker wakes by itself; UINT64_MAX: always wake it */
    _Atomic uint32_t ticker_seq;  /* futex word */
    _Atomic bool ticker_stop;
    bool ticker_started;
    pthread_t ticker;
};

/* An interrupt message on the (virtual) system bus. */
struct bt_msg {
    uint32_t dest;
    uint8_t vector, mode;
    bool logical, level, broadcast;
};

static ALWAYS_INLINE uint32_t lapic_get(const struct bt_lapic *l, unsigned reg)
{
    return atomic_load_explicit(&l->regs[reg], memory_order_relaxed);
}

static ALWAYS_INLINE void lapic_put(struct bt_lapic *l, unsigned reg, uint32_t value)
{
    atomic_store_explicit(&l->regs[reg], value, memory_order_relaxed);
}

static ALWAYS_INLINE uint64_t lapic_base(const struct bt_lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}

static ALWAYS_INLINE bool lapic_enabled(const struct bt_lapic *l)
{
    return (lapic_base(l) & APIC_BASE_EN) != 0;
}

static ALWAYS_INLINE bool lapic_x2(const struct bt_lapic *l)
{
    return (lapic_base(l) & APIC_BASE_EXTD) != 0;
}

static ALWAYS_INLINE bool lapic_sw_enabled(const struct bt_lapic *l)
{
    return lapic_enabled(l) && (lapic_get(l, LAPIC_SVR) & LAPIC_SVR_ENABLE) != 0;
}

static ALWAYS_INLINE bool lapic_bit(const struct bt_lapic *l, unsigned bank, unsigned vector)
{
    return (lapic_get(l, bank + (vector >> 5)) >> (vector & 31) & 1) != 0;
}

static ALWAYS_INLINE void lapic_set_bit(struct bt_lapic *l, unsigned bank, unsigned vector)
{
    atomic_fetch_or(&l->regs[bank + (vector >> 5)], 1U << (vector & 31));
}

static ALWAYS_INLINE void lapic_clear_bit(struct bt_lapic *l, unsigned bank, unsigned vector)
{
    atomic_fetch_and(&l->regs[bank + (vector >> 5)], ~(1U << (vector & 31)));
}

static inline struct bt_lapic *chip_lapic(struct bt_irqchip *chip, unsigned id)
{
    return atomic_load_explicit(&chip->lapics[id], memory_order_acquire);
}

/* VM ns now. */
static inline uint64_t chip_now(const struct bt_irqchip *chip)
{
    return bt_clock_ns(&chip->clock, bt_host_tsc());
}

/* ---- lapic.c ---- */
/* Highest vector of a bank (ISR, IRR), -1 none. */
int bt_lapic_highest(const struct bt_lapic *l, unsigned bank);
uint32_t bt_lapic_ppr(const struct bt_lapic *l);
/* Raise BT_EV_IRQ where something is deliverable now (after EOI, TPR changes, ...). */
void bt_lapic_update(struct bt_lapic *l);
/* Note errors in ESR and deliver the error LVT. Any thread. */
void bt_lapic_error(struct bt_lapic *l, uint32_t bits);
/* Register access on the vCPU's thread, common to xAPIC and x2APIC. Reserved registers read 0 and set ESR. */
uint32_t bt_lapic_reg_read(struct bt_lapic *l, unsigned reg);
void bt_lapic_reg_write(struct bt_lapic *l, unsigned reg, uint32_t value);
bool bt_lapic_mmio(struct bt_lapic *l, uint64_t gpa, void *data, unsigned len, bool write);
/* End of interrupt for the highest vector in service; returns it or -1. */
int bt_lapic_eoi(struct bt_lapic *l);
/* Bits of a LVT register that exist. */
uint32_t bt_lapic_lvt_mask(unsigned reg);
void bt_lapic_reset_regs(struct bt_lapic *l);

/* ---- lapic_ipi.c ---- */
/* Deliver to all that it addresses. Returns how many took it: 0 = all coalesced with one still pending, -1 = nobody. */
int bt_msg_send(struct bt_irqchip *chip, const struct bt_msg *m);
/* One LAPIC takes a message: 1 new, 0 coalesced, -1 not accepted. Any thread. */
int bt_lapic_accept(struct bt_lapic *l, unsigned mode, unsigned vector, bool level);
/* Deliver a local interrupt through a LVT register. */
void bt_lapic_local(struct bt_lapic *l, unsigned reg);
/* Send what ICR says. low: ICR; dest: 8 bits (xAPIC) or 32. */
void bt_lapic_send_ipi(struct bt_lapic *l, uint32_t low, uint32_t dest);

/* ---- lapic_timer.c ---- */
void bt_lapic_timer_start(struct bt_lapic *l);                     /* TMICT was written */
void bt_lapic_timer_resume(struct bt_lapic *l, uint32_t count);    /* continue from a current count */
void bt_lapic_timer_lvt(struct bt_lapic *l, uint32_t old);         /* LVTT was written */
void bt_lapic_timer_divide(struct bt_lapic *l, uint32_t old_tdcr); /* TDCR was written */
void bt_lapic_timer_stop(struct bt_lapic *l);
void bt_lapic_timer_deadline(struct bt_lapic *l, uint64_t value);
uint32_t bt_lapic_timer_count(const struct bt_lapic *l);
/* Recompute next_ns and arm the host side. */
void bt_lapic_timer_arm(struct bt_lapic *l);
void bt_lapic_timer_run(struct bt_lapic *l, uint64_t now);

/* ---- timers.c ---- */
/* The ticker must look again if at_ns is earlier than what it waits for. */
void bt_ticker_arm(struct bt_irqchip *chip, uint64_t at_ns);

/* ---- ioapic.c, pic.c, pit.c: under the lock ---- */
void bt_ioapic_reset(struct bt_ioapic *io);
int bt_ioapic_line(struct bt_irqchip *chip, unsigned pin, bool level); /* as bt_msg_send */
void bt_ioapic_eoi(struct bt_irqchip *chip, unsigned vector);
uint32_t bt_ioapic_read(struct bt_irqchip *chip, unsigned offset);
void bt_ioapic_write(struct bt_irqchip *chip, unsigned offset, uint32_t value);
void bt_ioapic_get(struct bt_irqchip *chip, struct kvm_ioapic_state *s);
void bt_ioapic_set(struct bt_irqchip *chip, const struct kvm_ioapic_state *s);

void bt_pic_reset(struct bt_irqchip *chip);
int bt_pic_line(struct bt_irqchip *chip, unsigned irq,
                bool level); /* 1 new request, 0 coalesced, -1 masked or no edge */
int bt_pic_ack(struct bt_irqchip *chip);
/* The vector that an acknowledge would give now, -1 none. Takes the lock itself. */
int bt_pic_peek(struct bt_irqchip *chip);
/* Recompute INTR and tell the vCPUs. */
void bt_pic_update(struct bt_irqchip *chip);
uint8_t bt_pic_read(struct bt_irqchip *chip, uint16_t port);
void bt_pic_write(struct bt_irqchip *chip, uint16_t port, uint8_t value);

void bt_pit_reset(struct bt_irqchip *chip);
uint8_t bt_pit_read(struct bt_irqchip *chip, uint16_t port);
void bt_pit_write(struct bt_irqchip *chip, uint16_t port, uint8_t value);
/* Count expired ticks, deliver one if the guest has taken the last, and set pit_next_ns. */
void bt_pit_run(struct bt_irqchip *chip, uint64_t now);

/* Level of a line, lock held; results as bt_msg_send. */
int bt_chip_line(struct bt_irqchip *chip, unsigned gsi, bool level);
/* Whether INTR of the PIC reaches this vCPU. */
bool bt_lapic_takes_pic(const struct bt_lapic *l);

/* ---- pv.c ---- */
void bt_pv_reset(struct bt_vcpu *c);
/* Renew this vCPU's time page where something in it has changed. */
void bt_pv_refresh(struct bt_vcpu *c);
/* Paravirtual EOI: tell the guest that it may skip the EOI; returns false where that is not on. */
bool bt_pv_eoi_arm(struct bt_vcpu *c);
/* Take the offer back: true where the guest used it, so that the EOI is due now. */
bool bt_pv_eoi_disarm(struct bt_vcpu *c);
/* Take a kick by another vCPU (KVM_HC_KICK_CPU) that was not taken yet. */
bool bt_pv_take_kick(struct bt_vcpu *c);
/* Steal time, at most every few milliseconds. */
void bt_pv_steal_update(struct bt_vcpu *c);

/* ---- ticker.c, calibrate.c: setup ---- */
int bt_ticker_start(struct bt_irqchip *chip) MUST_USE;
void bt_ticker_stop(struct bt_irqchip *chip);
uint64_t bt_tsc_khz_measure(void);

#endif
