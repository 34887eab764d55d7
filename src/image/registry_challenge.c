/* The parser of WWW-Authenticate: challenges separated by commas, each a scheme and parameters separated by commas (RFC
 * 7235 section 4.1). Where a list goes on and where a new challenge begins is seen by the "=" alone. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "image/registry_auth.h"

#define TOKEN_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
#define TOKEN68_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/"
#define BLANKS " \t"

/* A token or quoted string at *at into ret; what does not fit is an error, as is a control character. */
static int challenge_value(const char **at, char *ret, size_t size)
{
    const char *p = *at;
    size_t n = 0;
    bool quoted = *p == '"';

    for (p += quoted; quoted ? *p != '"' : *p && strchr(TOKEN68_CHARS TOKEN_CHARS, *p) != NULL; p++) {
        if (quoted && *p == '\\')
            p++;
        if ((unsigned char)*p < ' ' || *p == 0x7f || n + 1 >= size)
            return -EINVAL;
        ret[n++] = *p;
    }
    ret[n] = '\0';
    *at = p + quoted;
    return n == 0 && !quoted ? -EINVAL : 0;
}

/* One "name = value" into the member that has it; others are checked and dropped. */
static int challenge_parameter(const char **at, const char *name, size_t len, struct registry_challenge *c)
{
    char other[2048];
    const struct {
        const char *name;
        char *value;
        size_t size;
    } known[] = { { "realm", c->realm, sizeof(c->realm) },
                  { "service", c->service, sizeof(c->service) },
                  { "scope", c->scope, sizeof(c->scope) },
                  { "error", c->error, sizeof(c->error) } };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (len == strlen(known[i].name) && strncasecmp(name, known[i].name, len) == 0)
            return challenge_value(at, known[i].value, known[i].size);
    return challenge_value(at, other, sizeof(other));
}

/* The parameters behind a scheme, up to the next one or the end. */
static int challenge_parameters(const char **at, struct registry_challenge *c)
{
    const char *p = *at;

    for (;;) {
        const char *start, *name;
        size_t len;
        int r;

        start = p += strspn(p, BLANKS ",");
        name = p;
        len = strspn(p, TOKEN_CHARS);
        p += len;
        p += strspn(p, BLANKS);
        if (len == 0 || *p != '=') { /* the end, or the next scheme */
            *at = start;
            return 0;
        }
        p++;
        p += strspn(p, BLANKS);
        r = challenge_parameter(&p, name, len, c);
        if (r < 0)
            return r;
        p += strspn(p, BLANKS);
        if (*p && *p != ',')
            return -EINVAL;
    }
}

static enum registry_scheme challenge_scheme(const char *name, size_t len)
{
    if (len == 6 && strncasecmp(name, "Bearer", len) == 0)
        return REGISTRY_SCHEME_BEARER;
    return len == 5 && strncasecmp(name, "Basic", len) == 0 ? REGISTRY_SCHEME_BASIC : REGISTRY_SCHEME_NONE;
}

int registry_challenge_parse(const char *header, struct registry_challenge *ret_challenge)
{
    struct registry_challenge best = { 0 };
    const char *p = header;

    for (p += strspn(p, BLANKS ","); *p; p += strspn(p, BLANKS ",")) {
        struct registry_challenge c = { 0 };
        size_t len = strspn(p, TOKEN_CHARS), token;

        if (len == 0)
            return -EINVAL;
        c.scheme = challenge_scheme(p, len);
        p += len;
        if (*p && !strchr(BLANKS ",", *p))
            return -EINVAL;
        p += strspn(p, BLANKS);
        token = strspn(p, TOKEN68_CHARS); /* "Negotiate TOKEN==": one word instead of parameters */
        token += strspn(p + token, "=");
        if (token > 0 && (!p[token] || p[token] == ','))
            p += token;
        if (challenge_parameters(&p, &c) < 0)
            return -EINVAL;
        if (c.scheme > best.scheme && (c.scheme != REGISTRY_SCHEME_BEARER || c.realm[0]))
            best = c;
    }
    if (best.scheme == REGISTRY_SCHEME_NONE)
        return -EINVAL;
    *ret_challenge = best;
    return 0;
}
