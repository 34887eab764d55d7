/* caisson stats: what instances use now. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/table.h"
#include "instance/client.h"
#include "proto/exit_code.h"

#define STATS_INTERVAL_NS 2000000000ULL
#define STATS_FIRST_NS 200000000 /* between two looks of --no-stream, for the share of the CPU */

static const struct cli_column stats_columns[] = {
    { .title = "ID", .field = "short_id" },
    { .title = "NAME", .field = "name" },
    { .title = "CPU %", .field = "cpu_percent", .right = true },
    { .title = "MEMORY", .field = "memory", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "LIMIT", .field = "memory_limit", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "NET IN", .field = "rx_bytes", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "NET OUT", .field = "tx_bytes", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "READ", .field = "read_bytes", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "WRITTEN", .field = "write_bytes", .right = true, .cell = CLI_CELL_BYTES },
    { .title = "PIDS", .field = "pids", .right = true },
    { .title = "CPU TIME", .field = "cpu_ns", .right = true, .extra = true },
    { .title = "FULL ID", .field = "id", .extra = true },
};
static const struct cli_table stats_table = { stats_columns, ARRAY_SIZE(stats_columns), "short_id", false };

struct stats_one {
    struct store_instance i;
    uint64_t cpu_ns, at_ns; /* at the last look; 0: none */
};

struct stats {
    struct stats_one *at;
    size_t n;
    bool all;
};

static uint64_t stats_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static struct stats_one *stats_add(struct stats *s)
{
    struct stats_one *grown = reallocarray(s->at, s->n + 1, sizeof(*grown));

    if (!grown)
        return NULL;
    s->at = grown;
    grown[s->n] = (struct stats_one){ 0 };
    return &grown[s->n++];
}

/* Rows are read again by id: fn only borrows them. */
struct stats_ids {
    char (*at)[INST_ID_LEN + 1];
    size_t n;
};

static int stats_collect(void *opaque, const struct store_instance *i)
{
    struct stats_ids *ids = opaque;
    void *grown = reallocarray(ids->at, ids->n + 1, sizeof(*ids->at));

    if (!grown)
        return -ENOMEM;
    ids->at = grown;
    memcpy(ids->at[ids->n++], i->id, sizeof(*ids->at));
    return 0;
}

static int stats_get(struct stats *s, struct store *store, const char *name, struct err *e)
{
    struct stats_one *one = stats_add(s);
    int r = one ? store_instance_get(store, name, &one->i, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0 && one)
        s->n--;
    return r;
}

static int stats_open(struct stats *s, const struct cli_args *args, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    struct stats_ids ids = { 0 };
    struct err gone = { 0 };
    int r = cli_inst_open(STORE_READ, &store, e);

    for (int n = 0; n < args->n_operands && r == 0; n++)
        r = stats_get(s, store, args->operands[n], e);
    if (r == 0 && args->n_operands == 0) {
        r = store_instance_each(store, stats_collect, &ids, e);
        for (size_t n = 0; n < ids.n && r == 0; n++)
            (void)!stats_get(s, store, ids.at[n], &gone);
    }
    free(ids.at);
    return r;
}

static void stats_move(json_object *from, const char *part, const char *key, json_object *row)
{
    json_object *o = from, *v = NULL;

    if (part && !json_object_object_get_ex(from, part, &o))
        o = NULL;
    if (o)
        json_object_object_get_ex(o, key, &v);
    json_object_object_add(row, key, v ? json_object_get(v) : json_object_new_int(0));
}

/* NULL: it does not run. */
static json_object *stats_row(struct stats_one *one, bool all)
{
    const struct shim_msg_request request = { .op = SHIM_MSG_STATS };
    json_object *reply = NULL, *figures = NULL, *row, *v = NULL;
    struct err ignored = { 0 };
    const uint64_t now = stats_now();
    uint64_t cpu;
    char id[INST_ID_SHORT + 1], text[32];
    double percent = 0;

    if (inst_call(&one->i, &request, INST_LOOK_MS, &reply, &ignored) < 0 && !all)
        return NULL;
    if (reply)
        json_object_object_get_ex(reply, "stats", &figures);
    row = json_object_new_object();
    snprintf(id, sizeof(id), "%.*s", INST_ID_SHORT, one->i.id);
    json_object_object_add(row, "id", json_object_new_string(one->i.id));
    json_object_object_add(row, "short_id", json_object_new_string(id));
    json_object_object_add(row, "name", json_object_new_string(one->i.name));
    stats_move(figures, NULL, "cpu_ns", row);
    json_object_object_get_ex(row, "cpu_ns", &v);
    cpu = json_object_get_uint64(v);
    if (one->at_ns && cpu >= one->cpu_ns && now > one->at_ns)
        percent = 100.0 * (double)(cpu - one->cpu_ns) / (double)(now - one->at_ns);
    snprintf(text, sizeof(text), "%.2f", percent);
    one->cpu_ns = cpu;
    one->at_ns = now;
    json_object_object_add(row, "cpu_percent", json_object_new_double_s(percent, text));
    stats_move(figures, NULL, "memory", row);
    stats_move(figures, NULL, "memory_limit", row);
    json_object_object_get_ex(row, "memory_limit", &v);
    if (json_object_get_uint64(v) == 0)
        json_object_object_add(row, "memory_limit", NULL); /* none */
    stats_move(figures, NULL, "pids", row);
    stats_move(figures, "net", "rx_bytes", row);
    stats_move(figures, "net", "tx_bytes", row);
    stats_move(figures, "block", "read_bytes", row);
    stats_move(figures, "block", "write_bytes", row);
    json_object_put(reply);
    return row;
}

static json_object *stats_rows(struct stats *s)
{
    json_object *rows = json_object_new_array(), *row;

    for (size_t i = 0; i < s->n; i++) {
        row = stats_row(&s->at[i], s->all);
        if (row)
            json_object_array_add(rows, row);
    }
    return rows;
}

/* One look; with --json of a stream a line an object. */
static int stats_print(json_object *rows, const struct cli_args *args, bool stream, struct err *e)
{
    int r = 0;

    if (stream && !cli_value(args, "json") && isatty(STDOUT_FILENO))
        printf("\033[H\033[J");
    if (stream && cli_value(args, "json")) {
        for (size_t i = 0; i < json_object_array_length(rows); i++)
            printf("%s\n", json_object_to_json_string_ext(json_object_array_get_idx(rows, i), JSON_C_TO_STRING_PLAIN));
    } else {
        r = cli_table_print(&stats_table, rows, args, stdout, e);
    }
    if (r == 0 && fflush(stdout) != 0)
        r = err_set(e, errno, "cannot write: %s", strerror(errno));
    return r;
}

static int stats_run(struct stats *s, const struct cli_args *args, uint64_t interval_ns, struct err *e)
{
    const bool stream = cli_value(args, "no-stream") == NULL;
    struct timespec nap = { .tv_nsec = STATS_FIRST_NS };
    int r;

    json_object_put(stats_rows(s)); /* the first look, from which CPU time counts */
    do {
        json_object *rows;

        nanosleep(&nap, NULL);
        rows = stats_rows(s);
        r = stats_print(rows, args, stream, e);
        if (r == 0 && stream && args->n_operands > 0 && !s->all && json_object_array_length(rows) == 0)
            r = 1; /* all have ended */
        json_object_put(rows);
        nap = (struct timespec){ (time_t)(interval_ns / 1000000000), (long)(interval_ns % 1000000000) };
    } while (r == 0 && stream);
    return MIN(r, 0);
}

int cli_cmd_stats(const struct cli_args *args)
{
    struct stats s = { .all = cli_value(args, "all") };
    uint64_t interval_ns = STATS_INTERVAL_NS;
    struct err e = { 0 };
    bool given;
    int r = cli_table_check(&stats_table, args, &e);

    if (r == 0)
        r = cli_duration_option(args, "interval", &interval_ns, &given, &e);
    if (r == 0)
        r = stats_open(&s, args, &e);
    if (r == 0)
        r = stats_run(&s, args, interval_ns, &e);
    for (size_t i = 0; i < s.n; i++)
        store_instance_done(&s.at[i].i);
    free(s.at);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
