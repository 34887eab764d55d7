#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/log.h"
#include "hw/acpi_pm.h"
#include "hw/bus.h"
#include "hw/time.h"
#include "sys/loop.h"
#include "sys/signals.h"
#include "vmm/acpi.h"
#include "vmm/backup.h"
#include "vmm/boot.h"
#include "vmm/control.h"
#include "vmm/devices.h"
#include "vmm/devices_disk.h"
#include "vmm/devices_vsock.h"
#include "vmm/engines.h"
#include "vmm/genid.h"
#include "vmm/machine_priv.h"
#include "vmm/save_file.h"
#include "vmm/save_job.h"
#include "vmm/save_lazy.h"
#include "vmm/save_machine.h"
#include "vmm/serial.h"
#include "vmm/vcpus.h"

/* ---- what the guest does ---- */

static void machine_end(struct machine *m, enum machine_end end)
{
    loop_stop(m->loop, (int)end);
}

static void machine_on_power_off(void *opaque)
{
    machine_end(opaque, MACHINE_OFF);
}

static void machine_on_reset(void *opaque)
{
    machine_end(opaque, MACHINE_RESET);
}

static void machine_on_exit(void *opaque, uint32_t code)
{
    struct machine *m = opaque;

    atomic_store(&m->exit_code, code);
    machine_end(m, MACHINE_EXIT);
}

/* Text for a vCPU that cannot go on; the first one wins, since the loop ends once. */
static void machine_on_vcpu_stopped(void *opaque, unsigned id, const struct cpu_exit *exit)
{
    struct machine *m = opaque;
    char bytes[3 * sizeof(exit->internal.bytes) + 1] = "";

    if (exit->reason == CPU_EXIT_RESET) {
        machine_end(m, MACHINE_RESET);
        return;
    }
    if (atomic_exchange(&m->crashed, true))
        return;
    for (unsigned i = 0; i < exit->internal.n_bytes; i++)
        snprintf(bytes + 3 * (size_t)i, 4, " %02x", exit->internal.bytes[i]);
    if (exit->reason == CPU_EXIT_SHUTDOWN)
        err_set(&m->crash, EIO, "the guest crashed: triple fault on vCPU %u; look at the guest's last console output",
                id);
    else
        err_set(&m->crash, EIO, "the %s engine cannot go on with vCPU %u: %s at address 0x%" PRIx64 "%s%s",
                m->ops->name, id, exit->internal.why[0] ? exit->internal.why : "internal error", exit->internal.rip,
                bytes[0] ? ", instruction bytes" : "", bytes);
    machine_end(m, MACHINE_CRASHED);
}

static void machine_on_signal(void *opaque, uint32_t events)
{
    struct machine *m = opaque;
    struct signalfd_siginfo info;

    (void)events;
    if (read(m->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGTERM)
        machine_end(m, MACHINE_STOPPED);
    else if (info.ssi_signo == SIGPWR)
        acpi_pm_press_power(m->pm);
}

/* ---- device access from vCPUs ---- */

static void machine_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct machine *m = opaque;

    if (write)
        bus_write(m->pio, port, data, len);
    else
        bus_read(m->pio, port, data, len);
}

static void machine_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    struct machine *m = opaque;

    if (write)
        bus_write(m->mmio, gpa, data, len);
    else
        bus_read(m->mmio, gpa, data, len);
}

static const struct cpu_bus_ops machine_bus_ops = { .pio = machine_pio, .mmio = machine_mmio };

/* ---- building ---- */

static int machine_new_memory(struct machine *m, struct err *e)
{
    uint64_t size = m->spec->memory;
    struct sysinfo si;
    int r;

    if (sysinfo(&si) == 0 && size > (uint64_t)si.totalram * si.mem_unit)
        return err_set(e, ENOMEM,
                       "memory of %" PRIu64 " MiB is more than this machine has (%" PRIu64
                       " MiB); give a smaller --memory",
                       size >> 20, (uint64_t)si.totalram * si.mem_unit >> 20);
    r = layout_make(size, &m->layout);
    if (r >= 0)
        r = mem_new(&m->mem);
    if (r >= 0)
        r = mem_add_ram(m->mem, 0, m->layout.ram_low, false, NULL);
    if (r >= 0 && m->layout.ram_high > 0)
        r = mem_add_ram(m->mem, LAYOUT_HIGH_RAM_BASE, m->layout.ram_high, false, NULL);
    if (r < 0)
        return err_set(e, -r, "cannot get %" PRIu64 " MiB of memory for the guest: %s; give a smaller --memory",
                       size >> 20, strerror(-r));
    return 0;
}

static int machine_new_engine(struct machine *m, struct err *e)
{
    struct cpu_vm_config config = {
        .mem = m->mem, .bus = &machine_bus_ops, .bus_opaque = m, .max_vcpus = m->spec->cpus, .count = m->spec->verbose
    };
    struct vmm_vcpus_config vcpus;
    int r = vmm_engine_choose(m->spec->engine, &m->ops, e);

    if (r < 0)
        return r;
    if (m->spec->verbose)
        fprintf(stderr, "caisson: engine %s\n", m->ops->name);
    r = m->ops->vm_new(&config, &m->vm);
    if (r < 0)
        return vmm_engine_error(m->ops, -r, e);
    r = vmm_cpu_resolve(m->spec->cpu, m->ops, m->vm, &m->cpu, e);
    if (r < 0)
        return r;
    if (m->cpu.note[0])
        fprintf(stderr, "caisson: %s; its CPU is %s\n", m->cpu.note, m->cpu.name);
    else if (m->spec->verbose)
        fprintf(stderr, "caisson: CPU %s\n", m->cpu.name);
    vcpus = (struct vmm_vcpus_config){
        .ops = m->ops, .vm = m->vm, .cpu = &m->cpu, .n = m->spec->cpus, .stopped = machine_on_vcpu_stopped, .opaque = m
    };
    r = vmm_vcpus_new(&vcpus, &m->vcpus);
    if (r < 0)
        return err_set(e, -r, "cannot make %u vCPUs with the %s engine: %s", m->spec->cpus, m->ops->name, strerror(-r));
    return 0;
}

static int machine_new_loop(struct machine *m, struct err *e)
{
    /* SIGINT and SIGHUP of a terminal reach the CLI too, which then asks us by SIGTERM. SIGPWR: the power button. */
    static const int signals[] = { SIGTERM, SIGPWR, SIGINT, SIGHUP };
    struct loop_fd *src;
    int r;

    m->signal_fd = sys_signals_open(signals, ARRAY_SIZE(signals));
    r = m->signal_fd < 0 ? m->signal_fd : loop_new(&m->loop);
    if (r >= 0)
        r = loop_fd_add(m->loop, m->signal_fd, EPOLLIN, machine_on_signal, m, &src);
    return r < 0 ? err_set(e, -r, "cannot set up the event loop: %s", strerror(-r)) : 0;
}

static int machine_new_serial(struct machine *m, int console_fd, struct err *e)
{
    int fd = -1, r;

    if (m->spec->console == VM_CONSOLE_FILE) {
        fd = open(m->spec->console_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
        if (fd < 0)
            return err_set(e, errno, "console file %s: %s; name a file that can be written with --console file=FILE",
                           m->spec->console_file, strerror(errno));
    } else if (m->spec->console == VM_CONSOLE_STDIO && console_fd >= 0) {
        fd = fcntl(console_fd, F_DUPFD_CLOEXEC, 10);
        if (fd < 0)
            return err_set(e, errno, "console: %s", strerror(errno));
    }
    r = vmm_serial_new(m->loop, fd, m->spec->console == VM_CONSOLE_STDIO, &m->serial);
    return r < 0 ? err_set(e, -r, "console: %s", strerror(-r)) : 0;
}

static int machine_new_acpi(struct machine *m, struct err *e)
{
    const struct acpi_config config = { .layout = &m->layout, .n_cpus = m->spec->cpus };
    int r = acpi_build(m->mem, &config, &m->rsdp);

    return r < 0 ? err_set(e, -r, "cannot make the ACPI tables: %s", strerror(-r)) : 0;
}

/* Load the kernel and put vCPU 0 at its entry. */
static int machine_boot(struct machine *m, struct err *e)
{
    AUTO_FD int kernel = -1, initrd = -1;
    struct cpu_vcpu *vcpu = vmm_vcpus_get(m->vcpus, 0);
    struct boot_config config = { .kernel_path = m->spec->kernel,
                                  .initrd_path = m->spec->initrd,
                                  .cmdline = m->spec->append,
                                  .layout = &m->layout,
                                  .rsdp = m->rsdp };
    struct boot_state state;
    int r = boot_open(m->spec->kernel, "kernel", &kernel, e);

    if (r >= 0 && m->spec->initrd)
        r = boot_open(m->spec->initrd, "initrd", &initrd, e);
    if (r < 0)
        return r;
    config.kernel_fd = kernel;
    config.initrd_fd = initrd;
    r = boot_load(m->mem, &config, &state, e);
    if (r < 0)
        return r;
    r = m->ops->set_sregs(vcpu, &state.sregs);
    if (r >= 0)
        r = m->ops->set_regs(vcpu, &state.regs);
    return r < 0
               ? err_set(e, -r, "the %s engine does not take the kernel's start state: %s", m->ops->name, strerror(-r))
               : 0;
}

/* The state in which the guest begins: a kernel, or what was saved. */
static int machine_new_state(struct machine *m, struct save_reader *saved, const struct save_restore *restore,
                             struct err *e)
{
    int r;

    if (restore)
        return save_machine_restore(m, saved, restore, e);
    r = machine_new_acpi(m, e);
    if (r >= 0)
        r = vmm_genid_init(m, e);
    return r < 0 ? r : machine_boot(m, e);
}

static int machine_open_saved(struct machine *m, const struct save_restore *restore, struct save_reader **ret_saved,
                              struct err *e)
{
    int r = save_reader_new(restore->fd, restore->path, ret_saved, e);

    if (r == 0)
        r = save_machine_check(m->spec, *ret_saved, restore->path, e);
    return r < 0 || restore->as_saved ? r : save_machine_snapshot(*ret_saved, restore->path, &m->disk_snapshot, e);
}

int machine_new(const struct vm_spec *spec, int console_fd, const struct save_restore *restore,
                struct machine **ret_machine, struct err *e)
{
    AUTO(machine) struct machine *m = calloc(1, sizeof(*m));
    AUTO(save_reader) struct save_reader *saved = NULL;
    const struct machine_guest_ops guest = { .power_off = machine_on_power_off,
                                             .reset = machine_on_reset,
                                             .exit = machine_on_exit };
    int r;

    if (!m)
        return err_set(e, ENOMEM, "out of memory");
    m->spec = spec;
    m->signal_fd = -1;
    r = machine_new_loop(m, e);
    if (r >= 0 && spec->run_dir)
        r = vmm_control_new(m, &m->control, e); /* first: one VM of a name, before it touches anything */
    if (r >= 0 && restore)
        r = machine_open_saved(m, restore, &saved, e);
    if (r >= 0)
        r = machine_new_serial(m, console_fd, e);
    if (r >= 0)
        r = machine_new_memory(m, e);
    if (r >= 0)
        r = machine_new_engine(m, e);
    if (r >= 0)
        r = machine_devices_new(m, &guest, e);
    if (r >= 0)
        r = vmm_backup_new(m, &m->backup, e);
    if (r >= 0)
        r = vmm_save_job_new(m, &m->save, e);
    if (r >= 0)
        r = machine_new_state(m, saved, restore, e);
    if (r < 0)
        return r;
    *ret_machine = STEAL(m);
    return 0;
}

/* ---- running ---- */

int machine_pause(struct machine *m, bool pause, struct err *e)
{
    int r = 0;

    if (m->paused == pause)
        return 0;
    if (pause)
        vmm_vcpus_stop(m->vcpus);
    else
        r = vmm_vcpus_start(m->vcpus);
    if (r < 0)
        return err_set(e, -r, "VM %s: cannot start the vCPU threads: %s; try again", m->spec->name, strerror(-r));
    m->paused = pause;
    return 0;
}

void machine_quit(struct machine *m)
{
    machine_end(m, MACHINE_STOPPED);
}

static void machine_print_stat(void *opaque, const char *name, uint64_t value)
{
    (void)opaque;
    fprintf(stderr, "caisson: %-22s %" PRIu64 "\n", name, value);
}

int machine_run(struct machine *m, unsigned *ret_code, struct err *e)
{
    uint64_t begin = sys_now_ns();
    int r = vmm_vcpus_start(m->vcpus);

    if (r < 0)
        return err_set(e, -r, "cannot start the vCPU threads: %s", strerror(-r));
    r = loop_run(m->loop);
    vmm_vcpus_stop(m->vcpus);
    vmm_serial_drain(m->serial); /* the guest's last words come before ours */
    if (m->spec->verbose) {
        machine_print_stat(NULL, "run_time_ms", (sys_now_ns() - begin) / 1000000);
        m->ops->stats(m->vm, machine_print_stat, NULL);
        machine_disks_stats(m, machine_print_stat, NULL);
    }
    if (r < 0)
        return err_set(e, -r, "event loop: %s", strerror(-r));
    *ret_code = atomic_load(&m->exit_code);
    if (r == MACHINE_CRASHED)
        *e = m->crash;
    return r;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->vcpus)
        vmm_vcpus_stop(m->vcpus);
    devices_vsock_unlink(m);
    vmm_control_free(m->control);
    vmm_save_job_free(m->save);
    vmm_backup_free(m->backup);
    machine_devices_free(m);
    vmm_vcpus_free(m->vcpus);
    if (m->vm)
        m->ops->vm_free(m->vm);
    vmm_serial_free(m->serial);
    loop_free(m->loop);
    hw_loop_time_free(m->time);
    save_lazy_free(m->lazy);
    mem_free(m->mem);
    free(m->disk_snapshot);
    base_closep(&m->signal_fd);
    free(m);
}
