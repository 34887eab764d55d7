/* caisson-vmm: one process, one VM. It is started by the other programs, not by people:
 *   caisson-vmm --spec-fd N [--console-fd N]   run the VM that the JSON document in descriptor N describes
 *     [--restore-fd N [--catch-up] [--new-identity] [--as-saved]]   from the state in the file with descriptor N
 *   caisson-vmm --saved FILE                   describe a saved VM, as JSON
 *   caisson-vmm --doctor                       report what this machine offers, as JSON
 *   caisson-vmm --cpu-models ENGINE            list the CPU models, as JSON */
#include "vmm/main.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/num.h"
#include "proto/exit_code.h"
#include "proto/vm_spec.h"
#include "sys/signals.h"
#include "vmm/cpu_models.h"
#include "vmm/doctor.h"
#include "vmm/machine.h"
#include "vmm/save_machine.h"

struct vmm_options {
    int spec_fd, console_fd, restore_fd;
    bool doctor, catch_up, new_identity, as_saved;
    const char *saved;         /* describe it */
    const char *models_engine; /* list the CPU models for it */
};

static int main_fail(const struct err *e)
{
    fprintf(stderr, "caisson: %s\n", e->text);
    return (int)exit_code_from_errno(e->code);
}

static int main_parse(int argc, char **argv, struct vmm_options *o)
{
    static const struct option options[] = {
        { "spec-fd", required_argument, NULL, 's' },    { "console-fd", required_argument, NULL, 'c' },
        { "restore-fd", required_argument, NULL, 'r' }, { "catch-up", no_argument, NULL, 'u' },
        { "new-identity", no_argument, NULL, 'i' },     { "as-saved", no_argument, NULL, 'a' },
        { "saved", required_argument, NULL, 'f' },      { "doctor", no_argument, NULL, 'd' },
        { "cpu-models", required_argument, NULL, 'm' }, { 0 },
    };
    uint64_t fd;
    int c;

    *o = (struct vmm_options){ .spec_fd = -1, .console_fd = -1, .restore_fd = -1 };
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'd')
            o->doctor = true;
        else if (c == 'u')
            o->catch_up = true;
        else if (c == 'i')
            o->new_identity = true;
        else if (c == 'a')
            o->as_saved = true;
        else if (c == 'm')
            o->models_engine = optarg;
        else if (c == 'f')
            o->saved = optarg;
        else if ((c != 's' && c != 'c' && c != 'r') || num_parse_u64(optarg, 3, INT32_MAX, &fd) < 0)
            return -EINVAL;
        else
            *(c == 's' ? &o->spec_fd : c == 'c' ? &o->console_fd : &o->restore_fd) = (int)fd;
    }
    return optind == argc && (o->doctor || o->models_engine || o->saved || o->spec_fd >= 0) ? 0 : -EINVAL;
}

static int main_read_spec(int fd, struct vm_spec *spec, struct err *e)
{
    struct buf text;
    int r;

    buf_init(&text, VM_SPEC_TEXT_MAX);
    if (lseek(fd, 0, SEEK_SET) < 0 && errno != ESPIPE)
        return err_set(e, errno, "VM specification: %s", strerror(errno));
    r = fd_read_text(fd, &text);
    if (r < 0)
        err_set(e, -r, "VM specification: %s", strerror(-r));
    else
        r = vm_spec_from_json((const char *)text.data, spec, e);
    buf_done(&text);
    return r;
}

/* Returns the exit code, or -1 where the guest wants to be started again. */
static int main_run(struct vm_spec *spec, const struct vmm_options *o)
{
    AUTO(machine) struct machine *m = NULL;
    struct err e = { 0 };
    unsigned code = 0;
    char proc[64], path[4096];
    struct save_restore restore = {
        .fd = o->restore_fd,
        .path = path,
        .catch_up = o->catch_up,
        .new_identity = o->new_identity,
        .as_saved = o->as_saved,
    };
    ssize_t n;
    int r = 0;

    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", o->restore_fd);
    n = o->restore_fd >= 0 ? readlink(proc, path, sizeof(path) - 1) : 0;
    path[MAX(n, 0)] = '\0';
    if (o->restore_fd >= 0 && o->as_saved)
        r = save_machine_adopt(o->restore_fd, path, spec, &e);
    if (r == 0)
        r = machine_new(spec, o->console_fd, o->restore_fd >= 0 ? &restore : NULL, &m, &e);
    if (o->restore_fd >= 0) {
        if (r == 0)
            (void)lseek(o->restore_fd, 0, SEEK_END); /* it runs: the state must not be used again (instance/vmm.h) */
        close(o->restore_fd);
    }
    if (r < 0)
        return main_fail(&e);
    r = machine_run(m, &code, &e);
    if (r < 0)
        return main_fail(&e);
    switch ((enum machine_end)r) {
    case MACHINE_RESET:
        return spec->no_reboot ? EXIT_CODE_OK : -1;
    case MACHINE_EXIT:
        return (int)(code & 0xff);
    case MACHINE_CRASHED:
        fprintf(stderr, "caisson: %s\n", e.text);
        return EXIT_CODE_GUEST_CRASH;
    case MACHINE_OFF:
    case MACHINE_STOPPED:
        break;
    }
    return EXIT_CODE_OK;
}

/* A VM that is reset boots, wherever it came from: the options of a restore (they are at the end) go. */
static void main_forget_restore(char **argv)
{
    for (; *argv && strcmp(*argv, "--restore-fd") != 0; argv++) {
    }
    *argv = NULL;
}

int vmm_main(int argc, char **argv)
{
    struct vmm_options options;
    struct vm_spec spec;
    struct err e = { 0 };
    int r;

    if (main_parse(argc, argv, &options) < 0) {
        fprintf(stderr, "caisson: caisson-vmm is started by caisson; see caisson(1)\n");
        return EXIT_CODE_USAGE;
    }
    sys_signals_no_pipe();
    if (getenv("CAISSON_DEBUG"))
        log_set_level(LOG_DEBUG);
    if (options.doctor)
        return vmm_doctor() < 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
    if (options.models_engine)
        return vmm_cpu_models(options.models_engine, &e) < 0 ? main_fail(&e) : EXIT_CODE_OK;
    if (options.saved)
        return save_machine_print(options.saved, &e) < 0 ? main_fail(&e) : EXIT_CODE_OK;
    vm_spec_init(&spec);
    r = main_read_spec(options.spec_fd, &spec, &e);
    r = r < 0 ? main_fail(&e) : main_run(&spec, &options);
    vm_spec_done(&spec);
    if (r >= 0)
        return r;
    /* A reset starts the VM afresh in the same process: same specification, same console, nothing left over. */
    main_forget_restore(argv);
    execv("/proc/self/exe", argv);
    fprintf(stderr, "caisson: cannot restart the VM: %s\n", strerror(errno));
    return EXIT_CODE_FAILED;
}
