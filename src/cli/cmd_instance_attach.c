/* caisson attach and console. */
#include <errno.h>

#include "cli/command.h"
#include "cli/instance.h"

static int attach_begin(struct store_instance *i, struct cli_attach_options *o, struct inst_session *s, struct err *e)
{
    if (i->spec.kind == INST_VM)
        o->proxy_signals = false; /* Ctrl-C is not to end a machine */
    return inst_attach(i, o->in, i->spec.kind == INST_VM, s, e);
}

static int console_begin(struct store_instance *i, struct cli_attach_options *o, struct inst_session *s, struct err *e)
{
    if (i->spec.kind == INST_CONTAINER && !i->spec.container.terminal)
        return err_set(e, EINVAL, "%s has no terminal; make containers with -t for one, or use 'caisson attach %s'",
                       i->name, i->name);
    return inst_attach(i, o->in, true, s, e);
}

int cli_cmd_instance_attach(const struct cli_args *args)
{
    struct cli_attach_options o = { .in = cli_value(args, "no-stdin") == NULL, .proxy_signals = true };

    return cli_attach_named(args, &o, attach_begin);
}

int cli_cmd_instance_console(const struct cli_args *args)
{
    struct cli_attach_options o = { .in = cli_value(args, "no-stdin") == NULL };

    return cli_attach_named(args, &o, console_begin);
}
