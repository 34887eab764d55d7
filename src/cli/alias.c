/* Hidden aliases: what users of other tools type from memory, and the long ways round to our own verbs. They are put
 * into our words before a command is looked for, and only where ours mean nothing by them; help and completion do not
 * know them. */
#include <string.h>

#include "cli/command.h"

/* Words at the beginning of the command line. */
static const struct {
    const char *from[2], *to[CLI_ALIAS_GROWTH];
} alias_first[] = {
    { { "list" }, { "ls" } },
    { { "ps" }, { "ls" } },
    { { "delete" }, { "rm" } },
    { { "remove" }, { "rm" } },
    { { "destroy" }, { "rm" } },
    { { "unpause" }, { "resume" } },
    { { "launch" }, { "run" } },
    { { "shell" }, { "exec" } },
    { { "images" }, { "image", "ls" } },
    { { "pull" }, { "image", "pull" } },
    { { "push" }, { "image", "push" } },
    { { "build" }, { "image", "build" } },
    { { "tag" }, { "image", "tag" } },
    { { "rmi" }, { "image", "rm" } },
    { { "import" }, { "image", "import" } },
    { { "export" }, { "image", "export" } },
    { { "networks" }, { "network", "ls" } },
    { { "volumes" }, { "volume", "ls" } },
    { { "vm", "ls" }, { "ls", "--type", "vm" } },
    { { "vm", "list" }, { "ls", "--type", "vm" } },
    { { "vm", "ps" }, { "ls", "--type", "vm" } },
    { { "container", "ls" }, { "ls", "--type", "container" } },
    { { "container", "list" }, { "ls", "--type", "container" } },
    { { "container", "ps" }, { "ls", "--type", "container" } },
};

/* The verb of a noun. */
static const struct {
    const char *from, *to;
} alias_verb[] = {
    { "list", "ls" },      { "delete", "rm" },  { "remove", "rm" },  { "show", "inspect" },
    { "info", "inspect" }, { "add", "create" }, { "new", "create" },
};

static int alias_join(const char *const *words, size_t n_words, int argc, char **argv, char **out)
{
    int n = 0;

    for (size_t i = 0; i < n_words && words[i]; i++)
        out[n++] = (char *)words[i];
    for (int i = 0; i < argc; i++)
        out[n++] = argv[i];
    return n;
}

static bool alias_is_command(int argc, char **argv)
{
    int words;

    return cli_command_find(argc, argv, &words) != NULL;
}

int cli_alias_apply(int argc, char **argv, char **out)
{
    int n;

    if (argc == 0)
        return 0;
    memcpy(out, argv, (size_t)argc * sizeof(*argv));
    if (alias_is_command(argc, argv))
        return argc;
    for (size_t i = 0; i < ARRAY_SIZE(alias_first); i++) {
        int words = alias_first[i].from[1] ? 2 : 1;

        if (argc < words || strcmp(argv[0], alias_first[i].from[0]) != 0 ||
            (words == 2 && strcmp(argv[1], alias_first[i].from[1]) != 0))
            continue;
        n = alias_join(alias_first[i].to, CLI_ALIAS_GROWTH, argc - words, argv + words, out);
        if (alias_is_command(n, out))
            return n;
    }
    /* `vm start web` and `container start web` are `start web` */
    if (argc > 1 && (strcmp(argv[0], "vm") == 0 || strcmp(argv[0], "container") == 0)) {
        n = cli_alias_apply(argc - 1, argv + 1, out);
        if (alias_is_command(n, out))
            return n;
    }
    memcpy(out, argv, (size_t)argc * sizeof(*argv));
    for (int at = 1; at < argc && at < 3 && argv[at][0] != '-'; at++) {
        for (size_t i = 0; i < ARRAY_SIZE(alias_verb); i++) {
            if (strcmp(argv[at], alias_verb[i].from) != 0)
                continue;
            out[at] = (char *)alias_verb[i].to;
            if (alias_is_command(argc, out))
                return argc;
            out[at] = argv[at];
        }
    }
    return argc;
}
