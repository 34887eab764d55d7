/* The mounts of a container: those that every one has, and the user's, which take the place of ours. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/container_priv.h"
#include "instance/volume.h"
#include "sys/dirs.h"

#define MOUNTS_SHM_DEFAULT (64U << 20)
#define MOUNTS_OPTIONS_MAX 4096

/* options: separated by commas. */
static json_object *mount_new(const char *target, const char *type, const char *source, const char *options)
{
    json_object *o = json_object_new_object(), *list = json_object_new_array();

    json_object_object_add(o, "destination", json_object_new_string(target));
    json_object_object_add(o, "type", json_object_new_string(type));
    json_object_object_add(o, "source", json_object_new_string(source));
    for (const char *at = options; at && *at;
         at += at[strcspn(at, ",")] == ',' ? strcspn(at, ",") + 1 : strcspn(at, ","))
        json_object_array_add(list, json_object_new_string_len(at, (int)strcspn(at, ",")));
    json_object_object_add(o, "options", list);
    return o;
}

static bool mount_is_users(const struct inst_container *c, const char *target)
{
    for (size_t i = 0; i < c->n_mounts; i++) {
        if (strcmp(c->mounts[i].target, target) == 0)
            return true;
    }
    return false;
}

static void mount_ours(const struct container_document *d, json_object *list, const char *target, const char *type,
                       const char *source, const char *options)
{
    if (!mount_is_users(d->c, target))
        json_object_array_add(list, mount_new(target, type, source, options));
}

/* Whether group 5 (tty) exists in our user namespace. */
static bool mount_has_tty_group(void)
{
    unsigned long inside, outside, count;
    FILE *f = fopen("/proc/self/gid_map", "re");
    bool has = false;

    while (f && !has && fscanf(f, "%lu %lu %lu", &inside, &outside, &count) == 3)
        has = inside <= 5 && 5 - inside < count;
    if (f)
        fclose(f);
    return has;
}

static void mounts_kernel(const struct container_document *d, json_object *list)
{
    const bool privileged = d->c->privileged;
    const bool host_net = strcmp(d->c->network, "host") == 0;
    char shm[96];

    snprintf(shm, sizeof(shm), "nosuid,noexec,nodev,mode=1777,size=%llu",
             (unsigned long long)(d->c->shm_size ? d->c->shm_size : MOUNTS_SHM_DEFAULT));
    mount_ours(d, list, "/proc", "proc", "proc", "nosuid,noexec,nodev");
    mount_ours(d, list, "/dev", "tmpfs", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k");
    mount_ours(d, list, "/dev/pts", "devpts", "devpts",
               mount_has_tty_group() ? "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"
                                     : "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620");
    mount_ours(d, list, "/dev/shm", "tmpfs", "shm", shm);
    mount_ours(d, list, "/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev");
    /* sysfs belongs to the network namespace: that of the host cannot be mounted by root of a user namespace. */
    if (d->state->rootless && host_net)
        mount_ours(d, list, "/sys", "bind", "/sys", "rbind,nosuid,noexec,nodev,ro");
    else
        mount_ours(d, list, "/sys", "sysfs", "sysfs", privileged ? "nosuid,noexec,nodev,rw" : "nosuid,noexec,nodev,ro");
    if (!(d->state->rootless && host_net))
        mount_ours(d, list, "/sys/fs/cgroup", "cgroup", "cgroup",
                   privileged ? "nosuid,noexec,nodev,relatime,rw" : "nosuid,noexec,nodev,relatime,ro");
}

static void mounts_files(const struct container_document *d, json_object *list)
{
    static const char *const names[] = { "hosts", "resolv.conf", "hostname" };
    char source[sizeof(d->run->rundir) + 32], target[32];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(source, sizeof(source), "%s/%s", d->run->rundir, names[i]);
        snprintf(target, sizeof(target), "/etc/%s", names[i]);
        mount_ours(d, list, target, "bind", source, "bind,rprivate");
    }
}

/* Docker's words that are none of the kernel's are taken out; U and Z have no meaning without SELinux and id maps. */
static void mount_options(const char *options, const char *dflt, char ret_options[MOUNTS_OPTIONS_MAX])
{
    static const char *const dropped[] = { "z", "Z", "U", "nocopy", "copy", "cached", "delegated", "consistent" };
    size_t at = (size_t)snprintf(ret_options, MOUNTS_OPTIONS_MAX, "%s", dflt);

    for (const char *o = options; o && *o; o += o[strcspn(o, ",")] == ',' ? strcspn(o, ",") + 1 : strcspn(o, ",")) {
        const size_t len = strcspn(o, ",");
        bool drop = len == 0;

        for (size_t i = 0; i < ARRAY_SIZE(dropped) && !drop; i++)
            drop = strlen(dropped[i]) == len && memcmp(dropped[i], o, len) == 0;
        if (!drop && at < MOUNTS_OPTIONS_MAX)
            at += (size_t)snprintf(ret_options + at, MOUNTS_OPTIONS_MAX - at, ",%.*s", (int)len, o);
    }
}

static int mount_bind(const struct container_document *d, const struct inst_mount *m, json_object *list, struct err *e)
{
    char options[MOUNTS_OPTIONS_MAX];

    if (access(m->source, F_OK) < 0)
        return err_set(e, errno, "%s: cannot mount %s at %s: %s; make it first", d->run->instance->name, m->source,
                       m->target, strerror(errno));
    mount_options(m->options, "rbind,rprivate", options);
    json_object_array_add(list, mount_new(m->target, "bind", m->source, options));
    return 0;
}

static int mount_volume(const struct container_document *d, const struct inst_mount *m, json_object *list,
                        struct err *e)
{
    char options[MOUNTS_OPTIONS_MAX], path[SYS_DIR_MAX + 128];
    const bool copy = !m->options || !strstr(m->options, "nocopy");
    int r = inst_volume_use(m->source, copy ? d->root_fd : -1, m->target, path, sizeof(path), e);

    if (r < 0)
        return r;
    mount_options(m->options, "rbind,rprivate,nosuid,nodev", options);
    json_object_array_add(list, mount_new(m->target, "bind", path, options));
    return 0;
}

static int mount_one(const struct container_document *d, const struct inst_mount *m, json_object *list, struct err *e)
{
    char options[MOUNTS_OPTIONS_MAX];

    switch (m->kind) {
    case INST_MOUNT_BIND:
        return mount_bind(d, m, list, e);
    case INST_MOUNT_VOLUME:
        return mount_volume(d, m, list, e);
    default:
        mount_options(m->options, "rprivate,nosuid,nodev,tmpcopyup", options);
        json_object_array_add(list, mount_new(m->target, "tmpfs", "tmpfs", options));
        return 0;
    }
}

static size_t mount_depth(const char *path)
{
    size_t n = 0;

    for (; *path; path++)
        n += *path == '/' && path[1] && path[1] != '/';
    return n;
}

/* Outer ones first, whatever order they were given in. */
static int mount_compare(const void *a, const void *b)
{
    const struct inst_mount *x = *(const struct inst_mount *const *)a, *y = *(const struct inst_mount *const *)b;
    const size_t dx = mount_depth(x->target), dy = mount_depth(y->target);

    return dx != dy ? (dx > dy) - (dx < dy) : (x > y) - (x < y);
}

int container_mounts_make(const struct container_document *d, json_object **ret_mounts, struct err *e)
{
    AUTO_FREE const struct inst_mount **order = calloc(d->c->n_mounts + 1, sizeof(*order));
    json_object *list;
    int r = 0;

    if (!order)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < d->c->n_mounts; i++)
        order[i] = &d->c->mounts[i];
    qsort(order, d->c->n_mounts, sizeof(*order), mount_compare);
    list = json_object_new_array();
    mounts_kernel(d, list);
    mounts_files(d, list);
    for (size_t i = 0; i < d->c->n_mounts && r == 0; i++)
        r = mount_one(d, order[i], list, e);
    if (r < 0) {
        json_object_put(list);
        return r;
    }
    *ret_mounts = list;
    return 0;
}
