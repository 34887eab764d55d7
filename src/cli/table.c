#include "cli/table.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/word.h"
#include "cli/cell.h"
#include "cli/command.h"

#define TABLE_CELL_MAX (64U << 10)
#define TABLE_FIELDS_MAX (16U << 20)
#define TABLE_GAP 2

/* What to print: the columns chosen, and how. */
struct table_plan {
    const struct cli_table *table;
    const struct cli_column *columns[CLI_TABLE_COLUMNS_MAX];
    size_t n_columns;
    enum { TABLE_TEXT, TABLE_CSV, TABLE_TEMPLATE, TABLE_IDS, TABLE_JSON } kind;
    const char *pattern;
};

/* ---- cells ---- */

/* C1 control characters are two bytes in UTF-8. */
static bool table_is_control(const char *p)
{
    unsigned char c = (unsigned char)p[0], next = (unsigned char)p[c != 0];

    return c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next < 0xa0);
}

static void table_append_clean(struct buf *b, const char *text)
{
    for (const char *p = text; *p; p++) {
        bool control = table_is_control(p);

        buf_append(b, control ? "?" : p, 1);
        p += control && (unsigned char)*p == 0xc2;
    }
}

/* The text of a cell. For people, what is not there is a dash and flags are words. A list of plain values is joined. */
static void table_append_value(struct buf *b, json_object *v, bool for_people)
{
    switch (json_object_get_type(v)) {
    case json_type_null:
        buf_append_str(b, for_people ? "-" : "");
        break;
    case json_type_boolean:
        if (for_people)
            buf_append_str(b, json_object_get_boolean(v) ? "yes" : "no");
        else
            buf_append_str(b, json_object_get_boolean(v) ? "true" : "false");
        break;
    case json_type_string:
        table_append_clean(b, json_object_get_string_len(v) == 0 && for_people ? "-" : json_object_get_string(v));
        break;
    case json_type_array:
        if (json_object_array_length(v) == 0 && for_people)
            buf_append_str(b, "-");
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            buf_append_str(b, i ? "," : "");
            table_append_value(b, json_object_array_get_idx(v, i), for_people);
        }
        break;
    default:
        table_append_clean(b,
                           json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    }
}

/* The text of what a row has as field; malloc'd. */
static int table_value_cell(json_object *v, const char *field, bool for_people, char **ret_text, struct err *e)
{
    struct buf b;

    buf_init(&b, TABLE_CELL_MAX);
    table_append_value(&b, v, for_people);
    buf_append(&b, "", 1);
    if (buf_error(&b) < 0) {
        int r = buf_error(&b);

        buf_done(&b);
        return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory")
                            : err_set(e, EOVERFLOW, "field %s is too long for a table; use --json", field);
    }
    *ret_text = (char *)b.data;
    return 0;
}

static int table_cell(json_object *row, const char *field, bool for_people, char **ret_text, struct err *e)
{
    json_object *v = NULL;

    json_object_object_get_ex(row, field, &v);
    return table_value_cell(v, field, for_people, ret_text, e);
}

/* A cell of a table for people. */
static int table_cell_text(json_object *row, const struct cli_column *c, char **ret_text, struct err *e)
{
    json_object *v = NULL;
    char text[64];

    if (c->cell == CLI_CELL_PLAIN || c->cell == CLI_CELL_STATUS || !json_object_object_get_ex(row, c->field, &v) ||
        !cli_cell_text(c->cell, v, text, sizeof(text)))
        return table_cell(row, c->field, true, ret_text, e);
    *ret_text = strdup(text);
    return *ret_text ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* Columns on a terminal: code points, which is right for all but wide and combining characters. */
static size_t table_width(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* ---- the plan ---- */

static const char *table_field_at(const void *opaque, size_t i)
{
    const struct cli_table *t = opaque;

    return i < t->n_columns ? t->columns[i].field : NULL;
}

/* Fields may be written as users of Docker do: ".ExitCode", ".Names". */
static bool table_is_field(const char *field, const char *word, size_t len)
{
    size_t i = len > 0 && word[0] == '.';

    for (; i < len && *field; i++) {
        if (*field == '_' && word[i] != '_')
            field++;
        if (tolower((unsigned char)word[i]) != (unsigned char)*field)
            return false;
        field++;
    }
    return !*field && (i == len || (i + 1 == len && tolower((unsigned char)word[i]) == 's'));
}

static const struct cli_column *table_look(const struct cli_table *t, const char *word, size_t len)
{
    for (size_t i = 0; i < t->n_columns; i++) {
        if (table_is_field(t->columns[i].field, word, len))
            return &t->columns[i];
    }
    return NULL;
}

static const struct cli_column *table_find(const struct cli_table *t, const char *field, size_t len, struct err *e)
{
    const struct cli_column *found = table_look(t, field, len);
    char word[64], list[256] = "";
    const char *near;
    size_t used = 0;

    if (found)
        return found;
    for (size_t i = 0; i < t->n_columns && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", t->columns[i].field);
    snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word) - 1), field);
    near = word_nearest(word, table_field_at, t);
    if (near)
        err_set(e, EINVAL, "--format: unknown field '%s'; did you mean '%s'?", word, near);
    else
        err_set(e, EINVAL, "--format: unknown field '%s'; there are %s", word, list);
    return NULL;
}

static int table_plan_fields(struct table_plan *plan, const char *list, struct err *e)
{
    plan->n_columns = 0;
    for (const char *p = list;; p++) {
        size_t len = strcspn(p, ",");

        if (plan->n_columns == CLI_TABLE_COLUMNS_MAX)
            return err_set(e, EINVAL, "--format: more than %d fields", CLI_TABLE_COLUMNS_MAX);
        plan->columns[plan->n_columns] = table_find(plan->table, p, len, e);
        if (!plan->columns[plan->n_columns++])
            return -EINVAL;
        p += len;
        if (*p == '\0')
            return 0;
    }
}

/* What a path of members, and of numbers in lists, leads to. */
static bool table_walk(json_object *at, const char *path, size_t len, json_object **ret_v)
{
    const char *end = path + len;
    bool found = true;

    for (const char *p = path + (*path == '.'); found && p < end;) {
        size_t n = MIN(strcspn(p, "."), (size_t)(end - p));
        char key[64];
        uint64_t i;

        snprintf(key, sizeof(key), "%.*s", (int)MIN(n, sizeof(key) - 1), p);
        if (json_object_is_type(at, json_type_array)) {
            found = num_parse_u64(key, 0, INT32_MAX, &i) == 0 && i < json_object_array_length(at);
            at = found ? json_object_array_get_idx(at, i) : NULL;
        } else {
            found = json_object_is_type(at, json_type_object) && json_object_object_get_ex(at, key, &at);
        }
        p += n + (p + n < end);
    }
    *ret_v = at;
    return found;
}

/* One {{FIELD}} of a template. row NULL: only whether it can be known. */
static int table_template_field(const struct table_plan *plan, json_object *row, const char *word, size_t len,
                                struct buf *out, struct err *e)
{
    const struct cli_column *c = table_look(plan->table, word, len);
    AUTO_FREE char *cell = NULL;
    json_object *v = NULL;
    int r;

    if (!row && (c || plan->table->open))
        return 0;
    if (c)
        json_object_object_get_ex(row, c->field, &v);
    else if (!row || !plan->table->open || !table_walk(row, word, len, &v))
        return table_find(plan->table, word, len, e) ? 0 : -EINVAL;
    r = table_value_cell(v, c ? c->field : "of the template", false, &cell, e);
    if (r == 0)
        buf_append_str(out, cell);
    return r;
}

/* A template: {{FIELD}}, \n, \t and \\; everything else stands for itself. Both checks it and, with a row, writes it.
 */
static int table_template(const struct table_plan *plan, json_object *row, struct buf *out, struct err *e)
{
    for (const char *p = plan->pattern; *p; p++) {
        const char *end = strncmp(p, "{{", 2) == 0 ? strstr(p, "}}") : NULL;
        int r;

        if (p[0] == '\\' && p[1] && strchr("nt\\", p[1])) {
            p++;
            if (row)
                buf_append(out, *p == 'n' ? "\n" : *p == 't' ? "\t" : "\\", 1);
            continue;
        }
        if (!end && strncmp(p, "{{", 2) == 0)
            return err_set(e, EINVAL, "--format: '%.40s' has no end; write {{FIELD}}", p);
        if (!end) {
            if (row)
                buf_append(out, p, 1);
            continue;
        }
        r = table_template_field(plan, row, p + 2, (size_t)(end - p - 2), out, e);
        if (r < 0)
            return r;
        p = end + 1;
    }
    return 0;
}

static int table_make_plan(const struct cli_table *t, const struct cli_args *args, struct table_plan *plan,
                           struct err *e)
{
    const char *format = cli_value(args, "format");
    bool json = cli_value(args, "json") != NULL, quiet = cli_value(args, "quiet") != NULL;

    *plan = (struct table_plan){ .table = t, .kind = json ? TABLE_JSON : quiet ? TABLE_IDS : TABLE_TEXT };
    if (json + quiet + (format != NULL) > 1)
        return err_set(e, EINVAL, "--json, --format and --quiet exclude each other; give one");
    for (size_t i = 0; i < t->n_columns; i++) {
        if (!t->columns[i].extra)
            plan->columns[plan->n_columns++] = &t->columns[i];
    }
    if (!format)
        return 0;
    if (strcmp(format, "json") == 0) {
        plan->kind = TABLE_JSON;
        return 0;
    }
    if (strstr(format, "{{")) {
        plan->kind = TABLE_TEMPLATE;
        plan->pattern = format;
        return table_template(plan, NULL, NULL, e);
    }
    if (strcmp(format, "csv") == 0 || strncmp(format, "csv:", 4) == 0) {
        plan->kind = TABLE_CSV;
        return format[3] ? table_plan_fields(plan, format + 4, e) : 0;
    }
    return table_plan_fields(plan, format, e);
}

int cli_table_check(const struct cli_table *t, const struct cli_args *args, struct err *e)
{
    struct table_plan plan;

    return table_make_plan(t, args, &plan, e);
}

/* ---- printing ---- */

/* Print a cell of a table; the last one of a line is not filled up. */
static void table_put(const struct table_plan *plan, size_t i, const char *text, size_t width, const char *color,
                      FILE *out)
{
    size_t fill = width - table_width(text);
    bool last = i + 1 == plan->n_columns;
    const char *end = color[0] ? "\033[0m" : "";

    if (plan->columns[i]->right)
        fprintf(out, "%*s%s%s%s%*s", (int)fill, "", color, text, end, last ? 0 : TABLE_GAP, "");
    else
        fprintf(out, "%s%s%s%*s", color, text, end, last ? 0 : (int)fill + TABLE_GAP, "");
    if (last)
        fputc('\n', out);
}

static int table_print_text(const struct table_plan *plan, json_object *rows, FILE *out, struct err *e)
{
    size_t n = json_object_array_length(rows), widths[CLI_TABLE_COLUMNS_MAX];
    char **cells = calloc(n * plan->n_columns + 1, sizeof(*cells));
    int r = cells ? 0 : err_set(e, ENOMEM, "out of memory");
    bool color = cli_color_wanted(out);

    for (size_t i = 0; i < plan->n_columns; i++)
        widths[i] = table_width(plan->columns[i]->title);
    for (size_t i = 0; r == 0 && i < n * plan->n_columns; i++) {
        size_t column = i % plan->n_columns;

        r = table_cell_text(json_object_array_get_idx(rows, i / plan->n_columns), plan->columns[column], &cells[i], e);
        if (r == 0)
            widths[column] = MAX(widths[column], table_width(cells[i]));
    }
    for (size_t i = 0; r == 0 && i < plan->n_columns; i++)
        table_put(plan, i, plan->columns[i]->title, widths[i], "", out);
    for (size_t i = 0; r == 0 && i < n * plan->n_columns; i++) {
        size_t k = i % plan->n_columns;
        bool status = color && plan->columns[k]->cell == CLI_CELL_STATUS;

        table_put(plan, k, cells[i], widths[k], status ? cli_cell_color(cells[i]) : "", out);
    }
    for (size_t i = 0; cells && i < n * plan->n_columns; i++)
        free(cells[i]);
    free(cells);
    return r;
}

/* RFC 4180: quotes where needed, doubled inside. */
static void table_put_csv(const char *text, FILE *out)
{
    if (!strpbrk(text, ",\"")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static int table_print_row(const struct table_plan *plan, json_object *row, FILE *out, struct err *e)
{
    AUTO_FREE char *id = NULL;
    struct buf b;
    int r = 0;

    if (plan->kind == TABLE_IDS) {
        r = table_cell(row, plan->table->id, false, &id, e);
        if (r == 0)
            fprintf(out, "%s\n", id);
        return r;
    }
    if (plan->kind == TABLE_TEMPLATE) {
        buf_init(&b, TABLE_CELL_MAX);
        r = table_template(plan, row, &b, e);
        if (r == 0 && buf_error(&b) < 0)
            r = err_set(e, EOVERFLOW, "--format: the line is too long; use --json");
        if (r == 0)
            fprintf(out, "%.*s\n", (int)b.len, b.len ? (const char *)b.data : "");
        buf_done(&b);
        return r;
    }
    for (size_t i = 0; i < plan->n_columns && r == 0; i++) {
        AUTO_FREE char *cell = NULL;

        r = table_cell(row, plan->columns[i]->field, false, &cell, e);
        if (r == 0)
            table_put_csv(cell, out);
        if (r == 0)
            fputc(i + 1 < plan->n_columns ? ',' : '\n', out);
    }
    return r;
}

static int table_flush(FILE *out, struct err *e)
{
    if (fflush(out) != 0 || ferror(out))
        return err_set(e, errno ? errno : EIO, "cannot write the output: %s", strerror(errno ? errno : EIO));
    return 0;
}

int cli_json_print(json_object *value, FILE *out, struct err *e)
{
    const char *text = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                                 JSON_C_TO_STRING_NOSLASHESCAPE);

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    errno = 0;
    fprintf(out, "%s\n", text);
    return table_flush(out, e);
}

int cli_table_print(const struct cli_table *t, json_object *rows, const struct cli_args *args, FILE *out, struct err *e)
{
    struct table_plan plan;
    int r = table_make_plan(t, args, &plan, e);

    if (r < 0)
        return r;
    if (plan.kind == TABLE_JSON)
        return cli_json_print(rows, out, e);
    errno = 0;
    if (plan.kind == TABLE_TEXT) {
        r = table_print_text(&plan, rows, out, e);
        return r < 0 ? r : table_flush(out, e);
    }
    for (size_t i = 0; plan.kind == TABLE_CSV && i < plan.n_columns; i++)
        fprintf(out, "%s%c", plan.columns[i]->field, i + 1 < plan.n_columns ? ',' : '\n');
    for (size_t i = 0; i < json_object_array_length(rows) && r == 0; i++)
        r = table_print_row(&plan, json_object_array_get_idx(rows, i), out, e);
    return r < 0 ? r : table_flush(out, e);
}

/* ---- one object in full ---- */

static bool table_is_object_list(json_object *v)
{
    return json_object_is_type(v, json_type_array) && json_object_array_length(v) > 0 &&
           json_object_is_type(json_object_array_get_idx(v, 0), json_type_object);
}

/* Members of an object in a list; those of objects inside it too, but for numbers that are 0 (counters). */
static void table_append_members(struct buf *b, json_object *o)
{
    const char *gap = "";

    json_object_object_foreach(o, key, v)
    {
        if (json_object_is_type(v, json_type_object)) {
            json_object_object_foreach(v, inner, number)
            {
                if (json_object_is_type(number, json_type_int) && json_object_get_int64(number) != 0)
                    buf_printf(b, "%s%s=%s", gap, inner,
                               json_object_to_json_string_ext(number, JSON_C_TO_STRING_PLAIN));
            }
            continue;
        }
        buf_append_str(b, gap);
        table_append_clean(b, key);
        buf_append_str(b, "=");
        table_append_value(b, v, true);
        gap = " ";
    }
}

static void table_append_field(struct buf *b, const char *key, json_object *v, size_t width)
{
    size_t len = table_width(key);

    table_append_clean(b, key);
    buf_printf(b, ":%*s", (int)(width > len ? width - len : 0) + 1, "");
    if (!table_is_object_list(v)) {
        table_append_value(b, v, true);
        buf_append_str(b, "\n");
        return;
    }
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        if (i > 0)
            buf_printf(b, "%*s", (int)width + 2, "");
        table_append_members(b, json_object_array_get_idx(v, i));
        buf_append_str(b, "\n");
    }
}

int cli_table_print_fields(json_object *rows, FILE *out, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, TABLE_FIELDS_MAX);
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        json_object *row = json_object_array_get_idx(rows, i);
        size_t width = 0;

        json_object_object_foreach(row, key, v)
        {
            (void)v;
            width = MAX(width, table_width(key));
        }
        buf_append_str(&b, i ? "\n" : "");
        json_object_object_foreach(row, name, value)
        {
            table_append_field(&b, name, value, width);
        }
    }
    r = buf_error(&b);
    errno = 0;
    if (r == 0)
        fwrite(b.data, 1, b.len, out);
    buf_done(&b);
    return r < 0 ? err_set(e, -r, "cannot print this: %s; use --json", strerror(-r)) : table_flush(out, e);
}
