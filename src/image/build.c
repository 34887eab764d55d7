#include "image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "base/num.h"
#include "image/build_priv.h"

/* ---- files of the context ---- */

/* 1: there is none. */
static int build_read(int dir, const char *path, struct buf *b, struct err *e)
{
    AUTO_FD int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int r;

    if (fd < 0)
        return errno == ENOENT ? 1 : err_set(e, errno, "cannot read %s: %s", path, strerror(errno));
    buf_init(b, BUILD_FILE_MAX + 1);
    r = fd_read_all(fd, b);
    if (r == 0)
        return 0;
    buf_done(b);
    return err_set(e, -r, "cannot read %s: %s", path, r == -E2BIG ? "more than a mebibyte" : strerror(-r));
}

static int build_read_file(struct builder *b, struct err *e)
{
    const struct image_build *c = b->config;
    const char *path = c->file ? c->file : "Containerfile";
    int dir = c->file ? AT_FDCWD : b->context;
    struct buf text = { 0 };
    int r = build_read(dir, path, &text, e);

    if (r == 1 && !c->file) {
        path = "Dockerfile";
        r = build_read(dir, path, &text, e);
    }
    if (r == 1 && c->file)
        return err_set(e, ENOENT, "%s is not there; name another file with --file", path);
    if (r == 1)
        return err_set(e, ENOENT, "%s has no Containerfile and no Dockerfile; name one with --file", c->context);
    if (r == 0) {
        r = build_file_parse((char *)text.data, text.len, &b->file, e);
        if (r < 0)
            err_wrap(e, "%s", path);
    }
    buf_done(&text);
    return r;
}

static int build_read_ignore(struct builder *b, struct err *e)
{
    struct buf text = { 0 };
    int r = build_read(b->context, ".containerignore", &text, e);

    if (r == 1)
        r = build_read(b->context, ".dockerignore", &text, e);
    if (r == 0)
        r = build_ignore_parse((char *)text.data, text.len, &b->ignore) < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
    buf_done(&text);
    return r == 1 ? 0 : r;
}

/* ---- stages ---- */

/* FROM [--platform=P] NAME [AS STAGE], variables of the global scope replaced. */
static int build_from(struct builder *b, const struct build_instruction *i, struct err *e)
{
    const struct build_scope scope = { b, NULL };
    const struct build_vars vars = build_scope_vars(&scope);
    struct build_stage *stage = &b->stages[b->n_stages];
    struct inst_strings words = { 0 };
    AUTO_FREE char *name = NULL, *platform = NULL;
    const char *flag = build_flag(i, "platform");
    int r = build_check_flags(i, (const char *const[]){ "platform", NULL }, e);

    if (r == 0)
        r = build_words_split(i->rest, b->file.escape, &words, e);
    if (r == 0 && words.n != 1 && !(words.n == 3 && strcasecmp(words.at[1], "AS") == 0))
        r = err_set(e, EINVAL, "FROM wants IMAGE or IMAGE AS STAGE");
    if (r == 0)
        r = build_word_expand(words.at[0], b->file.escape, &vars, &name, e);
    if (r == 0 && flag)
        r = build_word_expand(flag, b->file.escape, &vars, &platform, e);
    if (r == 0 && !name[0])
        r = err_set(e, EINVAL, "FROM: nothing is left when the variables are replaced; give --build-arg, or a default");
    if (r == 0)
        r = build_stage_begin(b, stage, name, platform, e);
    if (r == 0 && words.n == 3) {
        stage->name = strdup(words.at[2]);
        if (!stage->name)
            r = err_set(e, ENOMEM, "out of memory");
    }
    b->n_stages++;
    inst_strings_done(&words);
    return r;
}

/* Which stage is number n, by its FROM in the file. */
static const struct build_instruction *build_from_at(const struct builder *b, size_t n)
{
    for (size_t i = 0; i < b->file.n; i++)
        if (b->file.at[i].op == BUILD_FROM && n-- == 0)
            return &b->file.at[i];
    return NULL;
}

/* The words of a FROM, as far as they say what it needs: the last is its name if the one before is AS. */
static void build_from_words(const struct build_instruction *from, char base[512], char name[512])
{
    const char *p = from->rest;
    size_t len = strcspn(p, " \t");

    snprintf(base, 512, "%.*s", (int)MIN(len, 511u), p);
    name[0] = '\0';
    p += len;
    p += strspn(p, " \t");
    if (strncasecmp(p, "AS", 2) == 0 && strchr(" \t", p[2])) {
        p += 2;
        p += strspn(p, " \t");
        snprintf(name, 512, "%.*s", (int)MIN(strcspn(p, " \t"), 511u), p);
    }
}

/* The number of the stage that name means, searched before stage `before`; -1: none. */
static long build_stage_number(const struct builder *b, const char *name, size_t before)
{
    const struct build_instruction *from;
    char base[512], as[512];
    uint64_t number;
    long found = -1;

    for (size_t n = 0; n < before && (from = build_from_at(b, n)); n++) {
        build_from_words(from, base, as);
        if (as[0] && strcasecmp(as, name) == 0)
            found = (long)n;
    }
    if (found < 0 && num_parse_u64(name, 0, BUILD_STAGES_MAX, &number) == 0 && number < before)
        found = (long)number;
    return found;
}

/* Mark what the target needs, going back from it. A name with variables in it may be any stage. */
static void build_mark(const struct builder *b, size_t target, bool *needed)
{
    needed[target] = true;
    for (size_t n = target + 1; n-- > 0;) {
        const struct build_instruction *from = build_from_at(b, n), *end = build_from_at(b, n + 1);
        char base[512], as[512];
        long other;

        if (!needed[n] || !from)
            continue;
        build_from_words(from, base, as);
        other = strcmp(base, "scratch") == 0 ? -1 : build_stage_number(b, base, n);
        if (other >= 0 && strspn(base, "0123456789") != strlen(base))
            needed[other] = true;
        for (const struct build_instruction *i = from + 1; i < b->file.at + b->file.n && i != end; i++) {
            const char *name = i->op == BUILD_COPY ? build_flag(i, "from") : NULL;

            other = name ? build_stage_number(b, name, n) : -1;
            if (other >= 0)
                needed[other] = true;
            for (size_t k = 0; name && strchr(name, '$') && k < n; k++)
                needed[k] = true;
        }
        for (size_t k = 0; strchr(base, '$') && k < n; k++)
            needed[k] = true;
    }
}

static int build_plan(struct builder *b, bool *needed, size_t *ret_target, struct err *e)
{
    size_t n = 0, stage = 0;
    long target;

    for (size_t i = 0; i < b->file.n; i++)
        n += b->file.at[i].op == BUILD_FROM;
    if (n == 0)
        return err_set(e, EINVAL, "no FROM: a file begins with the image to build on, or 'FROM scratch'");
    if (n > BUILD_STAGES_MAX)
        return err_set(e, EINVAL, "more than %d stages", BUILD_STAGES_MAX);
    target = b->config->target ? build_stage_number(b, b->config->target, n) : (long)n - 1;
    if (target < 0)
        return err_set(e, ENOENT, "no stage is called '%.100s'; see the FROM lines of the file", b->config->target);
    build_mark(b, (size_t)target, needed);
    for (size_t i = 0; i < b->file.n; i++) {
        stage += b->file.at[i].op == BUILD_FROM;
        b->n_steps += stage > 0 && needed[stage - 1];
    }
    *ret_target = (size_t)target;
    return 0;
}

/* ---- the whole ---- */

static void build_tell(struct builder *b, const struct build_instruction *i)
{
    char line[512];

    snprintf(line, sizeof(line), "step %u of %u: %.400s", ++b->step, b->n_steps, i->text);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    if (b->config->told)
        b->config->told(b->config->told_opaque, line);
}

static int build_steps(struct builder *b, const bool *needed, size_t target, struct err *e)
{
    long stage = -1;
    int r = 0;

    for (size_t k = 0; k < b->file.n && r == 0; k++) {
        const struct build_instruction *i = &b->file.at[k];

        if (i->op == BUILD_FROM && (size_t)++stage > target)
            break;
        if (stage >= 0 && !needed[stage]) {
            if (i->op == BUILD_FROM)
                b->n_stages++;
            continue;
        }
        if (stage >= 0)
            build_tell(b, i);
        if (i->op == BUILD_FROM)
            r = build_from(b, i, e);
        else if (stage < 0)
            r = build_arg(b, NULL, i, e);
        else
            r = build_instruction_run(b, &b->stages[stage], i, e);
        if (r < 0 && r != -ECANCELED)
            err_wrap(e, "line %u: %s", i->line, build_op_name(i->op));
    }
    return r;
}

/* Stages are kept without a name: so the cache has their layers next time. Failing costs time only. */
static void build_keep(struct builder *b, size_t but)
{
    char id[IMAGE_DIGEST_MAX];
    struct err ignored = { 0 };

    for (size_t i = 0; i < b->n_stages; i++)
        if (i != but && b->stages[i].changed && build_stage_commit(b, &b->stages[i], NULL, 0, id, &ignored) < 0)
            continue;
}

static int build_finish(struct builder *b, size_t target, char ret_id[IMAGE_DIGEST_MAX], struct err *e)
{
    const struct inst_strings *names = b->config->names, *labels = b->config->labels;
    AUTO_FREE struct build_name *full = calloc(names ? names->n + 1 : 1, sizeof(*full));
    AUTO_FREE const char **list = calloc(names ? names->n + 1 : 1, sizeof(*list));
    size_t n = names ? names->n : 0;
    int r = full && list ? 0 : err_set(e, ENOMEM, "out of memory");

    for (size_t i = 0; i < n && r == 0; i++) {
        r = image_name_local(names->at[i], full[i].text, e);
        list[i] = full[i].text;
    }
    for (size_t i = 0; labels && i < labels->n && r == 0; i++)
        build_doc_label(b->stages[target].doc, labels->at[i]);
    return r < 0 ? r : build_stage_commit(b, &b->stages[target], list, n, ret_id, e);
}

static int build_open(struct builder *b, struct store *s, const struct image_build *config, struct err *e)
{
    int r;

    b->store = s;
    b->config = config;
    b->context = open(config->context, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->context < 0)
        return err_set(e, errno, "cannot open the context %s: %s", config->context, strerror(errno));
    r = build_read_file(b, e);
    if (r == 0)
        r = build_read_ignore(b, e);
    if (r == 0)
        r = build_builtins(b, e);
    return r < 0 ? r : image_add_begin(s, &b->add, e);
}

static void builder_free(struct builder *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n_stages; i++)
        build_stage_done(&b->stages[i]);
    for (size_t i = 0; i < b->n_others; i++)
        build_stage_done(&b->others[i]);
    image_add_free(b->add);
    build_file_done(&b->file);
    build_ignore_done(&b->ignore);
    inst_strings_done(&b->globals);
    inst_strings_done(&b->builtins);
    if (b->context >= 0)
        close(b->context);
    free(b);
}
DEFINE_AUTO(builder, struct builder, builder_free)

int image_build(struct store *s, const struct image_build *config, char ret_id[IMAGE_DIGEST_MAX], struct err *e)
{
    AUTO(builder) struct builder *b = calloc(1, sizeof(*b));
    bool needed[BUILD_STAGES_MAX] = { false };
    size_t target = 0;
    int r;

    if (!b)
        return err_set(e, ENOMEM, "out of memory");
    b->context = -1;
    r = build_open(b, s, config, e);
    if (r == 0)
        r = build_plan(b, needed, &target, e);
    if (r == 0) {
        r = build_steps(b, needed, target, e);
        build_keep(b, r == 0 ? target : SIZE_MAX);
    }
    return r < 0 ? r : build_finish(b, target, ret_id, e);
}
