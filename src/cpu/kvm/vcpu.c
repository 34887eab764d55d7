/* KVM engine: one vCPU and its run loop.
 *
 * Kicks. vcpu_kick sets `kicked`, then run->immediate_exit, then signals the thread that is inside vcpu_run. Whichever
 * way the two threads interleave, KVM_RUN either is interrupted or returns at once with EINTR, after it has completed
 * the instruction whose I/O was served last; the loop looks at `kicked` only there, so that vcpu_run returns between
 * instructions only. At worst one EINTR finds nothing to do.
 *
 * Everything in struct kvm_run that depends on the guest is bounded by the kernel; it is checked here all the same
 * where a wrong value would leave the shared page. */
#include "cpu/kvm/kvm_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

static void kvm_count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static void kvm_counters_fold(struct kvm_counters *into, struct kvm_counters *from)
{
    into->runs += from->runs;
    into->pio += from->pio;
    into->mmio += from->mmio;
    into->kicks += from->kicks;
    into->other += from->other;
}

void kvm_vcpu_free(struct cpu_vcpu *vcpu)
{
    struct cpu_vm *vm;

    if (!vcpu)
        return;
    vm = vcpu->vm;
    pthread_mutex_lock(&vm->lock);
    if (vm->vcpus[vcpu->id] == vcpu)
        vm->vcpus[vcpu->id] = NULL;
    kvm_counters_fold(&vm->gone, &vcpu->counters);
    pthread_mutex_unlock(&vm->lock);
    if (vcpu->run)
        munmap(vcpu->run, vm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    free(vcpu);
}
DEFINE_AUTO(kvm_vcpu, struct cpu_vcpu, kvm_vcpu_free)

static int kvm_vcpu_open(struct cpu_vcpu *vcpu)
{
    struct cpu_vm *vm = vcpu->vm;
    void *run;
    int res = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, vcpu->id);

    if (res < 0)
        return res;
    vcpu->fd = res;
    run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    vcpu->run = run;
    return 0;
}

int kvm_vcpu_new(struct cpu_vm *vm, unsigned id, struct cpu_vcpu **ret_vcpu)
{
    AUTO(kvm_vcpu) struct cpu_vcpu *vcpu = NULL;
    int res;

    if (id >= vm->max_vcpus)
        return -EINVAL;
    vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return -ENOMEM;
    vcpu->vm = vm;
    vcpu->id = id;
    vcpu->fd = -1;
    pthread_mutex_lock(&vm->lock);
    res = kvm_slots_set_locked(vm);
    pthread_mutex_unlock(&vm->lock);
    if (res >= 0)
        res = kvm_vcpu_open(vcpu);
    if (res < 0)
        return res;
    pthread_mutex_lock(&vm->lock);
    vm->vcpus[id] = vcpu;
    pthread_mutex_unlock(&vm->lock);
    *ret_vcpu = STEAL(vcpu);
    return 0;
}

void kvm_vcpu_kick(struct cpu_vcpu *vcpu)
{
    pid_t tid;

    atomic_store(&vcpu->kicked, true);
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    tid = atomic_load(&vcpu->tid);
    if (tid != 0)
        (void)syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

/* After EINTR: was it a kick? Clearing immediate_exit first cannot lose one, see the head of the file. */
static bool kvm_take_kick(struct cpu_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (!atomic_exchange(&vcpu->kicked, false))
        return false;
    kvm_count(&vcpu->counters.kicks);
    return true;
}

/* One KVM_EXIT_IO is `count` accesses of a string instruction, or one. */
static int kvm_serve_pio(struct cpu_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct cpu_vm *vm = vcpu->vm;
    uint64_t offset = run->io.data_offset, size = run->io.size, count = run->io.count;
    bool write = run->io.direction == KVM_EXIT_IO_OUT;
    uint8_t *data = (uint8_t *)run + offset;

    if ((size != 1 && size != 2 && size != 4) || offset > vm->run_size || size * count > vm->run_size - offset)
        return -EIO;
    for (uint64_t i = 0; i < count; i++, data += size) {
        if (!write)
            memset(data, 0xff, size);
        vm->bus->pio(vm->bus_opaque, run->io.port, data, (unsigned)size, write);
    }
    kvm_count(&vcpu->counters.pio);
    return 0;
}

static int kvm_serve_mmio(struct cpu_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct cpu_vm *vm = vcpu->vm;
    uint64_t gpa = run->mmio.phys_addr;
    unsigned len = run->mmio.len;
    bool write = run->mmio.is_write;
    uint8_t *data = run->mmio.data;

    if (len == 0 || len > sizeof(run->mmio.data))
        return -EIO;
    if (!write)
        memset(data, 0xff, len);
    kvm_count(&vcpu->counters.mmio);
    if (write && mem_find(vm->mem, gpa))
        return 0; /* ROM: dropped */
    /* KVM cuts an access into pieces of up to 8 bytes of any length; the contract has powers of two only. */
    for (unsigned done = 0; done < len;) {
        unsigned part = 8;

        while (part > len - done)
            part /= 2;
        vm->bus->mmio(vm->bus_opaque, gpa + done, data + done, part, write);
        done += part;
    }
    return 0;
}

/* Bytes at the guest's RIP, as far as they are mapped and RAM. */
static void kvm_read_instruction(struct cpu_vcpu *vcpu, struct cpu_exit *exit)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint64_t linear;

    if (kvm_get_regs(vcpu, &regs) < 0)
        return;
    exit->internal.rip = regs.rip;
    if (exit->internal.n_bytes > 0 || kvm_get_sregs(vcpu, &sregs) < 0)
        return;
    linear = sregs.cs.l ? regs.rip : (uint32_t)(sregs.cs.base + regs.rip);
    while (exit->internal.n_bytes < sizeof(exit->internal.bytes)) {
        struct kvm_translation tr = { .linear_address = linear + exit->internal.n_bytes };

        if (kvm_ioctl_ptr(vcpu->fd, KVM_TRANSLATE, &tr) < 0 || !tr.valid ||
            mem_read(vcpu->vm->mem, GPA(tr.physical_address), &exit->internal.bytes[exit->internal.n_bytes], 1) < 0)
            return;
        exit->internal.n_bytes++;
    }
}

static void kvm_exit_internal(struct cpu_vcpu *vcpu, struct cpu_exit *exit, const char *why, uint64_t detail)
{
    exit->reason = CPU_EXIT_INTERNAL_ERROR;
    snprintf(exit->internal.why, sizeof(exit->internal.why), "%s (0x%llx)", why, (unsigned long long)detail);
    kvm_read_instruction(vcpu, exit);
}

static void kvm_exit_from_internal_error(struct cpu_vcpu *vcpu, struct cpu_exit *exit)
{
    const struct kvm_run *run = vcpu->run;
    unsigned suberror = run->internal.suberror;

    if (suberror != KVM_INTERNAL_ERROR_EMULATION) {
        kvm_exit_internal(vcpu, exit, suberror == KVM_INTERNAL_ERROR_DELIVERY_EV ? "event delivery" : "internal error",
                          suberror);
        return;
    }
    if (run->emulation_failure.ndata >= 1 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        exit->internal.n_bytes = MIN(run->emulation_failure.insn_size, (uint8_t)sizeof(exit->internal.bytes));
        memcpy(exit->internal.bytes, run->emulation_failure.insn_bytes, exit->internal.n_bytes);
    }
    kvm_exit_internal(vcpu, exit, "instruction emulation failure", suberror);
}

/* One exit of KVM_RUN. Returns true where *exit is to be reported, false to go on. */
static bool kvm_handle_exit(struct cpu_vcpu *vcpu, struct cpu_exit *exit)
{
    const struct kvm_run *run = vcpu->run;
    int res = 0;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        res = kvm_serve_pio(vcpu);
        break;
    case KVM_EXIT_MMIO:
        res = kvm_serve_mmio(vcpu);
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_HLT: /* not with the in-kernel controllers; going on is right */
        kvm_count(&vcpu->counters.other);
        return false;
    case KVM_EXIT_SHUTDOWN:
        exit->reason = CPU_EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_SYSTEM_EVENT:
        exit->reason = run->system_event.type == KVM_SYSTEM_EVENT_RESET ? CPU_EXIT_RESET : CPU_EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_DEBUG:
        exit->reason = CPU_EXIT_DEBUG;
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        kvm_exit_from_internal_error(vcpu, exit);
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        kvm_exit_internal(vcpu, exit, "VM entry failed", run->fail_entry.hardware_entry_failure_reason);
        return true;
    case KVM_EXIT_UNKNOWN:
        kvm_exit_internal(vcpu, exit, "unknown hardware exit", run->hw.hardware_exit_reason);
        return true;
    default:
        kvm_exit_internal(vcpu, exit, "unexpected KVM exit", run->exit_reason);
        return true;
    }
    if (res < 0)
        kvm_exit_internal(vcpu, exit, "malformed I/O exit", run->exit_reason);
    return res < 0;
}

static int kvm_run_loop(struct cpu_vcpu *vcpu, struct cpu_exit *exit)
{
    for (;;) {
        int res = ioctl(vcpu->fd, KVM_RUN, 0);

        kvm_count(&vcpu->counters.runs);
        if (res < 0 && errno == EINTR) {
            if (kvm_take_kick(vcpu)) {
                exit->reason = CPU_EXIT_KICK;
                return 0;
            }
            continue;
        }
        if (res < 0 && errno == EAGAIN) /* a vCPU that waited for SIPI was woken */
            continue;
        if (res < 0) {
            /* EFAULT and the like: the host cannot back guest memory, or refuses the state. */
            kvm_exit_internal(vcpu, exit, strerrorname_np(errno) ? strerrorname_np(errno) : "KVM_RUN failed",
                              (uint64_t)errno);
            return 0;
        }
        if (kvm_handle_exit(vcpu, exit))
            return 0;
    }
}

int kvm_vcpu_run(struct cpu_vcpu *vcpu, struct cpu_exit *ret_exit)
{
    struct cpu_exit exit = { .reason = CPU_EXIT_KICK };
    sigset_t kick;
    int res;

    /* The thread may have been made with all signals blocked. */
    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    atomic_store(&vcpu->tid, (pid_t)syscall(SYS_gettid));
    res = kvm_run_loop(vcpu, &exit);
    atomic_store(&vcpu->tid, 0);
    if (res >= 0)
        *ret_exit = exit;
    return res;
}
