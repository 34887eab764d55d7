#include "proto/json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define JSON_DEPTH_MAX 32

int proto_json_text(json_object *v, const char *what, const char *key, char *ret_text, size_t size, struct err *e)
{
    const char *text;

    if (!json_object_is_type(v, json_type_string))
        return err_set(e, EINVAL, "%s: '%s' must be a string", what, key);
    text = json_object_get_string(v);
    if ((size_t)json_object_get_string_len(v) != strlen(text))
        return err_set(e, EINVAL, "%s: '%s' has a zero byte in it", what, key);
    if (strlen(text) >= size)
        return err_set(e, EINVAL, "%s: '%s' is too long; use at most %zu bytes", what, key, size - 1);
    memcpy(ret_text, text, strlen(text) + 1);
    return 0;
}

int proto_json_uint(json_object *v, const char *what, const char *key, uint64_t min, uint64_t max, uint64_t *ret_value,
                    struct err *e)
{
    if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0 || json_object_get_uint64(v) < min ||
        json_object_get_uint64(v) > max)
        return err_set(e, EINVAL, "%s: '%s' must be a whole number from %" PRIu64 " to %" PRIu64, what, key, min, max);
    *ret_value = json_object_get_uint64(v);
    return 0;
}

int proto_json_bool(json_object *v, const char *what, const char *key, bool *ret_value, struct err *e)
{
    if (!json_object_is_type(v, json_type_boolean))
        return err_set(e, EINVAL, "%s: '%s' must be true or false", what, key);
    *ret_value = json_object_get_boolean(v);
    return 0;
}

int proto_json_choice(json_object *v, const char *what, const char *key, const char *const *names, size_t n,
                      unsigned *ret_index, struct err *e)
{
    char list[128] = "";
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        if (json_object_is_type(v, json_type_string) && strcmp(json_object_get_string(v), names[i]) == 0) {
            *ret_index = (unsigned)i;
            return 0;
        }
    }
    for (size_t i = 0; i < n && len < sizeof(list); i++)
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s",
                                i == 0      ? ""
                                : i + 1 < n ? ", "
                                            : " or ",
                                names[i]);
    return err_set(e, EINVAL, "%s: '%s' must be %s", what, key, list);
}

int proto_json_array(json_object *v, const char *what, const char *key, size_t max, size_t *ret_n, struct err *e)
{
    if (!json_object_is_type(v, json_type_array))
        return err_set(e, EINVAL, "%s: '%s' must be a list", what, key);
    if (json_object_array_length(v) > max)
        return err_set(e, EINVAL, "%s: '%s' has more than %zu entries", what, key, max);
    *ret_n = json_object_array_length(v);
    return 0;
}

int proto_json_object(const char *text, const char *what, json_object **ret_object, struct err *e)
{
    struct json_tokener *t = json_tokener_new_ex(JSON_DEPTH_MAX);
    json_object *o;
    bool whole;

    if (!t)
        return err_set(e, ENOMEM, "out of memory");
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    o = json_tokener_parse_ex(t, text, -1);
    whole = json_tokener_get_error(t) == json_tokener_success;
    json_tokener_free(t);
    if (!whole || !json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return err_set(e, EINVAL, "%s: not a JSON object", what);
    }
    *ret_object = o;
    return 0;
}

int proto_json_object_bounded(const char *text, size_t max, const char *what, json_object **ret_object, struct err *e)
{
    if (strnlen(text, max + 1) > max)
        return err_set(e, EINVAL, "%s: longer than %zu bytes", what, max);
    return proto_json_object(text, what, ret_object, e);
}

int proto_json_unknown(const char *what, const char *key, struct err *e)
{
    return err_set(e, EINVAL, "%s: unknown field '%.64s'", what, key);
}

json_object *proto_json_time(int64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000);
    char text[64];
    struct tm tm;

    if (!gmtime_r(&seconds, &tm) || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        return json_object_new_string("-");
    return json_object_new_string(text);
}

int proto_json_take_text(json_object *o, char **ret_text)
{
    const char *text =
        o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
    char *copy = text ? strdup(text) : NULL;

    json_object_put(o);
    if (!copy)
        return -ENOMEM;
    *ret_text = copy;
    return 0;
}

int proto_json_request(const char *text, const char *what, const char *const *ops, size_t n,
                       struct json_object **ret_object, unsigned *ret_op, struct err *e)
{
    struct json_object *o = NULL, *op = NULL;
    int res = proto_json_object(text, what, &o, e);

    if (res < 0)
        return res;
    if (!json_object_object_get_ex(o, "op", &op))
        res = err_set(e, EINVAL, "%s: 'op' is missing", what);
    else
        res = proto_json_choice(op, what, "op", ops, n, ret_op, e);
    if (res < 0)
        json_object_put(o);
    else
        *ret_object = o;
    return res;
}

int proto_json_request_fields(json_object *o,
                              int (*get)(void *request, const char *key, struct json_object *v, struct err *e),
                              void *request, struct err *e)
{
    int res = 0;

    json_object_object_foreach(o, key, v)
    {
        if (res == 0 && strcmp(key, "op") != 0)
            res = get(request, key, v, e);
    }
    json_object_put(o);
    return res;
}

void proto_json_finding(json_object *list, const char *name, const char *status, const char *fmt, ...)
{
    json_object *o = json_object_new_object();
    char detail[ERR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "status", json_object_new_string(status));
    json_object_object_add(o, "detail", json_object_new_string(detail));
    json_object_array_add(list, o);
}
