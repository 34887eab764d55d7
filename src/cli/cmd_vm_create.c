/* caisson vm create: a VM from an image, or from a kernel, with its disks and what cloud-init is told. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/disk_option.h"
#include "cli/instance.h"
#include "cli/vm_option.h"
#include "instance/vm_make.h"
#include "proto/exit_code.h"
#include "proto/name.h"
#include "proto/vm_spec.h"
#include "wire/addr.h"

#define CREATE_LOOPBACK 0x7f000001U

struct create {
    struct inst_spec spec;
    struct inst_vm_new new;
    struct inst_seed seed;
    char *user_data;
    uint64_t sizes[VM_DISKS_MAX];
    size_t n_sizes;
};

static void create_done(struct create *c)
{
    inst_spec_done(&c->spec);
    inst_strings_done(&c->seed.ssh_keys);
    free(c->user_data);
}

/* A file that a process started elsewhere will open: its absolute name, and the error now. */
static int create_absolute(char **path, const char *option, struct err *e)
{
    char *full;

    if (!*path || strstr(*path, "://") || strncmp(*path, "rbd:", 4) == 0 || strncmp(*path, "nbd:", 4) == 0)
        return 0;
    full = realpath(*path, NULL);
    if (!full)
        return err_set(e, errno, "--%s %s: %s", option, *path, strerror(errno));
    free(*path);
    *path = full;
    return 0;
}

/* --disk SIZE: of the image's disk the first time, else a new disk; --disk FILE and --cdrom FILE: that one. */
static int create_disk(const struct cli_given *given, struct create *c, struct err *e)
{
    struct vm_spec *vm = c->spec.vm;
    bool cdrom = strcmp(given->option->name, "cdrom") == 0;
    struct vm_disk *d;
    uint64_t size;
    int r;

    if (!cdrom && num_parse_size(given->value, &size) == 0 && size > 0) {
        if (c->new.image && c->new.root_size == 0)
            c->new.root_size = size;
        else if (c->n_sizes < VM_DISKS_MAX)
            c->sizes[c->n_sizes++] = size;
        return 0;
    }
    if (vm->n_disks == VM_DISKS_MAX)
        return err_set(e, EINVAL, "too many disks; give at most %d", VM_DISKS_MAX);
    d = &vm->disks[vm->n_disks++];
    r = cdrom ? cli_parse_cdrom(given->value, d, e) : cli_parse_disk(given->value, d, e);
    return r < 0 ? r : create_absolute(&d->path, given->option->name, e);
}

static int create_seed(const struct cli_args *args, struct create *c, struct err *e)
{
    const char *file = cli_value(args, "user-data");
    int r = 0;

    if (file)
        r = inst_seed_read_user_data(file, &c->user_data, e);
    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        if (strcmp(args->given[i].option->name, "ssh-key") == 0)
            r = inst_seed_read_keys(args->given[i].value, &c->seed.ssh_keys, e);
    }
    c->seed.user_data = c->user_data;
    c->seed.user = cli_value(args, "user");
    c->seed.password_hash = cli_value(args, "password-hash");
    if (r == 0)
        r = inst_seed_check(&c->seed, e);
    return r;
}

static int create_hostname(const struct cli_args *args, struct create *c, struct err *e)
{
    const char *name = cli_value(args, "hostname");

    if (name && !proto_host_name_ok(name))
        return err_set(e, EINVAL, "--hostname %s: not a host name; use letters, digits, - _ and .", name);
    c->new.hostname = name;
    return 0;
}

/* [ADDR:]HOSTPORT:PORT[/udp|/tcp] of the first card. */
static int create_publish(const char *text, struct vm_spec *vm, struct err *e)
{
    struct vm_nic *nic = &vm->nets[0];
    struct vm_forward f = { .host_addr = CREATE_LOOPBACK };
    char word[64], *addr, *host, *slash;
    uint64_t host_port, port;

    if (vm->n_nets == 0 || nic->kind == VM_NIC_TAP)
        return err_set(e, EINVAL, "-p %s: the VM's first card is on no network with ports; give --net", text);
    if (nic->n_forwards == VM_FORWARDS_MAX)
        return err_set(e, EINVAL, "-p: more than %d ports; give fewer", VM_FORWARDS_MAX);
    snprintf(word, sizeof(word), "%s", text);
    slash = strchr(word, '/');
    if (slash)
        *slash++ = '\0';
    f.udp = slash && strcmp(slash, "udp") == 0;
    host = strrchr(word, ':');
    if (host)
        *host++ = '\0'; /* host: the VM's port */
    addr = strrchr(word, ':');
    if (addr)
        *addr++ = '\0';
    if (strlen(text) >= sizeof(word) || !host || (slash && !f.udp && strcmp(slash, "tcp") != 0) ||
        num_parse_u64(host, 1, UINT16_MAX, &port) < 0 ||
        num_parse_u64(addr ? addr : word, 1, UINT16_MAX, &host_port) < 0 ||
        (addr && addr_ip4_parse(word, &f.host_addr) < 0))
        return err_set(e, EINVAL, "-p %s: not a port forward; use [ADDR:]HOSTPORT:PORT[/udp], e.g. 8080:80", text);
    f.host_port = (uint16_t)host_port;
    f.guest_port = (uint16_t)port;
    nic->forwards[nic->n_forwards++] = f;
    return 0;
}

/* The default card of an instance is on the default network, where VMs know each other by name. */
static void create_default_net(const struct cli_args *args, struct vm_spec *vm)
{
    if (cli_value(args, "net"))
        return;
    vm->nets[0] = (struct vm_nic){ .kind = VM_NIC_NETWORK };
    snprintf(vm->nets[0].network, sizeof(vm->nets[0].network), "default");
    vm->n_nets = 1;
}

static int create_common(const struct cli_args *args, struct inst_spec *spec, struct err *e)
{
    const char *restart = cli_value(args, "restart"), *clock = cli_value(args, "clock");
    int r;

    spec->vm->clock_continue = clock && strcmp(clock, "continue") == 0;
    if (clock && !spec->vm->clock_continue && strcmp(clock, "catch-up") != 0)
        return err_set(e, EINVAL, "--clock %s: unknown; use catch-up or continue", clock);
    if (restart && inst_restart_parse(restart, &spec->restart, &spec->restart_max) < 0)
        return err_set(e, EINVAL, "--restart %s: unknown policy; use no, on-failure[:MAX], always or unless-stopped",
                       restart);
    r = cli_health_options(args, &spec->health, e);
    if (r < 0)
        return r;
    for (size_t i = 0; i < args->n_given; i++) {
        const struct cli_given *g = &args->given[i];

        if (strcmp(g->option->name, "label") == 0 && inst_strings_add(&spec->labels, g->value) < 0)
            return err_set(e, ENOMEM, "out of memory");
    }
    return 0;
}

static int create_read(const struct cli_args *args, struct create *c, struct err *e)
{
    struct vm_spec *vm = c->spec.vm;
    int r = cli_vm_options(args, vm, e);

    c->new = (struct inst_vm_new){
        .name = args->n_operands > 0 ? args->operands[0] : "",
        .image = cli_value(args, "image"),
        .spec = &c->spec,
        .has_memory = cli_value(args, "memory") != NULL,
        .has_cpus = cli_value(args, "cpus") != NULL,
        .sizes = c->sizes,
        .seed = cli_value(args, "no-seed") ? NULL : &c->seed,
    };
    if (r == 0 && !c->new.image && !vm->kernel)
        r = err_set(e, EINVAL,
                    "a VM is made from an image or a kernel; give --image NAME (caisson image ls) or --kernel "
                    "FILE");
    create_default_net(args, vm);
    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        const char *name = args->given[i].option->name;

        if (strcmp(name, "disk") == 0 || strcmp(name, "cdrom") == 0)
            r = create_disk(&args->given[i], c, e);
        else if (strcmp(name, "publish") == 0)
            r = create_publish(args->given[i].value, vm, e);
    }
    c->new.n_sizes = c->n_sizes;
    if (r == 0)
        r = create_absolute(&vm->kernel, "kernel", e);
    if (r == 0)
        r = create_absolute(&vm->initrd, "initrd", e);
    if (r == 0)
        r = create_seed(args, c, e);
    if (r == 0)
        r = create_hostname(args, c, e);
    return r < 0 ? r : create_common(args, &c->spec, e);
}

int cli_cmd_vm_create(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *made = calloc(1, sizeof(*made));
    AUTO_FREE struct create *c = calloc(1, sizeof(*c));
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = c && made ? inst_spec_init(&c->spec, INST_VM) : -ENOMEM;

    if (r == -ENOMEM)
        err_set(&e, ENOMEM, "out of memory");
    if (r == 0)
        r = create_read(args, c, &e);
    if (r == 0)
        r = cli_inst_open(STORE_WRITE, &store, &e);
    if (r == 0)
        r = inst_vm_make(store, &c->new, made, &e);
    if (r == 0 && cli_value(args, "start")) {
        r = inst_start(made, &(struct inst_start){ 0 }, NULL, &e);
        if (r < 0)
            err_wrap(&e, "%s is made, but does not start", made->name);
    }
    if (r == 0)
        printf("%s\n", made->name);
    if (c)
        create_done(c);
    if (made)
        store_instance_done(made);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
