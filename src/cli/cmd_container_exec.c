/* caisson exec. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/container_options.h"
#include "cli/instance.h"
#include "cli/vm_agent.h"
#include "instance/container_root.h"
#include "proto/exit_code.h"

static int exec_code(const struct err *e)
{
    fprintf(stderr, "caisson: %s\n", e->text);
    if (strncmp(e->text, "exec: ", 6) != 0)
        return EXIT_CODE_NOT_RUN;
    return e->code == ENOENT ? EXIT_CODE_NO_PROGRAM : EXIT_CODE_NOT_EXECUTABLE;
}

int cli_cmd_exec(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    struct inst_exec x = { .command = args->operands + 1,
                           .n_command = args->n_operands - 1,
                           .terminal = cli_value(args, "tty"),
                           .in = cli_value(args, "interactive"),
                           .detach = cli_value(args, "detach"),
                           .privileged = cli_value(args, "privileged"),
                           .user = cli_value(args, "user"),
                           .cwd = cli_value(args, "workdir") };
    AUTO(store) struct store *store = NULL;
    struct err e = { 0 };
    int status = 0, wait_ms = 0, r = i ? 0 : err_set(&e, ENOMEM, "out of memory");

    if (r == 0 && args->n_operands < 2)
        r = err_set(&e, EINVAL, "exec needs a VM or container and a command; give both");
    if (r == 0)
        r = cli_vm_agent_wait(args, &wait_ms, &e);
    for (size_t n = 0; n < args->n_given && r == 0; n++) {
        const struct cli_given *g = &args->given[n];

        if (strcmp(g->option->name, "env") == 0 && cli_env_set(&x.env, g->value) < 0)
            r = err_set(&e, ENOMEM, "out of memory");
        else if (strcmp(g->option->name, "env-file") == 0)
            r = cli_env_file(&x.env, g->value, &e);
    }
    if (r == 0)
        r = cli_inst_one(args, 0, &store, i, &e);
    if (r == 0) {
        store_close(STEAL(store));
        r = i->spec.kind == INST_VM ? cli_vm_exec(i, &x, wait_ms, &status, &e)
                                    : inst_container_exec(i, &x, &status, &e);
        store_instance_done(i);
    }
    inst_strings_done(&x.env);
    return r < 0 ? exec_code(&e) : status;
}
