/* caisson disk check. Leaks cost space, not data: alone they are a note, and exit code 0. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/disk_args.h"
#include "proto/exit_code.h"

static void check_print_json(const char *path, const struct blk_check *c)
{
    const struct {
        const char *key;
        uint64_t value;
    } rows[] = {
        { "corruptions", c->corruptions },
        { "leaks", c->leaks },
        { "corruptions_fixed", c->corruptions_fixed },
        { "leaks_fixed", c->leaks_fixed },
        { "total_clusters", c->total_clusters },
        { "allocated_clusters", c->allocated_clusters },
        { "fragmented_clusters", c->fragmented_clusters },
        { "compressed_clusters", c->compressed_clusters },
        { "image_end", c->image_end },
    };
    json_object *array = json_object_new_array(), *o = json_object_new_object();

    json_object_object_add(o, "path", json_object_new_string(path));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        json_object_object_add(o, rows[i].key, json_object_new_uint64(rows[i].value));
    json_object_array_add(array, o);
    disk_args_print_json(array);
}

static void check_print(const struct blk_check *c)
{
    char end[32];

    if (c->corruptions_fixed || c->leaks_fixed)
        printf("repaired: %llu corruptions, %llu leaked clusters\n", (unsigned long long)c->corruptions_fixed,
               (unsigned long long)c->leaks_fixed);
    printf("%llu corruptions, %llu leaked clusters%s\n", (unsigned long long)c->corruptions,
           (unsigned long long)c->leaks,
           c->leaks && !c->corruptions ? " (they cost space only; --repair leaks gives it back)" : "");
    printf("%llu of %llu clusters in use, %llu compressed, %llu not in order; the image ends at %s\n",
           (unsigned long long)c->allocated_clusters, (unsigned long long)c->total_clusters,
           (unsigned long long)c->compressed_clusters, (unsigned long long)c->fragmented_clusters,
           cli_size_text(c->image_end, end));
}

int cli_cmd_disk_check(const struct cli_args *args)
{
    const char *repair = cli_value(args, "repair");
    unsigned fix = 0;
    struct disk_args a = { 0 };
    struct blk_check check;
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (repair && strcmp(repair, "leaks") == 0)
        fix = BLK_CHECK_FIX_LEAKS;
    else if (repair && strcmp(repair, "all") == 0)
        fix = BLK_CHECK_FIX_ALL;
    else if (repair && r >= 0)
        r = err_set(&e, EINVAL, "--repair %s: unknown; use leaks or all", repair);
    if (r >= 0 && fix && cli_value(args, "force-share"))
        r = err_set(&e, EINVAL, "--force-share: only to look, not with --repair");
    if (r >= 0)
        r = disk_check(&a.config, fix, &check, &e);
    disk_args_done(&a);
    if (r < 0)
        return cli_fail(&e);
    if (cli_value(args, "json"))
        check_print_json(a.config.path, &check);
    else
        check_print(&check);
    if (check.corruptions == 0)
        return EXIT_CODE_OK;
    (void)err_set(&e, EIO, "disk %s: %llu corruptions; %s", a.config.path, (unsigned long long)check.corruptions,
                  fix ? "not all could be repaired: save its content with 'caisson disk convert'"
                      : "make a copy of the file, then repair it with --repair all");
    return cli_fail(&e);
}
