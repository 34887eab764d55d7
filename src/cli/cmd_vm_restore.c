/* caisson vm restore: from the file of a saved VM, and what the user wants otherwise, to a running VM on this terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/disk_args.h"
#include "cli/net_option.h"
#include "cli/vm_option.h"
#include "cli/vm_run.h"
#include "instance/vmm.h"
#include "proto/json.h"

static int restore_nonsense(const char *file, struct err *e)
{
    return err_set(e, EBADMSG, "saved VM %s: caisson-vmm answers nonsense; install all programs from one build", file);
}

/* What belongs to a process is not the file's to say. */
static void restore_clean(struct vm_spec *s)
{
    free(s->run_dir);
    s->run_dir = NULL;
    for (unsigned i = 0; i < s->n_nets; i++)
        s->nets[i].n_fds = 0;
}

/* The specification that stands in the file. Returns 0, -errno with text, or the exit code of caisson-vmm, which said
 * why it failed. */
static int restore_read(const char *file, struct vm_spec *s, struct err *e)
{
    AUTO_FREE char *text = NULL;
    json_object *o = NULL, *spec = NULL;
    int r = inst_vmm_report("--saved", file, &text, e);

    if (r != 0)
        return r;
    r = proto_json_object(text, "saved VM", &o, e);
    if (r < 0)
        return restore_nonsense(file, e);
    if (!json_object_object_get_ex(o, "spec", &spec))
        r = restore_nonsense(file, e);
    else
        r = vm_spec_from_json(json_object_to_json_string_ext(spec, JSON_C_TO_STRING_PLAIN), s, e);
    json_object_put(o);
    restore_clean(s);
    return r;
}

/* Disks that are given stand in the place of all that the VM had. */
static int restore_disks(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    bool first = true;
    int r = 0;

    for (size_t i = 0; i < args->n_given && r >= 0; i++) {
        const char *name = args->given[i].option->name;

        if (strcmp(name, "disk") != 0 && strcmp(name, "cdrom") != 0)
            continue;
        if (first) {
            for (unsigned k = 0; k < s->n_disks; k++)
                vm_disk_done(&s->disks[k]);
            memset(s->disks, 0, sizeof(s->disks));
            s->n_disks = 0;
        }
        first = false;
        r = cli_vm_parse_disk(&args->given[i], s, e);
    }
    return r;
}

/* Those that the VM had as an instance: its supervisor opened them, and there is none here. */
static void restore_drop_forwards(struct vm_spec *s)
{
    for (unsigned i = 0; i < s->n_nets; i++) {
        if (s->nets[i].kind != VM_NIC_NETWORK || s->nets[i].n_forwards == 0)
            continue;
        fprintf(stderr,
                "caisson: warning: its ports on network %s are not forwarded, which is done for instances only; use "
                "caisson network create --publish, or --net user,fwd=...\n",
                s->nets[i].network);
        s->nets[i].n_forwards = 0;
    }
}

static int restore_nets(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    struct vm_nic saved[VM_NICS_MAX];
    unsigned n = s->n_nets;
    int r;

    memcpy(saved, s->nets, sizeof(saved));
    if (!cli_value(args, "net")) {
        restore_drop_forwards(s);
        return 0;
    }
    r = cli_net_options(args, s, e);
    if (r >= 0)
        r = cli_net_no_forwards(s, e);
    /* The guest knows its cards by their addresses, and drives as many queues as it has seen. */
    for (unsigned i = 0; i < s->n_nets && i < n && r >= 0; i++) {
        static const uint8_t none[6];

        if (!cli_value(args, "new-identity") && memcmp(s->nets[i].mac, none, 6) == 0)
            memcpy(s->nets[i].mac, saved[i].mac, 6);
        if (s->nets[i].queues == 0)
            s->nets[i].queues = saved[i].queues;
        if (s->nets[i].mtu == 0)
            s->nets[i].mtu = saved[i].mtu;
    }
    return r;
}

static int restore_change(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const char *engine = cli_value(args, "engine"), *console = cli_value(args, "console");
    const enum vm_console_device device = s->console_device;
    int r = cli_set_text(&s->name, cli_value(args, "name"), e);

    if (engine && vm_engine_parse(engine, &s->engine) < 0)
        return err_set(e, EINVAL, "--engine %s: unknown engine; use auto, kvm, bt or interp", engine);
    if (r >= 0 && console) {
        r = cli_vm_parse_console(console, s, e);
        s->console_device = strstr(console, ",device=") ? s->console_device : device;
    }
    if (r >= 0)
        r = restore_disks(args, s, e);
    if (r >= 0)
        r = restore_nets(args, s, e);
    for (unsigned i = 0; i < s->n_nets && r >= 0 && cli_value(args, "new-identity") && !cli_value(args, "net"); i++)
        memset(s->nets[i].mac, 0, 6);
    s->no_reboot = s->no_reboot || cli_value(args, "no-reboot");
    s->verbose = cli_value(args, "verbose") != NULL;
    return r < 0 ? r : vm_spec_check(s, e);
}

static int restore_clock(const struct cli_args *args, struct inst_vmm_restore *restore, struct err *e)
{
    const char *clock = cli_value(args, "clock");

    restore->catch_up = clock && strcmp(clock, "catch-up") == 0;
    if (clock && !restore->catch_up && strcmp(clock, "continue") != 0)
        return err_set(e, EINVAL, "--clock %s: unknown; use continue or catch-up", clock);
    return 0;
}

/* Returns 0, -errno with text, or an exit code, the cause of which was told. */
static int restore_start(const struct cli_args *args, struct vm_spec *s, struct inst_vmm *ret_vmm, struct err *e)
{
    AUTO_FD int fd = -1;
    struct inst_vmm_restore restore = { .fd = -1, .new_identity = cli_value(args, "new-identity") };
    const char *file = NULL;
    int r = disk_args_operand(args, 0, "FILE", &file, e);

    if (r >= 0)
        r = restore_clock(args, &restore, e);
    if (r >= 0)
        r = restore_read(file, s, e);
    if (r == 0)
        r = restore_change(args, s, e);
    if (r != 0)
        return r;
    restore.fd = fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_set(e, errno, "saved VM %s: %s", file, strerror(errno));
    return inst_vmm_start(s, &restore, NULL, -1, ret_vmm, e);
}

int cli_cmd_vm_restore(const struct cli_args *args)
{
    struct vm_spec spec;
    struct err e = { 0 };
    struct inst_vmm vmm;
    int r;

    vm_spec_init(&spec);
    r = restore_start(args, &spec, &vmm, &e);
    vm_spec_done(&spec);
    if (r != 0)
        return r > 0 ? r : cli_fail(&e);
    return cli_console_run(&vmm, &e);
}
