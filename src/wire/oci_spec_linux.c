/* "linux" of config.json, but for resources and seccomp; and the checks that need more than one field. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>

#include "wire/oci_read.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const struct {
    const char *name;
    int flag;
} oci_ns_table[OCI_NS_KINDS] = {
    [OCI_NS_USER] = { "user", CLONE_NEWUSER },  [OCI_NS_CGROUP] = { "cgroup", CLONE_NEWCGROUP },
    [OCI_NS_IPC] = { "ipc", CLONE_NEWIPC },     [OCI_NS_UTS] = { "uts", CLONE_NEWUTS },
    [OCI_NS_NET] = { "network", CLONE_NEWNET }, [OCI_NS_PID] = { "pid", CLONE_NEWPID },
    [OCI_NS_MOUNT] = { "mount", CLONE_NEWNS },  [OCI_NS_TIME] = { "time", CLONE_NEWTIME },
};

static const struct oci_word oci_rootfs_propagation_words[] = {
    { "private", MS_PRIVATE | MS_REC },
    { "rprivate", MS_PRIVATE | MS_REC },
    { "shared", MS_SHARED | MS_REC },
    { "rshared", MS_SHARED | MS_REC },
    { "slave", MS_SLAVE | MS_REC },
    { "rslave", MS_SLAVE | MS_REC },
    { "unbindable", MS_UNBINDABLE | MS_REC },
    { "runbindable", MS_UNBINDABLE | MS_REC },
    { 0 },
};

static const struct oci_word oci_personality_words[] = { { "LINUX", PER_LINUX }, { "LINUX32", PER_LINUX32 }, { 0 } };

const char *oci_ns_name(enum oci_ns ns)
{
    return oci_ns_table[ns].name;
}

int oci_ns_flag(enum oci_ns ns)
{
    return oci_ns_table[ns].flag;
}

static void oci_read_namespace(struct oci_reader *r, struct json_object *e)
{
    const char *type = oci_get_string(r, e, "type", OCI_REQUIRED);

    for (unsigned i = 0; type && i < OCI_NS_KINDS; i++) {
        struct oci_namespace *ns = &r->spec->ns[i];

        if (strcmp(type, oci_ns_table[i].name) != 0)
            continue;
        if (ns->wanted)
            oci_bad_member(r, "type", "stands there twice");
        ns->wanted = true;
        ns->path = oci_get_string(r, e, "path", OCI_OPTIONAL);
        if (ns->path && !ns->path[0])
            ns->path = NULL;
        if (ns->path && ns->path[0] != '/')
            oci_bad_member(r, "path", "must be an absolute path");
        return;
    }
    oci_bad_member(r, "type", "is no namespace that is known");
}

static void oci_read_namespaces(struct oci_reader *r, struct json_object *o)
{
    struct json_object *array = oci_get(r, o, "namespaces", json_type_array, OCI_OPTIONAL);
    size_t n = array ? json_object_array_length(array) : 0, at = oci_down(r, "namespaces");

    for (size_t i = 0; i < n; i++) {
        size_t inner = oci_down_index(r, i);

        oci_read_namespace(r, oci_element(r, array, i, json_type_object));
        oci_up(r, inner);
    }
    oci_up(r, at);
}

static void oci_read_offset(struct oci_reader *r, struct json_object *o, const char *key, struct oci_time_offset *ret)
{
    struct json_object *e = oci_get(r, o, key, json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, key);

    ret->present = e != NULL;
    oci_get_int(r, e, "secs", INT64_MIN + 1, INT64_MAX, &ret->secs);
    oci_get_u32(r, e, "nanosecs", 999999999, &ret->nanosecs);
    oci_up(r, at);
}

static void oci_read_device(struct oci_reader *r, struct json_object *e, struct oci_device *d)
{
    const char *type = oci_get_string(r, e, "type", OCI_REQUIRED);

    d->path = oci_get_string(r, e, "path", OCI_REQUIRED);
    if (d->path && d->path[0] != '/')
        oci_bad_member(r, "path", "must be an absolute path");
    if (type && (strlen(type) != 1 || !strchr("cubp", type[0])))
        oci_bad_member(r, "type", "must be c, u, b or p");
    d->type = type && type[0] == 'u' ? 'c' : type ? type[0] : 'c';
    d->major = d->minor = -1;
    oci_get_int(r, e, "major", 0, UINT32_MAX, &d->major);
    oci_get_int(r, e, "minor", 0, UINT32_MAX, &d->minor);
    if (d->type != 'p' && (d->major < 0 || d->minor < 0))
        oci_bad_member(r, d->major < 0 ? "major" : "minor", "is missing");
    d->mode = 0666;
    d->mode_present = oci_get_u32(r, e, "fileMode", 07777, &d->mode);
    oci_get_u32(r, e, "uid", UINT32_MAX - 1, &d->uid);
    oci_get_u32(r, e, "gid", UINT32_MAX - 1, &d->gid);
}

static void oci_read_devices(struct oci_reader *r, struct json_object *o)
{
    struct oci_list l = oci_list_begin(r, o, "devices", sizeof(*r->spec->devices));

    r->spec->devices = l.v;
    r->spec->n_devices = l.n;
    for (size_t i = 0; i < l.n; i++) {
        oci_read_device(r, oci_list_next(r, &l, i), &r->spec->devices[i]);
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}

/* Both ways to write it; neither leads out of /proc/sys. */
static void oci_check_sysctl_name(struct oci_reader *r, const char *key)
{
    if (!key[0] || key[0] == '/' || strstr(key, ".."))
        oci_bad_member(r, key, "is no name of a sysctl");
}

static void oci_read_rdt(struct oci_reader *r, struct json_object *o)
{
    struct json_object *rdt = oci_get(r, o, "intelRdt", json_type_object, OCI_OPTIONAL);
    struct oci_rdt *d = &r->spec->rdt;
    size_t at = oci_down(r, "intelRdt");

    d->present = rdt != NULL;
    d->clos_id = oci_get_string(r, rdt, "closID", OCI_OPTIONAL);
    if (d->clos_id && (!d->clos_id[0] || strchr(d->clos_id, '/') || d->clos_id[0] == '.'))
        oci_bad_member(r, "closID", "must be the name of a folder");
    d->l3_cache_schema = oci_get_string(r, rdt, "l3CacheSchema", OCI_OPTIONAL);
    d->mem_bw_schema = oci_get_string(r, rdt, "memBwSchema", OCI_OPTIONAL);
    oci_get_strings(r, rdt, "schemata", &d->schemata);
    d->enable_cmt = oci_get_bool(r, rdt, "enableCMT", NULL);
    d->enable_mbm = oci_get_bool(r, rdt, "enableMBM", NULL);
    oci_up(r, at);
}

static void oci_read_personality(struct oci_reader *r, struct json_object *o)
{
    struct json_object *e = oci_get(r, o, "personality", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "personality");
    struct oci_strings flags = { 0 };
    int64_t domain = 0;

    if (e) {
        r->spec->personality_present =
            oci_get_word(r, e, "domain", oci_personality_words, OCI_REQUIRED, "must be LINUX or LINUX32", &domain);
        r->spec->personality = (unsigned long)domain;
        oci_get_strings(r, e, "flags", &flags);
        if (flags.n > 0)
            oci_bad_member(r, "flags", "has flags, and none are defined");
    }
    oci_up(r, at);
}

static void oci_read_paths(struct oci_reader *r, struct json_object *o, const char *key, struct oci_strings *ret)
{
    size_t at;

    oci_get_strings(r, o, key, ret);
    at = oci_down(r, key);
    for (size_t i = 0; i < ret->n; i++) {
        size_t inner = oci_down_index(r, i);

        if (ret->v[i][0] != '/')
            oci_bad(r, "must be an absolute path");
        oci_up(r, inner);
    }
    oci_up(r, at);
}

void oci_read_linux(struct oci_reader *r, struct json_object *o)
{
    struct oci_spec *s = r->spec;
    size_t at = oci_down(r, "linux"), inner;
    struct json_object *offsets = oci_get(r, o, "timeOffsets", json_type_object, OCI_OPTIONAL);
    int64_t propagation = 0;

    oci_read_namespaces(r, o);
    oci_read_mappings(r, o, "uidMappings", &s->uid_mappings);
    oci_read_mappings(r, o, "gidMappings", &s->gid_mappings);
    inner = oci_down(r, "timeOffsets");
    oci_read_offset(r, offsets, "monotonic", &s->monotonic);
    oci_read_offset(r, offsets, "boottime", &s->boottime);
    oci_up(r, inner);
    oci_read_devices(r, o);
    s->cgroups_path = oci_get_string(r, o, "cgroupsPath", OCI_OPTIONAL);
    inner = oci_down(r, "resources");
    oci_read_resources(r, oci_get(r, o, "resources", json_type_object, OCI_OPTIONAL));
    oci_up(r, inner);
    oci_read_rdt(r, o);
    r->spec->sysctl = oci_get_pairs(r, o, "sysctl", oci_check_sysctl_name, &r->spec->n_sysctl);
    oci_read_seccomp(r, oci_get(r, o, "seccomp", json_type_object, OCI_OPTIONAL));
    oci_get_word(r, o, "rootfsPropagation", oci_rootfs_propagation_words, OCI_OPTIONAL,
                 "is no propagation that is known", &propagation);
    s->rootfs_propagation = (unsigned long)propagation;
    oci_read_paths(r, o, "maskedPaths", &s->masked_paths);
    oci_read_paths(r, o, "readonlyPaths", &s->readonly_paths);
    s->mount_label = oci_get_string(r, o, "mountLabel", OCI_OPTIONAL);
    oci_read_personality(r, o);
    oci_up(r, at);
}

/* ---- contradictions ---- */

static void oci_check_user_namespace(struct oci_reader *r)
{
    const struct oci_spec *s = r->spec;
    const bool mapped = s->uid_mappings.n || s->gid_mappings.n,
               fresh = s->ns[OCI_NS_USER].wanted && !s->ns[OCI_NS_USER].path;

    if (mapped && !s->ns[OCI_NS_USER].wanted)
        oci_bad_member(r, s->uid_mappings.n ? "linux.uidMappings" : "linux.gidMappings", "needs a user namespace");
    else if (mapped && !fresh)
        oci_bad_member(r, s->uid_mappings.n ? "linux.uidMappings" : "linux.gidMappings",
                       "contradicts the user namespace that is joined, which has mappings of its own");
    else if (fresh && !s->uid_mappings.n)
        oci_bad_member(r, "linux.uidMappings", "is missing: the new user namespace needs it");
    else if (fresh && !s->gid_mappings.n)
        oci_bad_member(r, "linux.gidMappings", "is missing: the new user namespace needs it");
}

static bool oci_starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* A sysctl that is not the container's own would be the host's. Names may have slashes for dots. */
static void oci_check_sysctl(struct oci_reader *r, const char *key)
{
    static const char *const ipc[] = { "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
                                       "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced" };
    const struct oci_spec *s = r->spec;
    char name[128];
    size_t len = strlen(key);
    bool known;

    if (len >= sizeof(name)) {
        oci_bad_member(r, "linux.sysctl", "has a name that is too long");
        return;
    }
    for (size_t i = 0; i <= len; i++)
        name[i] = key[i];
    if (!strchr(name, '.') || (strchr(name, '/') && strchr(name, '/') < strchr(name, '.'))) {
        for (size_t i = 0; i < len; i++)
            name[i] = name[i] == '/' ? '.' : name[i] == '.' ? '/' : name[i];
    }
    known = oci_starts(name, "fs.mqueue.") && s->ns[OCI_NS_IPC].wanted;
    for (size_t i = 0; i < ARRAY_SIZE(ipc); i++)
        known |= strcmp(name, ipc[i]) == 0 && s->ns[OCI_NS_IPC].wanted;
    known |= oci_starts(name, "net.") && s->ns[OCI_NS_NET].wanted;
    known |= strcmp(name, "kernel.domainname") == 0 && s->ns[OCI_NS_UTS].wanted;
    known |= strcmp(name, "kernel.hostname") == 0 && s->ns[OCI_NS_UTS].wanted;
    known |= oci_starts(name, "user.") && s->ns[OCI_NS_USER].wanted;
    if (!known) {
        oci_bad_member(r, "linux.sysctl", "sets what belongs to the host, or needs a namespace that is not there");
    }
}

static void oci_check_idmaps(struct oci_reader *r)
{
    const struct oci_spec *s = r->spec;

    for (size_t i = 0; i < s->n_mounts; i++) {
        const struct oci_mount *m = &s->mounts[i];
        size_t at = oci_down(r, "mounts"), inner = oci_down_index(r, i);

        if (m->idmap && !m->uid_mappings.n && !s->uid_mappings.n && !s->ns[OCI_NS_USER].path)
            oci_bad_member(r, "options", "maps ids, and there is no mapping: give uidMappings and gidMappings");
        oci_up(r, inner);
        oci_up(r, at);
    }
}

void oci_check_spec(struct oci_reader *r)
{
    const struct oci_spec *s = r->spec;

    if (r->error)
        return;
    oci_check_user_namespace(r);
    if ((s->monotonic.present || s->boottime.present) && !s->ns[OCI_NS_TIME].wanted)
        oci_bad_member(r, "linux.timeOffsets", "needs a time namespace");
    if ((s->monotonic.present || s->boottime.present) && s->ns[OCI_NS_TIME].path)
        oci_bad_member(r, "linux.timeOffsets",
                       "contradicts the time namespace that is joined, which has offsets of its own");
    if (s->hostname && !s->ns[OCI_NS_UTS].wanted)
        oci_bad_member(r, "hostname", "needs a uts namespace");
    if (s->domainname && !s->ns[OCI_NS_UTS].wanted)
        oci_bad_member(r, "domainname", "needs a uts namespace");
    if ((s->masked_paths.n || s->readonly_paths.n) && !s->ns[OCI_NS_MOUNT].wanted)
        oci_bad_member(r, s->masked_paths.n ? "linux.maskedPaths" : "linux.readonlyPaths", "needs a mount namespace");
    for (size_t i = 0; i < s->n_sysctl; i++)
        oci_check_sysctl(r, s->sysctl[i].key);
    oci_check_idmaps(r);
    if (s->seccomp.present && s->seccomp.listener_metadata && !s->seccomp.listener_path)
        oci_bad_member(r, "linux.seccomp.listenerMetadata", "needs a listenerPath");
}
