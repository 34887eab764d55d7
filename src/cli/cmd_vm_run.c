/* caisson vm run: from options to a VM specification, then to a running VM on this terminal. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/spawn.h"
#include "proto/exit_code.h"
#include "proto/vm_spec.h"

static int run_copy(char **to, const char *from, struct err *e)
{
    if (!from)
        return 0;
    *to = strdup(from);
    return *to ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* FILE[,ro][,serial=S]; a comma in the file name is written twice. */
static int run_parse_disk(const char *text, struct vm_spec *s, struct err *e)
{
    struct vm_disk *d = &s->disks[s->n_disks];
    size_t n = 0;
    const char *p = text;

    if (s->n_disks == VM_DISKS_MAX)
        return err_set(e, EINVAL, "too many disks; give --disk at most %d times", VM_DISKS_MAX);
    d->path = calloc(1, strlen(text) + 1);
    if (!d->path)
        return err_set(e, ENOMEM, "out of memory");
    s->n_disks++;
    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',')
                break;
            p++;
        }
        d->path[n++] = *p;
    }
    p += *p == ',';
    while (*p) {
        size_t len = strcspn(p, ",");

        if (len == 2 && memcmp(p, "ro", 2) == 0) {
            d->read_only = true;
        } else if (len > 7 && memcmp(p, "serial=", 7) == 0 && !d->serial) {
            d->serial = strndup(p + 7, len - 7);
            if (!d->serial)
                return err_set(e, ENOMEM, "out of memory");
        } else {
            return err_set(e, EINVAL,
                           "--disk %s: unknown part '%.*s'; use FILE[,ro][,serial=S], a comma in FILE as ',,'", text,
                           (int)len, p);
        }
        p += len;
        p += *p == ',';
    }
    return 0;
}

/* fwd=PROTO:HOSTPORT:GUESTPORT */
static int run_parse_forward(const char *text, size_t len, struct vm_spec *s, struct err *e)
{
    char word[64], *host, *guest;
    uint64_t host_port, guest_port;
    struct vm_forward *f = &s->forwards[s->n_forwards];

    if (s->n_forwards == VM_FORWARDS_MAX)
        return err_set(e, EINVAL, "too many port forwards; at most %d are possible", VM_FORWARDS_MAX);
    snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), text);
    host = strchr(word, ':');
    guest = host ? strchr(host + 1, ':') : NULL;
    if (guest) {
        *host++ = '\0';
        *guest++ = '\0';
        f->udp = strcmp(word, "udp") == 0;
        if ((f->udp || strcmp(word, "tcp") == 0) && num_parse_u64(host, 1, 65535, &host_port) == 0 &&
            num_parse_u64(guest, 1, 65535, &guest_port) == 0) {
            f->host_port = (uint16_t)host_port;
            f->guest_port = (uint16_t)guest_port;
            s->n_forwards++;
            return 0;
        }
    }
    return err_set(e, EINVAL,
                   "--net: bad port forward '%.*s'; use fwd=tcp:HOSTPORT:GUESTPORT or fwd=udp:..., ports 1 to 65535",
                   (int)len, text);
}

static int run_parse_net(const char *text, struct vm_spec *s, struct err *e)
{
    size_t len = strcspn(text, ",");
    const char *p = text + len;

    if (len == 4 && memcmp(text, "none", 4) == 0)
        s->net = VM_NET_NONE;
    else if (len == 4 && memcmp(text, "user", 4) == 0)
        s->net = VM_NET_USER;
    else
        return err_set(e, EINVAL, "--net %s: unknown network; use user[,fwd=tcp:HOSTPORT:GUESTPORT] or none", text);
    while (*p == ',') {
        int r;

        p++;
        len = strcspn(p, ",");
        if (len < 4 || memcmp(p, "fwd=", 4) != 0)
            return err_set(e, EINVAL, "--net %s: unknown part '%.*s'; use user[,fwd=tcp:HOSTPORT:GUESTPORT] or none",
                           text, (int)len, p);
        r = run_parse_forward(p + 4, len - 4, s, e);
        if (r < 0)
            return r;
        p += len;
    }
    return 0;
}

/* stdio|none|file=FILE, each with ,device=serial|virtio behind it if wanted. */
static int run_parse_console(const char *text, struct vm_spec *s, struct err *e)
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
        return run_copy(&s->console_file, where + 5, e);
    } else {
        return err_set(e, EINVAL, "--console %s: unknown console; use stdio, none or file=FILE", text);
    }
    return 0;
}

static int run_parse_numbers(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const char *memory = cli_value(args, "memory"), *cpus = cli_value(args, "cpus"),
               *engine = cli_value(args, "engine");
    uint64_t n;

    if (memory && num_parse_size(memory, &s->memory) < 0)
        return err_set(e, EINVAL, "--memory %s: not a size; use a number with K, M, G or T behind it, e.g. 512M",
                       memory);
    if (cpus) {
        if (num_parse_u64(cpus, 1, VM_CPUS_MAX, &n) < 0)
            return err_set(e, EINVAL, "--cpus %s: not possible; use a number from 1 to %d", cpus, VM_CPUS_MAX);
        s->cpus = (unsigned)n;
    }
    if (engine && vm_engine_parse(engine, &s->engine) < 0)
        return err_set(e, EINVAL, "--engine %s: unknown engine; use auto, kvm, bt or interp", engine);
    return 0;
}

static int run_build_spec(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const char *console = cli_value(args, "console"), *net = cli_value(args, "net");
    int r = run_parse_numbers(args, s, e);

    if (r >= 0)
        r = run_copy(&s->name, cli_value(args, "name"), e);
    if (r >= 0)
        r = run_copy(&s->kernel, cli_value(args, "kernel"), e);
    if (r >= 0)
        r = run_copy(&s->initrd, cli_value(args, "initrd"), e);
    if (r >= 0)
        r = run_copy(&s->append, cli_value(args, "append"), e);
    if (r >= 0)
        r = run_copy(&s->cpu, cli_value(args, "cpu"), e);
    if (r >= 0 && net)
        r = run_parse_net(net, s, e);
    if (r >= 0 && console)
        r = run_parse_console(console, s, e);
    for (size_t i = 0; i < args->n_given && r >= 0; i++) {
        if (strcmp(args->given[i].option->name, "disk") == 0)
            r = run_parse_disk(args->given[i].value, s, e);
    }
    s->debug_exit = cli_value(args, "debug-exit") != NULL;
    s->no_reboot = cli_value(args, "no-reboot") != NULL;
    s->verbose = cli_value(args, "verbose") != NULL;
    return r < 0 ? r : vm_spec_check(s, e);
}

int cli_cmd_vm_run(const struct cli_args *args)
{
    struct vm_spec spec;
    struct err e = { 0 };
    AUTO_FREE char *text = NULL;
    struct cli_vmm vmm;
    bool with_console;
    int r;

    vm_spec_init(&spec);
    r = run_build_spec(args, &spec, &e);
    with_console = spec.console == VM_CONSOLE_STDIO;
    if (r >= 0 && vm_spec_to_json(&spec, &text) < 0)
        r = err_set(&e, ENOMEM, "out of memory");
    vm_spec_done(&spec);
    if (r >= 0)
        r = cli_vmm_spawn(text, with_console, &vmm, &e);
    if (r < 0)
        return cli_fail(&e);
    return cli_console_run(&vmm, &e);
}
