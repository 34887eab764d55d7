/* Figures of a running container: of its control groups, by the runtime's own reader, and of its network namespace. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "instance/container_priv.h"
#include "instance/leftover.h"
#include "sys/cgroup.h"

#define STATS_PATH_MAX 512
#define STATS_LIMIT_NONE (1ULL << 62) /* v1 says "no limit" by a number near that */

/* The value at a path of names; NULL: not there. */
static json_object *stats_at(json_object *o, const char *const *path)
{
    for (; *path && o; path++) {
        json_object *next = NULL;

        json_object_object_get_ex(o, *path, &next);
        o = next;
    }
    return o;
}

static uint64_t stats_number(json_object *o, const char *a, const char *b, const char *c)
{
    const char *const path[] = { a, b, c, NULL };

    return json_object_get_uint64(stats_at(o, path));
}

static void stats_block(json_object *data, json_object *out)
{
    static const char *const path[] = { "blkio", "ioServiceBytesRecursive", NULL };
    json_object *list = stats_at(data, path), *block = json_object_new_object();
    uint64_t bytes[2] = { 0, 0 };

    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        json_object *o = json_object_array_get_idx(list, i), *op = NULL;
        const char *name;

        json_object_object_get_ex(o, "op", &op);
        name = op ? json_object_get_string(op) : "";
        if (strcasecmp(name, "read") == 0 || strcasecmp(name, "write") == 0)
            bytes[strcasecmp(name, "write") == 0] += stats_number(o, "value", NULL, NULL);
    }
    json_object_object_add(block, "read_bytes", json_object_new_uint64(bytes[0]));
    json_object_object_add(block, "write_bytes", json_object_new_uint64(bytes[1]));
    json_object_object_add(out, "block", block);
}

/* The numbers behind the colon of a line of /proc/net/dev: received bytes are the first, sent ones the ninth. */
static void stats_net_line(char *line, uint64_t *rx, uint64_t *tx)
{
    char *colon = strchr(line, ':'), *save = NULL;
    const char *name = line + strspn(line, " ");
    uint64_t n = 0;
    int i = 0;

    if (!colon || strncmp(name, "lo:", 3) == 0)
        return;
    for (const char *word = strtok_r(colon + 1, " \n", &save); word && i < 9;
         word = strtok_r(NULL, " \n", &save), i++) {
        if (num_parse_u64(word, 0, UINT64_MAX, &n) < 0)
            return;
        if (i == 0)
            *rx += n;
        if (i == 8)
            *tx += n;
    }
}

/* /proc/PID/net/dev, without lo. */
static void stats_net(pid_t pid, json_object *out)
{
    json_object *net = json_object_new_object();
    char path[64], line[512];
    uint64_t rx = 0, tx = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/net/dev", (int)pid);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        stats_net_line(line, &rx, &tx);
    if (f)
        fclose(f);
    json_object_object_add(net, "rx_bytes", json_object_new_uint64(rx));
    json_object_object_add(net, "tx_bytes", json_object_new_uint64(tx));
    json_object_object_add(out, "net", net);
}

/* Without control groups of its own: what its processes say of themselves; those that have ended are missing. */
static void stats_processes(pid_t init, json_object *out)
{
    uint64_t cpu_ns = 0, resident = 0;
    AUTO_FREE pid_t *pids = NULL;
    size_t n = 0;

    if (container_pids(init, &pids, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        struct inst_process_stats p;

        if (inst_process_stats(pids[i], &p) == 0) {
            cpu_ns += p.cpu_ns;
            resident += p.resident;
        }
    }
    json_object_object_add(out, "cpu_ns", json_object_new_uint64(cpu_ns));
    json_object_object_add(out, "memory", json_object_new_uint64(resident));
    json_object_object_add(out, "pids", json_object_new_uint64(n));
}

int container_stats(struct inst_run *run, json_object **ret_stats, struct err *e)
{
    const char *args[] = { "events", "--stats", run->instance->id, NULL };
    AUTO_FREE char *text = NULL;
    json_object *o = NULL, *data = NULL, *out;
    uint64_t limit;
    int r = container_oci_ask(args, &text, e);

    if (r == 0)
        o = json_tokener_parse(text);
    if (r < 0 || !o || !json_object_object_get_ex(o, "data", &data)) {
        json_object_put(o);
        return r < 0 ? r : err_set(e, EBADMSG, "%s: caisson-oci gives no figures", run->instance->name);
    }
    out = json_object_new_object();
    limit = stats_number(data, "memory", "usage", "limit");
    json_object_object_add(out, "cpu_ns", json_object_new_uint64(stats_number(data, "cpu", "usage", "total")));
    json_object_object_add(out, "memory", json_object_new_uint64(stats_number(data, "memory", "usage", "usage")));
    json_object_object_add(out, "memory_limit", json_object_new_uint64(limit >= STATS_LIMIT_NONE ? 0 : limit));
    json_object_object_add(out, "pids", json_object_new_uint64(stats_number(data, "pids", "current", NULL)));
    if (stats_number(data, "pids", "current", NULL) == 0)
        stats_processes(run->pid, out);
    stats_block(data, out);
    stats_net(run->pid, out);
    json_object_put(o);
    *ret_stats = out;
    return 0;
}

/* ---- out of memory ---- */

int container_oom(const struct store_instance *i)
{
    struct sys_cgroup_layout l = { 0 };
    char dir[STATS_PATH_MAX], text[4096];
    uint64_t n = 0;
    int at;

    if (i->spec.container.memory == 0 || sys_cgroup_layout_read(&l) < 0)
        return 0;
    at = sys_cgroup_layout_find(&l, SYS_CG_MEMORY);
    if (at >= 0) {
        snprintf(dir, sizeof(dir), "%s/caisson-%.*s", l.h[at].mount, INST_ID_SHORT, i->id);
        if (sys_cgroup_read(dir, l.h[at].v2 ? "memory.events" : "memory.oom_control", text, sizeof(text)) < 0 ||
            !sys_cgroup_find_number(text, "oom_kill", &n))
            n = 0;
    }
    sys_cgroup_layout_done(&l);
    return n > 0;
}
