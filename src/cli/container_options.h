/* Options of `run` and `create` as the specification of a container. */
#ifndef CLI_CONTAINER_OPTIONS_H
#define CLI_CONTAINER_OPTIONS_H

#include "base/attr.h"
#include "base/err.h"
#include "cli/command.h"

struct image;
struct inst_container;
struct inst_spec;
struct inst_strings;

/* Fill spec (initialised, INST_CONTAINER) from the image and the options; command: the words behind the image. Without
 * an image (NULL) the options are only checked: no file is read. -EINVAL with text. */
int cli_container_spec(const struct cli_args *args, const struct image *image, char *const *command, int n_command,
                       struct inst_spec *spec, struct err *e) MUST_USE;
/* The parts: what the image says (container_image.c), -p (container_ports.c), -v, --mount, --tmpfs
 * (container_volumes.c). */
int cli_container_image(const struct cli_args *args, const struct image *image, char *const *command, int n_command,
                        struct inst_spec *spec, struct err *e) MUST_USE;
int cli_container_ports(const struct cli_args *args, const struct image *image, struct inst_spec *spec,
                        struct err *e) MUST_USE;
int cli_container_volumes(const struct cli_args *args, const struct image *image, struct inst_spec *spec,
                          struct err *e) MUST_USE;
/* An option that is a limit; false: it is none. *ret_r is 0 before: -EINVAL with text, -ENOMEM without. */
bool cli_container_limit(struct inst_container *c, const char *name, const char *v, int *ret_r, struct err *e);
/* Say on stderr where limits are given that cannot be in force. */
void cli_container_warn(const struct inst_container *c);
/* Set or replace K=V in a list of such. "K" alone: with the value that it has here, or without it not at all. -ENOMEM.
 */
int cli_env_set(struct inst_strings *env, const char *text) MUST_USE;
/* All of a file, a line each; blank ones and those that begin with # are passed over. */
int cli_env_file(struct inst_strings *env, const char *path, struct err *e) MUST_USE;

#endif
