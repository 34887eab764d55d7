/* The document of an instance as JSON. Plain fields are tables of name, type and place, so that reading and writing
 * cannot differ. */
#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "proto/inst_spec.h"
#include "proto/json.h"
#include "proto/vm_json.h"
#include "proto/vm_spec.h"

#define WHAT "instance"
#define INST_TEXT_MAX 65536 /* bytes of one string, with its terminator */

enum inst_field_type { FIELD_TEXT, FIELD_STRINGS, FIELD_BOOL, FIELD_UINT, FIELD_U64, FIELD_DOUBLE };

struct inst_field {
    const char *key;
    enum inst_field_type type;
    size_t offset; /* in the struct that the table is for */
};

static const struct inst_field inst_image_fields[] = {
    { "id", FIELD_TEXT, offsetof(struct inst_spec, image_id) },
    { "name", FIELD_TEXT, offsetof(struct inst_spec, image_name) },
};
static const struct inst_field inst_stop_fields[] = {
    { "signal", FIELD_UINT, offsetof(struct inst_spec, stop_signal) },
    { "timeout_ns", FIELD_U64, offsetof(struct inst_spec, stop_timeout_ns) },
};
static const struct inst_field inst_logs_fields[] = {
    { "max_size", FIELD_U64, offsetof(struct inst_spec, log_max_size) },
    { "files", FIELD_UINT, offsetof(struct inst_spec, log_files) },
};
static const struct inst_field inst_health_fields[] = {
    { "command", FIELD_STRINGS, offsetof(struct inst_spec, health.command) },
    { "interval_ns", FIELD_U64, offsetof(struct inst_spec, health.interval_ns) },
    { "timeout_ns", FIELD_U64, offsetof(struct inst_spec, health.timeout_ns) },
    { "start_period_ns", FIELD_U64, offsetof(struct inst_spec, health.start_period_ns) },
    { "retries", FIELD_UINT, offsetof(struct inst_spec, health.retries) },
};
static const struct inst_field inst_container_fields[] = {
    { "args", FIELD_STRINGS, offsetof(struct inst_container, args) },
    { "env", FIELD_STRINGS, offsetof(struct inst_container, env) },
    { "cwd", FIELD_TEXT, offsetof(struct inst_container, cwd) },
    { "user", FIELD_TEXT, offsetof(struct inst_container, user) },
    { "hostname", FIELD_TEXT, offsetof(struct inst_container, hostname) },
    { "terminal", FIELD_BOOL, offsetof(struct inst_container, terminal) },
    { "stdin_open", FIELD_BOOL, offsetof(struct inst_container, stdin_open) },
    { "read_only", FIELD_BOOL, offsetof(struct inst_container, read_only) },
    { "privileged", FIELD_BOOL, offsetof(struct inst_container, privileged) },
    { "init", FIELD_BOOL, offsetof(struct inst_container, init) },
    { "network", FIELD_TEXT, offsetof(struct inst_container, network) },
    { "cap_add", FIELD_STRINGS, offsetof(struct inst_container, cap_add) },
    { "cap_drop", FIELD_STRINGS, offsetof(struct inst_container, cap_drop) },
    { "security", FIELD_STRINGS, offsetof(struct inst_container, security) },
    { "devices", FIELD_STRINGS, offsetof(struct inst_container, devices) },
    { "sysctls", FIELD_STRINGS, offsetof(struct inst_container, sysctls) },
    { "ulimits", FIELD_STRINGS, offsetof(struct inst_container, ulimits) },
    { "dns", FIELD_STRINGS, offsetof(struct inst_container, dns) },
    { "hosts", FIELD_STRINGS, offsetof(struct inst_container, hosts) },
    { "memory", FIELD_U64, offsetof(struct inst_container, memory) },
    { "memory_swap", FIELD_U64, offsetof(struct inst_container, memory_swap) },
    { "cpus", FIELD_DOUBLE, offsetof(struct inst_container, cpus) },
    { "cpu_shares", FIELD_U64, offsetof(struct inst_container, cpu_shares) },
    { "pids", FIELD_U64, offsetof(struct inst_container, pids) },
    { "cpuset", FIELD_TEXT, offsetof(struct inst_container, cpuset) },
    { "shm_size", FIELD_U64, offsetof(struct inst_container, shm_size) },
};
static const char *const inst_mount_kinds[] = {
    [INST_MOUNT_BIND] = "bind",
    [INST_MOUNT_VOLUME] = "volume",
    [INST_MOUNT_TMPFS] = "tmpfs",
};
static const struct inst_field inst_mount_fields[] = {
    { "source", FIELD_TEXT, offsetof(struct inst_mount, source) },
    { "target", FIELD_TEXT, offsetof(struct inst_mount, target) },
    { "options", FIELD_TEXT, offsetof(struct inst_mount, options) },
};
static const char *const inst_port_protocols[] = { "tcp", "udp" };

/* ---- writing ---- */

static json_object *inst_put_strings(const struct inst_strings *s)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; i < s->n; i++)
        json_object_array_add(list, json_object_new_string(s->at[i]));
    return list;
}

static json_object *inst_put_field(const struct inst_field *f, const void *base)
{
    const void *at = (const char *)base + f->offset;
    const char *text;

    switch (f->type) {
    case FIELD_TEXT:
        text = *(char *const *)at;
        return text ? json_object_new_string(text) : NULL;
    case FIELD_STRINGS:
        return inst_put_strings(at);
    case FIELD_BOOL:
        return json_object_new_boolean(*(const bool *)at);
    case FIELD_UINT:
        return json_object_new_int64(*(const unsigned *)at);
    case FIELD_U64:
        return json_object_new_uint64(*(const uint64_t *)at);
    case FIELD_DOUBLE:
        return json_object_new_double(*(const double *)at);
    }
    return NULL;
}

static json_object *inst_put_fields(const struct inst_field *fields, size_t n, const void *base)
{
    json_object *o = json_object_new_object();

    for (size_t i = 0; i < n; i++)
        json_object_object_add(o, fields[i].key, inst_put_field(&fields[i], base));
    return o;
}

/* K=V pairs as an object. */
static json_object *inst_put_labels(const struct inst_strings *labels)
{
    json_object *o = json_object_new_object();

    for (size_t i = 0; i < labels->n; i++) {
        size_t len = strcspn(labels->at[i], "=");
        AUTO_FREE char *key = strndup(labels->at[i], len);

        if (key)
            json_object_object_add(o, key, json_object_new_string(labels->at[i][len] ? labels->at[i] + len + 1 : ""));
    }
    return o;
}

static json_object *inst_put_port(const struct inst_port *p)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "protocol", json_object_new_string(inst_port_protocols[p->udp]));
    json_object_object_add(o, "host_addr", json_object_new_string(p->host_addr));
    json_object_object_add(o, "host_port", json_object_new_int(p->host_port));
    json_object_object_add(o, "port", json_object_new_int(p->port));
    return o;
}

static json_object *inst_put_container(const struct inst_container *c)
{
    json_object *o = inst_put_fields(inst_container_fields, ARRAY_SIZE(inst_container_fields), c);
    json_object *ports = json_object_new_array(), *mounts = json_object_new_array();

    for (size_t i = 0; i < c->n_ports; i++)
        json_object_array_add(ports, inst_put_port(&c->ports[i]));
    for (size_t i = 0; i < c->n_mounts; i++) {
        json_object *m = inst_put_fields(inst_mount_fields, ARRAY_SIZE(inst_mount_fields), &c->mounts[i]);

        json_object_object_add(m, "kind", json_object_new_string(inst_mount_kinds[c->mounts[i].kind]));
        json_object_array_add(mounts, m);
    }
    json_object_object_add(o, "ports", ports);
    json_object_object_add(o, "mounts", mounts);
    return o;
}

static json_object *inst_put_restart(const struct inst_spec *s)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "policy", json_object_new_string(inst_restart_name(s->restart)));
    json_object_object_add(o, "max", json_object_new_int64(s->restart_max));
    return o;
}

json_object *inst_spec_to_object(const struct inst_spec *s)
{
    json_object *o = json_object_new_object();
    AUTO_FREE char *vm = NULL;

    json_object_object_add(o, "kind", json_object_new_string(inst_kind_name(s->kind)));
    json_object_object_add(
        o, "image",
        s->image_id || s->image_name ? inst_put_fields(inst_image_fields, ARRAY_SIZE(inst_image_fields), s) : NULL);
    json_object_object_add(o, "restart", inst_put_restart(s));
    json_object_object_add(o, "stop", inst_put_fields(inst_stop_fields, ARRAY_SIZE(inst_stop_fields), s));
    json_object_object_add(o, "logs", inst_put_fields(inst_logs_fields, ARRAY_SIZE(inst_logs_fields), s));
    json_object_object_add(o, "health",
                           s->health.command.n ? inst_put_fields(inst_health_fields, ARRAY_SIZE(inst_health_fields), s)
                                               : NULL);
    json_object_object_add(o, "labels", inst_put_labels(&s->labels));
    json_object_object_add(o, "remove", json_object_new_boolean(s->remove));
    if (s->kind == INST_CONTAINER) {
        json_object_object_add(o, "container", inst_put_container(&s->container));
    } else if (vm_spec_to_json(s->vm, &vm) == 0) {
        json_object_object_add(o, "vm", json_tokener_parse(vm));
    } else {
        json_object_put(o);
        return NULL;
    }
    return o;
}

/* ---- reading ---- */

static int inst_get_text(json_object *v, const char *key, char **ret_text, struct err *e)
{
    AUTO_FREE char *text = malloc(INST_TEXT_MAX);
    char *copy;
    int r;

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    r = proto_json_text(v, WHAT, key, text, INST_TEXT_MAX, e);
    if (r < 0)
        return r;
    copy = strdup(text);
    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    free(*ret_text);
    *ret_text = copy;
    return 0;
}

static int inst_get_strings(json_object *v, const char *key, struct inst_strings *s, struct err *e)
{
    size_t n = 0;
    int r = proto_json_array(v, WHAT, key, INST_LIST_MAX, &n, e);

    inst_strings_done(s);
    for (size_t i = 0; i < n && r == 0; i++) {
        AUTO_FREE char *text = NULL;

        r = inst_get_text(json_object_array_get_idx(v, i), key, &text, e);
        if (r == 0 && inst_strings_add(s, text) < 0)
            r = err_set(e, ENOMEM, "out of memory");
    }
    return r;
}

static int inst_get_double(json_object *v, const char *key, double *ret, struct err *e)
{
    double d = json_object_get_double(v);

    if ((!json_object_is_type(v, json_type_double) && !json_object_is_type(v, json_type_int)) || !isfinite(d))
        return err_set(e, EINVAL, WHAT ": '%s' must be a number", key);
    *ret = d;
    return 0;
}

static int inst_get_field(const struct inst_field *f, json_object *v, void *base, struct err *e)
{
    void *at = (char *)base + f->offset;
    uint64_t n = 0;
    int r;

    switch (f->type) {
    case FIELD_TEXT:
        return v ? inst_get_text(v, f->key, at, e) : 0;
    case FIELD_STRINGS:
        return inst_get_strings(v, f->key, at, e);
    case FIELD_BOOL:
        return proto_json_bool(v, WHAT, f->key, at, e);
    case FIELD_UINT:
        r = proto_json_uint(v, WHAT, f->key, 0, INT32_MAX, &n, e);
        if (r == 0)
            *(unsigned *)at = (unsigned)n;
        return r;
    case FIELD_U64:
        return proto_json_uint(v, WHAT, f->key, 0, INT64_MAX, at, e);
    case FIELD_DOUBLE:
        return inst_get_double(v, f->key, at, e);
    }
    return -EINVAL;
}

/* 1: no field of that name is in the table. */
static int inst_get_named(const struct inst_field *fields, size_t n, const char *key, json_object *v, void *base,
                          struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(fields[i].key, key) == 0)
            return inst_get_field(&fields[i], v, base, e);
    }
    return 1;
}

/* An object with the fields of the table and no others. */
static int inst_get_fields(const struct inst_field *fields, size_t n, json_object *o, const char *what, void *base,
                           struct err *e)
{
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": '%s' must be an object", what);
    json_object_object_foreach(o, key, v)
    {
        int r = inst_get_named(fields, n, key, v, base, e);

        if (r != 0)
            return r < 0 ? r : proto_json_unknown(WHAT, key, e);
    }
    return 0;
}

static int inst_get_labels(json_object *o, struct inst_strings *labels, struct err *e)
{
    if (!json_object_is_type(o, json_type_object) || json_object_object_length(o) > INST_LIST_MAX)
        return err_set(e, EINVAL, WHAT ": 'labels' must be an object of at most %d names", INST_LIST_MAX);
    json_object_object_foreach(o, key, v)
    {
        AUTO_FREE char *text = NULL, *pair = NULL;
        int r = inst_get_text(v, "labels", &text, e);

        if (r < 0)
            return r;
        if (strchr(key, '='))
            return err_set(e, EINVAL, WHAT ": a label's name has '=' in it");
        if (asprintf(&pair, "%s=%s", key, text) < 0)
            pair = NULL;
        if (!pair || inst_strings_add(labels, pair) < 0)
            return err_set(e, ENOMEM, "out of memory");
    }
    return 0;
}

static int inst_get_port(json_object *o, struct inst_port *p, struct err *e)
{
    uint64_t host = 0, port = 0;
    unsigned udp = 0;
    int r = 0;

    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": a port must be an object");
    json_object_object_foreach(o, key, v)
    {
        if (strcmp(key, "protocol") == 0)
            r = proto_json_choice(v, WHAT, key, inst_port_protocols, ARRAY_SIZE(inst_port_protocols), &udp, e);
        else if (strcmp(key, "host_addr") == 0)
            r = proto_json_text(v, WHAT, key, p->host_addr, sizeof(p->host_addr), e);
        else if (strcmp(key, "host_port") == 0)
            r = proto_json_uint(v, WHAT, key, 0, UINT16_MAX, &host, e);
        else if (strcmp(key, "port") == 0)
            r = proto_json_uint(v, WHAT, key, 1, UINT16_MAX, &port, e);
        else
            r = proto_json_unknown(WHAT, key, e);
        if (r < 0)
            return r;
    }
    p->udp = udp == 1;
    p->host_port = (uint16_t)host;
    p->port = (uint16_t)port;
    return 0;
}

static int inst_get_ports(json_object *v, struct inst_container *c, struct err *e)
{
    size_t n = 0;
    int r = proto_json_array(v, WHAT, "ports", INST_LIST_MAX, &n, e);

    if (r < 0)
        return r;
    free(c->ports);
    c->n_ports = 0;
    c->ports = calloc(n + 1, sizeof(*c->ports));
    if (!c->ports)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < n && r == 0; i++)
        r = inst_get_port(json_object_array_get_idx(v, i), &c->ports[c->n_ports++], e);
    return r;
}

static int inst_get_mount(json_object *o, struct inst_mount *m, struct err *e)
{
    unsigned kind = 0;

    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": a mount must be an object");
    json_object_object_foreach(o, key, v)
    {
        int r = strcmp(key, "kind") == 0
                    ? proto_json_choice(v, WHAT, key, inst_mount_kinds, ARRAY_SIZE(inst_mount_kinds), &kind, e)
                    : inst_get_named(inst_mount_fields, ARRAY_SIZE(inst_mount_fields), key, v, m, e);

        if (r != 0)
            return r < 0 ? r : proto_json_unknown(WHAT, key, e);
    }
    m->kind = (enum inst_mount_kind)kind;
    return 0;
}

static int inst_get_mounts(json_object *v, struct inst_container *c, struct err *e)
{
    size_t n = 0;
    int r = proto_json_array(v, WHAT, "mounts", INST_LIST_MAX, &n, e);

    if (r < 0)
        return r;
    if (c->mounts)
        return err_set(e, EINVAL, WHAT ": 'mounts' is there twice");
    c->mounts = calloc(n + 1, sizeof(*c->mounts));
    if (!c->mounts)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < n && r == 0; i++)
        r = inst_get_mount(json_object_array_get_idx(v, i), &c->mounts[c->n_mounts++], e);
    return r;
}

static int inst_get_container(json_object *o, struct inst_container *c, struct err *e)
{
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": 'container' must be an object");
    json_object_object_foreach(o, key, v)
    {
        int r = inst_get_named(inst_container_fields, ARRAY_SIZE(inst_container_fields), key, v, c, e);

        if (r == 1 && strcmp(key, "ports") == 0)
            r = inst_get_ports(v, c, e);
        else if (r == 1 && strcmp(key, "mounts") == 0)
            r = inst_get_mounts(v, c, e);
        if (r != 0)
            return r < 0 ? r : proto_json_unknown(WHAT, key, e);
    }
    return 0;
}

static int inst_get_restart(json_object *o, struct inst_spec *s, struct err *e)
{
    static const char *const names[] = { "no", "on-failure", "always", "unless-stopped" };
    unsigned policy = 0;
    uint64_t max = 0;

    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, WHAT ": 'restart' must be an object");
    json_object_object_foreach(o, key, v)
    {
        int r;

        if (strcmp(key, "policy") == 0)
            r = proto_json_choice(v, WHAT, key, names, ARRAY_SIZE(names), &policy, e);
        else if (strcmp(key, "max") == 0)
            r = proto_json_uint(v, WHAT, key, 0, INST_RESTARTS_MAX, &max, e);
        else
            r = proto_json_unknown(WHAT, key, e);
        if (r < 0)
            return r;
    }
    s->restart = (enum inst_restart)policy;
    s->restart_max = (unsigned)max;
    return 0;
}

static int inst_get_vm(json_object *o, struct inst_spec *s, struct err *e)
{
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);

    return text ? vm_spec_from_json(text, s->vm, e) : err_set(e, ENOMEM, "out of memory");
}

static int inst_get_part(const char *key, json_object *v, struct inst_spec *s, struct err *e)
{
    if (strcmp(key, "kind") == 0)
        return 0; /* read first */
    if (strcmp(key, "image") == 0)
        return v ? inst_get_fields(inst_image_fields, ARRAY_SIZE(inst_image_fields), v, key, s, e) : 0;
    if (strcmp(key, "restart") == 0)
        return inst_get_restart(v, s, e);
    if (strcmp(key, "stop") == 0)
        return inst_get_fields(inst_stop_fields, ARRAY_SIZE(inst_stop_fields), v, key, s, e);
    if (strcmp(key, "logs") == 0)
        return inst_get_fields(inst_logs_fields, ARRAY_SIZE(inst_logs_fields), v, key, s, e);
    if (strcmp(key, "health") == 0)
        return v ? inst_get_fields(inst_health_fields, ARRAY_SIZE(inst_health_fields), v, key, s, e) : 0;
    if (strcmp(key, "labels") == 0)
        return inst_get_labels(v, &s->labels, e);
    if (strcmp(key, "remove") == 0)
        return proto_json_bool(v, WHAT, key, &s->remove, e);
    if (strcmp(key, "container") == 0 && s->kind == INST_CONTAINER)
        return inst_get_container(v, &s->container, e);
    if (strcmp(key, "vm") == 0 && s->kind == INST_VM)
        return inst_get_vm(v, s, e);
    return proto_json_unknown(WHAT, key, e);
}

int inst_spec_from_object(json_object *o, struct inst_spec *s, struct err *e)
{
    static const char *const kinds[] = { "vm", "container" };
    json_object *kind = NULL;
    unsigned which = 0;
    int r;

    *s = (struct inst_spec){ 0 };
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, "kind", &kind))
        return err_set(e, EINVAL, WHAT ": 'kind' is missing");
    r = proto_json_choice(kind, WHAT, "kind", kinds, ARRAY_SIZE(kinds), &which, e);
    if (r < 0)
        return r;
    if (inst_spec_init(s, (enum inst_kind)which) < 0)
        return err_set(e, ENOMEM, "out of memory");
    json_object_object_foreach(o, key, v)
    {
        r = inst_get_part(key, v, s, e);
        if (r < 0)
            return r;
    }
    return inst_spec_check(s, e);
}

int inst_spec_from_json(const char *text, struct inst_spec *s, struct err *e)
{
    json_object *o = NULL;
    int r;

    *s = (struct inst_spec){ 0 };
    r = proto_json_object_bounded(text, INST_SPEC_TEXT_MAX, WHAT, &o, e);
    if (r < 0)
        return r;
    r = inst_spec_from_object(o, s, e);
    json_object_put(o);
    return r;
}
