/* caisson wait. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "sys/loop.h"

#define WAIT_POLL_MS 100

enum wait_condition { WAIT_EXITED, WAIT_RUNNING, WAIT_READY, WAIT_REMOVED };

static const char *const wait_names[] = {
    [WAIT_EXITED] = "exited",
    [WAIT_RUNNING] = "running",
    [WAIT_READY] = "ready",
    [WAIT_REMOVED] = "removed",
};

struct wait {
    enum wait_condition condition;
    uint64_t end_ns; /* 0: for ever */
};

static int wait_left_ms(const struct wait *w)
{
    uint64_t now = sys_now_ns();

    if (w->end_ns == 0)
        return -1;
    return now >= w->end_ns ? 0 : (int)MIN((w->end_ns - now + 999999) / 1000000, (uint64_t)INT_MAX);
}

static int wait_timeout(const struct wait *w, const char *name, struct err *e)
{
    return err_set(e, ETIMEDOUT, "%s is not %s after the given time; it was left as it is", name,
                   wait_names[w->condition]);
}

/* 1: the condition holds. *i is read again. */
static int wait_holds(const struct wait *w, struct store *s, struct store_instance *i, struct err *e)
{
    struct inst_info info;
    char id[INST_ID_LEN + 1];
    int r;

    memcpy(id, i->id, sizeof(id));
    store_instance_done(i);
    r = store_instance_get(s, id, i, e);
    if (r == -ENOENT && w->condition == WAIT_REMOVED)
        return 1;
    if (r == 0)
        r = inst_ask(i, &info, e);
    if (r < 0)
        return r;
    switch (w->condition) {
    case WAIT_EXITED: /* what never ran has no end yet */
        return info.alive || i->status != STORE_INST_CREATED;
    case WAIT_RUNNING:
        return info.alive && (strcmp(info.status, "running") == 0 || strcmp(info.status, "paused") == 0);
    case WAIT_READY:
        return info.alive && info.ready;
    case WAIT_REMOVED:
        break;
    }
    return 0;
}

static int wait_one(void *opaque, struct store *s, struct store_instance *i, struct err *e)
{
    const struct wait *w = opaque;
    char name[PROTO_NAME_MAX + 1];
    int code = 0, r = 0;

    memcpy(name, i->name, sizeof(name));
    while ((r = wait_holds(w, s, i, e)) == 0) {
        if (wait_left_ms(w) == 0)
            return wait_timeout(w, name, e);
        poll(NULL, 0, WAIT_POLL_MS);
    }
    if (r < 0 || w->condition != WAIT_EXITED)
        return MIN(r, 0);
    r = inst_wait(i, wait_left_ms(w), &code, e);
    if (r == 0)
        printf("%d\n", code);
    return r == -ETIMEDOUT ? wait_timeout(w, name, e) : r < 0 ? r : 1;
}

int cli_cmd_instance_wait(const struct cli_args *args)
{
    const char *condition = cli_value(args, "condition");
    struct wait w = { .condition = WAIT_EXITED };
    struct err e = { 0 };
    uint64_t timeout = 0;
    bool given = false, found = !condition;

    for (size_t i = 0; i < ARRAY_SIZE(wait_names) && condition; i++) {
        if (strcmp(condition, wait_names[i]) == 0) {
            w.condition = (enum wait_condition)i;
            found = true;
        }
    }
    if (!found) {
        err_set(&e, EINVAL, "--condition %s: unknown; use exited, running, ready or removed", condition);
        return cli_fail(&e);
    }
    if (cli_duration_option(args, "timeout", &timeout, &given, &e) < 0)
        return cli_fail(&e);
    if (given)
        w.end_ns = sys_now_ns() + timeout;
    return cli_inst_each(args, &(struct cli_inst_verb){ "wait for", NULL, wait_one, &w });
}
