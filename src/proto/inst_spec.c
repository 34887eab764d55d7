#include "proto/inst_spec.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "proto/name.h"
#include "proto/vm_spec.h"

#define INST_SECOND_NS 1000000000ULL
#define INST_TIME_MAX_NS (366ULL * 24 * 3600 * INST_SECOND_NS)
#define INST_LOG_SIZE_MIN 4096U
#define INST_LOG_FILES_MAX 1000U
#define INST_CPUS_MAX 4096.0

static const char *const inst_kind_names[] = { [INST_VM] = "vm", [INST_CONTAINER] = "container" };
static const char *const inst_restart_names[] = {
    [INST_RESTART_NO] = "no",
    [INST_RESTART_ON_FAILURE] = "on-failure",
    [INST_RESTART_ALWAYS] = "always",
    [INST_RESTART_UNLESS_STOPPED] = "unless-stopped",
};

int inst_strings_add(struct inst_strings *s, const char *text)
{
    char *copy = strdup(text);
    char **grown = copy ? realloc(s->at, (s->n + 1) * sizeof(*grown)) : NULL;

    if (!grown) {
        free(copy);
        return -ENOMEM;
    }
    s->at = grown;
    s->at[s->n++] = copy;
    return 0;
}

void inst_strings_done(struct inst_strings *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->at[i]);
    free(s->at);
    *s = (struct inst_strings){ 0 };
}

int inst_spec_init(struct inst_spec *s, enum inst_kind kind)
{
    *s = (struct inst_spec){
        .kind = kind,
        .stop_signal = SIGTERM,
        .stop_timeout_ns = 10 * INST_SECOND_NS,
        .log_max_size = 10U << 20,
        .log_files = 3,
        .health = { .interval_ns = 30 * INST_SECOND_NS, .timeout_ns = 30 * INST_SECOND_NS, .retries = 3 },
    };
    if (kind != INST_VM)
        return 0;
    s->vm = calloc(1, sizeof(*s->vm));
    if (!s->vm)
        return -ENOMEM;
    vm_spec_init(s->vm);
    return 0;
}

static void inst_container_done(struct inst_container *c)
{
    struct inst_strings *const lists[] = { &c->args,    &c->env,     &c->cap_add, &c->cap_drop, &c->security,
                                           &c->devices, &c->sysctls, &c->ulimits, &c->dns,      &c->hosts };

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        inst_strings_done(lists[i]);
    for (size_t i = 0; i < c->n_mounts; i++) {
        free(c->mounts[i].source);
        free(c->mounts[i].target);
        free(c->mounts[i].options);
    }
    free(c->mounts);
    free(c->ports);
    free(c->cwd);
    free(c->user);
    free(c->hostname);
    free(c->network);
    free(c->cpuset);
}

void inst_spec_done(struct inst_spec *s)
{
    free(s->image_id);
    free(s->image_name);
    inst_strings_done(&s->health.command);
    inst_strings_done(&s->labels);
    if (s->vm)
        vm_spec_done(s->vm);
    free(s->vm);
    inst_container_done(&s->container);
    *s = (struct inst_spec){ 0 };
}

const char *inst_kind_name(enum inst_kind kind)
{
    return inst_kind_names[kind];
}

const char *inst_restart_name(enum inst_restart restart)
{
    return inst_restart_names[restart];
}

int inst_restart_parse(const char *text, enum inst_restart *ret_restart, unsigned *ret_max)
{
    size_t len = strcspn(text, ":");
    uint64_t max = 0;

    for (size_t i = 0; i < ARRAY_SIZE(inst_restart_names); i++) {
        if (strlen(inst_restart_names[i]) != len || memcmp(inst_restart_names[i], text, len) != 0)
            continue;
        if (text[len] == ':' &&
            (i != INST_RESTART_ON_FAILURE || num_parse_u64(text + len + 1, 1, INST_RESTARTS_MAX, &max) < 0))
            return -EINVAL;
        *ret_restart = (enum inst_restart)i;
        *ret_max = (unsigned)max;
        return 0;
    }
    return -EINVAL;
}

/* ---- checks ---- */

/* Each has a name before its '='. */
static int inst_check_pairs(const struct inst_strings *s, const char *option, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *equals = strchr(s->at[i], '=');

        if (!equals || equals == s->at[i])
            return err_set(e, EINVAL, "%s '%.80s': no name and value; give NAME=VALUE", option, s->at[i]);
    }
    return 0;
}

static int inst_check_mount(const struct inst_mount *m, struct err *e)
{
    if (!m->target || m->target[0] != '/')
        return err_set(e, EINVAL, "mount target '%.80s': not an absolute path; give one that begins with /",
                       m->target ? m->target : "");
    switch (m->kind) {
    case INST_MOUNT_BIND:
        if (m->source && m->source[0] == '/')
            return 0;
        return err_set(e, EINVAL, "mount source '%.80s': not an absolute path; give one that begins with /",
                       m->source ? m->source : "");
    case INST_MOUNT_VOLUME:
        if (m->source && proto_name_ok(m->source))
            return 0;
        return err_set(e, EINVAL, "volume '%.80s': not a name; use 1 to %d of a-z, 0-9 and '-'",
                       m->source ? m->source : "", PROTO_NAME_MAX);
    case INST_MOUNT_TMPFS:
        break;
    }
    return m->source ? err_set(e, EINVAL, "tmpfs at %.80s: has no source; leave it out", m->target) : 0;
}

static int inst_check_limits(const struct inst_container *c, struct err *e)
{
    if (!(c->cpus >= 0 && c->cpus <= INST_CPUS_MAX))
        return err_set(e, EINVAL, "--cpus: not possible; give a number above 0, such as 1.5");
    if (c->memory > INT64_MAX || c->memory_swap > INT64_MAX || c->shm_size > INT64_MAX || c->pids > INT64_MAX ||
        c->cpu_shares > INT64_MAX)
        return err_set(e, EINVAL, "a limit is too large; give one below 8E");
    if (c->memory_swap && c->memory_swap < c->memory)
        return err_set(e, EINVAL, "--memory-swap is memory and swap together; give at least --memory, or leave it out");
    return 0;
}

static int inst_check_container(const struct inst_container *c, struct err *e)
{
    int r = 0;

    if (c->args.n == 0 || !c->args.at[0][0])
        return err_set(e, EINVAL, "no command: the image has none; give one behind the image's name");
    if (c->cwd && c->cwd[0] != '/')
        return err_set(e, EINVAL, "--workdir '%.80s': not an absolute path; give one that begins with /", c->cwd);
    if (c->network && !proto_name_ok(c->network))
        return err_set(e, EINVAL, "--network '%.80s': not a name; see 'caisson network ls'", c->network);
    for (size_t i = 0; i < c->n_ports && r == 0; i++) {
        if (c->ports[i].port == 0)
            r = err_set(e, EINVAL, "--publish: port 0 of the container is none; give 1 to 65535");
    }
    for (size_t i = 0; i < c->n_mounts && r == 0; i++)
        r = inst_check_mount(&c->mounts[i], e);
    if (r == 0)
        r = inst_check_pairs(&c->env, "--env", e);
    if (r == 0)
        r = inst_check_pairs(&c->sysctls, "--sysctl", e);
    return r < 0 ? r : inst_check_limits(c, e);
}

static int inst_check_vm(const struct inst_spec *s, struct err *e)
{
    /* These belong to one run, and a stored one would name descriptors that are something else by now. */
    if (s->vm->name || s->vm->run_dir)
        return err_set(e, EINVAL, "VM specification: 'name' and 'run_dir' are not for instances");
    for (unsigned i = 0; i < s->vm->n_nets; i++) {
        if (s->vm->nets[i].n_fds > 0)
            return err_set(e, EINVAL, "VM specification: 'fds' is not for instances");
    }
    return vm_spec_check(s->vm, e);
}

static int inst_check_health(const struct inst_health *h, struct err *e)
{
    if (h->command.n > 0 && !h->command.at[0][0])
        return err_set(e, EINVAL, "--health-cmd: no command; give one");
    if (h->retries < 1 || h->retries > INST_HEALTH_RETRIES_MAX)
        return err_set(e, EINVAL, "--health-retries %u: not possible; give 1 to %d", h->retries,
                       INST_HEALTH_RETRIES_MAX);
    if (h->interval_ns < INST_HEALTH_MIN_NS || h->interval_ns > INST_TIME_MAX_NS)
        return err_set(e, EINVAL, "--health-interval: not possible; give 100ms to 366d");
    if (h->timeout_ns < INST_HEALTH_MIN_NS || h->timeout_ns > INST_TIME_MAX_NS)
        return err_set(e, EINVAL, "--health-timeout: not possible; give 100ms to 366d");
    if (h->start_period_ns > INST_TIME_MAX_NS)
        return err_set(e, EINVAL, "--health-start-period: too long; give at most 366d");
    return 0;
}

int inst_spec_check(const struct inst_spec *s, struct err *e)
{
    int r;

    if (s->stop_signal < 1 || s->stop_signal > SIGRTMAX)
        return err_set(e, EINVAL, "--stop-signal %d: no signal; give a name or 1 to %d", s->stop_signal, SIGRTMAX);
    if (s->stop_timeout_ns > INST_TIME_MAX_NS)
        return err_set(e, EINVAL, "--stop-timeout: too long; give at most 366d");
    if (s->log_max_size && s->log_max_size < INST_LOG_SIZE_MIN)
        return err_set(e, EINVAL, "log size of %" PRIu64 " bytes: too small; give at least 4K", s->log_max_size);
    if (s->log_files < 1 || s->log_files > INST_LOG_FILES_MAX)
        return err_set(e, EINVAL, "%u log files: not possible; give 1 to %u", s->log_files, INST_LOG_FILES_MAX);
    if (s->restart_max > INST_RESTARTS_MAX || (s->restart_max && s->restart != INST_RESTART_ON_FAILURE))
        return err_set(e, EINVAL, "--restart: a number goes with on-failure only, 1 to %u; give on-failure:MAX",
                       INST_RESTARTS_MAX);
    if (s->remove && s->restart != INST_RESTART_NO)
        return err_set(e, EINVAL, "--rm and --restart exclude each other; give one of them");
    r = inst_check_pairs(&s->labels, "--label", e);
    if (r == 0)
        r = inst_check_health(&s->health, e);
    if (r < 0)
        return r;
    return s->kind == INST_VM ? inst_check_vm(s, e) : inst_check_container(&s->container, e);
}
