/* The one table of commands and options, from which the parser, --help, completion and the manual page are made.
 * Each command has a file of its own with a run function; the table is in commands.c. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/attr.h"
#include "base/err.h"

#define CLI_OPTIONS_MAX 24
#define CLI_OCCURRENCES_MAX 64

struct cli_option {
    const char *name;     /* long name without the dashes */
    char letter;          /* one-letter form, or 0 */
    const char *value;    /* what the value is called in help (FILE, N...); NULL: a flag */
    const char *help;     /* one line, no full stop */
    const char *complete; /* how completion finds values: "file", or words separated by blanks; NULL: nothing */
    bool many;            /* may be given several times */
};

/* One occurrence of an option on the command line, in order. value is NULL for flags. */
struct cli_given {
    const struct cli_option *option;
    const char *value;
};

struct cli_args {
    struct cli_given given[CLI_OCCURRENCES_MAX];
    size_t n_given;
    char **operands; /* what is left, n_operands of them */
    int n_operands;
};

struct cli_command {
    const char *path;     /* "vm run" */
    const char *summary;  /* one line */
    const char *operands; /* shown in the usage line, "" for none */
    int max_operands;
    const struct cli_option *options;
    size_t n_options;
    bool hidden; /* not in help */
    /* Returns the exit code of the program (proto/exit_code.h). */
    int (*run)(const struct cli_args *args);
};

extern const struct cli_command cli_commands[];
extern const size_t cli_n_commands;

/* Run the program for a command line (main's own arguments). Returns the exit code. */
int cli_main(int argc, char **argv);

/* The last value given for an option, NULL if none (flags: "" if given). */
const char *cli_value(const struct cli_args *args, const char *name);

/* Parse argv (after the command words) against the command's options. -EINVAL with text. */
int cli_parse(const struct cli_command *command, int argc, char **argv, struct cli_args *ret_args,
              struct err *e) MUST_USE;

void cli_print_help(const struct cli_command *command, FILE *out); /* NULL: the whole program */
/* shell: bash, zsh or fish. -EINVAL: another. */
int cli_print_completion(const char *shell, FILE *out);

/* Print an error as "caisson: TEXT" and return the exit code for it. */
int cli_fail(const struct err *e);

/* Commands (cmd_*.c). */
int cli_cmd_vm_run(const struct cli_args *args);
int cli_cmd_cpu_ls(const struct cli_args *args);
int cli_cmd_doctor(const struct cli_args *args);
int cli_cmd_completion(const struct cli_args *args);

#endif
