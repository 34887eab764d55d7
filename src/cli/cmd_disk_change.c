/* caisson disk resize, disk snapshot and disk bitmap: small changes of one image. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "cli/disk_args.h"
#include "proto/exit_code.h"

/* SIZE, +SIZE or -SIZE. */
static int resize_size(const struct blk_open_config *config, const char *text, uint64_t *ret, struct err *e)
{
    char sign = text[0] == '+' || text[0] == '-' ? text[0] : '\0';
    uint64_t size = 0, old = 0;
    int r = num_parse_size(text + (sign != '\0'), &size);

    if (r < 0)
        return err_set(e, EINVAL,
                       "size %s: not a size; use SIZE, +SIZE or -SIZE with K, M, G or T behind it, e.g. +10G", text);
    if (sign) {
        r = disk_size(config, &old, e);
        if (r < 0)
            return r;
        if (sign == '-' ? size >= old : size > INT64_MAX - old)
            return err_set(e, EINVAL, "size %s: not possible, the disk has %llu bytes", text, (unsigned long long)old);
        size = sign == '-' ? old - size : old + size;
    }
    *ret = size;
    return 0;
}

int cli_cmd_disk_resize(const struct cli_args *args)
{
    struct disk_args a = { 0 };
    enum blk_prealloc prealloc = BLK_PREALLOC_OFF;
    const char *text = NULL;
    uint64_t size = 0;
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (r >= 0)
        r = disk_args_operand(args, 1, "SIZE", &text, &e);
    if (r >= 0)
        r = disk_args_prealloc(args, &prealloc, &e);
    if (r >= 0)
        r = resize_size(&a.config, text, &size, &e);
    if (r >= 0)
        r = disk_resize(&a.config, size, cli_value(args, "shrink") != NULL, prealloc, &e);
    disk_args_done(&a);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

static int change_snapshot(const struct cli_args *args, enum disk_snapshot_verb verb)
{
    struct disk_args a = { 0 };
    const char *name = NULL;
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (r >= 0)
        r = disk_args_operand(args, 1, "NAME", &name, &e);
    if (r >= 0)
        r = disk_snapshot(&a.config, verb, name, &e);
    disk_args_done(&a);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_disk_snapshot_create(const struct cli_args *args)
{
    return change_snapshot(args, DISK_SNAPSHOT_CREATE);
}

int cli_cmd_disk_snapshot_apply(const struct cli_args *args)
{
    return change_snapshot(args, DISK_SNAPSHOT_APPLY);
}

int cli_cmd_disk_snapshot_rm(const struct cli_args *args)
{
    return change_snapshot(args, DISK_SNAPSHOT_RM);
}

static int change_bitmap(const struct cli_args *args, enum disk_bitmap_verb verb)
{
    struct disk_args a = { 0 };
    const char *name = NULL;
    uint64_t granularity = 0;
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (r >= 0)
        r = disk_args_operand(args, 1, "NAME", &name, &e);
    if (r >= 0)
        r = disk_args_size(args, "granularity", &granularity, &e);
    if (r >= 0 && granularity > 1u << 31)
        r = err_set(&e, EINVAL, "--granularity %s: not possible; use 512 to 2G", cli_value(args, "granularity"));
    if (r >= 0)
        r = disk_bitmap(&a.config, verb, name, (uint32_t)granularity, cli_value(args, "disabled") == NULL, &e);
    disk_args_done(&a);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}

int cli_cmd_disk_bitmap_add(const struct cli_args *args)
{
    return change_bitmap(args, DISK_BITMAP_ADD);
}

int cli_cmd_disk_bitmap_rm(const struct cli_args *args)
{
    return change_bitmap(args, DISK_BITMAP_RM);
}

int cli_cmd_disk_bitmap_enable(const struct cli_args *args)
{
    return change_bitmap(args, DISK_BITMAP_ENABLE);
}

int cli_cmd_disk_bitmap_disable(const struct cli_args *args)
{
    return change_bitmap(args, DISK_BITMAP_DISABLE);
}

int cli_cmd_disk_bitmap_clear(const struct cli_args *args)
{
    return change_bitmap(args, DISK_BITMAP_CLEAR);
}
