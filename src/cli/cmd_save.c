/* caisson save: the memory of VMs into files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/cancel.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/progress.h"
#include "instance/vm_save.h"
#include "proto/exit_code.h"

struct save {
    const struct cli_args *args;
    struct cli_cancel cancel;
};

static int save_one(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    struct save *save = opaque;
    struct cli_progress bar;
    const struct disk_progress progress = { cli_progress_step, &bar };
    uint64_t size;
    int r;

    (void)s;
    if (i->status == STORE_INST_SAVED)
        return 0; /* that is what was wanted */
    r = cli_progress_begin(&bar, save->args, "save", &save->cancel, e);
    if (r < 0)
        return r;
    r = inst_vm_save(i, &progress, &size, e);
    cli_progress_end(&bar, r == 0);
    return r;
}

static int save_discard(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    (void)opaque;
    return inst_vm_discard(s, i, e);
}

int cli_cmd_save(const struct cli_args *args)
{
    struct save save = { .args = args };
    const bool discard = cli_value(args, "discard") != NULL;
    const struct cli_inst_verb verb = { "save", NULL, discard ? save_discard : save_one, &save };
    struct err e = { 0 };

    if (cli_cancel_begin(&save.cancel, &e) < 0)
        return cli_fail(&e);
    return cli_cancel_end(&save.cancel, cli_inst_each(args, &verb));
}
