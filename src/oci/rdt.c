#include "oci/rdt.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "base/buf.h"
#include "base/cleanup.h"

#define RDT_SCHEMATA_MAX (64u << 10)
#define RDT_PATH_MAX 512

static bool rdt_has_schemata(const struct oci_rdt *r)
{
    return r->l3_cache_schema || r->mem_bw_schema || r->schemata.n > 0;
}

/* The group's directory below resctrl: closID, where "/" is the default group, or the container's id. */
static const char *rdt_group(const struct oci_rdt *r, const char *id)
{
    if (!r->clos_id || r->clos_id[0] == '\0')
        return id;
    return strcmp(r->clos_id, "/") == 0 ? "." : r->clos_id;
}

/* One name, and none that resctrl has itself. */
static bool rdt_name_is_good(const char *name)
{
    return strchr(name, '/') == NULL && strcmp(name, "..") != 0 && strcmp(name, "info") != 0 &&
           strcmp(name, "mon_groups") != 0 && strcmp(name, "mon_data") != 0 && strlen(name) < 256;
}

static int rdt_write(int dir_fd, const char *name, const char *text)
{
    AUTO_FD int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    const size_t len = strlen(text);

    if (fd < 0)
        return -errno;
    return write(fd, text, len) == (ssize_t)len ? 0 : errno ? -errno : -EIO;
}

/* One line a write: resctrl takes several, but tells in last_cmd_status about one. */
static int rdt_write_line(int group_fd, const char *line, struct err *e)
{
    char text[1024];
    int r;

    if (!line || line[0] == '\0')
        return 0;
    if (strchr(line, '\n') || (size_t)snprintf(text, sizeof(text), "%s\n", line) >= sizeof(text))
        return err_set(e, EINVAL, "linux.intelRdt: a schema must be one line of less than 1024 characters");
    r = rdt_write(group_fd, "schemata", text);
    return r < 0 ? err_set(e, -r, "linux.intelRdt: schema %s: %s; see info/last_cmd_status of resctrl", line,
                           strerrordesc_np(-r))
                 : 0;
}

static int rdt_write_schemata(int group_fd, const struct oci_rdt *r, struct err *e)
{
    int ret = rdt_write_line(group_fd, r->l3_cache_schema, e);

    if (ret == 0)
        ret = rdt_write_line(group_fd, r->mem_bw_schema, e);
    for (size_t i = 0; ret == 0 && i < r->schemata.n; i++)
        ret = rdt_write_line(group_fd, r->schemata.v[i], e);
    return ret;
}

/* Is line one of text's lines, but for blanks in front (resctrl aligns the names)? */
static bool rdt_has_line(const char *text, const char *line)
{
    const size_t len = strlen(line);

    while (*text) {
        text += strspn(text, " \t");
        if (strncmp(text, line, len) == 0 && (text[len] == '\n' || text[len] == '\0'))
            return true;
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    return false;
}

/* A group that others made must be as the container wants it: it is not ours to change. */
static int rdt_compare(int group_fd, const struct oci_rdt *r, const char *group, struct err *e)
{
    AUTO_FD int fd = openat(group_fd, "schemata", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AUTO_FREE char *text = malloc(RDT_SCHEMATA_MAX);
    ssize_t n = fd >= 0 && text ? read(fd, text, RDT_SCHEMATA_MAX - 1) : -1;
    const char *wanted[2] = { r->l3_cache_schema, r->mem_bw_schema };
    bool same = true;

    if (n < 0)
        return err_set(e, errno, "linux.intelRdt: read schemata of %s: %s", group, strerrordesc_np(errno));
    text[n] = '\0';
    for (size_t i = 0; i < 2; i++)
        same = same && (!wanted[i] || rdt_has_line(text, wanted[i]));
    for (size_t i = 0; i < r->schemata.n; i++)
        same = same && rdt_has_line(text, r->schemata.v[i]);
    return same ? 0 : err_set(e, EEXIST, "linux.intelRdt: closID %s is there with other schemata", group);
}

/* "mon_groups/ID" of the group gets the process too. */
static int rdt_monitor(int group_fd, const char *id, const char *pid_text, struct err *e)
{
    char path[RDT_PATH_MAX];
    AUTO_FD int fd = -1;
    int r;

    snprintf(path, sizeof(path), "mon_groups/%s", id);
    r = mkdirat(group_fd, path, 0755) < 0 && errno != EEXIST ? -errno : 0;
    if (r == 0) {
        fd = openat(group_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        r = fd < 0 ? -errno : rdt_write(fd, "tasks", pid_text);
    }
    return r < 0 ? err_set(e, -r, "linux.intelRdt: monitoring group %s: %s", id, strerrordesc_np(-r)) : 0;
}

int oci_rdt_apply_at(int root_fd, const struct oci_rdt *r, const char *id, pid_t pid, struct err *e)
{
    const char *group = rdt_group(r, id);
    const bool own = group == id, make = own || rdt_has_schemata(r);
    bool made = false;
    AUTO_FD int fd = -1;
    char text[16];
    int ret = 0;

    if (!rdt_name_is_good(group) || !rdt_name_is_good(id))
        return err_set(e, EINVAL, "linux.intelRdt.closID: %s is no name for a group", group);
    if (make && strcmp(group, ".") != 0)
        made = mkdirat(root_fd, group, 0755) == 0;
    if (make && !made && strcmp(group, ".") != 0 && errno != EEXIST)
        return err_set(e, errno, "linux.intelRdt: make group %s: %s%s", group, strerrordesc_np(errno),
                       errno == ENOSPC ? "; the CPU has no more classes of service" : "");
    fd = openat(root_fd, group, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_set(e, errno, "linux.intelRdt.closID: %s: %s; make the group first, or give schemata", group,
                       strerrordesc_np(errno));
    if (made)
        ret = rdt_write_schemata(fd, r, e);
    else if (rdt_has_schemata(r))
        ret = rdt_compare(fd, r, group, e);
    snprintf(text, sizeof(text), "%d", pid);
    if (ret == 0) {
        ret = rdt_write(fd, "tasks", text);
        if (ret < 0)
            err_set(e, -ret, "linux.intelRdt: put process %s into %s: %s", text, group, strerrordesc_np(-ret));
    }
    if (ret == 0 && (r->enable_cmt || r->enable_mbm))
        ret = rdt_monitor(fd, id, text, e);
    if (ret < 0 && made)
        (void)unlinkat(root_fd, group, AT_REMOVEDIR);
    return ret;
}

int oci_rdt_remove_at(int root_fd, const struct oci_rdt *r, const char *id, struct err *e)
{
    const char *group = rdt_group(r, id);
    char path[2 * RDT_PATH_MAX];
    int ret = 0;

    if (!rdt_name_is_good(group) || !rdt_name_is_good(id))
        return 0; /* apply refused it */
    if (group == id)
        snprintf(path, sizeof(path), "%s", id); /* its monitoring group goes with it */
    else if (r->enable_cmt || r->enable_mbm)
        snprintf(path, sizeof(path), "%s/mon_groups/%s", group, id);
    else
        return 0;
    if (unlinkat(root_fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT)
        ret = err_set(e, errno, "linux.intelRdt: remove group %s: %s", path, strerrordesc_np(errno));
    return ret;
}

/* resctrl where it always is: nothing but root mounts it, and there is one. */
static int rdt_open(struct err *e)
{
    AUTO_FD int fd = open(OCI_RDT_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    struct statfs fs;

    if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != RDTGROUP_SUPER_MAGIC)
        return err_set(e, ENOTSUP,
                       "linux.intelRdt: no resctrl is mounted at " OCI_RDT_ROOT "; mount it, or take intelRdt out");
    return STEAL_FD(fd);
}

int oci_rdt_apply(const struct oci_rdt *r, const char *id, pid_t pid, struct err *e)
{
    AUTO_FD int fd = rdt_open(e);

    return fd < 0 ? fd : oci_rdt_apply_at(fd, r, id, pid, e);
}

int oci_rdt_remove(const struct oci_rdt *r, const char *id, struct err *e)
{
    AUTO_FD int fd = rdt_open(NULL);

    return fd < 0 ? 0 : oci_rdt_remove_at(fd, r, id, e);
}
