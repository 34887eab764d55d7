#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/console.h"
#include "oci/container.h"
#include "oci/create.h"
#include "oci/hooks.h"
#include "oci/log.h"
#include "oci/main.h"
#include "oci/sync.h"
#include "oci/wait.h"

static int run_start(struct oci_create *c, struct err *e)
{
    const int fd = c->launch.sync_fd[0];
    int r;

    if (!oci_flag(c->args, OCI_OPT_DETACH))
        oci_wait_block();
    r = oci_sync_send(fd, OCI_SYNC_START, 0);
    if (r < 0)
        return err_set(e, -r, "the container's first process has gone");
    r = oci_sync_wait(fd, OCI_SYNC_ERROR, NULL, e);
    return r == -EPIPE || r == -ECONNRESET ? oci_console_take(&c->launch, e) : r;
}

/* By the state file, as any other verb would do it; afterwards nothing of the container is there. */
static int run_remove(const struct oci_args *a, struct err *e)
{
    AUTO(oci_state) struct oci_state *s = NULL;
    int r = oci_state_open(a, a->argv[0], &s, e);

    if (r == 0)
        r = oci_container_kill_all(s, e);
    return r == 0 ? oci_container_destroy(a, s, e) : r;
}

int oci_run_wait(struct oci_create *c, struct err *e)
{
    struct err ignored = { 0 };
    const int status = oci_wait_forward(c->pid, c->launch.terminal_fd, e);

    if (!oci_flag(c->args, OCI_OPT_KEEP) && run_remove(c->args, status < 0 ? &ignored : e) < 0 && status >= 0)
        oci_log_warn(c->args, e->text);
    return status;
}

int oci_verb_run(const struct oci_args *a, struct err *e)
{
    struct oci_create c;
    struct err ignored = { 0 };
    AUTO(oci_state) struct oci_state *s = NULL;
    int r = oci_create_container(&c, a, true, e);

    if (r < 0)
        goto done;
    r = run_start(&c, e);
    if (r < 0) {
        oci_create_undo(&c);
        goto done;
    }
    if (c.spec->n_hooks[OCI_HOOK_POSTSTART] > 0 && oci_state_open(a, a->argv[0], &s, &ignored) == 0 &&
        oci_container_hooks(s, OCI_HOOK_POSTSTART, OCI_RUNNING, &ignored) < 0)
        oci_log_warn(a, ignored.text);
    if (!oci_flag(a, OCI_OPT_DETACH))
        r = oci_run_wait(&c, e);
done:
    oci_create_done(&c);
    return r;
}
