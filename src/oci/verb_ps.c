/* `ps`: the processes of a container, as JSON or as a table that ps(1) makes. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/num.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/main.h"
#include "oci/state.h"

#define PS_OUTPUT_MAX (16u << 20)

extern char **environ;

static int ps_json(const pid_t *pids, size_t n, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, PS_OUTPUT_MAX);
    for (size_t i = 0; i < n; i++)
        buf_printf(&b, "%c%d", i ? ',' : '[', (int)pids[i]);
    buf_append_str(&b, n ? "]\n" : "null\n");
    r = oci_print(&b, e);
    buf_done(&b);
    return r;
}

/* Run ps with the options of the command line, or -ef, and take what it prints. */
static int ps_run(const struct oci_args *a, struct buf *out, struct err *e)
{
    AUTO_FREE char **argv = calloc((size_t)a->argc + 3, sizeof(*argv));
    posix_spawn_file_actions_t actions;
    int pipe_fds[2], n = 0, r, status = 0;
    ssize_t got = 0;
    pid_t pid;

    if (!argv)
        return err_set(e, ENOMEM, "ps: out of memory");
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return err_set(e, errno, "ps: cannot make a pipe: %s", strerror(errno));
    argv[n++] = "ps";
    for (int i = 1; i < a->argc; i++)
        argv[n++] = a->argv[i];
    if (n == 1)
        argv[n++] = "-ef";
    r = posix_spawn_file_actions_init(&actions);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
    if (r == 0)
        r = posix_spawnp(&pid, "ps", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    while (r == 0) {
        char text[4096];

        got = read(pipe_fds[0], text, sizeof(text));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        buf_append(out, text, (size_t)got);
    }
    close(pipe_fds[0]);
    if (r != 0)
        return err_set(e, r, "ps: cannot be run: %s; use --format json, or install procps", strerror(r));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    buf_append(out, "", 1);
    if (buf_error(out) < 0 || got < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, EIO, "ps: failed (status %d)", WIFEXITED(status) ? WEXITSTATUS(status) : 128);
    return 0;
}

/* The nth word of a line (from 0); its length is 0 where there is none. */
static const char *ps_word(const char *line, size_t n, size_t *ret_len)
{
    line += strspn(line, " ");
    for (; n > 0 && *line && *line != '\n'; n--) {
        line += strcspn(line, " \n");
        line += strspn(line, " ");
    }
    *ret_len = strcspn(line, " \n");
    return line;
}

static bool ps_listed(const char *line, size_t column, const pid_t *pids, size_t n)
{
    size_t len;
    const char *word = ps_word(line, column, &len);
    char digits[16];
    uint64_t pid;

    if (len == 0 || len >= sizeof(digits))
        return false;
    memcpy(digits, word, len);
    digits[len] = '\0';
    if (num_parse_u64(digits, 1, INT32_MAX, &pid) < 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (pids[i] == (pid_t)pid)
            return true;
    }
    return false;
}

/* Keep the heading, and the lines whose column PID names one of the container's. */
static int ps_filter(const char *text, const pid_t *pids, size_t n, struct buf *out, struct err *e)
{
    size_t column = 0, len;
    const char *word;

    for (;; column++) {
        word = ps_word(text, column, &len);
        if (len == 0)
            return err_set(e, EINVAL, "ps: its options give no column PID, by which the container's are found");
        if (len == 3 && memcmp(word, "PID", 3) == 0)
            break;
    }
    for (bool heading = true; *text; heading = false) {
        len = strcspn(text, "\n");
        if (heading || ps_listed(text, column, pids, n)) {
            buf_append(out, text, len);
            buf_append_str(out, "\n");
        }
        text += len + (text[len] == '\n');
    }
    return 0;
}

static int ps_table(const struct oci_args *a, const pid_t *pids, size_t n, struct err *e)
{
    struct buf all, out;
    int r;

    buf_init(&all, PS_OUTPUT_MAX);
    buf_init(&out, PS_OUTPUT_MAX);
    r = ps_run(a, &all, e);
    if (r == 0)
        r = ps_filter((const char *)all.data, pids, n, &out, e);
    if (r == 0)
        r = oci_print(&out, e);
    buf_done(&all);
    buf_done(&out);
    return r;
}

int oci_verb_ps(const struct oci_args *a, struct err *e)
{
    const char *format = a->value[OCI_OPT_FORMAT] ? a->value[OCI_OPT_FORMAT] : "table";
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    AUTO_FREE pid_t *pids = NULL;
    size_t n = 0;
    int r;

    if (strcmp(format, "table") != 0 && strcmp(format, "json") != 0)
        return err_set(e, EINVAL, "--format %s: must be table or json", format);
    r = oci_state_open(a, a->argv[0], &s, e);
    if (r == 0)
        r = oci_container_cgroup(s, "which alone know its processes", &g, e);
    if (r == 0)
        r = oci_cgroup_pids(g, true, &pids, &n, e);
    if (r < 0)
        return r;
    return strcmp(format, "json") == 0 ? ps_json(pids, n, e) : ps_table(a, pids, n, e);
}
