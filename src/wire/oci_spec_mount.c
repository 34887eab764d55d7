/* "mounts" of config.json: each option is a flag, its negation, a propagation, a recursive attribute, a word of ours,
 * or data for the file system. */
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "wire/oci_read.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

struct oci_mount_word {
    const char *name;
    unsigned long set, clear;
};

/* Options in the words of mount(8). */
static const struct oci_mount_word oci_mount_words[] = {
    { "async", 0, MS_SYNCHRONOUS },
    { "atime", 0, MS_NOATIME },
    { "bind", MS_BIND, 0 },
    { "defaults", 0, 0 },
    { "dev", 0, MS_NODEV },
    { "diratime", 0, MS_NODIRATIME },
    { "dirsync", MS_DIRSYNC, 0 },
    { "exec", 0, MS_NOEXEC },
    { "iversion", MS_I_VERSION, 0 },
    { "lazytime", MS_LAZYTIME, 0 },
    { "loud", 0, MS_SILENT },
    { "mand", MS_MANDLOCK, 0 },
    { "noatime", MS_NOATIME, 0 },
    { "nodev", MS_NODEV, 0 },
    { "nodiratime", MS_NODIRATIME, 0 },
    { "noexec", MS_NOEXEC, 0 },
    { "noiversion", 0, MS_I_VERSION },
    { "nolazytime", 0, MS_LAZYTIME },
    { "nomand", 0, MS_MANDLOCK },
    { "norelatime", 0, MS_RELATIME },
    { "nostrictatime", 0, MS_STRICTATIME },
    { "nosuid", MS_NOSUID, 0 },
    { "nosymfollow", MS_NOSYMFOLLOW, 0 },
    { "rbind", MS_BIND | MS_REC, 0 },
    { "relatime", MS_RELATIME, 0 },
    { "remount", MS_REMOUNT, 0 },
    { "ro", MS_RDONLY, 0 },
    { "rw", 0, MS_RDONLY },
    { "silent", MS_SILENT, 0 },
    { "strictatime", MS_STRICTATIME, 0 },
    { "suid", 0, MS_NOSUID },
    { "symfollow", 0, MS_NOSYMFOLLOW },
    { "sync", MS_SYNCHRONOUS, 0 },
};

static const struct oci_word oci_propagation_words[] = {
    { "private", MS_PRIVATE },
    { "rprivate", MS_PRIVATE | MS_REC },
    { "shared", MS_SHARED },
    { "rshared", MS_SHARED | MS_REC },
    { "slave", MS_SLAVE },
    { "rslave", MS_SLAVE | MS_REC },
    { "unbindable", MS_UNBINDABLE },
    { "runbindable", MS_UNBINDABLE | MS_REC },
    { 0 },
};

/* Attributes that mount_setattr(2) changes for all that is mounted below. Access times are one field. */
static const struct oci_mount_word oci_recursive_words[] = {
    { "ratime", 0, MOUNT_ATTR__ATIME },
    { "rdev", 0, MOUNT_ATTR_NODEV },
    { "rdiratime", 0, MOUNT_ATTR_NODIRATIME },
    { "rexec", 0, MOUNT_ATTR_NOEXEC },
    { "rnoatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME },
    { "rnodev", MOUNT_ATTR_NODEV, 0 },
    { "rnodiratime", MOUNT_ATTR_NODIRATIME, 0 },
    { "rnoexec", MOUNT_ATTR_NOEXEC, 0 },
    { "rnorelatime", 0, MOUNT_ATTR__ATIME },
    { "rnostrictatime", 0, MOUNT_ATTR__ATIME },
    { "rnosuid", MOUNT_ATTR_NOSUID, 0 },
    { "rnosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0 },
    { "rrelatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME },
    { "rro", MOUNT_ATTR_RDONLY, 0 },
    { "rrw", 0, MOUNT_ATTR_RDONLY },
    { "rstrictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME },
    { "rsuid", 0, MOUNT_ATTR_NOSUID },
    { "rsymfollow", 0, MOUNT_ATTR_NOSYMFOLLOW },
};

/* What is neither of these, but the runtime's own doing. */
static const char *const oci_own_words[] = { "tmpcopyup", "idmap", "ridmap" };

const char *oci_mount_option_word(size_t i)
{
    if (i < ARRAY_SIZE(oci_mount_words))
        return oci_mount_words[i].name;
    i -= ARRAY_SIZE(oci_mount_words);
    if (i < ARRAY_SIZE(oci_recursive_words))
        return oci_recursive_words[i].name;
    i -= ARRAY_SIZE(oci_recursive_words);
    if (i < ARRAY_SIZE(oci_propagation_words) - 1)
        return oci_propagation_words[i].name;
    i -= ARRAY_SIZE(oci_propagation_words) - 1;
    return i < ARRAY_SIZE(oci_own_words) ? oci_own_words[i] : NULL;
}

static const struct oci_mount_word *oci_mount_find(const struct oci_mount_word *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

/* One option; false: it is none of ours, but data. A later option outdoes an earlier one. */
static bool oci_mount_option(struct oci_mount *m, const char *name)
{
    const struct oci_mount_word *w = oci_mount_find(oci_mount_words, ARRAY_SIZE(oci_mount_words), name);
    int64_t propagation;

    if (w) {
        m->flags = (m->flags & ~w->clear) | w->set;
        m->cleared = (m->cleared & ~w->set) | w->clear;
        return true;
    }
    w = oci_mount_find(oci_recursive_words, ARRAY_SIZE(oci_recursive_words), name);
    if (w) {
        m->rec_set = (m->rec_set & ~w->clear) | w->set;
        m->rec_clear = (m->rec_clear & ~w->set) | w->clear;
        return true;
    }
    if (oci_find_word(oci_propagation_words, name, &propagation)) {
        m->propagation = (unsigned long)propagation;
        return true;
    }
    if (strcmp(name, "tmpcopyup") == 0)
        m->tmpcopyup = true;
    else if (strcmp(name, "idmap") == 0)
        m->idmap = true;
    else if (strcmp(name, "ridmap") == 0)
        m->idmap = m->ridmap = true;
    else
        return false;
    return true;
}

static void oci_read_mount_options(struct oci_reader *r, struct oci_mount *m)
{
    size_t len = 0, size = 1;
    char *data;

    for (size_t i = 0; i < m->options.n; i++)
        size += strlen(m->options.v[i]) + 1;
    data = oci_alloc(r, size, 1);
    if (!data)
        return;
    for (size_t i = 0; i < m->options.n; i++) {
        if (!oci_mount_option(m, m->options.v[i]))
            len += (size_t)snprintf(data + len, size - len, "%s%s", len ? "," : "", m->options.v[i]);
    }
    m->data = len ? data : NULL;
    m->bind = m->flags & MS_BIND || (m->type && strcmp(m->type, "bind") == 0);
    if (m->bind)
        m->flags |= MS_BIND;
}

void oci_read_mappings(struct oci_reader *r, struct json_object *o, const char *key, struct oci_mappings *ret)
{
    struct oci_list l = oci_list_begin(r, o, key, sizeof(*ret->v));
    struct oci_id_mapping *list = l.v;

    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);

        oci_get_u32(r, e, "containerID", UINT32_MAX, &list[i].container);
        oci_get_u32(r, e, "hostID", UINT32_MAX, &list[i].host);
        if (!oci_get_u32(r, e, "size", UINT32_MAX, &list[i].size) || list[i].size == 0)
            oci_bad_member(r, "size", "must be at least 1");
        oci_up(r, l.inner);
    }
    *ret = (struct oci_mappings){ .v = list, .n = l.n };
    oci_list_end(r, &l);
}

static void oci_read_mount(struct oci_reader *r, struct json_object *o, struct oci_mount *m)
{
    m->destination = oci_get_string(r, o, "destination", OCI_REQUIRED);
    if (m->destination && !m->destination[0])
        oci_bad_member(r, "destination", "must not be empty");
    m->type = oci_get_string(r, o, "type", OCI_OPTIONAL);
    m->source = oci_get_string(r, o, "source", OCI_OPTIONAL);
    oci_get_strings(r, o, "options", &m->options);
    oci_read_mount_options(r, m);
    oci_read_mappings(r, o, "uidMappings", &m->uid_mappings);
    oci_read_mappings(r, o, "gidMappings", &m->gid_mappings);
    if (m->bind && (!m->source || !m->source[0]))
        oci_bad_member(r, "source", "is missing: a bind mount needs one");
    if (!m->uid_mappings.n != !m->gid_mappings.n)
        oci_bad_member(r, m->uid_mappings.n ? "gidMappings" : "uidMappings", "is missing: the other mapping is there");
    /* The kernel would take no notice: a word that is not known, or "idmap=..." of another runtime. */
    if (m->bind && m->data)
        oci_bad_member(r, "options", "has options of a file system, which a bind mount cannot have");
    if (m->uid_mappings.n)
        m->idmap = true;
    if (m->idmap && !m->bind)
        oci_bad_member(r, "options", "maps ids of something that is no bind mount");
}

void oci_read_mounts(struct oci_reader *r, struct json_object *root)
{
    struct oci_list l = oci_list_begin(r, root, "mounts", sizeof(*r->spec->mounts));

    r->spec->mounts = l.v;
    r->spec->n_mounts = l.n;
    for (size_t i = 0; i < l.n; i++) {
        oci_read_mount(r, oci_list_next(r, &l, i), &r->spec->mounts[i]);
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}
