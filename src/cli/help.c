/* --help, from the command table. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

static void help_command(const struct cli_command *command, FILE *out)
{
    fprintf(out, "Usage: caisson %s%s%s%s\n\n%s\n", command->path, command->n_options ? " [OPTION]..." : "",
            command->operands[0] ? " " : "", command->operands, command->summary);
    if (command->n_options)
        fprintf(out, "\nOptions:\n");
    for (size_t i = 0; i < command->n_options; i++) {
        const struct cli_option *o = &command->options[i];
        char head[96];

        if (o->letter)
            snprintf(head, sizeof(head), "-%c, --%s%s%s", o->letter, o->name, o->value ? " " : "",
                     o->value ? o->value : "");
        else
            snprintf(head, sizeof(head), "    --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        if (strlen(head) <= 30)
            fprintf(out, "  %-30s %s\n", head, o->help);
        else
            fprintf(out, "  %s\n  %-30s %s\n", head, "", o->help);
    }
}

/* The ten that matter, first in the help. */
static const char *const help_common[] = { "run",  "vm create", "start",   "stop",       "ls",
                                           "exec", "logs",      "console", "image pull", "rm" };

/* What the commands of a noun are about. */
static const struct {
    const char *noun, *summary;
} help_nouns[] = {
    { "image", "images that instances are made from" },
    { "vm", "virtual machines: what containers do not have" },
    { "snapshot", "states of instances to go back to" },
    { "volume", "storage that outlives containers" },
    { "network", "networks of virtual machines and containers" },
    { "disk", "disk images, their snapshots and backups" },
    { "template", "images with defaults for new instances" },
    { "cpu", "CPU models" },
};

const char *cli_noun(size_t i)
{
    return i < ARRAY_SIZE(help_nouns) ? help_nouns[i].noun : NULL;
}

const char *cli_noun_about(const char *noun)
{
    for (size_t i = 0; i < ARRAY_SIZE(help_nouns); i++) {
        if (strcmp(help_nouns[i].noun, noun) == 0)
            return help_nouns[i].summary;
    }
    return NULL;
}

static void help_line(const struct cli_command *command, FILE *out)
{
    fprintf(out, "  %-20s %s\n", command->path, command->summary);
}

static const struct cli_command *help_find(const char *path)
{
    const struct cli_command *command;

    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        if (strcmp(command->path, path) == 0)
            break;
    }
    return command;
}

static bool help_is_common(const struct cli_command *command)
{
    for (size_t i = 0; i < ARRAY_SIZE(help_common); i++) {
        if (strcmp(command->path, help_common[i]) == 0)
            return true;
    }
    return false;
}

/* Whether a path begins with the words of noun and goes on. */
static bool help_in_noun(const char *path, const char *noun)
{
    size_t len = strlen(noun);

    return strncmp(path, noun, len) == 0 && path[len] == ' ';
}

static bool help_has_noun(const char *noun)
{
    const struct cli_command *command;

    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        if (!command->hidden && help_in_noun(command->path, noun))
            return true;
    }
    return false;
}

bool cli_print_noun_help(const char *noun, FILE *out)
{
    const struct cli_command *command;

    if (!help_has_noun(noun))
        return false;
    fprintf(out, "Usage: caisson %s COMMAND [OPTION]...\n\nCommands:\n", noun);
    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        if (!command->hidden && help_in_noun(command->path, noun))
            help_line(command, out);
    }
    fprintf(out, "\n'caisson COMMAND --help' describes a command; caisson(1) has it all.\n");
    return true;
}

void cli_print_commands(FILE *out)
{
    const struct cli_command *command;

    fprintf(out, "Usage: caisson COMMAND [OPTION]...\n\nCommands:\n");
    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        if (!command->hidden)
            help_line(command, out);
    }
    fprintf(out, "\n'caisson COMMAND --help' describes a command; caisson(1) has it all.\n");
}

static void help_program(FILE *out)
{
    const struct cli_command *command;

    fprintf(out, "Usage: caisson COMMAND [OPTION]...\n"
                 "       caisson --version | --help\n\n"
                 "Virtual machines and containers, with and without hardware virtualization.\n\nCommon commands:\n");
    for (size_t i = 0; i < ARRAY_SIZE(help_common); i++) {
        command = help_find(help_common[i]);
        if (command)
            help_line(command, out);
    }
    fprintf(out, "\nMore commands:\n");
    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        if (!command->hidden && !help_is_common(command) && !strchr(command->path, ' '))
            help_line(command, out);
    }
    fprintf(out, "\nCommands of one kind of object ('caisson NOUN' lists them):\n");
    for (size_t i = 0; i < ARRAY_SIZE(help_nouns); i++) {
        if (help_has_noun(help_nouns[i].noun))
            fprintf(out, "  %-20s %s\n", help_nouns[i].noun, help_nouns[i].summary);
    }
    fprintf(
        out,
        "\n'caisson COMMAND --help' describes a command, 'caisson help all' lists all of them; caisson(1) has it all.\n"
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 6 time-out, 7 permission, 8 guest crash.\n");
}

void cli_print_help(const struct cli_command *command, FILE *out)
{
    if (command)
        help_command(command, out);
    else
        help_program(out);
}
