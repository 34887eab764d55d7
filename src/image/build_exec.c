/* The instructions of a Containerfile, one function each. All but COPY, ADD, RUN and WORKDIR change the configuration
 * alone. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/buf.h"
#include "base/num.h"
#include "image/build_priv.h"
#include "image/import.h"

static int exec_no_memory(struct err *e)
{
    return err_set(e, ENOMEM, "out of memory");
}

int build_check_flags(const struct build_instruction *i, const char *const *known, struct err *e)
{
    for (size_t k = 0; k < i->flags.n; k++) {
        bool found = false;

        for (const char *const *name = known; *name && !found; name++)
            found = strncmp(i->flags.at[k] + 2, *name, strlen(*name)) == 0 &&
                    strchr("=", i->flags.at[k][2 + strlen(*name)]) != NULL;
        if (!found)
            return err_set(e, EINVAL, "%s %.60s: Caisson does not know this flag", build_op_name(i->op),
                           i->flags.at[k]);
    }
    return 0;
}

/* ---- variables ---- */

static const char *exec_find_pair(const struct inst_strings *pairs, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = pairs->n; i-- > 0;)
        if (strncmp(pairs->at[i], name, len) == 0 && pairs->at[i][len] == '=')
            return pairs->at[i] + len + 1;
    return NULL;
}

static const char *exec_lookup(const void *opaque, const char *name)
{
    const struct build_scope *scope = opaque;
    const char *value = scope->stage && scope->stage->doc ? build_doc_env(scope->stage->doc, name) : NULL;

    if (!value)
        value = exec_find_pair(scope->stage ? &scope->stage->args : &scope->b->globals, name);
    if (!value && !scope->stage) /* FROM has them without ARG */
        value = exec_find_pair(&scope->b->builtins, name);
    return value;
}

struct build_vars build_scope_vars(const struct build_scope *scope)
{
    return (struct build_vars){ .lookup = exec_lookup, .opaque = scope };
}

static int exec_expand(struct builder *b, struct build_stage *stage, const char *text, char **ret, struct err *e)
{
    const struct build_scope scope = { b, stage };
    const struct build_vars vars = build_scope_vars(&scope);

    return build_word_expand(text, b->file.escape, &vars, ret, e);
}

int build_builtins(struct builder *b, struct err *e)
{
    const char *const kinds[] = { "BUILD", "TARGET" };

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        const char *given = i == 1 ? b->config->platform : NULL, *slash = given ? strchr(given, '/') : NULL;
        const char *arch = slash ? slash + 1 : image_arch();
        const int os_len = slash ? (int)(slash - given) : 5, arch_len = (int)strcspn(arch, "/");
        const char *os = slash ? given : "linux", *variant = arch[arch_len] ? arch + arch_len + 1 : "";
        char text[4][128];

        snprintf(text[0], sizeof(text[0]), "%sPLATFORM=%.*s/%.80s", kinds[i], MIN(os_len, 20), os, arch);
        snprintf(text[1], sizeof(text[1]), "%sOS=%.*s", kinds[i], MIN(os_len, 20), os);
        snprintf(text[2], sizeof(text[2]), "%sARCH=%.*s", kinds[i], MIN(arch_len, 80), arch);
        snprintf(text[3], sizeof(text[3]), "%sVARIANT=%.80s", kinds[i], variant);
        for (size_t k = 0; k < ARRAY_SIZE(text); k++)
            if (inst_strings_add(&b->builtins, text[k]) < 0)
                return exec_no_memory(e);
    }
    return 0;
}

/* One NAME[=DEFAULT] of ARG, expanded. */
static int exec_arg_one(struct builder *b, struct build_stage *stage, const char *text, struct err *e)
{
    const char *equals = strchr(text, '=');
    AUTO_FREE char *name = strndup(text, equals ? (size_t)(equals - text) : strlen(text)), *pair = NULL;
    const char *value;

    if (!name)
        return exec_no_memory(e);
    value = b->config->args ? exec_find_pair(b->config->args, name) : NULL;
    if (!value && equals)
        value = equals + 1;
    if (!value && stage)
        value = exec_find_pair(&b->globals, name);
    if (!value)
        value = exec_find_pair(&b->builtins, name);
    if (!value)
        return 0;
    if (asprintf(&pair, "%s=%s", name, value) < 0) {
        pair = NULL;
        return exec_no_memory(e);
    }
    return inst_strings_add(stage ? &stage->args : &b->globals, pair) < 0 ? exec_no_memory(e) : 0;
}

int build_arg(struct builder *b, struct build_stage *stage, const struct build_instruction *i, struct err *e)
{
    struct inst_strings words = { 0 };
    int r = build_words_split(i->rest, b->file.escape, &words, e);

    for (size_t k = 0; k < words.n && r == 0; k++) {
        AUTO_FREE char *word = NULL;

        r = exec_expand(b, stage, words.at[k], &word, e);
        if (r == 0)
            r = exec_arg_one(b, stage, word, e);
    }
    inst_strings_done(&words);
    return r;
}

/* ---- configuration alone ---- */

static int exec_pairs(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                      void (*put)(json_object *doc, const char *pair), struct err *e)
{
    const struct build_scope scope = { b, stage };
    const struct build_vars vars = build_scope_vars(&scope);
    struct inst_strings pairs = { 0 };
    int r = build_words_pairs(i->rest, b->file.escape, &vars, build_op_name(i->op), &pairs, e);

    for (size_t k = 0; k < pairs.n && r == 0; k++)
        put(stage->doc, pairs.at[k]);
    inst_strings_done(&pairs);
    return r;
}

/* The exec form as it is, or the shell with the line. */
static int exec_command(struct build_stage *stage, const struct build_instruction *i, const char *line, bool exec,
                        struct inst_strings *ret)
{
    json_object *shell = NULL;
    int r = 0;

    for (size_t k = 0; exec && k < i->args.n && r == 0; k++)
        r = inst_strings_add(ret, i->args.at[k]);
    if (exec)
        return r;
    if (json_object_object_get_ex(build_doc_config(stage->doc), "Shell", &shell) &&
        json_object_is_type(shell, json_type_array) && json_object_array_length(shell) > 0) {
        for (size_t k = 0; k < json_object_array_length(shell) && r == 0; k++)
            r = inst_strings_add(ret, json_object_get_string(json_object_array_get_idx(shell, k)));
    } else {
        r = inst_strings_add(ret, "/bin/sh");
        if (r == 0)
            r = inst_strings_add(ret, "-c");
    }
    return r < 0 ? r : inst_strings_add(ret, line);
}

static int exec_cmd(struct build_stage *stage, const struct build_instruction *i, struct err *e)
{
    struct inst_strings command = { 0 };
    int r = exec_command(stage, i, i->rest, i->exec, &command);

    if (r == 0) {
        build_doc_strings(stage->doc, i->op == BUILD_CMD ? "Cmd" : "Entrypoint", &command);
        if (i->op == BUILD_CMD)
            stage->cmd_set = true;
        else if (!stage->cmd_set) /* arguments for the base's entry point make no sense to this one */
            json_object_object_del(build_doc_config(stage->doc), "Cmd");
    }
    inst_strings_done(&command);
    return r < 0 ? exec_no_memory(e) : 0;
}

/* PORT[-PORT][/PROTOCOL] */
static int exec_expose_one(struct build_stage *stage, const char *text, struct err *e)
{
    const char *slash = strchr(text, '/'), *protocol = slash ? slash + 1 : "tcp", *dash;
    char ports[32], key[32];
    uint64_t first, last;

    snprintf(ports, sizeof(ports), "%.*s", slash ? (int)MIN(slash - text, 31) : 31, text);
    dash = strchr(ports, '-');
    if (dash)
        ports[dash - ports] = '\0';
    if (num_parse_u64(ports, 1, 65535, &first) < 0 || (dash && num_parse_u64(dash + 1, first, 65535, &last) < 0) ||
        (strcasecmp(protocol, "tcp") != 0 && strcasecmp(protocol, "udp") != 0 && strcasecmp(protocol, "sctp") != 0))
        return err_set(e, EINVAL, "EXPOSE '%.60s': not PORT[-PORT][/tcp|/udp]", text);
    for (uint64_t port = first; port <= (dash ? last : first); port++) {
        snprintf(key, sizeof(key), "%llu/%.4s", (unsigned long long)port, protocol);
        for (char *p = key; *p; p++)
            *p = (char)tolower((unsigned char)*p);
        build_doc_set(stage->doc, "ExposedPorts", key);
    }
    return 0;
}

/* Words of EXPOSE and VOLUME. */
static int exec_words(struct builder *b, struct build_stage *stage, const struct build_instruction *i, struct err *e)
{
    struct inst_strings words = { 0 };
    AUTO_FREE char *line = NULL;
    int r = 0;

    if (i->exec) {
        for (size_t k = 0; k < i->args.n && r == 0; k++) {
            AUTO_FREE char *word = NULL;

            r = exec_expand(b, stage, i->args.at[k], &word, e);
            if (r == 0 && inst_strings_add(&words, word) < 0)
                r = exec_no_memory(e);
        }
    } else {
        r = exec_expand(b, stage, i->rest, &line, e);
        if (r == 0)
            r = build_words_split(line, b->file.escape, &words, e);
    }
    for (size_t k = 0; k < words.n && r == 0; k++) {
        if (i->op == BUILD_EXPOSE)
            r = exec_expose_one(stage, words.at[k], e);
        else
            build_doc_set(stage->doc, "Volumes", words.at[k]);
    }
    inst_strings_done(&words);
    return r;
}

static int exec_text(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                     const char *member, struct err *e)
{
    AUTO_FREE char *text = NULL;
    int r = exec_expand(b, stage, i->rest, &text, e);

    if (r == 0 && !text[0])
        return err_set(e, EINVAL, "%s: nothing is left when the variables are replaced", build_op_name(i->op));
    if (r == 0)
        build_doc_text(stage->doc, member, text);
    return r;
}

/* What stands behind a number in a duration, in nanoseconds; 0: nothing that is known. */
static int64_t exec_duration_unit(const char **at)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = { { "ms", 1000000 },      { "us", 1000 },       { "ns", 1 },
                  { "h", 3600000000000 }, { "m", 60000000000 }, { "s", 1000000000 } };

    for (size_t i = 0; i < ARRAY_SIZE(units); i++)
        if (strncmp(*at, units[i].name, strlen(units[i].name)) == 0) {
            *at += strlen(units[i].name);
            return units[i].ns;
        }
    return 0;
}

/* "30s", "1m30s", "1.5s", "500ms" in nanoseconds. */
static int exec_duration(const char *text, int64_t *ret)
{
    int64_t sum = 0, part, unit;

    for (const char *p = text; *p;) {
        size_t digits = strspn(p, "0123456789"), more;
        const char *fraction = p + digits + (p[digits] == '.');
        char number[12];
        uint64_t n;

        snprintf(number, sizeof(number), "%.*s", (int)MIN(digits, 11u), p);
        more = fraction > p + digits ? strspn(fraction, "0123456789") : 0;
        if (num_parse_u64(number, 0, 1000000000, &n) < 0 || (fraction > p + digits && more == 0))
            return -EINVAL;
        p = fraction + more;
        unit = exec_duration_unit(&p);
        if (unit == 0 || __builtin_mul_overflow((int64_t)n, unit, &part) || __builtin_add_overflow(sum, part, &sum))
            return -EINVAL;
        for (size_t i = 0; i < more && (unit /= 10) > 0; i++)
            if (__builtin_add_overflow(sum, (fraction[i] - '0') * unit, &sum))
                return -EINVAL;
    }
    *ret = sum;
    return text[0] ? 0 : -EINVAL;
}

static int exec_health_flags(json_object *health, const struct build_instruction *i, struct err *e)
{
    static const char *const times[][2] = { { "interval", "Interval" },
                                            { "timeout", "Timeout" },
                                            { "start-period", "StartPeriod" },
                                            { "start-interval", "StartInterval" } };
    const char *retries = build_flag(i, "retries");
    uint64_t n = 0;
    int r = build_check_flags(
        i, (const char *const[]){ "interval", "timeout", "start-period", "start-interval", "retries", NULL }, e);

    if (r < 0)
        return r;
    for (size_t k = 0; k < ARRAY_SIZE(times); k++) {
        const char *text = build_flag(i, times[k][0]);
        int64_t ns = 0;

        if (text && exec_duration(text, &ns) < 0)
            return err_set(e, EINVAL, "HEALTHCHECK --%s=%.40s: not a time such as 30s or 1m30s", times[k][0], text);
        if (text)
            json_object_object_add(health, times[k][1], json_object_new_int64(ns));
    }
    if (retries && num_parse_u64(retries, 0, 1000, &n) < 0)
        return err_set(e, EINVAL, "HEALTHCHECK --retries=%.40s: not a number from 0 to 1000", retries);
    if (retries)
        json_object_object_add(health, "Retries", json_object_new_uint64(n));
    return 0;
}

/* NONE, or flags and CMD with either form. */
static int exec_health(struct build_stage *stage, const struct build_instruction *i, struct err *e)
{
    struct build_file inner = { 0 };
    json_object *health = json_object_new_object(), *test = json_object_new_array();
    int r = 0;

    json_object_object_add(health, "Test", test);
    if (strcasecmp(i->rest, "NONE") == 0) {
        json_object_array_add(test, json_object_new_string("NONE"));
    } else if (strncasecmp(i->rest, "CMD", 3) == 0) {
        struct build_instruction *cmd = NULL;
        AUTO_FREE char *text = NULL;

        if (asprintf(&text, "FROM x\n%s", i->rest) < 0)
            text = NULL;
        r = text ? build_file_parse(text, strlen(text), &inner, e) : exec_no_memory(e);
        cmd = r == 0 && inner.n == 2 ? &inner.at[1] : NULL;
        json_object_array_add(test, json_object_new_string(cmd && cmd->exec ? "CMD" : "CMD-SHELL"));
        for (size_t k = 0; cmd && cmd->exec && k < cmd->args.n; k++)
            json_object_array_add(test, json_object_new_string(cmd->args.at[k]));
        if (cmd && !cmd->exec)
            json_object_array_add(test, json_object_new_string(cmd->rest));
        if (r == 0)
            r = exec_health_flags(health, i, e);
    } else {
        r = err_set(e, EINVAL, "HEALTHCHECK wants NONE, or CMD and a command");
    }
    build_file_done(&inner);
    if (r == 0)
        json_object_object_add(build_doc_config(stage->doc), "Healthcheck", health);
    else
        json_object_put(health);
    return r;
}

/* ---- steps that make layers ---- */

static bool exec_step(void *opaque)
{
    const struct builder *b = opaque;

    return !b->config->registry.step || b->config->registry.step(b->config->registry.opaque, 0, 0);
}

/* Take the layer of this key from the cache, or make it. */
static int exec_layer(struct builder *b, struct build_stage *stage, struct build_stage *from,
                      int (*run)(void *opaque, const char *path, int root, int from_fd, struct err *e), void *opaque,
                      struct image_layer *ret, struct err *e)
{
    struct build_step step = { .add = b->add, .run = run, .opaque = opaque, .step = exec_step, .step_opaque = b };
    struct build_stack from_stack;
    struct image_layer layer = { 0 };
    struct timespec now;
    int r = 0;

    if (build_cache_find(b, stage->key, &layer, &stage->created_ns)) {
        if (b->config->told)
            b->config->told(b->config->told_opaque, "  from the cache");
    } else {
        r = build_stage_stack(b, stage, &step.lower, e);
        if (r == 0 && from) {
            r = build_stage_stack(b, from, &from_stack, e);
            step.from = &from_stack;
        }
        if (r == 0 && from && from_stack.n == 0)
            r = err_set(e, ENOENT, "the stage to copy from has no files");
        if (r == 0)
            r = build_layer_make(&step, &layer, e);
        clock_gettime(CLOCK_REALTIME, &now);
        stage->created_ns = now.tv_sec * 1000000000LL;
        if (r == 0)
            build_cache_add(b, stage->key, &layer, stage->created_ns);
    }
    if (r == 0 && build_stage_add_layer(stage, &layer) < 0)
        r = exec_no_memory(e);
    if (r == 0)
        *ret = layer;
    return r;
}

struct exec_folder {
    const char *path;
};

static int exec_make_folder(void *opaque, const char *path, int root, int from, struct err *e)
{
    const struct exec_folder *folder = opaque;
    int fd = build_make_folder(root, folder->path, 0, 0);

    (void)path;
    (void)from;
    if (fd < 0)
        return err_set(e, -fd, "cannot make %s in the image: %s", folder->path, strerror(-fd));
    close(fd);
    return 0;
}

/* to below from, without "." and ".."; both absolute or to relative. */
static int exec_join(const char *from, const char *to, char *ret, size_t size)
{
    char text[2 * BUILD_PATH_MAX], *p = text;
    size_t n = 0;

    if (snprintf(text, sizeof(text), "%s/%s", to[0] == '/' ? "" : from, to) >= (int)sizeof(text))
        return -ENAMETOOLONG;
    ret[0] = '\0';
    while (*p) {
        size_t len;

        p += strspn(p, "/");
        len = strcspn(p, "/");
        if (len == 2 && strncmp(p, "..", 2) == 0) {
            while (n > 0 && ret[--n] != '/')
                ;
            ret[n] = '\0';
        } else if (len > 0 && !(len == 1 && *p == '.')) {
            if (n + len + 2 > size)
                return -ENAMETOOLONG;
            n += (size_t)snprintf(ret + n, size - n, "/%.*s", (int)len, p);
        }
        p += len;
    }
    if (n == 0)
        snprintf(ret, size, "/");
    return 0;
}

static int exec_workdir(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                        struct image_layer *ret, struct err *e)
{
    AUTO_FREE char *text = NULL;
    char path[BUILD_PATH_MAX];
    struct exec_folder folder = { path };
    int r = exec_expand(b, stage, i->rest, &text, e);

    if (r < 0)
        return r;
    if (exec_join(build_doc_get(stage->doc, "WorkingDir"), text, path, sizeof(path)) < 0)
        return err_set(e, ENAMETOOLONG, "WORKDIR: the path is too long");
    build_doc_text(stage->doc, "WorkingDir", path);
    if (build_key_next(stage->key, (const char *const[]){ "workdir", path, NULL }) < 0)
        return exec_no_memory(e);
    return exec_layer(b, stage, NULL, exec_make_folder, &folder, ret, e);
}

/* Env of the image, then ARG where ENV has not the same name. */
static int exec_run_env(struct builder *b, struct build_stage *stage, struct inst_strings *ret)
{
    json_object *env = image_doc_list(build_doc_config(stage->doc), "Env");
    int r = 0;

    for (size_t k = 0; k < json_object_array_length(env) && r == 0; k++)
        r = inst_strings_add(ret, json_object_get_string(json_object_array_get_idx(env, k)));
    for (size_t k = 0; k < stage->args.n && r == 0; k++) {
        AUTO_FREE char *name = strndup(stage->args.at[k], strcspn(stage->args.at[k], "="));

        if (!name)
            r = -ENOMEM;
        else if (!build_doc_env(stage->doc, name) &&
                 exec_find_pair(&stage->args, name) == strchr(stage->args.at[k], '=') + 1)
            r = inst_strings_add(ret, stage->args.at[k]);
    }
    /* Proxies need no ARG, are not in the image and not in the key. */
    for (size_t k = 0; b->config->args && k < b->config->args->n && r == 0; k++) {
        static const char *const proxies[] = { "http_proxy=", "https_proxy=", "ftp_proxy=", "no_proxy=", "all_proxy=" };

        for (size_t p = 0; p < ARRAY_SIZE(proxies) && r == 0; p++)
            if (strncasecmp(b->config->args->at[k], proxies[p], strlen(proxies[p])) == 0)
                r = inst_strings_add(ret, b->config->args->at[k]);
    }
    return r;
}

static int exec_key_strings(char key[BUILD_KEY_MAX], const char *what, const struct inst_strings *s)
{
    AUTO_FREE const char **texts = calloc(s->n + 2, sizeof(*texts));

    if (!texts)
        return -ENOMEM;
    texts[0] = what;
    for (size_t k = 0; k < s->n; k++)
        texts[k + 1] = s->at[k];
    return build_key_next(key, texts);
}

static int exec_run(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                    struct image_layer *ret, struct err *e)
{
    const char *network = build_flag(i, "network");
    struct inst_strings args = { 0 }, env = { 0 };
    char bundle[IMAGE_PATH_MAX + 32];
    struct build_run run = { .b = b,
                             .args = &args,
                             .env = &env,
                             .cwd = build_doc_get(stage->doc, "WorkingDir"),
                             .user = build_doc_get(stage->doc, "User"),
                             .bundle = bundle };
    int r = build_check_flags(i, (const char *const[]){ "network", NULL }, e);

    run.network_none = network ? strcmp(network, "none") == 0 : b->config->network_none;
    if (r == 0 && network && strcmp(network, "none") != 0 && strcmp(network, "host") != 0 &&
        strcmp(network, "default") != 0)
        r = err_set(e, EINVAL, "RUN --network=%.40s: use none, host or default", network);
    if (r == 0 && (exec_command(stage, i, i->rest, i->exec, &args) < 0 || exec_run_env(b, stage, &env) < 0 ||
                   exec_key_strings(stage->key, "run", &args) < 0 || exec_key_strings(stage->key, "env", &env) < 0 ||
                   build_key_next(stage->key, (const char *const[]){ run.cwd, run.user,
                                                                     run.network_none ? "none" : "host", NULL }) < 0))
        r = exec_no_memory(e);
    snprintf(bundle, sizeof(bundle), "%s/run%u", b->add->place.tmp, ++b->add->serial);
    if (r == 0 && mkdir(bundle, 0700) < 0)
        r = err_set(e, errno, "cannot make %s: %s", bundle, strerror(errno));
    if (r == 0) {
        r = exec_layer(b, stage, NULL, build_run, &run, ret, e);
        if (r < 0)
            build_run_clean(&run);
    }
    inst_strings_done(&args);
    inst_strings_done(&env);
    return r;
}

/* ---- COPY and ADD ---- */

struct exec_copy {
    struct build_copy copy;
};

static int exec_copy_run(void *opaque, const char *path, int root, int from, struct err *e)
{
    struct exec_copy *c = opaque;

    (void)path;
    if (from >= 0)
        c->copy.from = from;
    return build_copy(&c->copy, root, e);
}

/* Sources and destination, expanded; the destination absolute, its slash at the end kept. */
static int exec_copy_words(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                           struct inst_strings *ret_sources, char ret_to[BUILD_PATH_MAX], struct err *e)
{
    struct inst_strings words = { 0 };
    AUTO_FREE char *to = NULL;
    size_t len;
    int r = 0;

    if (i->exec) {
        for (size_t k = 0; k < i->args.n && r == 0; k++)
            r = inst_strings_add(&words, i->args.at[k]) < 0 ? exec_no_memory(e) : 0;
    } else {
        r = build_words_split(i->rest, b->file.escape, &words, e);
    }
    if (r == 0 && words.n < 2)
        r = err_set(e, EINVAL, "%s wants sources and a destination", build_op_name(i->op));
    for (size_t k = 0; k + 1 < words.n && r == 0; k++) {
        AUTO_FREE char *word = NULL;

        r = exec_expand(b, stage, words.at[k], &word, e);
        if (r == 0 && (strncmp(word, "http://", 7) == 0 || strncmp(word, "https://", 8) == 0))
            r = err_set(e, EINVAL, "%s of an address is not done; fetch it in a RUN, or before the build",
                        build_op_name(i->op));
        if (r == 0 && inst_strings_add(ret_sources, word) < 0)
            r = exec_no_memory(e);
    }
    if (r == 0)
        r = exec_expand(b, stage, words.at[words.n - 1], &to, e);
    if (r == 0) {
        r = exec_join(build_doc_get(stage->doc, "WorkingDir"), to, ret_to, BUILD_PATH_MAX - 2);
        len = strlen(to);
        if (r < 0)
            r = err_set(e, ENAMETOOLONG, "%s: the destination is too long", build_op_name(i->op));
        else if (len > 0 &&
                 (to[len - 1] == '/' || strcmp(to, ".") == 0 || (len > 1 && strcmp(to + len - 2, "/.") == 0)) &&
                 strcmp(ret_to, "/") != 0)
            memcpy(ret_to + strlen(ret_to), "/", 2);
    }
    inst_strings_done(&words);
    return r;
}

static int exec_copy_flags(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                           struct build_copy *c, char **ret_owner, struct err *e)
{
    const char *owner = build_flag(i, "chown"), *mode = build_flag(i, "chmod");
    AUTO_FREE char *text = NULL;
    int r = build_check_flags(i,
                              i->op == BUILD_COPY ? (const char *const[]){ "from", "chown", "chmod", "link", NULL }
                                                  : (const char *const[]){ "chown", "chmod", NULL },
                              e);

    if (r == 0 && owner)
        r = exec_expand(b, stage, owner, ret_owner, e);
    if (r == 0 && mode)
        r = exec_expand(b, stage, mode, &text, e);
    c->owner = *ret_owner;
    if (r < 0 || !mode)
        return r;
    if (!text[0] || strlen(text) > 4 || strspn(text, "01234567") != strlen(text))
        return err_set(e, EINVAL, "%s --chmod=%.20s: use octal digits, such as 755", build_op_name(i->op), text);
    c->chmod = true;
    for (const char *p = text; *p; p++)
        c->mode = c->mode * 8 + (mode_t)(*p - '0');
    return 0;
}

/* What is copied is part of the key: the stage's, or the content. */
static int exec_copy_key(struct builder *b, struct build_stage *stage, const struct build_stage *from,
                         const struct exec_copy *c, struct err *e)
{
    char sum[65], mode[16];
    int r = 0;

    snprintf(mode, sizeof(mode), "%d %o", c->copy.chmod, c->copy.mode);
    if (from)
        snprintf(sum, sizeof(sum), "%s", from->key);
    else
        r = build_sum(b->context, &b->ignore, c->copy.sources, sum, e);
    if (r == 0 &&
        (build_key_next(stage->key, (const char *const[]){ c->copy.extract ? "add" : "copy", sum, c->copy.to,
                                                           c->copy.owner ? c->copy.owner : "", mode, NULL }) < 0 ||
         exec_key_strings(stage->key, "sources", c->copy.sources) < 0))
        r = exec_no_memory(e);
    return r;
}

static int exec_copy(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                     struct image_layer *ret, struct err *e)
{
    const char *flag = i->op == BUILD_COPY ? build_flag(i, "from") : NULL;
    AUTO_FREE char *name = NULL;
    struct inst_strings sources = { 0 };
    struct build_stage *from = NULL;
    AUTO_FREE char *owner = NULL;
    char to[BUILD_PATH_MAX];
    struct exec_copy c = { .copy = { .from = b->context,
                                     .ignore = &b->ignore,
                                     .sources = &sources,
                                     .to = to,
                                     .extract = i->op == BUILD_ADD } };
    int r = exec_copy_words(b, stage, i, &sources, to, e);

    if (r == 0)
        r = exec_copy_flags(b, stage, i, &c.copy, &owner, e);
    if (r == 0 && flag)
        r = exec_expand(b, stage, flag, &name, e);
    if (r == 0 && name && !name[0])
        r = err_set(e, EINVAL, "COPY --from=%.100s: nothing is left when the variables are replaced", flag);
    if (r == 0 && name)
        r = build_stage_find(b, stage, name, &from, e);
    if (from) {
        c.copy.ignore = NULL;
        c.copy.keep_owner = true;
    }
    if (r == 0)
        r = exec_copy_key(b, stage, from, &c, e);
    if (r == 0)
        r = exec_layer(b, stage, from, exec_copy_run, &c, ret, e);
    inst_strings_done(&sources);
    return r;
}

/* ---- the table ---- */

static int exec_config(struct builder *b, struct build_stage *stage, const struct build_instruction *i, struct err *e)
{
    switch (i->op) {
    case BUILD_ARG:
        return build_arg(b, stage, i, e);
    case BUILD_CMD:
    case BUILD_ENTRYPOINT:
        return exec_cmd(stage, i, e);
    case BUILD_ENV:
        return exec_pairs(b, stage, i, build_doc_pair, e);
    case BUILD_LABEL:
        return exec_pairs(b, stage, i, build_doc_label, e);
    case BUILD_EXPOSE:
    case BUILD_VOLUME:
        return exec_words(b, stage, i, e);
    case BUILD_USER:
        return exec_text(b, stage, i, "User", e);
    case BUILD_STOPSIGNAL:
        return exec_text(b, stage, i, "StopSignal", e);
    case BUILD_HEALTHCHECK:
        return exec_health(stage, i, e);
    case BUILD_MAINTAINER:
        json_object_object_add(stage->doc, "author", json_object_new_string(i->rest));
        return 0;
    case BUILD_SHELL:
        if (!i->exec || i->args.n == 0)
            return err_set(e, EINVAL, "SHELL wants a JSON array, such as [\"/bin/bash\", \"-c\"]");
        build_doc_strings(stage->doc, "Shell", &i->args);
        return 0;
    default:
        return err_set(e, EINVAL,
                       "ONBUILD is refused: an image that acts when others use it is no OCI image; write the "
                       "instruction where it is to run");
    }
}

int build_instruction_run(struct builder *b, struct build_stage *stage, const struct build_instruction *i,
                          struct err *e)
{
    struct image_layer layer = { .empty = true };
    int r;

    if (i->op == BUILD_RUN)
        r = exec_run(b, stage, i, &layer, e);
    else if (i->op == BUILD_COPY || i->op == BUILD_ADD)
        r = exec_copy(b, stage, i, &layer, e);
    else if (i->op == BUILD_WORKDIR)
        r = exec_workdir(b, stage, i, &layer, e);
    else
        r = exec_config(b, stage, i, e);
    if (r == 0) {
        stage->changed = true;
        build_doc_history(stage->doc, i->text, layer.empty, stage->created_ns);
    }
    return r;
}
