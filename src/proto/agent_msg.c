#include "proto/agent_msg.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define AGENT_WHAT "agent request"

static const char *const agent_ops[AGENT_OPS] = {
    [AGENT_PING] = "ping",         [AGENT_EXEC] = "exec",       [AGENT_PUT] = "put",
    [AGENT_GET] = "get",           [AGENT_SIGNAL] = "signal",   [AGENT_SYNC_TIME] = "sync-time",
    [AGENT_SHUTDOWN] = "shutdown", [AGENT_WINSIZE] = "winsize",
};

/* ---- reading ---- */

/* A string of any length without zero bytes. */
static int agent_get_text(json_object *v, const char *key, char **ret, struct err *e)
{
    const char *text = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

    if (!text || strlen(text) != (size_t)json_object_get_string_len(v))
        return err_set(e, EINVAL, AGENT_WHAT ": '%s' is no text", key);
    free(*ret);
    *ret = strdup(text);
    return *ret ? 0 : err_set(e, ENOMEM, "out of memory");
}

static void agent_free_words(char **words)
{
    for (size_t i = 0; words && words[i]; i++)
        free(words[i]);
    free(words);
}

static int agent_get_words(json_object *v, const char *key, char ***ret, struct err *e)
{
    char **words;
    size_t n;
    int r = proto_json_array(v, AGENT_WHAT, key, AGENT_WORDS_MAX, &n, e);

    if (r < 0)
        return r;
    words = calloc(n + 1, sizeof(*words));
    if (!words)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < n && r == 0; i++)
        r = agent_get_text(json_object_array_get_idx(v, i), key, &words[i], e);
    if (r < 0) {
        agent_free_words(words);
        return r;
    }
    agent_free_words(*ret);
    *ret = words;
    return 0;
}

static int agent_get_u16(json_object *v, const char *key, uint16_t *ret, struct err *e)
{
    uint64_t n;
    int r = proto_json_uint(v, AGENT_WHAT, key, 0, UINT16_MAX, &n, e);

    if (r == 0)
        *ret = (uint16_t)n;
    return r;
}

static int agent_get_number(json_object *v, const char *key, struct agent_request *q, struct err *e)
{
    uint64_t n = 0;
    int r;

    if (strcmp(key, "rows") == 0)
        return agent_get_u16(v, key, &q->rows, e);
    if (strcmp(key, "cols") == 0)
        return agent_get_u16(v, key, &q->cols, e);
    if (strcmp(key, "signal") == 0) {
        r = proto_json_uint(v, AGENT_WHAT, key, 1, 64, &n, e);
        q->signal = (unsigned)n;
        return r;
    }
    if (strcmp(key, "time_ns") == 0) {
        r = proto_json_uint(v, AGENT_WHAT, key, 1, INT64_MAX, &n, e);
        q->time_ns = (int64_t)n;
        return r;
    }
    return proto_json_unknown(AGENT_WHAT, key, e);
}

static int agent_get_field(void *request, const char *key, json_object *v, struct err *e)
{
    struct agent_request *q = request;
    const struct {
        const char *key;
        char **text;
        char ***words;
        bool *flag;
    } fields[] = {
        { "argv", NULL, &q->argv, NULL },        { "env", NULL, &q->env, NULL },
        { "cwd", &q->cwd, NULL, NULL },          { "user", &q->user, NULL, NULL },
        { "path", &q->path, NULL, NULL },        { "tty", NULL, NULL, &q->tty },
        { "stdin", NULL, NULL, &q->stdin_open }, { "detach", NULL, NULL, &q->detach },
        { "reboot", NULL, NULL, &q->reboot },
    };

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        if (strcmp(key, fields[i].key) != 0)
            continue;
        if (fields[i].text)
            return agent_get_text(v, key, fields[i].text, e);
        if (fields[i].words)
            return agent_get_words(v, key, fields[i].words, e);
        return proto_json_bool(v, AGENT_WHAT, key, fields[i].flag, e);
    }
    return agent_get_number(v, key, q, e);
}

static int agent_check(const struct agent_request *q, struct err *e)
{
    if (q->op == AGENT_EXEC && (!q->argv || !q->argv[0] || !q->argv[0][0]))
        return err_set(e, EINVAL, AGENT_WHAT ": 'argv' names no program");
    if ((q->op == AGENT_PUT || q->op == AGENT_GET) && (!q->path || q->path[0] != '/'))
        return err_set(e, EINVAL, AGENT_WHAT ": 'path' is not an absolute path");
    if (q->op == AGENT_SIGNAL && q->signal == 0)
        return err_set(e, EINVAL, AGENT_WHAT ": 'signal' is missing");
    if (q->op == AGENT_SYNC_TIME && q->time_ns == 0)
        return err_set(e, EINVAL, AGENT_WHAT ": 'time_ns' is missing");
    return 0;
}

int agent_request_from_json(const char *text, struct agent_request *ret, struct err *e)
{
    struct agent_request q = { 0 };
    json_object *o;
    unsigned op;
    int r = proto_json_request(text, AGENT_WHAT, agent_ops, AGENT_OPS, &o, &op, e);

    if (r < 0)
        return r;
    q.op = op;
    r = proto_json_request_fields(o, agent_get_field, &q, e);
    if (r == 0)
        r = agent_check(&q, e);
    if (r < 0)
        agent_request_done(&q);
    else
        *ret = q;
    return r;
}

void agent_request_done(struct agent_request *q)
{
    agent_free_words(q->argv);
    agent_free_words(q->env);
    free(q->cwd);
    free(q->user);
    free(q->path);
    *q = (struct agent_request){ 0 };
}

/* ---- writing ---- */

static bool agent_put_value(json_object *o, const char *key, json_object *v)
{
    if (v && json_object_object_add(o, key, v) == 0)
        return true;
    json_object_put(v);
    return false;
}

static bool agent_put_text(json_object *o, const char *key, const char *text)
{
    return !text || agent_put_value(o, key, json_object_new_string(text));
}

static bool agent_put_flag(json_object *o, const char *key, bool flag)
{
    return !flag || agent_put_value(o, key, json_object_new_boolean(true));
}

static bool agent_put_number(json_object *o, const char *key, int64_t n)
{
    return n == 0 || agent_put_value(o, key, json_object_new_int64(n));
}

static bool agent_put_words(json_object *o, const char *key, char *const *words)
{
    json_object *a = words ? json_object_new_array() : NULL;

    if (!words)
        return true;
    for (size_t i = 0; a && words[i]; i++) {
        json_object *v = json_object_new_string(words[i]);

        if (!v || json_object_array_add(a, v) < 0) {
            json_object_put(v);
            json_object_put(a);
            return false;
        }
    }
    return agent_put_value(o, key, a);
}

json_object *agent_request_to_json(const struct agent_request *q)
{
    json_object *o = json_object_new_object();

    if (!o)
        return NULL;
    if (agent_put_text(o, "op", agent_ops[q->op]) && agent_put_words(o, "argv", q->argv) &&
        agent_put_words(o, "env", q->env) && agent_put_text(o, "cwd", q->cwd) && agent_put_text(o, "user", q->user) &&
        agent_put_text(o, "path", q->path) && agent_put_flag(o, "tty", q->tty) &&
        agent_put_flag(o, "stdin", q->stdin_open) && agent_put_flag(o, "detach", q->detach) &&
        agent_put_flag(o, "reboot", q->reboot) && agent_put_number(o, "rows", q->rows) &&
        agent_put_number(o, "cols", q->cols) && agent_put_number(o, "signal", q->signal) &&
        agent_put_number(o, "time_ns", q->time_ns))
        return o;
    json_object_put(o);
    return NULL;
}
