/* caisson disk map: one line, or one JSON object, for each extent, printed as they are found. */
#include <errno.h>
#include <stdio.h>

#include "cli/disk_args.h"
#include "proto/exit_code.h"

struct map_out {
    bool json;
    bool first;
};

static int map_json(struct map_out *out, uint64_t off, const struct blk_extent *x, const char *path)
{
    json_object *o = json_object_new_object();

    if (!o)
        return -ENOMEM;
    json_object_object_add(o, "start", json_object_new_uint64(off));
    json_object_object_add(o, "length", json_object_new_uint64(x->len));
    json_object_object_add(o, "depth", json_object_new_int((int)x->depth));
    json_object_object_add(o, "allocated", json_object_new_boolean((x->flags & BLK_EXT_ALLOCATED) != 0));
    json_object_object_add(o, "zero", json_object_new_boolean((x->flags & BLK_EXT_ZERO) != 0));
    json_object_object_add(o, "data", json_object_new_boolean((x->flags & BLK_EXT_DATA) != 0));
    json_object_object_add(o, "compressed", json_object_new_boolean((x->flags & BLK_EXT_COMPRESSED) != 0));
    if (x->flags & BLK_EXT_HOST)
        json_object_object_add(o, "offset", json_object_new_uint64(x->host_off));
    json_object_object_add(o, "path", json_object_new_string(path));
    printf("%s  %s", out->first ? "[\n" : ",\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
    return 0;
}

static int map_extent(void *opaque, uint64_t off, const struct blk_extent *x, const char *path)
{
    struct map_out *out = opaque;
    int r = 0;

    if (out->first && !out->json)
        printf("%-16s %-16s %-10s %5s  %-16s %s\n", "START", "LENGTH", "KIND", "DEPTH", "OFFSET", "FILE");
    if (out->json) {
        r = map_json(out, off, x, path);
    } else {
        char place[32] = "-";

        if (x->flags & BLK_EXT_HOST)
            snprintf(place, sizeof(place), "%#llx", (unsigned long long)x->host_off);
        printf("%#-16llx %#-16llx %-10s %5u  %-16s %s\n", (unsigned long long)off, (unsigned long long)x->len,
               x->flags & BLK_EXT_ZERO         ? "zero"
               : x->flags & BLK_EXT_COMPRESSED ? "compressed"
                                               : "data",
               x->depth, place, x->flags & BLK_EXT_ALLOCATED ? path : "-");
    }
    out->first = false;
    return r < 0 ? r : ferror(stdout) ? -EIO : 0;
}

int cli_cmd_disk_map(const struct cli_args *args)
{
    struct map_out out = { .json = cli_value(args, "json") != NULL, .first = true };
    struct disk_args a = { 0 };
    struct err e = { 0 };
    int r = disk_args_open(args, 0, "FILE", "format", &a, &e);

    if (r >= 0) /* the head comes with the first extent, so that a disk that cannot be opened prints nothing */
        r = disk_map(&a.config, map_extent, &out, &e);
    disk_args_done(&a);
    if (r < 0)
        return cli_fail(&e);
    if (out.json)
        printf("\n]\n");
    return EXIT_CODE_OK;
}
