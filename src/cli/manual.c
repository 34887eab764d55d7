/* Manual pages from the command table: `caisson __man NOUN` prints caisson-NOUN(1) in mdoc; "instance" are the verbs of
 * VMs and containers alike, at the top level. What needs more words than the table has stands in caisson(1). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "proto/exit_code.h"

#define MANUAL_INSTANCE "instance"

/* Text in a line of its own, or on that of a macro: no character of it is roff's. */
static void manual_text(const char *text, FILE *out)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '"')
            fputs("\\(dq", out);
        else
            fputc(*text, out);
    }
}

/* A heading of the list of options. One argument, so that mdoc sees no macros in it. */
static void manual_option(const struct cli_option *o, FILE *out)
{
    fputs(".It \"", out);
    if (o->letter)
        fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", out);
    manual_text(o->name, out);
    fputs("\\fR", out);
    if (o->value) {
        fputs(" \\fI", out);
        manual_text(o->value, out);
        fputs("\\fR", out);
    }
    fputs("\"\n", out);
    manual_text(o->help, out);
    fputs(o->many ? ".\nMay be given several times.\n" : ".\n", out);
}

static void manual_command(const struct cli_command *command, FILE *out)
{
    fputs(".Ss \"caisson ", out);
    manual_text(command->path, out);
    fputs(command->n_options ? " [OPTION]..." : "", out);
    fputs(command->operands[0] ? " " : "", out);
    manual_text(command->operands, out);
    fputs("\"\n", out);
    if (command->summary[0] >= 'a' && command->summary[0] <= 'z') {
        fputc(command->summary[0] - 'a' + 'A', out);
        manual_text(command->summary + 1, out);
    } else {
        manual_text(command->summary, out);
    }
    fputs(".\n", out);
    if (command->n_options == 0)
        return;
    fputs(".Bl -tag -width Ds\n", out);
    for (size_t i = 0; i < command->n_options; i++)
        manual_option(&command->options[i], out);
    fputs(".El\n", out);
}

static bool manual_belongs(const struct cli_command *command, const char *noun)
{
    size_t len = strlen(noun);

    if (command->hidden)
        return false;
    if (strcmp(noun, MANUAL_INSTANCE) == 0)
        return !strchr(command->path, ' ');
    return strncmp(command->path, noun, len) == 0 && command->path[len] == ' ';
}

/* Title and section head; the commands follow. */
static void manual_head(const char *noun, const char *about, FILE *out)
{
    fprintf(out, ".\\\" Made by caisson __man %s from the command table.\n.Dd November 27, 2026\n.Dt CAISSON-", noun);
    for (const char *p = noun; *p; p++)
        fputc(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p, out);
    fprintf(out, " 1\n.Os Caisson\n.Sh NAME\n.Nm caisson-%s\n.Nd ", noun);
    manual_text(about, out);
    fputs("\n.Sh COMMANDS\n", out);
}

int cli_print_manual(const char *noun, FILE *out)
{
    const char *about = strcmp(noun, MANUAL_INSTANCE) == 0 ? "virtual machines and containers" : cli_noun_about(noun);
    const struct cli_command *command;
    bool any = false;

    for (size_t i = 0; (command = cli_command_at(i)) && about; i++) {
        if (!manual_belongs(command, noun))
            continue;
        if (!any)
            manual_head(noun, about, out);
        any = true;
        manual_command(command, out);
    }
    if (any)
        fputs(".Sh SEE ALSO\n.Xr caisson 1\n", out);
    return any ? 0 : -ENOENT;
}

int cli_cmd_manual(const struct cli_args *args)
{
    struct err e = { 0 };

    if (args->n_operands == 1 && cli_print_manual(args->operands[0], stdout) == 0)
        return EXIT_CODE_OK;
    err_set(&e, ENOENT, "no such noun; see 'caisson --help'");
    return cli_fail(&e);
}
