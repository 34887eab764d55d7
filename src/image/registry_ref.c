#include "image/registry_ref.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "wire/oci_image.h"

#define REF_TEXT_MAX 512 /* of what was typed, and of the full name; with its terminator */
#define REF_DIGITS "0123456789"
#define REF_LOWER "abcdefghijklmnopqrstuvwxyz" REF_DIGITS
#define REF_WORD REF_LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"

/* One component of a repository: words of small letters and digits, joined by ".", "_", "__" or dashes. */
static bool ref_component_ok(const char *text, size_t len)
{
    size_t at = 0;

    for (;;) {
        size_t word = strspn(text + at, REF_LOWER);
        size_t joint;

        if (word == 0)
            return false;
        at += word;
        if (at >= len)
            return at == len;
        joint = strspn(text + at, "-");
        if (joint == 0)
            joint = text[at] == '.' ? 1 : text[at] == '_' ? (text[at + 1] == '_' ? 2 : 1) : 0;
        if (joint == 0)
            return false;
        at += joint;
    }
}

static bool ref_repository_ok(const char *text)
{
    while (*text) {
        size_t len = strcspn(text, "/");

        if (!ref_component_ok(text, len))
            return false;
        text += len;
        if (*text == '/' && !*++text)
            return false;
    }
    return true;
}

static bool ref_tag_ok(const char *text)
{
    size_t len = strlen(text);

    return len > 0 && len < REGISTRY_TAG_MAX && strspn(text, REF_WORD) > 0 && strspn(text, REF_WORD ".-") == len;
}

/* A name or IPv4 address, or an IPv6 address in brackets; then perhaps a port. */
static bool ref_host_ok(const char *host)
{
    size_t len = strlen(host), name, port;

    if (host[0] == '[') {
        name = strspn(host + 1, REF_DIGITS "abcdefABCDEF:.");
        if (name < 2 || host[name + 1] != ']')
            return false;
        name += 2;
    } else {
        name = strspn(host, REF_WORD ".-");
        if (name == 0 || host[0] == '.' || host[0] == '-')
            return false;
    }
    if (name == len)
        return true;
    port = strspn(host + name + 1, REF_DIGITS);
    return host[name] == ':' && port > 0 && port <= 5 && name + 1 + port == len;
}

static int ref_fail(const char *text, const char *why, struct err *e)
{
    return err_set(e, EINVAL, "'%.200s' is no name of an image: %s; write [HOST[:PORT]/]NAME[:TAG][@sha256:...]", text,
                   why);
}

/* Cut the host off in front; *name becomes what is behind it. */
static int ref_host(const char *text, const char *default_host, char **name, struct registry_ref *r, struct err *e)
{
    char *slash = strchr(*name, '/');
    size_t len = slash ? (size_t)(slash - *name) : 0;
    bool is_host = slash && (memchr(*name, '.', len) || memchr(*name, ':', len) ||
                             (len == 9 && strncmp(*name, "localhost", 9) == 0));

    if (!is_host) {
        snprintf(r->host, sizeof(r->host), "%s", default_host);
        return 0;
    }
    if (len >= sizeof(r->host))
        return ref_fail(text, "the host is too long", e);
    memcpy(r->host, *name, len);
    r->host[len] = '\0';
    if (!ref_host_ok(r->host))
        return ref_fail(text, "the host is no name or address", e);
    if (strcmp(r->host, "index.docker.io") == 0 || strcmp(r->host, "registry-1.docker.io") == 0)
        snprintf(r->host, sizeof(r->host), "%s", REGISTRY_DEFAULT_HOST);
    *name = slash + 1;
    return 0;
}

/* Cut digest and tag off behind. */
static int ref_version(const char *text, char *name, struct registry_ref *r, struct err *e)
{
    char *at = strchr(name, '@'), *colon;

    if (at) {
        *at = '\0';
        if (!oci_digest_ok(at + 1))
            return ref_fail(text, "the digest is not sha256: and 64 hexadecimal digits", e);
        snprintf(r->digest, sizeof(r->digest), "%s", at + 1);
    }
    colon = strrchr(name, ':');
    if (colon) {
        *colon = '\0';
        if (!ref_tag_ok(colon + 1))
            return ref_fail(text, "the tag may have letters, digits, '_', '.' and '-' only, at most 128", e);
        snprintf(r->tag, sizeof(r->tag), "%s", colon + 1);
    } else if (!at) {
        snprintf(r->tag, sizeof(r->tag), "latest");
    }
    return 0;
}

int registry_ref_parse_in(const char *text, const char *default_host, struct registry_ref *ret_ref, struct err *e)
{
    char copy[REF_TEXT_MAX], *name = copy;
    const char *prefix = "";
    struct registry_ref r = { 0 };
    int rc;

    if (strlen(text) >= sizeof(copy))
        return ref_fail(text, "too long", e);
    snprintf(copy, sizeof(copy), "%s", text);
    rc = ref_host(text, default_host, &name, &r, e);
    if (rc == 0)
        rc = ref_version(text, name, &r, e);
    if (rc < 0)
        return rc;
    if (!*name || !ref_repository_ok(name))
        return ref_fail(text, "the name may have small letters, digits, and '.', '_', '-' between them only", e);
    if (strcmp(r.host, REGISTRY_DEFAULT_HOST) == 0 && !strchr(name, '/'))
        prefix = "library/";
    if (strlen(prefix) + strlen(name) >= sizeof(r.repository) ||
        strlen(r.host) + strlen(prefix) + strlen(name) + MAX(strlen(r.tag), strlen(r.digest)) + 2 >= REF_TEXT_MAX)
        return ref_fail(text, "the name is too long", e);
    memcpy(r.repository, prefix, strlen(prefix));
    memcpy(r.repository + strlen(prefix), name, strlen(name)); /* r was zeroed */
    *ret_ref = r;
    return 0;
}

int registry_ref_parse(const char *text, struct registry_ref *ret_ref, struct err *e)
{
    if (strncmp(text, "docker://", 9) == 0)
        text += 9;
    return registry_ref_parse_in(text, REGISTRY_DEFAULT_HOST, ret_ref, e);
}

int registry_host_parse(const char *text, char ret_host[REGISTRY_HOST_MAX], struct err *e)
{
    const char *host = strncmp(text, "https://", 8) == 0 ? text + 8 : text;
    size_t len = strlen(host);
    char copy[REGISTRY_HOST_MAX];

    if (len > 0 && host[len - 1] == '/')
        len--;
    if (len == 0 || len >= sizeof(copy))
        return err_set(e, EINVAL, "registry '%.200s': no host; write HOST[:PORT], such as docker.io", text);
    memcpy(copy, host, len);
    copy[len] = '\0';
    if (!ref_host_ok(copy))
        return err_set(e, EINVAL, "registry '%.200s': not a host; write HOST[:PORT], such as docker.io", text);
    if (strcmp(copy, "index.docker.io") == 0 || strcmp(copy, "registry-1.docker.io") == 0)
        snprintf(copy, sizeof(copy), "%s", REGISTRY_DEFAULT_HOST);
    snprintf(ret_host, REGISTRY_HOST_MAX, "%s", copy);
    return 0;
}

void registry_ref_name(const struct registry_ref *r, char *ret, size_t size)
{
    snprintf(ret, size, "%s/%s%s%s", r->host, r->repository, r->tag[0] ? ":" : "@", r->tag[0] ? r->tag : r->digest);
}

bool registry_host_is_loopback(const char *host)
{
    char name[REGISTRY_HOST_MAX];
    size_t len = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");

    if (len >= sizeof(name) || len > strlen(host))
        return false;
    memcpy(name, host, len);
    name[len] = '\0';
    /* "127.evil.example" is a name like any other: all must be digits. */
    return strcmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 ||
           (strncmp(name, "127.", 4) == 0 && strspn(name, REF_DIGITS ".") == len);
}
