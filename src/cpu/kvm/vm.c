/* KVM engine: opening /dev/kvm, probing what the kernel offers, and a VM with its in-kernel devices. Invariant: a VM
 * that vm_new returned has interrupt controllers, PIT and routing; its memory slots follow at the first vCPU, when mem
 * is complete. It must not judge whether this KVM is good enough for a stock guest. */
#include "cpu/kvm/kvm_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

int kvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
    int res;

    do {
        res = ioctl(fd, request, arg);
    } while (res < 0 && errno == EINTR);
    return res < 0 ? -errno : res;
}

/* What the engine cannot do without. All of it is in every mainline kernel since 4.13. */
static const struct {
    unsigned cap;
    const char *name;
} kvm_required_caps[] = {
    { KVM_CAP_USER_MEMORY, "USER_MEMORY" },
    { KVM_CAP_IRQCHIP, "IRQCHIP" },
    { KVM_CAP_PIT2, "PIT2" },
    { KVM_CAP_PIT_STATE2, "PIT_STATE2" },
    { KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
    { KVM_CAP_IRQFD, "IRQFD" },
    { KVM_CAP_IOEVENTFD, "IOEVENTFD" },
    { KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI" },
    { KVM_CAP_MP_STATE, "MP_STATE" },
    { KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
    { KVM_CAP_EXT_CPUID, "EXT_CPUID" },
    { KVM_CAP_XSAVE, "XSAVE" },
    { KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK" },
    { KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR" },
    { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
};

static int kvm_check_caps(struct cpu_vm *vm)
{
    int res = kvm_ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);

    if (res != KVM_API_VERSION) {
        log_debug("kvm: API version %d, not %d", res, KVM_API_VERSION);
        return res < 0 ? res : -ENODEV;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(kvm_required_caps); i++) {
        if (kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, kvm_required_caps[i].cap) <= 0) {
            log_debug("kvm: this kernel lacks KVM_CAP_%s", kvm_required_caps[i].name);
            return -EOPNOTSUPP;
        }
    }
    vm->has_xcrs = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    vm->has_debugregs = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DEBUGREGS) > 0;
    vm->has_readonly = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_READONLY_MEM) > 0;
    vm->has_any_length = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    res = kvm_ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (res < (int)sizeof(struct kvm_run))
        return res < 0 ? res : -ENODEV;
    vm->run_size = (unsigned)res;
    return 0;
}

static int kvm_create_vm(struct cpu_vm *vm)
{
    const uint64_t identity = KVM_IDENTITY_MAP_ADDR;
    const struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    struct kvm_enable_cap failure_bytes = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = { 1 } };
    struct kvm_enable_cap payload = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { 1 } };
    int res = kvm_ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);

    if (res < 0)
        return res;
    vm->fd = res;
    if (kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0) {
        res = kvm_ioctl_ptr(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
        if (res < 0)
            return res;
    }
    res = kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR);
    if (res < 0)
        return res;
    res = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0);
    if (res < 0)
        return res;
    res = kvm_ioctl_ptr(vm->fd, KVM_CREATE_PIT2, &pit);
    if (res < 0)
        return res;
    /* Where the kernel has it, the failing instruction comes with the exit; elsewhere vcpu.c reads it from memory. */
    (void)kvm_ioctl_ptr(vm->fd, KVM_ENABLE_CAP, &failure_bytes);
    /* Without it set_events refuses a state that says what its exceptions carry, as those of our own engine do. */
    (void)kvm_ioctl_ptr(vm->fd, KVM_ENABLE_CAP, &payload);
    return kvm_irq_load_routes_locked(vm);
}

static void kvm_kick_handler(int sig)
{
    (void)sig;
}

/* Process-wide and idempotent. SA_RESTART keeps it harmless in a thread that just left KVM_RUN; KVM_RUN itself is never
 * restarted. */
static int kvm_install_kick_handler(void)
{
    struct sigaction action = { .sa_handler = kvm_kick_handler, .sa_flags = SA_RESTART };

    sigemptyset(&action.sa_mask);
    return sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0 ? -errno : 0;
}

static void kvm_vm_free(struct cpu_vm *vm)
{
    if (!vm)
        return;
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}
DEFINE_AUTO(kvm_vm, struct cpu_vm, kvm_vm_free)

static int kvm_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    AUTO(kvm_vm) struct cpu_vm *vm = NULL;
    int res;

    if (config->max_vcpus < 1 || config->max_vcpus > CPU_VCPUS_MAX)
        return -EINVAL;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    vm->fd = vm->kvm_fd = -1;
    vm->mem = config->mem;
    vm->bus = config->bus;
    vm->bus_opaque = config->bus_opaque;
    vm->max_vcpus = config->max_vcpus;
    pthread_mutex_init(&vm->lock, NULL);
    kvm_irq_init(vm);
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        return -errno;
    res = kvm_check_caps(vm);
    if (res < 0)
        return res;
    res = kvm_create_vm(vm);
    if (res < 0)
        return res;
    res = kvm_install_kick_handler();
    if (res < 0)
        return res;
    *ret_vm = STEAL(vm);
    return 0;
}

static uint64_t kvm_sum(const struct cpu_vm *vm, size_t offset)
{
    const _Atomic uint64_t *gone = (const void *)((const char *)&vm->gone + offset);
    uint64_t sum = atomic_load_explicit(gone, memory_order_relaxed);

    for (unsigned i = 0; i < CPU_VCPUS_MAX; i++) {
        if (vm->vcpus[i])
            sum += atomic_load_explicit(
                (const _Atomic uint64_t *)(const void *)((const char *)&vm->vcpus[i]->counters + offset),
                memory_order_relaxed);
    }
    return sum;
}

static int kvm_stats(struct cpu_vm *vm, void (*each)(void *opaque, const char *name, uint64_t value), void *opaque)
{
    static const struct {
        const char *name;
        size_t offset;
    } figures[] = {
        { "kvm_runs", offsetof(struct kvm_counters, runs) },
        { "pio_accesses", offsetof(struct kvm_counters, pio) },
        { "mmio_accesses", offsetof(struct kvm_counters, mmio) },
        { "kicks", offsetof(struct kvm_counters, kicks) },
        { "other_exits", offsetof(struct kvm_counters, other) },
    };
    uint64_t values[ARRAY_SIZE(figures)];

    pthread_mutex_lock(&vm->lock); /* against vcpu_free */
    for (unsigned i = 0; i < ARRAY_SIZE(figures); i++)
        values[i] = kvm_sum(vm, figures[i].offset);
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < ARRAY_SIZE(figures); i++)
        each(opaque, figures[i].name, values[i]);
    return 0;
}

const struct cpu_ops cpu_kvm_ops = {
    .name = "kvm",
    .native = true,
    .vm_new = kvm_vm_new,
    .vm_free = kvm_vm_free,
    .supported_cpuid = kvm_supported_cpuid,
    .irq_line = kvm_irq_line,
    .signal_msi = kvm_signal_msi,
    .irqfd_add = kvm_irqfd_add,
    .irqfd_del = kvm_irqfd_del,
    .doorbell_add = kvm_doorbell_add,
    .doorbell_del = kvm_doorbell_del,
    .log_dirty = kvm_log_dirty,
    .sync_dirty = kvm_sync_dirty,
    .get_irqchip = kvm_get_irqchip,
    .set_irqchip = kvm_set_irqchip,
    .get_pit = kvm_get_pit,
    .set_pit = kvm_set_pit,
    .get_clock = kvm_get_clock,
    .set_clock = kvm_set_clock,
    .vcpu_new = kvm_vcpu_new,
    .vcpu_free = kvm_vcpu_free,
    .vcpu_run = kvm_vcpu_run,
    .vcpu_kick = kvm_vcpu_kick,
    .vcpu_set_cpuid = kvm_vcpu_set_cpuid,
    .get_regs = kvm_get_regs,
    .set_regs = kvm_set_regs,
    .get_sregs = kvm_get_sregs,
    .set_sregs = kvm_set_sregs,
    .get_xsave = kvm_get_xsave,
    .set_xsave = kvm_set_xsave,
    .get_xcrs = kvm_get_xcrs,
    .set_xcrs = kvm_set_xcrs,
    .get_msrs = kvm_get_msrs,
    .set_msrs = kvm_set_msrs,
    .get_lapic = kvm_get_lapic,
    .set_lapic = kvm_set_lapic,
    .get_events = kvm_get_events,
    .set_events = kvm_set_events,
    .get_mp_state = kvm_get_mp_state,
    .set_mp_state = kvm_set_mp_state,
    .get_debugregs = kvm_get_debugregs,
    .set_debugregs = kvm_set_debugregs,
    .get_tsc = kvm_get_tsc,
    .set_tsc = kvm_set_tsc,
    .stats = kvm_stats,
};
