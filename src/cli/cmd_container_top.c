/* caisson top: the processes of a container. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "instance/container_root.h"
#include "proto/exit_code.h"

static const struct cli_column top_columns[] = {
    { .title = "USER", .field = "user", .right = true },
    { .title = "PID", .field = "pid", .right = true },
    { .title = "PPID", .field = "ppid", .right = true },
    { .title = "STATE", .field = "state" },
    { .title = "MEMORY", .field = "memory", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "ELAPSED", .field = "elapsed_s", .right = true },
    { .title = "CPU", .field = "cpu_s", .right = true },
    { .title = "COMMAND", .field = "command" },
    { .title = "HOST PID", .field = "host_pid", .right = true, .extra = true },
};
static const struct cli_table top_table = { top_columns, ARRAY_SIZE(top_columns), "host_pid", false };

/* A small file of /proc, ending with a zero; its length, or -1. */
static ssize_t top_read(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    AUTO_FD int fd = -1;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, size - 1);
    text[n < 0 ? 0 : n] = '\0';
    return n;
}

/* The digits that text begins with. */
static uint64_t top_number(const char *text)
{
    char digits[24];
    uint64_t n = 0;

    snprintf(digits, sizeof(digits), "%.*s", (int)MIN(strspn(text, "0123456789"), sizeof(digits) - 1), text);
    return num_parse_u64(digits, 0, UINT64_MAX, &n) < 0 ? 0 : n;
}

/* The last number of the line "NSpid:..." in status: the pid as the innermost namespace has it. */
static long top_inner_pid(const char *status, pid_t pid)
{
    const char *line = strstr(status, "\nNSpid:"), *end = line ? strchr(line + 1, '\n') : NULL;

    while (end && end > line && end[-1] != '\t' && end[-1] != ' ')
        end--;
    return end ? (long)top_number(end) : pid;
}

/* Fields of /proc/PID/stat behind the name, from the third on. */
enum {
    TOP_STATE = 0,
    TOP_PPID = 1,
    TOP_UTIME = 11,
    TOP_STIME = 12,
    TOP_START = 19,
    TOP_RESIDENT = 21,
    TOP_FIELDS = 22
};

static bool top_fields(char *text, const char *ret_field[TOP_FIELDS])
{
    char *save = NULL, *word = strtok_r(text, " ", &save);
    size_t n = 0;

    for (; word && n < TOP_FIELDS; word = strtok_r(NULL, " ", &save))
        ret_field[n++] = word;
    return n == TOP_FIELDS;
}

/* The command line with blanks between its words; the name of one that has none. */
static void top_command(pid_t pid, const char *stat_, char *command, size_t size)
{
    ssize_t n = top_read(pid, "cmdline", command, size);
    const char *name = strchr(stat_, '(');

    for (ssize_t i = 0; i + 1 < n; i++)
        command[i] = command[i] ? command[i] : ' ';
    if (n <= 0) /* one that has ended, or a kernel thread */
        snprintf(command, size, "[%.*s]", name ? (int)strcspn(name + 1, ")") : 0, name ? name + 1 : "");
}

static json_object *top_row(pid_t pid)
{
    char stat_[1024], status[4096], command[4096], *tail;
    const double ticks = (double)sysconf(_SC_CLK_TCK);
    const char *field[TOP_FIELDS], *uid;
    struct timespec now;
    json_object *o;
    double cpu;

    if (top_read(pid, "stat", stat_, sizeof(stat_)) <= 0 || top_read(pid, "status", status, sizeof(status)) <= 0)
        return NULL;
    top_command(pid, stat_, command, sizeof(command));
    tail = strrchr(stat_, ')');
    uid = strstr(status, "\nUid:\t");
    if (!tail || !uid || !top_fields(tail + 1, field))
        return NULL;
    cpu = (double)(top_number(field[TOP_UTIME]) + top_number(field[TOP_STIME])) / ticks;
    clock_gettime(CLOCK_BOOTTIME, &now);
    o = json_object_new_object();
    json_object_object_add(o, "user", json_object_new_uint64(top_number(uid + 6)));
    json_object_object_add(o, "pid", json_object_new_int64(top_inner_pid(status, pid)));
    json_object_object_add(o, "ppid", json_object_new_uint64(top_number(field[TOP_PPID])));
    json_object_object_add(o, "state", json_object_new_string(field[TOP_STATE]));
    json_object_object_add(o, "memory",
                           json_object_new_uint64(top_number(field[TOP_RESIDENT]) * (uint64_t)sysconf(_SC_PAGESIZE)));
    json_object_object_add(
        o, "elapsed_s",
        json_object_new_int64((int64_t)((double)now.tv_sec - (double)top_number(field[TOP_START]) / ticks)));
    json_object_object_add(o, "cpu_s", json_object_new_double(cpu));
    json_object_object_add(o, "command", json_object_new_string(command));
    json_object_object_add(o, "host_pid", json_object_new_int(pid));
    return o;
}

/* Parents as the container sees them: those that are not in it are 0. */
static void top_parents(json_object *rows)
{
    const size_t n = json_object_array_length(rows);

    for (size_t i = 0; i < n; i++) {
        json_object *o = json_object_array_get_idx(rows, i), *v = NULL;
        int ppid, found = 0;

        json_object_object_get_ex(o, "ppid", &v);
        ppid = json_object_get_int(v);
        for (size_t k = 0; k < n && !found; k++) {
            json_object *other = json_object_array_get_idx(rows, k), *pid = NULL;

            json_object_object_get_ex(other, "host_pid", &v);
            json_object_object_get_ex(other, "pid", &pid);
            if (json_object_get_int(v) == ppid)
                found = json_object_get_int(pid);
        }
        json_object_object_add(o, "ppid", json_object_new_int(found));
    }
}

int cli_cmd_top(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    json_object *rows = json_object_new_array();
    AUTO(store) struct store *store = NULL;
    AUTO_FREE pid_t *pids = NULL;
    struct err e = { 0 };
    size_t n = 0;
    int r = i ? cli_table_check(&top_table, args, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    if (r == 0) {
        store_close(STEAL(store));
        r = inst_container_pids(i, &pids, &n, &e);
        store_instance_done(i);
    }
    for (size_t p = 0; p < n && r == 0; p++) {
        json_object *row = top_row(pids[p]);

        if (row) /* else it has ended meanwhile */
            json_object_array_add(rows, row);
    }
    top_parents(rows);
    if (r == 0)
        r = cli_table_print(&top_table, rows, args, stdout, &e);
    json_object_put(rows);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
