/* The "linux" part of config.json: namespaces, limits, devices, what is hidden. */
#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/container_priv.h"

#define LINUX_CPU_PERIOD_US 100000
#define LINUX_PIDS_DEFAULT 2048

static json_object *linux_texts(const char *const *texts)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; texts[i]; i++)
        json_object_array_add(list, json_object_new_string(texts[i]));
    return list;
}

static void linux_namespaces(const struct container_document *d, json_object *o)
{
    static const char *const kinds[] = { "pid", "ipc", "uts", "mount" };
    json_object *list = json_object_new_array(), *ns;
    char path[64];

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        ns = json_object_new_object();
        json_object_object_add(ns, "type", json_object_new_string(kinds[i]));
        json_object_array_add(list, ns);
    }
    if (strcmp(d->c->network, "host") != 0) {
        ns = json_object_new_object();
        json_object_object_add(ns, "type", json_object_new_string("network"));
        if (d->state->net.netns >= 0) {
            snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), d->state->net.netns);
            json_object_object_add(ns, "path", json_object_new_string(path));
        }
        json_object_array_add(list, ns);
    }
    /* With one tree of groups for all there is something to hide. */
    if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0) {
        ns = json_object_new_object();
        json_object_object_add(ns, "type", json_object_new_string("cgroup"));
        json_object_array_add(list, ns);
    }
    json_object_object_add(o, "namespaces", list);
}

/* ---- limits ---- */

static void linux_memory(const struct inst_container *c, json_object *resources)
{
    json_object *memory = json_object_new_object();

    if (c->memory)
        json_object_object_add(memory, "limit", json_object_new_int64((int64_t)c->memory));
    if (c->memory_swap)
        json_object_object_add(memory, "swap",
                               json_object_new_int64(c->memory_swap == INT64_MAX ? -1 : (int64_t)c->memory_swap));
    if (json_object_object_length(memory) > 0)
        json_object_object_add(resources, "memory", memory);
    else
        json_object_put(memory);
}

static void linux_cpu(const struct inst_container *c, json_object *resources)
{
    json_object *cpu = json_object_new_object();

    if (c->cpus > 0) {
        json_object_object_add(cpu, "period", json_object_new_int(LINUX_CPU_PERIOD_US));
        json_object_object_add(cpu, "quota", json_object_new_int64((int64_t)(c->cpus * LINUX_CPU_PERIOD_US + 0.5)));
    }
    if (c->cpu_shares)
        json_object_object_add(cpu, "shares", json_object_new_uint64(c->cpu_shares));
    if (c->cpuset)
        json_object_object_add(cpu, "cpus", json_object_new_string(c->cpuset));
    if (json_object_object_length(cpu) > 0)
        json_object_object_add(resources, "cpu", cpu);
    else
        json_object_put(cpu);
}

static json_object *linux_device_rule(bool allow, const char *access)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "allow", json_object_new_boolean(allow));
    json_object_object_add(o, "access", json_object_new_string(access));
    return o;
}

bool container_limits_possible(bool rootless)
{
    return !rootless || access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0; /* v1 is root's alone */
}

json_object *container_resources_make(const struct inst_container *c, bool rootless)
{
    json_object *o = json_object_new_object(), *pids = json_object_new_object(), *rules = json_object_new_array();

    if (!container_limits_possible(rootless)) {
        json_object_put(pids);
        json_object_put(rules);
        return o;
    }
    linux_memory(c, o);
    linux_cpu(c, o);
    if (c->pids != INT64_MAX && !(rootless && c->pids == 0)) {
        json_object_object_add(pids, "limit",
                               json_object_new_int64(c->pids ? (int64_t)c->pids : (int64_t)LINUX_PIDS_DEFAULT));
        json_object_object_add(o, "pids", pids);
    } else {
        json_object_put(pids);
    }
    json_object_array_add(rules, linux_device_rule(c->privileged, "rwm"));
    if (!rootless)
        json_object_object_add(o, "devices", rules);
    else
        json_object_put(rules);
    return o;
}

/* ---- devices ---- */

/* "HOST[:CONTAINER][:rwm]". */
static int linux_device_parse(char *text, const char **ret_host, const char **ret_place, const char **ret_access,
                              struct err *e)
{
    char *second = strchr(text, ':'), *third = NULL;

    *ret_host = *ret_place = text;
    *ret_access = "rwm";
    if (second) {
        *second++ = '\0';
        third = strchr(second, ':');
        if (third)
            *third++ = '\0';
        if (second[0] == '/')
            *ret_place = second;
        else
            *ret_access = second;
        if (third)
            *ret_access = third;
    }
    if (text[0] != '/' || (*ret_access)[0] == '\0' || (*ret_access)[strspn(*ret_access, "rwm")])
        return err_set(e, EINVAL, "--device %s: no device; use HOST[:CONTAINER][:rwm], e.g. /dev/fuse", text);
    return 0;
}

static int linux_device(const struct container_document *d, const char *option, json_object *devices,
                        json_object *rules, json_object *mounts, struct err *e)
{
    AUTO_FREE char *text = strdup(option);
    const char *host = NULL, *place = NULL, *access_ = "";
    json_object *o, *rule;
    struct stat st;
    int r = text ? linux_device_parse(text, &host, &place, &access_, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    if (stat(host, &st) < 0 || !(S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
        return err_set(e, ENODEV, "--device %s: %s is no device of this machine", option, host);
    o = json_object_new_object();
    if (d->state->rootless) { /* who may not make device nodes mounts the host's */
        json_object *options = json_object_new_array();

        json_object_array_add(options, json_object_new_string("bind"));
        json_object_object_add(o, "destination", json_object_new_string(place));
        json_object_object_add(o, "type", json_object_new_string("bind"));
        json_object_object_add(o, "source", json_object_new_string(host));
        json_object_object_add(o, "options", options);
        json_object_array_add(mounts, o);
        return 0;
    }
    rule = linux_device_rule(true, access_);
    for (json_object *to = o; to; to = to == o ? rule : NULL) {
        json_object_object_add(to, "type", json_object_new_string(S_ISCHR(st.st_mode) ? "c" : "b"));
        json_object_object_add(to, "major", json_object_new_int((int)major(st.st_rdev)));
        json_object_object_add(to, "minor", json_object_new_int((int)minor(st.st_rdev)));
    }
    json_object_object_add(o, "path", json_object_new_string(place));
    json_object_object_add(o, "fileMode", json_object_new_int((int)(st.st_mode & 07777)));
    json_object_object_add(o, "uid", json_object_new_int64(st.st_uid));
    json_object_object_add(o, "gid", json_object_new_int64(st.st_gid));
    json_object_array_add(devices, o);
    json_object_array_add(rules, rule);
    return 0;
}

/* Nodes that a container has of its own. */
static bool linux_device_is_own(const char *name)
{
    static const char *const own[] = { "console", "full", "null", "ptmx", "random", "tty", "urandom", "zero" };

    for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
        if (strcmp(own[i], name) == 0)
            return true;
    }
    return strncmp(name, "tty", 3) == 0 && name[3] >= '0' && name[3] <= '9'; /* the host's terminals */
}

/* --privileged: the host's devices in /dev and in its folders. */
static int linux_all_devices(const struct container_document *d, const char *folder, json_object *devices,
                             json_object *rules, json_object *mounts, struct err *e)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, NULL, alphasort), r = 0;
    char path[PATH_MAX];
    struct stat st;

    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;

        snprintf(path, sizeof(path), "%s/%s", folder, name);
        if (r == 0 && name[0] != '.' && !linux_device_is_own(name) && !strchr(name, ':') && lstat(path, &st) == 0) {
            if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
                r = linux_device(d, path, devices, rules, mounts, e);
            else if (S_ISDIR(st.st_mode) && strcmp(name, "pts") != 0 && strcmp(name, "shm") != 0 &&
                     strcmp(name, "mqueue") != 0 && strcmp(folder, "/dev") == 0)
                r = linux_all_devices(d, path, devices, rules, mounts, e);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

static int linux_devices(const struct container_document *d, json_object *o, json_object *mounts, struct err *e)
{
    json_object *devices = json_object_new_array(), *resources = NULL, *rules = NULL;
    int r = 0;

    json_object_object_get_ex(o, "resources", &resources);
    json_object_object_get_ex(resources, "devices", &rules); /* none where nodes cannot be made */
    if (d->c->privileged && !d->state->rootless)
        r = linux_all_devices(d, "/dev", devices, rules, mounts, e);
    for (size_t i = 0; i < d->c->devices.n && r == 0; i++)
        r = linux_device(d, d->c->devices.at[i], devices, rules, mounts, e);
    json_object_object_add(o, "devices", devices);
    return r;
}

/* ---- the rest ---- */

static int linux_sysctl(const struct container_document *d, json_object *o, struct err *e)
{
    json_object *sysctl = json_object_new_object();

    if (d->state->net.netns >= 0) /* ping without rights */
        json_object_object_add(sysctl, "net.ipv4.ping_group_range", json_object_new_string("0 0"));
    for (size_t i = 0; i < d->c->sysctls.n; i++) {
        const char *text = d->c->sysctls.at[i], *value = strchr(text, '=');
        char key[256];

        if (!value || value == text || (size_t)(value - text) >= sizeof(key)) {
            json_object_put(sysctl);
            return err_set(e, EINVAL, "--sysctl %s: must be NAME=VALUE", text);
        }
        snprintf(key, sizeof(key), "%.*s", (int)(value - text), text);
        json_object_object_add(sysctl, key, json_object_new_string(value + 1));
    }
    json_object_object_add(o, "sysctl", sysctl);
    return 0;
}

static void linux_hidden(const struct container_document *d, json_object *o)
{
    static const char *const masked[] = { "/proc/acpi",
                                          "/proc/kcore",
                                          "/proc/keys",
                                          "/proc/latency_stats",
                                          "/proc/timer_list",
                                          "/proc/timer_stats",
                                          "/proc/sched_debug",
                                          "/proc/scsi",
                                          "/sys/firmware",
                                          "/sys/fs/selinux",
                                          "/sys/dev/block",
                                          "/sys/devices/virtual/powercap",
                                          NULL };
    static const char *const readonly[] = { "/proc/asound", "/proc/bus",           "/proc/fs", "/proc/irq",
                                            "/proc/sys",    "/proc/sysrq-trigger", NULL };
    const char *unmask = container_security(d->c, "unmask");

    if (d->c->privileged || (unmask && strcmp(unmask, "ALL") == 0))
        return;
    json_object_object_add(o, "maskedPaths", linux_texts(masked));
    json_object_object_add(o, "readonlyPaths", linux_texts(readonly));
}

int container_linux_make(const struct container_document *d, json_object *mounts, json_object **ret_linux,
                         struct err *e)
{
    json_object *o = json_object_new_object(), *seccomp = NULL;
    char group[64];
    uint64_t caps = 0;
    int r;

    linux_namespaces(d, o);
    json_object_object_add(o, "resources", container_resources_make(d->c, d->state->rootless));
    snprintf(group, sizeof(group), "/caisson-%.*s", INST_ID_SHORT, d->run->instance->id);
    if (!d->state->rootless)
        json_object_object_add(o, "cgroupsPath", json_object_new_string(group));
    linux_hidden(d, o);
    r = linux_devices(d, o, mounts, e);
    if (r == 0)
        r = linux_sysctl(d, o, e);
    if (r == 0)
        r = container_caps_bits(d->c, &caps, e);
    if (r == 0)
        r = container_seccomp_make(d, caps, &seccomp, e);
    if (seccomp)
        json_object_object_add(o, "seccomp", seccomp);
    if (r < 0) {
        json_object_put(o);
        return r;
    }
    *ret_linux = o;
    return 0;
}
