#include "oci/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/idmap.h"
#include "oci/path.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#define MOUNT_OPTION_MAX 4096

/* MS_* that belong to a mount; the others belong to the file system. */
#define MOUNT_FLAGS                                                                                             \
    (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME | \
     MS_NOSYMFOLLOW)

unsigned oci_mount_attr(unsigned long flags)
{
    static const struct {
        unsigned long flag;
        unsigned attr;
    } table[] = {
        { MS_RDONLY, MOUNT_ATTR_RDONLY },         { MS_NOSUID, MOUNT_ATTR_NOSUID },
        { MS_NODEV, MOUNT_ATTR_NODEV },           { MS_NOEXEC, MOUNT_ATTR_NOEXEC },
        { MS_NOATIME, MOUNT_ATTR_NOATIME },       { MS_STRICTATIME, MOUNT_ATTR_STRICTATIME },
        { MS_NODIRATIME, MOUNT_ATTR_NODIRATIME }, { MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW },
    };
    unsigned attr = 0;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        attr |= flags & table[i].flag ? table[i].attr : 0;
    /* Both bits of the access time field set would be an error. */
    if ((attr & MOUNT_ATTR__ATIME) == (MOUNT_ATTR_NOATIME | MOUNT_ATTR_STRICTATIME))
        attr &= ~(unsigned)MOUNT_ATTR_STRICTATIME;
    return attr;
}

int oci_mount_attach(int mount_fd, int place_fd)
{
    return move_mount(mount_fd, "", place_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

/* What the kernel says of a failed fsconfig, one line for each message: "e tmpfs: Bad value for 'size'". */
static int mount_failed(int fs, int code, const char *what, const char *step, struct err *e)
{
    char text[256];
    ssize_t n = read(fs, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return err_set(e, code, "mount %s: %s: %s%s%s", what, step, strerrordesc_np(code), n > 2 ? ": " : "",
                   n > 2 ? text + 2 : "");
}

/* One option of the comma-separated list: name or name=value. */
static int mount_option(int fs, char *option, const char *what, struct err *e)
{
    char *value = strchr(option, '=');
    int r;

    if (value)
        *value++ = '\0';
    r = value ? fsconfig(fs, FSCONFIG_SET_STRING, option, value, 0) : fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0);
    return r < 0 ? mount_failed(fs, errno, what, option, e) : 0;
}

/* The next option: up to a comma that is not in quotes, which SELinux' labels are in; they are taken away. Returns how
 * much of data that was, 0: it does not fit. */
static size_t mount_option_take(const char *data, char *option, size_t size)
{
    bool quoted = false;
    size_t n = 0, at;

    for (at = 0; data[at] && (quoted || data[at] != ','); at++) {
        if (data[at] == '"') {
            quoted = !quoted;
            continue;
        }
        if (n + 1 >= size)
            return 0;
        option[n++] = data[at];
    }
    option[n] = '\0';
    return at + (data[at] == ',');
}

static int mount_options(int fs, const char *data, const char *what, struct err *e)
{
    char option[MOUNT_OPTION_MAX];
    int r = 0;

    while (data && data[0] && r == 0) {
        const size_t skip = mount_option_take(data, option, sizeof(option));

        if (skip == 0)
            return err_set(e, ENAMETOOLONG, "mount %s: an option is longer than %u bytes", what, MOUNT_OPTION_MAX);
        data += skip;
        if (option[0])
            r = mount_option(fs, option, what, e);
    }
    return r;
}

int oci_mount_new(const char *type, const char *source, const char *data, unsigned attr, const char *what,
                  struct err *e)
{
    AUTO_FD int fs = fsopen(type, FSOPEN_CLOEXEC);
    int fd, r;

    if (fs < 0)
        return err_set(e, errno, "mount %s: file system %s: %m", what, type);
    if (source && fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0)
        return mount_failed(fs, errno, what, "source", e);
    r = mount_options(fs, data, what, e);
    if (r < 0)
        return r;
    if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return mount_failed(fs, errno, what, type, e);
    fd = fsmount(fs, FSMOUNT_CLOEXEC, attr);
    return fd < 0 ? mount_failed(fs, errno, what, type, e) : fd;
}

/* ---- places ---- */

/* Files of /proc that may be covered: what lxcfs and others provide. Anything else there would let an image pretend to
 * be the kernel (CVE-2019-16884). */
static bool mount_proc_file_allowed(const char *below)
{
    static const char *const allowed[] = { "cpuinfo",
                                           "diskstats",
                                           "meminfo",
                                           "stat",
                                           "swaps",
                                           "uptime",
                                           "loadavg",
                                           "slabinfo",
                                           "net/dev",
                                           "sys/kernel/ns_last_pid",
                                           "sys/crypto/fips_enabled" };

    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
        if (strcmp(below, allowed[i]) == 0)
            return true;
    }
    return false;
}

int oci_mount_check_place(const struct oci_rootfs *r, const struct oci_mount *m, int place, struct err *e)
{
    char link[32], path[4096];
    const bool is_proc = m->type && strcmp(m->type, "proc") == 0 && !m->bind;
    const bool is_sys = m->type && strcmp(m->type, "sysfs") == 0 && !m->bind;
    const bool is_cgroup = m->type && strncmp(m->type, "cgroup", 6) == 0 && !m->bind;
    ssize_t n;

    snprintf(link, sizeof(link), "self/fd/%d", place);
    n = readlinkat(r->launch->proc_fd, link, path, sizeof(path) - 1);
    if (n < 0)
        return err_set(e, errno, "mount %s: %m", m->destination);
    path[n] = '\0';
    if (strcmp(path, "/") == 0)
        return err_set(e, EINVAL, "mount %s: the root itself cannot be covered", m->destination);
    if (is_proc && strncmp(path, "/proc", 5) == 0 && path[5] != '\0')
        return err_set(e, EPERM, "mount %s: procfs inside /proc", m->destination);
    if (is_cgroup && strcmp(path, "/proc") == 0)
        return err_set(e, EPERM, "mount %s: leads to /proc through a symbolic link", m->destination);
    if ((is_proc || is_sys) && strcmp(path, m->destination) != 0)
        return err_set(e, EPERM, "mount %s: leads to %s through a symbolic link", m->destination, path);
    if (strncmp(path, "/proc/", 6) == 0 && !mount_proc_file_allowed(path + 6) && !is_proc)
        return err_set(e, EPERM, "mount %s: inside /proc, which is not allowed", m->destination);
    return 0;
}

/* "remount": change what is mounted at the destination already. */
static int mount_again(struct oci_rootfs *r, const struct oci_mount *m, struct err *e)
{
    struct mount_attr attr = { .attr_set = oci_mount_attr(m->flags), .attr_clr = oci_mount_attr(m->cleared) };
    AUTO_FD int place = oci_path_open(r->fd, m->destination, O_PATH);

    if (attr.attr_set & MOUNT_ATTR__ATIME || m->flags & MS_RELATIME)
        attr.attr_clr |= MOUNT_ATTR__ATIME;
    if (place < 0)
        return err_set(e, -place, "mount %s: %s", m->destination, strerrordesc_np(-place));
    if (mount_setattr(place, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return err_set(e, errno, "mount %s: cannot be mounted again: %m", m->destination);
    return 0;
}

/* Flags, recursive attributes and propagation of a mount that is not yet attached. */
static int mount_attributes(int fd, const struct oci_mount *m, bool flags, struct err *e)
{
    struct mount_attr attr = { .propagation = m->propagation & ~(unsigned long)MS_REC };
    struct mount_attr rec = { .attr_set = m->rec_set, .attr_clr = m->rec_clear };

    if (flags) {
        attr.attr_set = oci_mount_attr(m->flags);
        attr.attr_clr = oci_mount_attr(m->cleared);
        if (m->flags & (MS_NOATIME | MS_RELATIME | MS_STRICTATIME))
            attr.attr_clr |= MOUNT_ATTR__ATIME;
        else
            attr.attr_clr &= ~(uint64_t)MOUNT_ATTR__ATIME;
    }
    if (m->propagation & MS_REC) {
        rec.propagation = attr.propagation;
        attr.propagation = 0;
    }
    if ((attr.attr_set || attr.attr_clr || attr.propagation) &&
        mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return err_set(e, errno, "mount %s: cannot set its attributes: %m", m->destination);
    if ((rec.attr_set || rec.attr_clr || rec.propagation) &&
        mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &rec, sizeof(rec)) < 0)
        return err_set(e, errno, "mount %s: cannot set its recursive attributes: %m", m->destination);
    return 0;
}

int oci_mount_source(const struct oci_launch *l, const struct oci_mount *m, int userns_fd, struct err *e)
{
    const unsigned recursive = m->flags & MS_REC ? AT_RECURSIVE : 0;
    AUTO_FD int fd = open_tree(AT_FDCWD, m->source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns_fd };

    (void)l;
    if (fd < 0)
        return err_set(e, errno, "mount %s: source %s: %m", m->destination, m->source);
    if (m->idmap && mount_setattr(fd, "", AT_EMPTY_PATH | (m->ridmap ? AT_RECURSIVE : 0), &attr, sizeof(attr)) < 0)
        return err_set(e, errno, "mount %s: source %s: its ids cannot be mapped: %m: the file system must support it",
                       m->destination, m->source);
    return STEAL_FD(fd);
}

static int mount_bind(struct oci_rootfs *r, const struct oci_mount *m, int prepared, struct err *e)
{
    AUTO_FD int fd = prepared >= 0 ? fcntl(prepared, F_DUPFD_CLOEXEC, 3) : oci_mount_source(r->launch, m, -1, e);
    AUTO_FD int place = -1;
    struct stat st;
    int res;

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return err_set(e, errno, "mount %s: source %s: %m", m->destination, m->source);
    res = mount_attributes(fd, m, true, e);
    if (res < 0)
        return res;
    place = oci_path_target(r->fd, m->destination, S_ISDIR(st.st_mode));
    if (place < 0)
        return err_set(e, -place, "mount %s: the place cannot be made: %s", m->destination, strerrordesc_np(-place));
    res = oci_mount_check_place(r, m, place, e);
    if (res < 0)
        return res;
    res = oci_mount_attach(fd, place);
    return res < 0 ? err_set(e, -res, "mount %s: %s", m->destination, strerrordesc_np(-res)) : 0;
}

static bool mount_has_option(const char *data, const char *name)
{
    const size_t len = strlen(name);

    for (const char *p = data; p && *p; p += strcspn(p, ","), p += *p == ',') {
        if (strncmp(p, name, len) == 0)
            return true;
    }
    return false;
}

/* A tmpfs looks like the directory that it covers (there; < 0: none was), unless told otherwise; SELinux' label is an
 * option, too. */
static int mount_data(struct oci_rootfs *r, const struct oci_mount *m, int there, char *ret, size_t size, struct err *e)
{
    const bool tmpfs = strcmp(m->type, "tmpfs") == 0;
    const char *data = m->data ? m->data : "", *label = r->spec->mount_label;
    char mode[16] = "", context[1024] = "";
    struct stat st;

    if (tmpfs && !mount_has_option(data, "mode=") && there >= 0 && fstat(there, &st) == 0)
        snprintf(mode, sizeof(mode), ",mode=%o", st.st_mode & 07777);
    if (label && (tmpfs || strcmp(m->type, "mqueue") == 0) && !strchr(label, '"'))
        snprintf(context, sizeof(context), ",context=\"%s\"", label);
    if ((size_t)snprintf(ret, size, "%s%s%s", data, mode, context) >= size)
        return err_set(e, ENAMETOOLONG, "mount %s: its options are too long", m->destination);
    return 0;
}

/* MS_* that a file system takes as options of its own. It is read-only itself, and not the mount alone, where it lies
 * on a device, which may be read-only as well. */
static void mount_super_options(const struct oci_mount *m, bool read_only, char *ret, size_t size)
{
    const bool device = m->source && m->source[0] == '/';

    snprintf(ret, size, "%s%s%s", read_only && device ? ",ro" : "", m->flags & MS_SYNCHRONOUS ? ",sync" : "",
             m->flags & MS_DIRSYNC ? ",dirsync" : "");
}

static int mount_file_system(struct oci_rootfs *r, const struct oci_mount *m, struct err *e)
{
    char data[2 * MOUNT_OPTION_MAX];
    AUTO_FD int there = oci_path_open(r->fd, m->destination, O_PATH), fd = -1;
    AUTO_FD int place = oci_path_mkdirs(r->fd, m->destination);
    const bool tmpfs = strcmp(m->type, "tmpfs") == 0, copy = m->tmpcopyup && tmpfs;
    const bool late = m->flags & MS_RDONLY && (tmpfs || strcmp(m->destination, "/dev") == 0);
    const unsigned attr = oci_mount_attr(m->flags) & ~(late ? MOUNT_ATTR_RDONLY : 0u);
    size_t len;
    int res;

    if (place < 0)
        return err_set(e, -place, "mount %s: the place cannot be made: %s", m->destination, strerrordesc_np(-place));
    res = oci_mount_check_place(r, m, place, e);
    if (res == 0)
        res = mount_data(r, m, there, data, sizeof(data) - 32, e);
    if (res < 0)
        return res;
    len = strlen(data);
    mount_super_options(m, attr & MOUNT_ATTR_RDONLY, data + len, sizeof(data) - len);
    fd = oci_mount_new(m->type, m->source && m->source[0] ? m->source : m->type, data, attr, m->destination, e);
    if (fd < 0)
        return fd;
    if (copy) {
        res = oci_copy_up(place, fd, e);
        if (res < 0)
            return res;
    }
    res = mount_attributes(fd, m, false, e);
    if (res < 0)
        return res;
    res = oci_mount_attach(fd, place);
    if (res < 0)
        return err_set(e, -res, "mount %s: %s", m->destination, strerrordesc_np(-res));
    if (late)
        r->late_ro[r->n_late_ro++] = STEAL_FD(fd);
    return 0;
}

/* In a user namespace sysfs needs a network namespace of its own, mqueue an ipc namespace; the host's, read as it is
 * there, is what other runtimes bind then. */
static int mount_host_instead(struct oci_rootfs *r, const struct oci_mount *m, const char *source, struct err *e)
{
    struct oci_mount bind = *m;

    bind.source = source;
    bind.type = "bind";
    bind.bind = true;
    bind.flags |= MS_BIND | MS_REC;
    bind.data = NULL;
    return mount_bind(r, &bind, -1, e);
}

int oci_mount_one(struct oci_rootfs *r, size_t index, struct err *e)
{
    const struct oci_mount *m = &r->spec->mounts[index];
    int prepared = r->launch->mount_fds ? r->launch->mount_fds[index] : -1, res;

    if (m->flags & MS_REMOUNT)
        return mount_again(r, m, e);
    if (m->bind)
        return mount_bind(r, m, prepared, e);
    if (!m->type || !m->type[0])
        return err_set(e, EINVAL, "mount %s: has no type", m->destination);
    if (strcmp(m->type, "cgroup") == 0 || strcmp(m->type, "cgroup2") == 0)
        return oci_mount_cgroup(r, m, e);
    res = mount_file_system(r, m, e);
    if (res == -EPERM && r->spec->ns[OCI_NS_USER].wanted && strcmp(m->type, "sysfs") == 0)
        return mount_host_instead(r, m, "/sys", e);
    if (res == -EPERM && r->spec->ns[OCI_NS_USER].wanted && strcmp(m->type, "mqueue") == 0)
        return mount_host_instead(r, m, "/dev/mqueue", e);
    return res;
}
