/* caisson-shim: runs one instance and outlives the command that started it. Started by the other programs:
 *   caisson-shim --id ID --ready-fd N
 * It holds the lock of the instance as long as it lives, so that a row that says "running" without the lock is known to
 * be a crash; it is the parent of all that runs in the instance, keeps its logs, its console, its health checks and its
 * restart policy, and writes how it ended. */
#include "shim/main.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "instance/leftover.h"
#include "instance/lifecycle.h"
#include "instance/place.h"
#include "proto/exit_code.h"
#include "shim/conn.h"
#include "store/event.h"
#include "sys/signals.h"

struct shim_options {
    const char *id;
    int ready_fd;
};

static int main_parse(int argc, char **argv, struct shim_options *o)
{
    static const struct option options[] = {
        { "id", required_argument, NULL, 'i' },
        { "ready-fd", required_argument, NULL, 'r' },
        { 0 },
    };
    uint64_t fd = 0;
    int c;

    *o = (struct shim_options){ .ready_fd = -1 };
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'i')
            o->id = optarg;
        else if (c != 'r' || num_parse_u64(optarg, 3, INT32_MAX, &fd) < 0)
            return -EINVAL;
        else
            o->ready_fd = (int)fd;
    }
    return optind == argc && o->id && strlen(o->id) == INST_ID_LEN && o->ready_fd >= 0 ? 0 : -EINVAL;
}

int shim_record(struct shim *s, const char *action, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    AUTO_FREE struct store_instance *row = malloc(sizeof(*row));
    int r = row ? store_open(STORE_WRITE, &store, e) : err_set(e, ENOMEM, "out of memory");

    /* It may have another name by now. */
    if (r == 0 && store_instance_get(store, s->instance.id, row, NULL) == 0) {
        snprintf(s->instance.name, sizeof(s->instance.name), "%s", row->name);
        store_instance_done(row);
    }
    if (r < 0)
        return r;
    /* After a failure of the host it does not run, whatever the row says, and with --rm it is removed. */
    store_relax(store, (action && strcmp(action, "start") == 0) ||
                           (s->instance.spec.remove && s->instance.status != STORE_INST_SAVED));
    return store_instance_set(store, &s->instance, action, e);
}

void shim_tell(struct shim *s, const char *action, const char *attributes)
{
    AUTO(store) struct store *store = NULL;
    const struct store_event event = {
        .object = inst_kind_name(s->instance.spec.kind),
        .id = s->instance.id,
        .name = s->instance.name,
        .action = action,
        .attributes = attributes,
    };

    /* An event that cannot be written is not worth a run. */
    if (store_open(STORE_WRITE, &store, NULL) == 0)
        (void)!store_event_add(store, &event, NULL);
}

/* ---- signals ---- */

static void main_on_signal(void *opaque, uint32_t events)
{
    struct shim *s = opaque;
    struct signalfd_siginfo info;
    struct err ignored = { 0 };

    (void)events;
    while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            shim_run_reap(s);
        else if (s->state != SHIM_ENDED) /* the machine goes down; what the user wants stays */
            (void)!shim_run_stop(s, s->instance.spec.stop_timeout_ns, true, &ignored);
    }
}

static int main_signals(struct shim *s)
{
    static const int signals[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP };

    sys_signals_no_pipe();
    s->signal_fd = sys_signals_open(signals, ARRAY_SIZE(signals));
    return s->signal_fd < 0 ? s->signal_fd
                            : loop_fd_add(s->loop, s->signal_fd, EPOLLIN, main_on_signal, s, &s->signal_src);
}

/* ---- beginning and end ---- */

/* Read the instance, whose lock is held, and end what another supervisor may have left. */
static int main_load(struct shim *s, const char *id, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_WRITE, &store, e);

    if (r == 0)
        r = store_instance_get(store, id, &s->instance, e);
    if (r == 0)
        r = inst_repair_placed(store, &s->instance, e);
    if (r < 0)
        return r;
    if (s->instance.status == STORE_INST_CREATING || s->instance.status == STORE_INST_REMOVING)
        return err_set(e, EBUSY, "%s is being %s; nothing to start", s->instance.name,
                       s->instance.status == STORE_INST_CREATING ? "created" : "removed");
    s->ops = inst_kind_ops(s->instance.spec.kind);
    return s->ops ? 0
                  : err_set(e, EOPNOTSUPP, "%s: this build of Caisson cannot run a %s; install one that can",
                            s->instance.name, inst_kind_name(s->instance.spec.kind));
}

static int main_open_log(struct shim *s, struct err *e)
{
    char dir[INST_PATH_MAX], logs[INST_PATH_MAX + 8];
    int r = inst_dir(s->instance.id, dir, e);

    if (r < 0)
        return r;
    snprintf(logs, sizeof(logs), "%s/logs", dir);
    return inst_log_open(logs, s->instance.spec.log_max_size, s->instance.spec.log_files, &s->log, e);
}

static int main_parts(struct shim *s)
{
    const struct inst_spec *spec = &s->instance.spec;
    int r = shim_io_new(s, spec->kind == INST_VM || spec->container.terminal, &s->io);

    if (r == 0)
        r = shim_health_new(s, &s->health);
    if (r == 0)
        r = loop_timer_new(s->loop, shim_run_stop_due, s, &s->stop_timer);
    if (r == 0)
        r = loop_timer_new(s->loop, shim_run_delay_due, s, &s->delay_timer);
    if (r == 0)
        r = loop_timer_new(s->loop, shim_run_record_due, s, &s->record_timer);
    return r < 0 ? r : loop_fd_add(s->loop, s->place.socket, EPOLLIN, shim_conn_accept, s, &s->place_src);
}

/* One that is saved goes on from its memory or not at all: to boot it would be a crash of what was running in it. */
static int main_check_saved(struct shim *s, struct err *e)
{
    int r = inst_run_init(&s->run, &s->instance, e);

    if (r < 0 || (s->ops->saved && s->ops->saved(&s->run)))
        return r;
    return err_set(
        e, ENOENT,
        "%s is saved, but its memory is missing in %s; put the file back, or give its memory up with 'caisson "
        "save --discard %s', then a start boots it",
        s->instance.name, s->run.dir, s->instance.name);
}

/* Up to a run that runs. */
static int main_begin(struct shim *s, const char *id, struct shim_conn *starter, struct err *e)
{
    int r = inst_take_place(id, &s->place, e);

    if (r == 0)
        r = main_load(s, id, e);
    s->before = s->instance.status;
    s->wanted_before = s->instance.wanted;
    if (r == 0 && s->before == STORE_INST_SAVED)
        r = main_check_saved(s, e);
    if (r == 0)
        r = main_open_log(s, e);
    if (r < 0)
        return r;
    r = main_parts(s);
    if (r < 0)
        return err_set(e, -r, "%s: cannot set up its supervisor: %s", s->instance.name, strerror(-r));
    s->instance.status = STORE_INST_STARTING;
    s->instance.wanted = true;
    s->instance.restarts = 0;
    s->instance.error[0] = '\0';
    r = shim_record(s, NULL, e);
    return r < 0 ? r : shim_run_begin(s, starter, e);
}

/* The row of an instance that did not start. The memory of one that may have run is not there any more. */
static void main_failed(struct shim *s, const struct err *e)
{
    struct err ignored = { 0 };

    if (s->instance.status != STORE_INST_STARTING)
        return;
    s->instance.status =
        s->before == STORE_INST_SAVED && s->ops->saved && !s->ops->saved(&s->run) ? STORE_INST_EXITED : s->before;
    s->instance.wanted = s->wanted_before; /* what failed at this boot is started at the next one */
    snprintf(s->instance.error, sizeof(s->instance.error), "%s", e->text);
    (void)!shim_record(s, NULL, &ignored);
}

static void main_done(struct shim *s)
{
    while (!list_empty(&s->conns))
        shim_conn_close(CONTAINER_OF(s->conns.next, struct shim_conn, link));
    shim_io_free(s->io);
    shim_health_free(s->health);
    inst_log_free(s->log);
    loop_timer_free(s->stop_timer);
    loop_timer_free(s->delay_timer);
    loop_timer_free(s->record_timer);
    loop_fd_free(s->place_src);
    loop_fd_free(s->signal_src);
    base_closep(&s->signal_fd);
    store_instance_done(&s->instance);
    loop_free(s->loop);
    sys_place_leave(&s->place);
}

int shim_main(int argc, char **argv)
{
    struct shim s = { .place = { .lock = -1, .socket = -1 }, .signal_fd = -1 };
    struct shim_conn *starter;
    struct shim_options options;
    struct err e = { 0 };
    int r;

    if (main_parse(argc, argv, &options) < 0) {
        fprintf(stderr, "caisson: caisson-shim is started by caisson; see caisson(1)\n");
        return EXIT_CODE_USAGE;
    }
    list_init(&s.conns);
    fcntl(options.ready_fd, F_SETFD, FD_CLOEXEC);
    fcntl(options.ready_fd, F_SETFL, fcntl(options.ready_fd, F_GETFL) | O_NONBLOCK);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (setenv(INST_ENV_ID, options.id, 1) < 0 || loop_new(&s.loop) < 0 || main_signals(&s) < 0)
        return EXIT_CODE_FAILED;
    starter = shim_conn_new(&s, options.ready_fd);
    if (!starter)
        return EXIT_CODE_FAILED;
    r = main_begin(&s, options.id, starter, &e);
    if (r < 0) {
        main_failed(&s, &e);
        sys_place_leave(&s.place); /* before the error is known, so that the next try finds it free */
        shim_conn_tell(starter, &e);
    } else {
        r = loop_run(s.loop);
    }
    main_done(&s);
    return r < 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
