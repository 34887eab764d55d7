#include "vmm/save_cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/cleanup.h"
#include "base/pack.h"
#include "vmm/machine_priv.h"
#include "vmm/save_file.h"
#include "vmm/vcpus.h"

#define CPU_STATE_VERSION 1U
#define CPU_MSRS_MAX 128U
#define CPU_SECTION_MAX 65536U
#define IRQCHIPS 3U

static const char *const cpu_kinds[] = { "irqchip", "pit", "clock", "vcpu" };

/* The MSRs that are saved where the engine has them; in this order they are set. Not here: the TSC (as an offset), what
 * stands in sregs, constants of the CPU model, and the wall clock of KVM, which is an order to write to memory. */
static const uint32_t cpu_msrs[] = {
    0x0000003b,                         /* TSC_ADJUST */
    0x0000003a,                         /* FEATURE_CONTROL */
    0x00000048,                         /* SPEC_CTRL */
    0x00000174, 0x00000175, 0x00000176, /* SYSENTER */
    0x0000017a,                         /* MCG_STATUS */
    0x000001a0,                         /* MISC_ENABLE */
    0x000001d9,                         /* DEBUGCTL */
    /* MTRRs: variable, fixed, default; PAT */
    0x00000200, 0x00000201, 0x00000202, 0x00000203, 0x00000204, 0x00000205, 0x00000206, 0x00000207, 0x00000208,
    0x00000209, 0x0000020a, 0x0000020b, 0x0000020c, 0x0000020d, 0x0000020e, 0x0000020f, 0x00000250, 0x00000258,
    0x00000259, 0x00000268, 0x00000269, 0x0000026a, 0x0000026b, 0x0000026c, 0x0000026d, 0x0000026e, 0x0000026f,
    0x000002ff, 0x00000277, 0x00000da0,                                     /* XSS */
    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,                         /* STAR, LSTAR, CSTAR, SFMASK */
    0xc0000102, 0xc0000103,                                                 /* KERNEL_GS_BASE, TSC_AUX */
    0xc0010010, 0xc0010015, 0xc001001f, 0xc0011020, 0xc0011029,             /* SYSCFG, HWCR, NB_CFG, LS_CFG, DE_CFG */
    0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05, 0x4b564d06, /* KVM: clock, async PF, steal, EOI, ... */
    CPU_MSR_PV_KICKED, 0x000006e0, /* TSC_DEADLINE: the LAPIC and the TSC stand by then */
};
_Static_assert(ARRAY_SIZE(cpu_msrs) <= CPU_MSRS_MAX, "all fit");

/* One vCPU in the words of the KVM API. */
struct cpu_state {
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    uint64_t tsc; /* what the guest's counter showed when its clocks were read */
    struct cpu_msr_entry msrs[CPU_MSRS_MAX];
    unsigned n_msrs;
    struct kvm_xsave xsave; /* last: its size is open in the newer headers */
};

/* The clocks of the VM at one moment. */
struct cpu_clock {
    uint64_t kvm_ns;  /* kvm-clock */
    uint64_t real_ns; /* the host's, since 1970 */
    uint64_t tsc_khz;
    uint64_t host_tsc; /* not saved */
};

bool save_cpu_kind(const char *kind)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cpu_kinds); i++) {
        if (strcmp(kind, cpu_kinds[i]) == 0)
            return true;
    }
    return false;
}

static uint64_t cpu_real_ns(void)
{
    struct timespec ts = { 0 };

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static int cpu_engine_error(const struct machine *m, const char *verb, const char *what, int r, struct err *e)
{
    return err_set(e, r == -ENOTTY || r == -EINVAL ? ENOTSUP : -r,
                   "VM %s: the %s engine does not %s the state of its %s: %s", m->spec->name ? m->spec->name : "",
                   m->ops->name, verb, what, strerror(-r));
}

/* ---- saving ---- */

static int cpu_get_msrs(const struct machine *m, struct cpu_vcpu *vcpu, struct cpu_state *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cpu_msrs); i++) {
        struct cpu_msr_entry *msr = &s->msrs[s->n_msrs];
        int r;

        *msr = (struct cpu_msr_entry){ .index = cpu_msrs[i] };
        r = m->ops->get_msrs(vcpu, msr, 1);
        if (r < 0)
            return r;
        s->n_msrs += r == 1;
    }
    return 0;
}

/* The order is that of cpu/cpu.h. */
static int cpu_get(const struct machine *m, struct cpu_vcpu *vcpu, uint64_t host_tsc, struct cpu_state *s)
{
    const struct cpu_ops *ops = m->ops;
    struct cpu_tsc tsc = { 0 };
    int r = ops->get_mp_state(vcpu, &s->mp);

    if (r >= 0)
        r = ops->get_regs(vcpu, &s->regs);
    if (r >= 0)
        r = ops->get_sregs(vcpu, &s->sregs);
    if (r >= 0)
        r = ops->get_xsave(vcpu, &s->xsave);
    if (r >= 0)
        r = ops->get_xcrs(vcpu, &s->xcrs);
    if (r >= 0)
        r = ops->get_debugregs(vcpu, &s->debugregs);
    if (r >= 0)
        r = ops->get_lapic(vcpu, &s->lapic);
    if (r >= 0)
        r = ops->get_events(vcpu, &s->events);
    if (r >= 0)
        r = ops->get_tsc(vcpu, &tsc);
    s->tsc = host_tsc + tsc.offset;
    return r < 0 ? r : cpu_get_msrs(m, vcpu, s);
}

static void cpu_pack(const struct cpu_state *s, struct buf *b)
{
    pack_u32(b, s->mp.mp_state);
    pack_blob(b, &s->regs, sizeof(s->regs));
    pack_blob(b, &s->sregs, sizeof(s->sregs));
    pack_blob(b, &s->xsave, sizeof(s->xsave));
    pack_blob(b, &s->xcrs, sizeof(s->xcrs));
    pack_blob(b, &s->debugregs, sizeof(s->debugregs));
    pack_blob(b, &s->lapic, sizeof(s->lapic));
    pack_blob(b, &s->events, sizeof(s->events));
    pack_u64(b, s->tsc);
    pack_u32(b, s->n_msrs);
    for (unsigned i = 0; i < s->n_msrs; i++) {
        pack_u32(b, s->msrs[i].index);
        pack_u64(b, s->msrs[i].value);
    }
}

/* What b holds becomes a section; b is empty then. */
static int cpu_put_section(struct save_writer *w, const char *kind, uint32_t instance, struct buf *b)
{
    int r = buf_error(b);

    if (r == 0)
        save_writer_section(w, kind, instance, CPU_STATE_VERSION, b->data, b->len);
    buf_done(b);
    return r;
}

static int cpu_save_vcpus(struct machine *m, const struct cpu_clock *clock, struct save_writer *w, struct err *e)
{
    AUTO_FREE struct cpu_state *s = malloc(sizeof(*s));
    int r = s ? 0 : err_set(e, ENOMEM, "out of memory");

    /* What the LAPICs have to do before they are read can interrupt others: first all of it, then the reading. */
    for (unsigned id = 0; id < m->spec->cpus && r == 0; id++)
        r = m->ops->get_lapic(vmm_vcpus_get(m->vcpus, id), &s->lapic);
    for (unsigned id = 0; id < m->spec->cpus && r == 0; id++) {
        struct buf b;

        memset(s, 0, sizeof(*s));
        r = cpu_get(m, vmm_vcpus_get(m->vcpus, id), clock->host_tsc, s);
        if (r < 0)
            return cpu_engine_error(m, "give", "vCPUs", r, e);
        buf_init(&b, CPU_SECTION_MAX);
        cpu_pack(s, &b);
        r = cpu_put_section(w, "vcpu", id, &b);
        if (r < 0)
            return err_set(e, -r, "out of memory");
    }
    return r;
}

static int cpu_save_chips(struct machine *m, struct save_writer *w, struct err *e)
{
    struct kvm_pit_state2 pit = { 0 };
    struct buf b;
    int r;

    for (uint32_t id = 0; id < IRQCHIPS; id++) {
        struct kvm_irqchip chip = { .chip_id = id };

        r = m->ops->get_irqchip(m->vm, &chip);
        if (r < 0)
            return cpu_engine_error(m, "give", "interrupt controllers", r, e);
        buf_init(&b, CPU_SECTION_MAX);
        pack_blob(&b, &chip.chip, sizeof(chip.chip));
        r = cpu_put_section(w, "irqchip", id, &b);
        if (r < 0)
            return err_set(e, -r, "out of memory");
    }
    r = m->ops->get_pit(m->vm, &pit);
    if (r < 0)
        return cpu_engine_error(m, "give", "PIT", r, e);
    buf_init(&b, CPU_SECTION_MAX);
    pack_blob(&b, &pit, sizeof(pit));
    r = cpu_put_section(w, "pit", 0, &b);
    return r < 0 ? err_set(e, -r, "out of memory") : 0;
}

static int cpu_save_clock(struct machine *m, struct save_writer *w, struct cpu_clock *ret_clock, struct err *e)
{
    struct kvm_clock_data data = { 0 };
    struct cpu_tsc tsc = { 0 };
    struct buf b;
    int r = m->ops->get_clock(m->vm, &data);

    if (r >= 0)
        r = m->ops->get_tsc(vmm_vcpus_get(m->vcpus, 0), &tsc);
    if (r < 0)
        return cpu_engine_error(m, "give", "clock", r, e);
    *ret_clock =
        (struct cpu_clock){ .kvm_ns = data.clock, .real_ns = cpu_real_ns(), .tsc_khz = tsc.khz, .host_tsc = __rdtsc() };
    buf_init(&b, CPU_SECTION_MAX);
    pack_u64(&b, ret_clock->kvm_ns);
    pack_u64(&b, ret_clock->real_ns);
    pack_u64(&b, ret_clock->tsc_khz);
    r = cpu_put_section(w, "clock", 0, &b);
    return r < 0 ? err_set(e, -r, "out of memory") : 0;
}

int save_cpu_save(struct machine *m, struct save_writer *w, struct err *e)
{
    struct cpu_clock clock = { 0 };
    int r = cpu_save_clock(m, w, &clock, e);

    /* The LAPICs may still send an EOI to the IOAPIC. */
    if (r == 0)
        r = cpu_save_vcpus(m, &clock, w, e);
    return r < 0 ? r : cpu_save_chips(m, w, e);
}

/* ---- restoring ---- */

/* A blob of exactly that size. */
static void cpu_unpack_struct(struct unpack *u, void *to, uint32_t size)
{
    uint32_t len = 0;
    const uint8_t *data = unpack_blob(u, size, &len);

    if (!data || len != size)
        unpack_refuse(u);
    else
        memcpy(to, data, size);
}

static void cpu_unpack(struct unpack *u, struct cpu_state *s)
{
    s->mp.mp_state = unpack_u32(u);
    cpu_unpack_struct(u, &s->regs, sizeof(s->regs));
    cpu_unpack_struct(u, &s->sregs, sizeof(s->sregs));
    cpu_unpack_struct(u, &s->xsave, sizeof(s->xsave));
    cpu_unpack_struct(u, &s->xcrs, sizeof(s->xcrs));
    cpu_unpack_struct(u, &s->debugregs, sizeof(s->debugregs));
    cpu_unpack_struct(u, &s->lapic, sizeof(s->lapic));
    cpu_unpack_struct(u, &s->events, sizeof(s->events));
    s->tsc = unpack_u64(u);
    s->n_msrs = unpack_max(u, CPU_MSRS_MAX);
    for (unsigned i = 0; i < s->n_msrs; i++) {
        s->msrs[i].index = unpack_u32(u);
        s->msrs[i].value = unpack_u64(u);
    }
}

/* Only those of the table: others have effects that a file is not to have. *ret_bad: the one that was refused. */
static int cpu_set_msrs(const struct machine *m, struct cpu_vcpu *vcpu, const struct cpu_state *s, uint32_t *ret_bad)
{
    for (unsigned i = 0; i < s->n_msrs; i++) {
        const struct cpu_msr_entry *msr = &s->msrs[i];
        bool known = false;
        int r;

        for (unsigned k = 0; k < ARRAY_SIZE(cpu_msrs); k++)
            known |= cpu_msrs[k] == msr->index;
        *ret_bad = msr->index;
        if (!known)
            return -EBADMSG;
        r = m->ops->set_msrs(vcpu, msr, 1);
        if (r < 0)
            return r;
        /* One that the other engine does not have is no loss while it says nothing. */
        if (r == 0 && msr->value != 0 && msr->index != CPU_MSR_PV_KICKED)
            return -ENOTSUP;
    }
    return 0;
}

static int cpu_set(struct machine *m, unsigned id, const struct cpu_state *s, struct err *e)
{
    const struct cpu_ops *ops = m->ops;
    struct cpu_vcpu *vcpu = vmm_vcpus_get(m->vcpus, id);
    uint32_t bad = 0;
    int r = ops->set_regs(vcpu, &s->regs);

    if (r >= 0)
        r = ops->set_sregs(vcpu, &s->sregs);
    if (r >= 0)
        r = ops->set_xcrs(vcpu, &s->xcrs);
    if (r >= 0)
        r = ops->set_xsave(vcpu, &s->xsave);
    if (r >= 0)
        r = ops->set_debugregs(vcpu, &s->debugregs);
    if (r >= 0)
        r = ops->set_lapic(vcpu, &s->lapic);
    if (r < 0)
        return cpu_engine_error(m, "take", "vCPUs", r, e);
    r = cpu_set_msrs(m, vcpu, s, &bad);
    if (r < 0)
        return err_set(e, -r, "VM %s: the %s engine does not take MSR 0x%x of the saved state; restore it with another",
                       m->spec->name ? m->spec->name : "", ops->name, bad);
    r = ops->set_events(vcpu, &s->events);
    if (r >= 0)
        r = ops->set_mp_state(vcpu, &s->mp);
    return r < 0 ? cpu_engine_error(m, "take", "vCPUs", r, e) : 0;
}

struct cpu_restore {
    struct machine *m;
    const struct save_reader *r;
    const char *path;
    struct cpu_clock clock;
    uint64_t elapsed_ns; /* that the guest's clocks are to have gone on since */
};

static int cpu_bad_section(const struct cpu_restore *c, const char *kind, uint32_t instance, struct err *e)
{
    return err_set(e, EBADMSG,
                   "saved VM %s: the state of its %s %u makes no sense; it cannot be used, take another copy", c->path,
                   kind, instance);
}

/* Begin to read a section. */
static int cpu_section(const struct cpu_restore *c, const char *kind, uint32_t instance, struct unpack *u,
                       struct err *e)
{
    const struct save_section *s = save_reader_find(c->r, kind, instance);

    if (!s)
        return err_set(e, EBADMSG,
                       "saved VM %s: the state of its %s %u is missing; it cannot be used, take another copy", c->path,
                       kind, instance);
    if (s->version > CPU_STATE_VERSION || s->version == 0)
        return err_set(e, ENOTSUP,
                       "saved VM %s: its %s is of version %u, this program knows up to %u; use the version of Caisson "
                       "that made it",
                       c->path, kind, s->version, CPU_STATE_VERSION);
    unpack_init(u, s->data, s->len);
    return 0;
}

static int cpu_restore_clock(struct cpu_restore *c, bool catch_up, struct err *e)
{
    uint64_t now = cpu_real_ns();
    struct kvm_clock_data data = { 0 };
    struct unpack u;
    int r = cpu_section(c, "clock", 0, &u, e);

    if (r < 0)
        return r;
    c->clock.kvm_ns = unpack_u64(&u);
    c->clock.real_ns = unpack_u64(&u);
    c->clock.tsc_khz = unpack_u64(&u);
    if (unpack_end(&u) < 0 || c->clock.kvm_ns > INT64_MAX || c->clock.tsc_khz > 100000000)
        return cpu_bad_section(c, "clock", 0, e);
    if (catch_up && now > c->clock.real_ns)
        c->elapsed_ns = now - c->clock.real_ns;
    data.clock = c->clock.kvm_ns + c->elapsed_ns;
    c->clock.host_tsc = __rdtsc();
    r = c->m->ops->set_clock(c->m->vm, &data);
    return r < 0 ? cpu_engine_error(c->m, "take", "clock", r, e) : 0;
}

static int cpu_restore_chips(const struct cpu_restore *c, struct err *e)
{
    struct kvm_pit_state2 pit = { 0 };
    struct unpack u;
    int r;

    for (uint32_t id = 0; id < IRQCHIPS; id++) {
        struct kvm_irqchip chip = { .chip_id = id };

        r = cpu_section(c, "irqchip", id, &u, e);
        if (r < 0)
            return r;
        cpu_unpack_struct(&u, &chip.chip, sizeof(chip.chip));
        if (unpack_end(&u) < 0)
            return cpu_bad_section(c, "irqchip", id, e);
        r = c->m->ops->set_irqchip(c->m->vm, &chip);
        if (r < 0)
            return cpu_engine_error(c->m, "take", "interrupt controllers", r, e);
    }
    r = cpu_section(c, "pit", 0, &u, e);
    if (r < 0)
        return r;
    cpu_unpack_struct(&u, &pit, sizeof(pit));
    if (unpack_end(&u) < 0)
        return cpu_bad_section(c, "pit", 0, e);
    r = c->m->ops->set_pit(c->m->vm, &pit);
    return r < 0 ? cpu_engine_error(c->m, "take", "PIT", r, e) : 0;
}

/* The counter goes on from what it showed, by as much as the other clocks. All before any MSR is set. */
static int cpu_restore_tsc(const struct cpu_restore *c, unsigned id, const struct cpu_state *s, struct err *e)
{
    const uint64_t ticks = (uint64_t)((unsigned __int128)c->elapsed_ns * c->clock.tsc_khz / 1000000);
    const struct cpu_tsc tsc = { .offset = s->tsc + ticks - c->clock.host_tsc };
    int r = c->m->ops->set_tsc(vmm_vcpus_get(c->m->vcpus, id), &tsc);

    return r < 0 ? cpu_engine_error(c->m, "take", "time stamp counters", r, e) : 0;
}

static int cpu_restore_vcpus(const struct cpu_restore *c, struct err *e)
{
    const unsigned n = c->m->spec->cpus;
    AUTO_FREE struct cpu_state *s = calloc(n, sizeof(*s));
    int r = s ? 0 : err_set(e, ENOMEM, "out of memory");

    for (unsigned id = 0; id < n && r == 0; id++) {
        struct unpack u;

        r = cpu_section(c, "vcpu", id, &u, e);
        if (r < 0)
            return r;
        cpu_unpack(&u, &s[id]);
        r = unpack_end(&u) < 0 ? cpu_bad_section(c, "vcpu", id, e) : cpu_restore_tsc(c, id, &s[id], e);
    }
    for (unsigned id = 0; id < n && r == 0; id++)
        r = cpu_set(c->m, id, &s[id], e);
    return r;
}

/* Each section of ours is one that is looked for, and is there once. */
static int cpu_check_sections(const struct cpu_restore *c, struct err *e)
{
    for (unsigned i = 0; i < c->r->n_sections; i++) {
        const struct save_section *s = &c->r->sections[i];
        uint32_t n = strcmp(s->kind, "vcpu") == 0 ? c->m->spec->cpus : strcmp(s->kind, "irqchip") == 0 ? IRQCHIPS : 1;

        if (!save_cpu_kind(s->kind))
            continue;
        if (s->instance >= n || save_reader_find(c->r, s->kind, s->instance) != s)
            return err_set(e, EBADMSG, "saved VM %s: has a %s %u too many; it cannot be used, take another copy",
                           c->path, s->kind, s->instance);
    }
    return 0;
}

int save_cpu_restore(struct machine *m, const struct save_reader *r, const char *path, bool catch_up, struct err *e)
{
    struct cpu_restore c = { .m = m, .r = r, .path = path };
    int res = cpu_check_sections(&c, e);

    if (res == 0)
        res = cpu_restore_chips(&c, e);
    if (res == 0)
        res = cpu_restore_clock(&c, catch_up, e);
    return res < 0 ? res : cpu_restore_vcpus(&c, e);
}
