/* Shared by the commands of `caisson image`. */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include <json-c/json.h>

#include "cli/command.h"
#include "image/image.h"

/* An image as a row of ls, without its documents. NULL: out of memory. */
json_object *cli_image_row(const struct image *i);
/* Run work with progress on stderr and Ctrl-C as a cancellation; errors are printed. Returns the exit code. */
int cli_image_long(const struct cli_args *args, const char *operation,
                   int (*work)(void *opaque, const struct disk_progress *progress, struct err *e), void *opaque);
/* Which instance uses an image, for struct image_rm. */
int cli_image_user(void *opaque, struct store *s, const char *id, char ret_user[128], struct err *e);

#endif
