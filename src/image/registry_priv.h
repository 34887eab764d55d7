/* Shared by the files of the registry client. */
#ifndef IMAGE_REGISTRY_PRIV_H
#define IMAGE_REGISTRY_PRIV_H

#include "image/registry.h"
#include "image/registry_auth.h"
#include "image/registry_http.h"
#include "sys/dirs.h"

#define REGISTRY_MANIFEST_MAX (4U << 20) /* what the specification asks registries to accept */
#define REGISTRY_PARALLEL 6
#define REGISTRY_FAILURES_MAX 5 /* in a row, without a byte between them */
#define REGISTRY_TRIES_MAX 60   /* of one request at all */

#define REGISTRY_TYPE_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define REGISTRY_TYPE_OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define REGISTRY_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define REGISTRY_TYPE_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"

struct registry {
    struct registry_config config;
    char host[REGISTRY_HOST_MAX], repository[REGISTRY_REPOSITORY_MAX];
    char base[REGISTRY_HOST_MAX + 16]; /* "https://registry-1.docker.io" */
    bool push, http_allowed, reached;
    struct registry_credentials credentials;
    char *authorization; /* of requests; NULL: none needed so far */
    uint64_t authorization_serial;
    struct http_client *client;
    uint64_t done_bytes, total_bytes; /* for step */
};

/* A request that authenticates and repeats itself. */
struct registry_job {
    struct http_job http;
    struct registry *registry;
    char what[160];   /* "layer sha256:... of HOST/NAME", for errors */
    const char *verb; /* "fetch", "send" */
    unsigned failures, auth_tries;
    bool foreign; /* the address is of another host: nothing that authorizes goes there */
    uint64_t authorization_serial;
    uint64_t progress,
        best,       /* bytes that stay whatever happens; the owner's measure. Failures are forgotten with more */
        authorized; /* and refusals: the progress at the last one */
};

/* Prepare: method and path ("/v2/..." or a whole URL). The http job's done is registry_job_verdict, its opaque the job;
 * the caller may put others there. -ENAMETOOLONG, -ENOMEM with text. */
int registry_job_init(struct registry_job *job, struct registry *r, const char *method, const char *path,
                      struct err *e) MUST_USE;
void registry_job_done(struct registry_job *job);
/* What to do after a try: HTTP_FINISHED where the status is 2xx, HTTP_AGAIN (with a token, or after a pause), or a
 * failure with text in http.e. */
int registry_job_verdict(struct http_job *http);
/* Fail the job, or try it once more after a pause: the owner found that an answer was cut short or wrong. */
int registry_job_retry(struct registry_job *job, int code, const char *why);
/* Run one. */
int registry_job_run(struct registry_job *job, struct err *e) MUST_USE;

/* A request whose answer is collected: registry_body_sink as its sink. data: initialised with its limit. */
struct registry_body {
    struct registry_job job;
    struct buf data;
};
int registry_body_sink(struct http_job *http, const void *data, size_t len);

/* GET path whole. accept may be NULL. ret_body: initialised by the caller with its limit. type (128 bytes) and digest
 * (REGISTRY_DIGEST_MAX) may be NULL: what the server says, unverified. */
int registry_get(struct registry *r, const char *path, const char *what, const char *accept, struct buf *ret_body,
                 char *ret_type, char *ret_digest, struct err *e) MUST_USE;
/* Get a token or put together what Basic needs, as challenge asks. */
int registry_authenticate(struct registry *r, const struct registry_challenge *challenge, struct err *e) MUST_USE;
/* The folder with certificates for the registry, its token server included; NULL: none. ret: room for its name. */
const char *registry_cert_dir(const struct registry *r, char ret[SYS_DIR_MAX]);
/* Where the error's remedy is to log in. */
int registry_fail_auth(struct registry *r, const char *why, struct err *e);

/* The session's step for a client. */
bool registry_step(void *opaque);

#endif
