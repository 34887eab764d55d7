/* caisson logs. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "instance/log.h"
#include "instance/place.h"
#include "proto/exit_code.h"

#define LOGS_POLL_MS 100

struct logs {
    const struct store_instance *i;
    int64_t until_ns;  /* 0: no limit */
    int error;         /* errno of the first write that failed */
    bool times, begun; /* begun: the last entry did not end its line */
    bool both;         /* the streams apart: what went to stderr goes to ours */
};

static int logs_unwritten(struct logs *l)
{
    l->error = errno;
    return -EPIPE;
}

static int logs_print(void *opaque, const struct inst_log_entry *entry)
{
    struct logs *l = opaque;
    FILE *out = entry->stream == INST_LOG_ERR && l->both ? stderr : stdout;
    char time[INST_LOG_TIME_MAX];

    if (l->times && !l->begun) {
        inst_log_time(entry->time_ns, time);
        fprintf(out, "%s ", time);
    }
    fwrite(entry->text, 1, entry->len, out);
    l->begun = entry->len > 0 && entry->text[entry->len - 1] != '\n';
    return ferror(out) ? logs_unwritten(l) : 0;
}

/* Wait a little. The end of the run is the end of the log, unless it runs again by then; the time of --until is too. */
static int logs_wait(void *opaque)
{
    struct logs *l = opaque;
    struct inst_info info;
    struct pollfd out = { .fd = STDOUT_FILENO };

    if (fflush(stdout) < 0 || fflush(stderr) < 0)
        return logs_unwritten(l);
    if (poll(&out, 1, LOGS_POLL_MS) > 0 && out.revents & (POLLERR | POLLNVAL))
        return -EPIPE; /* nobody reads any more */
    if (cli_is_past(l->until_ns))
        return 1;
    return inst_ask(l->i, &info, NULL) == 0 && !info.alive;
}

static int logs_when(const struct cli_args *args, const char *option, int64_t *ret_ns, struct err *e)
{
    const char *text = cli_value(args, option);

    if (text && cli_parse_when(text, ret_ns) < 0)
        return err_set(e, EINVAL, "--%s %s: not a time; give 10m (ago), 2026-01-31, 2026-01-31T12:00:00 or RFC 3339",
                       option, text);
    return 0;
}

static int logs_query(const struct cli_args *args, struct inst_log_query *q, struct err *e)
{
    const char *tail = cli_value(args, "tail");
    int r = logs_when(args, "since", &q->since_ns, e);

    if (r == 0)
        r = logs_when(args, "until", &q->until_ns, e);
    if (r < 0)
        return r;
    q->follow = cli_value(args, "follow") != NULL;
    q->has_tail = tail && strcmp(tail, "all") != 0;
    if (q->has_tail && num_parse_u64(tail, 0, INT64_MAX, &q->tail) < 0)
        return err_set(e, EINVAL, "--tail %s: not a number of lines; give one, or all", tail);
    return 0;
}

int cli_cmd_instance_logs(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    AUTO(store) struct store *store = NULL;
    struct logs l = { .i = i, .times = cli_value(args, "timestamps") != NULL };
    const struct inst_log_reader reader = { logs_print, logs_wait, &l };
    struct inst_log_query q = { 0 };
    char dir[INST_PATH_MAX], logs[INST_PATH_MAX + 8];
    struct err e = { 0 };
    int r = i ? logs_query(args, &q, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    store_close(STEAL(store));
    if (r == 0)
        r = inst_dir(i->id, dir, &e);
    if (r == 0) {
        l.until_ns = q.until_ns;
        l.both = i->spec.kind == INST_CONTAINER && !i->spec.container.terminal;
        snprintf(logs, sizeof(logs), "%s/logs", dir);
        r = inst_log_read(logs, &q, &reader, &e);
        store_instance_done(i);
    }
    return r < 0 && r != -EPIPE ? cli_fail(&e) : cli_output_end(l.error);
}
