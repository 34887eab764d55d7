/* Finding the command for a command line. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/word.h"
#include "cli/command.h"
#include "proto/exit_code.h"

int cli_fail(const struct err *e)
{
    fprintf(stderr, "caisson: %s\n", e->text);
    return (int)exit_code_from_errno(e->code);
}

/* Number of leading arguments that spell the command's path, 0 if they do not. */
static int cli_match(const struct cli_command *command, int argc, char **argv)
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

static const char *cli_path_at(const void *opaque, size_t i)
{
    (void)opaque;
    return i < cli_n_commands ? cli_commands[i].path : NULL;
}

static int cli_unknown_command(int argc, char **argv)
{
    char words[96];
    const char *near;

    snprintf(words, sizeof(words), "%.40s%s%.40s", argv[0], argc > 1 && argv[1][0] != '-' ? " " : "",
             argc > 1 && argv[1][0] != '-' ? argv[1] : "");
    near = word_nearest(words, cli_path_at, NULL);
    if (!near)
        near = word_nearest(argv[0], cli_path_at, NULL);
    if (near)
        fprintf(stderr, "caisson: unknown command '%s'; did you mean 'caisson %s'? See 'caisson --help'\n", words,
                near);
    else
        fprintf(stderr, "caisson: unknown command '%s'; see 'caisson --help'\n", words);
    return EXIT_CODE_USAGE;
}

static bool cli_wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        cli_print_help(NULL, stderr);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("caisson %s\n", CAISSON_VERSION);
        return EXIT_CODE_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        cli_print_help(NULL, stdout);
        return EXIT_CODE_OK;
    }
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = &cli_commands[i];
        int words = cli_match(command, argc - 1, argv + 1);
        struct cli_args args;
        struct err e = { 0 };

        if (words == 0)
            continue;
        if (cli_wants_help(argc - 1 - words, argv + 1 + words)) {
            cli_print_help(command, stdout);
            return EXIT_CODE_OK;
        }
        if (cli_parse(command, argc - 1 - words, argv + 1 + words, &args, &e) < 0)
            return cli_fail(&e);
        return command->run(&args);
    }
    if (argv[1][0] == '-') {
        fprintf(stderr, "caisson: unknown option '%s'; see 'caisson --help'\n", argv[1]);
        return EXIT_CODE_USAGE;
    }
    return cli_unknown_command(argc - 1, argv + 1);
}
