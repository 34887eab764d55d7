/* caisson-vmm: one process, one VM. It is started by the other programs, not by people:
 *   caisson-vmm --spec-fd N [--console-fd N]   run the VM that the JSON document in descriptor N describes
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
#include "base/log.h"
#include "base/num.h"
#include "proto/exit_code.h"
#include "proto/vm_spec.h"
#include "vmm/cpu_models.h"
#include "vmm/doctor.h"
#include "vmm/machine.h"

struct vmm_options {
    int spec_fd, console_fd;
    bool doctor;
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
        { "spec-fd", required_argument, NULL, 's' },
        { "console-fd", required_argument, NULL, 'c' },
        { "doctor", no_argument, NULL, 'd' },
        { "cpu-models", required_argument, NULL, 'm' },
        { 0 },
    };
    uint64_t fd;
    int c;

    *o = (struct vmm_options){ .spec_fd = -1, .console_fd = -1 };
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'd') {
            o->doctor = true;
        } else if (c == 'm') {
            o->models_engine = optarg;
        } else if ((c != 's' && c != 'c') || num_parse_u64(optarg, 3, INT32_MAX, &fd) < 0) {
            return -EINVAL;
        } else if (c == 's') {
            o->spec_fd = (int)fd;
        } else {
            o->console_fd = (int)fd;
        }
    }
    return optind == argc && (o->doctor || o->models_engine || o->spec_fd >= 0) ? 0 : -EINVAL;
}

static int main_read_spec(int fd, struct vm_spec *spec, struct err *e)
{
    struct buf text;
    char chunk[4096];
    ssize_t n;
    int r;

    buf_init(&text, VM_SPEC_TEXT_MAX);
    if (lseek(fd, 0, SEEK_SET) < 0 && errno != ESPIPE)
        return err_set(e, errno, "VM specification: %s", strerror(errno));
    while ((n = read(fd, chunk, sizeof(chunk))) > 0)
        buf_append(&text, chunk, (size_t)n);
    buf_append(&text, "", 1);
    r = n < 0 ? -errno : buf_error(&text);
    if (r < 0)
        err_set(e, -r, "VM specification: %s", strerror(-r));
    else
        r = vm_spec_from_json((const char *)text.data, spec, e);
    buf_done(&text);
    return r;
}

/* Returns the exit code, or -1 where the guest wants to be started again. */
static int main_run(const struct vm_spec *spec, int console_fd)
{
    AUTO(machine) struct machine *m = NULL;
    struct err e = { 0 };
    unsigned code = 0;
    int r = machine_new(spec, console_fd, &m, &e);

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
    signal(SIGPIPE, SIG_IGN); /* check: allow(banned:signal) no handler, so nothing is unclear about it */
    if (getenv("CAISSON_DEBUG"))
        log_set_level(LOG_DEBUG);
    if (options.doctor)
        return vmm_doctor() < 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
    if (options.models_engine)
        return vmm_cpu_models(options.models_engine, &e) < 0 ? main_fail(&e) : EXIT_CODE_OK;
    vm_spec_init(&spec);
    r = main_read_spec(options.spec_fd, &spec, &e);
    r = r < 0 ? main_fail(&e) : main_run(&spec, options.console_fd);
    vm_spec_done(&spec);
    if (r >= 0)
        return r;
    /* A reset starts the VM afresh in the same process: same specification, same console, nothing left over. */
    execv("/proc/self/exe", argv);
    fprintf(stderr, "caisson: cannot restart the VM: %s\n", strerror(errno));
    return EXIT_CODE_FAILED;
}
