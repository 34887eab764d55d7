/* Where a container's groups are: the words of linux.cgroupsPath, as runc reads them. Pure. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/cgroup_priv.h"

/* Append the parts of path to clean, ".." taking one away. False: too long. */
static bool path_append(char clean[PATH_MAX], const char *path)
{
    size_t at = strlen(clean);

    while (*path) {
        size_t len = strcspn(path, "/");

        if (len == 2 && memcmp(path, "..", 2) == 0) {
            while (at > 0 && clean[--at] != '/')
                ;
        } else if (len > 0 && !(len == 1 && *path == '.')) {
            if (len + 2 > PATH_MAX - at)
                return false;
            clean[at++] = '/';
            memcpy(clean + at, path, len);
            at += len;
        }
        clean[at] = '\0';
        path += len;
        path += *path == '/';
    }
    return true;
}

int cgroup_path_join(const char *own, const char *path, char **ret_path)
{
    char clean[PATH_MAX] = "", below[PATH_MAX] = "";
    char *s;

    /* What is relative does not leave own either. */
    if (path[0] != '/' && !path_append(clean, own))
        return -ENAMETOOLONG;
    if (!path_append(below, path) || !path_append(clean, below))
        return -ENAMETOOLONG;
    s = strdup(clean[0] ? clean : "/");
    if (!s)
        return -ENOMEM;
    *ret_path = s;
    return 0;
}

/* "a-b.slice" is at /a.slice/a-b.slice. Spec: systemd.slice(5). */
static int path_of_slice(const char *slice, char ret[PATH_MAX], struct err *e)
{
    static const char suffix[] = ".slice";
    size_t len = strlen(slice), at = 0;

    ret[0] = '\0';
    if (strcmp(slice, "-.slice") == 0)
        return 0;
    if (len <= sizeof(suffix) - 1 || strcmp(slice + len - (sizeof(suffix) - 1), suffix) != 0 || strchr(slice, '/') ||
        slice[0] == '-' || slice[len - sizeof(suffix)] == '-' || strstr(slice, "--"))
        return err_set(e, EINVAL, "linux.cgroupsPath: \"%s\" is no slice of systemd; write it like user-1000.slice",
                       slice);
    len -= sizeof(suffix) - 1;
    for (size_t i = 1; i <= len; i++) {
        if (slice[i] != '-' && i < len)
            continue;
        if (i + sizeof(suffix) + 1 > PATH_MAX - at)
            return err_set(e, ENAMETOOLONG, "linux.cgroupsPath: the slice \"%s\" is nested too deep", slice);
        at += (size_t)snprintf(ret + at, PATH_MAX - at, "/%.*s%s", (int)i, slice, suffix);
    }
    return 0;
}

static int path_no_memory(struct err *e)
{
    return err_set(e, ENOMEM, "cgroup: out of memory");
}

/* The parts of "slice:prefix:name", or what stands for them. copy is taken apart. */
static int path_systemd_parts(char *copy, const char *id, bool user, const char **ret_part, struct err *e)
{
    char *second, *third;

    ret_part[0] = "";
    ret_part[1] = "caisson";
    ret_part[2] = id;
    if (copy) {
        second = strchr(copy, ':');
        third = second ? strchr(second + 1, ':') : NULL;
        if (!third || strchr(third + 1, ':'))
            return err_set(e, EINVAL,
                           "linux.cgroupsPath: \"%s\" must be slice:prefix:name, since systemd makes the cgroups",
                           copy);
        *second++ = '\0';
        *third++ = '\0';
        ret_part[0] = copy;
        ret_part[1] = second;
        ret_part[2] = third;
    }
    if (!ret_part[0][0])
        ret_part[0] = user ? "user.slice" : "system.slice";
    if (!ret_part[2][0] || strchr(ret_part[1], '/') || strchr(ret_part[2], '/'))
        return err_set(
            e, EINVAL,
            "linux.cgroupsPath: prefix and name of a unit of systemd have no slash, and the name is not empty");
    return 0;
}

int cgroup_path_systemd(const char *path, const char *id, bool user, char **ret_slice, char **ret_unit, char **ret_path,
                        struct err *e)
{
    AUTO_FREE char *copy = path && path[0] ? strdup(path) : NULL, *slice = NULL, *unit = NULL;
    const char *part[3];
    char where[PATH_MAX];
    size_t len;
    int r;

    if (path && path[0] && !copy)
        return path_no_memory(e);
    r = path_systemd_parts(copy, id, user, part, e);
    if (r == 0)
        r = path_of_slice(part[0], where, e);
    if (r < 0)
        return r;
    slice = strdup(part[0]);
    len = strlen(part[2]);
    /* A container may be a slice itself. */
    if (len > 6 && strcmp(part[2] + len - 6, ".slice") == 0)
        r = asprintf(&unit, "%s", part[2]);
    else
        r = asprintf(&unit, "%s%s%s.scope", part[1], part[1][0] ? "-" : "", part[2]);
    if (r < 0)
        unit = NULL;
    if (!slice || !unit)
        return path_no_memory(e);
    r = cgroup_path_join(where, unit, ret_path);
    if (r < 0)
        return err_set(e, -r, "linux.cgroupsPath: %s", r == -ENOMEM ? "out of memory" : "too long");
    *ret_slice = STEAL(slice);
    *ret_unit = STEAL(unit);
    return 0;
}
