/* --help and shell completion, both from the command table. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "proto/exit_code.h"

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

void cli_print_help(const struct cli_command *command, FILE *out)
{
    if (command) {
        help_command(command, out);
        return;
    }
    fprintf(out, "Usage: caisson COMMAND [OPTION]...\n"
                 "       caisson --version | --help\n\n"
                 "Virtual machines and containers, with and without hardware virtualization.\n\nCommands:\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        if (!cli_commands[i].hidden)
            fprintf(out, "  %-12s %s\n", cli_commands[i].path, cli_commands[i].summary);
    }
    fprintf(
        out,
        "\n'caisson COMMAND --help' describes a command; caisson(1) has it all.\n"
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 6 time-out, 7 permission, 8 guest crash.\n");
}

/* Whether a command before the i-th begins with the same len characters. */
static bool complete_seen(size_t i, size_t len)
{
    for (size_t j = 0; j < i; j++) {
        if (strncmp(cli_commands[j].path, cli_commands[i].path, len) == 0)
            return true;
    }
    return false;
}

/* Words that can follow a prefix of command words: printed once each. */
static void complete_words(const char *prefix, FILE *out)
{
    size_t len = strlen(prefix);

    for (size_t i = 0; i < cli_n_commands; i++) {
        const char *path = cli_commands[i].path;

        if (strncmp(path, prefix, len) == 0 && !complete_seen(i, len + strcspn(path + len, " ")))
            fprintf(out, "%.*s ", (int)strcspn(path + len, " "), path + len);
    }
}

static void complete_bash(FILE *out)
{
    fprintf(out, "_caisson() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                 "    local cmd=\"${COMP_WORDS[*]:1:COMP_CWORD-1}\" words=\n    case \"$cmd \" in\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = &cli_commands[i];

        fprintf(out, "    '%s '*)\n        case $prev in\n", command->path);
        for (size_t j = 0; j < command->n_options; j++) {
            const struct cli_option *o = &command->options[j];

            if (!o->value)
                continue;
            if (o->complete && strcmp(o->complete, "file") == 0)
                fprintf(out, "        --%s) COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames; return ;;\n",
                        o->name);
            else
                fprintf(out, "        --%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", o->name,
                        o->complete ? o->complete : "");
        }
        fprintf(out, "        esac\n        words='--help");
        for (size_t j = 0; j < command->n_options; j++)
            fprintf(out, " --%s", command->options[j].name);
        if (command->operands[0])
            fputc(' ', out);
        for (const char *p = command->operands; *p; p++)
            fputc(*p == '|' ? ' ' : *p, out);
        fprintf(out, "' ;;\n");
    }
    for (size_t i = 0; i < cli_n_commands; i++) {
        size_t len = strcspn(cli_commands[i].path, " ");
        char noun[32];

        if (cli_commands[i].path[len] == '\0' || complete_seen(i, len + 1))
            continue;
        snprintf(noun, sizeof(noun), "%.*s ", (int)len, cli_commands[i].path);
        fprintf(out, "    '%s') words='", noun);
        complete_words(noun, out);
        fprintf(out, "' ;;\n");
    }
    fprintf(out, "    ' ') words='--help --version ");
    complete_words("", out);
    fprintf(out,
            "' ;;\n    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F _caisson caisson\n");
}

/* zsh runs bash completion functions through bashcompinit, so one description serves both. */
static void complete_zsh(FILE *out)
{
    fprintf(out, "#compdef caisson\nautoload -U +X bashcompinit && bashcompinit\n");
    complete_bash(out);
}

/* What the commands of a noun are about. */
static const char *cli_noun_summary(const char *path)
{
    return strncmp(path, "cpu ", 4) == 0 ? "CPU models" : "virtual machines";
}

static void complete_fish(FILE *out)
{
    fprintf(out, "complete -c caisson -f\ncomplete -c caisson -n __fish_use_subcommand -l version -l help\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = &cli_commands[i];
        const char *last = strrchr(command->path, ' ');
        int first = (int)strcspn(command->path, " ");

        fprintf(out, "complete -c caisson -n __fish_use_subcommand -a %.*s -d '%s'\n", first, command->path,
                last ? cli_noun_summary(command->path) : command->summary);
        last = last ? last + 1 : command->path;
        if (last != command->path)
            fprintf(out, "complete -c caisson -n '__fish_seen_subcommand_from %.*s' -a %s -d '%s'\n", first,
                    command->path, last, command->summary);
        for (size_t j = 0; j < command->n_options; j++) {
            const struct cli_option *o = &command->options[j];
            bool file = o->complete && strcmp(o->complete, "file") == 0;

            fprintf(out, "complete -c caisson -n '__fish_seen_subcommand_from %s' -l %s", last, o->name);
            if (o->letter)
                fprintf(out, " -s %c", o->letter);
            if (file)
                fprintf(out, " -rF");
            else if (o->value)
                fprintf(out, " -x -a '%s'", o->complete ? o->complete : "");
            fprintf(out, " -d '%s'\n", o->help);
        }
    }
}

int cli_print_completion(const char *shell, FILE *out)
{
    if (strcmp(shell, "bash") == 0)
        complete_bash(out);
    else if (strcmp(shell, "zsh") == 0)
        complete_zsh(out);
    else if (strcmp(shell, "fish") == 0)
        complete_fish(out);
    else
        return -EINVAL;
    return 0;
}

int cli_cmd_completion(const struct cli_args *args)
{
    struct err e = { 0 };

    if (args->n_operands != 1 || cli_print_completion(args->operands[0], stdout) < 0) {
        err_set(&e, EINVAL, "completion for which shell? Give one of bash, zsh, fish");
        return cli_fail(&e);
    }
    return EXIT_CODE_OK;
}
