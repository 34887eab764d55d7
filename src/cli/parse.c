/* Parsing of options against a command's table, and near-miss suggestions. */
#include <errno.h>
#include <string.h>

#include "base/word.h"
#include "cli/command.h"

#define CLI_WORD_MAX 64

const char *cli_value(const struct cli_args *args, const char *name)
{
    for (size_t i = args->n_given; i > 0; i--) {
        const struct cli_given *g = &args->given[i - 1];

        if (strcmp(g->option->name, name) == 0)
            return g->value ? g->value : "";
    }
    return NULL;
}

static const char *cli_option_name_at(const void *opaque, size_t i)
{
    const struct cli_command *command = opaque;

    return i < command->n_options ? command->options[i].name : NULL;
}

static const struct cli_option *cli_find_option(const struct cli_command *command, const char *name, size_t len)
{
    for (size_t i = 0; i < command->n_options; i++) {
        const struct cli_option *o = &command->options[i];

        if (strlen(o->name) == len && memcmp(o->name, name, len) == 0)
            return o;
    }
    return NULL;
}

static const struct cli_option *cli_find_letter(const struct cli_command *command, char letter)
{
    for (size_t i = 0; i < command->n_options; i++) {
        if (command->options[i].letter == letter)
            return &command->options[i];
    }
    return NULL;
}

static int cli_unknown(const struct cli_command *command, const char *arg, struct err *e)
{
    char word[CLI_WORD_MAX + 1] = "";
    const char *near;

    snprintf(word, sizeof(word), "%s", arg + strspn(arg, "-"));
    word[strcspn(word, "=")] = '\0';
    near = word_nearest(word, cli_option_name_at, command);
    if (near)
        return err_set(e, EINVAL, "unknown option '%s'; did you mean --%s? See 'caisson %s --help'", arg, near,
                       command->path);
    return err_set(e, EINVAL, "unknown option '%s'; see 'caisson %s --help'", arg, command->path);
}

static int cli_add(struct cli_args *args, const struct cli_option *o, const char *value, struct err *e)
{
    if (!o->many && o->value) {
        for (size_t i = 0; i < args->n_given; i++) {
            if (args->given[i].option == o)
                return err_set(e, EINVAL, "option --%s is given twice; give it once", o->name);
        }
    }
    if (args->n_given == CLI_OCCURRENCES_MAX)
        return err_set(e, EINVAL, "too many options; at most %d are possible", CLI_OCCURRENCES_MAX);
    args->given[args->n_given++] = (struct cli_given){ o, value };
    return 0;
}

/* One option at argv[i]; sets *ret_used to the number of arguments that it took. */
static int cli_parse_option(const struct cli_command *command, char **argv, int left, struct cli_args *args,
                            int *ret_used, struct err *e)
{
    const char *arg = argv[0], *value = NULL;
    const struct cli_option *o;

    *ret_used = 1;
    if (arg[1] == '-') {
        size_t len = strcspn(arg + 2, "=");

        o = cli_find_option(command, arg + 2, len);
        if (arg[2 + len] == '=')
            value = arg + 2 + len + 1;
    } else {
        o = cli_find_letter(command, arg[1]);
        if (o && arg[2] != '\0') {
            if (!o->value)
                return cli_unknown(command, arg, e); /* flags are not bundled */
            value = arg + 2;
        }
    }
    if (!o)
        return cli_unknown(command, arg, e);
    if (value && !o->value)
        return err_set(e, EINVAL, "option --%s takes no value; leave out '=%s'", o->name, value);
    if (!value && o->value) {
        if (left < 2)
            return err_set(e, EINVAL, "option --%s needs a value; give --%s %s", o->name, o->name, o->value);
        value = argv[1];
        *ret_used = 2;
    }
    return cli_add(args, o, value, e);
}

int cli_parse(const struct cli_command *command, int argc, char **argv, struct cli_args *ret_args, struct err *e)
{
    int n_operands = 0;

    *ret_args = (struct cli_args){ .operands = argv };
    for (int i = 0; i < argc;) {
        int used = 1, r;

        if (strcmp(argv[i], "--") == 0) {
            for (i++; i < argc; i++)
                argv[n_operands++] = argv[i];
            break;
        }
        if (argv[i][0] != '-' || argv[i][1] == '\0') {
            argv[n_operands++] = argv[i++];
            continue;
        }
        r = cli_parse_option(command, argv + i, argc - i, ret_args, &used, e);
        if (r < 0)
            return r;
        i += used;
    }
    ret_args->n_operands = n_operands;
    if (n_operands > command->max_operands)
        return err_set(e, EINVAL, "unexpected argument '%s'; see 'caisson %s --help'", argv[command->max_operands],
                       command->path);
    return 0;
}
