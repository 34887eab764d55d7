/* The command line of caisson-oci: runc's verbs and options, so that engines call it unchanged. One table of options
 * for all verbs; a verb reads them by oci_opt. Options may stand behind the container's id, but for exec, where what
 * follows the id is the program's. */
#ifndef OCI_CLI_H
#define OCI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

enum oci_opt {
    /* before the verb */
    OCI_OPT_ROOT,
    OCI_OPT_LOG,
    OCI_OPT_LOG_FORMAT,
    OCI_OPT_DEBUG,
    OCI_OPT_SYSTEMD_CGROUP,
    OCI_OPT_ROOTLESS,
    OCI_OPT_SPEC_ROOTLESS, /* runc's --rootless takes a value before the verb, and none behind spec */
    OCI_OPT_CRIU,
    OCI_OPT_VERSION,
    OCI_OPT_HELP,
    /* of verbs */
    OCI_OPT_BUNDLE,
    OCI_OPT_CONSOLE_SOCKET,
    OCI_OPT_PIDFD_SOCKET,
    OCI_OPT_PID_FILE,
    OCI_OPT_NO_PIVOT,
    OCI_OPT_NO_NEW_KEYRING,
    OCI_OPT_PRESERVE_FDS,
    OCI_OPT_NO_SUBREAPER,
    OCI_OPT_KEEP,
    OCI_OPT_DETACH,
    OCI_OPT_FORCE,
    OCI_OPT_ALL,
    OCI_OPT_FORMAT,
    OCI_OPT_QUIET,
    OCI_OPT_PROCESS,
    OCI_OPT_CWD,
    OCI_OPT_ENV,
    OCI_OPT_TTY,
    OCI_OPT_USER,
    OCI_OPT_ADDITIONAL_GIDS,
    OCI_OPT_PROCESS_LABEL,
    OCI_OPT_APPARMOR,
    OCI_OPT_NO_NEW_PRIVS,
    OCI_OPT_CAP,
    OCI_OPT_CGROUP,
    OCI_OPT_IGNORE_PAUSED,
    OCI_OPT_INTERVAL,
    OCI_OPT_STATS,
    /* of update */
    OCI_OPT_RESOURCES,
    OCI_OPT_BLKIO_WEIGHT,
    OCI_OPT_CPU_PERIOD,
    OCI_OPT_CPU_QUOTA,
    OCI_OPT_CPU_BURST,
    OCI_OPT_CPU_SHARE,
    OCI_OPT_CPU_RT_PERIOD,
    OCI_OPT_CPU_RT_RUNTIME,
    OCI_OPT_CPUSET_CPUS,
    OCI_OPT_CPUSET_MEMS,
    OCI_OPT_MEMORY,
    OCI_OPT_MEMORY_RESERVATION,
    OCI_OPT_MEMORY_SWAP,
    OCI_OPT_KERNEL_MEMORY,
    OCI_OPT_KERNEL_MEMORY_TCP,
    OCI_OPT_PIDS_LIMIT,
    OCI_OPT_L3_CACHE_SCHEMA,
    OCI_OPT_MEM_BW_SCHEMA,
    OCI_OPT_CPU_IDLE,
    /* of checkpoint and restore */
    OCI_OPT_IMAGE_PATH,
    OCI_OPT_WORK_PATH,
    OCI_OPT_PARENT_PATH,
    OCI_OPT_LEAVE_RUNNING,
    OCI_OPT_TCP_ESTABLISHED,
    OCI_OPT_TCP_SKIP_IN_FLIGHT,
    OCI_OPT_LINK_REMAP,
    OCI_OPT_EXT_UNIX_SK,
    OCI_OPT_SHELL_JOB,
    OCI_OPT_LAZY_PAGES,
    OCI_OPT_STATUS_FD,
    OCI_OPT_PAGE_SERVER,
    OCI_OPT_FILE_LOCKS,
    OCI_OPT_PRE_DUMP,
    OCI_OPT_MANAGE_CGROUPS_MODE,
    OCI_OPT_EMPTY_NS,
    OCI_OPT_AUTO_DEDUP,
    OCI_OPT_LSM_PROFILE,
    OCI_OPT_LSM_MOUNT_CONTEXT,
    OCI_OPT_COUNT
};

struct oci_args {
    const char *program;
    const char *verb;                 /* NULL: none given */
    const char *value[OCI_OPT_COUNT]; /* the last given; NULL: not given; "" or "true" for flags */
    int argc;                         /* the verb's operands: the id and what follows */
    char **argv;                      /* argv[argc] is NULL */
    char **words;                     /* what stands behind the verb, for options that may be given often */
    int n_words;
    char *absolute[3]; /* values that were relative paths; owned */
};

/* Take the command line apart; argv is borrowed for as long as *ret is used. -EINVAL with a text; *ret is filled as far
 * as the error in any case (the log's options are needed to report it). Release with oci_args_done. */
int oci_args_parse(int argc, char **argv, struct oci_args *ret, struct err *e) MUST_USE;
/* --root, --log and --pid-file count from where the runtime was called: to be done before the directory changes to the
 * bundle. -errno with a text. */
int oci_args_absolute(struct oci_args *a, struct err *e) MUST_USE;
void oci_args_done(struct oci_args *a); /* a zeroed one is fine */
bool oci_flag(const struct oci_args *a, enum oci_opt opt);
/* Walk over all values of an option: *at is 0 at first; NULL at the end. */
const char *oci_opt_next(const struct oci_args *a, enum oci_opt opt, int *at);
/* A number that an option gives; dflt where it was not given. -EINVAL with a text. */
int oci_opt_u64(const struct oci_args *a, enum oci_opt opt, uint64_t max, uint64_t dflt, uint64_t *ret,
                struct err *e) MUST_USE;
/* Append the help of all verbs and options. */
struct buf;
void oci_help(struct buf *b);

#endif
