#include "proto/shim_msg.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define WHAT "supervisor request"
#define SHIM_SIGNAL_MAX 64

static const char *const shim_msg_ops[] = {
    [SHIM_MSG_INFO] = "info",     [SHIM_MSG_ATTACH] = "attach", [SHIM_MSG_EOF] = "eof",
    [SHIM_MSG_RESIZE] = "resize", [SHIM_MSG_STOP] = "stop",     [SHIM_MSG_KILL] = "kill",
    [SHIM_MSG_PAUSE] = "pause",   [SHIM_MSG_RESUME] = "resume", [SHIM_MSG_WAIT] = "wait",
    [SHIM_MSG_READY] = "ready",   [SHIM_MSG_STATS] = "stats",   [SHIM_MSG_RESTART] = "restart",
    [SHIM_MSG_UPDATE] = "update", [SHIM_MSG_VM] = "vm",
};

void shim_msg_request_done(struct shim_msg_request *r)
{
    json_object_put(r->value);
    r->value = NULL;
}

int shim_msg_request_to_json(const struct shim_msg_request *r, char **ret_text)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "op", json_object_new_string(shim_msg_ops[r->op]));
    if (r->op == SHIM_MSG_ATTACH) {
        json_object_object_add(o, "in", json_object_new_boolean(r->in));
        json_object_object_add(o, "replay", json_object_new_boolean(r->replay));
    }
    if (r->op == SHIM_MSG_RESIZE) {
        json_object_object_add(o, "columns", json_object_new_int64(r->columns));
        json_object_object_add(o, "rows", json_object_new_int64(r->rows));
    }
    if (r->has_timeout)
        json_object_object_add(o, "timeout_ns", json_object_new_uint64(r->timeout_ns));
    if (r->op == SHIM_MSG_STOP)
        json_object_object_add(o, "keep", json_object_new_boolean(r->keep));
    if (r->op == SHIM_MSG_KILL)
        json_object_object_add(o, "signal", json_object_new_int(r->signal));
    if (r->op == SHIM_MSG_UPDATE || r->op == SHIM_MSG_VM)
        json_object_object_add(o, r->op == SHIM_MSG_VM ? "request" : "spec", json_object_get(r->value));
    return proto_json_take_text(o, ret_text);
}

/* ---- reading ---- */

static int shim_msg_get_number(const char *key, json_object *v, uint64_t min, uint64_t max, unsigned *ret,
                               struct err *e)
{
    uint64_t n = 0;
    int r = proto_json_uint(v, WHAT, key, min, max, &n, e);

    if (r == 0)
        *ret = (unsigned)n;
    return r;
}

static int shim_msg_get_object(const char *key, json_object *v, json_object **ret, struct err *e)
{
    if (!json_object_is_type(v, json_type_object))
        return err_set(e, EINVAL, WHAT ": '%s' must be an object", key);
    *ret = json_object_get(v);
    return 0;
}

static int shim_msg_get(void *request, const char *key, json_object *v, struct err *e)
{
    struct shim_msg_request *r = request;
    unsigned n = 0;
    int res;

    if (r->op == SHIM_MSG_ATTACH && strcmp(key, "in") == 0)
        return proto_json_bool(v, WHAT, key, &r->in, e);
    if (r->op == SHIM_MSG_ATTACH && strcmp(key, "replay") == 0)
        return proto_json_bool(v, WHAT, key, &r->replay, e);
    if (r->op == SHIM_MSG_RESIZE && strcmp(key, "columns") == 0)
        return shim_msg_get_number(key, v, 1, UINT16_MAX, &r->columns, e);
    if (r->op == SHIM_MSG_RESIZE && strcmp(key, "rows") == 0)
        return shim_msg_get_number(key, v, 1, UINT16_MAX, &r->rows, e);
    if ((r->op == SHIM_MSG_STOP || r->op == SHIM_MSG_RESTART) && strcmp(key, "timeout_ns") == 0) {
        r->has_timeout = true;
        return proto_json_uint(v, WHAT, key, 0, INT64_MAX, &r->timeout_ns, e);
    }
    if (r->op == SHIM_MSG_STOP && strcmp(key, "keep") == 0)
        return proto_json_bool(v, WHAT, key, &r->keep, e);
    if (r->op == SHIM_MSG_KILL && strcmp(key, "signal") == 0) {
        res = shim_msg_get_number(key, v, 1, SHIM_SIGNAL_MAX, &n, e);
        r->signal = (int)n;
        return res;
    }
    if (r->op == SHIM_MSG_UPDATE && strcmp(key, "spec") == 0)
        return shim_msg_get_object(key, v, &r->value, e);
    if (r->op == SHIM_MSG_VM && strcmp(key, "request") == 0)
        return shim_msg_get_object(key, v, &r->value, e);
    return proto_json_unknown(WHAT, key, e);
}

static int shim_msg_check(const struct shim_msg_request *r, struct err *e)
{
    if (r->op == SHIM_MSG_RESIZE && (r->columns == 0 || r->rows == 0))
        return err_set(e, EINVAL, WHAT ": resize needs columns and rows");
    if (r->op == SHIM_MSG_KILL && r->signal == 0)
        return err_set(e, EINVAL, WHAT ": kill needs a signal");
    if ((r->op == SHIM_MSG_UPDATE || r->op == SHIM_MSG_VM) && !r->value)
        return err_set(e, EINVAL, WHAT ": %s needs %s", shim_msg_ops[r->op], r->op == SHIM_MSG_VM ? "request" : "spec");
    return 0;
}

int shim_msg_request_from_json(const char *text, struct shim_msg_request *r, struct err *e)
{
    json_object *o = NULL;
    unsigned which = 0;
    int res;

    *r = (struct shim_msg_request){ 0 };
    res = proto_json_request(text, WHAT, shim_msg_ops, ARRAY_SIZE(shim_msg_ops), &o, &which, e);
    if (res < 0)
        return res;
    r->op = (enum shim_msg_op)which;
    res = proto_json_request_fields(o, shim_msg_get, r, e);
    return res < 0 ? res : shim_msg_check(r, e);
}

int shim_msg_socket_dir(const char *runtime, char *ret_path, size_t size)
{
    int n = snprintf(ret_path, size, "%s/instances", runtime);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}
