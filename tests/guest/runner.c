/* Runs one guest program (flat image with a Multiboot 1 header and load addresses) on an engine and turns its exit into
 * an exit code: 0 passed, 1 failed, 77 this host's KVM cannot run stock guests (said by the engine probe before the
 * program starts, never by the program's own result), 2 usage.
 *
 *   runner --engine interp|bt|bt-eager|bt-small|kvm|qemu [--cpus N] [--seconds N] IMAGE
 *
 * The machine: 64 MiB of RAM, the engine's own devices, text at port 0xe9 and 0x3f8, exit with a code at port 0xf4. A
 * program that prints a line "EXPECT SHUTDOWN" passes by a triple fault after it. `qemu` runs the image under QEMU's
 * TCG: a second opinion while writing programs, not a reference. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "cpu/cpu.h"
#include "cpu/kvm/kvm.h"
#include "vmm/probe.h"
#include "cpu/bt/bt.h"

#define RAM_BYTES 0x4000000
#define MULTIBOOT_MAGIC 0x1badb002u
#define MULTIBOOT_BOOT_MAGIC 0x2badb002u
#define MULTIBOOT_SEARCH 8192
#define INFO_GPA 0x9000
#define CMDLINE_GPA 0x9100
#define CPUID_MAX 256
#define EXPECT_SHUTDOWN "EXPECT SHUTDOWN"

enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_USAGE = 2, EXIT_SKIP = 77 };

struct runner;

struct runner_cpu {
    struct runner *r;
    unsigned id;
    struct cpu_vcpu *vcpu;
    pthread_t thread;
};

struct runner {
    const char *engine, *image;
    const struct cpu_ops *ops;
    unsigned n_cpus, seconds;
    struct mem *mem;
    struct cpu_vm *vm;
    struct runner_cpu cpus[CPU_VCPUS_MAX];
    uint32_t entry;

    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done; /* a vCPU ended the run */
    int code;
    bool shutdown; /* ended by a triple fault */
    char why[256];
    char line[256]; /* of guest output, so far */
    size_t line_len;
    bool expect_shutdown;
};

static void runner_finish(struct runner *r, int code, const char *why)
{
    pthread_mutex_lock(&r->lock);
    if (!r->done) {
        r->done = true;
        r->code = code;
        snprintf(r->why, sizeof(r->why), "%s", why);
        pthread_cond_broadcast(&r->done_cond);
    }
    pthread_mutex_unlock(&r->lock);
}

static void runner_put(struct runner *r, char c)
{
    pthread_mutex_lock(&r->lock);
    if (r->line_len < sizeof(r->line) - 1 && c != '\n')
        r->line[r->line_len++] = c;
    if (c == '\n') {
        r->line[r->line_len] = '\0';
        r->line_len = 0;
        if (strcmp(r->line, EXPECT_SHUTDOWN) == 0)
            r->expect_shutdown = true;
        printf("%s\n", r->line);
        fflush(stdout);
    }
    pthread_mutex_unlock(&r->lock);
}

static void runner_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct runner *r = opaque;
    uint8_t value = *(uint8_t *)data;

    if (!write) {
        memset(data, 0xff, len);
        if (port == 0xe9)
            *(uint8_t *)data = 0xe9;
        if (port == 0x3fd)
            *(uint8_t *)data = 0x60;
        return;
    }
    if (port == 0xe9 || port == 0x3f8)
        runner_put(r, (char)value);
    else if (port == 0xf4)
        runner_finish(r, value == 0 ? EXIT_PASS : EXIT_FAIL, "guest exit");
}

static void runner_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    (void)opaque;
    (void)gpa;
    if (!write)
        memset(data, 0xff, len);
}

static const struct cpu_bus_ops runner_bus = { .pio = runner_pio, .mmio = runner_mmio };

/* ---- loading ---- */

static int runner_read_file(const char *path, uint8_t **ret_data, size_t *ret_len)
{
    AUTO_FREE uint8_t *data = malloc(RAM_BYTES);
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;

    if (!data)
        return -ENOMEM;
    if (fd < 0)
        return -errno;
    for (;;) {
        ssize_t n = read(fd, data + len, RAM_BYTES - len);

        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret_data = STEAL(data);
    *ret_len = len;
    return 0;
}

/* Put the image where its header says. -ENOEXEC: no usable header. */
static int runner_load(struct runner *r)
{
    AUTO_FREE uint8_t *data = NULL;
    size_t len = 0, at;
    uint32_t load;
    int res = runner_read_file(r->image, &data, &len);

    if (res < 0)
        return res;
    for (at = 0; at + 32 <= len && at < MULTIBOOT_SEARCH; at += 4) {
        if (load_le32(data + at) == MULTIBOOT_MAGIC)
            break;
    }
    if (at + 32 > len || at >= MULTIBOOT_SEARCH || !(load_le32(data + at + 4) & 0x10000))
        return -ENOEXEC;
    load = load_le32(data + at + 16);
    r->entry = load_le32(data + at + 28);
    res = mem_write(r->mem, GPA(load), data, len);
    return res;
}

static int runner_set_info(struct runner *r)
{
    char cmdline[64];
    uint8_t info[64] = { 0 };
    int res;

    snprintf(cmdline, sizeof(cmdline), "%s cpus=%u", "image", r->n_cpus);
    store_le32(info, 4);
    store_le32(info + 16, CMDLINE_GPA);
    res = mem_write(r->mem, GPA(INFO_GPA), info, sizeof(info));
    return res < 0 ? res : mem_write(r->mem, GPA(CMDLINE_GPA), cmdline, strlen(cmdline) + 1);
}

/* ---- the machine ---- */

static struct kvm_segment runner_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .base = 0, .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .db = 1, .s = 1, .g = 1
    };
}

/* Multiboot 1, section 3.2: flat 32-bit protected mode, EAX the magic, EBX the information. */
static int runner_set_entry_state(struct runner *r, struct cpu_vcpu *vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    int res = r->ops->get_sregs(vcpu, &sregs);

    if (res < 0)
        return res;
    sregs.cs = runner_segment(8, 0xb);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = runner_segment(16, 3);
    sregs.cr0 |= 1;
    res = r->ops->set_sregs(vcpu, &sregs);
    if (res < 0)
        return res;
    memset(&regs, 0, sizeof(regs));
    regs.rip = r->entry;
    regs.rflags = 2;
    regs.rax = MULTIBOOT_BOOT_MAGIC;
    regs.rbx = INFO_GPA;
    return r->ops->set_regs(vcpu, &regs);
}

static int runner_set_cpuid(struct runner *r, struct runner_cpu *c)
{
    AUTO_FREE struct kvm_cpuid_entry2 *entries = calloc(CPUID_MAX, sizeof(*entries));
    unsigned n = CPUID_MAX;
    int res;

    if (!entries)
        return -ENOMEM;
    res = r->ops->supported_cpuid(r->vm, entries, &n);
    if (res < 0)
        return res;
    for (unsigned i = 0; i < n; i++) {
        struct kvm_cpuid_entry2 *e = &entries[i];

        if (e->function == 1)
            e->ebx = (e->ebx & 0xffff) | c->id << 24 | r->n_cpus << 16;
        if (e->function == 0xb || e->function == 0x1f)
            e->edx = c->id;
    }
    return r->ops->vcpu_set_cpuid(c->vcpu, entries, n);
}

static int runner_make_vm(struct runner *r)
{
    const struct cpu_vm_config config = { .bus = &runner_bus, .bus_opaque = r, .max_vcpus = r->n_cpus, .mem = r->mem };
    int res = r->ops->vm_new(&config, &r->vm);

    for (unsigned i = 0; i < r->n_cpus && res >= 0; i++) {
        struct runner_cpu *c = &r->cpus[i];

        c->r = r;
        c->id = i;
        res = r->ops->vcpu_new(r->vm, i, &c->vcpu);
        if (res >= 0)
            res = runner_set_cpuid(r, c);
    }
    return res < 0 ? res : runner_set_entry_state(r, r->cpus[0].vcpu);
}

static void runner_tell_internal(struct runner *r, const struct runner_cpu *c, const struct cpu_exit *exit)
{
    char why[200];
    int n = snprintf(why, sizeof(why), "vCPU %u: %s at rip 0x%" PRIx64 ", bytes", c->id, exit->internal.why,
                     exit->internal.rip);

    for (unsigned i = 0; i < exit->internal.n_bytes && n > 0 && n < (int)sizeof(why); i++)
        n += snprintf(why + n, sizeof(why) - (size_t)n, " %02x", exit->internal.bytes[i]);
    runner_finish(r, EXIT_FAIL, why);
}

static bool runner_is_done(struct runner *r)
{
    bool done;

    pthread_mutex_lock(&r->lock);
    done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}

static void *runner_cpu_thread(void *opaque)
{
    struct runner_cpu *c = opaque;
    struct runner *r = c->r;
    struct cpu_exit exit = { .reason = CPU_EXIT_KICK };

    while (!runner_is_done(r)) {
        int res = r->ops->vcpu_run(c->vcpu, &exit);

        if (res < 0) {
            runner_finish(r, EXIT_FAIL, strerror(-res));
        } else if (exit.reason == CPU_EXIT_INTERNAL_ERROR) {
            runner_tell_internal(r, c, &exit);
        } else if (exit.reason == CPU_EXIT_SHUTDOWN) {
            pthread_mutex_lock(&r->lock);
            r->shutdown = true;
            pthread_mutex_unlock(&r->lock);
            runner_finish(r, EXIT_FAIL, "triple fault");
        } else if (exit.reason != CPU_EXIT_KICK) {
            runner_finish(r, EXIT_FAIL, "unexpected exit");
        }
    }
    return NULL;
}

static void runner_wait(struct runner *r)
{
    struct timespec until;
    bool expired = false;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += r->seconds;
    pthread_mutex_lock(&r->lock);
    while (!r->done && !expired)
        expired = pthread_cond_timedwait(&r->done_cond, &r->lock, &until) == ETIMEDOUT;
    pthread_mutex_unlock(&r->lock);
    runner_finish(r, EXIT_FAIL, "time limit");
}

/* Where each vCPU stood, for a run that ended badly. */
static void runner_dump(struct runner *r)
{
    for (unsigned i = 0; i < r->n_cpus; i++) {
        struct kvm_regs regs;
        struct kvm_sregs sregs;

        if (r->ops->get_regs(r->cpus[i].vcpu, &regs) < 0 || r->ops->get_sregs(r->cpus[i].vcpu, &sregs) < 0)
            continue;
        printf("vCPU %u: rip %04x:%llx rsp %llx rax %llx rcx %llx rdx %llx rflags %llx cr0 %llx cr2 %llx cr3 %llx cr4 "
               "%llx "
               "efer %llx\n",
               i, sregs.cs.selector, regs.rip, regs.rsp, regs.rax, regs.rcx, regs.rdx, regs.rflags, sregs.cr0,
               sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer);
    }
}

static int runner_run(struct runner *r)
{
    unsigned started;
    int res = 0;

    for (started = 0; started < r->n_cpus && res == 0; started++)
        res = pthread_create(&r->cpus[started].thread, NULL, runner_cpu_thread, &r->cpus[started]);
    if (res != 0)
        runner_finish(r, EXIT_FAIL, strerror(res));
    runner_wait(r);
    for (unsigned i = 0; i < started; i++)
        r->ops->vcpu_kick(r->cpus[i].vcpu);
    for (unsigned i = 0; i < started; i++)
        pthread_join(r->cpus[i].thread, NULL);
    if (r->shutdown && r->expect_shutdown)
        return EXIT_PASS;
    if (r->expect_shutdown && r->code == EXIT_PASS) {
        printf("%s: no triple fault, though one was to come\n", r->image);
        return EXIT_FAIL;
    }
    if (r->code != EXIT_PASS) {
        printf("%s: %s\n", r->image, r->why);
        runner_dump(r);
    }
    return r->code;
}

static int runner_on_engine(struct runner *r)
{
    int res = mem_new(&r->mem), code = EXIT_FAIL;

    if (res >= 0)
        res = mem_add_ram(r->mem, 0, RAM_BYTES, false, NULL);
    if (res >= 0)
        res = runner_load(r);
    if (res >= 0)
        res = runner_set_info(r);
    if (res >= 0)
        res = runner_make_vm(r);
    if (res < 0)
        printf("%s: cannot be set up on %s: %s\n", r->image, r->engine, strerror(-res));
    else
        code = runner_run(r);
    for (unsigned i = 0; i < r->n_cpus; i++) {
        if (r->cpus[i].vcpu)
            r->ops->vcpu_free(r->cpus[i].vcpu);
    }
    if (r->vm)
        r->ops->vm_free(r->vm);
    mem_free(r->mem);
    return code;
}

/* ---- QEMU ---- */

static _Noreturn void runner_exec_qemu(struct runner *r, int out)
{
    char smp[16], append[32];

    snprintf(smp, sizeof(smp), "%u", r->n_cpus);
    snprintf(append, sizeof(append), "cpus=%u", r->n_cpus);
    dup2(out, STDOUT_FILENO);
    execlp("qemu-system-x86_64", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "64", "-smp",
           smp, "-display", "none", "-nodefaults", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
           "-debugcon", "stdio", "-kernel", r->image, "-append", append, (char *)NULL);
    _exit(127);
}

static int runner_on_qemu(struct runner *r)
{
    int pipe_fds[2], status;
    pid_t pid;
    struct timespec now;
    time_t until;
    char text[512];
    ssize_t n;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return EXIT_FAIL;
    pid = fork();
    if (pid < 0)
        return EXIT_FAIL;
    if (pid == 0)
        runner_exec_qemu(r, pipe_fds[1]);
    close(pipe_fds[1]);
    clock_gettime(CLOCK_MONOTONIC, &now);
    until = now.tv_sec + (time_t)r->seconds;
    for (;;) {
        struct pollfd readable = { .fd = pipe_fds[0], .events = POLLIN };

        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec >= until) {
            kill(pid, SIGKILL);
            break;
        }
        if (poll(&readable, 1, 200) <= 0)
            continue;
        n = read(pipe_fds[0], text, sizeof(text));
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            runner_put(r, text[i]);
    }
    close(pipe_fds[0]);
    if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status)) {
        printf("%s: time limit under qemu\n", r->image);
        return EXIT_FAIL;
    }
    if (WEXITSTATUS(status) == 127)
        return EXIT_SKIP;
    /* isa-debug-exit gives 2 * code + 1; 0 is a reset, after a triple fault. */
    if (WEXITSTATUS(status) == 0)
        return r->expect_shutdown ? EXIT_PASS : EXIT_FAIL;
    return WEXITSTATUS(status) == 1 && !r->expect_shutdown ? EXIT_PASS : EXIT_FAIL;
}

/* ---- options ---- */

static const struct cpu_ops *runner_find_engine(const char *name)
{
    if (strcmp(name, "kvm") == 0)
        return &cpu_kvm_ops;
    if (strcmp(name, "interp") == 0)
        return &cpu_interp_ops;
    if (strcmp(name, "bt") == 0)
        return &cpu_bt_ops;
    if (strcmp(name, "bt-eager") == 0)
        return &cpu_bt_eager_ops;
    if (strcmp(name, "bt-small") == 0)
        return &cpu_bt_small_ops;
    return NULL;
}

static bool runner_parse(struct runner *r, int argc, char **argv)
{
    static const struct option options[] = {
        { "engine", required_argument, NULL, 'e' },
        { "cpus", required_argument, NULL, 'c' },
        { "seconds", required_argument, NULL, 's' },
        { 0 },
    };
    uint64_t n;
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'e') {
            r->engine = optarg;
        } else if (opt == 'c' && num_parse_u64(optarg, 1, CPU_VCPUS_MAX, &n) == 0) {
            r->n_cpus = (unsigned)n;
        } else if (opt == 's' && num_parse_u64(optarg, 1, 3600, &n) == 0) {
            r->seconds = (unsigned)n;
        } else {
            return false;
        }
    }
    if (!r->engine || optind + 1 != argc)
        return false;
    r->image = argv[optind];
    r->ops = runner_find_engine(r->engine);
    return r->ops || strcmp(r->engine, "qemu") == 0;
}

int main(int argc, char **argv)
{
    struct runner r = { .n_cpus = 1, .seconds = 60 };

    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.done_cond, NULL);
    if (!runner_parse(&r, argc, argv)) {
        fprintf(stderr, "usage: runner --engine interp|bt|bt-eager|bt-small|kvm|qemu [--cpus N] [--seconds N] IMAGE\n");
        return EXIT_USAGE;
    }
    if (!r.ops)
        return runner_on_qemu(&r);
    if (r.ops == &cpu_kvm_ops) {
        struct vmm_probe_result probe;

        vmm_probe_engine(r.ops, &probe);
        if (!probe.ok) {
            printf("skipped: kvm here cannot run stock guests: %s\n", probe.reason);
            return EXIT_SKIP;
        }
    }
    return runner_on_engine(&r);
}
