/* caisson image export. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/image.h"
#include "image/export.h"
#include "proto/exit_code.h"

static int export_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct image_export *x = opaque;
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_READ, &store, e);

    x->progress = progress;
    return r < 0 ? r : image_export(store, x, e);
}

static int export_options(const struct cli_args *args, struct image_export *x, struct err *e)
{
    const char *format = cli_value(args, "format"), *path = cli_value(args, "output");

    if (args->n_operands == 0)
        return err_set(e, EINVAL, "no image named; give the name or id of one, see 'caisson image ls'");
    if (format && image_format_parse(format, &x->format) < 0)
        return err_set(e, EINVAL, "--format %s: unknown; use oci, oci-dir, docker or rootfs", format);
    if (x->format == IMAGE_FORMAT_ROOTFS && args->n_operands > 1)
        return err_set(e, EINVAL, "--format rootfs is for one image; name one");
    x->path = path ? path : "-";
    if (x->format == IMAGE_FORMAT_OCI_DIR && strcmp(x->path, "-") == 0)
        return err_set(e, EINVAL, "--format oci-dir makes a folder; name it with --output");
    if (strcmp(x->path, "-") == 0 && isatty(STDOUT_FILENO))
        return err_set(e, EINVAL, "an image is nothing for a terminal; name a file with --output, or use a pipe");
    x->images = (const char *const *)args->operands;
    x->n = (size_t)args->n_operands;
    return 0;
}

int cli_cmd_image_export(const struct cli_args *args)
{
    struct image_export x = { .format = IMAGE_FORMAT_OCI };
    struct err e = { 0 };

    if (export_options(args, &x, &e) < 0)
        return cli_fail(&e);
    return cli_image_long(args, "export", export_work, &x);
}
