#include "instance/client.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/place.h"
#include "instance/spawn.h"
#include "proto/json.h"
#include "proto/msg.h"

static void client_peer(const struct store_instance *i, struct proto_msg_peer *ret_peer)
{
    *ret_peer = (struct proto_msg_peer){
        .kind = i->spec.kind == INST_VM ? "VM" : "container",
        .name = i->name,
        .process = "supervisor",
        .remedy = "install all programs from one build",
    };
}

static int client_not_running(const struct store_instance *i, struct err *e)
{
    return err_set(e, ENOTCONN, "%s is not running; start it with 'caisson start %s'", i->name, i->name);
}

static int client_call(int sock, const struct store_instance *i, const struct shim_msg_request *request, int timeout_ms,
                       json_object **ret_reply, int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n, struct err *e)
{
    AUTO_FREE char *text = NULL;
    struct proto_msg_peer peer;

    if (shim_msg_request_to_json(request, &text) < 0)
        return err_set(e, ENOMEM, "out of memory");
    client_peer(i, &peer);
    return proto_msg_call(sock, &peer, text, NULL, 0, timeout_ms, ret_reply, ret_fds, ret_n, e);
}

int inst_call(const struct store_instance *i, const struct shim_msg_request *request, int timeout_ms,
              json_object **ret_reply, struct err *e)
{
    json_object *reply = NULL;
    AUTO_FD int sock = -1;
    int r = inst_connect(i->id, &sock, e);

    if (r == -ENOENT)
        return client_not_running(i, e);
    if (r == 0)
        r = client_call(sock, i, request, timeout_ms, &reply, NULL, NULL, e);
    if (r == -ECONNRESET || r == -EPIPE) /* it ended just now */
        r = client_not_running(i, e);
    if (r == 0 && ret_reply)
        *ret_reply = reply;
    else
        json_object_put(reply);
    return r;
}

/* ---- asking ---- */

static uint64_t client_number(json_object *info, const char *key)
{
    json_object *v;

    return json_object_object_get_ex(info, key, &v) && json_object_is_type(v, json_type_int) ? json_object_get_uint64(v)
                                                                                             : 0;
}

static void client_text(json_object *info, const char *key, char *ret_text, size_t size)
{
    json_object *v;

    if (json_object_object_get_ex(info, key, &v))
        (void)!proto_json_text(v, "info", key, ret_text, size, NULL);
}

static int client_ask(const struct store_instance *i, int timeout_ms, struct inst_info *ret_info, struct err *e)
{
    const struct shim_msg_request request = { .op = SHIM_MSG_INFO };
    struct inst_info info = { 0 };
    json_object *reply = NULL, *o = NULL, *ready = NULL;
    AUTO_FD int sock = -1;
    int r = inst_connect(i->id, &sock, e);

    if (r == 0) {
        r = client_call(sock, i, &request, timeout_ms, &reply, NULL, NULL, e);
        if (r == -ECONNRESET || r == -EPIPE)
            r = -ENOENT; /* it ended just now */
    }
    if (r == 0 && json_object_object_get_ex(reply, "info", &o)) {
        info.alive = true;
        info.pid = (pid_t)client_number(o, "pid");
        info.shim_pid = (pid_t)client_number(o, "shim_pid");
        info.started_ns = (int64_t)client_number(o, "started_ns");
        info.restarts = (unsigned)client_number(o, "restarts");
        info.ready = json_object_object_get_ex(o, "ready", &ready) && json_object_get_boolean(ready);
        client_text(o, "status", info.status, sizeof(info.status));
        client_text(o, "health", info.health, sizeof(info.health));
    }
    json_object_put(reply);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_info = info;
    return 0;
}

int inst_ask(const struct store_instance *i, struct inst_info *ret_info, struct err *e)
{
    return client_ask(i, INST_CALL_MS, ret_info, e);
}

void inst_look(const struct store_instance *i, struct inst_info *ret_info)
{
    *ret_info = (struct inst_info){ 0 };
    if (client_ask(i, INST_LOOK_MS, ret_info, NULL) == -ETIMEDOUT)
        ret_info->alive = true;
}

const char *inst_status(const struct store_instance *i, const struct inst_info *info)
{
    return info->alive && info->status[0] ? info->status : store_inst_status_name(i->status);
}

/* ---- sessions ---- */

void inst_session_init(struct inst_session *s)
{
    *s = (struct inst_session){ .sock = -1, .console = -1, .in = -1, .out = -1, .err = -1 };
}

void inst_session_done(struct inst_session *s)
{
    base_closep(&s->sock);
    base_closep(&s->console);
    base_closep(&s->in);
    base_closep(&s->out);
    base_closep(&s->err);
    inst_session_init(s);
}

static int session_send(struct inst_session *s, const struct shim_msg_request *request)
{
    AUTO_FREE char *text = NULL;
    int r = shim_msg_request_to_json(request, &text);

    return r < 0 ? r : proto_msg_send(s->sock, text, NULL, 0);
}

void inst_session_resize(struct inst_session *s, unsigned columns, unsigned rows)
{
    if (columns > 0 && rows > 0)
        (void)!session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_RESIZE, .columns = columns, .rows = rows });
}

void inst_session_eof(struct inst_session *s)
{
    (void)!session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_EOF });
}

/* The next reply. -errno with text, the supervisor's own where it refuses. */
static int session_receive(struct inst_session *s, const char *name, json_object **ret_reply,
                           int ret_fds[PROTO_MSG_FDS_MAX], unsigned *ret_n, struct err *e)
{
    AUTO_FREE char *text = NULL;
    json_object *reply = NULL, *v;
    uint64_t code = EIO;
    int r = proto_msg_receive(s->sock, &text, ret_fds, ret_n);

    if (r < 0)
        return err_set(e, -r, "%s: its supervisor is gone (%s); see 'caisson logs %s'", name, strerror(-r), name);
    r = proto_json_object(text, "reply", &reply, e);
    if (r == 0 && json_object_object_get_ex(reply, "ok", &v) && json_object_get_boolean(v)) {
        *ret_reply = reply;
        return 0;
    }
    if (r == 0) {
        char line[ERR_TEXT_MAX] = "its supervisor refuses and gives no reason";

        client_text(reply, "error", line, sizeof(line));
        if (json_object_object_get_ex(reply, "code", &v))
            (void)!proto_json_uint(v, "reply", "code", 1, 4095, &code, NULL);
        r = err_set(e, (int)code, "%s", line);
    }
    for (unsigned i = 0; i < *ret_n; i++)
        close(ret_fds[i]);
    json_object_put(reply);
    return r;
}

/* The reply to "attach" brings the descriptors. */
static int session_attached(struct inst_session *s, const char *name, struct err *e)
{
    int fds[PROTO_MSG_FDS_MAX], r;
    json_object *reply = NULL, *v;
    unsigned n = 0, want;
    bool in;

    r = session_receive(s, name, &reply, fds, &n, e);
    if (r < 0)
        return r;
    s->terminal = json_object_object_get_ex(reply, "terminal", &v) && json_object_get_boolean(v);
    in = json_object_object_get_ex(reply, "in", &v) && json_object_get_boolean(v);
    json_object_put(reply);
    want = s->terminal ? 1 : in ? 3 : 2;
    if (n != want) {
        for (unsigned i = 0; i < n; i++)
            close(fds[i]);
        return err_set(e, EBADMSG, "%s: its supervisor answers nonsense; install all programs from one build", name);
    }
    if (s->terminal)
        s->console = fds[0];
    if (!s->terminal && in)
        s->in = fds[0];
    if (!s->terminal) {
        s->out = fds[want - 2];
        s->err = fds[want - 1];
    }
    return 0;
}

int inst_attach(const struct store_instance *i, bool in, bool replay, struct inst_session *s, struct err *e)
{
    int r;

    inst_session_init(s);
    r = inst_connect(i->id, &s->sock, e);
    if (r == -ENOENT)
        return client_not_running(i, e);
    if (r < 0)
        return r;
    r = session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_ATTACH, .in = in, .replay = replay });
    if (r == 0)
        r = session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_WAIT });
    if (r < 0)
        return err_set(e, -r, "%s: its supervisor cannot be asked: %s", i->name, strerror(-r));
    return session_attached(s, i->name, e);
}

int inst_session_read(struct inst_session *s, int *ret_code, struct err *e)
{
    int fds[PROTO_MSG_FDS_MAX], r;
    json_object *reply = NULL, *v;
    AUTO_FREE char *text = NULL;
    unsigned n = 0;

    r = proto_msg_receive(s->sock, &text, fds, &n);
    if (r == -EAGAIN)
        return 0;
    if (r < 0)
        return err_set(e, -r, "the supervisor is gone (%s); 'caisson ls -a' shows what is left", strerror(-r));
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
    if (proto_json_object(text, "reply", &reply, NULL) < 0)
        return 0;
    r = json_object_object_get_ex(reply, "exit_code", &v); /* others are answers to resize and eof */
    if (r)
        *ret_code = json_object_get_int(v);
    json_object_put(reply);
    return r ? 1 : 0;
}

int inst_wait(const struct store_instance *i, int timeout_ms, int *ret_code, struct err *e)
{
    const struct shim_msg_request request = { .op = SHIM_MSG_WAIT };
    AUTO_FREE struct store_instance *now = calloc(1, sizeof(*now));
    AUTO(store) struct store *store = NULL;
    json_object *reply = NULL;
    int r = now ? inst_call(i, &request, timeout_ms, &reply, e) : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        *ret_code = (int)client_number(reply, "exit_code");
    json_object_put(reply);
    if (r != -ENOTCONN)
        return r;
    /* It ended before, or just now; then the row tells. */
    if (store_open(STORE_READ, &store, e) < 0 || store_instance_get(store, i->id, now, e) < 0)
        return e ? -e->code : -EIO;
    *ret_code = now->exit_code;
    r = now->status == STORE_INST_RUNNING || now->status == STORE_INST_STARTING
            ? err_set(e, ENOTCONN, "%s: its supervisor was killed; 'caisson ls' cleans up", i->name)
            : 0;
    store_instance_done(now);
    return r;
}

/* ---- starting ---- */

/* What is asked stands in the socket before the supervisor begins, however slow this process is. */
static void start_ask(struct inst_session *s, const struct inst_start *how, bool sized)
{
    if (how->attach)
        (void)!session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_ATTACH, .in = how->in });
    if (sized)
        inst_session_resize(s, how->columns, how->rows);
    if (how->wait)
        (void)!session_send(s, &(struct shim_msg_request){ .op = SHIM_MSG_WAIT });
}

static int start_spawn(const struct store_instance *i, const struct inst_start *how, bool sized, struct inst_session *s,
                       struct err *e)
{
    char path[INST_PROGRAM_MAX];
    char *const argv[] = { (char *)"caisson-shim", (char *)"--id", (char *)i->id,
                           (char *)"--ready-fd",   (char *)"3",    NULL };
    AUTO_FD int theirs = -1;
    int pair[2], r = inst_find_program("caisson-shim", path, e);

    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "%s: cannot make a socket for its supervisor: %s", i->name, strerror(errno));
    s->sock = pair[0];
    theirs = pair[1];
    start_ask(s, how, sized);
    r = inst_spawn_daemon(path, argv, (const int[]){ -1, -1, -1, theirs }, 4);
    if (r < 0)
        return err_set(e, -r, "%s: cannot start its supervisor: %s", i->name, strerror(-r));
    return 0;
}

int inst_start(const struct store_instance *i, const struct inst_start *how, struct inst_session *s, struct err *e)
{
    const bool sized = how->attach && how->columns > 0 && how->rows > 0;
    struct inst_session own;
    int fds[PROTO_MSG_FDS_MAX], r;
    json_object *reply = NULL;
    unsigned n = 0;

    s = s ? s : &own;
    inst_session_init(s);
    r = start_spawn(i, how, sized, s, e);
    if (r == 0 && how->attach)
        r = session_attached(s, i->name, e);
    for (int replies = sized ? 2 : 1; replies > 0 && r == 0; replies--) { /* to the size, and that it runs */
        r = session_receive(s, i->name, &reply, fds, &n, e);
        for (unsigned j = 0; r == 0 && j < n; j++)
            close(fds[j]);
        json_object_put(reply);
        reply = NULL;
    }
    if (s == &own)
        inst_session_done(s);
    return r;
}
