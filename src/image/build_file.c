#include "image/build_file.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "base/word.h"
#include "image/build_words.h"

#define FILE_BLANKS " \t\r\v\f"

static const char *const build_op_names[] = {
    [BUILD_ADD] = "ADD",
    [BUILD_ARG] = "ARG",
    [BUILD_CMD] = "CMD",
    [BUILD_COPY] = "COPY",
    [BUILD_ENTRYPOINT] = "ENTRYPOINT",
    [BUILD_ENV] = "ENV",
    [BUILD_EXPOSE] = "EXPOSE",
    [BUILD_FROM] = "FROM",
    [BUILD_HEALTHCHECK] = "HEALTHCHECK",
    [BUILD_LABEL] = "LABEL",
    [BUILD_MAINTAINER] = "MAINTAINER",
    [BUILD_ONBUILD] = "ONBUILD",
    [BUILD_RUN] = "RUN",
    [BUILD_SHELL] = "SHELL",
    [BUILD_STOPSIGNAL] = "STOPSIGNAL",
    [BUILD_USER] = "USER",
    [BUILD_VOLUME] = "VOLUME",
    [BUILD_WORKDIR] = "WORKDIR",
};

const char *build_op_name(enum build_op op)
{
    return build_op_names[op];
}

static void build_instruction_done(struct build_instruction *i)
{
    free(i->text);
    free(i->rest);
    inst_strings_done(&i->flags);
    inst_strings_done(&i->args);
}

void build_file_done(struct build_file *f)
{
    for (size_t i = 0; i < f->n; i++)
        build_instruction_done(&f->at[i]);
    free(f->at);
    *f = (struct build_file){ 0 };
}

const char *build_flag(const struct build_instruction *i, const char *name)
{
    size_t len = strlen(name);
    const char *value = NULL;

    for (size_t k = 0; k < i->flags.n; k++)
        if (strncmp(i->flags.at[k] + 2, name, len) == 0 && i->flags.at[k][2 + len] == '=')
            value = i->flags.at[k] + 3 + len;
    return value;
}

/* ---- lines ---- */

struct file_reader {
    const char *at, *end;
    unsigned line; /* of at */
    char escape;
};

/* The next line without its end. False: none is left. */
static bool file_line(struct file_reader *f, const char **ret, size_t *ret_len)
{
    const char *newline;

    if (f->at >= f->end)
        return false;
    newline = memchr(f->at, '\n', (size_t)(f->end - f->at));
    *ret = f->at;
    *ret_len = (size_t)((newline ? newline : f->end) - f->at);
    f->at = newline ? newline + 1 : f->end;
    f->line++;
    return true;
}

static void file_trim(const char **text, size_t *len)
{
    while (*len > 0 && strchr(FILE_BLANKS, (*text)[0]))
        (*text)++, (*len)--;
    while (*len > 0 && strchr(FILE_BLANKS, (*text)[*len - 1]))
        (*len)--;
}

/* "# escape=`" and "# syntax=..." before anything else. */
static void file_directives(struct file_reader *f)
{
    struct file_reader ahead = *f;
    const char *text;
    size_t len;

    while (file_line(&ahead, &text, &len)) {
        const char *equals;

        file_trim(&text, &len);
        equals = len > 0 ? memchr(text, '=', len) : NULL;
        if (len == 0 || text[0] != '#' || !equals)
            return;
        text++, len--;
        file_trim(&text, &len);
        if (len >= 6 && strncasecmp(text, "escape", 6) == 0) {
            const char *value = equals + 1;
            size_t n = (size_t)(text + len - value);

            file_trim(&value, &n);
            if (n == 1 && (*value == '\\' || *value == '`'))
                f->escape = *value;
        }
    }
}

/* Whether the line, which has no end but its length, is a comment. */
static bool file_is_comment(const char *text, size_t len)
{
    file_trim(&text, &len);
    return len > 0 && text[0] == '#';
}

/* One instruction with the lines that go on behind it into b. False: the end. */
static bool file_joined(struct file_reader *f, struct buf *b, unsigned *ret_line)
{
    const char *text;
    bool begun = false;
    size_t len;

    b->len = 0;
    while (file_line(f, &text, &len)) {
        bool more;

        if (!begun)
            file_trim(&text, &len);
        while (len > 0 && strchr(FILE_BLANKS, text[len - 1]))
            len--;
        if (len == 0 || file_is_comment(text, len))
            continue; /* empty lines and comments may stand between continued lines, too */
        if (!begun)
            *ret_line = f->line;
        begun = true;
        more = text[len - 1] == f->escape;
        buf_append(b, text, len - more);
        if (!more)
            return true;
    }
    return b->len > 0;
}

/* ---- one instruction ---- */

static const char *file_op_at(const void *opaque, size_t i)
{
    return i < ARRAY_SIZE(build_op_names) ? build_op_names[i] : NULL;
}

static int file_op(const char *word, size_t len, unsigned line, enum build_op *ret, struct err *e)
{
    char upper[32] = "";
    const char *near;

    for (size_t i = 0; i < ARRAY_SIZE(build_op_names); i++)
        if (strlen(build_op_names[i]) == len && strncasecmp(build_op_names[i], word, len) == 0) {
            *ret = (enum build_op)i;
            return 0;
        }
    for (size_t i = 0; i < len && i + 1 < sizeof(upper); i++)
        upper[i] = word[i] >= 'a' && word[i] <= 'z' ? (char)(word[i] - 32) : word[i];
    near = word_nearest(upper, file_op_at, NULL);
    return err_set(e, EINVAL, "line %u: unknown instruction '%.*s'%s%s%s", line, (int)MIN(len, 40u), word,
                   near ? "; did you mean " : "; see docs/build.md for those that are known", near ? near : "",
                   near ? "?" : "");
}

/* The flags in front; returns what is behind them, or NULL: no memory. */
static const char *file_flags(const char *p, struct inst_strings *flags)
{
    for (;;) {
        AUTO_FREE char *flag = NULL;
        size_t len;

        p += strspn(p, FILE_BLANKS);
        if (p[0] != '-' || p[1] != '-')
            return p;
        len = strcspn(p, FILE_BLANKS);
        if (len == 2)
            return p + 2 + strspn(p + 2, FILE_BLANKS);
        flag = text_copy(p, len);
        if (!flag || inst_strings_add(flags, flag) < 0)
            return NULL;
        p += len;
    }
}

/* A JSON array of strings and nothing else is the exec form; anything else is not. -ENOMEM. */
static int file_exec_form(struct build_instruction *i)
{
    json_tokener *tokener;
    json_object *o;
    size_t len = strlen(i->rest);
    int r = 0;

    if (i->rest[0] != '[')
        return 0;
    tokener = json_tokener_new_ex(3);
    if (!tokener)
        return -ENOMEM;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    o = json_tokener_parse_ex(tokener, i->rest, (int)len);
    i->exec = json_object_is_type(o, json_type_array) && json_tokener_get_parse_end(tokener) == len;
    for (size_t k = 0; i->exec && k < json_object_array_length(o); k++) {
        json_object *v = json_object_array_get_idx(o, k);

        i->exec = json_object_is_type(v, json_type_string) &&
                  strlen(json_object_get_string(v)) == (size_t)json_object_get_string_len(v);
    }
    for (size_t k = 0; i->exec && r == 0 && k < json_object_array_length(o); k++)
        r = inst_strings_add(&i->args, json_object_get_string(json_object_array_get_idx(o, k)));
    json_object_put(o);
    json_tokener_free(tokener);
    return r;
}

static bool file_has_flags(enum build_op op)
{
    return op == BUILD_ADD || op == BUILD_COPY || op == BUILD_FROM || op == BUILD_HEALTHCHECK || op == BUILD_RUN;
}

/* Whether a word is "<<EOF", "<<-EOF" or "3<<'EOF'", and not the shell's "<<<". */
static bool file_is_heredoc_word(const char *word)
{
    word += strspn(word, "0123456789");
    if (strncmp(word, "<<", 2) != 0)
        return false;
    word += 2;
    word += *word == '-';
    word += *word == '"' || *word == '\'';
    return (isalpha((unsigned char)*word) || *word == '_') && !strchr(word, '<');
}

/* BuildKit's here-documents, whose lines are no instructions: anywhere among the words. */
static bool file_is_heredoc(const struct build_instruction *i, char escape)
{
    struct inst_strings words = { 0 };
    struct err ignored = { 0 };
    bool found = false;

    if (i->exec || (i->op != BUILD_RUN && i->op != BUILD_COPY && i->op != BUILD_ADD) || !strstr(i->rest, "<<"))
        return false;
    if (build_words_split(i->rest, escape, &words, &ignored) == 0)
        for (size_t k = 0; k < words.n && !found; k++)
            found = file_is_heredoc_word(words.at[k]);
    inst_strings_done(&words);
    return found;
}

static int file_instruction(const struct buf *b, char escape, unsigned line, struct build_instruction *ret,
                            struct err *e)
{
    struct build_instruction i = { .line = line };
    size_t word, blank = 0;
    const char *p;
    int r = 0;

    while (blank < b->len && strchr(FILE_BLANKS, b->data[blank]))
        blank++;
    i.text = text_copy(b->data + blank, b->len - blank);
    if (!i.text)
        return err_set(e, ENOMEM, "out of memory");
    word = strcspn(i.text, FILE_BLANKS);
    r = file_op(i.text, word, line, &i.op, e);
    p = i.text + word;
    if (r == 0 && file_has_flags(i.op))
        p = file_flags(p, &i.flags);
    if (r == 0 && p) {
        p += strspn(p, FILE_BLANKS);
        i.rest = strdup(p);
    }
    if (r == 0 && (!i.rest || file_exec_form(&i) < 0))
        r = err_set(e, ENOMEM, "out of memory");
    if (r == 0 && !i.rest[0])
        r = err_set(e, EINVAL, "line %u: %s without anything behind it", line, build_op_names[i.op]);
    if (r == 0 && file_is_heredoc(&i, escape))
        r = err_set(e, EINVAL, "line %u: here-documents are not known; put the text into a file, or join lines by \\",
                    line);
    if (r < 0)
        build_instruction_done(&i);
    else
        *ret = i;
    return r;
}

static int file_append(struct build_file *f, const struct build_instruction *i)
{
    struct build_instruction *grown =
        f->n < BUILD_INSTRUCTIONS_MAX ? reallocarray(f->at, f->n + 1, sizeof(*f->at)) : NULL;

    if (!grown)
        return -ENOMEM;
    f->at = grown;
    f->at[f->n++] = *i;
    return 0;
}

/* Only ARG may stand before the first FROM. */
static int file_check_order(const struct build_file *f, const struct build_instruction *i, struct err *e)
{
    bool from = i->op == BUILD_FROM;

    for (size_t k = 0; k < f->n && !from; k++)
        from = f->at[k].op == BUILD_FROM;
    if (from || i->op == BUILD_ARG)
        return 0;
    return err_set(e, EINVAL, "line %u: %s before the first FROM; only ARG may stand there", i->line,
                   build_op_names[i->op]);
}

static int file_read(struct file_reader *reader, struct buf *b, struct build_file *f, struct err *e)
{
    unsigned line = 0;

    while (file_joined(reader, b, &line)) {
        struct build_instruction i = { 0 };
        int r;

        if (buf_error(b) < 0)
            return err_set(e, ENOMEM, "out of memory");
        r = file_instruction(b, reader->escape, line, &i, e);
        if (r == 0)
            r = file_check_order(f, &i, e);
        if (r == 0 && file_append(f, &i) < 0)
            r = err_set(e, f->n < BUILD_INSTRUCTIONS_MAX ? ENOMEM : EINVAL, "line %u: more than %u instructions", line,
                        BUILD_INSTRUCTIONS_MAX);
        if (r < 0) {
            build_instruction_done(&i);
            return r;
        }
    }
    return 0;
}

int build_file_parse(const char *text, size_t len, struct build_file *ret_file, struct err *e)
{
    struct file_reader reader = { .at = text, .end = text + len, .escape = '\\' };
    struct build_file f = { 0 };
    struct buf b;
    int r;

    if (len > BUILD_FILE_MAX)
        return err_set(e, EINVAL, "more than %u KiB of instructions", BUILD_FILE_MAX >> 10);
    if (memchr(text, '\0', len))
        return err_set(e, EINVAL, "it has zero bytes: it is no text");
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        reader.at += 3;
    buf_init(&b, BUILD_FILE_MAX + 1);
    file_directives(&reader);
    f.escape = reader.escape;
    r = file_read(&reader, &b, &f, e);
    if (r == 0 && f.n == 0)
        r = err_set(e, EINVAL, "no instruction; the first is FROM");
    buf_done(&b);
    if (r < 0)
        build_file_done(&f);
    else
        *ret_file = f;
    return r;
}
