/* caisson events. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/instance.h"
#include "instance/log.h"
#include "proto/exit_code.h"
#include "store/event.h"

#define EVENTS_POLL_MS 200

struct events {
    const struct cli_args *args;
    int64_t since_ns, until_ns; /* 0: no limit */
    int64_t after;              /* serial of the last one */
    bool json, past;            /* past: one after until was met */
    int error;                  /* errno of the first write that failed */
};

/* --filter type=, name=, id=, action=: those of one key are alternatives. */
static bool events_wants(const struct events *v, const struct store_event *event)
{
    const struct {
        const char *key, *value;
    } fields[] = {
        { "type=", event->object }, { "name=", event->name }, { "id=", event->id }, { "action=", event->action }
    };

    for (size_t f = 0; f < ARRAY_SIZE(fields); f++) {
        bool asked = false, found = false;

        for (size_t n = 0; n < v->args->n_given; n++) {
            const struct cli_given *g = &v->args->given[n];
            size_t len = strlen(fields[f].key);

            if (strcmp(g->option->name, "filter") != 0 || strncmp(g->value, fields[f].key, len) != 0)
                continue;
            asked = true;
            found = found || (strcmp(fields[f].key, "id=") == 0
                                  ? strncmp(fields[f].value, g->value + len, strlen(g->value + len)) == 0
                                  : strcmp(fields[f].value, g->value + len) == 0);
        }
        if (asked && !found)
            return false;
    }
    return true;
}

static int events_check(const struct cli_args *args, struct err *e)
{
    static const char *const keys[] = { "type=", "name=", "id=", "action=" };

    for (size_t n = 0; n < args->n_given; n++) {
        const struct cli_given *g = &args->given[n];
        bool found = strcmp(g->option->name, "filter") != 0;

        for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
            found = found || strncmp(g->value, keys[k], strlen(keys[k])) == 0;
        if (!found)
            return err_set(e, EINVAL, "--filter %s: unknown; use type=, name=, id= or action= and a value", g->value);
    }
    return 0;
}

static json_object *events_attributes(const struct store_event *event)
{
    return event->attributes ? json_tokener_parse(event->attributes) : NULL;
}

static void events_print_json(const struct store_event *event, const char *time)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "time", json_object_new_string(time));
    json_object_object_add(o, "type", json_object_new_string(event->object));
    json_object_object_add(o, "action", json_object_new_string(event->action));
    json_object_object_add(o, "id", json_object_new_string(event->id));
    json_object_object_add(o, "name", json_object_new_string(event->name));
    json_object_object_add(o, "attributes", events_attributes(event));
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
}

static void events_print_text(const struct store_event *event, const char *time)
{
    json_object *attributes = events_attributes(event);

    printf("%s %s %s %s", time, event->object, event->action, event->name);
    if (event->id[0])
        printf(" %.12s", event->id);
    if (json_object_is_type(attributes, json_type_object)) {
        json_object_object_foreach(attributes, key, v)
        {
            printf(" %s=%s", key, json_object_get_string(v));
        }
    }
    printf("\n");
    json_object_put(attributes);
}

static int events_unwritten(struct events *v)
{
    v->error = errno;
    return -EPIPE;
}

static int events_one(void *opaque, const struct store_event *event)
{
    struct events *v = opaque;
    char time[INST_LOG_TIME_MAX];

    v->after = event->serial;
    v->past = v->until_ns && event->time_ns > v->until_ns;
    if (v->past)
        return 1;
    if (event->time_ns < v->since_ns || !events_wants(v, event))
        return 0;
    inst_log_time(event->time_ns, time);
    if (v->json)
        events_print_json(event, time);
    else
        events_print_text(event, time);
    return ferror(stdout) ? events_unwritten(v) : 0;
}

static int events_times(const struct cli_args *args, struct events *v, struct err *e)
{
    const char *since = cli_value(args, "since"), *until = cli_value(args, "until");

    if (since && cli_parse_when(since, &v->since_ns) < 0)
        return err_set(e, EINVAL, "--since %s: not a time; give 10m (ago), 2026-01-31 or RFC 3339", since);
    if (until && cli_parse_when(until, &v->until_ns) < 0)
        return err_set(e, EINVAL, "--until %s: not a time; give 10m (ago), 2026-01-31 or RFC 3339", until);
    return 0;
}

/* Wait a little. -EPIPE: nobody reads any more. */
static int events_wait(struct events *v)
{
    struct pollfd out = { .fd = STDOUT_FILENO };

    if (fflush(stdout) < 0)
        return events_unwritten(v);
    return poll(&out, 1, EVENTS_POLL_MS) > 0 && out.revents & (POLLERR | POLLNVAL) ? -EPIPE : 0;
}

int cli_cmd_events(const struct cli_args *args)
{
    bool follow = cli_value(args, "follow") != NULL;
    struct events v = { .args = args, .json = cli_value(args, "json") != NULL };
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int r = events_times(args, &v, &e);

    if (r == 0)
        r = events_check(args, &e);
    if (r == 0) /* there must be something to wait for */
        r = cli_inst_open(follow ? STORE_WRITE : STORE_READ, &store, &e);
    while (r == 0) {
        bool last = !follow || cli_is_past(v.until_ns);

        r = store_event_each(store, v.after, events_one, &v, &e);
        if (r != 0 || last)
            break;
        r = events_wait(&v);
    }
    return r < 0 && r != -EPIPE ? cli_fail(&e) : cli_output_end(v.error);
}
