/* The paravirtual interface of KVM: CPUID leaves, MSRs, kvm-clock, steal time, paravirtual EOI, hypercalls
 * (Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst). On the vCPU's own thread but for get/set clock. Pages that
 * the guest shares are reached through its RAM regions directly: everything it names is checked to be RAM. */
#include "cpu/bt/irqchip/pv.h"

#include <errno.h>
#include <linux/kvm_para.h>

#include "cpu/bt/irqchip/chip.h"
#include "cpu/bt/mmu.h"

#define NS_PER_S 1000000000ULL
#define STEAL_PERIOD_MS 8U

/* Layouts that the guest sees. */
struct pvclock_time {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
};
_Static_assert(sizeof(struct pvclock_time) == 32, "ABI");
enum { PVCLOCK_TSC_STABLE = 1, PVCLOCK_GUEST_STOPPED = 2 };

struct pvclock_wall {
    uint32_t version, sec, nsec;
};

/* ---- shared memory ---- */

static bool pv_find(struct bt_vcpu *c, uint64_t gpa, unsigned len, struct bt_pv_place *place)
{
    struct mem *m = c->vm->mem;

    *place = (struct bt_pv_place){ 0 };
    for (unsigned i = 0; i < m->n_regions; i++) {
        struct mem_region *r = &m->regions[i];
        uint64_t off = gpa - r->gpa;

        if (gpa < r->gpa || off >= r->size || r->read_only)
            continue;
        if ((off & (MEM_PAGE_SIZE - 1)) + len > MEM_PAGE_SIZE)
            return false;
        place->host = r->host + off;
        place->region = r;
        place->page = (uint32_t)(off >> MEM_PAGE_SHIFT);
        place->offset = (uint32_t)(off & (MEM_PAGE_SIZE - 1));
        return true;
    }
    return false;
}

static void pv_note(struct bt_vcpu *c, const struct bt_pv_place *at, unsigned offset, unsigned len)
{
    mem_note_write(c->vm->mem, at->region, at->page, at->offset + offset, len);
}

/* Copy to the guest; the range may cross a page. false: not RAM, then nothing or a part was written. */
static bool pv_store(struct bt_vcpu *c, uint64_t gpa, const void *src, unsigned len)
{
    const uint8_t *from = src;

    while (len) {
        unsigned n = (unsigned)MIN((uint64_t)len, MEM_PAGE_SIZE - (gpa & (MEM_PAGE_SIZE - 1)));
        struct bt_pv_place at;
        unsigned i = 0;

        if (!pv_find(c, gpa, n, &at))
            return false;
        if (((gpa | n) & 3) == 0) { /* whole words, so that no reader sees half of one */
            for (; i < n; i += 4)
                *(volatile bt_u32 *)(at.host + i) = load_le32(from + i);
        }
        for (; i < n; i++)
            *(volatile bt_u8 *)(at.host + i) = from[i];
        pv_note(c, &at, 0, n);
        gpa += n;
        from += n;
        len -= n;
    }
    return true;
}

/* ---- kvm-clock ---- */

static uint64_t pv_clock_locked(const struct bt_pv_vm *pv, uint64_t host_tsc)
{
    return bt_clock_ns(&pv->clock, host_tsc);
}

/* Do all vCPUs see the same TSC? Only then may the guest use one vCPU's page on another. */
static bool pv_tsc_stable(const struct bt_vcpu *c)
{
    const struct bt_vm *vm = c->vm;

    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        const struct bt_vcpu *other = vm->vcpus[i];

        /* One that changes its own at this moment will have all pages renewed. */
        if (other && __atomic_load_n(&other->tsc_offset, __ATOMIC_RELAXED) != c->tsc_offset)
            return false;
    }
    return true;
}

/* A word that stands in a time page. */
static uint32_t pv_clock_seen(struct bt_vcpu *c, uint64_t gpa)
{
    struct bt_pv_place at;

    return (gpa & 3) == 0 && pv_find(c, gpa, 4, &at) ? *(volatile bt_u32 *)at.host : 0;
}

/* Whether the guest is to be told that it was stopped: until it has seen that, which it says by clearing the flag. */
static bool pv_clock_stopped(struct bt_vcpu *c, uint64_t gpa)
{
    uint32_t stops = atomic_load(&c->vm->pv->stops);
    bool stopped = c->pv->stops != stops;

    c->pv->stops = stops;
    return stopped || (c->pv->clock_version && (pv_clock_seen(c, gpa + 28) >> 8 & PVCLOCK_GUEST_STOPPED));
}

/* Write this vCPU's time page: an odd version while it changes. */
static void pv_clock_publish(struct bt_vcpu *c)
{
    struct bt_pv_vm *pv_vm = c->vm->pv;
    struct bt_pv *pv = c->pv;
    uint64_t gpa = pv->system_time & ~1ULL;
    struct pvclock_time t = { 0 };

    if (!(pv->system_time & 1))
        return;
    bt_lock(&pv_vm->lock);
    if (!pv_vm->published) {
        /* A base that is not before the guest's TSC was zero: some guests compare. */
        uint64_t now = bt_host_tsc();

        pv_vm->clock.base_ns = pv_clock_locked(pv_vm, now);
        pv_vm->clock.base_tsc = now;
        pv_vm->published = true;
    }
    pv->generation = atomic_load(&pv_vm->generation);
    t.tsc_timestamp = pv_vm->clock.base_tsc + c->tsc_offset;
    t.system_time = pv_vm->clock.base_ns;
    t.tsc_to_system_mul = pv_vm->clock.mul;
    t.tsc_shift = pv_vm->clock.shift;
    bt_unlock(&pv_vm->lock);
    t.flags =
        (uint8_t)((pv_tsc_stable(c) ? PVCLOCK_TSC_STABLE : 0) | (pv_clock_stopped(c, gpa) ? PVCLOCK_GUEST_STOPPED : 0));

    /* Odd, and not one that a guest which was saved while it read the page has seen. */
    t.version = (MAX(pv->clock_version, pv_clock_seen(c, gpa)) + 1) | 1;
    if (!pv_store(c, gpa, &t.version, sizeof(t.version)))
        return;
    atomic_signal_fence(memory_order_seq_cst);
    pv_store(c, gpa + 4, &t.pad0, sizeof(t) - 4);
    atomic_signal_fence(memory_order_seq_cst);
    pv->clock_version = t.version = t.version + 1;
    pv_store(c, gpa, &t.version, sizeof(t.version));
}

static void pv_wall_publish(struct bt_vcpu *c, uint64_t gpa)
{
    struct bt_pv_vm *pv_vm = c->vm->pv;
    struct pvclock_wall w = { 1, 0, 0 };
    uint64_t boot;

    bt_lock(&pv_vm->lock);
    boot = bt_host_real_ns() - pv_clock_locked(pv_vm, bt_host_tsc());
    bt_unlock(&pv_vm->lock);
    w.sec = (uint32_t)(boot / NS_PER_S);
    w.nsec = (uint32_t)(boot % NS_PER_S);
    if (!pv_store(c, gpa, &w, sizeof(w)))
        return;
    atomic_signal_fence(memory_order_seq_cst);
    w.version = 2;
    pv_store(c, gpa, &w.version, sizeof(w.version));
}

int bt_pv_get_clock(struct bt_vm *vm, struct kvm_clock_data *clock)
{
    *clock = (struct kvm_clock_data){ .flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC };
    bt_lock(&vm->pv->lock);
    clock->host_tsc = bt_host_tsc();
    clock->realtime = bt_host_real_ns();
    clock->clock = pv_clock_locked(vm->pv, clock->host_tsc);
    bt_unlock(&vm->pv->lock);
    return 0;
}

int bt_pv_set_clock(struct bt_vm *vm, const struct kvm_clock_data *clock)
{
    uint64_t value = clock->clock, tsc;

    if (clock->flags & ~(uint32_t)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
        return -EINVAL;
    bt_lock(&vm->pv->lock);
    tsc = bt_host_tsc();
    /* With KVM_CLOCK_REALTIME the clock went on while the state was in transit. */
    if (clock->flags & KVM_CLOCK_REALTIME) {
        uint64_t now = bt_host_real_ns();

        if (now > clock->realtime)
            value += now - clock->realtime;
    }
    vm->pv->clock.base_tsc = tsc;
    vm->pv->clock.base_ns = value;
    vm->pv->published = true;
    atomic_fetch_add(&vm->pv->stops, 1);
    atomic_fetch_add(&vm->pv->generation, 1); /* each vCPU renews its page when it next enters */
    bt_unlock(&vm->pv->lock);
    return 0;
}

void bt_pv_refresh(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;

    if (!pv || pv->generation == atomic_load(&c->vm->pv->generation))
        return;
    pv->generation = atomic_load(&c->vm->pv->generation);
    pv_clock_publish(c);
}

void bt_pv_tsc_changed(struct bt_vcpu *c)
{
    if (c->lapic)
        bt_lapic_timer_arm(c->lapic);
    if (!c->pv || !c->lapic)
        return;
    pv_clock_publish(c);
    /* Whether the TSC is stable stands in every page. */
    atomic_fetch_add(&c->vm->pv->generation, 1);
    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        struct bt_lapic *l = chip_lapic(c->lapic->chip, i);

        if (l && l != c->lapic)
            bt_vcpu_signal(l->c, BT_EV_TIMER);
    }
}

/* ---- steal time ---- */

static volatile bt_u64 *pv_steal_time(const struct bt_pv *pv)
{
    return (volatile bt_u64 *)pv->steal_at.host;
}

static void pv_steal_add(struct bt_vcpu *c, uint64_t ns)
{
    struct bt_pv_place *at = &c->pv->steal_at;
    volatile bt_u32 *version = (volatile bt_u32 *)(at->host + offsetof(struct kvm_steal_time, version));
    uint32_t v = *version;

    *version = v = (v | 1) == v ? v + 2 : v + 1; /* odd while it changes */
    atomic_signal_fence(memory_order_seq_cst);
    *pv_steal_time(c->pv) += ns;
    atomic_signal_fence(memory_order_seq_cst);
    *version = v + 1;
    pv_note(c, at, 0, sizeof(struct kvm_steal_time));
}

void bt_pv_steal_update(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;
    uint64_t now, delay;

    if (!pv || !pv->steal_at.host)
        return;
    now = bt_host_tsc();
    if ((int64_t)(now - pv->steal_due_tsc) < 0)
        return;
    pv->steal_due_tsc = now + c->vm->tsc_khz * STEAL_PERIOD_MS;
    delay = bt_host_run_delay_ns(&pv->schedstat_fd);
    if (delay > pv->run_delay) {
        pv_steal_add(c, delay - pv->run_delay);
        pv->run_delay = delay;
    }
}

/* Say whether this vCPU is off the CPU; while it is, others may leave it a TLB flush to do. */
static void pv_preempted(struct bt_vcpu *c, bool preempted)
{
    struct bt_pv_place *at = &c->pv->steal_at;
    const unsigned off = offsetof(struct kvm_steal_time, preempted);
    uint8_t old;

    if (!at->host)
        return;
    old = __atomic_exchange_n(at->host + off, preempted ? KVM_VCPU_PREEMPTED : 0, __ATOMIC_SEQ_CST);
    pv_note(c, at, off, 1);
    if (!preempted && (old & KVM_VCPU_FLUSH_TLB))
        bt_tlb_flush_all(c);
}

/* ---- paravirtual EOI ---- */

bool bt_pv_eoi_arm(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;

    if (!pv || !pv->eoi_at.host)
        return false;
    *(volatile bt_u8 *)pv->eoi_at.host |= KVM_PV_EOI_MASK;
    pv_note(c, &pv->eoi_at, 0, 1);
    c->lapic->pv_eoi_armed = true;
    return true;
}

bool bt_pv_eoi_disarm(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;
    uint8_t flag;

    if (LIKELY(!c->lapic->pv_eoi_armed))
        return false;
    c->lapic->pv_eoi_armed = false;
    flag = *(volatile bt_u8 *)pv->eoi_at.host;
    if (!(flag & KVM_PV_EOI_MASK))
        return true;
    *(volatile bt_u8 *)pv->eoi_at.host = flag & (uint8_t)~KVM_PV_EOI_MASK;
    pv_note(c, &pv->eoi_at, 0, 1);
    return false;
}

/* ---- MSRs and CPUID ---- */

int bt_pv_cpuid(struct kvm_cpuid_entry2 *entries, unsigned capacity, unsigned *n_entries)
{
    unsigned n = *n_entries;

    if (n > capacity || capacity - n < 2)
        return -E2BIG;
    entries[n] = (struct kvm_cpuid_entry2){ .function = KVM_CPUID_SIGNATURE,
                                            .eax = KVM_CPUID_FEATURES,
                                            .ebx = 0x4b4d564b, /* "KVMK" "VMKV" "M" */
                                            .ecx = 0x564b4d56,
                                            .edx = 0x0000004d };
    entries[n + 1] = (struct kvm_cpuid_entry2){
        .function = KVM_CPUID_FEATURES,
        .eax = BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) | BIT(KVM_FEATURE_CLOCKSOURCE2) |
               BIT(KVM_FEATURE_STEAL_TIME) | BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) |
               BIT(KVM_FEATURE_PV_TLB_FLUSH) | BIT(KVM_FEATURE_PV_SEND_IPI) | BIT(KVM_FEATURE_PV_SCHED_YIELD) |
               BIT(KVM_FEATURE_MSI_EXT_DEST_ID) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT),
    };
    *n_entries = n + 2;
    return 0;
}

bool bt_pv_msr(uint32_t index)
{
    return index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME || index == MSR_KVM_WALL_CLOCK_NEW ||
           index == MSR_KVM_SYSTEM_TIME_NEW || index == MSR_KVM_STEAL_TIME || index == MSR_KVM_PV_EOI_EN;
}

uint64_t bt_pv_kicked(struct bt_vcpu *c)
{
    return atomic_load(&c->pv->kicked);
}

bool bt_pv_set_kicked(struct bt_vcpu *c, uint64_t value)
{
    if (value > 1)
        return false;
    atomic_store(&c->pv->kicked, value == 1);
    bt_vcpu_signal(c, BT_EV_TIMER); /* it looks there */
    return true;
}

bool bt_pv_msr_read(struct bt_vcpu *c, uint32_t index, uint64_t *ret)
{
    const struct bt_pv *pv = c->pv;

    switch (index) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        *ret = pv->wall_clock;
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        *ret = pv->system_time;
        return true;
    case MSR_KVM_STEAL_TIME:
        *ret = pv->steal;
        return true;
    case MSR_KVM_PV_EOI_EN:
        *ret = pv->eoi;
        return true;
    default:
        return false;
    }
}

static bool pv_write_steal(struct bt_vcpu *c, uint64_t value)
{
    struct bt_pv *pv = c->pv;

    if (value & KVM_STEAL_RESERVED_MASK)
        return false;
    pv->steal = value;
    pv->steal_at.host = NULL;
    if ((value & KVM_MSR_ENABLED) &&
        pv_find(c, value & KVM_STEAL_VALID_BITS, sizeof(struct kvm_steal_time), &pv->steal_at)) {
        pv->run_delay = bt_host_run_delay_ns(&pv->schedstat_fd);
        pv_preempted(c, false);
    }
    return true;
}

static bool pv_write_eoi(struct bt_vcpu *c, uint64_t value)
{
    struct bt_pv *pv = c->pv;

    if (value & 2)
        return false;
    if (bt_pv_eoi_disarm(c))
        bt_lapic_eoi(c->lapic);
    pv->eoi = value;
    pv->eoi_at.host = NULL;
    if (value & KVM_MSR_ENABLED)
        pv_find(c, value & ~3ULL, 4, &pv->eoi_at);
    return true;
}

bool bt_pv_msr_write(struct bt_vcpu *c, uint32_t index, uint64_t value)
{
    struct bt_pv *pv = c->pv;

    switch (index) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        pv->wall_clock = value;
        pv_wall_publish(c, value);
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_NEW:
        pv->system_time = value;
        pv_clock_publish(c);
        return true;
    case MSR_KVM_STEAL_TIME:
        return pv_write_steal(c, value);
    case MSR_KVM_PV_EOI_EN:
        return pv_write_eoi(c, value);
    default:
        return false;
    }
}

void bt_pv_reset(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;

    if (!pv)
        return;
    pv->system_time = pv->wall_clock = pv->steal = pv->eoi = 0;
    pv->steal_at.host = pv->eoi_at.host = NULL;
    atomic_store(&pv->kicked, false);
    if (c->lapic)
        c->lapic->pv_eoi_armed = false;
}

/* ---- hypercalls ---- */

static int64_t pv_hc_kick(struct bt_vcpu *c, uint64_t apic_id)
{
    struct bt_lapic *to = apic_id < CPU_VCPUS_MAX ? chip_lapic(c->lapic->chip, (unsigned)apic_id) : NULL;

    if (to && to->c->pv) {
        atomic_store(&to->c->pv->kicked, true);
        bt_vcpu_signal(to->c, BT_EV_TIMER); /* it must wake even with interrupts off */
    }
    return 0;
}

static int64_t pv_hc_send_ipi(struct bt_vcpu *c, const uint64_t map[2], uint64_t first, uint64_t icr, unsigned width)
{
    unsigned mode = icr >> 8 & 7, vector = icr & 0xff;
    int64_t count = 0;

    if ((icr & (3U << 18 | 1U << 11)) || (mode != APIC_FIXED && mode != APIC_NMI) ||
        (mode == APIC_FIXED && vector < 16))
        return -KVM_EINVAL;
    first = (uint32_t)first;
    for (unsigned i = 0; i < 2 * width; i++) {
        struct bt_lapic *to;

        if (!(map[i / width] >> (i % width) & 1) || first + i >= CPU_VCPUS_MAX)
            continue;
        to = chip_lapic(c->lapic->chip, (unsigned)first + i);
        if (to && bt_lapic_accept(to, mode, vector, false) >= 0)
            count++;
    }
    return count;
}

static int64_t pv_hc_yield(struct bt_vcpu *c, uint64_t apic_id)
{
    struct bt_lapic *to = apic_id < CPU_VCPUS_MAX ? chip_lapic(c->lapic->chip, (unsigned)apic_id) : NULL;

    if (to && to != c->lapic)
        bt_host_yield();
    return 0;
}

static int64_t pv_hc_clock_pairing(struct bt_vcpu *c, uint64_t gpa, uint64_t type)
{
    struct kvm_clock_pairing pair = { 0 };
    uint64_t real;

    if (type != KVM_CLOCK_PAIRING_WALLCLOCK)
        return -KVM_EOPNOTSUPP;
    real = bt_host_real_ns();
    pair.tsc = bt_host_tsc() + c->tsc_offset;
    pair.sec = (int64_t)(real / NS_PER_S);
    pair.nsec = (int64_t)(real % NS_PER_S);
    return pv_store(c, gpa, &pair, sizeof(pair)) ? 0 : -KVM_EFAULT;
}

void bt_pv_hypercall(struct bt_vcpu *c)
{
    bool wide = c->mode == BT_MODE_64;
    uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;
    uint64_t nr = c->r[BT_RAX] & mask, a0 = c->r[BT_RBX] & mask, a1 = c->r[BT_RCX] & mask;
    uint64_t a2 = c->r[BT_RDX] & mask, a3 = c->r[BT_RSI] & mask;
    int64_t ret;

    if (c->cpl != 0) {
        ret = -KVM_EPERM;
    } else {
        switch (nr) {
        case KVM_HC_VAPIC_POLL_IRQ:
            ret = 0;
            break;
        case KVM_HC_KICK_CPU:
            ret = pv_hc_kick(c, a1);
            break;
        case KVM_HC_CLOCK_PAIRING:
            ret = pv_hc_clock_pairing(c, a0, a1);
            break;
        case KVM_HC_SEND_IPI:
            ret = pv_hc_send_ipi(c, (const uint64_t[]){ a0, a1 }, a2, a3, wide ? 64 : 32);
            break;
        case KVM_HC_SCHED_YIELD:
            ret = pv_hc_yield(c, a0);
            break;
        default:
            ret = -KVM_ENOSYS;
        }
    }
    c->r[BT_RAX] = (uint64_t)ret & mask;
}

/* ---- entry, idle ---- */

void bt_pv_enter(struct bt_vcpu *c)
{
    struct bt_pv *pv = c->pv;
    int tid = bt_host_tid();

    if (pv->tid != tid) {
        pv->tid = tid;
        bt_host_exact_timers();
        if (pv->schedstat_fd >= 0)
            bt_host_close(pv->schedstat_fd);
        pv->schedstat_fd = -1;
        pv->run_delay = bt_host_run_delay_ns(&pv->schedstat_fd);
    }
    bt_pv_refresh(c);
    pv_preempted(c, false);
    bt_pv_steal_update(c);
}

void bt_pv_idle(struct bt_vcpu *c, bool idle)
{
    atomic_store(&c->lapic->idle, idle);
    pv_preempted(c, idle);
    if (idle && atomic_load(&c->pv->kicked))
        bt_vcpu_signal(c, BT_EV_TIMER); /* kicked before it went to sleep: bt_timers_run ends the HLT */
}

bool bt_pv_take_kick(struct bt_vcpu *c)
{
    return c->pv && atomic_load_explicit(&c->pv->kicked, memory_order_relaxed) &&
           atomic_exchange(&c->pv->kicked, false);
}
