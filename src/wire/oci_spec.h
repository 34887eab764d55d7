/* config.json of an OCI bundle: the runtime specification 1.2 (and what 1.0.2 and 1.1 had) as C structures, read and
 * checked. Strings and arrays belong to the spec, and are valid until oci_spec_free. What is not there is NULL, 0, an
 * empty array, or the value that the member's comment names. Pure: no file is touched, nothing depends on this machine.
 * Spec: OCI runtime-spec, config.md and config-linux.md. */
#ifndef WIRE_OCI_SPEC_H
#define WIRE_OCI_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define OCI_VERSION "1.2.0"       /* the newest that we read */
#define OCI_CONFIG_MAX (8u << 20) /* bytes of a config.json */
#define OCI_UNSET INT64_MIN       /* a number that was not given, where 0 and -1 mean something */

struct oci_strings {
    const char **v; /* v[n] is NULL */
    size_t n;
};

/* ---- process ---- */

struct oci_rlimit {
    int resource;        /* RLIMIT_* */
    uint64_t soft, hard; /* RLIM_INFINITY as UINT64_MAX */
};

enum oci_cap_set {
    OCI_CAP_BOUNDING,
    OCI_CAP_EFFECTIVE,
    OCI_CAP_INHERITABLE,
    OCI_CAP_PERMITTED,
    OCI_CAP_AMBIENT,
    OCI_CAP_SETS
};

struct oci_scheduler {
    bool present;
    int policy; /* SCHED_* */
    int32_t nice, priority;
    uint64_t flags; /* SCHED_FLAG_* */
    uint64_t runtime, deadline, period;
};

struct oci_process {
    bool present;
    bool terminal;
    uint16_t console_height, console_width; /* 0: leave */
    const char *cwd;                        /* absolute */
    struct oci_strings env, args;
    struct oci_rlimit *rlimits;
    size_t n_rlimits;
    bool capabilities_present;               /* else: none are changed but all dropped, as runc does it */
    uint64_t capabilities[OCI_CAP_SETS];     /* bit n: capability n */
    struct oci_strings unknown_capabilities; /* to be warned about */
    bool no_new_privileges;
    int64_t oom_score_adj; /* -1000..1000 or OCI_UNSET */
    const char *apparmor_profile, *selinux_label;
    struct oci_scheduler scheduler;
    bool io_priority_present;
    int io_priority_class;                /* IOPRIO_CLASS_* */
    int io_priority;                      /* 0..7 */
    struct oci_strings exec_cpu_affinity; /* [0] initial, [1] final; "" where not given; n 0: none */
    uint32_t uid, gid;
    int64_t umask; /* 0..07777 or OCI_UNSET */
    gid_t *additional_gids;
    size_t n_additional_gids;
};

/* ---- root, mounts, hooks ---- */

struct oci_id_mapping {
    uint32_t container, host, size;
};

struct oci_mappings {
    struct oci_id_mapping *v;
    size_t n;
};

/* Options in the words of mount(8), sorted by what they do. */
struct oci_mount {
    const char *destination, *type, *source;
    struct oci_strings options;  /* as given */
    unsigned long flags;         /* MS_* to set */
    unsigned long cleared;       /* MS_* that were negated ("rw", "suid", ...) */
    unsigned long propagation;   /* MS_SHARED... with MS_REC, or 0 */
    uint64_t rec_set, rec_clear; /* MOUNT_ATTR_* to change recursively ("rro", "rnoexec", ...) */
    bool bind;                   /* MS_BIND is in flags, or type is bind */
    bool tmpcopyup;
    bool idmap, ridmap; /* mapped as the user namespace, or as below; recursively */
    struct oci_mappings uid_mappings, gid_mappings;
    const char *data; /* what is left, for the file system; NULL: nothing */
};

enum oci_hook_kind {
    OCI_HOOK_PRESTART,
    OCI_HOOK_CREATE_RUNTIME,
    OCI_HOOK_CREATE_CONTAINER,
    OCI_HOOK_START_CONTAINER,
    OCI_HOOK_POSTSTART,
    OCI_HOOK_POSTSTOP,
    OCI_HOOK_KINDS
};

struct oci_hook {
    const char *path; /* absolute */
    struct oci_strings args, env;
    int64_t timeout_s; /* > 0, or OCI_UNSET */
};

/* ---- linux ---- */

enum oci_ns {
    OCI_NS_USER,
    OCI_NS_CGROUP,
    OCI_NS_IPC,
    OCI_NS_UTS,
    OCI_NS_NET,
    OCI_NS_PID,
    OCI_NS_MOUNT,
    OCI_NS_TIME,
    OCI_NS_KINDS
};

struct oci_namespace {
    bool wanted;      /* a new one, or the one at path */
    const char *path; /* NULL: new */
};

struct oci_time_offset {
    bool present;
    int64_t secs;
    uint32_t nanosecs;
};

struct oci_device {
    const char *path;
    char type; /* 'c', 'b' or 'p' (u is read as c) */
    int64_t major, minor;
    uint32_t mode; /* 0 where not given: 0666 */
    bool mode_present;
    uint32_t uid, gid;
};

struct oci_device_rule {
    bool allow;
    char type;            /* 'a', 'c', 'b' */
    int64_t major, minor; /* -1: any */
    bool read, write, mknod;
};

struct oci_hugepage_limit {
    const char *page_size; /* "2MB" */
    uint64_t limit;
};

struct oci_weight_device {
    int64_t major, minor;
    uint16_t weight, leaf_weight; /* 0: not given */
};

struct oci_throttle_device {
    int64_t major, minor;
    uint64_t rate;
};

struct oci_if_priority {
    const char *name;
    uint32_t priority;
};

struct oci_rdma_limit {
    const char *device;
    int64_t handles, objects; /* or OCI_UNSET */
};

struct oci_key_value {
    const char *key, *value;
};

#define OCI_ARRAY(type, name) \
    struct type *name;        \
    size_t n_##name

/* Numbers are OCI_UNSET where not given. */
struct oci_resources {
    bool present;
    OCI_ARRAY(oci_device_rule, devices);
    bool devices_present;
    /* memory, bytes; -1: no limit */
    int64_t memory_limit, memory_reservation, memory_swap, memory_kernel, memory_kernel_tcp, memory_swappiness;
    bool memory_disable_oom_killer, memory_disable_oom_killer_present;
    bool memory_use_hierarchy, memory_use_hierarchy_present;
    bool memory_check_before_update;
    /* cpu */
    int64_t cpu_shares, cpu_quota, cpu_burst, cpu_period, cpu_rt_runtime, cpu_rt_period, cpu_idle;
    const char *cpuset_cpus, *cpuset_mems;
    int64_t pids_limit; /* -1: no limit */
    /* blkio */
    int64_t blkio_weight, blkio_leaf_weight;
    OCI_ARRAY(oci_weight_device, blkio_weight_devices);
    OCI_ARRAY(oci_throttle_device, blkio_read_bps);
    OCI_ARRAY(oci_throttle_device, blkio_write_bps);
    OCI_ARRAY(oci_throttle_device, blkio_read_iops);
    OCI_ARRAY(oci_throttle_device, blkio_write_iops);
    OCI_ARRAY(oci_hugepage_limit, hugepages);
    int64_t net_class_id;
    OCI_ARRAY(oci_if_priority, net_priorities);
    OCI_ARRAY(oci_rdma_limit, rdma);
    OCI_ARRAY(oci_key_value, unified); /* key: a file of the cgroup, without a slash */
};

struct oci_seccomp_arg {
    uint32_t index; /* 0..5 */
    uint64_t value, value_two;
    int op; /* enum scmp_compare of libseccomp by name: see oci_seccomp_op */
};
enum oci_seccomp_op { OCI_CMP_NE, OCI_CMP_LT, OCI_CMP_LE, OCI_CMP_EQ, OCI_CMP_GE, OCI_CMP_GT, OCI_CMP_MASKED_EQ };
enum oci_seccomp_action {
    OCI_ACT_KILL_THREAD,
    OCI_ACT_KILL_PROCESS,
    OCI_ACT_TRAP,
    OCI_ACT_ERRNO,
    OCI_ACT_TRACE,
    OCI_ACT_ALLOW,
    OCI_ACT_LOG,
    OCI_ACT_NOTIFY
};

struct oci_seccomp_rule {
    struct oci_strings names;
    enum oci_seccomp_action action;
    int64_t errno_ret; /* or OCI_UNSET: EPERM */
    OCI_ARRAY(oci_seccomp_arg, args);
};

struct oci_seccomp {
    bool present;
    enum oci_seccomp_action default_action;
    int64_t default_errno_ret;
    struct oci_strings architectures; /* "SCMP_ARCH_X86_64", ... */
    struct oci_strings flags;         /* "SECCOMP_FILTER_FLAG_LOG", ... */
    bool flags_present;               /* an empty array is not the default */
    const char *listener_path, *listener_metadata;
    OCI_ARRAY(oci_seccomp_rule, rules);
};

struct oci_rdt {
    bool present;
    const char *clos_id, *l3_cache_schema, *mem_bw_schema;
    struct oci_strings schemata;
    bool enable_cmt, enable_mbm;
};

struct oci_spec {
    void *document; /* the JSON object that owns the strings */
    void *arrays;   /* list of the arrays, private */
    const char *version;
    struct oci_process process;
    const char *root_path; /* NULL: no root (not for containers of this kind) */
    bool root_readonly;
    const char *hostname, *domainname;
    OCI_ARRAY(oci_mount, mounts);
    struct oci_hook *hooks[OCI_HOOK_KINDS];
    size_t n_hooks[OCI_HOOK_KINDS];
    OCI_ARRAY(oci_key_value, annotations);
    /* linux */
    struct oci_namespace ns[OCI_NS_KINDS];
    struct oci_mappings uid_mappings, gid_mappings;
    struct oci_time_offset monotonic, boottime;
    OCI_ARRAY(oci_device, devices);
    const char *cgroups_path;
    struct oci_resources resources;
    struct oci_rdt rdt;
    OCI_ARRAY(oci_key_value, sysctl);
    struct oci_seccomp seccomp;
    unsigned long rootfs_propagation; /* MS_* or 0 */
    struct oci_strings masked_paths, readonly_paths;
    const char *mount_label;
    bool personality_present;
    unsigned long personality; /* PER_* */
};

#define OCI_WHERE_MAX 256
/* What is wrong: a path into the document ("linux.resources.memory.limit", "mounts[3].destination") and a constant
 * sentence that stands behind it ("must be a string", "is missing"). */
struct oci_why {
    char where[OCI_WHERE_MAX];
    const char *what;
};

/* Read and check a whole config.json. -EINVAL with why (may be NULL): malformed JSON, missing or ill-typed fields,
 * numbers out of range, contradictions (a namespace twice, mappings without a user namespace, time offsets without a
 * time namespace, a hook or cwd that is not absolute, ...). -ENOMEM. Unknown fields are ignored, as the specification
 * demands. Caller owns *ret. */
int oci_spec_parse(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why) MUST_USE;
/* The process of `exec --process FILE`, in a spec of which nothing else is filled; and the resources of `update`. */
int oci_spec_parse_process(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why) MUST_USE;
int oci_spec_parse_resources(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why) MUST_USE;
void oci_spec_free(struct oci_spec *s); /* NULL accepted */
DEFINE_AUTO(oci_spec, struct oci_spec, oci_spec_free)

const char *oci_annotation(const struct oci_spec *s, const char *key); /* NULL: none */
/* Names as the specification writes them ("mount", "network"; "createRuntime"), and CLONE_* of a namespace. */
const char *oci_ns_name(enum oci_ns ns);
int oci_ns_flag(enum oci_ns ns);
const char *oci_hook_name(enum oci_hook_kind kind);
/* Capability n as "CAP_...", NULL behind the last that we know; and its number, -1: unknown. */
const char *oci_cap_name(unsigned n);
int oci_cap_number(const char *name);
/* The words that we know, one for each i, NULL at the end: options of mounts, and of seccomp. */
const char *oci_mount_option_word(size_t i);
const char *oci_seccomp_action_word(size_t i);
const char *oci_seccomp_compare_word(size_t i);

#endif
