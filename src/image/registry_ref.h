/* Where an image lies in a registry: what users type ("debian", "ghcr.io/x/y:1", "localhost:5000/a@sha256:...") taken
 * apart and checked against the grammar of the distribution specification. It must not know the network or the store.
 */
#ifndef IMAGE_REGISTRY_REF_H
#define IMAGE_REGISTRY_REF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"

#define REGISTRY_HOST_MAX 256 /* each with its terminator */
#define REGISTRY_REPOSITORY_MAX 256
#define REGISTRY_TAG_MAX 129
#define REGISTRY_DIGEST_MAX 72
#define REGISTRY_DEFAULT_HOST "docker.io"

struct registry_ref {
    char host[REGISTRY_HOST_MAX];             /* "docker.io", "localhost:5000", "[::1]:5000" */
    char repository[REGISTRY_REPOSITORY_MAX]; /* "library/debian" */
    char tag[REGISTRY_TAG_MAX];               /* "latest" where neither tag nor digest was given; "": digest only */
    char digest[REGISTRY_DIGEST_MAX];         /* "sha256:HEX" or "" */
};

/* text: with or without "docker://", host (default docker.io), tag and digest. A name of one word is one of library/ of
 * docker.io. -EINVAL with text. */
int registry_ref_parse(const char *text, struct registry_ref *ret_ref, struct err *e) MUST_USE;
/* Likewise, without "docker://", and a name without a host is one of default_host. */
int registry_ref_parse_in(const char *text, const char *default_host, struct registry_ref *ret_ref,
                          struct err *e) MUST_USE;
/* The host alone, as `login` has it; "https://" before and "/" behind it are ignored. -EINVAL with text. */
int registry_host_parse(const char *text, char ret_host[REGISTRY_HOST_MAX], struct err *e) MUST_USE;
/* "host/repository:tag", or "host/repository@digest" without a tag. ret holds at least IMAGE_NAME_MAX. */
void registry_ref_name(const struct registry_ref *r, char *ret, size_t size);
/* Whether host (with or without port) is this machine by its name or address. */
bool registry_host_is_loopback(const char *host);

#endif
