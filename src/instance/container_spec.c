/* config.json of a container: its specification in the words of the OCI runtime. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "image/user.h"
#include "instance/container_priv.h"
#include "wire/oci_spec.h"

const char *container_security(const struct inst_container *c, const char *key)
{
    const size_t len = strlen(key);

    for (size_t i = c->security.n; i > 0; i--) {
        const char *text = c->security.at[i - 1];

        if (strncmp(text, key, len) == 0 && (!text[len] || text[len] == '=' || text[len] == ':'))
            return text[len] ? text + len + 1 : "";
    }
    return NULL;
}

static json_object *spec_texts(const struct inst_strings *s)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; i < s->n; i++)
        json_object_array_add(list, json_object_new_string(s->at[i]));
    return list;
}

/* ---- the process ---- */

static bool spec_has_env(const struct inst_container *c, const char *name)
{
    const size_t len = strlen(name);

    for (size_t i = 0; i < c->env.n; i++) {
        if (strncmp(c->env.at[i], name, len) == 0 && c->env.at[i][len] == '=')
            return true;
    }
    return false;
}

static void spec_env_default(const struct inst_container *c, json_object *list, const char *name, const char *value)
{
    char text[512];

    if (spec_has_env(c, name))
        return;
    snprintf(text, sizeof(text), "%s=%s", name, value);
    json_object_array_add(list, json_object_new_string(text));
}

static json_object *spec_env(const struct container_document *d)
{
    json_object *list = spec_texts(&d->c->env);
    char id[INST_ID_SHORT + 1];

    snprintf(id, sizeof(id), "%.*s", INST_ID_SHORT, d->run->instance->id);
    spec_env_default(d->c, list, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    spec_env_default(d->c, list, "TERM", "xterm");
    spec_env_default(d->c, list, "container", "caisson");
    spec_env_default(d->c, list, "HOME", d->user->home[0] ? d->user->home : "/");
    spec_env_default(d->c, list, "HOSTNAME", d->c->hostname ? d->c->hostname : id);
    return list;
}

json_object *container_user_make(const struct image_user *u)
{
    json_object *o = json_object_new_object(), *groups = json_object_new_array();

    json_object_object_add(o, "uid", json_object_new_int64(u->uid));
    json_object_object_add(o, "gid", json_object_new_int64(u->gid));
    json_object_object_add(o, "umask", json_object_new_int(022));
    for (size_t i = 0; i < u->n_groups; i++)
        json_object_array_add(groups, json_object_new_int64(u->groups[i]));
    json_object_object_add(o, "additionalGids", groups);
    return o;
}

/* --ulimit NAME=SOFT[:HARD]; -1: no limit. */
static int spec_rlimit(const char *text, json_object *list, struct err *e)
{
    const char *value = strchr(text, '='), *colon = value ? strchr(value, ':') : NULL;
    char name[64] = "RLIMIT_", number[2][32];
    uint64_t limit[2];
    json_object *o;

    if (!value || (size_t)(value - text) > sizeof(name) - 8)
        return err_set(e, EINVAL, "--ulimit %s: must be NAME=SOFT[:HARD], e.g. nofile=1024", text);
    for (const char *c = text; c < value; c++)
        name[7 + (c - text)] = (char)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    value++;
    snprintf(number[0], sizeof(number[0]), "%.*s", (int)(colon ? colon - value : (long)strlen(value)), value);
    snprintf(number[1], sizeof(number[1]), "%s", colon ? colon + 1 : number[0]);
    for (size_t i = 0; i < 2; i++) {
        if (strcmp(number[i], "-1") == 0 || strcmp(number[i], "unlimited") == 0)
            limit[i] = RLIM_INFINITY;
        else if (num_parse_u64(number[i], 0, INT64_MAX, &limit[i]) < 0)
            return err_set(e, EINVAL, "--ulimit %s: must be NAME=SOFT[:HARD], e.g. nofile=1024", text);
    }
    o = json_object_new_object();
    json_object_object_add(o, "type", json_object_new_string(name));
    json_object_object_add(o, "soft", json_object_new_uint64(limit[0]));
    json_object_object_add(o, "hard", json_object_new_uint64(limit[1]));
    json_object_array_add(list, o);
    return 0;
}

static int spec_rlimits(const struct inst_container *c, json_object *process, struct err *e)
{
    json_object *list = json_object_new_array();
    int r = 0;

    for (size_t i = 0; i < c->ulimits.n && r == 0; i++)
        r = spec_rlimit(c->ulimits.at[i], list, e);
    json_object_object_add(process, "rlimits", list);
    return r;
}

static json_object *spec_args(const struct inst_container *c)
{
    json_object *list = json_object_new_array();

    if (c->init) {
        json_object_array_add(list, json_object_new_string(CONTAINER_INIT_PATH));
        json_object_array_add(list, json_object_new_string("--"));
    }
    for (size_t i = 0; i < c->args.n; i++)
        json_object_array_add(list, json_object_new_string(c->args.at[i]));
    return list;
}

void container_console_size(json_object *process, unsigned columns, unsigned rows)
{
    json_object *size = json_object_new_object();

    json_object_object_del(process, "consoleSize");
    if (columns == 0 || rows == 0) {
        json_object_put(size);
        return;
    }
    json_object_object_add(size, "height", json_object_new_int64(rows));
    json_object_object_add(size, "width", json_object_new_int64(columns));
    json_object_object_add(process, "consoleSize", size);
}

int container_process_make(const struct container_document *d, json_object **ret_process, struct err *e)
{
    const struct inst_container *c = d->c;
    const char *apparmor = container_security(c, "apparmor"), *nnp = container_security(c, "no-new-privileges");
    json_object *o = json_object_new_object(), *caps = NULL;
    int r;

    json_object_object_add(o, "terminal", json_object_new_boolean(c->terminal));
    if (c->terminal)
        container_console_size(o, d->run->columns, d->run->rows);
    json_object_object_add(o, "user", container_user_make(d->user));
    json_object_object_add(o, "args", spec_args(c));
    json_object_object_add(o, "env", spec_env(d));
    json_object_object_add(o, "cwd", json_object_new_string(c->cwd && c->cwd[0] ? c->cwd : "/"));
    json_object_object_add(o, "noNewPrivileges", json_object_new_boolean(nnp && strcmp(nnp, "false") != 0));
    if (apparmor && apparmor[0] && strcmp(apparmor, "unconfined") != 0)
        json_object_object_add(o, "apparmorProfile", json_object_new_string(apparmor));
    r = container_caps_make(c, d->user->uid == 0, &caps, e);
    if (r == 0)
        json_object_object_add(o, "capabilities", caps);
    if (r == 0)
        r = spec_rlimits(c, o, e);
    if (r < 0) {
        json_object_put(o);
        return r;
    }
    *ret_process = o;
    return 0;
}

/* ---- the whole ---- */

static void spec_init_mount(const struct container_document *d, const char *program, json_object *mounts)
{
    json_object *o = json_object_new_object(), *options = json_object_new_array();

    json_object_array_add(options, json_object_new_string("bind"));
    json_object_array_add(options, json_object_new_string("ro"));
    json_object_object_add(o, "destination", json_object_new_string(CONTAINER_INIT_PATH));
    json_object_object_add(o, "type", json_object_new_string("bind"));
    json_object_object_add(o, "source", json_object_new_string(program));
    json_object_object_add(o, "options", options);
    json_object_array_add(mounts, o);
}

int container_spec_make(const struct container_document *d, json_object **ret_spec, struct err *e)
{
    const struct inst_container *c = d->c;
    json_object *o = json_object_new_object(), *root = json_object_new_object(), *part = NULL, *mounts = NULL;
    char id[INST_ID_SHORT + 1];
    int r = container_process_make(d, &part, e);

    snprintf(id, sizeof(id), "%.*s", INST_ID_SHORT, d->run->instance->id);
    json_object_object_add(o, "ociVersion", json_object_new_string(OCI_VERSION));
    json_object_object_add(root, "path", json_object_new_string("rootfs"));
    json_object_object_add(root, "readonly", json_object_new_boolean(c->read_only));
    json_object_object_add(o, "root", root);
    if (r == 0)
        json_object_object_add(o, "process", part);
    if (strcmp(c->network, "host") != 0 || c->hostname)
        json_object_object_add(o, "hostname", json_object_new_string(c->hostname ? c->hostname : id));
    if (r == 0)
        r = container_mounts_make(d, &mounts, e);
    if (r == 0 && c->init)
        spec_init_mount(d, d->init_program, mounts);
    if (r == 0)
        r = container_linux_make(d, mounts, &part, e);
    if (mounts)
        json_object_object_add(o, "mounts", mounts);
    if (r < 0) {
        json_object_put(o);
        return r;
    }
    json_object_object_add(o, "linux", part);
    *ret_spec = o;
    return 0;
}
