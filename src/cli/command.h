/* The one table of commands and options, from which the parser, --help, completion and the manual page are made.
 * Each command has a file of its own with a run function; the table is in commands.c. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/attr.h"
#include "base/err.h"

#define CLI_OCCURRENCES_MAX 256

struct cli_option {
    const char *name;     /* long name without the dashes */
    char letter;          /* one-letter form, or 0 */
    const char *value;    /* what the value is called in help (FILE, N...); NULL: a flag */
    const char *help;     /* one line, no full stop */
    const char *complete; /* how completion finds values, see cli_complete_values; NULL: nothing */
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
    bool help; /* --help or -h was met; nothing else counts */
};

struct cli_command {
    const char *path;     /* "vm run" */
    const char *summary;  /* one line */
    const char *operands; /* shown in the usage line, "" for none */
    int max_operands;
    const struct cli_option *options;
    size_t n_options;
    const char *complete; /* how completion finds operands, see cli_complete_values; NULL: by what operands lists */
    bool hidden;          /* not in help */
    bool command_follows; /* options end at the first operand: the rest is a command line of the user's (run, exec) */
    int failed;           /* exit code of a wrong command line; 0: EXIT_CODE_USAGE */
    /* Returns the exit code of the program (proto/exit_code.h). */
    int (*run)(const struct cli_args *args);
};

/* A noun's (or several nouns') part of the table; commands.c puts them together. */
struct cli_command_group {
    const struct cli_command *commands;
    size_t n;
};
extern const struct cli_command_group cli_disk_commands;      /* commands_disk.c */
extern const struct cli_command_group cli_image_commands;     /* commands_image.c */
extern const struct cli_command_group cli_vm_commands;        /* commands_vm.c */
extern const struct cli_command_group cli_network_commands;   /* commands_network.c */
extern const struct cli_command_group cli_instance_commands;  /* commands_instance.c */
extern const struct cli_command_group cli_container_commands; /* commands_container.c */
extern const struct cli_command_group cli_registry_commands;  /* commands_registry.c */

/* The i-th row of the table of all commands; NULL behind the last. */
const struct cli_command *cli_command_at(size_t i);

/* Run the program for a command line (main's own arguments). Returns the exit code. */
int cli_main(int argc, char **argv);

/* The last value given for an option, NULL if none (flags: "" if given). */
const char *cli_value(const struct cli_args *args, const char *name);

/* Parse argv (after the command words) against the command's options: --name VALUE, --name=VALUE, -l VALUE, -lVALUE,
 * and flags of one letter together (-it). What is no option is an operand; behind -- everything is. -EINVAL with text.
 */
int cli_parse(const struct cli_command *command, int argc, char **argv, struct cli_args *ret_args,
              struct err *e) MUST_USE;

/* Put the words of other tools and other habits (alias.c) into ours. argv (without the program's name) is borrowed; out
 * has room for argc + CLI_ALIAS_GROWTH. Returns how many there are. */
int cli_alias_apply(int argc, char **argv, char **out);
#define CLI_ALIAS_GROWTH 3
/* Number of leading arguments that spell the command's path, 0 if they do not. */
int cli_command_words(const struct cli_command *command, int argc, char **argv);
/* The command that argv begins with, NULL if there is none; *ret_words: how many of the arguments are its path. */
const struct cli_command *cli_command_find(int argc, char **argv, int *ret_words);

void cli_print_help(const struct cli_command *command, FILE *out); /* NULL: the whole program */
void cli_print_commands(FILE *out);                                /* every command that is not hidden */
/* The commands that begin with the words of noun. False: there are none. */
bool cli_print_noun_help(const char *noun, FILE *out);
/* Print what may stand for a word of which the user has typed the beginning, one a line: the words of kind, separated
 * by blanks. Words with an @ stand for what there is: @instance, @vm, @container, @image, @network, @volume, @command;
 * "file" is a line ":file", upon which the shell looks for files. */
void cli_complete_values(const char *kind, const char *begun, FILE *out);

/* The nouns, one for each i; NULL behind the last. */
const char *cli_noun(size_t i);
/* What the commands of a noun are about; NULL: there is no such noun. */
const char *cli_noun_about(const char *noun);
/* caisson-NOUN(1). -ENOENT: there is no such noun. */
int cli_print_manual(const char *noun, FILE *out) MUST_USE;
/* The script for bash, zsh or fish. -EINVAL: another. */
int cli_print_completion(const char *shell, FILE *out) MUST_USE;

/* Print an error as "caisson: TEXT" and return the exit code for it. */
int cli_fail(const struct err *e);

/* Commands (cmd_*.c). */
int cli_cmd_vm_run(const struct cli_args *args);
int cli_cmd_vm_create(const struct cli_args *args);
int cli_cmd_save(const struct cli_args *args);
int cli_cmd_clone(const struct cli_args *args);
int cli_cmd_snapshot_create(const struct cli_args *args);
int cli_cmd_snapshot_ls(const struct cli_args *args);
int cli_cmd_snapshot_inspect(const struct cli_args *args);
int cli_cmd_snapshot_restore(const struct cli_args *args);
int cli_cmd_snapshot_rm(const struct cli_args *args);
int cli_cmd_vm_save(const struct cli_args *args);
int cli_cmd_vm_restore(const struct cli_args *args);
int cli_cmd_cpu_ls(const struct cli_args *args);
int cli_cmd_image_import(const struct cli_args *args);
int cli_cmd_image_build(const struct cli_args *args);
int cli_cmd_image_login(const struct cli_args *args);
int cli_cmd_image_logout(const struct cli_args *args);
int cli_cmd_image_ls(const struct cli_args *args);
int cli_cmd_image_pull(const struct cli_args *args);
int cli_cmd_image_push(const struct cli_args *args);
int cli_cmd_image_tag(const struct cli_args *args);
int cli_cmd_image_inspect(const struct cli_args *args);
int cli_cmd_image_history(const struct cli_args *args);
int cli_cmd_image_export(const struct cli_args *args);
int cli_cmd_image_prune(const struct cli_args *args);
int cli_cmd_template_create(const struct cli_args *args);
int cli_cmd_template_ls(const struct cli_args *args);
int cli_cmd_template_inspect(const struct cli_args *args);
int cli_cmd_template_rm(const struct cli_args *args);
int cli_cmd_commit(const struct cli_args *args);
int cli_cmd_image_pull(const struct cli_args *args);
int cli_cmd_image_push(const struct cli_args *args);
int cli_cmd_image_rm(const struct cli_args *args);
int cli_cmd_create(const struct cli_args *args);
int cli_cmd_run(const struct cli_args *args);
int cli_cmd_exec(const struct cli_args *args);
int cli_cmd_cp(const struct cli_args *args);
int cli_cmd_diff(const struct cli_args *args);
int cli_cmd_port(const struct cli_args *args);
int cli_cmd_stats(const struct cli_args *args);
int cli_cmd_top(const struct cli_args *args);
int cli_cmd_volume_create(const struct cli_args *args);
int cli_cmd_volume_ls(const struct cli_args *args);
int cli_cmd_volume_inspect(const struct cli_args *args);
int cli_cmd_volume_rm(const struct cli_args *args);
int cli_cmd_volume_prune(const struct cli_args *args);
int cli_cmd_network_create(const struct cli_args *args);
int cli_cmd_network_ls(const struct cli_args *args);
int cli_cmd_network_inspect(const struct cli_args *args);
int cli_cmd_network_rm(const struct cli_args *args);
int cli_cmd_network_leases(const struct cli_args *args);
int cli_cmd_network_capture(const struct cli_args *args);
int cli_cmd_instance_start(const struct cli_args *args);
int cli_cmd_instance_stop(const struct cli_args *args);
int cli_cmd_instance_restart(const struct cli_args *args);
int cli_cmd_instance_pause(const struct cli_args *args);
int cli_cmd_instance_resume(const struct cli_args *args);
int cli_cmd_instance_kill(const struct cli_args *args);
int cli_cmd_instance_rm(const struct cli_args *args);
int cli_cmd_instance_ls(const struct cli_args *args);
int cli_cmd_instance_inspect(const struct cli_args *args);
int cli_cmd_instance_console(const struct cli_args *args);
int cli_cmd_instance_attach(const struct cli_args *args);
int cli_cmd_instance_logs(const struct cli_args *args);
int cli_cmd_instance_wait(const struct cli_args *args);
int cli_cmd_instance_rename(const struct cli_args *args);
int cli_cmd_instance_update(const struct cli_args *args);
int cli_cmd_events(const struct cli_args *args);
int cli_cmd_autostart(const struct cli_args *args);
int cli_cmd_doctor(const struct cli_args *args);
int cli_cmd_manual(const struct cli_args *args);
int cli_cmd_complete(const struct cli_args *args);
int cli_cmd_completion(const struct cli_args *args);
int cli_cmd_disk_create(const struct cli_args *args);
int cli_cmd_disk_info(const struct cli_args *args);
int cli_cmd_disk_check(const struct cli_args *args);
int cli_cmd_disk_convert(const struct cli_args *args);
int cli_cmd_disk_resize(const struct cli_args *args);
int cli_cmd_disk_commit(const struct cli_args *args);
int cli_cmd_disk_rebase(const struct cli_args *args);
int cli_cmd_disk_compare(const struct cli_args *args);
int cli_cmd_disk_map(const struct cli_args *args);
int cli_cmd_disk_snapshot_ls(const struct cli_args *args);
int cli_cmd_disk_snapshot_create(const struct cli_args *args);
int cli_cmd_disk_snapshot_apply(const struct cli_args *args);
int cli_cmd_disk_snapshot_rm(const struct cli_args *args);
int cli_cmd_disk_backup(const struct cli_args *args);
int cli_cmd_disk_backups(const struct cli_args *args);
int cli_cmd_disk_restore(const struct cli_args *args);
int cli_cmd_disk_bitmap_ls(const struct cli_args *args);
int cli_cmd_disk_bitmap_add(const struct cli_args *args);
int cli_cmd_disk_bitmap_rm(const struct cli_args *args);
int cli_cmd_disk_bitmap_enable(const struct cli_args *args);
int cli_cmd_disk_bitmap_disable(const struct cli_args *args);
int cli_cmd_disk_bitmap_clear(const struct cli_args *args);

#endif
