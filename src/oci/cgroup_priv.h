/* Shared by the files of oci/cgroup. */
#ifndef OCI_CGROUP_PRIV_H
#define OCI_CGROUP_PRIV_H

#include "oci/cgroup.h"
#include "sys/cgroup.h"

/* The container's group in one hierarchy. */
struct cgroup_one {
    struct oci_cgroup_hierarchy pub; /* its strings belong to the group */
    uint32_t controllers;            /* 1 << enum sys_cgroup_controller */
    bool v2;
    bool made; /* by us, now */
    char *dir; /* pub.mount and pub.path */
};

struct oci_cgroup {
    struct cgroup_one one[SYS_CGROUP_MAX];
    struct oci_cgroup_hierarchy pub[SYS_CGROUP_MAX]; /* copies, for oci_cgroup_hierarchies */
    size_t n;                                        /* 0: rootless, and went without */
    int unified;                                     /* the index of v2's, or -1 */
    bool systemd, rootless;
    bool planned;      /* not made yet */
    bool path_given;   /* else the path was ours to choose */
    bool user_manager; /* the unit belongs to the user's systemd */
    char *unit, *slice;
    int clone_fd;
    const struct oci_spec *spec; /* at creation only, else NULL */
};

/* The group that has a controller, or NULL. */
struct cgroup_one *cgroup_with(struct oci_cgroup *g, enum sys_cgroup_controller controller);
/* Without root's rights: somebody else, or root of a user namespace. Asked where it matters only. */
bool cgroup_rootless(struct oci_cgroup *g);
/* All that there is is v2. */
bool cgroup_pure_v2(const struct oci_cgroup *g);
/* Set up one hierarchy's strings: takes part of the layout's and the path from the hierarchy's root. -ENOMEM. */
int cgroup_one_init(struct cgroup_one *one, const char *mount, const char *path, const char *name, uint32_t controllers,
                    bool v2, bool pure) MUST_USE;
int cgroup_one_move(struct cgroup_one *one, const char *path) MUST_USE; /* to another path; -ENOMEM */

/* Make the directories of all groups, and give them to the container's root where that is asked for. */
int cgroup_make(struct oci_cgroup *g, struct err *e) MUST_USE;

/* ---- paths (cgroup_path.c) ---- */

/* "/a/b" out of own and path: absolute ones count from the hierarchy's root, others from own; "." and ".." are resolved
 * without leaving the root. *ret_path: the caller frees it. -ENAMETOOLONG, -ENOMEM. */
int cgroup_path_join(const char *own, const char *path, char **ret_path) MUST_USE;
/* "slice:prefix:name" (NULL: by the id) into slice and unit, and the path below which systemd puts it. The caller frees
 * all three. -EINVAL with a text. */
int cgroup_path_systemd(const char *path, const char *id, bool user, char **ret_slice, char **ret_unit, char **ret_path,
                        struct err *e) MUST_USE;

/* ---- limits ---- */

/* Writing limits: the first error sticks. */
struct cgroup_apply {
    struct oci_cgroup *g;
    const struct oci_resources *r;
    struct err *e;
    bool update; /* of a running container */
    int error;   /* 0 or -errno; then e has the text */
};

/* Write text into the file of the group that has the controller. */
void cgroup_put(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text);
void cgroup_put_number(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, int64_t value);
/* The same, and the error (its text not made) is the caller's to judge: returns 0 or -errno. */
int cgroup_try(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text) MUST_USE;
void cgroup_put_failed(struct cgroup_apply *a, enum sys_cgroup_controller c, const char *file, const char *text,
                       int error);
static inline bool cgroup_given(int64_t v)
{
    return v != OCI_UNSET && v != 0; /* runc: 0 is as good as not given */
}

void cgroup_apply_memory_v1(struct cgroup_apply *a);
void cgroup_apply_memory_v2(struct cgroup_apply *a);
void cgroup_apply_cpu_v1(struct cgroup_apply *a);
void cgroup_apply_cpu_v2(struct cgroup_apply *a);
void cgroup_apply_io_v1(struct cgroup_apply *a);
void cgroup_apply_io_v2(struct cgroup_apply *a);
void cgroup_apply_unified(struct cgroup_apply *a);
void cgroup_apply_devices(struct cgroup_apply *a);
/* Which controllers the limits need. */
uint32_t cgroup_needed(const struct oci_resources *r);

/* shares 2..262144 (1024 is the default) to weight 1..10000 (100 is the default), and v1's blkio weight 10..1000 to
 * 1..10000. */
uint64_t cgroup_weight_of_shares(uint64_t shares);
uint64_t cgroup_io_weight(uint64_t blkio_weight);
/* memory.swap.max out of v1's sum of memory and swap; OCI_UNSET: leave it; -1: max. -EINVAL: a sum without or below the
 * memory limit. */
int cgroup_swap_v2(int64_t memory, int64_t memory_swap, int64_t *ret) MUST_USE;

/* ---- devices ---- */

/* The rules in force: those given, behind "deny all", and what each container may use. The last that matches counts.
 * *ret: the caller frees it. -ENOMEM. */
int cgroup_device_rules(const struct oci_resources *r, struct oci_device_rule **ret, size_t *ret_n) MUST_USE;
struct bpf_insn;
/* Compile rules into a program of type BPF_PROG_TYPE_CGROUP_DEVICE. *ret: the caller frees it. -ENOMEM, -E2BIG. */
int cgroup_bpf_compile(const struct oci_device_rule *rules, size_t n, struct bpf_insn **ret, size_t *ret_n) MUST_USE;
/* Attach it to a group, in the place of the one that is there. -errno of bpf(2). */
int cgroup_bpf_attach(const char *dir, const struct bpf_insn *program, size_t n) MUST_USE;

/* ---- systemd (cgroup_systemd.c) ---- */

int cgroup_systemd_start(struct oci_cgroup *g, pid_t pid, struct err *e) MUST_USE;
int cgroup_systemd_limits(struct oci_cgroup *g, const struct oci_resources *r, struct err *e) MUST_USE;
void cgroup_systemd_stop(struct oci_cgroup *g);

#endif
