/* What tests need of image/ beyond the command line: image_tool layers IMAGE (the option and the folders, a line each);
 * commit BASE|- FOLDER NAME COMPRESS [CHANGE...]; pack FOLDER FILE; unpack FILE FOLDER IMAGE. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/commit.h"
#include "store/store.h"

static int tool_layers(struct store *s, const char *name, struct err *e)
{
    struct image i = { 0 };
    char **paths = NULL;
    size_t n = 0;
    int r = image_get(s, name, &i, e);

    if (r == 0)
        r = image_layers(s, &i, &paths, &n, e);
    if (r == 0)
        printf("%s\n", image_overlay_option());
    for (size_t k = 0; k < n; k++)
        printf("%s\n", paths[k]);
    image_paths_free(paths, n);
    image_done(&i);
    return r;
}

static int tool_commit(struct store *s, char **argv, int argc, struct err *e)
{
    const struct image_commit c = {
        .base = strcmp(argv[0], "-") == 0 ? NULL : argv[0],
        .folder = argv[1],
        .name = argv[2],
        .compress = strcmp(argv[3], "zstd") == 0   ? IMAGE_COMPRESS_ZSTD
                    : strcmp(argv[3], "none") == 0 ? IMAGE_COMPRESS_NONE
                                                   : IMAGE_COMPRESS_GZIP,
        .changes = (const char *const *)argv + 4,
        .n_changes = (size_t)argc - 4,
        .message = "made by a test",
    };
    struct image i = { 0 };
    int r = image_commit(s, &c, &i, e);

    if (r == 0)
        printf("%s\n", i.id);
    image_done(&i);
    return r;
}

static int tool_unpack(struct store *s, char **argv, struct err *e)
{
    struct image i = { 0 };
    char **paths = NULL;
    size_t n = 0;
    int r = image_get(s, argv[2], &i, e);

    if (r == 0)
        r = image_layers(s, &i, &paths, &n, e);
    if (r == 0)
        r = image_layer_to_upper(argv[0], argv[1], paths, n, NULL, e);
    image_paths_free(paths, n);
    image_done(&i);
    return r;
}

int main(int argc, char **argv)
{
    AUTO(store) struct store *s = NULL;
    struct err e = { 0 };
    int r = store_open(STORE_WRITE, &s, &e);

    if (r == 0 && argc == 3 && strcmp(argv[1], "layers") == 0)
        r = tool_layers(s, argv[2], &e);
    else if (r == 0 && argc >= 6 && strcmp(argv[1], "commit") == 0)
        r = tool_commit(s, argv + 2, argc - 2, &e);
    else if (r == 0 && argc == 4 && strcmp(argv[1], "pack") == 0)
        r = image_layer_from_upper(argv[2], argv[3], NULL, NULL, &e);
    else if (r == 0 && argc == 5 && strcmp(argv[1], "unpack") == 0)
        r = tool_unpack(s, argv + 2, &e);
    else if (r == 0)
        return 2;
    if (r < 0)
        fprintf(stderr, "image_tool: %s\n", e.text);
    return r < 0;
}
