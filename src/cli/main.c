/* Finding the command for a command line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/word.h"
#include "cli/command.h"
#include "cli/template.h"
#include "proto/exit_code.h"

int cli_fail(const struct err *e)
{
    fprintf(stderr, "caisson: %s\n", e->text);
    return (int)exit_code_from_errno(e->code);
}

/* As cli_fail, for what goes wrong before a command runs. */
static int cli_fail_before(const struct cli_command *command, const struct err *e)
{
    int code = cli_fail(e);

    return command->failed ? command->failed : code;
}

int cli_command_words(const struct cli_command *command, int argc, char **argv)
{
    const char *p = command->path;
    int n = 0;

    while (*p) {
        size_t len = strcspn(p, " ");

        if (n == argc || strlen(argv[n]) != len || memcmp(argv[n], p, len) != 0)
            return 0;
        n++;
        p += len;
        p += strspn(p, " ");
    }
    return n;
}

const struct cli_command *cli_command_find(int argc, char **argv, int *ret_words)
{
    const struct cli_command *command, *found = NULL;

    *ret_words = 0;
    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        int words = cli_command_words(command, argc, argv);

        if (words > *ret_words) { /* "snapshot" may be a command as well as "snapshot ls" */
            *ret_words = words;
            found = command;
        }
    }
    return found;
}

static const char *cli_path_at(const void *opaque, size_t i)
{
    const struct cli_command *command = cli_command_at(i);

    (void)opaque;
    return !command ? NULL : command->hidden ? "" : command->path;
}

/* The leading arguments that are no options, at most n of them, with blanks between. */
static void cli_words(int argc, char **argv, int n, char *out, size_t size)
{
    size_t len = 0;

    out[0] = '\0';
    for (int i = 0; i < MIN(n, argc) && argv[i][0] != '-' && len < size; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%.40s", i ? " " : "", argv[i]);
}

static const char *cli_noun_at(const void *opaque, size_t i)
{
    (void)opaque;
    return cli_noun(i);
}

static int cli_unknown_command(int argc, char **argv)
{
    char words[128], first[128], noun[64];
    const char *near = NULL;

    for (int n = 3; n > 0 && !near; n--) {
        cli_words(argc, argv, n, words, sizeof(words));
        near = word_nearest(words, cli_path_at, NULL);
    }
    cli_words(argc, argv, 1, noun, sizeof(noun));
    if (!near && !cli_noun_about(noun))
        near = word_nearest(noun, cli_noun_at, NULL);
    cli_words(argc, argv, 2, first, sizeof(first));
    if (near)
        fprintf(stderr, "caisson: unknown command '%s'; did you mean 'caisson %s'? See 'caisson --help'\n", first,
                near);
    else
        fprintf(stderr, "caisson: unknown command '%s'; see 'caisson %s%s--help'\n", first,
                cli_noun_about(noun) ? noun : "", cli_noun_about(noun) ? " " : "");
    return EXIT_CODE_USAGE;
}

/* "caisson disk --help": the commands of a noun. False where there is none. */
static bool cli_noun_help(int argc, char **argv, FILE *out)
{
    char noun[128];

    cli_words(argc, argv, argc, noun, sizeof(noun));
    return noun[0] && cli_print_noun_help(noun, out);
}

static bool cli_is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* `caisson help`: of the program, of all its commands, of a noun or of a command. */
static int cli_help(int argc, char **argv)
{
    const struct cli_command *command;
    int words;

    if (argc == 0) {
        cli_print_help(NULL, stdout);
        return EXIT_CODE_OK;
    }
    if (strcmp(argv[0], "all") == 0) {
        cli_print_commands(stdout);
        return EXIT_CODE_OK;
    }
    command = cli_command_find(argc, argv, &words);
    if (command) {
        cli_print_help(command, stdout);
        return EXIT_CODE_OK;
    }
    return cli_noun_help(argc, argv, stdout) ? EXIT_CODE_OK : cli_unknown_command(argc, argv);
}

/* argv without the program's name, in our own words. */
static int cli_run_command(const struct cli_command *command, struct cli_args *args)
{
    struct cli_template template;
    struct err e = { 0 };
    int r = cli_template_apply(command, args, &template, &e),
        code = r < 0 ? cli_fail_before(command, &e) : command->run(args);

    cli_template_done(&template);
    return code;
}

static int cli_run(int argc, char **argv)
{
    int words;
    const struct cli_command *command = cli_command_find(argc, argv, &words);
    struct cli_args args;
    struct err e = { 0 };

    if (command) {
        if (cli_parse(command, argc - words, argv + words, &args, &e) < 0)
            return cli_fail_before(command, &e);
        if (!args.help)
            return cli_run_command(command, &args);
        cli_print_help(command, stdout);
        return EXIT_CODE_OK;
    }
    if (cli_is_help(argv[argc - 1]) && cli_noun_help(argc - 1, argv, stdout))
        return EXIT_CODE_OK;
    if (cli_noun_help(argc, argv, stderr))
        return EXIT_CODE_USAGE;
    if (argv[0][0] == '-') {
        fprintf(stderr, "caisson: unknown option '%s'; see 'caisson --help'\n", argv[0]);
        return EXIT_CODE_USAGE;
    }
    return cli_unknown_command(argc, argv);
}

int cli_main(int argc, char **argv)
{
    AUTO_FREE char **words = calloc((size_t)argc + CLI_ALIAS_GROWTH, sizeof(*words));
    int n;

    if (!words) {
        fprintf(stderr, "caisson: out of memory\n");
        return EXIT_CODE_FAILED;
    }
    if (argc < 2) {
        cli_print_help(NULL, stderr);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0 || (strcmp(argv[1], "version") == 0 && argc == 2)) {
        printf("caisson %s\n", CAISSON_VERSION);
        return EXIT_CODE_OK;
    }
    if (cli_is_help(argv[1]))
        return cli_help(0, NULL);
    if (strcmp(argv[1], "help") == 0) {
        n = cli_alias_apply(argc - 2, argv + 2, words);
        return cli_help(n, words);
    }
    n = cli_alias_apply(argc - 1, argv + 1, words);
    return cli_run(n, words);
}
