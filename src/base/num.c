#include "base/num.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static int num_digit(char c, unsigned radix)
{
    int v = -1;

    if (c >= '0' && c <= '9')
        v = c - '0';
    else if (c >= 'a' && c <= 'f')
        v = c - 'a' + 10;
    else if (c >= 'A' && c <= 'F')
        v = c - 'A' + 10;
    return v >= 0 && (unsigned)v < radix ? v : -1;
}

/* Parses the leading number; *ret_end is set to the first character behind it. */
static int num_parse_head(const char *text, uint64_t *ret, const char **ret_end)
{
    unsigned radix = 10;
    uint64_t v = 0;

    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        radix = 16;
        text += 2;
    }
    if (num_digit(*text, radix) < 0)
        return -EINVAL;
    for (int d; (d = num_digit(*text, radix)) >= 0; text++) {
        if (__builtin_mul_overflow(v, radix, &v) || __builtin_add_overflow(v, (unsigned)d, &v))
            return -ERANGE;
    }
    *ret = v;
    *ret_end = text;
    return 0;
}

int num_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    const char *end;
    uint64_t v;
    int r = num_parse_head(text, &v, &end);

    if (r < 0)
        return r;
    if (*end != '\0')
        return -EINVAL;
    if (v < min || v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int num_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char suffixes[] = "KMGT";
    const char *end;
    uint64_t v;
    int r = num_parse_head(text, &v, &end);

    if (r < 0)
        return r;
    if (*end != '\0') {
        char up = (char)(*end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
        const char *at = up ? strchr(suffixes, up) : NULL;

        if (at) {
            unsigned shift = 10 * (unsigned)(at - suffixes + 1);

            if (v > UINT64_MAX >> shift)
                return -ERANGE;
            v <<= shift;
            end++;
            if (*end == 'i')
                end++;
        }
        if (*end == 'B' || *end == 'b')
            end++;
        if (*end != '\0')
            return -EINVAL;
    }
    *ret_bytes = v;
    return 0;
}
