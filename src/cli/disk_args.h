/* What the commands of the noun disk have in common: operands, options that say how to open an image, long work. */
#ifndef CLI_DISK_ARGS_H
#define CLI_DISK_ARGS_H

#include <json-c/json_object.h>
#include <stdint.h>

#include "cli/cancel.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "cli/secret.h"
#include "store/disk.h"

#define DISK_ARGS_DIRS_MAX 16

/* How to open a disk, and what the configuration borrows. */
struct disk_args {
    struct blk_open_config config;
    struct cli_secret secret;
    const char *dirs[DISK_ARGS_DIRS_MAX + 1];
};

/* From operand i (what: FILE, for the error where it is missing), the option that has its format, and --secret,
 * --force-share and --allow-dir, those of them that the command has. a stays where it is and is ended by disk_args_done
 * in any case. */
int disk_args_open(const struct cli_args *args, int i, const char *what, const char *format_option, struct disk_args *a,
                   struct err *e) MUST_USE;
void disk_args_done(struct disk_args *a);
/* Operand i, or an error that says what is missing. */
int disk_args_operand(const struct cli_args *args, int i, const char *what, const char **ret, struct err *e) MUST_USE;
/* All values of --allow-dir; dirs is NULL-terminated, *ret_dirs NULL where none was given. */
int disk_args_dirs(const struct cli_args *args, const char *dirs[DISK_ARGS_DIRS_MAX + 1], const char *const **ret_dirs,
                   struct err *e) MUST_USE;

/* FILE[,format=F], a comma in the file's name doubled. The strings are malloc'd; format NULL: not said. */
int disk_args_backing(const char *option, const char *text, char **ret_path, char **ret_format, struct err *e) MUST_USE;
/* An option that is a size in bytes; left alone where it was not given. */
int disk_args_size(const struct cli_args *args, const char *option, uint64_t *ret, struct err *e) MUST_USE;
int disk_args_prealloc(const struct cli_args *args, enum blk_prealloc *ret, struct err *e) MUST_USE;

/* What create and convert say about the image to make. Borrowed strings live in this, and in args. */
struct disk_args_target {
    struct blk_create_config config;
    struct cli_secret secret;
    char *backing, *backing_format;
};
/* secret_option: which option has the passphrase of the new image. Ended by disk_args_target_done in any case. */
int disk_args_target(const struct cli_args *args, const char *path, const char *secret_option,
                     struct disk_args_target *t, struct err *e) MUST_USE;
void disk_args_target_done(struct disk_args_target *t);

/* Long work, with a bar and Ctrl-C. work is called with opaque; its result becomes the exit code. */
int disk_args_long(const struct cli_args *args, const char *operation,
                   int (*work)(void *opaque, const struct disk_progress *progress, struct err *e), void *opaque,
                   struct err *e);

/* Print a JSON value the way all commands do, and let go of it. */
void disk_args_print_json(json_object *o);
/* Members of an object out of store/disk_info.c; "" and 0 where they are missing. */
const char *disk_args_text(json_object *o, const char *key);
uint64_t disk_args_u64(json_object *o, const char *key);
bool disk_args_flag(json_object *o, const char *key);

#endif
