/* The command line: options in all their spellings, operands, where options end, aliases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cli/command.h"

static const struct cli_option options[] = {
    { "interactive", 'i', NULL, "flag", NULL, false },
    { "tty", 't', NULL, "flag", NULL, false },
    { "publish", 'p', "PORT", "value", NULL, true },
    { "name", 0, "NAME", "value", NULL, false },
};
static const struct cli_command plain = {
    .path = "thing make",
    .operands = "A B",
    .max_operands = 2,
    .options = options,
    .n_options = ARRAY_SIZE(options),
};
static const struct cli_command runs = {
    .path = "run",
    .operands = "IMAGE [COMMAND]...",
    .max_operands = 100,
    .options = options,
    .n_options = ARRAY_SIZE(options),
    .command_follows = true,
};

#define PARSE(command, args, e, ...)                                  \
    ({                                                                \
        static char *words_[] = { __VA_ARGS__ };                      \
        cli_parse(command, (int)ARRAY_SIZE(words_), words_, args, e); \
    })

static void test_spellings(void **state)
{
    struct cli_args a;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(PARSE(&plain, &a, &e, "-it", "one", "--name", "n", "-p80:80", "-p", "81:81", "--publish=82"), 0);
    assert_non_null(cli_value(&a, "interactive"));
    assert_non_null(cli_value(&a, "tty"));
    assert_string_equal(cli_value(&a, "name"), "n");
    assert_string_equal(cli_value(&a, "publish"), "82");
    assert_int_equal(a.n_given, 6);
    assert_int_equal(a.n_operands, 1);
    assert_string_equal(a.operands[0], "one");
    assert_int_equal(PARSE(&plain, &a, &e, "-itp", "80", "--", "-x", "--name"), 0);
    assert_string_equal(cli_value(&a, "publish"), "80");
    assert_int_equal(a.n_operands, 2);
    assert_string_equal(a.operands[1], "--name");
    assert_int_equal(PARSE(&plain, &a, &e, "--tty=false", "--interactive=true", "-"), 0);
    assert_null(cli_value(&a, "tty"));
    assert_non_null(cli_value(&a, "interactive"));
    assert_string_equal(a.operands[0], "-");
}

static void test_refused(void **state)
{
    struct cli_args a;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(PARSE(&plain, &a, &e, "--nmae", "x"), -EINVAL);
    assert_non_null(strstr(e.text, "did you mean --name"));
    assert_int_equal(PARSE(&plain, &a, &e, "-ix"), -EINVAL);
    assert_int_equal(PARSE(&plain, &a, &e, "--name"), -EINVAL);
    assert_non_null(strstr(e.text, "needs a value"));
    assert_int_equal(PARSE(&plain, &a, &e, "-ip"), -EINVAL);
    assert_int_equal(PARSE(&plain, &a, &e, "--tty=x"), -EINVAL);
    assert_int_equal(PARSE(&plain, &a, &e, "--name", "a", "--name", "b"), -EINVAL);
    assert_int_equal(PARSE(&plain, &a, &e, "a", "b", "c"), -EINVAL);
    assert_non_null(strstr(e.text, "'c'"));
}

static void test_command_follows(void **state)
{
    struct cli_args a;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(PARSE(&runs, &a, &e, "-t", "debian", "ls", "-l", "--help", "--"), 0);
    assert_false(a.help);
    assert_int_equal(a.n_operands, 5);
    assert_string_equal(a.operands[3], "--help");
    assert_int_equal(PARSE(&runs, &a, &e, "--name", "--help", "debian"), 0); /* its value */
    assert_false(a.help);
    assert_int_equal(PARSE(&runs, &a, &e, "-t", "--help", "debian"), 0);
    assert_true(a.help);
    assert_int_equal(PARSE(&plain, &a, &e, "a", "b", "c", "-h"), 0); /* help before complaints */
    assert_true(a.help);
}

static void alias_is(const char *want, int argc, char **argv)
{
    char *out[8 + CLI_ALIAS_GROWTH], text[256] = "";
    int n = cli_alias_apply(argc, argv, out);

    for (int i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i ? " " : "", out[i]);
    assert_string_equal(text, want);
}
#define ALIAS(want, ...)                                 \
    do {                                                 \
        static char *words_[] = { __VA_ARGS__ };         \
        alias_is(want, (int)ARRAY_SIZE(words_), words_); \
    } while (0)

static void test_aliases(void **state)
{
    (void)state;
    ALIAS("network ls -q", "network", "list", "-q");
    ALIAS("network rm web", "network", "delete", "web");
    ALIAS("network inspect web", "network", "show", "web");
    ALIAS("network ls", "networks");
    ALIAS("disk info list", "disk", "info", "list"); /* ours, as it is */
    ALIAS("vm run --kernel k", "vm", "run", "--kernel", "k");
    ALIAS("disk snapshot ls f", "disk", "snapshot", "list", "f");
    ALIAS("nothing list", "nothing", "list");
    ALIAS("network frob delete", "network", "frob", "delete");
    alias_is("", 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_command_follows),
        cmocka_unit_test(test_aliases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
