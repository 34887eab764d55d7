/* caisson image tag. */
#include <errno.h>
#include <stdio.h>

#include "cli/image.h"
#include "proto/exit_code.h"

int cli_cmd_image_tag(const struct cli_args *args)
{
    AUTO(store) struct store *store = NULL;
    char name[IMAGE_NAME_MAX];
    struct err e = { 0 };
    int r = 0;

    if (args->n_operands < 2)
        r = err_set(&e, EINVAL, "%s; give the image and its new names",
                    args->n_operands ? "no new name given" : "no image named");
    if (r == 0)
        r = store_open(STORE_WRITE, &store, &e);
    for (int i = 1; r == 0 && i < args->n_operands; i++) {
        r = image_tag(store, args->operands[0], args->operands[i], name, &e);
        if (r == 0)
            printf("%s\n", name);
    }
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
