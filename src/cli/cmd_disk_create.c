/* caisson disk create. */
#include <errno.h>
#include <string.h>

#include "base/num.h"
#include "cli/disk_args.h"
#include "proto/exit_code.h"

int cli_cmd_disk_create(const struct cli_args *args)
{
    struct disk_args_target t = { 0 };
    struct err e = { 0 };
    const char *path = NULL;
    int r = disk_args_operand(args, 0, "FILE", &path, &e);

    if (r >= 0)
        r = disk_args_target(args, path, "secret", &t, &e);
    if (r >= 0 && args->n_operands > 1 && num_parse_size(args->operands[1], &t.config.size) < 0)
        r = err_set(&e, EINVAL, "size %s: not a size; use a number with K, M, G or T behind it, e.g. 10G",
                    args->operands[1]);
    if (r >= 0 && args->n_operands > 1 && t.config.size == 0)
        r = err_set(&e, EINVAL, "size %s: a disk has at least 512 bytes", args->operands[1]);
    if (r >= 0)
        r = disk_create(&t.config, &e);
    disk_args_target_done(&t);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
