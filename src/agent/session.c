#include "agent/session.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent/spawn.h"
#include "agent/stream.h"
#include "base/cleanup.h"
#include "proto/agent_msg.h"

enum { SESSION_REQUEST_MS = 30000, SESSION_SEND_MS = 10000 };

/* ---- answers ---- */

/* Queue an answer and send it. e: NULL for success. */
static void session_answer(struct agent_link *l, json_object *o, const struct err *e)
{
    struct pollfd p = { .fd = l->fd, .events = POLLOUT };

    if (!o)
        o = json_object_new_object();
    if (o) {
        json_object_object_add(o, "ok", json_object_new_boolean(!e));
        if (e) {
            json_object_object_add(o, "code", json_object_new_int(e->code));
            json_object_object_add(o, "error", json_object_new_string(e->text));
        }
    }
    agent_link_queue_json(l, o);
    while (agent_link_flush(l) == 0 && agent_link_pending(l) > 0 && poll(&p, 1, SESSION_SEND_MS) > 0)
        ;
}

static void session_ping(struct agent_link *l)
{
    json_object *o = json_object_new_object();
    struct utsname u;

    if (o && uname(&u) == 0) {
        json_object_object_add(o, "version", json_object_new_string(CAISSON_VERSION));
        json_object_object_add(o, "kernel", json_object_new_string(u.release));
        json_object_object_add(o, "hostname", json_object_new_string(u.nodename));
    }
    session_answer(l, o, NULL);
}

static void session_sync_time(struct agent_link *l, const struct agent_request *q)
{
    const struct timespec ts = { .tv_sec = (time_t)(q->time_ns / 1000000000),
                                 .tv_nsec = (long)(q->time_ns % 1000000000) };
    struct err e;

    if (clock_settime(CLOCK_REALTIME, &ts) == 0)
        session_answer(l, NULL, NULL);
    else
        session_answer(l, NULL, (err_set(&e, errno, "cannot set the guest's clock: %s", strerror(errno)), &e));
}

/* By the guest's own way, if it has one. */
static void session_shutdown(struct agent_link *l, const struct agent_request *q)
{
    const char *program = q->reboot ? "reboot" : "poweroff";
    char *const argv[] = { (char *)(uintptr_t)program, NULL };
    const struct agent_request plain = { .op = AGENT_EXEC, .detach = true };
    struct agent_child c;
    struct err e;

    if (agent_spawn(&plain, argv, &c, &e) == 0) {
        agent_child_close(&c);
        session_answer(l, NULL, NULL);
        return;
    }
    session_answer(l, NULL, NULL);
    sync();
    (void)reboot(q->reboot ? RB_AUTOBOOT : RB_POWER_OFF);
}

/* ---- processes ---- */

static void session_run(struct agent_link *l, const struct agent_request *q, char *const *argv)
{
    json_object *o;
    struct agent_child c;
    struct err e;

    if (agent_spawn(q, argv, &c, &e) < 0) {
        session_answer(l, NULL, &e);
        return;
    }
    o = json_object_new_object();
    if (o)
        json_object_object_add(o, "pid", json_object_new_int64(c.pid));
    session_answer(l, o, NULL);
    if (!q->detach)
        agent_stream(l, &c);
    agent_child_close(&c);
}

/* By the guest's tar: it knows the guest's users, and every guest has one. */
static void session_tar(struct agent_link *l, const struct agent_request *q)
{
    struct agent_request run = {
        .op = AGENT_EXEC, .stdin_open = q->op == AGENT_PUT, .user = q->user, .cwd = (char *)(uintptr_t) "/"
    };
    AUTO_FREE char *dir = strdup(q->path), *name = strdup(q->path);
    char flags[] = "-xpf", pack[] = "-cf", tar[] = "tar", dash[] = "-", change[] = "-C", end[] = "--";
    struct err e;

    if (!dir || !name) {
        session_answer(l, NULL, (err_set(&e, ENOMEM, "out of memory"), &e));
        return;
    }
    if (q->op == AGENT_PUT)
        session_run(l, &run, (char *const[]){ tar, flags, dash, change, q->path, NULL });
    else
        session_run(l, &run, (char *const[]){ tar, pack, dash, change, dirname(dir), end, basename(name), NULL });
}

/* ---- the connection ---- */

/* The request; 0: none came. */
static int session_request(struct agent_link *l, struct agent_request *q, struct err *e)
{
    struct pollfd p = { .fd = l->fd, .events = POLLIN };
    enum agent_frame kind;
    const uint8_t *data;
    size_t len;
    int r;

    for (;;) {
        r = agent_link_receive(l, &kind, &data, &len);
        if (r != 0)
            break;
        if (poll(&p, 1, SESSION_REQUEST_MS) <= 0)
            return 0;
    }
    if (r < 0 || kind != AGENT_JSON)
        return 0;
    r = agent_request_from_json((const char *)data, q, e);
    return r < 0 ? r : 1;
}

static void session_do(struct agent_link *l, const struct agent_request *q)
{
    struct err e;

    switch (q->op) {
    case AGENT_PING:
        session_ping(l);
        return;
    case AGENT_EXEC:
        session_run(l, q, q->argv);
        return;
    case AGENT_PUT:
    case AGENT_GET:
        session_tar(l, q);
        return;
    case AGENT_SYNC_TIME:
        session_sync_time(l, q);
        return;
    case AGENT_SHUTDOWN:
        session_shutdown(l, q);
        return;
    default:
        (void)err_set(&e, EINVAL, "agent request: this is for a process that runs");
        session_answer(l, NULL, &e);
        return;
    }
}

void agent_session(int fd)
{
    struct agent_request q = { 0 };
    struct agent_link l;
    struct err e;
    int r;

    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    agent_link_init(&l, fd);
    r = session_request(&l, &q, &e);
    if (r > 0)
        session_do(&l, &q);
    else if (r < 0)
        session_answer(&l, NULL, &e);
    agent_request_done(&q);
    agent_link_done(&l);
}
