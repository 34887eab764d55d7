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

/* What other tools call ours, where a command does not have that name itself. */
static const struct cli_option *cli_find_synonym(const struct cli_command *command, const char *name, size_t len)
{
    static const struct {
        const char *theirs, *ours;
    } synonyms[] = { { "network", "net" }, { "net", "network" }, { "mem", "memory" }, { "cpu-count", "cpus" } };
    const struct cli_option *o = cli_find_option(command, name, len);

    for (size_t i = 0; !o && i < ARRAY_SIZE(synonyms); i++) {
        if (strlen(synonyms[i].theirs) == len && memcmp(synonyms[i].theirs, name, len) == 0)
            o = cli_find_option(command, synonyms[i].ours, strlen(synonyms[i].ours));
    }
    return o;
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

/* The option's value: what is written with it (value), or the next argument. */
static int cli_take_value(const struct cli_option *o, const char *value, char **argv, int left, struct cli_args *args,
                          int *ret_used, struct err *e)
{
    if (!value && left < 2)
        return err_set(e, EINVAL, "option --%s needs a value; give --%s %s", o->name, o->name, o->value);
    *ret_used = value ? 1 : 2;
    return cli_add(args, o, value ? value : argv[1], e);
}

/* Letters at argv[0]: flags, and at the end one that takes a value perhaps. */
static int cli_parse_letters(const struct cli_command *command, char **argv, int left, struct cli_args *args,
                             int *ret_used, struct err *e)
{
    for (const char *p = argv[0] + 1; *p; p++) {
        const struct cli_option *o = cli_find_letter(command, *p);
        int r;

        args->help = args->help || (!o && *p == 'h');
        if (!o && !args->help)
            return cli_unknown(command, argv[0], e);
        if (args->help)
            break;
        if (o->value)
            return cli_take_value(o, p[1] == '=' ? p + 2 : p[1] ? p + 1 : NULL, argv, left, args, ret_used, e);
        r = cli_add(args, o, NULL, e);
        if (r < 0)
            return r;
    }
    *ret_used = 1;
    return 0;
}

/* One option at argv[0]; sets *ret_used to the number of arguments that it took. */
static int cli_parse_option(const struct cli_command *command, char **argv, int left, struct cli_args *args,
                            int *ret_used, struct err *e)
{
    const char *name = argv[0] + 2, *value = NULL;
    const struct cli_option *o;
    size_t len;

    if (argv[0][1] != '-')
        return cli_parse_letters(command, argv, left, args, ret_used, e);
    len = strcspn(name, "=");
    o = cli_find_synonym(command, name, len);
    args->help = args->help || (!o && strcmp(name, "help") == 0);
    *ret_used = 1;
    if (!o)
        return args->help ? 0 : cli_unknown(command, argv[0], e);
    if (name[len] == '=')
        value = name + len + 1;
    if (o->value)
        return cli_take_value(o, value, argv, left, args, ret_used, e);
    if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        return err_set(e, EINVAL, "option --%s takes no value; leave out '=%s'", o->name, value);
    return value && strcmp(value, "false") == 0 ? 0 : cli_add(args, o, NULL, e);
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
        if (argv[i][0] != '-' || argv[i][1] == '\0' || (argv[i][1] >= '0' && argv[i][1] <= '9')) { /* -1G: a size */
            argv[n_operands++] = argv[i++];
            while (command->command_follows && i < argc)
                argv[n_operands++] = argv[i++];
            continue;
        }
        r = cli_parse_option(command, argv + i, argc - i, ret_args, &used, e);
        if (r < 0 || ret_args->help)
            return r;
        i += used;
    }
    ret_args->n_operands = n_operands;
    if (n_operands > command->max_operands)
        return err_set(e, EINVAL, "unexpected argument '%s'; see 'caisson %s --help'", argv[command->max_operands],
                       command->path);
    return 0;
}
