#include "image/build_words.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/text.h"

#define WORD_BLANKS " \t"
#define WORD_NAME_FIRST "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
#define WORD_NAME WORD_NAME_FIRST "0123456789"
#define WORD_DEPTH_MAX 16

struct word_reader {
    const char *at;
    char escape;
    const struct build_vars *vars;
    struct buf *out;
    unsigned depth;
    struct err *e;
};

static int word_until(struct word_reader *w, char stop);

/* ${NAME...}; at stands behind the brace. */
static int word_braced(struct word_reader *w)
{
    size_t len = strspn(w->at, WORD_NAME);
    AUTO_FREE char *name = text_copy(w->at, len);
    const char *value;
    struct buf aside, *out = w->out;
    char what;
    int r;

    if (!name)
        return err_set(w->e, ENOMEM, "out of memory");
    if (len == 0 || strchr("0123456789", name[0]))
        return err_set(w->e, EINVAL, "'${' without the name of a variable behind it");
    w->at += len;
    value = w->vars->lookup(w->vars->opaque, name);
    if (*w->at == '}') {
        w->at++;
        buf_append_str(out, value ? value : "");
        return 0;
    }
    if (*w->at == ':') { /* with the colon an empty value is as none */
        w->at++;
        if (value && !value[0])
            value = NULL;
    }
    what = *w->at;
    if (what != '-' && what != '+' && what != '?')
        return err_set(w->e, EINVAL, "${%.60s: only ':-', ':+' and ':?' may follow, and '}'", name);
    w->at++;
    buf_init(&aside, BUILD_WORD_MAX);
    w->out = &aside;
    r = word_until(w, '}');
    w->out = out;
    buf_append(&aside, "", 1);
    if (r == 0 && buf_error(&aside) < 0)
        r = err_set(w->e, ENOMEM, "a word of more than %u KiB", BUILD_WORD_MAX >> 10);
    if (r == 0 && what == '?' && !value)
        r = err_set(w->e, EINVAL, "%.60s is not set: %.200s", name, (char *)aside.data);
    if (r == 0 && (what == '+') == (value != NULL))
        buf_append_str(out, (char *)aside.data);
    else if (r == 0 && value && what != '+')
        buf_append_str(out, value);
    buf_done(&aside);
    return r;
}

/* at stands on the dollar. */
static int word_dollar(struct word_reader *w)
{
    AUTO_FREE char *name = NULL;
    const char *value;
    size_t len;

    w->at++;
    if (*w->at == '{') {
        w->at++;
        return word_braced(w);
    }
    w->at += strspn(w->at, "0123456789"); /* a shell's arguments, of which there are none */
    if (isdigit((unsigned char)w->at[-1]))
        return 0;
    len = strspn(w->at, WORD_NAME_FIRST) ? strspn(w->at, WORD_NAME) : 0;
    if (len == 0) {
        buf_append(w->out, "$", 1);
        return 0;
    }
    name = text_copy(w->at, len);
    if (!name)
        return err_set(w->e, ENOMEM, "out of memory");
    w->at += len;
    value = w->vars->lookup(w->vars->opaque, name);
    buf_append_str(w->out, value ? value : "");
    return 0;
}

static int word_double_quoted(struct word_reader *w)
{
    w->at++;
    while (*w->at != '"') {
        if (!*w->at)
            return err_set(w->e, EINVAL, "a double quote that is not closed");
        if (*w->at == '$') {
            int r = word_dollar(w);

            if (r < 0)
                return r;
            continue;
        }
        if (*w->at == w->escape && w->at[1] && (w->at[1] == '"' || w->at[1] == '$' || w->at[1] == w->escape))
            w->at++;
        buf_append(w->out, w->at++, 1);
    }
    w->at++;
    return 0;
}

static int word_single_quoted(struct word_reader *w)
{
    const char *end = strchr(w->at + 1, '\'');

    if (!end)
        return err_set(w->e, EINVAL, "a single quote that is not closed");
    buf_append(w->out, w->at + 1, (size_t)(end - w->at - 1));
    w->at = end + 1;
    return 0;
}

/* Up to stop (0: the end), which is consumed. */
static int word_until(struct word_reader *w, char stop)
{
    int r = 0;

    if (++w->depth > WORD_DEPTH_MAX)
        return err_set(w->e, EINVAL, "variables within variables more than %d deep", WORD_DEPTH_MAX);
    while (r == 0 && *w->at && *w->at != stop) {
        if (*w->at == '\'') {
            r = word_single_quoted(w);
        } else if (*w->at == '"') {
            r = word_double_quoted(w);
        } else if (*w->at == '$') {
            r = word_dollar(w);
        } else {
            if (*w->at == w->escape && w->at[1])
                w->at++;
            buf_append(w->out, w->at++, 1);
        }
    }
    w->depth--;
    if (r == 0 && stop && *w->at != stop)
        return err_set(w->e, EINVAL, "'${' without its '}'");
    if (r == 0 && stop)
        w->at++;
    return r;
}

int build_word_expand(const char *text, char escape, const struct build_vars *vars, char **ret_word, struct err *e)
{
    struct buf out;
    struct word_reader w = { .at = text, .escape = escape, .vars = vars, .out = &out, .e = e };
    int r;

    buf_init(&out, BUILD_WORD_MAX);
    r = word_until(&w, '\0');
    buf_append(&out, "", 1);
    if (r == 0 && buf_error(&out) < 0)
        r = err_set(e, buf_error(&out) == -ENOMEM ? ENOMEM : EINVAL, "a word of more than %u KiB",
                    BUILD_WORD_MAX >> 10);
    if (r < 0)
        buf_done(&out);
    else
        *ret_word = (char *)out.data;
    return r;
}

/* The length of the word at text, quotes included; -EINVAL: one is open. */
static ssize_t word_length(const char *text, char escape)
{
    char quote = '\0';
    const char *p = text;

    for (; *p && (quote || !strchr(WORD_BLANKS, *p)); p++) {
        if (*p == escape && p[1] && quote != '\'')
            p++;
        else if (quote)
            quote = *p == quote ? '\0' : quote;
        else if (*p == '"' || *p == '\'')
            quote = *p;
    }
    return quote ? -EINVAL : p - text;
}

int build_words_split(const char *text, char escape, struct inst_strings *ret_words, struct err *e)
{
    for (const char *p = text + strspn(text, WORD_BLANKS); *p; p += strspn(p, WORD_BLANKS)) {
        ssize_t len = word_length(p, escape);
        AUTO_FREE char *word = NULL;

        if (len < 0)
            return err_set(e, EINVAL, "a quote that is not closed");
        word = text_copy(p, (size_t)len);
        if (!word || inst_strings_add(ret_words, word) < 0)
            return err_set(e, ENOMEM, "out of memory");
        p += len;
    }
    return 0;
}

/* "K the rest of the line", as Docker had it first. */
static int words_old_pair(const char *text, char escape, const struct build_vars *vars, const char *what,
                          struct inst_strings *ret_pairs, struct err *e)
{
    size_t len = strcspn(text, WORD_BLANKS);
    const char *rest = text + len + strspn(text + len, WORD_BLANKS);
    AUTO_FREE char *value = NULL, *pair = NULL;
    int r;

    if (!*rest)
        return err_set(e, EINVAL, "%s wants NAME=VALUE, and '%.60s' is not that", what, text);
    r = build_word_expand(rest, escape, vars, &value, e);
    if (r < 0)
        return r;
    if (asprintf(&pair, "%.*s=%s", (int)len, text, value) < 0) {
        pair = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    return inst_strings_add(ret_pairs, pair) < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
}

int build_words_pairs(const char *text, char escape, const struct build_vars *vars, const char *what,
                      struct inst_strings *ret_pairs, struct err *e)
{
    struct inst_strings words = { 0 };
    int r = 0;

    if (!memchr(text, '=', strcspn(text, WORD_BLANKS)))
        return words_old_pair(text, escape, vars, what, ret_pairs, e);
    r = build_words_split(text, escape, &words, e);
    for (size_t i = 0; i < words.n && r == 0; i++) {
        AUTO_FREE char *pair = NULL;

        if (!strchr(words.at[i], '=') || words.at[i][0] == '=')
            r = err_set(e, EINVAL, "%s wants NAME=VALUE, and '%.60s' is not that", what, words.at[i]);
        else
            r = build_word_expand(words.at[i], escape, vars, &pair, e);
        if (r == 0 && inst_strings_add(ret_pairs, pair) < 0)
            r = err_set(e, ENOMEM, "out of memory");
    }
    inst_strings_done(&words);
    return r;
}
