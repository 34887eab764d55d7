#include "cli/container_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/instance.h"
#include "proto/inst_spec.h"
#include "sys/userns.h"

/* ---- values ---- */

static int options_signal(const char *text, int *ret_signal, struct err *e)
{
    return cli_parse_signal(text, ret_signal) < 0
               ? err_set(e, EINVAL, "--stop-signal %s: is no signal; see kill -l", text)
               : 0;
}

static int options_set(char **to, const char *value)
{
    char *copy = strdup(value);

    if (!copy)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

int cli_env_set(struct inst_strings *env, const char *text)
{
    const size_t len = strcspn(text, "=");
    AUTO_FREE char *whole = NULL;
    const char *value;

    if (!text[len]) {
        value = getenv(text);
        if (!value)
            return 0;
        if (asprintf(&whole, "%s=%s", text, value) < 0)
            return -ENOMEM;
        text = whole;
    }
    for (size_t i = 0; i < env->n; i++) {
        if (strncmp(env->at[i], text, len) == 0 && env->at[i][len] == '=')
            return options_set(&env->at[i], text);
    }
    return inst_strings_add(env, text);
}

/* ---- one option ---- */

struct options {
    struct inst_spec *spec;
    struct inst_container *c;
    bool check; /* only: files, which may be pipes, are left for later */
};

int cli_env_file(struct inst_strings *env, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    ssize_t n;
    int r = 0;

    if (!f)
        return err_set(e, errno, "--env-file %s: %s", path, strerror(errno));
    while (r == 0 && (n = getline(&line, &size, f)) >= 0) {
        char *at = line + strspn(line, " \t");

        at[strcspn(at, "\r\n")] = '\0';
        if (*at && *at != '#')
            r = cli_env_set(env, at);
    }
    fclose(f);
    return r < 0 ? err_set(e, -r, "--env-file %s: %s", path, strerror(-r)) : 0;
}

static int options_size(const char *option, const char *text, uint64_t *ret, struct err *e)
{
    if (num_parse_size(text, ret) < 0 || *ret > INT64_MAX)
        return err_set(e, EINVAL, "--%s %s: is no size; give one such as 512M or 2G", option, text);
    return 0;
}

static int options_duration(const char *option, const char *text, uint64_t *ret, struct err *e)
{
    return cli_parse_duration(text, ret) < 0
               ? err_set(e, EINVAL, "--%s %s: is no time; give one such as 10s or 1m30s", option, text)
               : 0;
}

static int options_cpus(struct inst_container *c, const char *text, struct err *e)
{
    char *end;
    double n = strtod(text, &end);

    if (end == text || *end || !(n > 0 && n < 100000))
        return err_set(e, EINVAL, "--cpus %s: give a number above 0, such as 1.5", text);
    c->cpus = n;
    return 0;
}

static int options_number(const char *option, const char *text, uint64_t *ret, struct err *e)
{
    if (strcmp(text, "-1") == 0) {
        *ret = INT64_MAX;
        return 0;
    }
    return num_parse_u64(text, 0, INT64_MAX, ret) < 0
               ? err_set(e, EINVAL, "--%s %s: is no number; give one, or -1 for no limit", option, text)
               : 0;
}

bool cli_container_limit(struct inst_container *c, const char *name, const char *v, int *ret_r, struct err *e)
{
    if (strcmp(name, "memory") == 0)
        *ret_r = options_size(name, v, &c->memory, e);
    else if (strcmp(name, "memory-swap") == 0 && strcmp(v, "-1") == 0)
        c->memory_swap = INT64_MAX;
    else if (strcmp(name, "memory-swap") == 0)
        *ret_r = options_size(name, v, &c->memory_swap, e);
    else if (strcmp(name, "cpus") == 0)
        *ret_r = options_cpus(c, v, e);
    else if (strcmp(name, "cpu-shares") == 0)
        *ret_r = options_number(name, v, &c->cpu_shares, e);
    else if (strcmp(name, "cpuset-cpus") == 0)
        *ret_r = options_set(&c->cpuset, v);
    else if (strcmp(name, "pids-limit") == 0) {
        *ret_r = options_number(name, v, &c->pids, e);
        c->pids = c->pids == 0 ? INT64_MAX : c->pids; /* as Podman: 0 is no limit, too */
    } else if (strcmp(name, "shm-size") == 0)
        *ret_r = options_size(name, v, &c->shm_size, e);
    else
        return false;
    return true;
}

/* An option whose values are kept as they are. */
static bool options_list(struct options *o, const char *name, const char *v, int *ret_r)
{
    struct inst_container *c = o->c;
    const struct {
        const char *name;
        struct inst_strings *list;
    } lists[] = {
        { "cap-add", &c->cap_add }, { "cap-drop", &c->cap_drop }, { "security-opt", &c->security },
        { "device", &c->devices },  { "sysctl", &c->sysctls },    { "ulimit", &c->ulimits },
        { "dns", &c->dns },         { "add-host", &c->hosts },    { "label", &o->spec->labels },
    };
    AUTO_FREE char *text = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        if (strcmp(lists[i].name, name) != 0)
            continue;
        if (strcmp(name, "label") == 0 && !strchr(v, '=')) {
            if (asprintf(&text, "%s=", v) < 0)
                *ret_r = -ENOMEM;
            v = text;
        }
        if (*ret_r == 0)
            *ret_r = strcmp(name, "label") == 0 ? cli_env_set(lists[i].list, v) : inst_strings_add(lists[i].list, v);
        return true;
    }
    return false;
}

static bool options_health(struct options *o, const char *name, const char *v, int *ret_r, struct err *e)
{
    struct inst_health *h = &o->spec->health;
    uint64_t n = 0;

    if (strcmp(name, "health-cmd") == 0) {
        inst_strings_done(&h->command);
        *ret_r = strcmp(v, "none") == 0 ? 0 : inst_strings_add(&h->command, "/bin/sh");
        if (strcmp(v, "none") != 0 && *ret_r == 0)
            *ret_r = inst_strings_add(&h->command, "-c");
        if (strcmp(v, "none") != 0 && *ret_r == 0)
            *ret_r = inst_strings_add(&h->command, v);
    } else if (strcmp(name, "health-interval") == 0) {
        *ret_r = options_duration(name, v, &h->interval_ns, e);
    } else if (strcmp(name, "health-timeout") == 0) {
        *ret_r = options_duration(name, v, &h->timeout_ns, e);
    } else if (strcmp(name, "health-start-period") == 0) {
        *ret_r = options_duration(name, v, &h->start_period_ns, e);
    } else if (strcmp(name, "health-retries") == 0) {
        *ret_r = options_number(name, v, &n, e);
        h->retries = (unsigned)MIN(n, 1000000);
    } else if (strcmp(name, "no-healthcheck") == 0) {
        inst_strings_done(&h->command);
    } else {
        return false;
    }
    return true;
}

static int options_log(struct options *o, const char *v, struct err *e)
{
    uint64_t n = 0;

    if (strncmp(v, "max-size=", 9) == 0)
        return options_size("log-opt", v + 9, &o->spec->log_max_size, e);
    if (strncmp(v, "max-file=", 9) == 0 && num_parse_u64(v + 9, 1, 1000, &n) == 0) {
        o->spec->log_files = (unsigned)n;
        return 0;
    }
    return err_set(e, EINVAL, "--log-opt %s: give max-size=SIZE or max-file=N", v);
}

static int options_network(struct options *o, const char *v)
{
    /* What other tools call it. */
    return options_set(&o->c->network, strcmp(v, "bridge") == 0 || strcmp(v, "private") == 0 ? "default" : v);
}

static bool options_supervision(struct options *o, const char *name, const char *v, int *ret_r, struct err *e)
{
    struct inst_spec *s = o->spec;

    if (strcmp(name, "restart") == 0) {
        if (inst_restart_parse(v, &s->restart, &s->restart_max) < 0)
            *ret_r = err_set(e, EINVAL, "--restart %s: give no, on-failure[:MAX], always or unless-stopped", v);
    } else if (strcmp(name, "stop-signal") == 0) {
        *ret_r = options_signal(v, &s->stop_signal, e);
    } else if (strcmp(name, "stop-timeout") == 0) {
        *ret_r = options_duration(name, v, &s->stop_timeout_ns, e);
    } else if (strcmp(name, "log-opt") == 0) {
        *ret_r = options_log(o, v, e);
    } else if (strcmp(name, "log-driver") == 0) {
        if (strcmp(v, "json-file") != 0 && strcmp(v, "k8s-file") != 0)
            *ret_r = err_set(e, EINVAL, "--log-driver %s: there is json-file only", v);
    } else if (strcmp(name, "rm") == 0) {
        s->remove = true;
    } else {
        return false;
    }
    return true;
}

static int options_readable(const char *option, const char *path, struct err *e)
{
    return access(path, R_OK) < 0 ? err_set(e, errno, "--%s %s: %s", option, path, strerror(errno)) : 0;
}

static bool options_process(struct options *o, const char *name, const char *v, int *ret_r, struct err *e)
{
    struct inst_container *c = o->c;

    if (strcmp(name, "env") == 0)
        *ret_r = cli_env_set(&c->env, v);
    else if (strcmp(name, "env-file") == 0)
        *ret_r = o->check ? options_readable(name, v, e) : cli_env_file(&c->env, v, e);
    else if (strcmp(name, "workdir") == 0)
        *ret_r = options_set(&c->cwd, v);
    else if (strcmp(name, "user") == 0)
        *ret_r = options_set(&c->user, v);
    else if (strcmp(name, "hostname") == 0)
        *ret_r = options_set(&c->hostname, v);
    else if (strcmp(name, "network") == 0)
        *ret_r = options_network(o, v);
    else if (strcmp(name, "userns") == 0 && strcmp(v, "host") != 0 && v[0])
        *ret_r = err_set(e, EINVAL, "--userns %s: there is host only; run caisson as a user for a namespace of his", v);
    else if (strcmp(name, "interactive") == 0)
        c->stdin_open = true;
    else if (strcmp(name, "tty") == 0)
        c->terminal = true;
    else if (strcmp(name, "read-only") == 0)
        c->read_only = true;
    else if (strcmp(name, "privileged") == 0)
        c->privileged = true;
    else if (strcmp(name, "init") == 0)
        c->init = true;
    else
        return false;
    return true;
}

static int options_one(struct options *o, const struct cli_given *g, struct err *e)
{
    const char *name = g->option->name, *v = g->value ? g->value : "";
    int r = 0;

    /* Others are volumes and ports, or not of the specification. */
    if (!cli_container_limit(o->c, name, v, &r, e) && !options_list(o, name, v, &r) &&
        !options_health(o, name, v, &r, e) && !options_supervision(o, name, v, &r, e))
        (void)options_process(o, name, v, &r, e);
    return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : r;
}

void cli_container_warn(const struct inst_container *c)
{
    if (sys_userns_rootless() &&
        (c->memory || c->memory_swap || c->cpus > 0 || c->cpu_shares || c->cpuset || (c->pids && c->pids != INT64_MAX)))
        fprintf(stderr,
                "caisson: warning: limits of memory, CPU and processes need root here; they are not in force\n");
}

int cli_container_spec(const struct cli_args *args, const struct image *image, char *const *command, int n_command,
                       struct inst_spec *spec, struct err *e)
{
    struct options o = { .spec = spec, .c = &spec->container, .check = !image };
    int r = cli_container_image(args, image, command, n_command, spec, e);

    for (size_t i = 0; i < args->n_given && r == 0; i++)
        r = options_one(&o, &args->given[i], e);
    if (r == 0 && !spec->container.network)
        r = options_set(&spec->container.network, "default");
    if (r == 0)
        r = cli_container_volumes(args, image, spec, e);
    return r == 0 ? cli_container_ports(args, image, spec, e) : r;
}
