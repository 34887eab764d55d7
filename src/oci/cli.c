#include "oci/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

enum {
    V_GLOBAL = 1 << 0,
    V_CREATE = 1 << 1,
    V_RUN = 1 << 2,
    V_EXEC = 1 << 3,
    V_DELETE = 1 << 4,
    V_KILL = 1 << 5,
    V_LIST = 1 << 6,
    V_PS = 1 << 7,
    V_UPDATE = 1 << 8,
    V_EVENTS = 1 << 9,
    V_SPEC = 1 << 10,
    V_CHECKPOINT = 1 << 11,
    V_RESTORE = 1 << 12,
    V_OTHER = 1 << 13,
    V_NEW = V_CREATE | V_RUN | V_RESTORE,
};

static const struct {
    const char *name;
    unsigned bit;
    const char *help;
} cli_verbs[] = {
    { "create", V_CREATE, "ID: make a container, its program not yet started" },
    { "start", V_OTHER, "ID: start the program of a created container" },
    { "state", V_OTHER, "ID: print the state as JSON" },
    { "kill", V_KILL, "ID [SIGNAL]: signal the container's first process (TERM)" },
    { "delete", V_DELETE, "ID: remove a stopped container" },
    { "run", V_RUN, "ID: create and start" },
    { "exec", V_EXEC, "ID COMMAND [ARG...]: run another program in a container" },
    { "list", V_LIST, "list containers" },
    { "ps", V_PS, "ID [OPTIONS OF ps]: processes of a container" },
    { "pause", V_OTHER, "ID: freeze all processes" },
    { "resume", V_OTHER, "ID: thaw all processes" },
    { "update", V_UPDATE, "ID: change limits" },
    { "events", V_EVENTS, "ID: print statistics and OOM events" },
    { "spec", V_SPEC, "write a config.json to start from" },
    { "features", V_OTHER, "print what the runtime can do" },
    { "checkpoint", V_CHECKPOINT, "ID: save a container by CRIU" },
    { "restore", V_RESTORE, "ID: restore a container by CRIU" },
};

enum cli_type { T_FLAG, T_VALUE };

struct cli_option {
    const char *name;
    char letter;
    enum cli_type type;
    unsigned verbs;
};

static const struct cli_option cli_options[OCI_OPT_COUNT] = {
    [OCI_OPT_ROOT] = { "root", 0, T_VALUE, V_GLOBAL },
    [OCI_OPT_LOG] = { "log", 0, T_VALUE, V_GLOBAL },
    [OCI_OPT_LOG_FORMAT] = { "log-format", 0, T_VALUE, V_GLOBAL },
    [OCI_OPT_DEBUG] = { "debug", 0, T_FLAG, V_GLOBAL },
    [OCI_OPT_SYSTEMD_CGROUP] = { "systemd-cgroup", 0, T_FLAG, V_GLOBAL },
    [OCI_OPT_ROOTLESS] = { "rootless", 0, T_VALUE, V_GLOBAL },
    [OCI_OPT_SPEC_ROOTLESS] = { "rootless", 0, T_FLAG, V_SPEC },
    [OCI_OPT_CRIU] = { "criu", 0, T_VALUE, V_GLOBAL },
    [OCI_OPT_VERSION] = { "version", 'v', T_FLAG, V_GLOBAL },
    [OCI_OPT_HELP] = { "help", 'h', T_FLAG, ~0u },
    [OCI_OPT_BUNDLE] = { "bundle", 'b', T_VALUE, V_NEW | V_SPEC },
    [OCI_OPT_CONSOLE_SOCKET] = { "console-socket", 0, T_VALUE, V_NEW | V_EXEC },
    [OCI_OPT_PIDFD_SOCKET] = { "pidfd-socket", 0, T_VALUE, V_CREATE | V_RUN | V_EXEC },
    [OCI_OPT_PID_FILE] = { "pid-file", 0, T_VALUE, V_NEW | V_EXEC },
    [OCI_OPT_NO_PIVOT] = { "no-pivot", 0, T_FLAG, V_NEW },
    [OCI_OPT_NO_NEW_KEYRING] = { "no-new-keyring", 0, T_FLAG, V_CREATE | V_RUN },
    [OCI_OPT_PRESERVE_FDS] = { "preserve-fds", 0, T_VALUE, V_CREATE | V_RUN | V_EXEC },
    [OCI_OPT_NO_SUBREAPER] = { "no-subreaper", 0, T_FLAG, V_RUN | V_RESTORE | V_EXEC },
    [OCI_OPT_KEEP] = { "keep", 0, T_FLAG, V_RUN },
    [OCI_OPT_DETACH] = { "detach", 'd', T_FLAG, V_RUN | V_EXEC | V_RESTORE },
    [OCI_OPT_FORCE] = { "force", 'f', T_FLAG, V_DELETE },
    [OCI_OPT_ALL] = { "all", 'a', T_FLAG, V_KILL },
    [OCI_OPT_FORMAT] = { "format", 'f', T_VALUE, V_LIST | V_PS },
    [OCI_OPT_QUIET] = { "quiet", 'q', T_FLAG, V_LIST },
    [OCI_OPT_PROCESS] = { "process", 'p', T_VALUE, V_EXEC },
    [OCI_OPT_CWD] = { "cwd", 0, T_VALUE, V_EXEC },
    [OCI_OPT_ENV] = { "env", 'e', T_VALUE, V_EXEC },
    [OCI_OPT_TTY] = { "tty", 't', T_FLAG, V_EXEC },
    [OCI_OPT_USER] = { "user", 'u', T_VALUE, V_EXEC },
    [OCI_OPT_ADDITIONAL_GIDS] = { "additional-gids", 'g', T_VALUE, V_EXEC },
    [OCI_OPT_PROCESS_LABEL] = { "process-label", 0, T_VALUE, V_EXEC },
    [OCI_OPT_APPARMOR] = { "apparmor", 0, T_VALUE, V_EXEC },
    [OCI_OPT_NO_NEW_PRIVS] = { "no-new-privs", 0, T_FLAG, V_EXEC },
    [OCI_OPT_CAP] = { "cap", 'c', T_VALUE, V_EXEC },
    [OCI_OPT_CGROUP] = { "cgroup", 0, T_VALUE, V_EXEC },
    [OCI_OPT_IGNORE_PAUSED] = { "ignore-paused", 0, T_FLAG, V_EXEC },
    [OCI_OPT_INTERVAL] = { "interval", 0, T_VALUE, V_EVENTS },
    [OCI_OPT_STATS] = { "stats", 0, T_FLAG, V_EVENTS },
    [OCI_OPT_RESOURCES] = { "resources", 'r', T_VALUE, V_UPDATE },
    [OCI_OPT_BLKIO_WEIGHT] = { "blkio-weight", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_PERIOD] = { "cpu-period", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_QUOTA] = { "cpu-quota", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_BURST] = { "cpu-burst", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_SHARE] = { "cpu-share", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_RT_PERIOD] = { "cpu-rt-period", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_RT_RUNTIME] = { "cpu-rt-runtime", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPUSET_CPUS] = { "cpuset-cpus", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPUSET_MEMS] = { "cpuset-mems", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_MEMORY] = { "memory", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_MEMORY_RESERVATION] = { "memory-reservation", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_MEMORY_SWAP] = { "memory-swap", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_KERNEL_MEMORY] = { "kernel-memory", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_KERNEL_MEMORY_TCP] = { "kernel-memory-tcp", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_PIDS_LIMIT] = { "pids-limit", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_L3_CACHE_SCHEMA] = { "l3-cache-schema", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_MEM_BW_SCHEMA] = { "mem-bw-schema", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_CPU_IDLE] = { "cpu-idle", 0, T_VALUE, V_UPDATE },
    [OCI_OPT_IMAGE_PATH] = { "image-path", 0, T_VALUE, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_WORK_PATH] = { "work-path", 0, T_VALUE, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_PARENT_PATH] = { "parent-path", 0, T_VALUE, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_LEAVE_RUNNING] = { "leave-running", 0, T_FLAG, V_CHECKPOINT },
    [OCI_OPT_TCP_ESTABLISHED] = { "tcp-established", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_TCP_SKIP_IN_FLIGHT] = { "tcp-skip-in-flight", 0, T_FLAG, V_CHECKPOINT },
    [OCI_OPT_LINK_REMAP] = { "link-remap", 0, T_FLAG, V_CHECKPOINT },
    [OCI_OPT_EXT_UNIX_SK] = { "ext-unix-sk", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_SHELL_JOB] = { "shell-job", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_LAZY_PAGES] = { "lazy-pages", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_STATUS_FD] = { "status-fd", 0, T_VALUE, V_CHECKPOINT },
    [OCI_OPT_PAGE_SERVER] = { "page-server", 0, T_VALUE, V_CHECKPOINT },
    [OCI_OPT_FILE_LOCKS] = { "file-locks", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_PRE_DUMP] = { "pre-dump", 0, T_FLAG, V_CHECKPOINT },
    [OCI_OPT_MANAGE_CGROUPS_MODE] = { "manage-cgroups-mode", 0, T_VALUE, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_EMPTY_NS] = { "empty-ns", 0, T_VALUE, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_AUTO_DEDUP] = { "auto-dedup", 0, T_FLAG, V_CHECKPOINT | V_RESTORE },
    [OCI_OPT_LSM_PROFILE] = { "lsm-profile", 0, T_VALUE, V_RESTORE },
    [OCI_OPT_LSM_MOUNT_CONTEXT] = { "lsm-mount-context", 0, T_VALUE, V_RESTORE },
};

/* The option that a word starts: "-x", "-name", "--name", each with "=value" perhaps. -1: none of this verb's. */
static int cli_find(const char *word, unsigned verb, const char **ret_value)
{
    const char *name = word + 1 + (word[1] == '-');
    size_t len = strcspn(name, "=");

    *ret_value = name[len] == '=' ? name + len + 1 : NULL;
    for (int i = 0; i < OCI_OPT_COUNT; i++) {
        const struct cli_option *o = &cli_options[i];

        if (!(o->verbs & verb))
            continue;
        if ((strlen(o->name) == len && memcmp(o->name, name, len) == 0) || (len == 1 && o->letter == name[0]))
            return i;
    }
    return -1;
}

static unsigned cli_verb_bit(const char *verb)
{
    for (size_t i = 0; i < ARRAY_SIZE(cli_verbs); i++) {
        if (strcmp(cli_verbs[i].name, verb) == 0)
            return cli_verbs[i].bit;
    }
    return 0;
}

/* One option at words[*i]; moves *i to its last word. */
static int cli_take(struct oci_args *a, unsigned verb, int *i, struct err *e)
{
    const char *word = a->words[*i], *value;
    int opt = cli_find(word, verb, &value);

    if (opt < 0)
        return err_set(e, EINVAL, "option %s is not known%s%s: see %s --help", word, a->verb ? " to " : "",
                       a->verb ? a->verb : "", a->program);
    if (cli_options[opt].type == T_FLAG) {
        a->value[opt] = value ? value : "true";
        return 0;
    }
    if (!value) {
        if (*i + 1 >= a->n_words)
            return err_set(e, EINVAL, "option %s needs a value", word);
        value = a->words[++*i];
    }
    a->value[opt] = value;
    return 0;
}

/* The words behind the verb. What follows exec's or ps' id is for another program, dashes and all. */
static int cli_parse_verb(struct oci_args *a, unsigned verb, struct err *e)
{
    bool options = true;

    for (int i = 0; i < a->n_words; i++) {
        char *word = a->words[i];
        int r;

        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && word[0] == '-' && word[1]) {
            r = cli_take(a, verb, &i, e);
            if (r < 0)
                return r;
        } else {
            a->argv[a->argc++] = word;
            options = options && !(verb & (V_EXEC | V_PS));
        }
    }
    return 0;
}

int oci_args_parse(int argc, char **argv, struct oci_args *ret, struct err *e)
{
    struct oci_args a = { .program = argc > 0 ? argv[0] : "caisson-oci", .words = argv, .n_words = argc };
    unsigned verb = 0;
    int i, r = 0;

    for (i = 1; i < argc && argv[i][0] == '-' && r == 0; i++)
        r = cli_take(&a, V_GLOBAL, &i, e);
    if (r < 0)
        return r;
    a.argv = calloc((size_t)argc + 1, sizeof(*a.argv));
    if (!a.argv)
        return err_set(e, ENOMEM, "out of memory");
    if (i < argc) {
        verb = cli_verb_bit(argv[i]);
        a.verb = argv[i];
        a.words = argv + i + 1;
        a.n_words = argc - i - 1;
        r = verb ? cli_parse_verb(&a, verb, e)
                 : err_set(e, EINVAL, "verb %s is not known: see %s --help", a.verb, a.program);
    }
    *ret = a;
    return r;
}

void oci_args_done(struct oci_args *a)
{
    free(a->argv);
    a->argv = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(a->absolute); i++) {
        free(a->absolute[i]);
        a->absolute[i] = NULL;
    }
}

int oci_args_absolute(struct oci_args *a, struct err *e)
{
    static const enum oci_opt paths[ARRAY_SIZE(a->absolute)] = { OCI_OPT_ROOT, OCI_OPT_LOG, OCI_OPT_PID_FILE };
    AUTO_FREE char *here = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        const char *path = a->value[paths[i]];

        if (!path || path[0] == '/' || path[0] == '\0')
            continue;
        if (!here)
            here = getcwd(NULL, 0);
        if (!here)
            return err_set(e, errno, "--%s %s: the current directory: %m", cli_options[paths[i]].name, path);
        if (asprintf(&a->absolute[i], "%s/%s", here, path) < 0) {
            a->absolute[i] = NULL;
            return err_set(e, ENOMEM, "out of memory");
        }
        a->value[paths[i]] = a->absolute[i];
    }
    return 0;
}

bool oci_flag(const struct oci_args *a, enum oci_opt opt)
{
    const char *v = a->value[opt];

    return v && strcmp(v, "false") != 0 && strcmp(v, "0") != 0;
}

const char *oci_opt_next(const struct oci_args *a, enum oci_opt opt, int *at)
{
    unsigned verb = a->verb ? cli_verb_bit(a->verb) : V_GLOBAL;

    while (*at < a->n_words) {
        const char *word = a->words[*at], *value;
        int found = word[0] == '-' && word[1] ? cli_find(word, verb, &value) : -1;

        if (strcmp(word, "--") == 0 || (found < 0 && verb & V_EXEC))
            break;
        ++*at;
        if (found < 0 || cli_options[found].type == T_FLAG)
            continue;
        if (!value)
            value = *at < a->n_words ? a->words[(*at)++] : NULL;
        if (found == (int)opt)
            return value;
    }
    *at = a->n_words;
    return NULL;
}

int oci_opt_u64(const struct oci_args *a, enum oci_opt opt, uint64_t max, uint64_t dflt, uint64_t *ret, struct err *e)
{
    const char *text = a->value[opt];

    if (!text)
        *ret = dflt;
    else if (num_parse_u64(text, 0, max, ret) < 0)
        return err_set(e, EINVAL, "--%s %s: must be a number from 0 to %llu", cli_options[opt].name, text,
                       (unsigned long long)max);
    return 0;
}

void oci_help(struct buf *b)
{
    buf_append_str(b, "Usage: caisson-oci [OPTIONS] VERB [OPTIONS] [ID] ...\n\nOptions:\n ");
    for (size_t i = 0; i < OCI_OPT_COUNT; i++) {
        if (cli_options[i].verbs & V_GLOBAL)
            buf_printf(b, " --%s%s", cli_options[i].name, cli_options[i].type == T_VALUE ? " VALUE" : "");
    }
    buf_append_str(b, "\n\nVerbs:\n");
    for (size_t v = 0; v < ARRAY_SIZE(cli_verbs); v++) {
        buf_printf(b, "  %-10s  %s\n", cli_verbs[v].name, cli_verbs[v].help);
        for (size_t i = 0; i < OCI_OPT_COUNT; i++) {
            if (cli_options[i].verbs & cli_verbs[v].bit && i != OCI_OPT_HELP)
                buf_printf(b, "                --%s%s\n", cli_options[i].name,
                           cli_options[i].type == T_VALUE ? " VALUE" : "");
        }
    }
}
