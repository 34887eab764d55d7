/* HTTP requests side by side, by libcurl: with limits on everything that a server sends, repeated with back-off where
 * that may help. Redirects are followed; what authorizes a request stays with the host that it was meant for (libcurl
 * sees to that). It must not know registries, tokens or images. */
#ifndef IMAGE_REGISTRY_HTTP_H
#define IMAGE_REGISTRY_HTTP_H

#define CURL_DISABLE_TYPECHECK /* its macros are in the way of functions in a table */
#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"

#define HTTP_URL_MAX 8192
#define HTTP_ERROR_BODY_MAX 65536

struct http_client;

struct http_config {
    bool tls_verify;      /* false: certificates are not checked, and http is spoken where https is not */
    const char *cert_dir; /* *.crt: more authorities; NAME.cert with NAME.key: ours. May be NULL or missing */
    unsigned timeout_s;   /* without a byte from the server; 0: 60 */
    /* Called ten times a second while requests run; false: stop (-ECANCELED). May be NULL. */
    bool (*step)(void *opaque);
    void *opaque;
};

/* Borrows cert_dir for the time of the call, step's opaque until http_client_free. -errno with text. */
int http_client_new(const struct http_config *config, struct http_client **ret_client, struct err *e) MUST_USE;
void http_client_free(struct http_client *c);

/* What `done` wants of its job. */
enum http_verdict { HTTP_FINISHED, HTTP_AGAIN };

/* One request, perhaps sent several times. */
struct http_job {
    /* The caller's. Strings are borrowed until the job is finished. */
    const char *method; /* GET, HEAD, POST, PUT, PATCH, DELETE */
    char url[HTTP_URL_MAX];
    const char *accept, *content_type; /* NULL: none */
    char *authorization;               /* value of the header; NULL: none; owned: free()d by http_job_done */
    uint64_t from;                     /* > 0: ask for the bytes from here on */
    const void *body;                  /* sent with POST, PUT and PATCH: body_len bytes of memory, */
    int body_fd;                       /* or of this file (>= 0) from body_at on */
    uint64_t body_at, body_len;
    bool http_allowed; /* redirects may lead to http */
    /* Bytes of the answer (status 200 or 206 alone). -errno ends the job with job->e, which it fills. */
    int (*sink)(struct http_job *job, const void *data, size_t len);
    /* An answer has come in whole, or the try failed (job->result). An enum http_verdict, or -errno with job->e. With
     * HTTP_AGAIN it is sent again after wait_ns, with what was changed in the job meanwhile. */
    int (*done)(struct http_job *job);
    void (*moved)(struct http_job *job); /* some of the body was sent (sent); NULL: nobody wants to know */
    void *opaque;
    uint64_t wait_ns; /* also before the first try */

    /* The answer's. */
    CURLcode result;
    int error; /* of the sink */
    long status;
    char location[HTTP_URL_MAX], challenge[2048], type[256], digest[72], last_url[HTTP_URL_MAX];
    uint64_t length; /* Content-Length; UINT64_MAX: not said */
    uint64_t range_from, retry_after_s;
    uint64_t received; /* bytes given to the sink in this try */
    uint64_t sent;
    struct buf error_body; /* what came with another status */
    unsigned tries;        /* how often it was sent */
    char curl_error[CURL_ERROR_SIZE];
    struct err e;

    /* http.c's. */
    const struct http_lib *lib; /* while it has been sent once */
    CURL *easy;
    struct curl_slist *headers;
    uint64_t not_before_ns;
    int state;
};

/* Zeroes, and body_fd -1. Ended by http_job_done. */
void http_job_init(struct http_job *job, const char *method);
void http_job_done(struct http_job *job);

/* Run n jobs, at most `parallel` at a time, until all are finished; the first that fails stops the others, and its
 * error is returned in e. `done` may run jobs of its own by another client. */
int http_run(struct http_client *c, struct http_job **jobs, size_t n, size_t parallel, struct err *e) MUST_USE;

/* After a failed try: whether it is worth another, because the network or the server may be better soon. */
bool http_job_is_transient(const struct http_job *job);
/* After a failed try: the server does not speak TLS on this port. */
bool http_job_is_plain(const struct http_job *job);
/* The pause before the next try: from 0.3 s doubling to 15 s, or what the server asked for (at most 60 s). */
uint64_t http_job_backoff_ns(const struct http_job *job, unsigned failures);
/* Why the try failed, in words, from libcurl, the status and the server's own message. */
void http_job_reason(const struct http_job *job, char *ret, size_t size);
/* The errno for it: ETIMEDOUT, EACCES, ENOENT, EIO, ... */
int http_job_errno(const struct http_job *job);

#endif
