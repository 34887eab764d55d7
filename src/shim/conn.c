/* The control socket (proto/shim_msg.h). */
#include "shim/conn.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/vm_client.h"
#include "proto/msg.h"

#define SHIM_CONNS_MAX 256

void shim_conn_close(struct shim_conn *conn)
{
    shim_io_detach(conn->attachment);
    loop_fd_free(conn->src);
    close(conn->sock);
    list_remove(&conn->link);
    conn->shim->n_conns--;
    free(conn);
}

/* ---- replies ---- */

/* Takes reply. -errno: the connection is of no use any more. */
static int conn_send(struct shim_conn *conn, json_object *reply, const int *fds, unsigned n)
{
    const char *text = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN);
    int r = text ? proto_msg_send(conn->sock, text, fds, n) : -ENOMEM;

    json_object_put(reply);
    return r;
}

static json_object *conn_reply(const struct err *e)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "ok", json_object_new_boolean(!e || e->code == 0));
    if (e && e->code != 0) {
        json_object_object_add(o, "code", json_object_new_int(e->code));
        json_object_object_add(o, "error", json_object_new_string(e->text));
    }
    return o;
}

void shim_conn_tell(struct shim_conn *conn, const struct err *e)
{
    (void)!conn_send(conn, conn_reply(e), NULL, 0);
}

void shim_conn_ready(struct shim *s)
{
    struct shim_conn *conn;

    LIST_FOR_EACH(conn, &s->conns, link) {
        if (conn->wants_ready)
            shim_conn_tell(conn, NULL);
        conn->wants_ready = false;
    }
}

void shim_conn_restarted(struct shim *s, const struct err *e)
{
    struct shim_conn *conn;

    LIST_FOR_EACH(conn, &s->conns, link) {
        if (conn->wants_restart)
            shim_conn_tell(conn, e);
        conn->wants_restart = false;
    }
}

static void conn_tell_end(struct shim_conn *conn)
{
    json_object *o = conn_reply(NULL);

    json_object_object_add(o, "exit_code", json_object_new_int(conn->shim->instance.exit_code));
    (void)!conn_send(conn, o, NULL, 0);
}

void shim_conn_ended(struct shim *s)
{
    struct shim_conn *conn;
    struct err e = { 0 };

    (void)err_set(&e, ENOTCONN, "%s has ended with exit code %d; see 'caisson logs %s'", s->instance.name,
                  s->instance.exit_code, s->instance.name);
    LIST_FOR_EACH(conn, &s->conns, link) {
        if (conn->wants_ready || conn->wants_restart)
            shim_conn_tell(conn, &e);
        if (conn->waits)
            conn_tell_end(conn);
        conn->waits = conn->wants_ready = conn->wants_restart = false;
    }
}

/* ---- requests ---- */

static const char *conn_status(const struct shim *s)
{
    switch (s->state) {
    case SHIM_STARTING:
        return "starting";
    case SHIM_RUNNING:
        return s->paused ? "paused" : "running";
    case SHIM_WAITING:
        return "restarting";
    case SHIM_ENDED:
        break;
    }
    return "exited";
}

static json_object *conn_info(const struct shim *s)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "pid", json_object_new_int(s->state == SHIM_RUNNING ? s->run.pid : 0));
    json_object_object_add(o, "shim_pid", json_object_new_int(getpid()));
    json_object_object_add(o, "status", json_object_new_string(conn_status(s)));
    json_object_object_add(o, "health", json_object_new_string(shim_health_name(s->health)));
    json_object_object_add(o, "ready",
                           json_object_new_boolean(s->state == SHIM_RUNNING && shim_health_ready(s->health)));
    json_object_object_add(o, "started_ns", json_object_new_int64(s->instance.started_ns));
    json_object_object_add(o, "restarts", json_object_new_int64(s->instance.restarts));
    return o;
}

static int conn_attach(struct shim_conn *conn, const struct shim_msg_request *r, struct err *e)
{
    struct shim_io *io = conn->shim->io;
    int fds[3], res;
    unsigned n = 0;
    json_object *o;
    bool in = r->in;

    if (conn->attachment)
        return err_set(e, EBUSY, "this connection is attached already");
    res = shim_io_attach(io, in, r->replay, &conn->attachment, fds, &n);
    if (res < 0)
        return err_set(e, -res, "%s: cannot attach: %s", conn->shim->instance.name, strerror(-res));
    o = conn_reply(NULL);
    json_object_object_add(o, "terminal", json_object_new_boolean(shim_io_terminal(io)));
    json_object_object_add(o, "in", json_object_new_boolean(in));
    res = conn_send(conn, o, fds, n);
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
    return res < 0 ? res : 1;
}

/* A new specification: what can change while it runs changes now, all of it is stored. */
static int conn_apply(struct shim *s, const struct inst_spec *spec, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = 0;

    if (spec->kind != s->instance.spec.kind)
        return err_set(e, EPROTOTYPE, "%s is a %s", s->instance.name, inst_kind_name(s->instance.spec.kind));
    if (s->state == SHIM_RUNNING && s->ops->update)
        r = s->ops->update(&s->run, spec, e);
    if (r == 0)
        r = store_open(STORE_WRITE, &store, e);
    return r < 0 ? r : store_instance_update(store, s->instance.id, spec, e);
}

static bool conn_same_health(const struct inst_spec *a, const struct inst_spec *b)
{
    json_object *one = inst_spec_to_object(a), *other = inst_spec_to_object(b), *x = NULL, *y = NULL;
    bool same = one && other && json_object_object_get_ex(one, "health", &x) &&
                json_object_object_get_ex(other, "health", &y) && json_object_equal(x, y);

    json_object_put(one);
    json_object_put(other);
    return same;
}

static int conn_update(struct shim *s, const struct shim_msg_request *r, struct err *e)
{
    AUTO_FREE struct inst_spec *spec = malloc(sizeof(*spec));
    struct inst_spec *mine = &s->instance.spec, old = *mine;
    int res = spec ? inst_spec_from_object(r->value, spec, e) : err_set(e, ENOMEM, "out of memory");

    if (res == 0)
        res = conn_apply(s, spec, e);
    if (res == 0) {
        bool checked_alike = conn_same_health(mine, spec);

        *mine = *spec;
        *spec = old;
        inst_log_limit(s->log, mine->log_max_size, mine->log_files);
        if (s->state == SHIM_RUNNING && !checked_alike) { /* else what is known of it stays true */
            shim_health_end(s->health);
            shim_health_begin(s->health);
        }
    }
    if (spec)
        inst_spec_done(spec);
    return res;
}

static int conn_vm(struct shim *s, const struct shim_msg_request *r, json_object **ret_reply, struct err *e)
{
    const struct proto_msg_peer peer = {
        .kind = "VM", .name = s->instance.name, .process = "process", .remedy = "install all programs from one build"
    };
    const char *text = json_object_to_json_string_ext(r->value, JSON_C_TO_STRING_PLAIN);
    AUTO_FD int sock = -1;
    int res = s->instance.spec.kind == INST_VM && text ? inst_vm_connect(s->instance.name, &sock, e)
                                                       : err_set(e, EPROTOTYPE, "%s is not a VM", s->instance.name);

    return res < 0 ? res : proto_msg_call(sock, &peer, text, NULL, 0, 60000, ret_reply, NULL, NULL, e);
}

static int conn_stats(struct shim *s, json_object **ret_stats, struct err *e)
{
    if (s->state != SHIM_RUNNING)
        return err_set(e, ENOTCONN, "%s does not run just now", s->instance.name);
    return s->ops->stats(&s->run, ret_stats, e);
}

static int conn_resize(struct shim *s, const struct shim_msg_request *r, struct err *e)
{
    int res;

    s->columns = r->columns; /* the next run begins with it */
    s->rows = r->rows;
    res = s->state == SHIM_RUNNING ? s->ops->resize(&s->run, r->columns, r->rows) : 0;

    return res < 0 ? err_set(e, -res, "%s: cannot set the size of its terminal: %s", s->instance.name, strerror(-res))
                   : 0;
}

/* 1: there is no reply now. A value for the reply under *ret_key, or the whole of it where that is NULL. */
static int conn_do(struct shim_conn *conn, const struct shim_msg_request *r, const char **ret_key,
                   json_object **ret_value, struct err *e)
{
    struct shim *s = conn->shim;
    uint64_t timeout = r->has_timeout ? r->timeout_ns : s->instance.spec.stop_timeout_ns;
    int res;

    switch (r->op) {
    case SHIM_MSG_INFO:
        *ret_key = "info";
        *ret_value = conn_info(s);
        return 0;
    case SHIM_MSG_ATTACH:
        return conn_attach(conn, r, e);
    case SHIM_MSG_EOF:
        shim_io_eof(conn->attachment);
        return 0;
    case SHIM_MSG_RESIZE:
        return conn_resize(s, r, e);
    case SHIM_MSG_STOP:
        return shim_run_stop(s, timeout, r->keep, e);
    case SHIM_MSG_KILL:
        return shim_run_kill(s, r->signal, e);
    case SHIM_MSG_PAUSE:
    case SHIM_MSG_RESUME:
        return shim_run_pause(s, r->op == SHIM_MSG_PAUSE, e);
    case SHIM_MSG_WAIT:
        conn->waits = true;
        return 1;
    case SHIM_MSG_READY:
        conn->wants_ready = s->state != SHIM_RUNNING || !shim_health_ready(s->health);
        return conn->wants_ready;
    case SHIM_MSG_STATS:
        *ret_key = "stats";
        return conn_stats(s, ret_value, e);
    case SHIM_MSG_RESTART:
        res = shim_run_restart(s, timeout, e);
        conn->wants_restart = res == 0;
        return res < 0 ? res : 1;
    case SHIM_MSG_UPDATE:
        return conn_update(s, r, e);
    case SHIM_MSG_VM:
        return conn_vm(s, r, ret_value, e);
    }
    return err_set(e, EOPNOTSUPP, "%s cannot do this", s->instance.name);
}

/* -errno: the connection is of no use any more. */
static int conn_serve(struct shim_conn *conn, const char *text)
{
    json_object *reply, *value = NULL;
    struct shim_msg_request request;
    const char *key = NULL;
    struct err e = { 0 };
    int r = shim_msg_request_from_json(text, &request, &e);

    if (r == 0 && conn->shim->state == SHIM_ENDED)
        r = err_set(&e, ENOTCONN, "%s has ended", conn->shim->instance.name);
    if (r == 0)
        r = conn_do(conn, &request, &key, &value, &e);
    shim_msg_request_done(&request);
    if (r > 0)
        return 0;
    if (r < 0 && e.code == 0)
        return r;
    if (r == 0 && value && !key)
        return conn_send(conn, value, NULL, 0);
    reply = conn_reply(r < 0 ? &e : NULL);
    if (value)
        json_object_object_add(reply, key, value);
    return conn_send(conn, reply, NULL, 0);
}

/* One request. -EAGAIN: there is none. */
static int conn_receive(struct shim_conn *conn)
{
    AUTO_FREE char *text = NULL;
    int fds[PROTO_MSG_FDS_MAX], r;
    unsigned n = 0;

    r = proto_msg_receive(conn->sock, &text, fds, &n);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < n; i++) /* nothing here takes descriptors */
        close(fds[i]);
    return conn_serve(conn, text);
}

static void conn_event(void *opaque, uint32_t events)
{
    struct shim_conn *conn = opaque;
    struct shim *s = conn->shim;
    int r = conn_receive(conn);

    (void)events;
    if (r < 0 && r != -EAGAIN)
        shim_conn_close(conn);
    shim_run_maybe_leave(s);
}

void shim_conn_serve_queued(struct shim_conn *conn)
{
    /* Errors show again when the loop runs. */
    while (conn_receive(conn) == 0)
        ;
}

struct shim_conn *shim_conn_new(struct shim *s, int sock)
{
    struct shim_conn *conn = calloc(1, sizeof(*conn));

    if (!conn || loop_fd_add(s->loop, sock, EPOLLIN, conn_event, conn, &conn->src) < 0) {
        free(conn);
        close(sock);
        return NULL;
    }
    conn->shim = s;
    conn->sock = sock;
    list_add_before(&s->conns, &conn->link);
    s->n_conns++;
    return conn;
}

void shim_conn_accept(void *opaque, uint32_t events)
{
    struct shim *s = opaque;
    AUTO_FD int sock = sys_place_accept(&s->place);

    (void)events;
    if (sock >= 0 && s->n_conns < SHIM_CONNS_MAX)
        (void)shim_conn_new(s, STEAL_FD(sock));
}
