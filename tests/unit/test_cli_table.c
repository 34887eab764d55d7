/* Lists for users: alignment, what hostile text becomes, CSV, templates, objects in full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/table.h"
#include "proto/json.h"

static const struct cli_column columns[] = {
    { "NAME", "name", false, false, false }, { "SIZE", "size", true, false, false },
    { "ON", "on", false, false, false },     { "TAGS", "tags", false, true, false },
    { "ROOM", "room", true, true, true },    { "CODE", "exit_code", true, true, false },
};
static const struct cli_table table = { .columns = columns, .n_columns = ARRAY_SIZE(columns), .id = "name" };
static const struct cli_option options[] = { CLI_TABLE_OPTIONS };

/* Print rows (JSON text) of t with one option or none; the caller frees. */
static char *print_table(const struct cli_table *t, const char *rows_text, const char *option, const char *value,
                         int want, struct err *e)
{
    json_object *rows = json_tokener_parse(rows_text);
    struct cli_args args = { 0 };
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(rows);
    for (size_t i = 0; option && i < ARRAY_SIZE(options); i++) {
        if (strcmp(options[i].name, option) == 0)
            args.given[args.n_given++] = (struct cli_given){ &options[i], value };
    }
    if (!t->open) /* else what there is shows with the rows only */
        assert_int_equal(cli_table_check(t, &args, e), want);
    assert_int_equal(cli_table_print(t, rows, &args, out, e), want);
    fclose(out);
    json_object_put(rows);
    return text;
}

static char *print(const char *rows_text, const char *option, const char *value, int want, struct err *e)
{
    return print_table(&table, rows_text, option, value, want, e);
}

static void expect(const char *rows, const char *option, const char *value, const char *want)
{
    struct err e = { 0 };
    char *text = print(rows, option, value, 0, &e);

    assert_string_equal(text, want);
    free(text);
}

#define ROWS                                                                                                    \
    "[{\"name\":\"a\",\"size\":12345,\"on\":true,\"tags\":[\"x\",\"y\"]},{\"name\":\"l\xc3\xb6ng\",\"size\":7," \
    "\"on\":false}]"

static void test_forms(void **state)
{
    (void)state;
    expect(ROWS, NULL, NULL, "NAME   SIZE  ON\na     12345  yes\nl\xc3\xb6ng      7  no\n");
    expect("[]", NULL, NULL, "NAME  SIZE  ON\n");
    expect("[{\"name\":\"a\",\"room\":1536},{\"name\":\"b\"}]", "format", "name,room",
           "NAME     ROOM\na     1.5 KiB\nb           -\n");
    expect("[{\"name\":\"a\",\"room\":1536}]", "format", "csv:room,name", "room,name\n1536,a\n");
    expect("[]", "quiet", NULL, "");
    expect("[]", "json", NULL, "[\n]\n");
    expect(ROWS, "quiet", NULL, "a\nl\xc3\xb6ng\n");
    expect(ROWS, "format", "tags,size", "TAGS   SIZE\nx,y   12345\n-         7\n");
    expect(ROWS, "format", "csv", "name,size,on\na,12345,true\nl\xc3\xb6ng,7,false\n");
    expect(ROWS, "format", "csv:tags,name", "tags,name\n\"x,y\",a\n,l\xc3\xb6ng\n");
    expect(ROWS, "format", "{{name}}={{on}}\\t{ }} \\\\", "a=true\t{ }} \\\nl\xc3\xb6ng=false\t{ }} \\\n");
}

/* Fields as users of other tools write them, and any member by its path where a table is open. */
static void test_words(void **state)
{
    static const struct cli_table open = {
        .columns = columns, .n_columns = ARRAY_SIZE(columns), .id = "name", .open = true
    };
    static const char rows[] =
        "[{\"name\":\"a\",\"exit_code\":3,\"size\":1,\"spec\":{\"args\":[\"x\",\"y z\"],\"deep\":{}}}]";
    static const char *const good[][2] = {
        { "{{.Names}} {{.ExitCode}} {{exit_code}}", "a 3 3\n" },
        { "{{.spec.args}}|{{spec.args.1}}|{{.spec.deep}}", "x,y z|y z|{}\n" },
        { "{{.spec}}", "{\"args\":[\"x\",\"y z\"],\"deep\":{}}\n" },
    };
    static const char *const bad[] = { "{{.spec.none}}", "{{spec.args.2}}", "{{spec.args.x}}", "{{name.more}}",
                                       "{{.Namess}}" };

    (void)state;
    expect(rows, "format", ".Name,SIZE", "NAME  SIZE\na        1\n");
    expect("[]", "format", "json", "[\n]\n");
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct err e = { 0 };
        char *text = print_table(&open, rows, "format", good[i][0], 0, &e);

        assert_string_equal(text, good[i][1]);
        free(text);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = { 0 };
        char *text = print_table(&open, rows, "format", bad[i], -EINVAL, &e);

        assert_non_null(strstr(e.text, "unknown field"));
        assert_string_equal(text, "");
        free(text);
    }
}

/* Host names of leases come from guests: no escape sequence may reach the terminal, nor a line be forged. */
static void test_hostile(void **state)
{
    static const char rows[] = "[{\"name\":\"\\u001b[2Jx\\ny\\u007f\\u009b\xc2\xa0z\",\"size\":null,\"on\":\"\"}]";
    static const char quotes[] = "[{\"name\":\"say \\\"hi\\\", ok\",\"size\":1,\"on\":null}]";

    (void)state;
    expect(rows, NULL, NULL, "NAME         SIZE  ON\n?[2Jx?y??\xc2\xa0z     -  -\n");
    expect(rows, "quiet", NULL, "?[2Jx?y??\xc2\xa0z\n");
    expect(rows, "format", "{{name}}", "?[2Jx?y??\xc2\xa0z\n");
    expect(quotes, "format", "csv:name", "name\n\"say \"\"hi\"\", ok\"\n");
}

static void test_refused(void **state)
{
    static const char *const bad[][2] = {
        { "nmae", "did you mean 'name'" },        { "name,,on", "unknown field ''" },
        { "csv:", "unknown field ''" },           { "{{zip}}", "unknown field 'zip'" },
        { "{{name}} {{on", "has no end" },        { "", "name, size, on, tags, room, exit_code" },
        { "csv:name,who", "unknown field 'who'" }
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = { 0 };
        char *text = print("[]", "format", bad[i][0], -EINVAL, &e);

        if (!strstr(e.text, bad[i][1]))
            fail_msg("'%s': '%s' does not say '%s'", bad[i][0], e.text, bad[i][1]);
        assert_string_equal(text, "");
        free(text);
    }
}

static void test_fields(void **state)
{
    json_object *rows = json_tokener_parse("[{\"name\":\"a\",\"list\":[1,2],\"ports\":[{\"n\":1,\"up\":true,"
                                           "\"counters\":{\"in\":5,\"out\":0}},{\"n\":2}],\"none\":null}]");
    struct err e = { 0 };
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    assert_int_equal(cli_table_print_fields(rows, out, &e), 0);
    fclose(out);
    assert_string_equal(text, "name:  a\nlist:  1,2\nports: n=1 up=yes in=5\n       n=2\nnone:  -\n");
    free(text);
    json_object_put(rows);
}

static void test_time(void **state)
{
    json_object *t = proto_json_time(1700000000LL * 1000000000 + 999999999);

    (void)state;
    assert_string_equal(json_object_get_string(t), "2023-11-14T22:13:20Z");
    json_object_put(t);
}

static void test_cells(void **state)
{
    static const struct cli_column of[] = {
        { "ID", "id", false, false, CLI_CELL_ID },       { "STATE", "state", false, false, CLI_CELL_STATUS },
        { "TIME", "time", false, false, CLI_CELL_TIME }, { "UP", "up", true, false, CLI_CELL_DURATION },
        { "SIZE", "size", true, false, CLI_CELL_BYTES },
    };
    static const struct cli_table cells = { .columns = of, .n_columns = ARRAY_SIZE(of), .id = "id" };
    json_object *rows =
        json_tokener_parse("[{\"id\": \"sha256:0123456789abcdef0123\", \"state\": \"running\", \"time\": "
                           "\"2026-11-27T14:51:03.5Z\", \"up\": 90000000000, \"size\": 1536},"
                           "{\"id\": \"web\", \"state\": null, \"time\": \"soon\", \"up\": \"x\"}]");
    struct cli_args args = { 0 };
    struct err e = { 0 };
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    setenv("TZ", "UTC", 1);
    assert_int_equal(cli_table_print(&cells, rows, &args, out, &e), 0);
    fclose(out);
    assert_string_equal(text, "ID            STATE    TIME                  UP     SIZE\n"
                              "0123456789ab  running  2026-11-27 14:51  1m 30s  1.5 KiB\n"
                              "web           -        soon                   x        -\n");
    free(text);
    json_object_put(rows);
}

static void test_times(void **state)
{
    static const int64_t second = 1000000000;
    char out[48];

    (void)state;
    assert_string_equal(cli_ago_text(0, 0, out), "now");
    assert_string_equal(cli_ago_text(0, second, out), "1 second ago");
    assert_string_equal(cli_ago_text(0, 90 * 60 * second, out), "90 minutes ago");
    assert_string_equal(cli_ago_text(0, 50 * 3600 * second, out), "2 days ago");
    assert_string_equal(cli_ago_text(7200 * second, 0, out), "in 2 hours");
    assert_string_equal(cli_ago_text(0, INT64_MAX, out), "292 years ago");
    assert_string_equal(cli_duration_text(1500000, out), "1ms");
    assert_string_equal(cli_duration_text(2500 * (uint64_t)1000000, out), "2.5s");
    assert_string_equal(cli_duration_text(86400 * (uint64_t)second * 3 + 1, out), "3d 0h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells),  cmocka_unit_test(test_times),   cmocka_unit_test(test_forms),
        cmocka_unit_test(test_words),  cmocka_unit_test(test_hostile), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fields), cmocka_unit_test(test_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
