/* The runs of an instance: beginning, end, and whether another one follows. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "instance/lifecycle.h"
#include "shim/shim_priv.h"

#define RUN_MS_NS 1000000ULL
#define RUN_DELAY_FIRST_NS (100 * RUN_MS_NS)
#define RUN_DELAY_MAX_NS (60000 * RUN_MS_NS)
#define RUN_GOOD_NS (10000 * RUN_MS_NS)       /* whoever ran as long did not fail at once */
#define RUN_KILL_AGAIN_NS (10000 * RUN_MS_NS) /* for a VM to flush its disks, then it is killed */
#define RUN_RECORD_NS (1000 * RUN_MS_NS)
#define RUN_RECORD_TRIES 60
#define RUN_ABORT_MS 10000

static int64_t run_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- beginning ---- */

/* What a run has on the machine, and its memory. */
static void run_undo(struct shim *s)
{
    struct err e = { 0 };
    char text[ERR_TEXT_MAX + 32];

    if (s->ops->cleanup(&s->run, &e) < 0) {
        /* The next start tries again, and tells the user. */
        snprintf(text, sizeof(text), "caisson: %s\n", e.text);
        inst_log_write(s->log, INST_LOG_ERR, (const uint8_t *)text, strlen(text));
    }
    s->ops->release(&s->run);
    s->run.pid = s->run.pidfd = -1;
}

static int run_start(struct shim *s, struct err *e)
{
    struct inst_stdio stdio = { -1, -1, -1, -1 };
    int r = s->ops->start(&s->run, &stdio, e);

    if (r < 0)
        return r;
    r = shim_io_begin(s->io, &stdio);
    return r < 0 ? err_set(e, -r, "%s: cannot watch its output: %s", s->instance.name, strerror(-r)) : 0;
}

/* Reap the run, which was killed. False: not within the limit. */
static bool run_reap_killed(const struct shim *s)
{
    struct pollfd p = { .fd = s->run.pidfd, .events = POLLIN };
    int r;

    do
        r = poll(&p, 1, RUN_ABORT_MS);
    while (r < 0 && errno == EINTR);
    return waitpid(s->run.pid, NULL, WNOHANG) != 0;
}

/* A run that began but cannot go on is ended at once. One that does not end even so hangs in the kernel: the cleanup
 * tells, and whoever waits for this start has to be told. */
static void run_abort(struct shim *s)
{
    struct err ignored = { 0 };

    if (s->run.pid > 0) {
        (void)!s->ops->kill(&s->run, SIGKILL, &ignored);
        if (!run_reap_killed(s)) {
            kill(s->run.pid, SIGKILL);
            (void)run_reap_killed(s);
        }
    }
    shim_io_end(s->io);
}

int shim_run_begin(struct shim *s, struct shim_conn *starter, struct err *e)
{
    struct store_instance *i = &s->instance;
    int r = inst_run_init(&s->run, i, e);

    if (r < 0)
        return r;
    s->state = SHIM_STARTING;
    s->stop_asked = s->restart_asked = s->final_kill = s->paused = false;
    if (starter)
        shim_conn_serve_queued(starter);
    s->run.columns = s->columns;
    s->run.rows = s->rows;
    r = s->ops->prepare(&s->run, e);
    if (r == 0)
        r = run_start(s, e);
    if (r == 0) {
        i->status = STORE_INST_RUNNING;
        i->started_ns = run_now();
        r = shim_record(s, "start", e);
        if (r < 0)
            i->status = STORE_INST_STARTING;
    }
    if (r < 0) {
        run_abort(s);
        run_undo(s);
        return r;
    }
    s->state = SHIM_RUNNING;
    s->run_began_ns = sys_now_ns();
    if (starter)
        shim_conn_tell(starter, NULL);
    shim_conn_restarted(s, NULL);
    shim_health_begin(s->health);
    return 0;
}

/* ---- the end ---- */

void shim_run_maybe_leave(struct shim *s)
{
    if (s->state == SHIM_ENDED && shim_io_idle(s->io))
        loop_stop(s->loop, 0);
}

/* All is recorded: nobody is to find this supervisor any more, then everybody may know. */
static void run_leave(struct shim *s)
{
    s->state = SHIM_ENDED;
    loop_fd_free(s->place_src);
    s->place_src = NULL;
    sys_place_leave(&s->place);
    shim_conn_ended(s);
    shim_run_maybe_leave(s);
}

static int run_remove(struct shim *s, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    if (r < 0)
        return r;
    store_relax(store, true); /* the row of one that is to be removed leads to its removal, whatever it says */
    return inst_remove_locked(store, &s->instance, e);
}

/* Write the end of the last run. A database that cannot be written now (full disk) gets some time. */
static void run_record_end(struct shim *s)
{
    struct err e = { 0 };
    bool saved = s->instance.status == STORE_INST_SAVED;
    int r = shim_record(s, saved ? "save" : "die", &e);

    if (r < 0 && r != -ENOENT && s->record_tries++ < RUN_RECORD_TRIES) {
        loop_timer_set(s->record_timer, sys_now_ns() + RUN_RECORD_NS);
        return;
    }
    if (r == 0 && s->instance.spec.remove && !saved)
        (void)!run_remove(s, &e); /* the next command goes on with it */
    run_leave(s);
}

void shim_run_record_due(void *opaque)
{
    run_record_end(opaque);
}

static bool run_policy(const struct shim *s)
{
    const struct store_instance *i = &s->instance;

    switch (i->spec.restart) {
    case INST_RESTART_NO:
        return false;
    case INST_RESTART_ON_FAILURE:
        return i->exit_code != 0 && (i->spec.restart_max == 0 || i->restarts < i->spec.restart_max);
    case INST_RESTART_ALWAYS:
    case INST_RESTART_UNLESS_STOPPED:
        break;
    }
    return true;
}

static void run_finish(struct shim *s)
{
    loop_timer_set(s->delay_timer, 0);
    s->instance.status = STORE_INST_EXITED;
    run_record_end(s);
}

/* Its memory is in a file: the next start is the user's. */
static void run_finish_saved(struct shim *s)
{
    s->instance.wanted = false;
    s->instance.exit_code = 0;
    s->instance.status = STORE_INST_SAVED;
    run_record_end(s);
}

/* The next try, after a while that doubles each time. */
static void run_again(struct shim *s)
{
    struct err ignored = { 0 };
    uint64_t now = sys_now_ns();

    s->delay_ns = now - s->run_began_ns >= RUN_GOOD_NS || s->delay_ns == 0 ? RUN_DELAY_FIRST_NS
                                                                           : MIN(2 * s->delay_ns, RUN_DELAY_MAX_NS);
    s->instance.restarts++;
    s->state = SHIM_WAITING;
    loop_timer_set(s->delay_timer, now + s->delay_ns);
    (void)!shim_record(s, "die", &ignored);
}

/* A run that could not begin again counts as one that failed. */
static void run_begin_again(struct shim *s)
{
    char text[ERR_TEXT_MAX + 32];
    struct err e = { 0 };

    if (shim_run_begin(s, NULL, &e) == 0)
        return;
    snprintf(s->instance.error, sizeof(s->instance.error), "%s", e.text);
    snprintf(text, sizeof(text), "caisson: %s\n", e.text);
    inst_log_write(s->log, INST_LOG_ERR, (const uint8_t *)text, strlen(text));
    s->instance.exit_code = 127;
    s->instance.ended_ns = run_now();
    shim_conn_restarted(s, &e);
    s->run_began_ns = sys_now_ns();
    if (run_policy(s))
        run_again(s);
    else
        run_finish(s);
}

void shim_run_delay_due(void *opaque)
{
    run_begin_again(opaque);
}

static void run_end(struct shim *s, int status)
{
    struct store_instance *i = &s->instance;
    struct err ignored = { 0 };
    bool saved;

    loop_timer_set(s->stop_timer, 0);
    shim_health_end(s->health);
    shim_io_end(s->io);
    i->exit_code = s->ops->ended(&s->run, status, &i->oom_killed);
    i->ended_ns = run_now();
    saved = s->ops->saved && s->ops->saved(&s->run);
    run_undo(s);
    if (saved) {
        run_finish_saved(s);
    } else if (s->restart_asked) {
        i->restarts = 0;
        s->delay_ns = 0;
        (void)!shim_record(s, "die", &ignored);
        run_begin_again(s);
    } else if (!s->stop_asked && run_policy(s)) {
        run_again(s);
    } else {
        if (!s->stop_asked)
            i->wanted = false; /* it is done; nothing to start at boot */
        run_finish(s);
    }
}

void shim_run_reap(struct shim *s)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (shim_health_reaped(s->health, pid, status))
            continue;
        if (s->state == SHIM_RUNNING && pid == s->run.pid)
            run_end(s, status);
    }
}

/* ---- what users ask ---- */

static int run_not_running(const struct shim *s, struct err *e)
{
    return err_set(e, ENOTCONN, "%s does not run just now", s->instance.name);
}

int shim_run_pause(struct shim *s, bool pause, struct err *e)
{
    int r;

    if (s->state != SHIM_RUNNING)
        return run_not_running(s, e);
    if (s->paused == pause)
        return err_set(e, EBUSY, pause ? "%s is paused already" : "%s is not paused", s->instance.name);
    r = s->ops->pause(&s->run, pause, e);
    if (r < 0)
        return r;
    s->paused = pause;
    shim_tell(s, pause ? "pause" : "resume", NULL);
    return 0;
}

/* The polite end did not come. */
static void run_force(struct shim *s)
{
    bool vm = s->instance.spec.kind == INST_VM && !s->final_kill;
    struct err ignored = { 0 };

    (void)!s->ops->kill(&s->run, vm ? SIGTERM : SIGKILL, &ignored);
    s->final_kill = true;
    loop_timer_set(s->stop_timer, vm ? sys_now_ns() + RUN_KILL_AGAIN_NS : 0);
}

void shim_run_stop_due(void *opaque)
{
    run_force(opaque);
}

/* A paused payload cannot end itself. */
static int run_ask_end(struct shim *s, uint64_t timeout_ns, struct err *e)
{
    struct err ignored = { 0 };
    int r = 0;

    if (s->paused && s->ops->pause(&s->run, false, &ignored) == 0)
        s->paused = false;
    if (timeout_ns == 0) {
        run_force(s);
        return 0;
    }
    r = s->ops->stop(&s->run, e);
    if (r == -ENOTCONN)
        r = 0; /* it has just ended */
    if (r == 0)
        loop_timer_set(s->stop_timer, sys_now_ns() + timeout_ns);
    return r;
}

/* It is not to run any more; at boot neither, unless the user did not ask for that. */
static int run_unwanted(struct shim *s, const char *action, bool keep_wanted, struct err *e)
{
    s->stop_asked = true;
    s->restart_asked = false;
    s->instance.wanted = s->instance.wanted && keep_wanted;
    return keep_wanted ? 0 : shim_record(s, action, e);
}

int shim_run_stop(struct shim *s, uint64_t timeout_ns, bool keep_wanted, struct err *e)
{
    int r = run_unwanted(s, "stop", keep_wanted, e);

    if (r < 0)
        return r;
    if (s->state == SHIM_WAITING) {
        run_finish(s);
        return 0;
    }
    return run_ask_end(s, timeout_ns, e);
}

int shim_run_restart(struct shim *s, uint64_t timeout_ns, struct err *e)
{
    s->stop_asked = false;
    s->restart_asked = true;
    shim_tell(s, "restart", NULL);
    if (s->state != SHIM_WAITING)
        return run_ask_end(s, timeout_ns, e);
    s->restart_asked = false;
    s->delay_ns = 0;
    loop_timer_set(s->delay_timer, sys_now_ns());
    return 0;
}

int shim_run_kill(struct shim *s, int signal, struct err *e)
{
    bool ends = signal == SIGKILL || signal == s->instance.spec.stop_signal;
    int r;

    if (s->state != SHIM_RUNNING)
        return run_not_running(s, e);
    r = s->ops->kill(&s->run, signal, e);
    if (r == 0 && ends)
        return run_unwanted(s, "kill", false, e);
    if (r == 0)
        shim_tell(s, "kill", NULL);
    return r;
}
