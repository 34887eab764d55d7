/* "process" of config.json. */
#include <errno.h>
#include <limits.h>
#include <linux/ioprio.h>
#include <linux/sched.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#include "wire/oci_read.h"

#define OCI_ARGS_MAX (1u << 20)

static const struct oci_word oci_rlimit_words[] = {
    { "RLIMIT_AS", RLIMIT_AS },
    { "RLIMIT_CORE", RLIMIT_CORE },
    { "RLIMIT_CPU", RLIMIT_CPU },
    { "RLIMIT_DATA", RLIMIT_DATA },
    { "RLIMIT_FSIZE", RLIMIT_FSIZE },
    { "RLIMIT_LOCKS", RLIMIT_LOCKS },
    { "RLIMIT_MEMLOCK", RLIMIT_MEMLOCK },
    { "RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE },
    { "RLIMIT_NICE", RLIMIT_NICE },
    { "RLIMIT_NOFILE", RLIMIT_NOFILE },
    { "RLIMIT_NPROC", RLIMIT_NPROC },
    { "RLIMIT_RSS", RLIMIT_RSS },
    { "RLIMIT_RTPRIO", RLIMIT_RTPRIO },
    { "RLIMIT_RTTIME", RLIMIT_RTTIME },
    { "RLIMIT_SIGPENDING", RLIMIT_SIGPENDING },
    { "RLIMIT_STACK", RLIMIT_STACK },
    { 0 },
};

/* In the order of their numbers (linux/capability.h). */
static const char *const oci_cap_names[] = {
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
};

static const char *const oci_cap_sets[OCI_CAP_SETS] = {
    [OCI_CAP_BOUNDING] = "bounding",   [OCI_CAP_EFFECTIVE] = "effective", [OCI_CAP_INHERITABLE] = "inheritable",
    [OCI_CAP_PERMITTED] = "permitted", [OCI_CAP_AMBIENT] = "ambient",
};

static const struct oci_word oci_policy_words[] = {
    { "SCHED_OTHER", SCHED_OTHER },
    { "SCHED_FIFO", SCHED_FIFO },
    { "SCHED_RR", SCHED_RR },
    { "SCHED_BATCH", SCHED_BATCH },
    { "SCHED_ISO", 4 },
    { "SCHED_IDLE", SCHED_IDLE },
    { "SCHED_DEADLINE", 6 },
    { 0 },
};

static const struct oci_word oci_sched_flag_words[] = {
    { "SCHED_FLAG_RESET_ON_FORK", SCHED_FLAG_RESET_ON_FORK },
    { "SCHED_FLAG_RECLAIM", SCHED_FLAG_RECLAIM },
    { "SCHED_FLAG_DL_OVERRUN", SCHED_FLAG_DL_OVERRUN },
    { "SCHED_FLAG_KEEP_POLICY", SCHED_FLAG_KEEP_POLICY },
    { "SCHED_FLAG_KEEP_PARAMS", SCHED_FLAG_KEEP_PARAMS },
    { "SCHED_FLAG_UTIL_CLAMP_MIN", SCHED_FLAG_UTIL_CLAMP_MIN },
    { "SCHED_FLAG_UTIL_CLAMP_MAX", SCHED_FLAG_UTIL_CLAMP_MAX },
    { 0 },
};

static const struct oci_word oci_io_class_words[] = {
    { "IOPRIO_CLASS_RT", IOPRIO_CLASS_RT },
    { "IOPRIO_CLASS_BE", IOPRIO_CLASS_BE },
    { "IOPRIO_CLASS_IDLE", IOPRIO_CLASS_IDLE },
    { 0 },
};

static void oci_read_rlimits(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *array = oci_get(r, o, "rlimits", json_type_array, OCI_OPTIONAL);
    size_t n = array ? json_object_array_length(array) : 0, at = oci_down(r, "rlimits");
    uint64_t seen = 0;

    p->rlimits = oci_alloc(r, n, sizeof(*p->rlimits));
    for (size_t i = 0; p->rlimits && i < n; i++) {
        size_t inner = oci_down_index(r, i);
        struct json_object *e = oci_element(r, array, i, json_type_object);
        struct oci_rlimit *l = &p->rlimits[i];
        int64_t resource = 0;

        if (!oci_get_word(r, e, "type", oci_rlimit_words, OCI_REQUIRED, "is no resource limit that is known",
                          &resource))
            return;
        if (!oci_get_u64(r, e, "soft", &l->soft))
            oci_bad_member(r, "soft", "is missing");
        if (!oci_get_u64(r, e, "hard", &l->hard))
            oci_bad_member(r, "hard", "is missing");
        if (l->soft > l->hard)
            oci_bad_member(r, "soft", "must not be above the hard limit");
        if (seen >> resource & 1)
            oci_bad_member(r, "type", "stands there twice");
        seen |= 1ULL << resource;
        l->resource = (int)resource;
        oci_up(r, inner);
    }
    p->n_rlimits = p->rlimits ? n : 0;
    oci_up(r, at);
}

const char *oci_cap_name(unsigned n)
{
    return n < ARRAY_SIZE(oci_cap_names) ? oci_cap_names[n] : NULL;
}

int oci_cap_number(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(oci_cap_names); i++) {
        if (strcmp(oci_cap_names[i], name) == 0)
            return (int)i;
    }
    return -1;
}

static void oci_read_capabilities(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *caps = oci_get(r, o, "capabilities", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "capabilities"), unknown = 0;
    struct oci_strings names[OCI_CAP_SETS] = { 0 };

    p->capabilities_present = caps != NULL;
    for (unsigned set = 0; caps && set < OCI_CAP_SETS; set++) {
        oci_get_strings(r, caps, oci_cap_sets[set], &names[set]);
        for (size_t i = 0; i < names[set].n; i++) {
            int number = oci_cap_number(names[set].v[i]);

            if (number >= 0)
                p->capabilities[set] |= 1ULL << number;
            unknown += number < 0;
        }
    }
    p->unknown_capabilities.v = oci_alloc(r, unknown + 1, sizeof(char *));
    for (unsigned set = 0; p->unknown_capabilities.v && set < OCI_CAP_SETS; set++) {
        for (size_t i = 0; i < names[set].n; i++) {
            if (oci_cap_number(names[set].v[i]) < 0)
                p->unknown_capabilities.v[p->unknown_capabilities.n++] = names[set].v[i];
        }
    }
    oci_up(r, at);
}

static void oci_read_scheduler(struct oci_reader *r, struct json_object *o, struct oci_scheduler *s)
{
    struct json_object *sched = oci_get(r, o, "scheduler", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "scheduler");
    struct oci_strings flags = { 0 };
    int64_t n = 0;

    if (sched) {
        s->present = oci_get_word(r, sched, "policy", oci_policy_words, OCI_REQUIRED, "is no policy that is known", &n);
        s->policy = (int)n;
        n = 0;
        if (oci_get_int(r, sched, "nice", -20, 19, &n))
            s->nice = (int32_t)n;
        n = 0;
        if (oci_get_int(r, sched, "priority", 0, 99, &n))
            s->priority = (int32_t)n;
        oci_get_strings(r, sched, "flags", &flags);
        for (size_t i = 0; i < flags.n; i++) {
            if (!oci_find_word(oci_sched_flag_words, flags.v[i], &n))
                oci_bad_member(r, "flags", "has a flag that is not known");
            s->flags |= (uint64_t)n;
        }
        oci_get_u64(r, sched, "runtime", &s->runtime);
        oci_get_u64(r, sched, "deadline", &s->deadline);
        oci_get_u64(r, sched, "period", &s->period);
    }
    oci_up(r, at);
}

static void oci_read_user(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *user = oci_get(r, o, "user", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "user");
    struct json_object *gids = oci_get(r, user, "additionalGids", json_type_array, OCI_OPTIONAL);
    size_t n = gids ? json_object_array_length(gids) : 0, inner;

    p->umask = OCI_UNSET;
    oci_get_u32(r, user, "uid", UINT32_MAX - 1, &p->uid);
    oci_get_u32(r, user, "gid", UINT32_MAX - 1, &p->gid);
    oci_get_int(r, user, "umask", 0, 07777, &p->umask);
    p->additional_gids = oci_alloc(r, n, sizeof(*p->additional_gids));
    inner = oci_down(r, "additionalGids");
    for (size_t i = 0; p->additional_gids && i < n; i++) {
        size_t element = oci_down_index(r, i);
        struct json_object *e = oci_element(r, gids, i, json_type_int);
        int64_t gid = json_object_get_int64(e);

        if (e && (gid < 0 || gid > UINT32_MAX - 1))
            oci_bad(r, "is out of range");
        p->additional_gids[i] = (gid_t)gid;
        oci_up(r, element);
    }
    p->n_additional_gids = p->additional_gids ? n : 0;
    oci_up(r, inner);
    oci_up(r, at);
}

static void oci_read_io_priority(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *io = oci_get(r, o, "ioPriority", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "ioPriority");
    int64_t n = 0;

    if (io) {
        p->io_priority_present = true;
        oci_get_word(r, io, "class", oci_io_class_words, OCI_REQUIRED, "is no class that is known", &n);
        p->io_priority_class = (int)n;
        n = 0;
        oci_get_int(r, io, "priority", 0, 7, &n);
        p->io_priority = (int)n;
    }
    oci_up(r, at);
}

static void oci_read_affinity(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *affinity = oci_get(r, o, "execCPUAffinity", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "execCPUAffinity");

    if (affinity) {
        const char **v = oci_alloc(r, 3, sizeof(*v));
        const char *initial = oci_get_string(r, affinity, "initial", OCI_OPTIONAL);
        const char *final = oci_get_string(r, affinity, "final", OCI_OPTIONAL);

        if (v) {
            v[0] = initial ? initial : "";
            v[1] = final ? final : "";
            p->exec_cpu_affinity = (struct oci_strings){ .v = v, .n = 2 };
        }
    }
    oci_up(r, at);
}

static void oci_read_console(struct oci_reader *r, struct json_object *o, struct oci_process *p)
{
    struct json_object *size = oci_get(r, o, "consoleSize", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "consoleSize");
    uint32_t height = 0, width = 0;

    oci_get_u32(r, size, "height", UINT16_MAX, &height);
    oci_get_u32(r, size, "width", UINT16_MAX, &width);
    p->console_height = (uint16_t)height;
    p->console_width = (uint16_t)width;
    oci_up(r, at);
    p->terminal = oci_get_bool(r, o, "terminal", NULL);
}

static void oci_check_strings(struct oci_reader *r, const char *key, const struct oci_strings *s)
{
    size_t bytes = 0;

    for (size_t i = 0; i < s->n; i++)
        bytes += strlen(s->v[i]) + 1;
    if (bytes > OCI_ARGS_MAX)
        oci_bad_member(r, key, "is longer than 1 MiB");
}

void oci_read_process(struct oci_reader *r, struct json_object *o)
{
    struct oci_process *p = &r->spec->process;
    size_t at = oci_down(r, "process");

    p->oom_score_adj = p->umask = OCI_UNSET;
    if (!o) {
        oci_up(r, at);
        return;
    }
    p->present = true;
    oci_read_console(r, o, p);
    p->cwd = oci_get_string(r, o, "cwd", OCI_REQUIRED);
    if (p->cwd && p->cwd[0] != '/')
        oci_bad_member(r, "cwd", "must be an absolute path");
    oci_get_strings(r, o, "env", &p->env);
    oci_get_strings(r, o, "args", &p->args);
    if (p->args.n == 0)
        oci_bad_member(r, "args", "must name a program");
    oci_check_strings(r, "args", &p->args);
    oci_check_strings(r, "env", &p->env);
    oci_read_rlimits(r, o, p);
    oci_read_capabilities(r, o, p);
    p->no_new_privileges = oci_get_bool(r, o, "noNewPrivileges", NULL);
    oci_get_int(r, o, "oomScoreAdj", -1000, 1000, &p->oom_score_adj);
    p->apparmor_profile = oci_get_string(r, o, "apparmorProfile", OCI_OPTIONAL);
    p->selinux_label = oci_get_string(r, o, "selinuxLabel", OCI_OPTIONAL);
    oci_read_scheduler(r, o, &p->scheduler);
    oci_read_io_priority(r, o, p);
    oci_read_affinity(r, o, p);
    oci_read_user(r, o, p);
    oci_up(r, at);
}
