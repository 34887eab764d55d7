/* A session with one repository of a registry (OCI distribution specification, also Docker's): https where it is
 * spoken, tokens fetched as the server asks, retries. Blobs and manifests go from here into the store by
 * registry_pull.h, and out by registry_push.h. */
#ifndef IMAGE_REGISTRY_H
#define IMAGE_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "image/registry_ref.h"

/* How to speak to it; all optional. Borrowed until registry_close. */
struct registry_config {
    bool insecure;               /* do not check certificates, and speak http where the server speaks nothing else */
    const char *cert_dir;        /* NULL: /etc/containers/certs.d/HOST, then /etc/docker/certs.d/HOST */
    const char *user, *password; /* NULL: from the files of registry_auth.h */
    unsigned timeout_s;          /* of silence; 0: 60 */
    /* done and total bytes of what is being transferred; ten times a second. false: stop (-ECANCELED). May be NULL. */
    bool (*step)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

struct registry;

/* Reach the host and find out how it is spoken to. repository "": for registry_login only. push: ask for the right to
 * write as well. -EHOSTUNREACH, -ETIMEDOUT, -EACCES, -EPROTO (no registry there), ... with text. */
int registry_open(const char *host, const char *repository, bool push, const struct registry_config *config,
                  struct registry **ret_registry, struct err *e) MUST_USE;
void registry_close(struct registry *r);
DEFINE_AUTO(registry, struct registry, registry_close)

/* Whether the server accepts these credentials. -EACCES: no. */
int registry_login(const char *host, const struct registry_config *config, struct err *e) MUST_USE;

#endif
