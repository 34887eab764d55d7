/* caisson rename and update. */
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/container_options.h"
#include "cli/instance.h"
#include "instance/place.h"
#include "proto/exit_code.h"
#include "proto/vm_spec.h"

/* ---- rename ---- */

/* A VM is known by its name where it runs: to its network, and to `caisson disk backup`. */
static int change_rename(struct store *s, const struct store_instance *i, const char *name, struct err *e)
{
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r = i->spec.kind == INST_VM ? inst_lock(i->id, &place, e) : 0;

    if (r == -EBUSY)
        return err_set(e, EBUSY, "VM %s is running; stop it first, then give it another name", i->name);
    if (r == 0)
        r = store_instance_rename(s, i->id, name, e);
    if (place.lock >= 0)
        sys_place_leave(&place);
    return r;
}

int cli_cmd_instance_rename(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = i ? 0 : err_set(&e, ENOMEM, "out of memory");

    if (r == 0 && args->n_operands != 2)
        r = err_set(&e, EINVAL, "two names are needed: the one that it has, and its new one");
    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    if (r == 0)
        r = change_rename(store, i, args->operands[1], &e);
    if (r == 0)
        printf("%s\n", args->operands[1]);
    if (i)
        store_instance_done(i);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

/* ---- update ---- */

static int change_size(const struct cli_args *args, const char *option, uint64_t *ret, struct err *e)
{
    const char *text = cli_value(args, option);

    if (text && num_parse_size(text, ret) < 0)
        return err_set(e, EINVAL, "--%s %s: not a size; use a number with K, M or G behind it, e.g. 512M", option,
                       text);
    return 0;
}

static int change_number(const struct cli_args *args, const char *option, uint64_t max, uint64_t *ret, struct err *e)
{
    const char *text = cli_value(args, option);

    if (text && num_parse_u64(text, 0, max, ret) < 0)
        return err_set(e, EINVAL, "--%s %s: not a number up to %llu", option, text, (unsigned long long)max);
    return 0;
}

static int change_policy(const struct cli_args *args, struct inst_spec *spec, struct err *e)
{
    const char *restart = cli_value(args, "restart"), *signal = cli_value(args, "stop-signal");

    if (restart && inst_restart_parse(restart, &spec->restart, &spec->restart_max) < 0)
        return err_set(e, EINVAL, "--restart %s: unknown policy; use no, on-failure[:MAX], always or unless-stopped",
                       restart);
    if (signal && cli_parse_signal(signal, &spec->stop_signal) < 0)
        return err_set(e, EINVAL, "--stop-signal %s: no such signal; give a name such as TERM, or a number", signal);
    return cli_duration_option(args, "stop-timeout", &spec->stop_timeout_ns, NULL, e);
}

int cli_health_options(const struct cli_args *args, struct inst_health *h, struct err *e)
{
    const char *command = cli_value(args, "health-cmd");
    uint64_t retries = h->retries;
    int r = cli_duration_option(args, "health-interval", &h->interval_ns, NULL, e);

    if (r == 0)
        r = cli_duration_option(args, "health-timeout", &h->timeout_ns, NULL, e);
    if (r == 0)
        r = cli_duration_option(args, "health-start-period", &h->start_period_ns, NULL, e);
    if (r == 0)
        r = change_number(args, "health-retries", INST_HEALTH_RETRIES_MAX, &retries, e);
    h->retries = (unsigned)retries;
    return r < 0 || !command ? r : cli_health_command(command, h, e);
}

int cli_health_command(const char *command, struct inst_health *h, struct err *e)
{
    inst_strings_done(&h->command);
    if (!command[0] || strcmp(command, "none") == 0)
        return 0;
    if (inst_strings_add(&h->command, "/bin/sh") < 0 || inst_strings_add(&h->command, "-c") < 0 ||
        inst_strings_add(&h->command, command) < 0)
        return err_set(e, ENOMEM, "out of memory");
    return 0;
}

/* NAME=VALUE sets one, NAME= or NAME removes it. */
static int change_label(struct inst_strings *labels, const char *text, struct err *e)
{
    size_t len = strcspn(text, "=");

    if (len == 0)
        return err_set(e, EINVAL, "--label %s: no name; give NAME=VALUE, or NAME to remove it", text);
    for (size_t i = 0; i < labels->n; i++) {
        if (strncmp(labels->at[i], text, len) != 0 || labels->at[i][len] != '=')
            continue;
        free(labels->at[i]);
        memmove(&labels->at[i], &labels->at[i + 1], (labels->n - i - 1) * sizeof(*labels->at));
        labels->n--;
        break;
    }
    if (!text[len] || !text[len + 1])
        return 0;
    return inst_strings_add(labels, text) < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
}

static int change_vm_limits(const struct cli_args *args, struct vm_spec *vm, struct err *e)
{
    static const char *const others[] = { "memory-swap", "cpu-shares", "cpuset-cpus", "pids-limit" };
    uint64_t n = vm->cpus;
    int r = change_size(args, "memory", &vm->memory, e);

    if (r == 0)
        r = change_number(args, "cpus", VM_CPUS_MAX, &n, e);
    vm->cpus = (unsigned)n;
    for (size_t i = 0; i < ARRAY_SIZE(others) && r == 0; i++) {
        if (cli_value(args, others[i]))
            r = err_set(e, EINVAL, "--%s is for containers; leave it out for a VM", others[i]);
    }
    return r;
}

static int change_container_limits(const struct cli_args *args, struct inst_container *c, struct err *e)
{
    bool any = false;
    int r = 0;

    for (size_t n = 0; n < args->n_given && r == 0; n++) {
        const struct cli_given *g = &args->given[n];

        if (g->value && cli_container_limit(c, g->option->name, g->value, &r, e))
            any = true;
    }
    if (r == -ENOMEM)
        return err_set(e, ENOMEM, "out of memory");
    if (r == 0 && cli_value(args, "memory"))
        r = inst_memory_check(c->memory, e);
    if (r == 0 && any)
        cli_container_warn(c);
    return r;
}

static int change_spec(const struct cli_args *args, struct inst_spec *spec, struct err *e)
{
    uint64_t files = spec->log_files;
    int r = change_policy(args, spec, e);

    if (r == 0)
        r = cli_health_options(args, &spec->health, e);
    if (r == 0)
        r = change_size(args, "log-size", &spec->log_max_size, e);
    if (r == 0)
        r = change_number(args, "log-files", 1000, &files, e);
    spec->log_files = (unsigned)files;
    if (r == 0)
        r = spec->kind == INST_VM ? change_vm_limits(args, spec->vm, e)
                                  : change_container_limits(args, &spec->container, e);
    for (size_t n = 0; n < args->n_given && r == 0; n++) {
        if (strcmp(args->given[n].option->name, "label") == 0)
            r = change_label(&spec->labels, args->given[n].value, e);
    }
    return r < 0 ? r : inst_spec_check(spec, e);
}

/* Saved memory has its size and its CPUs. */
static int change_check_saved(const struct cli_args *args, const struct store_instance *i, struct err *e)
{
    if (i->status != STORE_INST_SAVED || (!cli_value(args, "memory") && !cli_value(args, "cpus")))
        return 0;
    return err_set(e, EBUSY,
                   "%s is saved, with its memory and CPUs as they are; start it and stop it first, or give its memory "
                   "up with 'caisson save --discard %s'",
                   i->name, i->name);
}

/* The row as it is now, changed: others may have changed it since it was looked up. */
static int change_read(const struct cli_args *args, struct store *s, struct store_instance *i, struct err *e)
{
    char id[INST_ID_LEN + 1];
    int r;

    memcpy(id, i->id, sizeof(id));
    store_instance_done(i);
    r = store_instance_get(s, id, i, e);
    return r < 0 ? r : change_spec(args, &i->spec, e);
}

/* The supervisor changes what it runs, and stores that. */
static int change_running(const struct cli_args *args, struct store *s, struct store_instance *i, struct err *e)
{
    struct shim_msg_request request = { .op = SHIM_MSG_UPDATE };
    int r = change_read(args, s, i, e);

    if (r < 0)
        return r;
    request.value = inst_spec_to_object(&i->spec);
    r = request.value ? inst_call(i, &request, INST_CALL_MS, NULL, e) : err_set(e, ENOMEM, "out of memory");
    shim_msg_request_done(&request);
    return r;
}

/* Where there is no supervisor we store it. */
static int change_store(const struct cli_args *args, struct store *s, struct store_instance *i, struct err *e)
{
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r = inst_lock(i->id, &place, e);

    if (r == -EBUSY && e->code == 0)
        return change_running(args, s, i, e);
    if (r < 0)
        return r;
    r = change_read(args, s, i, e);
    if (r == 0)
        r = change_check_saved(args, i, e);
    if (r == 0)
        r = store_instance_update(s, i->id, &i->spec, e);
    sys_place_leave(&place);
    return r;
}

static int change_update(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    struct sys_place place = { .lock = -1, .socket = -1 };
    int r = inst_lock_spec(i->id, &place, e);

    if (r < 0)
        return r;
    r = change_store(opaque, s, i, e);
    if (r == -ENOTCONN) { /* it ended before its supervisor was asked */
        *e = (struct err){ 0 };
        r = change_store(opaque, s, i, e);
    }
    sys_place_leave(&place);
    return r;
}

int cli_cmd_instance_update(const struct cli_args *args)
{
    const struct cli_inst_verb verb = { "update", NULL, change_update, (void *)(uintptr_t)args };
    struct err e = { 0 };

    if (args->n_given == 0) {
        err_set(&e, EINVAL, "nothing to change; give an option, see 'caisson update --help'");
        return cli_fail(&e);
    }
    return cli_inst_each(args, &verb);
}
