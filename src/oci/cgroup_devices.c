/* Which devices a container may use: v1's files devices.deny and devices.allow, or a program for v2 (cgroup_bpf.c).
 * Spec: config-linux.md, "Allowed Device list"; Documentation/admin-guide/cgroup-v1/devices.rst. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "oci/cgroup_priv.h"

/* Every container may make any node (it cannot open it) and use the devices that the specification demands in /dev, and
 * runc's list beyond that: terminals and tun. */
static const struct oci_device_rule always[] = {
    { true, 'c', -1, -1, false, false, true }, { true, 'b', -1, -1, false, false, true },
    { true, 'c', 1, 3, true, true, true },    /* null */
    { true, 'c', 1, 8, true, true, true },    /* random */
    { true, 'c', 1, 7, true, true, true },    /* full */
    { true, 'c', 5, 0, true, true, true },    /* tty */
    { true, 'c', 1, 5, true, true, true },    /* zero */
    { true, 'c', 1, 9, true, true, true },    /* urandom */
    { true, 'c', 136, -1, true, true, true }, /* pts */
    { true, 'c', 5, 2, true, true, true },    /* ptmx */
    { true, 'c', 10, 200, true, true, true }, /* tun */
};

int cgroup_device_rules(const struct oci_resources *r, struct oci_device_rule **ret, size_t *ret_n)
{
    struct oci_device_rule *rules = calloc(1 + r->n_devices + ARRAY_SIZE(always), sizeof(*rules));
    size_t n = 0;

    if (!rules)
        return -ENOMEM;
    rules[n++] = (struct oci_device_rule){ false, 'a', -1, -1, true, true, true };
    if (r->n_devices)
        memcpy(rules + n, r->devices, r->n_devices * sizeof(*rules));
    n += r->n_devices;
    memcpy(rules + n, always, sizeof(always));
    *ret = rules;
    *ret_n = n + ARRAY_SIZE(always);
    return 0;
}

static int devices_number(int64_t v, char ret[24])
{
    return v < 0 ? snprintf(ret, 24, "*") : snprintf(ret, 24, "%lld", (long long)v);
}

static void devices_text(const struct oci_device_rule *d, char *ret, size_t size)
{
    char major[24], minor[24];

    if (d->type == 'a') { /* the first rule only */
        snprintf(ret, size, "a");
        return;
    }
    devices_number(d->major, major);
    devices_number(d->minor, minor);
    snprintf(ret, size, "%c %s:%s %s%s%s", d->type, major, minor, d->read ? "r" : "", d->write ? "w" : "",
             d->mknod ? "m" : "");
}

/* "a" for all accesses clears all exceptions and switches between all and nothing: what is before the last is moot. */
static size_t devices_first(const struct oci_device_rule *rules, size_t n)
{
    size_t first = 0;

    for (size_t i = 0; i < n; i++) {
        if (rules[i].type == 'a' && rules[i].major < 0 && rules[i].minor < 0 && rules[i].read && rules[i].write &&
            rules[i].mknod)
            first = i;
    }
    return first;
}

struct devices_files {
    const char *dir;
    int fd[2]; /* deny, allow; -1: not open yet */
};

static int devices_write(struct devices_files *f, bool allow, const char *text)
{
    static const char *const names[] = { "devices.deny", "devices.allow" };
    int *fd = &f->fd[allow];

    if (*fd < 0) {
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/%s", f->dir, names[allow]) >= (int)sizeof(path))
            return -ENAMETOOLONG;
        *fd = open(path, O_WRONLY | O_CLOEXEC);
        if (*fd < 0)
            return -errno;
    }
    return write(*fd, text, strlen(text)) < 0 ? -errno : 0;
}

static void devices_put(struct cgroup_apply *a, struct devices_files *f, const struct oci_device_rule *d)
{
    char text[80];
    int r;

    if (a->error)
        return;
    devices_text(d, text, sizeof(text));
    r = devices_write(f, d->allow, text);
    if (r < 0)
        a->error = err_set(a->e, -r, "cgroup %s: cannot %s device \"%s\": %s", f->dir, d->allow ? "allow" : "deny",
                           text, strerror(-r));
}

/* The kernel keeps rules as exceptions of one kind: where everything is allowed, to allow takes an exception away, and
 * the other way round. It takes "a" for everything, whatever stands behind, so other rules of that type become two. */
static void devices_apply_v1(struct cgroup_apply *a, const struct oci_device_rule *rules, size_t n)
{
    struct devices_files f = { .dir = cgroup_with(a->g, SYS_CG_DEVICES)->dir, .fd = { -1, -1 } };
    size_t first = devices_first(rules, n);
    bool all = rules[first].allow; /* and nothing has been denied since */

    devices_put(a, &f, &rules[first]);
    for (size_t i = first + 1; i < n; i++) {
        struct oci_device_rule d = rules[i];

        if (all && d.allow)
            continue;
        all = false;
        if (d.type == 'a') {
            d.type = 'b';
            devices_put(a, &f, &d);
            d.type = 'c';
        }
        devices_put(a, &f, &d);
    }
    for (size_t i = 0; i < ARRAY_SIZE(f.fd); i++) {
        if (f.fd[i] >= 0)
            close(f.fd[i]);
    }
}

static void devices_apply_v2(struct cgroup_apply *a, const struct oci_device_rule *rules, size_t n)
{
    const struct cgroup_one *one = &a->g->one[a->g->unified];
    AUTO_FREE struct bpf_insn *program = NULL;
    size_t n_insns = 0;
    int r = cgroup_bpf_compile(rules, n, &program, &n_insns);

    if (r == 0)
        r = cgroup_bpf_attach(one->dir, program, n_insns);
    if (r < 0)
        a->error = err_set(a->e, -r, "cgroup %s: cannot restrict devices: %s", one->dir,
                           r == -E2BIG ? "too many rules" : strerror(-r));
}

void cgroup_apply_devices(struct cgroup_apply *a)
{
    AUTO_FREE struct oci_device_rule *rules = NULL;
    size_t n;
    bool v1 = cgroup_with(a->g, SYS_CG_DEVICES) != NULL;

    if (a->error || (!v1 && a->g->unified < 0))
        return;
    if (cgroup_device_rules(a->r, &rules, &n) < 0) {
        a->error = err_set(a->e, ENOMEM, "cgroup: out of memory");
        return;
    }
    if (v1)
        devices_apply_v1(a, rules, n);
    else
        devices_apply_v2(a, rules, n);
    /* A user namespace's root may not restrict devices, nor make any: that is as strict. */
    if ((a->error == -EPERM || a->error == -EACCES) && cgroup_rootless(a->g)) {
        log_debug("no rights to restrict devices, going on without");
        a->error = 0;
    }
}
