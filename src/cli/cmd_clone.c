/* caisson clone: a VM like another one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/cancel.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "instance/vm_clone.h"
#include "proto/exit_code.h"
#include "proto/name.h"

static int clone_run(const struct cli_args *args, struct cli_cancel *cancel, struct err *e)
{
    AUTO_FREE struct store_instance *source = calloc(1, sizeof(*source));
    AUTO_FREE struct store_instance *made = calloc(1, sizeof(*made));
    AUTO(store) struct store *store = NULL;
    struct cli_progress bar;
    const struct disk_progress progress = { cli_progress_step, &bar };
    const struct inst_vm_clone how = { .name = args->n_operands > 1 ? args->operands[1] : "",
                                       .hostname = cli_value(args, "hostname"),
                                       .progress = &progress };
    int r = source && made ? cli_progress_begin(&bar, args, "clone", cancel, e) : err_set(e, ENOMEM, "out of memory");

    if (r < 0)
        return r;
    if (how.hostname && !proto_host_name_ok(how.hostname))
        r = err_set(e, EINVAL, "--hostname %s: not a host name; use letters, digits, - _ and .", how.hostname);
    if (r == 0)
        r = cli_inst_one(args, 0, &store, source, e);
    if (r == 0) {
        r = inst_vm_clone(store, source, &how, made, e);
        store_instance_done(source);
    }
    cli_progress_end(&bar, r == 0);
    if (r == 0 && cli_value(args, "start"))
        r = inst_start(made, &(struct inst_start){ 0 }, NULL, e);
    if (r == 0)
        printf("%s\n", made->name);
    store_instance_done(made);
    return r;
}

int cli_cmd_clone(const struct cli_args *args)
{
    struct cli_cancel cancel;
    struct err e = { 0 };
    int r = cli_cancel_begin(&cancel, &e);

    if (r < 0)
        return cli_fail(&e);
    r = clone_run(args, &cancel, &e);
    return cli_cancel_end(&cancel, r < 0 ? cli_fail(&e) : EXIT_CODE_OK);
}
