/* caisson vm run: from options to a VM specification, then to a running VM on this terminal. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/disk_option.h"
#include "instance/vmm.h"
#include "cli/net_option.h"
#include "cli/vm_option.h"
#include "cli/vm_run.h"
#include "proto/exit_code.h"
#include "proto/vm_spec.h"

int cli_vm_parse_disk(const struct cli_given *given, struct vm_spec *s, struct err *e)
{
    bool cdrom = strcmp(given->option->name, "cdrom") == 0;
    struct vm_disk *d = &s->disks[s->n_disks];

    if (!cdrom && strcmp(given->option->name, "disk") != 0)
        return 0;
    if (s->n_disks == VM_DISKS_MAX)
        return err_set(e, EINVAL, "too many disks; give --disk and --cdrom at most %d times together", VM_DISKS_MAX);
    s->n_disks++;
    return cdrom ? cli_parse_cdrom(given->value, d, e) : cli_parse_disk(given->value, d, e);
}

int cli_vm_parse_console(const char *text, struct vm_spec *s, struct err *e)
{
    static const char device[] = ",device=";
    const char *at = strstr(text, device);
    AUTO_FREE char *where = strndup(text, at ? (size_t)(at - text) : strlen(text));

    if (!where)
        return err_set(e, ENOMEM, "out of memory");
    if (at && strcmp(at + strlen(device), "virtio") == 0)
        s->console_device = VM_CONSOLE_VIRTIO;
    else if (at && strcmp(at + strlen(device), "serial") != 0)
        return err_set(e, EINVAL, "--console %s: unknown device; use device=serial or device=virtio", text);
    if (strcmp(where, "stdio") == 0) {
        s->console = VM_CONSOLE_STDIO;
    } else if (strcmp(where, "none") == 0) {
        s->console = VM_CONSOLE_NONE;
    } else if (strncmp(where, "file=", 5) == 0 && where[5]) {
        s->console = VM_CONSOLE_FILE;
        return cli_set_text(&s->console_file, where + 5, e);
    } else {
        return err_set(e, EINVAL, "--console %s: unknown console; use stdio, none or file=FILE", text);
    }
    return 0;
}

static int run_build_spec(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const char *console = cli_value(args, "console");
    int r = cli_vm_options(args, s, e);

    if (r >= 0)
        r = cli_set_text(&s->name, cli_value(args, "name"), e);
    if (r >= 0 && console)
        r = cli_vm_parse_console(console, s, e);
    for (size_t i = 0; i < args->n_given && r >= 0; i++)
        r = cli_vm_parse_disk(&args->given[i], s, e);
    if (r >= 0)
        r = cli_net_no_forwards(s, e);
    s->debug_exit = cli_value(args, "debug-exit") != NULL;
    s->no_reboot = cli_value(args, "no-reboot") != NULL;
    s->verbose = cli_value(args, "verbose") != NULL;
    return r < 0 ? r : vm_spec_check(s, e);
}

int cli_cmd_vm_run(const struct cli_args *args)
{
    struct vm_spec spec;
    struct err e = { 0 };
    struct inst_vmm vmm;
    int r;

    vm_spec_init(&spec);
    r = run_build_spec(args, &spec, &e);
    if (r >= 0)
        r = inst_vmm_start(&spec, NULL, NULL, -1, &vmm, &e);
    vm_spec_done(&spec);
    if (r < 0)
        return cli_fail(&e);
    return cli_console_run(&vmm, &e);
}
