/* Limits of a container that runs: what the specification says now goes to the runtime as a document of resources, and
 * what it says no more is lifted in so many words. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "instance/container_priv.h"

#define UPDATE_SHARES_DEFAULT 1024

static bool update_same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static bool update_same(const struct inst_container *a, const struct inst_container *b)
{
    return a->memory == b->memory && a->memory_swap == b->memory_swap && !(a->cpus < b->cpus || a->cpus > b->cpus) &&
           a->cpu_shares == b->cpu_shares && a->pids == b->pids && update_same_text(a->cpuset, b->cpuset);
}

/* The limit is none any more. */
static void update_lift(json_object *o, const char *part, const char *key, int64_t value)
{
    json_object *to = NULL;

    if (!json_object_object_get_ex(o, part, &to)) {
        to = json_object_new_object();
        json_object_object_add(o, part, to);
    }
    json_object_object_add(to, key, json_object_new_int64(value));
}

static json_object *update_resources(const struct inst_container *was, const struct inst_container *c, bool rootless)
{
    json_object *o = container_resources_make(c, rootless);

    json_object_object_del(o, "devices"); /* those stay as they are */
    if (was->memory && !c->memory)
        update_lift(o, "memory", "limit", -1);
    if (was->memory_swap && !c->memory_swap)
        update_lift(o, "memory", "swap", -1);
    if (was->cpus > 0 && !(c->cpus > 0))
        update_lift(o, "cpu", "quota", -1);
    if (was->cpu_shares && !c->cpu_shares)
        update_lift(o, "cpu", "shares", UPDATE_SHARES_DEFAULT);
    if (was->pids != INT64_MAX && c->pids == INT64_MAX)
        update_lift(o, "pids", "limit", -1);
    return o;
}

static int update_ask(const char *id, json_object *resources, struct err *e)
{
    const char *args[] = { "update", "--resources", "-", id, NULL };
    const char *text = json_object_to_json_string_ext(resources, JSON_C_TO_STRING_PLAIN);
    AUTO_FD int in = memfd_create("oci-resources", MFD_CLOEXEC);
    const int stdio[3] = { in, -1, -1 };
    int r = in < 0 ? -errno : fd_write_all(in, text, strlen(text));

    if (r == 0 && lseek(in, 0, SEEK_SET) < 0)
        r = -errno;
    return r < 0 ? err_set(e, -r, "cannot tell caisson-oci the limits: %s", strerror(-r))
                 : container_oci_run(args, stdio, e);
}

int container_update(struct inst_run *run, const struct inst_spec *spec, struct err *e)
{
    const struct inst_container *was = &run->instance->spec.container, *c = &spec->container;
    const struct container_run *state = run->kind;
    json_object *o;
    int r;

    if (update_same(was, c) || !container_limits_possible(state->rootless))
        return 0;
    o = update_resources(was, c, state->rootless);
    r = update_ask(run->instance->id, o, e);
    json_object_put(o);
    return r < 0 ? err_wrap(e, "%s", run->instance->name) : 0;
}
