#include "image/build_match.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define MATCH_STEPS_MAX 100000 /* of one call: a pattern of many stars costs no more */

/* "[...]" at *p against c; *p moves behind it. A bracket that is not closed fits nothing. */
static bool match_class(const char **p, char c)
{
    const char *at = *p + 1;
    bool negated = *at == '^', hit = false;

    at += negated;
    for (bool first = true; *at && (first || *at != ']'); first = false) {
        char low, high;

        if (*at == '\\' && at[1])
            at++;
        low = high = *at++;
        if (*at == '-' && at[1] && at[1] != ']') {
            at++;
            if (*at == '\\' && at[1])
                at++;
            high = *at++;
        }
        hit = hit || (c >= low && c <= high);
    }
    if (*at != ']')
        return false;
    *p = at + 1;
    return hit != negated;
}

static bool match_at(const char *p, const char *s, unsigned *steps)
{
    for (;;) {
        if (++*steps > MATCH_STEPS_MAX)
            return false;
        if (p[0] == '*' && p[1] == '*') {
            while (*p == '*')
                p++;
            if (!*p)
                return true;
            if (*p == '/' && match_at(p + 1, s, steps)) /* no component at all */
                return true;
            for (; *s; s++)
                if (match_at(p, s, steps))
                    return true;
            return match_at(p, s, steps);
        }
        if (*p == '*') {
            for (;; s++) {
                if (match_at(p + 1, s, steps))
                    return true;
                if (!*s || *s == '/')
                    return false;
            }
        }
        if (!*p || !*s)
            return *p == *s;
        if (*p == '[') {
            if (*s == '/' || !match_class(&p, *s))
                return false;
            s++;
            continue;
        }
        if (*p == '?' ? *s == '/' : (p += *p == '\\' && p[1], *p != *s))
            return false;
        p++;
        s++;
    }
}

bool build_match(const char *pattern, const char *path)
{
    unsigned steps = 0;

    return match_at(pattern, path, &steps);
}

bool build_match_is_pattern(const char *text)
{
    return strpbrk(text, "*?[\\") != NULL;
}

/* ---- ignore files ---- */

/* Without slashes around it and "." components; text is changed. */
static void ignore_clean(char *text)
{
    char *out = text, *p = text;

    while (*p) {
        size_t len = strcspn(p, "/");

        if (len > 0 && !(len == 1 && *p == '.')) {
            if (out != text)
                *out++ = '/';
            memmove(out, p, len);
            out += len;
        }
        p += len;
        p += *p == '/';
    }
    *out = '\0';
}

int build_ignore_parse(const char *text, size_t len, struct build_ignore *ret_ignore)
{
    struct build_ignore i = { 0 };
    const char *p = text, *end = text + len;

    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline ? newline : end;
        AUTO_FREE char *line = NULL;
        size_t skip = 0, n;

        while (skip < (size_t)(stop - p) && (p[skip] == ' ' || p[skip] == '\t'))
            skip++;
        line = text_copy(p + skip, (size_t)(stop - p) - skip);
        if (!line)
            goto fail;
        n = strlen(line);
        while (n > 0 && strchr(" \t\r", line[n - 1]))
            line[--n] = '\0';
        if (line[0] != '#') {
            ignore_clean(line[0] == '!' ? line + 1 : line);
            if (line[0] && !(line[0] == '!' && !line[1])) {
                i.negates = i.negates || line[0] == '!';
                if (inst_strings_add(&i.patterns, line) < 0)
                    goto fail;
            }
        }
        p = newline ? newline + 1 : end;
    }
    *ret_ignore = i;
    return 0;
fail:
    build_ignore_done(&i);
    return -ENOMEM;
}

void build_ignore_done(struct build_ignore *i)
{
    inst_strings_done(&i->patterns);
    i->negates = false;
}

/* The path or a folder above it. */
static bool ignore_fits_one(const char *pattern, const char *path)
{
    AUTO_FREE char *part = strdup(path);

    while (part) {
        char *slash;

        if (build_match(pattern, part))
            return true;
        slash = strrchr(part, '/');
        if (!slash)
            return false;
        *slash = '\0';
    }
    return false;
}

bool build_ignore_fits(const struct build_ignore *i, const char *path)
{
    bool ignored = false;

    for (size_t k = 0; k < i->patterns.n; k++) {
        const char *pattern = i->patterns.at[k];
        bool back = pattern[0] == '!';

        if (ignored == back && ignore_fits_one(pattern + back, path))
            ignored = !back;
    }
    return ignored;
}
