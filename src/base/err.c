#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A text that was cut may end within a character of UTF-8, of which nothing is kept then. */
static void err_cut(char *text)
{
    size_t len = strlen(text), at = len;

    if (len < ERR_TEXT_MAX - 1)
        return;
    while (len - at < 3 && ((unsigned char)text[at - 1] & 0xc0) == 0x80)
        at--;
    if (((unsigned char)text[at - 1] & 0xc0) == 0xc0) {
        const unsigned char lead = (unsigned char)text[at - 1];

        if (len - at < (lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1))
            text[at - 1] = '\0';
    }
}

/* Names come from images, guests and servers: what is told of them stays one line, and commands no terminal. Control
 * characters of the second kind (C1) are two bytes in UTF-8. */
static void err_clean(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;

    if (e) {
        e->code = code;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
        err_cut(e->text);
        err_clean(e->text);
    }
    return -code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    char context[ERR_TEXT_MAX];
    char whole[2 * ERR_TEXT_MAX + 2];
    va_list ap;

    if (!e)
        return -EINVAL;
    va_start(ap, fmt);
    vsnprintf(context, sizeof(context), fmt, ap);
    va_end(ap);
    snprintf(whole, sizeof(whole), "%s: %s", context, e->text);
    whole[ERR_TEXT_MAX - 1] = '\0';
    memcpy(e->text, whole, ERR_TEXT_MAX);
    err_cut(e->text);
    err_clean(e->text);
    return -e->code;
}
