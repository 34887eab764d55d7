/* Who the user is for a registry: the challenges of a server (RFC 7235), and the files in which Podman, Docker, skopeo
 * and Caisson keep credentials (containers-auth.json(5)). It must not know the network or the terminal. */
#ifndef IMAGE_REGISTRY_AUTH_H
#define IMAGE_REGISTRY_AUTH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

enum registry_scheme { REGISTRY_SCHEME_NONE, REGISTRY_SCHEME_BASIC, REGISTRY_SCHEME_BEARER };

/* What a 401 asks for. Of several challenges the strongest that we know: Bearer before Basic. */
struct registry_challenge {
    enum registry_scheme scheme;
    char realm[1024];
    char service[256];
    char scope[512];
    char error[64]; /* "invalid_token", "insufficient_scope", ...; "": none */
};

/* header: the value of WWW-Authenticate. -EINVAL: no challenge that we know can be read from it; *ret is untouched. */
int registry_challenge_parse(const char *header, struct registry_challenge *ret_challenge) MUST_USE;

struct registry_credentials {
    char *user, *password; /* NULL: none; owned */
    char *identity_token;  /* to be exchanged for tokens instead of a password; NULL: none; owned */
};
/* Wipes and frees. Accepts a zeroed struct. */
void registry_credentials_done(struct registry_credentials *c);

/* The entry for host/repository (repository may be ""): the longest one that fits. document: of an auth file. 1: there
 * is none. -EINVAL with text: it cannot be read. ret_credentials is zeroed before. */
int registry_auth_lookup(struct json_object *document, const char *host, const char *repository,
                         struct registry_credentials *ret_credentials, struct err *e) MUST_USE;

/* Look in $REGISTRY_AUTH_FILE alone where it is set, otherwise in $XDG_RUNTIME_DIR/containers/auth.json (without
 * XDG_RUNTIME_DIR: /run/containers/UID/auth.json), ~/.config/containers/auth.json and ~/.docker/config.json, in that
 * order. None found is success with a zeroed result. -EINVAL: a file is damaged. */
int registry_auth_find(const char *host, const char *repository, struct registry_credentials *ret_credentials,
                       struct err *e) MUST_USE;
/* Where login writes: the first of the files above. */
int registry_auth_path(char *ret, size_t size, struct err *e) MUST_USE;
/* Write or replace the entry of host in that file (0600, by rename); other entries stay. */
int registry_auth_save(const char *host, const char *user, const char *password, struct err *e) MUST_USE;
/* Remove it. 1: there was none. */
int registry_auth_remove(const char *host, struct err *e) MUST_USE;

/* "Basic ..." for a request, malloc'd; NULL: no memory. */
char *registry_auth_basic(const struct registry_credentials *c);

#endif
