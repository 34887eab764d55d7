/* The systemd driver: systemd makes a transient scope around the container's first process, and knows its limits, so
 * that it does not undo them when it reloads; everything else is done by files as without it. Spec:
 * org.freedesktop.systemd1(5), systemd.resource-control(5). */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "oci/cgroup_priv.h"
#include "sys/dbus.h"

#define SYSTEMD_BODY_MAX (1u << 18)
#define SYSTEMD_MANAGER "org.freedesktop.systemd1.Manager"

/* ---- connection ---- */

static int systemd_try(const char *dir, const char *name, bool bus, struct sys_dbus **ret)
{
    char path[PATH_MAX];

    if (!dir || snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return -ENOENT;
    return sys_dbus_open(path, bus, ret);
}

/* systemd's own socket saves the way through the bus; it is not there in containers that see the bus only. */
static int systemd_open(const struct oci_cgroup *g, struct sys_dbus **ret, bool *ret_bus, struct err *e)
{
    const char *user = g->user_manager ? getenv("XDG_RUNTIME_DIR") : NULL;
    int r, r2;

    *ret_bus = false;
    r = g->user_manager ? systemd_try(user, "systemd/private", false, ret)
                        : systemd_try("/run/systemd", "private", false, ret);
    if (r == 0)
        return 0;
    *ret_bus = true;
    r2 = g->user_manager ? systemd_try(user, "bus", true, ret)
                         : systemd_try("/run/dbus", "system_bus_socket", true, ret);
    if (r2 == 0)
        return 0;
    if (g->user_manager && !user)
        return err_set(e, ENOENT,
                       "systemd: XDG_RUNTIME_DIR is not set, so the user's manager cannot be found; log in "
                       "properly or go without --systemd-cgroup");
    return err_set(e, -r2,
                   "systemd: cannot be reached (%s; on the bus: %s); is it running? Else go without "
                   "--systemd-cgroup",
                   strerror(-r), strerror(-r2));
}

static int systemd_call(struct sys_dbus *d, const char *member, const char *signature, const struct buf *body,
                        char ret_text[DBUS_NAME_MAX])
{
    struct sys_dbus_call c = { .destination = "org.freedesktop.systemd1",
                               .path = "/org/freedesktop/systemd1",
                               .interface = SYSTEMD_MANAGER,
                               .member = member,
                               .signature = signature,
                               .body = body };

    return sys_dbus_call(d, &c, ret_text);
}

/* ---- properties: structs of a name and a variant ---- */

static void prop_begin(struct buf *b, const char *name, const char *signature)
{
    sys_dbus_align(b, 8);
    sys_dbus_put_string(b, name);
    sys_dbus_put_signature(b, signature);
}

static void prop_string(struct buf *b, const char *name, const char *v)
{
    prop_begin(b, name, "s");
    sys_dbus_put_string(b, v);
}

static void prop_bool(struct buf *b, const char *name, bool v)
{
    prop_begin(b, name, "b");
    sys_dbus_put_bool(b, v);
}

static void prop_u64(struct buf *b, const char *name, uint64_t v)
{
    prop_begin(b, name, "t");
    sys_dbus_put_u64(b, v);
}

/* "true", "false", 'text', 12, uint64 12, int32 -1: the text form of a GVariant, as engines write it into annotations
 * "org.systemd.property.NAME". False: another form. */
static bool prop_annotation(struct buf *b, const char *name, const char *value)
{
    size_t len = strlen(value);
    uint64_t n;

    if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) {
        prop_bool(b, name, value[0] == 't');
    } else if (len >= 2 && strchr("'\"", value[0]) && value[len - 1] == value[0]) {
        char text[1024];

        if (len - 2 >= sizeof(text) || memchr(value + 1, '\\', len - 2) || memchr(value + 1, value[0], len - 2))
            return false;
        memcpy(text, value + 1, len - 2);
        text[len - 2] = '\0';
        prop_string(b, name, text);
    } else if (strncmp(value, "uint64 ", 7) == 0 && num_parse_u64(value + 7, 0, UINT64_MAX, &n) == 0) {
        prop_u64(b, name, n);
    } else if (strncmp(value, "uint32 ", 7) == 0 && num_parse_u64(value + 7, 0, UINT32_MAX, &n) == 0) {
        prop_begin(b, name, "u");
        sys_dbus_put_u32(b, (uint32_t)n);
    } else {
        bool negative = strncmp(value, "int32 ", 6) == 0 ? value[6] == '-' : value[0] == '-';
        const char *digits = value + (strncmp(value, "int32 ", 6) == 0 ? 6 : 0) + negative;

        if (num_parse_u64(digits, 0, INT32_MAX, &n) < 0)
            return false;
        prop_begin(b, name, "i");
        sys_dbus_put_u32(b, negative ? (uint32_t)-n : (uint32_t)n);
    }
    return true;
}

/* "TimeoutStopSec" with seconds is sent as "TimeoutStopUSec". */
static int prop_seconds(struct buf *b, const char *name, size_t len, const char *value, struct err *e)
{
    char usec[128];
    uint64_t n;

    if (strncmp(value, "uint64 ", 7) == 0)
        value += 7;
    if (len + 2 > sizeof(usec) || num_parse_u64(value, 0, UINT64_MAX / 1000000, &n) < 0)
        return err_set(e, EINVAL, "annotations: org.systemd.property.%s: \"%s\" is no number of seconds", name, value);
    snprintf(usec, sizeof(usec), "%.*sUSec", (int)(len - 3), name);
    prop_u64(b, usec, n * 1000000);
    return 0;
}

static int prop_annotations(struct buf *b, const struct oci_spec *s, struct err *e)
{
    static const char prefix[] = "org.systemd.property.";

    for (size_t i = 0; i < s->n_annotations; i++) {
        const char *name = s->annotations[i].key, *value = s->annotations[i].value;
        size_t len;
        int r;

        if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
            continue;
        name += sizeof(prefix) - 1;
        len = strlen(name);
        for (size_t k = 0; k < len; k++) {
            if (!isalnum((unsigned char)name[k]))
                return err_set(e, EINVAL, "annotations: org.systemd.property.%s: is no property's name", name);
        }
        if (len > 3 && strcmp(name + len - 3, "Sec") == 0 && (len < 4 || strcmp(name + len - 4, "USec") != 0)) {
            r = prop_seconds(b, name, len, value, e);
            if (r < 0)
                return r;
        } else if (!prop_annotation(b, name, value)) {
            return err_set(e, EINVAL,
                           "annotations: org.systemd.property.%s: \"%s\" is not understood; write true, 'text', 12, "
                           "uint32 12 or uint64 12",
                           name, value);
        }
    }
    return 0;
}

static bool systemd_unit_is_slice(const struct oci_cgroup *g)
{
    size_t len = strlen(g->unit);

    return len > 6 && strcmp(g->unit + len - 6, ".slice") == 0;
}

static int systemd_unit_body(const struct oci_cgroup *g, pid_t pid, struct buf *b, struct err *e)
{
    static const char *const accounting[] = { "MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting" };
    struct sys_dbus_array properties, list;
    bool slice = systemd_unit_is_slice(g);
    int r;

    sys_dbus_put_string(b, g->unit);
    sys_dbus_put_string(b, "replace");
    properties = sys_dbus_begin_array(b, 8);
    prop_string(b, "Description", "caisson container");
    if (slice) {
        prop_begin(b, "Wants", "as");
        list = sys_dbus_begin_array(b, 4);
        sys_dbus_put_string(b, g->slice);
        sys_dbus_end_array(b, list);
    } else {
        prop_string(b, "Slice", g->slice);
        prop_bool(b, "Delegate", true);
        prop_begin(b, "PIDs", "au");
        list = sys_dbus_begin_array(b, 4);
        sys_dbus_put_u32(b, (uint32_t)pid);
        sys_dbus_end_array(b, list);
    }
    for (size_t i = 0; i < ARRAY_SIZE(accounting); i++)
        prop_bool(b, accounting[i], true);
    prop_bool(b, "DefaultDependencies", false);
    r = g->spec ? prop_annotations(b, g->spec, e) : 0;
    sys_dbus_end_array(b, properties);
    sys_dbus_put_u32(b, 0); /* no auxiliary units */
    sys_dbus_align(b, 8);
    return r;
}

/* ---- start ---- */

/* On a bus, signals come to those who ask. */
static int systemd_listen(struct sys_dbus *d)
{
    static const char rule[] =
        "type='signal',sender='org.freedesktop.systemd1',interface='" SYSTEMD_MANAGER "',member='JobRemoved'";
    struct sys_dbus_call c = { .destination = "org.freedesktop.DBus",
                               .path = "/org/freedesktop/DBus",
                               .interface = "org.freedesktop.DBus",
                               .member = "AddMatch",
                               .signature = "s" };
    struct buf body;
    int r;

    buf_init(&body, 1024);
    sys_dbus_put_string(&body, rule);
    c.body = &body;
    r = sys_dbus_call(d, &c, NULL);
    buf_done(&body);
    return r < 0 ? r : systemd_call(d, "Subscribe", NULL, NULL, NULL);
}

/* Where the process is now: systemd knows best. */
static int systemd_places(struct oci_cgroup *g, pid_t pid, struct err *e)
{
    char path[32], text[8192], *line = text;
    ssize_t n;

    snprintf(path, sizeof(path), "%d/cgroup", (int)pid);
    n = sys_cgroup_read("/proc", path, text, sizeof(text));
    if (n < 0)
        return err_set(e, (int)-n, "/proc/%s: cannot be read: %s", path, strerror((int)-n));
    while (line && *line) {
        char *end = strchr(line, '\n'), *where = NULL;

        if (end)
            *end++ = '\0';
        if (strncmp(line, "0::/", 4) == 0 && cgroup_pure_v2(g))
            where = line + 3;
        else if (strstr(line, ":name=systemd:/") && !cgroup_pure_v2(g))
            where = strstr(line, ":name=systemd:/") + 14;
        for (size_t i = 0; where && i < g->n; i++) {
            if (strcmp(where, "/") == 0 || cgroup_one_move(&g->one[i], where) < 0)
                return err_set(e, EIO, "systemd: process %d is in no group of its own", (int)pid);
        }
        line = end;
    }
    return 0;
}

static int systemd_start_on(struct sys_dbus *d, bool bus, const struct oci_cgroup *g, const struct buf *body,
                            struct err *e)
{
    char text[DBUS_NAME_MAX] = "", result[DBUS_NAME_MAX] = "";
    int r = bus ? systemd_listen(d) : 0;

    if (r == 0)
        r = systemd_call(d, "StartTransientUnit", "ssa(sv)a(sa(sv))", body, text);
    if (r < 0)
        return err_set(e, -r, "systemd: unit %s cannot be started: %s", g->unit, r == -EREMOTEIO ? text : strerror(-r));
    r = sys_dbus_wait_job(d, "JobRemoved", text, result);
    if (r < 0)
        return err_set(e, -r, "systemd: unit %s: no word of its start: %s", g->unit, strerror(-r));
    if (strcmp(result, "done") != 0)
        return err_set(e, EIO, "systemd: unit %s did not start: %s; see systemctl status", g->unit, result);
    return 0;
}

int cgroup_systemd_start(struct oci_cgroup *g, pid_t pid, struct err *e)
{
    AUTO(sys_dbus) struct sys_dbus *d = NULL;
    struct buf body;
    bool bus;
    int r = systemd_open(g, &d, &bus, e);

    if (r < 0)
        return r;
    buf_init(&body, SYSTEMD_BODY_MAX);
    r = systemd_unit_body(g, pid, &body, e);
    if (r == 0)
        r = systemd_start_on(d, bus, g, &body, e);
    buf_done(&body);
    return r < 0 || systemd_unit_is_slice(g) ? r : systemd_places(g, pid, e);
}

/* ---- limits ---- */

static uint64_t systemd_bytes(int64_t v)
{
    return v == -1 ? UINT64_MAX : (uint64_t)v;
}

static void systemd_cpu(struct buf *b, const struct oci_resources *r, bool v2)
{
    uint64_t period = cgroup_given(r->cpu_period) ? (uint64_t)r->cpu_period : 100000, per_s;

    if (cgroup_given(r->cpu_shares))
        prop_u64(b, v2 ? "CPUWeight" : "CPUShares",
                 v2 ? cgroup_weight_of_shares((uint64_t)r->cpu_shares) : (uint64_t)r->cpu_shares);
    if (!cgroup_given(r->cpu_quota))
        return;
    /* systemd counts in 10 ms per second: round up, the files get the exact number. */
    per_s = r->cpu_quota < 0 || (uint64_t)r->cpu_quota > UINT64_MAX / 1000000 - 10000
                ? UINT64_MAX
                : ((uint64_t)r->cpu_quota * 1000000 / period + 9999) / 10000 * 10000;
    prop_u64(b, "CPUQuotaPerSecUSec", per_s);
    if (v2 && cgroup_given(r->cpu_period))
        prop_u64(b, "CPUQuotaPeriodUSec", period);
}

static void systemd_memory(struct buf *b, const struct oci_resources *r, bool v2)
{
    int64_t swap;

    if (cgroup_given(r->memory_limit))
        prop_u64(b, v2 ? "MemoryMax" : "MemoryLimit", systemd_bytes(r->memory_limit));
    if (!v2)
        return;
    if (cgroup_given(r->memory_reservation))
        prop_u64(b, "MemoryLow", systemd_bytes(r->memory_reservation));
    if (cgroup_swap_v2(r->memory_limit, r->memory_swap, &swap) == 0 && swap != OCI_UNSET)
        prop_u64(b, "MemorySwapMax", systemd_bytes(swap));
}

static void systemd_device(struct buf *b, const struct oci_device_rule *d)
{
    char path[64], access[4];
    const char *kind = d->type == 'b' ? "block" : "char";

    if (d->major >= 0 && d->minor >= 0)
        snprintf(path, sizeof(path), "/dev/%s/%lld:%lld", kind, (long long)d->major, (long long)d->minor);
    else if (d->major >= 0)
        snprintf(path, sizeof(path), "%s-%lld", kind, (long long)d->major);
    else if (d->minor < 0)
        snprintf(path, sizeof(path), "%s-*", kind);
    else
        return; /* a minor of all majors: it has no word for that */
    snprintf(access, sizeof(access), "%s%s%s", d->read ? "r" : "", d->write ? "w" : "", d->mknod ? "m" : "");
    sys_dbus_align(b, 8);
    sys_dbus_put_string(b, path);
    sys_dbus_put_string(b, access);
}

/* What is allowed; that some of it is denied again is in our own rules only, which count too. */
static int systemd_devices(struct buf *b, const struct oci_resources *r)
{
    AUTO_FREE struct oci_device_rule *rules = NULL;
    struct sys_dbus_array list;
    bool all = false;
    size_t n = 0;
    int ret = cgroup_device_rules(r, &rules, &n);

    if (ret < 0)
        return ret;
    for (size_t i = 0; i < n; i++)
        all = rules[i].type == 'a' ? rules[i].allow : all;
    prop_string(b, "DevicePolicy", all ? "auto" : "strict");
    prop_begin(b, "DeviceAllow", "a(ss)");
    list = sys_dbus_begin_array(b, 8);
    for (size_t i = 0; i < n && !all; i++) {
        if (rules[i].allow && rules[i].type != 'a')
            systemd_device(b, &rules[i]);
    }
    sys_dbus_end_array(b, list);
    return 0;
}

static int systemd_limits_body(const struct oci_cgroup *g, const struct oci_resources *r, struct buf *b)
{
    bool v2 = cgroup_pure_v2(g);
    struct sys_dbus_array properties;
    int ret = 0;

    sys_dbus_put_string(b, g->unit);
    sys_dbus_put_bool(b, true); /* until the unit ends */
    properties = sys_dbus_begin_array(b, 8);
    systemd_cpu(b, r, v2);
    systemd_memory(b, r, v2);
    if (cgroup_given(r->pids_limit))
        prop_u64(b, "TasksMax", systemd_bytes(r->pids_limit));
    if (cgroup_given(r->blkio_weight))
        prop_u64(b, v2 ? "IOWeight" : "BlockIOWeight",
                 v2 ? cgroup_io_weight((uint64_t)r->blkio_weight) : (uint64_t)r->blkio_weight);
    if (g->spec || r->devices_present)
        ret = systemd_devices(b, r);
    sys_dbus_end_array(b, properties);
    return ret < 0 ? ret : buf_error(b);
}

int cgroup_systemd_limits(struct oci_cgroup *g, const struct oci_resources *r, struct err *e)
{
    AUTO(sys_dbus) struct sys_dbus *d = NULL;
    char text[DBUS_NAME_MAX] = "";
    struct buf body;
    bool bus;
    int ret = systemd_open(g, &d, &bus, e);

    if (ret < 0)
        return ret;
    buf_init(&body, SYSTEMD_BODY_MAX);
    ret = systemd_limits_body(g, r, &body);
    if (ret == 0)
        ret = systemd_call(d, "SetUnitProperties", "sba(sv)", &body, text);
    buf_done(&body);
    return ret < 0 ? err_set(e, -ret, "systemd: unit %s: its limits cannot be set: %s", g->unit,
                             ret == -EREMOTEIO ? text : strerror(-ret))
                   : 0;
}

/* A scope ends by itself with its last process; a slice does not, and what failed is remembered until told otherwise.
 */
void cgroup_systemd_stop(struct oci_cgroup *g)
{
    AUTO(sys_dbus) struct sys_dbus *d = NULL;
    char text[DBUS_NAME_MAX];
    struct buf body;
    bool bus;

    if (systemd_open(g, &d, &bus, NULL) < 0)
        return;
    buf_init(&body, 4096);
    sys_dbus_put_string(&body, g->unit);
    sys_dbus_put_string(&body, "replace");
    if (systemd_call(d, "StopUnit", "ss", &body, text) < 0)
        log_debug("systemd: unit %s: not stopped: %s", g->unit, text);
    buf_done(&body);
    buf_init(&body, 4096);
    sys_dbus_put_string(&body, g->unit);
    if (systemd_call(d, "ResetFailedUnit", "s", &body, text) < 0)
        log_debug("systemd: unit %s: %s", g->unit, text);
    buf_done(&body);
}
