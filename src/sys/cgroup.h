/* Control groups as the kernel shows them: which hierarchies are mounted where (v1, v2 and both at once), and the
 * handful of operations on a group's directory. It must not know containers: what is written into which file is
 * oci/cgroup. A group is named by its directory, an absolute path without a slash at its end. Any thread. Spec:
 * cgroups(7), Documentation/admin-guide/cgroup-v2.rst. */
#ifndef SYS_CGROUP_H
#define SYS_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/cleanup.h"

/* Controllers as bits. io is blkio in v1. */
enum sys_cgroup_controller {
    SYS_CG_CPU,
    SYS_CG_CPUACCT,
    SYS_CG_CPUSET,
    SYS_CG_MEMORY,
    SYS_CG_IO,
    SYS_CG_PIDS,
    SYS_CG_DEVICES,
    SYS_CG_FREEZER,
    SYS_CG_HUGETLB,
    SYS_CG_NET_CLS,
    SYS_CG_NET_PRIO,
    SYS_CG_RDMA,
    SYS_CG_PERF_EVENT,
    SYS_CG_MISC,
    SYS_CG_CONTROLLERS
};

/* The kernel's name of a controller in a hierarchy of that version. */
const char *sys_cgroup_name(enum sys_cgroup_controller controller, bool v2);

#define SYS_CGROUP_MAX 20 /* hierarchies */

struct sys_cgroup_hier {
    char *mount;          /* where it is mounted */
    char *own;            /* the group of this process below mount: "" or "/a/b"; NULL: it is not below */
    char *name;           /* of a v1 hierarchy without controllers ("systemd"); else NULL */
    uint32_t controllers; /* 1 << enum sys_cgroup_controller; v2: what the topmost group can hand down */
    bool v2;
};

struct sys_cgroup_layout {
    struct sys_cgroup_hier h[SYS_CGROUP_MAX];
    size_t n;
    int unified; /* the index of the v2 hierarchy, or -1 */
};

/* Read the layout of this process: /proc/self/mountinfo and /proc/self/cgroup, once each. A mount that another file
 * system covers does not count. -ENOENT: no hierarchy is mounted. *ret is filled on success only; the caller gives it
 * to sys_cgroup_layout_done. */
int sys_cgroup_layout_read(struct sys_cgroup_layout *ret) MUST_USE;
/* The same from the text of the two files, for tests and other processes. cgroup.controllers of a v2 mount is read
 * where mountinfo says that it is. */
int sys_cgroup_layout_parse(const char *mountinfo, const char *self_cgroup, struct sys_cgroup_layout *ret) MUST_USE;
void sys_cgroup_layout_done(struct sys_cgroup_layout *l); /* a zeroed one is accepted */
/* The index of the hierarchy that has a controller, or -1. */
int sys_cgroup_layout_find(const struct sys_cgroup_layout *l, enum sys_cgroup_controller controller);

/* Write text into a file of a group by one write(2). -errno of open or write. */
int sys_cgroup_write(const char *dir, const char *file, const char *text) MUST_USE;
int sys_cgroup_write_number(const char *dir, const char *file, int64_t value) MUST_USE;
/* Read at most size - 1 bytes of a file as a string; what is more is cut off. Returns its length or -errno. */
ssize_t sys_cgroup_read(const char *dir, const char *file, char *ret_text, size_t size) MUST_USE;
/* A file that holds one number; "max" is UINT64_MAX. -EINVAL: holds something else. */
int sys_cgroup_read_number(const char *dir, const char *file, uint64_t *ret) MUST_USE;
/* The number behind "key " at the start of a line of text (memory.stat, cgroup.events, ...). False: not there. */
bool sys_cgroup_find_number(const char *text, const char *key, uint64_t *ret);

/* Make the group dir and those between mount and it. Returns 1: made; 0: dir was there; -errno. mount must be there. */
int sys_cgroup_make(const char *mount, const char *dir) MUST_USE;
/* v2: hand controllers down from mount to dir, in every group between (not in dir itself), as far as the kernel lets
 * us; what could not be had is not an error here: its files are missing. Returns the controllers that dir has, or
 * -errno. */
int sys_cgroup_enable(const char *mount, const char *dir, uint32_t controllers) MUST_USE;
/* v1 cpuset: a new group has no CPUs and no memory nodes, and takes no process before it has. Fill both in dir and in
 * the groups between mount and it, where they are empty, from the group above. */
int sys_cgroup_inherit_cpuset(const char *mount, const char *dir) MUST_USE;
/* Remove dir with the groups below it. Waits up to a second for processes that are on their way out. A group that is
 * not there is success. -EBUSY: processes live in it. */
int sys_cgroup_remove(const char *dir) MUST_USE;

/* Processes of dir (recursive: and of the groups below) as the kernel lists them, in no order. *ret_pids: the caller
 * frees it; NULL where there are none. -ENOENT; -E2BIG: more than anybody runs. */
int sys_cgroup_pids(const char *dir, bool recursive, pid_t **ret_pids, size_t *ret_n) MUST_USE;

#endif
