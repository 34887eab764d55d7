#include "cli/template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static const struct cli_option *template_option(const struct cli_command *command, const char *name)
{
    for (size_t i = 0; i < command->n_options; i++)
        if (strcmp(command->options[i].name, name) == 0)
            return &command->options[i];
    return NULL;
}

/* Parse words by the command's table. *ret_argv is what the result borrows from, malloc'd. */
static int template_parse(const struct cli_command *command, const struct inst_strings *words, char ***ret_argv,
                          struct cli_args *ret_args, struct err *e)
{
    char **argv = calloc(words->n + 1, sizeof(*argv));
    int r;

    if (!argv)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < words->n; i++)
        argv[i] = words->at[i];
    *ret_argv = argv;
    r = cli_parse(command, (int)words->n, argv, ret_args, e);
    if (r == 0 && (ret_args->n_operands > 0 || ret_args->help || cli_value(ret_args, "template")))
        r = err_set(e, EINVAL, "'%s' cannot be in a template: only options of 'caisson %s' can",
                    ret_args->n_operands > 0 ? ret_args->operands[0]
                    : ret_args->help         ? "--help"
                                             : "--template",
                    command->path);
    return r;
}

int cli_template_check(const struct cli_command *command, const struct inst_strings *words, struct err *e)
{
    AUTO_FREE struct cli_args *args = malloc(sizeof(*args));
    AUTO_FREE char **argv = NULL;

    return args ? template_parse(command, words, &argv, args, e) : err_set(e, ENOMEM, "out of memory");
}

/* The template's first, so that the user's are the last where one may be given several times. */
static int template_merge(struct cli_args *args, const struct cli_args *words, struct err *e)
{
    AUTO_FREE struct cli_args *all = malloc(sizeof(*all));

    if (!all)
        return err_set(e, ENOMEM, "out of memory");
    *all = *args;
    all->n_given = 0;
    for (size_t i = 0; i < words->n_given; i++)
        if (words->given[i].option->many || !cli_value(args, words->given[i].option->name))
            all->given[all->n_given++] = words->given[i];
    if (all->n_given + args->n_given > CLI_OCCURRENCES_MAX)
        return err_set(e, EINVAL, "too many options with those of the template; at most %d are possible",
                       CLI_OCCURRENCES_MAX);
    for (size_t i = 0; i < args->n_given; i++)
        all->given[all->n_given++] = args->given[i];
    *args = *all;
    return 0;
}

static int template_image(const struct cli_command *command, struct cli_args *args, struct cli_template *t,
                          struct err *e)
{
    const struct cli_option *image = template_option(command, "image");

    if (image) {
        if (cli_value(args, "image"))
            return 0;
        if (args->n_given == CLI_OCCURRENCES_MAX)
            return err_set(e, EINVAL, "too many options");
        args->given[args->n_given++] = (struct cli_given){ image, t->template.image };
        return 0;
    }
    t->operands = calloc((size_t)args->n_operands + 2, sizeof(*t->operands));
    if (!t->operands)
        return err_set(e, ENOMEM, "out of memory");
    t->operands[0] = t->template.image;
    for (int i = 0; i < args->n_operands; i++)
        t->operands[i + 1] = args->operands[i];
    args->operands = t->operands;
    args->n_operands++;
    return 0;
}

int cli_template_apply(const struct cli_command *command, struct cli_args *args, struct cli_template *t, struct err *e)
{
    const char *name = template_option(command, "template") ? cli_value(args, "template") : NULL;
    AUTO(store) struct store *store = NULL;
    int r;

    *t = (struct cli_template){ 0 };
    if (!name)
        return 0;
    r = store_open(STORE_READ, &store, e);
    if (r == 0)
        r = store_template_get(store, name, &t->template, e);
    if (r < 0)
        return r;
    if ((t->template.kind == INST_VM) != (strncmp(command->path, "vm ", 3) == 0))
        return err_set(e, EPROTOTYPE, "template %s is of a %s; use it with 'caisson %s'", name,
                       inst_kind_name(t->template.kind), t->template.kind == INST_VM ? "vm create" : "run");
    t->words = malloc(sizeof(*t->words));
    if (!t->words)
        return err_set(e, ENOMEM, "out of memory");
    r = template_parse(command, &t->template.words, &t->argv, t->words, e);
    if (r < 0)
        return err_wrap(e, "template %s", name);
    r = template_merge(args, t->words, e);
    return r < 0 ? r : template_image(command, args, t, e);
}

void cli_template_done(struct cli_template *t)
{
    store_template_done(&t->template);
    free(t->words);
    free(t->argv);
    free(t->operands);
    *t = (struct cli_template){ 0 };
}
