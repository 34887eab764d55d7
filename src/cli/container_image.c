/* What an image says of the containers made from it: command, environment, user, folder, stop signal, health check.
 * The document is a stranger's: what has another type than it should have is left out. */
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/container_options.h"
#include "image/image.h"
#include "proto/inst_spec.h"

/* The member "config" of the image's configuration; NULL: none. */
static json_object *image_config(const struct image *image)
{
    json_object *o = NULL;

    if (image)
        json_object_object_get_ex(image->config, "config", &o);
    return json_object_is_type(o, json_type_object) ? o : NULL;
}

static const char *image_text(json_object *config, const char *key)
{
    json_object *v = NULL;

    if (config)
        json_object_object_get_ex(config, key, &v);
    return json_object_is_type(v, json_type_string) && json_object_get_string_len(v) ? json_object_get_string(v) : NULL;
}

static json_object *image_list(json_object *config, const char *key)
{
    json_object *v = NULL;

    if (config)
        json_object_object_get_ex(config, key, &v);
    return json_object_is_type(v, json_type_array) ? v : NULL;
}

/* Strings of a list, from the first on. */
static int image_append(json_object *list, size_t first, struct inst_strings *to)
{
    size_t n = list ? json_object_array_length(list) : 0;
    int r = 0;

    for (size_t i = first; i < n && r == 0; i++) {
        json_object *v = json_object_array_get_idx(list, i);

        if (json_object_is_type(v, json_type_string))
            r = inst_strings_add(to, json_object_get_string(v));
    }
    return r;
}

/* --entrypoint: a word, or a JSON list of words; "" for none. */
static int image_entrypoint(const char *text, struct inst_strings *to)
{
    json_object *list = text[0] == '[' ? json_tokener_parse(text) : NULL;
    int r;

    if (list && json_object_is_type(list, json_type_array))
        r = image_append(list, 0, to);
    else
        r = text[0] ? inst_strings_add(to, text) : 0;
    json_object_put(list);
    return r;
}

static int image_command(const struct cli_args *args, json_object *config, char *const *command, int n_command,
                         struct inst_strings *to)
{
    const char *entrypoint = cli_value(args, "entrypoint");
    int r = entrypoint ? image_entrypoint(entrypoint, to) : image_append(image_list(config, "Entrypoint"), 0, to);

    /* Another entrypoint makes the image's arguments meaningless. */
    if (r == 0 && n_command == 0 && !entrypoint)
        r = image_append(image_list(config, "Cmd"), 0, to);
    for (int i = 0; i < n_command && r == 0; i++)
        r = inst_strings_add(to, command[i]);
    return r;
}

static void image_time(json_object *health, const char *key, uint64_t *ns)
{
    json_object *v = NULL;
    int64_t n;

    if (json_object_object_get_ex(health, key, &v) && json_object_is_type(v, json_type_int)) {
        n = json_object_get_int64(v);
        if (n > 0)
            *ns = (uint64_t)n;
    }
}

static int image_health(json_object *config, struct inst_health *h)
{
    json_object *health = NULL, *test, *first;
    const char *kind;
    uint64_t retries = 0;
    int r = 0;

    if (!config || !json_object_object_get_ex(config, "Healthcheck", &health) ||
        !json_object_is_type(health, json_type_object))
        return 0;
    test = image_list(health, "Test");
    first = test && json_object_array_length(test) > 1 ? json_object_array_get_idx(test, 0) : NULL;
    kind = json_object_is_type(first, json_type_string) ? json_object_get_string(first) : "";
    if (strcmp(kind, "CMD-SHELL") == 0) {
        r = inst_strings_add(&h->command, "/bin/sh");
        if (r == 0)
            r = inst_strings_add(&h->command, "-c");
    } else if (strcmp(kind, "CMD") != 0) {
        return 0;
    }
    if (r == 0)
        r = image_append(test, 1, &h->command);
    image_time(health, "Interval", &h->interval_ns);
    image_time(health, "Timeout", &h->timeout_ns);
    image_time(health, "StartPeriod", &h->start_period_ns);
    image_time(health, "Retries", &retries);
    if (retries)
        h->retries = (unsigned)MIN(retries, INST_HEALTH_RETRIES_MAX);
    return r;
}

static int image_labels(json_object *config, struct inst_strings *labels)
{
    json_object *o = NULL;
    int r = 0;

    if (!config || !json_object_object_get_ex(config, "Labels", &o) || !json_object_is_type(o, json_type_object))
        return 0;
    json_object_object_foreach(o, key, value)
    {
        AUTO_FREE char *text = NULL;

        if (r < 0 || !key[0] || strchr(key, '='))
            continue;
        r = asprintf(&text, "%s=%s", key, value ? json_object_get_string(value) : "") < 0
                ? -ENOMEM
                : inst_strings_add(labels, text);
    }
    return r;
}

static int image_stop_signal(const char *text)
{
    uint64_t n = 0;

    if (strncmp(text, "SIG", 3) == 0)
        text += 3;
    for (int s = 1; s < 32; s++) {
        const char *abbrev = sigabbrev_np(s);

        if (abbrev && strcmp(abbrev, text) == 0)
            return s;
    }
    return num_parse_u64(text, 1, 64, &n) < 0 ? 0 : (int)n;
}

static int image_copy(const char *text, char **to)
{
    if (!text)
        return 0;
    *to = strdup(text);
    return *to ? 0 : -ENOMEM;
}

int cli_container_image(const struct cli_args *args, const struct image *image, char *const *command, int n_command,
                        struct inst_spec *spec, struct err *e)
{
    struct inst_container *c = &spec->container;
    json_object *config = image_config(image), *env = image_list(config, "Env");
    const char *cwd = image_text(config, "WorkingDir"), *stop = image_text(config, "StopSignal");
    int r = image_command(args, config, command, n_command, &c->args), signal;

    for (size_t i = 0; env && i < json_object_array_length(env) && r == 0; i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(env, i));

        if (text && strchr(text, '=') && text[0] != '=')
            r = cli_env_set(&c->env, text);
    }
    if (r == 0 && cwd && cwd[0] == '/')
        r = image_copy(cwd, &c->cwd);
    if (r == 0)
        r = image_copy(image_text(config, "User"), &c->user);
    signal = stop ? image_stop_signal(stop) : 0;
    if (signal > 0 && signal <= 64)
        spec->stop_signal = signal;
    if (r == 0)
        r = image_health(config, &spec->health);
    if (r == 0)
        r = image_labels(config, &spec->labels);
    return r < 0 ? err_set(e, -r, "out of memory") : 0;
}
