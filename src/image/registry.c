#include "image/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/registry_priv.h"
#include "wire/oci_image.h"

#define REGISTRY_BODY_MAX (1U << 20)

/* ---- requests that repeat themselves ---- */

bool registry_step(void *opaque)
{
    struct registry *r = opaque;

    return !r->config.step || r->config.step(r->config.opaque, r->done_bytes, r->total_bytes);
}

static int job_take_authorization(struct registry_job *job)
{
    struct registry *r = job->registry;

    job->authorization_serial = r->authorization_serial;
    if (job->http.authorization)
        explicit_bzero(job->http.authorization, strlen(job->http.authorization));
    free(job->http.authorization);
    job->http.authorization = NULL;
    if (!r->authorization || job->foreign)
        return 0;
    job->http.authorization = strdup(r->authorization);
    return job->http.authorization ? 0 : -ENOMEM;
}

int registry_job_init(struct registry_job *job, struct registry *r, const char *method, const char *path, struct err *e)
{
    bool whole = strncmp(path, "http:", 5) == 0 || strncmp(path, "https:", 6) == 0;
    int n;

    *job = (struct registry_job){ .registry = r, .verb = "fetch" };
    http_job_init(&job->http, method);
    job->http.http_allowed = r->http_allowed && strncmp(r->base, "http:", 5) == 0;
    job->http.done = registry_job_verdict;
    job->http.opaque = job;
    n = snprintf(job->http.url, sizeof(job->http.url), "%s%s", whole ? "" : r->base, path);
    if (n >= (int)sizeof(job->http.url))
        return err_set(e, ENAMETOOLONG, "registry %s: an address of more than %zu bytes", r->host,
                       sizeof(job->http.url));
    if (job_take_authorization(job) < 0)
        return err_set(e, ENOMEM, "out of memory");
    return 0;
}

void registry_job_done(struct registry_job *job)
{
    http_job_done(&job->http);
}

int registry_fail_auth(struct registry *r, const char *why, struct err *e)
{
    return err_set(e, EACCES, "registry %s: %s; log in with 'caisson image login %s', or check the name", r->host, why,
                   r->host);
}

static int job_fail(struct registry_job *job)
{
    const struct registry *r = job->registry;
    int code = http_job_errno(&job->http);
    char reason[512];

    http_job_reason(&job->http, reason, sizeof(reason));
    if (code == EACCES)
        return err_set(&job->http.e, code, "cannot %s %s: %s; log in with 'caisson image login %s', or check the name",
                       job->verb, job->what, reason, r->host);
    return err_set(&job->http.e, code, "cannot %s %s: %.250s; %s", job->verb, job->what, reason,
                   code == ENOENT ? "check the name and the tag" : "check the network and the server, then try again");
}

static int job_again(struct registry_job *job, uint64_t wait_ns)
{
    if (job_take_authorization(job) < 0)
        return err_set(&job->http.e, ENOMEM, "out of memory");
    job->http.wait_ns = wait_ns;
    return HTTP_AGAIN;
}

/* The server wants to know who asks. */
static int job_unauthorized(struct registry_job *job)
{
    struct registry *r = job->registry;
    struct registry_challenge challenge;
    int rc;

    if (job->progress > job->authorized) { /* what it was given did once; it has run out */
        job->authorized = job->progress;
        job->auth_tries = 0;
    }
    if (job->auth_tries++ >= 2)
        return job_fail(job);
    if (job->authorization_serial != r->authorization_serial)
        return job_again(job, 0); /* another request has renewed it meanwhile */
    if (registry_challenge_parse(job->http.challenge, &challenge) < 0)
        return job_fail(job);
    rc = registry_authenticate(r, &challenge, &job->http.e);
    return rc < 0 ? rc : job_again(job, 0);
}

static bool job_may_repeat(struct registry_job *job)
{
    if (job->progress > job->best) { /* it gets on */
        job->failures = 0;
        job->best = job->progress;
    }
    return ++job->failures < REGISTRY_FAILURES_MAX && job->http.tries < REGISTRY_TRIES_MAX && job->registry->reached;
}

int registry_job_retry(struct registry_job *job, int code, const char *why)
{
    if (job_may_repeat(job))
        return job_again(job, http_job_backoff_ns(&job->http, job->failures - 1));
    return err_set(&job->http.e, code, "cannot %s %s: %s; try again later, or ask whoever runs the registry", job->verb,
                   job->what, why);
}

int registry_job_verdict(struct http_job *http)
{
    struct registry_job *job = http->opaque;

    if (http->error < 0) /* the disk or the answer: not the network */
        return http->e.code ? -http->e.code : job_fail(job);
    if (http->result == CURLE_OK && http->status >= 200 && http->status < 300)
        return HTTP_FINISHED;
    if (http->result == CURLE_OK && http->status == 401)
        return job_unauthorized(job);
    if (http_job_is_transient(http) && job_may_repeat(job))
        return job_again(job, http_job_backoff_ns(http, job->failures - 1));
    return job_fail(job);
}

int registry_job_run(struct registry_job *job, struct err *e)
{
    struct http_job *http = &job->http;

    return http_run(job->registry->client, &http, 1, 1, e);
}

int registry_body_sink(struct http_job *http, const void *data, size_t len)
{
    struct registry_body *body = CONTAINER_OF(http, struct registry_body, job.http);

    if (http->received == 0) /* an earlier try may have left something */
        body->data.len = 0;
    buf_append(&body->data, data, len);
    if (buf_error(&body->data) == -E2BIG)
        return err_set(&http->e, EFBIG,
                       "%s is larger than %zu KiB, which none should be; ask whoever runs the registry", body->job.what,
                       body->data.max >> 10);
    return buf_error(&body->data) < 0 ? err_set(&http->e, ENOMEM, "out of memory") : 0;
}

int registry_get(struct registry *r, const char *path, const char *what, const char *accept, struct buf *ret_body,
                 char *ret_type, char *ret_digest, struct err *e)
{
    AUTO_FREE struct registry_body *body = calloc(1, sizeof(*body));
    int rc;

    if (!body)
        return err_set(e, ENOMEM, "out of memory");
    rc = registry_job_init(&body->job, r, "GET", path, e);
    buf_init(&body->data, ret_body->max);
    if (rc == 0) {
        snprintf(body->job.what, sizeof(body->job.what), "%s", what);
        body->job.http.accept = accept;
        body->job.http.sink = registry_body_sink;
        rc = registry_job_run(&body->job, e);
    }
    if (rc == 0) {
        if (ret_type)
            snprintf(ret_type, 128, "%.*s", (int)MIN(strcspn(body->job.http.type, "; "), 127u), body->job.http.type);
        if (ret_digest)
            snprintf(ret_digest, REGISTRY_DIGEST_MAX, "%s",
                     oci_digest_ok(body->job.http.digest) ? body->job.http.digest : "");
        *ret_body = body->data;
    } else {
        buf_done(&body->data);
    }
    registry_job_done(&body->job);
    return rc;
}

/* ---- reaching the host ---- */

static int ping_verdict(struct http_job *http)
{
    struct registry_job *job = http->opaque;

    if (http->result == CURLE_OK && (http->status == 200 || http->status == 401))
        return HTTP_FINISHED;
    if (http->result == CURLE_OK && http_job_is_transient(http) && ++job->failures < REGISTRY_FAILURES_MAX) {
        http->wait_ns = http_job_backoff_ns(http, job->failures - 1);
        return HTTP_AGAIN;
    }
    return http->result == CURLE_OK ? -EPROTO : -http_job_errno(http);
}

static int ping_fail(const struct registry_job *job, struct err *e)
{
    const struct http_job *http = &job->http;
    const char *remedy = "check the name and the network";
    char reason[300];

    http_job_reason(http, reason, sizeof(reason));
    if (http->result == CURLE_PEER_FAILED_VERIFICATION)
        remedy = "put its authority's certificate into /etc/containers/certs.d, or give --tls-verify false";
    else if (http_job_is_plain(http) && http->result != CURLE_COULDNT_CONNECT)
        remedy = "if it speaks http only, give --tls-verify false";
    else if (http->result == CURLE_OK)
        remedy = "check the name: this is no registry";
    return err_set(e, http->result == CURLE_OK ? EPROTO : http_job_errno(http), "cannot reach registry %s: %s; %s",
                   job->registry->host, reason, remedy);
}

/* Try one way to speak to it. 1: it does not speak TLS. */
static int registry_ping_by(struct registry *r, const char *scheme, char challenge[2048], struct err *e)
{
    const char *host = strcmp(r->host, REGISTRY_DEFAULT_HOST) == 0 ? "registry-1.docker.io" : r->host;
    AUTO_FREE struct registry_job *job = malloc(sizeof(*job));
    int rc;

    if (!job)
        return err_set(e, ENOMEM, "out of memory");
    snprintf(r->base, sizeof(r->base), "%s://%s", scheme, host);
    rc = registry_job_init(job, r, "GET", "/v2/", e);
    job->http.done = ping_verdict;
    if (rc == 0) {
        rc = registry_job_run(job, e);
        if (rc == 0)
            snprintf(challenge, 2048, "%s", job->http.status == 401 ? job->http.challenge : "");
        else if (rc != -ECANCELED && r->http_allowed && http_job_is_plain(&job->http))
            rc = 1;
        else if (rc != -ECANCELED)
            rc = ping_fail(job, e);
    }
    registry_job_done(job);
    return rc;
}

static int registry_ping(struct registry *r, struct err *e)
{
    struct registry_challenge challenge;
    char header[2048] = "";
    int rc = registry_ping_by(r, "https", header, e);

    if (rc == 1)
        rc = registry_ping_by(r, "http", header, e);
    if (rc < 0)
        return rc;
    r->reached = true;
    if (!header[0])
        return 0;
    if (registry_challenge_parse(header, &challenge) < 0)
        return err_set(e, EPROTO, "registry %s wants a kind of login that Caisson does not know: %.200s", r->host,
                       header);
    return registry_authenticate(r, &challenge, e);
}

const char *registry_cert_dir(const struct registry *r, char ret[SYS_DIR_MAX])
{
    static const char *const places[] = { "", "/etc/containers/certs.d", "/etc/docker/certs.d" };
    const char *home = getenv("HOME");

    if (r->config.cert_dir)
        return r->config.cert_dir;
    for (size_t i = home && home[0] ? 0 : 1; i < ARRAY_SIZE(places); i++) {
        int n = i == 0 ? snprintf(ret, SYS_DIR_MAX, "%s/.config/containers/certs.d/%s", home, r->host)
                       : snprintf(ret, SYS_DIR_MAX, "%s/%s", places[i], r->host);

        if (n < SYS_DIR_MAX && access(ret, R_OK | X_OK) == 0)
            return ret;
    }
    return NULL;
}

static int registry_set_credentials(struct registry *r, struct err *e)
{
    if (!r->config.user)
        return registry_auth_find(r->host, r->repository, &r->credentials, e);
    r->credentials.user = strdup(r->config.user);
    r->credentials.password = strdup(r->config.password ? r->config.password : "");
    return r->credentials.user && r->credentials.password ? 0 : err_set(e, ENOMEM, "out of memory");
}

int registry_open(const char *host, const char *repository, bool push, const struct registry_config *config,
                  struct registry **ret_registry, struct err *e)
{
    AUTO(registry) struct registry *r = calloc(1, sizeof(*r));
    char dir[SYS_DIR_MAX];
    struct http_config http = { 0 };
    int rc;

    if (!r)
        return err_set(e, ENOMEM, "out of memory");
    r->config = *config;
    r->push = push;
    r->http_allowed = config->insecure || registry_host_is_loopback(host);
    snprintf(r->host, sizeof(r->host), "%s", host);
    snprintf(r->repository, sizeof(r->repository), "%s", repository);
    rc = registry_set_credentials(r, e);
    http.tls_verify = !config->insecure;
    http.cert_dir = registry_cert_dir(r, dir);
    http.timeout_s = config->timeout_s;
    http.step = registry_step;
    http.opaque = r;
    if (rc == 0)
        rc = http_client_new(&http, &r->client, e);
    if (rc == 0)
        rc = registry_ping(r, e);
    if (rc == 0)
        *ret_registry = STEAL(r);
    return rc;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    http_client_free(r->client);
    registry_credentials_done(&r->credentials);
    if (r->authorization)
        explicit_bzero(r->authorization, strlen(r->authorization));
    free(r->authorization);
    free(r);
}

int registry_login(const char *host, const struct registry_config *config, struct err *e)
{
    AUTO(registry) struct registry *r = NULL;
    struct buf body;
    int rc = registry_open(host, "", false, config, &r, e);

    if (rc < 0)
        return rc;
    buf_init(&body, REGISTRY_BODY_MAX);
    rc = registry_get(r, "/v2/", "the answer to the login", NULL, &body, NULL, NULL, e);
    if (rc == 0)
        buf_done(&body);
    if (rc == -EACCES)
        rc = err_set(e, EACCES, "registry %s refuses the user name or the password; check them", host);
    return rc;
}
