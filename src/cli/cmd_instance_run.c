/* caisson start, stop, restart, pause, resume, kill, rm. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "instance/lifecycle.h"
#include "proto/exit_code.h"

#define RUN_START_TRIES 2

static bool run_is_alive(const struct store_instance *i, const struct inst_info *info)
{
    (void)i;
    return info->alive;
}

static bool run_is_idle(const struct store_instance *i, const struct inst_info *info)
{
    return !info->alive &&
           (i->status == STORE_INST_CREATED || i->status == STORE_INST_EXITED || i->status == STORE_INST_SAVED);
}

/* At boot: what ran when the machine went down, as its policy says. */
static bool run_at_boot(const struct store_instance *i, const struct inst_info *info)
{
    if (!run_is_idle(i, info))
        return false;
    switch (i->spec.restart) {
    case INST_RESTART_NO:
        return false;
    case INST_RESTART_ALWAYS:
        return i->status != STORE_INST_CREATED;
    case INST_RESTART_ON_FAILURE:
    case INST_RESTART_UNLESS_STOPPED:
        break;
    }
    return i->wanted;
}

/* Whether it runs, so that nothing needs to be started. -EBUSY: it stands still. */
static int run_is_running(const struct store_instance *i, bool *ret_alive, struct err *e)
{
    struct inst_info info;
    int r = inst_ask(i, &info, e);

    *ret_alive = r == 0 && info.alive;
    if (*ret_alive && strcmp(info.status, "paused") == 0)
        return err_set(e, EBUSY, "%s is paused; let it go on: caisson resume %s", i->name, i->name);
    return r;
}

/* ---- start ---- */

static int run_start(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    int r = -EBUSY;

    (void)opaque;
    (void)s;
    /* One whose place is still taken when it is started ran at that moment, and may have ended at the next look. */
    for (unsigned n = 0; n < RUN_START_TRIES && r == -EBUSY; n++) {
        bool alive;

        *e = (struct err){ 0 };
        r = run_is_running(i, &alive, e);
        if (r < 0 || alive)
            return r; /* alive: that is what was wanted */
        r = inst_start(i, &(struct inst_start){ 0 }, NULL, e);
    }
    return r;
}

static int run_start_and_attach(struct store_instance *i, struct cli_attach_options *o, struct inst_session *s,
                                struct err *e)
{
    struct inst_start how = { .attach = true, .in = o->in, .wait = true };

    cli_attach_size(i, &how);
    return inst_start(i, &how, s, e);
}

static int run_start_attached(const struct cli_args *args)
{
    struct cli_attach_options o = { .in = cli_value(args, "interactive") != NULL, .proxy_signals = true };
    struct err e = { 0 };

    if (args->n_operands != 1) {
        err_set(&e, EINVAL, "--attach stays with one; give one name");
        return cli_fail(&e);
    }
    return cli_attach_named(args, &o, run_start_and_attach);
}

int cli_cmd_instance_start(const struct cli_args *args)
{
    bool boot = cli_value(args, "boot") != NULL;
    const struct cli_inst_verb verb = { "start", boot ? run_at_boot : run_is_idle, run_start, NULL };
    struct err e = { 0 };

    if (boot && !cli_value(args, "all")) {
        err_set(&e, EINVAL, "--boot chooses among all; give --all too");
        return cli_fail(&e);
    }
    if (cli_value(args, "attach") || cli_value(args, "interactive"))
        return run_start_attached(args);
    return cli_inst_each(args, &verb);
}

/* ---- stop and restart ---- */

struct run_timeout {
    uint64_t ns;
    bool given, keep;
};

/* Wait for the end of one that was told to end. That its supervisor is gone is an end too. */
static int run_wait_end(const struct store_instance *i, struct err *e)
{
    int code, r = inst_wait(i, -1, &code, e);

    return r == -ENOTCONN || r == -ENOENT ? 0 : r; /* killed, or removed */
}

static int run_stop(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    const struct run_timeout *t = opaque;
    const struct shim_msg_request request = {
        .op = SHIM_MSG_STOP, .has_timeout = t->given, .timeout_ns = t->ns, .keep = t->keep
    };
    int r = inst_call(i, &request, INST_CALL_MS, NULL, e);

    (void)s;
    if (r == -ENOTCONN)
        return 0; /* that is what was wanted */
    return r < 0 ? r : run_wait_end(i, e);
}

static int run_restart(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    const struct run_timeout *t = opaque;
    const struct shim_msg_request request = { .op = SHIM_MSG_RESTART, .has_timeout = t->given, .timeout_ns = t->ns };
    int r = inst_call(i, &request, -1, NULL, e);

    return r == -ENOTCONN ? run_start(opaque, s, i, e) : r;
}

static int run_with_timeout(const struct cli_args *args, struct cli_inst_verb *verb)
{
    struct run_timeout t = { .keep = cli_value(args, "shutdown") != NULL };
    struct err e = { 0 };

    if (cli_duration_option(args, "timeout", &t.ns, &t.given, &e) < 0)
        return cli_fail(&e);
    verb->opaque = &t;
    return cli_inst_each(args, verb);
}

int cli_cmd_instance_stop(const struct cli_args *args)
{
    return run_with_timeout(args, &(struct cli_inst_verb){ "stop", run_is_alive, run_stop, NULL });
}

int cli_cmd_instance_restart(const struct cli_args *args)
{
    return run_with_timeout(args, &(struct cli_inst_verb){ "restart", run_is_alive, run_restart, NULL });
}

/* ---- pause, resume, kill ---- */

/* SIGKILL is the end of any payload: wait until it is. */
static int run_kill(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    const struct shim_msg_request *request = opaque;
    int r = inst_call(i, request, INST_CALL_MS, NULL, e);

    (void)s;
    return r == 0 && request->signal == SIGKILL ? run_wait_end(i, e) : r;
}

static int run_call(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    (void)s;
    return inst_call(i, opaque, INST_CALL_MS, NULL, e);
}

static bool run_is_paused(const struct store_instance *i, const struct inst_info *info)
{
    (void)i;
    return info->alive && strcmp(info->status, "paused") == 0;
}

static bool run_is_unpaused(const struct store_instance *i, const struct inst_info *info)
{
    (void)i;
    return info->alive && strcmp(info->status, "running") == 0;
}

int cli_cmd_instance_pause(const struct cli_args *args)
{
    struct shim_msg_request request = { .op = SHIM_MSG_PAUSE };

    return cli_inst_each(args, &(struct cli_inst_verb){ "pause", run_is_unpaused, run_call, &request });
}

int cli_cmd_instance_resume(const struct cli_args *args)
{
    struct shim_msg_request request = { .op = SHIM_MSG_RESUME };

    return cli_inst_each(args, &(struct cli_inst_verb){ "resume", run_is_paused, run_call, &request });
}

int cli_cmd_instance_kill(const struct cli_args *args)
{
    struct shim_msg_request request = { .op = SHIM_MSG_KILL, .signal = SIGKILL };
    const char *signal = cli_value(args, "signal");
    struct err e = { 0 };

    if (signal && cli_parse_signal(signal, &request.signal) < 0) {
        err_set(&e, EINVAL, "--signal %s: no such signal; give a name such as TERM, or a number", signal);
        return cli_fail(&e);
    }
    return cli_inst_each(args, &(struct cli_inst_verb){ "kill", run_is_alive, run_kill, &request });
}

/* ---- rm ---- */

static int run_rm(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    const struct shim_msg_request stop = { .op = SHIM_MSG_STOP, .has_timeout = true, .timeout_ns = 0 };
    const bool *force = opaque;
    int r = 0;

    if (*force) {
        r = inst_call(i, &stop, INST_CALL_MS, NULL, e);
        if (r == 0)
            r = run_wait_end(i, e);
        if (r == -ENOTCONN)
            r = 0;
    }
    if (r == 0) {
        *e = (struct err){ 0 };
        r = inst_remove(s, i, e);
    }
    return r;
}

int cli_cmd_instance_rm(const struct cli_args *args)
{
    bool force = cli_value(args, "force") != NULL;

    return cli_inst_each(args, &(struct cli_inst_verb){ "remove", force ? NULL : run_is_idle, run_rm, &force });
}
