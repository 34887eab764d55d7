#include "base/num.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#define NUM_FRACTION_DIGITS 6

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

/* What stands behind a point: part/whole, of so few digits that part fits when it is shifted. *end: at the point, then
 * behind the digits. */
static int num_parse_fraction(const char **end, uint64_t *ret_part, uint64_t *ret_whole)
{
    uint64_t part = 0, whole = 1;
    const char *p = *end + 1;

    for (unsigned n = 0; num_digit(*p, 10) >= 0; p++, n++) {
        if (n == NUM_FRACTION_DIGITS)
            return -ERANGE;
        part = part * 10 + (unsigned)num_digit(*p, 10);
        whole *= 10;
    }
    if (whole == 1)
        return -EINVAL;
    *end = p;
    *ret_part = part;
    *ret_whole = whole;
    return 0;
}

int num_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char suffixes[] = "KMGT";
    uint64_t v, part = 0, whole = 1;
    const char *end, *at;
    unsigned shift;
    int r = num_parse_head(text, &v, &end);

    if (r == 0 && *end == '.' && strncasecmp(text, "0x", 2) != 0)
        r = num_parse_fraction(&end, &part, &whole);
    if (r < 0)
        return r;
    at = *end ? strchr(suffixes, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end) : NULL;
    shift = at ? 10 * (unsigned)(at - suffixes + 1) : 0;
    if (!at && whole > 1)
        return -EINVAL; /* parts of a byte */
    if (v > UINT64_MAX >> shift || __builtin_add_overflow(v << shift, (part << shift) / whole, &v))
        return -ERANGE;
    if (at)
        end += end[1] == 'i' ? 2 : 1;
    if (*end == 'B' || *end == 'b')
        end++;
    if (*end != '\0')
        return -EINVAL;
    *ret_bytes = v;
    return 0;
}
