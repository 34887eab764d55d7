#include "base/text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

char *text_copy(const void *bytes, size_t len)
{
    char *text = len < SIZE_MAX ? malloc(len + 1) : NULL;

    if (!text)
        return NULL;
    if (len > 0)
        memcpy(text, bytes, len);
    text[len] = '\0';
    return text;
}

void text_unescape_octal(char *s)
{
    char *to = s;

    while (*s) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *to++ = *s++;
        }
    }
    *to = '\0';
}
