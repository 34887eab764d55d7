/* The control groups of one container, in all hierarchies of the machine: v1, v2 and hybrid, by files or by systemd.
 * The parent (create, run) makes them, moves the container's first process in, and applies limits; other verbs open
 * what the state file tells of them. Not thread-safe; nothing is kept open but where a function says so. */
#ifndef OCI_CGROUP_H
#define OCI_CGROUP_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "wire/oci_spec.h"

struct json_object;
struct oci_cgroup;
struct sys_cgroup_layout;

struct oci_cgroup_config {
    const char *path; /* linux.cgroupsPath ("slice:prefix:name" with systemd), or NULL: made from the id */
    const char *id;   /* the container's name */
    bool systemd;     /* the systemd driver: the unit is made by oci_cgroup_enter */
    bool rootless;    /* no rights outside a delegated group: go without groups where nothing is asked of them */
    const struct oci_spec
        *spec; /* resources and annotations (org.systemd.property.*); borrowed until oci_cgroup_free */
    const struct sys_cgroup_layout *layout; /* NULL: this machine's is read; tests give their own */
};

/* One hierarchy, for mounting it in a container. Strings live as long as the group. */
struct oci_cgroup_hierarchy {
    const char
        *name; /* the directory's name below /sys/fs/cgroup: "memory", "cpu,cpuacct", "unified"; "" for pure v2 */
    const char *options; /* mount options of v1: "memory", "none,name=systemd"; NULL for v2 */
    const char *mount;   /* where the host has it */
    const char *path;    /* the container's group in it, from the hierarchy's root; starts with a slash */
};

/* Make the directories (not systemd's: those come with oci_cgroup_enter). A group that is there already and has
 * processes in it is -EBUSY or is taken over, as runc does it. Text in e. Caller frees *ret by oci_cgroup_free. */
int oci_cgroup_create(const struct oci_cgroup_config *c, struct oci_cgroup **ret, struct err *e) MUST_USE;
/* The same in two steps, so that the state file can name the groups before they exist: who is killed in between leaves
 * none that nobody knows. What was opened from a state that was written after the first step is removed only where it
 * is empty, since it may be somebody else's. */
int oci_cgroup_plan(const struct oci_cgroup_config *c, struct oci_cgroup **ret, struct err *e) MUST_USE;
int oci_cgroup_make(struct oci_cgroup *g, struct err *e) MUST_USE;
/* Open what oci_cgroup_save wrote; saved is borrowed for the call. Works where the groups have gone meanwhile. */
int oci_cgroup_open(struct json_object *saved, struct oci_cgroup **ret, struct err *e) MUST_USE;
/* Append one JSON value (an object) that oci_cgroup_open reads. */
void oci_cgroup_save(const struct oci_cgroup *g, struct buf *json);
void oci_cgroup_free(struct oci_cgroup *g); /* NULL accepted; the groups stay */
DEFINE_AUTO(oci_cgroup, struct oci_cgroup, oci_cgroup_free)

/* v2: a directory to be given to clone3 (CLONE_INTO_CGROUP), borrowed until oci_cgroup_free; -1: none, and
 * oci_cgroup_enter does all. */
int oci_cgroup_clone_fd(const struct oci_cgroup *g);
/* Move a process into all groups (cloned: it was born in the one of oci_cgroup_clone_fd). */
int oci_cgroup_enter(struct oci_cgroup *g, pid_t pid, bool cloned, struct err *e) MUST_USE;
/* Into a group below the container's (exec --cgroup), which must be there. sub: "a/b", with or without a slash at its
 * start, without "..". controllers: "cpu,memory" or NULL for all. May be called more than once. */
int oci_cgroup_enter_below(struct oci_cgroup *g, const char *controllers, const char *sub, pid_t pid,
                           struct err *e) MUST_USE;
/* Set the limits of a new container; r may be without any (present false): the device rules are set even then. After
 * oci_cgroup_enter where systemd is used, else in any order (v2 devices are refused from here on). */
int oci_cgroup_apply(struct oci_cgroup *g, const struct oci_resources *r, struct err *e) MUST_USE;
/* Change those limits of a running container that r gives; device rules only where r has some. */
int oci_cgroup_update(struct oci_cgroup *g, const struct oci_resources *r, struct err *e) MUST_USE;
/* Freeze or thaw, and wait until it is so. */
int oci_cgroup_freeze(struct oci_cgroup *g, bool frozen, struct err *e) MUST_USE;
/* Whether the group is frozen: > 0, 0; < 0: error. No group: 0. */
int oci_cgroup_frozen(struct oci_cgroup *g) MUST_USE;
/* The processes, as this process sees them; recursive: of groups below too. Caller frees *ret_pids. */
int oci_cgroup_pids(struct oci_cgroup *g, bool recursive, pid_t **ret_pids, size_t *ret_n, struct err *e) MUST_USE;
/* Signal all processes of the group and the groups below. No group or no process: 0. */
int oci_cgroup_kill(struct oci_cgroup *g, int signal, struct err *e) MUST_USE;
/* Append the "data" of runc's events --stats. */
int oci_cgroup_stats(struct oci_cgroup *g, struct buf *json, struct err *e) MUST_USE;
/* Kill what is left and remove the groups with all below; retries for a while, since processes leave late. */
int oci_cgroup_remove(struct oci_cgroup *g, struct err *e) MUST_USE;
/* A descriptor that becomes readable (POLLIN) when the group ran out of memory or has gone, and to be asked then by
 * oci_cgroup_oom_check; caller closes it. -errno with a text: no memory controller. */
int oci_cgroup_oom_watch(struct oci_cgroup *g, struct err *e) MUST_USE;
/* Read what fd has. Returns how often it ran out of memory since the last check (or since the watch), -ENOENT when the
 * group has gone, -errno. *state: 0 before the first check. */
int oci_cgroup_oom_check(struct oci_cgroup *g, int fd, uint64_t *state) MUST_USE;
/* The hierarchies, for mounts of type cgroup; borrowed until oci_cgroup_free. */
size_t oci_cgroup_hierarchies(const struct oci_cgroup *g, const struct oci_cgroup_hierarchy **ret);

#endif
