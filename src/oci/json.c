#include "oci/json.h"

#include <string.h>

void oci_json_string(struct buf *b, const char *text)
{
    const char *run = text;

    if (!text) {
        buf_append_str(b, "null");
        return;
    }
    buf_append(b, "\"", 1);
    for (const char *p = text;; p++) {
        const unsigned char c = (unsigned char)*p;

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_append(b, run, (size_t)(p - run));
        run = p + 1;
        if (c == '\0')
            break;
        if (c == '"' || c == '\\')
            buf_printf(b, "\\%c", c);
        else if (c == '\n')
            buf_append(b, "\\n", 2);
        else
            buf_printf(b, "\\u%04x", c);
    }
    buf_append(b, "\"", 1);
}

void oci_json_member(struct buf *b, int comma, const char *name, const char *text)
{
    if (comma)
        buf_append(b, ",", 1);
    buf_printf(b, "\"%s\":", name);
    oci_json_string(b, text);
}
