/* Lists of objects for users and for scripts: a borderless table, JSON, chosen columns, CSV, a template, or names only
 * (docs/caisson.1, "Output"). A command collects its objects as a JSON array, one object a row, and describes the
 * columns; all nouns print by this. Text that comes from guests or the network cannot reach the terminal as control
 * characters. */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/attr.h"
#include "base/err.h"

struct cli_args;
struct json_object;

#define CLI_TABLE_COLUMNS_MAX 32

/* What a value is, for people: in tables it is written for them, for programs (--json, csv, templates) as it is. */
enum cli_cell {
    CLI_CELL_PLAIN,
    CLI_CELL_BYTES,    /* a size: "1.5 GiB" */
    CLI_CELL_STATUS,   /* a word, in colour on a terminal: "running" */
    CLI_CELL_TIME,     /* RFC 3339: "2026-11-27 14:51", in local time */
    CLI_CELL_AGO,      /* RFC 3339: "5 minutes ago" */
    CLI_CELL_DURATION, /* nanoseconds: "1m 30s" */
    CLI_CELL_ID,       /* a long hexadecimal number: its first 12 digits */
};

struct cli_column {
    const char *title; /* heading */
    const char *field; /* member of the row's object, also its name for --format */
    bool right;        /* numbers: right-aligned */
    bool extra;        /* printed where --format asks for it only */
    enum cli_cell cell;
};

struct cli_table {
    const struct cli_column *columns;
    size_t n_columns; /* <= CLI_TABLE_COLUMNS_MAX */
    const char *id;   /* the field that -q prints */
    bool open;        /* a template may name any member of the rows, also by a path: {{spec.labels}} */
};

/* Rows of the command table that every command with a list has; and those of an inspect that takes --format. */
#define CLI_TABLE_OPTIONS                                   \
    CLI_FORMAT_OPTIONS(0),                                  \
    {                                                       \
        "quiet", 'q', NULL, "print names only", NULL, false \
    }
#define CLI_INSPECT_OPTIONS CLI_FORMAT_OPTIONS('f')
#define CLI_FORMAT_OPTIONS(letter)                                                                              \
    { "json", 0, NULL, "print JSON: an array of objects with all fields", NULL, false },                        \
    {                                                                                                           \
        "format", letter, "FIELD[,FIELD]...|csv[:FIELD,...]|json|TEMPLATE",                                     \
            "print these fields, CSV, JSON, or a line for each by a template with {{FIELD}}", "csv json", false \
    }

/* Check the options of the above kind before the work is done: exclude each other, known fields. -EINVAL with text. */
int cli_table_check(const struct cli_table *t, const struct cli_args *args, struct err *e) MUST_USE;

/* Print rows (a JSON array of objects; borrowed) to out as args say. -EINVAL as above; -EIO and the like: out cannot be
 * written. */
int cli_table_print(const struct cli_table *t, struct json_object *rows, const struct cli_args *args, FILE *out,
                    struct err *e) MUST_USE;

/* Print each object of rows in full for people: a line for each member, lists of objects with a line for each. */
int cli_table_print_fields(struct json_object *rows, FILE *out, struct err *e) MUST_USE;

/* Whether to write in colour to out: a terminal, and no NO_COLOR in the environment. */
bool cli_color_wanted(FILE *out);
/* "5 minutes ago", "in 2 hours"; both in ns since 1970. */
const char *cli_ago_text(int64_t when_ns, int64_t now_ns, char out[48]);
/* "1m 30s" */
const char *cli_duration_text(uint64_t ns, char out[32]);

/* Print one JSON value over several lines, as --json does. */
int cli_json_print(struct json_object *value, FILE *out, struct err *e) MUST_USE;

#endif
