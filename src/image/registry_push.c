/* Sending an image: each blob is asked for (HEAD), announced (POST) and sent in one piece (PUT), several side by side;
 * the manifest is the last, so that nobody sees half an image. Spec: distribution-spec, "Pushing". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_priv.h"
#include "image/registry_http_priv.h"
#include "image/registry_priv.h"
#include "image/registry_pull.h"
#include "wire/oci_image.h"

enum push_step { PUSH_ASK, PUSH_ANNOUNCE, PUSH_SEND };

struct push_blob {
    struct registry_job job;
    enum push_step step;
    char digest[IMAGE_DIGEST_MAX];
    char ask_url[REGISTRY_REPOSITORY_MAX + REGISTRY_HOST_MAX + 160];
    uint64_t size, counted; /* counted: what of it is in the session's done_bytes */
    int fd;
};

static int push_to(struct push_blob *b, enum push_step step, const char *method, const char *url)
{
    struct http_job *http = &b->job.http;

    b->step = step;
    http->method = method;
    snprintf(http->url, sizeof(http->url), "%s", url);
    http->body_fd = step == PUSH_SEND ? b->fd : -1;
    http->body_len = step == PUSH_SEND ? b->size : 0;
    http->content_type = step == PUSH_SEND ? "application/octet-stream" : NULL;
    http->wait_ns = 0;
    return HTTP_AGAIN;
}

static int push_announce(struct push_blob *b)
{
    const struct registry *r = b->job.registry;
    char url[REGISTRY_REPOSITORY_MAX + REGISTRY_HOST_MAX + 64];

    b->job.foreign = false;
    snprintf(url, sizeof(url), "%s/v2/%s/blobs/uploads/", r->base, r->repository);
    return push_to(b, PUSH_ANNOUNCE, "POST", url);
}

/* Same scheme, host and port. */
static bool push_same_origin(const struct http_lib *lib, CURLU *a, CURLU *b)
{
    static const CURLUPart parts[] = { CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT };
    bool same = true;

    for (size_t i = 0; i < ARRAY_SIZE(parts) && same; i++) {
        char *x = NULL, *y = NULL;

        same = lib->curl_url_get(a, parts[i], &x, CURLU_DEFAULT_PORT) == CURLUE_OK &&
               lib->curl_url_get(b, parts[i], &y, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(x, y) == 0;
        lib->curl_free(x);
        lib->curl_free(y);
    }
    return same;
}

/* The address to send to: where the server says, with the digest. -EPROTO. */
static int push_location(struct push_blob *b, char *ret_url, size_t size)
{
    const struct http_lib *lib = b->job.http.lib;
    CURLU *from = lib->curl_url(), *to = lib->curl_url();
    char query[IMAGE_DIGEST_MAX + 8], *url = NULL;
    int r = -EPROTO;

    snprintf(query, sizeof(query), "digest=%s", b->digest);
    if (from && to && lib->curl_url_set(from, CURLUPART_URL, b->job.http.url, 0) == CURLUE_OK &&
        lib->curl_url_set(to, CURLUPART_URL, b->job.http.url, 0) == CURLUE_OK && b->job.http.location[0] &&
        lib->curl_url_set(to, CURLUPART_URL, b->job.http.location, 0) == CURLUE_OK &&
        lib->curl_url_set(to, CURLUPART_QUERY, query, CURLU_APPENDQUERY) == CURLUE_OK &&
        lib->curl_url_get(to, CURLUPART_URL, &url, 0) == CURLUE_OK && strlen(url) < size &&
        (strncmp(url, "https:", 6) == 0 || b->job.http.http_allowed)) {
        snprintf(ret_url, size, "%s", url);
        b->job.foreign = !push_same_origin(lib, from, to);
        r = 0;
    }
    lib->curl_free(url);
    lib->curl_url_cleanup(from);
    lib->curl_url_cleanup(to);
    return r;
}

static int push_send(struct push_blob *b)
{
    AUTO_FREE char *url = malloc(HTTP_URL_MAX);
    struct http_job *http = &b->job.http;

    if (!url)
        return err_set(&http->e, ENOMEM, "out of memory");
    if (push_location(b, url, HTTP_URL_MAX) < 0)
        return err_set(&http->e, EPROTO, "cannot send %s: the server did not say where to; ask whoever runs it",
                       b->job.what);
    if (b->job.foreign) { /* whoever that is, he is not to have our token */
        free(http->authorization);
        http->authorization = NULL;
    }
    return push_to(b, PUSH_SEND, "PUT", url);
}

static void push_count(struct push_blob *b, uint64_t now)
{
    b->job.registry->done_bytes += now - b->counted;
    b->counted = now;
}

static void push_moved(struct http_job *http)
{
    struct push_blob *b = CONTAINER_OF(http, struct push_blob, job.http);

    if (b->step == PUSH_SEND)
        push_count(b, http->sent);
}

static int push_verdict(struct http_job *http)
{
    struct push_blob *b = CONTAINER_OF(http, struct push_blob, job.http);
    int r;

    if (b->step == PUSH_ASK && http->result == CURLE_OK && http->status == 404)
        return push_announce(b);
    r = registry_job_verdict(http);
    if (r == HTTP_AGAIN && b->step == PUSH_SEND && http->status != 401) {
        uint64_t wait_ns = http->wait_ns;

        push_count(b, 0);
        push_announce(b); /* an upload that broke off is given up by the server */
        http->wait_ns = wait_ns;
    }
    if (r != HTTP_FINISHED)
        return r;
    if (b->step == PUSH_ANNOUNCE)
        return push_send(b);
    push_count(b, b->size);
    return r;
}

static int push_blob_begin(struct push_blob *b, struct registry *r, struct image_add *a, const struct oci_descriptor *d,
                           struct err *e)
{
    char path[REGISTRY_REPOSITORY_MAX + 128];
    uint64_t size = 0;
    int rc;

    snprintf(path, sizeof(path), "/v2/%s/blobs/%s", r->repository, d->digest);
    rc = registry_job_init(&b->job, r, "HEAD", path, e);
    if (rc < 0)
        return rc;
    b->job.verb = "send";
    b->job.http.done = push_verdict;
    b->job.http.moved = push_moved;
    snprintf(b->job.what, sizeof(b->job.what), "blob %.19s of %.100s", d->digest, r->repository);
    snprintf(b->digest, sizeof(b->digest), "%s", d->digest);
    b->size = d->size;
    b->fd = image_blob_open(a, d->digest, &size, e);
    if (b->fd < 0)
        return b->fd;
    return size == d->size ? 0
                           : err_set(e, EIO,
                                     "blob %s of the image store has %llu bytes instead of %llu; pull the "
                                     "image again",
                                     d->digest, (unsigned long long)size, (unsigned long long)d->size);
}

static int push_blobs(struct registry *r, struct image_add *a, const struct oci_image *m, struct err *e)
{
    size_t n = m->n_layers + 1, ready = 0;
    AUTO_FREE struct push_blob *blobs = calloc(n, sizeof(*blobs));
    AUTO_FREE struct http_job **jobs = calloc(n, sizeof(*jobs));
    int rc = 0;

    if (!blobs || !jobs)
        return err_set(e, ENOMEM, "out of memory");
    for (; ready < n && rc == 0; ready++) {
        const struct oci_descriptor *d = ready == 0 ? &m->config : &m->layers[ready - 1];

        blobs[ready].fd = -1;
        rc = push_blob_begin(&blobs[ready], r, a, d, e);
        jobs[ready] = &blobs[ready].job.http;
        r->total_bytes += d->size;
    }
    if (rc == 0)
        rc = http_run(r->client, jobs, n, REGISTRY_PARALLEL, e);
    for (size_t i = 0; i < ready; i++) {
        if (blobs[i].fd >= 0)
            close(blobs[i].fd);
        registry_job_done(&blobs[i].job);
    }
    return rc;
}

static int push_manifest(struct registry *r, const struct registry_ref *ref, const char *digest, const struct buf *text,
                         const char *type, struct err *e)
{
    AUTO_FREE struct registry_job *job = malloc(sizeof(*job));
    char path[REGISTRY_REPOSITORY_MAX + 256];
    int rc;

    if (!job)
        return err_set(e, ENOMEM, "out of memory");
    snprintf(path, sizeof(path), "/v2/%s/manifests/%s", r->repository, ref->tag[0] ? ref->tag : digest);
    rc = registry_job_init(job, r, "PUT", path, e);
    job->verb = "send";
    job->http.content_type = type;
    job->http.body = text->data;
    job->http.body_len = text->len;
    snprintf(job->what, sizeof(job->what), "the manifest of %.140s", r->repository);
    if (rc == 0)
        rc = registry_job_run(job, e);
    registry_job_done(job);
    return rc;
}

int image_push(struct store *s, const struct image_push_config *config, char ret_digest[IMAGE_DIGEST_MAX],
               struct err *e)
{
    AUTO(registry) struct registry *r = NULL;
    AUTO(image_add) struct image_add *a = NULL;
    struct image_documents d = { 0 };
    struct buf text = { 0 };
    struct image image = { 0 };
    struct registry_ref ref;
    int rc = image_get(s, config->image, &image, e);

    if (rc == 0 && !config->destination && image.n_names == 0)
        rc = err_set(e, EINVAL, "image %s has no name; say where to push it: HOST/NAME:TAG", config->image);
    if (rc == 0)
        rc = registry_ref_parse(config->destination ? config->destination : image.names[0], &ref, e);
    if (rc == 0 && !config->destination && strcmp(ref.host, "localhost") == 0)
        rc = err_set(e, EINVAL, "image %s was made here; say where to push it: HOST/NAME:TAG", config->image);
    if (rc == 0)
        rc = image_add_begin(s, &a, e);
    if (rc == 0)
        rc = image_documents_read(&a->place, image.manifest, &d, e);
    if (rc == 0)
        rc = image_place_document(&a->place, image.manifest, &text, e);
    if (rc == 0)
        rc = registry_open(ref.host, ref.repository, true, &config->registry, &r, e);
    if (rc == 0)
        rc = push_blobs(r, a, &d.manifest, e);
    if (rc == 0)
        rc = push_manifest(r, &ref, image.manifest, &text,
                           d.manifest.media_type ? d.manifest.media_type : REGISTRY_TYPE_OCI_MANIFEST, e);
    if (rc == 0)
        snprintf(ret_digest, IMAGE_DIGEST_MAX, "%s", image.manifest);
    buf_done(&text);
    image_documents_done(&d);
    image_done(&image);
    return rc;
}
