/* Health checks: a command in the instance every so often. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "shim/shim_priv.h"

enum health_state { HEALTH_NONE, HEALTH_STARTING, HEALTH_HEALTHY, HEALTH_UNHEALTHY };

struct shim_health {
    struct shim *shim;
    enum health_state state;
    unsigned failures; /* in a row */
    uint64_t began_ns;
    pid_t pid;  /* of the check that runs; 0: none */
    pid_t gone; /* of one that was killed and does not count; 0: none */
    bool late;  /* it was killed for taking too long */
    struct loop_timer *next, *limit;
};

static const char *const health_names[] = {
    [HEALTH_NONE] = "none",
    [HEALTH_STARTING] = "starting",
    [HEALTH_HEALTHY] = "healthy",
    [HEALTH_UNHEALTHY] = "unhealthy",
};

const char *shim_health_name(const struct shim_health *h)
{
    return health_names[h->state];
}

bool shim_health_ready(const struct shim_health *h)
{
    return h->state == HEALTH_NONE || h->state == HEALTH_HEALTHY;
}

static void health_set(struct shim_health *h, enum health_state state)
{
    char attributes[48];

    if (h->state == state)
        return;
    h->state = state;
    snprintf(attributes, sizeof(attributes), "{\"health\":\"%s\"}", health_names[state]);
    shim_tell(h->shim, "health_status", attributes);
    if (state == HEALTH_HEALTHY)
        shim_conn_ready(h->shim);
}

static void health_result(struct shim_health *h, bool good)
{
    const struct inst_health *c = &h->shim->instance.spec.health;
    uint64_t now = sys_now_ns();

    loop_timer_set(h->limit, 0);
    loop_timer_set(h->next, now + c->interval_ns);
    if (good) {
        h->failures = 0;
        health_set(h, HEALTH_HEALTHY);
    } else if (h->state != HEALTH_STARTING || now - h->began_ns >= c->start_period_ns) {
        h->failures++;
        if (h->failures >= c->retries)
            health_set(h, HEALTH_UNHEALTHY);
    }
}

static void health_due(void *opaque)
{
    struct shim_health *h = opaque;
    struct shim *s = h->shim;
    const struct inst_health *c = &s->instance.spec.health;
    struct err e = { 0 };

    if (h->pid)
        return;
    if (s->paused) { /* it would only wait */
        loop_timer_set(h->next, sys_now_ns() + c->interval_ns);
        return;
    }
    h->late = false;
    if (s->ops->exec(&s->run, &c->command, &h->pid, &e) < 0) {
        h->pid = 0;
        health_result(h, false);
        return;
    }
    loop_timer_set(h->limit, sys_now_ns() + c->timeout_ns);
}

static void health_late(void *opaque)
{
    struct shim_health *h = opaque;

    h->late = true;
    if (h->pid)
        kill(h->pid, SIGKILL);
}

bool shim_health_reaped(struct shim_health *h, pid_t pid, int status)
{
    const struct shim *s = h->shim;
    bool counts = pid == h->pid;

    if (pid <= 0 || (!counts && pid != h->gone))
        return false;
    if (WIFSIGNALED(status) && s->state == SHIM_RUNNING && s->ops->exec_killed)
        s->ops->exec_killed(&s->run);
    if (!counts) {
        h->gone = 0;
        return true;
    }
    h->pid = 0;
    if (h->state != HEALTH_NONE)
        health_result(h, !h->late && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return true;
}

int shim_health_new(struct shim *s, struct shim_health **ret_health)
{
    struct shim_health *h = calloc(1, sizeof(*h));
    int r;

    if (!h)
        return -ENOMEM;
    h->shim = s;
    r = loop_timer_new(s->loop, health_due, h, &h->next);
    if (r == 0)
        r = loop_timer_new(s->loop, health_late, h, &h->limit);
    if (r < 0) {
        shim_health_free(h);
        return r;
    }
    *ret_health = h;
    return 0;
}

void shim_health_free(struct shim_health *h)
{
    if (!h)
        return;
    loop_timer_free(h->next);
    loop_timer_free(h->limit);
    free(h);
}

void shim_health_begin(struct shim_health *h)
{
    const struct inst_health *c = &h->shim->instance.spec.health;

    h->failures = 0;
    h->began_ns = sys_now_ns();
    h->state = c->command.n ? HEALTH_STARTING : HEALTH_NONE;
    if (c->command.n)
        loop_timer_set(h->next, h->began_ns + c->interval_ns);
    else
        shim_conn_ready(h->shim);
}

void shim_health_end(struct shim_health *h)
{
    loop_timer_set(h->next, 0);
    loop_timer_set(h->limit, 0);
    if (h->pid) {
        kill(h->pid, SIGKILL);
        h->gone = h->pid; /* it counts no more, and the next one need not wait for its end */
    }
    h->pid = 0;
    h->state = HEALTH_NONE;
}
