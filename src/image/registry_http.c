#include "image/registry_http.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/num.h"
#include "image/registry_http_priv.h"

#define HTTP_SECOND 1000000000ULL
#define HTTP_POLL_MS 100
#define HTTP_CONNECT_S 30
#define HTTP_REDIRECTS 10
#define HTTP_CERTS_MAX (8U << 20)
#define HTTP_BODY_CHUNK 65536

enum { HTTP_WAITING, HTTP_RUNNING, HTTP_OVER };

uint64_t http_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * HTTP_SECOND + (uint64_t)ts.tv_nsec;
}

/* ---- the client ---- */

/* Append a file of certificates; unreadable ones are skipped, as other tools do. */
static void http_add_certificates(struct buf *b, const char *path)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd >= 0 && fd_read_all(fd, b) == 0)
        buf_append(b, "\n", 1);
}

static bool http_has_ending(const char *name, const char *ending)
{
    size_t len = strlen(name), n = strlen(ending);

    return len > n && strcmp(name + len - n, ending) == 0;
}

/* The system's authorities and those of the folder, as one blob: libcurl takes one or the other. */
static int http_load_certificates(struct http_client *c, const char *folder, struct err *e)
{
    DIR *dir = folder ? opendir(folder) : NULL;
    const struct dirent *entry;
    bool more = false;

    if (!dir)
        return 0;
    http_add_certificates(&c->authorities, "/etc/ssl/certs/ca-certificates.crt");
    while ((entry = readdir(dir))) {
        char path[4096];

        if (snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >= (int)sizeof(path))
            continue;
        if (http_has_ending(path, ".crt")) {
            http_add_certificates(&c->authorities, path);
            more = true;
        } else if (http_has_ending(path, ".cert") && !c->cert) {
            c->cert = strdup(path);
            snprintf(path + strlen(path) - 5, 5, ".key");
            c->key = strdup(path);
        }
    }
    closedir(dir);
    if (buf_error(&c->authorities) < 0 || (c->cert && !c->key))
        return err_set(e, ENOMEM, "certificates in %s: more than %u MiB, or out of memory", folder,
                       HTTP_CERTS_MAX >> 20);
    c->use_authorities = more;
    return 0;
}

int http_client_new(const struct http_config *config, struct http_client **ret_client, struct err *e)
{
    AUTO(http_client) struct http_client *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return err_set(e, ENOMEM, "out of memory");
    c->config = *config;
    c->config.cert_dir = NULL;
    buf_init(&c->authorities, HTTP_CERTS_MAX);
    if (c->config.timeout_s == 0)
        c->config.timeout_s = 60;
    c->lib = http_lib_get(e);
    if (!c->lib)
        return -ENOENT;
    c->multi = c->lib->curl_multi_init();
    if (!c->multi)
        return err_set(e, ENOMEM, "out of memory");
    r = http_load_certificates(c, config->cert_dir, e);
    if (r == 0)
        *ret_client = STEAL(c);
    return r;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    if (c->multi)
        c->lib->curl_multi_cleanup(c->multi);
    buf_done(&c->authorities);
    free(c->cert);
    free(c->key);
    free(c);
}

void http_job_init(struct http_job *job, const char *method)
{
    *job = (struct http_job){ .method = method, .body_fd = -1 };
}

void http_job_done(struct http_job *job)
{
    if (job->easy) {
        job->lib->curl_easy_cleanup(job->easy);
        job->lib->curl_slist_free_all(job->headers);
    }
    buf_done(&job->error_body);
    if (job->authorization)
        explicit_bzero(job->authorization, strlen(job->authorization));
    free(job->authorization);
    job->easy = NULL;
    job->headers = NULL;
    job->authorization = NULL;
}

/* ---- what libcurl calls ---- */

static void http_take_header(const char *line, size_t len, const char *name, char *ret, size_t size)
{
    size_t n = strlen(name);

    if (len <= n || strncasecmp(line, name, n) != 0)
        return;
    for (line += n, len -= n; len > 0 && (*line == ' ' || *line == '\t'); line++, len--)
        ;
    while (len > 0 && isspace((unsigned char)line[len - 1]))
        len--;
    if (len >= size || memchr(line, '\0', len))
        return; /* longer than anything sensible: as if it were not there */
    memcpy(ret, line, len);
    ret[len] = '\0';
}

/* The first byte of "bytes FROM-TO/ALL". */
static void http_take_range(const char *line, size_t len, uint64_t *ret)
{
    char text[128] = "", *dash;

    http_take_header(line, len, "Content-Range: bytes ", text, sizeof(text));
    dash = strchr(text, '-');
    if (dash) {
        *dash = '\0';
        if (num_parse_u64(text, 0, INT64_MAX, ret) < 0)
            *ret = UINT64_MAX;
    }
}

static size_t http_on_header(char *line, size_t one, size_t len, void *opaque)
{
    struct http_job *job = opaque;
    char number[32] = "", challenge[2048] = "";

    if (len > 5 && memcmp(line, "HTTP/", 5) == 0) { /* the next answer: after a redirect, or 100 Continue */
        job->challenge[0] = job->type[0] = job->digest[0] = job->location[0] = '\0';
        job->range_from = UINT64_MAX;
        job->retry_after_s = 0;
    }
    http_take_header(line, len, "Location:", job->location, sizeof(job->location));
    http_take_header(line, len, "Content-Type:", job->type, sizeof(job->type));
    http_take_header(line, len, "Docker-Content-Digest:", job->digest, sizeof(job->digest));
    http_take_range(line, len, &job->range_from);
    http_take_header(line, len, "Retry-After:", number, sizeof(number));
    if (number[0] && num_parse_u64(number, 0, 86400, &job->retry_after_s) < 0)
        job->retry_after_s = 0;
    http_take_header(line, len, "WWW-Authenticate:", challenge, sizeof(challenge));
    if (challenge[0] && strlen(job->challenge) + strlen(challenge) + 3 < sizeof(job->challenge)) {
        size_t at = strlen(job->challenge); /* several headers are one list */

        snprintf(job->challenge + at, sizeof(job->challenge) - at, "%s%s", at ? ", " : "", challenge);
    }
    return one * len;
}

static size_t http_on_body(char *data, size_t one, size_t len, void *opaque)
{
    struct http_job *job = opaque;

    if (job->status == 0)
        job->lib->curl_easy_getinfo(job->easy, CURLINFO_RESPONSE_CODE, &job->status);
    if (job->status == 200 || job->status == 206) {
        job->error = job->sink ? job->sink(job, data, len) : 0;
        job->received += len;
        return job->error < 0 ? 0 : one * len;
    }
    if (job->error_body.len + len <= HTTP_ERROR_BODY_MAX)
        buf_append(&job->error_body, data, len);
    return one * len;
}

static size_t http_on_send(char *data, size_t one, size_t room, void *opaque)
{
    struct http_job *job = opaque;
    size_t len = (size_t)MIN((uint64_t)room, job->body_len - job->sent);
    ssize_t n = 0;

    if (job->body_fd >= 0) {
        n = pread(job->body_fd, data, MIN(len, (size_t)HTTP_BODY_CHUNK), (off_t)(job->body_at + job->sent));
        if (n < 0 || (n == 0 && len > 0)) {
            job->error = n < 0 ? -errno : -EIO;
            return CURL_READFUNC_ABORT;
        }
    } else if (len > 0) {
        memcpy(data, (const char *)job->body + job->sent, len);
        n = (ssize_t)len;
    }
    job->sent += (uint64_t)n;
    if (job->moved)
        job->moved(job);
    return (size_t)n;
}

static int http_on_seek(void *opaque, curl_off_t offset, int origin)
{
    struct http_job *job = opaque;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > job->body_len)
        return CURL_SEEKFUNC_FAIL;
    job->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* ---- one try ---- */

static bool http_add_line(struct http_job *job, const char *name, const char *value)
{
    AUTO_FREE char *line = NULL;
    struct curl_slist *list;

    if (!value)
        return true;
    if (asprintf(&line, "%s%s", name, value) < 0) {
        line = NULL;
        return false;
    }
    list = job->lib->curl_slist_append(job->headers, line);
    if (!list)
        return false;
    job->headers = list;
    explicit_bzero(line, strlen(line));
    return true;
}

static void http_set_tls(const struct http_client *c, CURL *easy)
{
    c->lib->curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, c->config.tls_verify ? 1L : 0L);
    c->lib->curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, c->config.tls_verify ? 2L : 0L);
    c->lib->curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (c->use_authorities) {
        struct curl_blob blob = { .data = c->authorities.data, .len = c->authorities.len, .flags = CURL_BLOB_NOCOPY };

        c->lib->curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
    }
    if (c->cert) {
        c->lib->curl_easy_setopt(easy, CURLOPT_SSLCERT, c->cert);
        c->lib->curl_easy_setopt(easy, CURLOPT_SSLKEY, c->key);
    }
}

static void http_set_method(const struct http_client *c, struct http_job *job, CURL *easy)
{
    if (strcmp(job->method, "HEAD") == 0) {
        c->lib->curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (strcmp(job->method, "GET") != 0) {
        c->lib->curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        c->lib->curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, job->method);
        c->lib->curl_easy_setopt(easy, CURLOPT_READFUNCTION, http_on_send);
        c->lib->curl_easy_setopt(easy, CURLOPT_READDATA, job);
        c->lib->curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, http_on_seek);
        c->lib->curl_easy_setopt(easy, CURLOPT_SEEKDATA, job);
        c->lib->curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)job->body_len);
        return; /* where an upload goes on is the registry client's business */
    }
    c->lib->curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
    c->lib->curl_easy_setopt(easy, CURLOPT_MAXREDIRS, (long)HTTP_REDIRECTS);
}

static int http_prepare(const struct http_client *c, struct http_job *job)
{
    const char *protocols = job->http_allowed ? "http,https" : "https";
    CURL *easy = job->easy;
    char range[32];

    c->lib->curl_easy_reset(easy); /* keeps the connections */
    job->lib->curl_slist_free_all(job->headers);
    job->headers = NULL;
    if (!http_add_line(job, "Accept: ", job->accept) || !http_add_line(job, "Content-Type: ", job->content_type) ||
        !http_add_line(job, "Authorization: ", job->authorization) || !http_add_line(job, "Expect:", ""))
        return -ENOMEM;
    c->lib->curl_easy_setopt(easy, CURLOPT_PRIVATE, job);
    c->lib->curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, job->curl_error);
    c->lib->curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, strncmp(job->url, "http:", 5) == 0 ? "http" : "https");
    c->lib->curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, protocols);
    c->lib->curl_easy_setopt(easy, CURLOPT_HTTPHEADER, job->headers);
    c->lib->curl_easy_setopt(easy, CURLOPT_USERAGENT, "caisson/" CAISSON_VERSION);
    c->lib->curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    c->lib->curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)MIN(c->config.timeout_s, (unsigned)HTTP_CONNECT_S));
    c->lib->curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    c->lib->curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)c->config.timeout_s);
    c->lib->curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, http_on_header);
    c->lib->curl_easy_setopt(easy, CURLOPT_HEADERDATA, job);
    c->lib->curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, http_on_body);
    c->lib->curl_easy_setopt(easy, CURLOPT_WRITEDATA, job);
    http_set_tls(c, easy);
    http_set_method(c, job, easy);
    snprintf(range, sizeof(range), "%llu-", (unsigned long long)job->from);
    if (job->from > 0)
        c->lib->curl_easy_setopt(easy, CURLOPT_RANGE, range);
    return c->lib->curl_easy_setopt(easy, CURLOPT_URL, job->url) == CURLE_OK ? 0 : -ENOMEM;
}

static int http_start(struct http_client *c, struct http_job *job)
{
    int r;

    job->lib = c->lib;
    if (!job->easy)
        job->easy = c->lib->curl_easy_init();
    r = job->easy ? http_prepare(c, job) : -ENOMEM;
    if (r < 0)
        return err_set(&job->e, ENOMEM, "out of memory");
    job->status = 0;
    job->error = 0;
    job->received = job->sent = 0;
    job->range_from = job->length = UINT64_MAX;
    job->retry_after_s = 0;
    job->curl_error[0] = job->challenge[0] = job->location[0] = job->type[0] = job->digest[0] = '\0';
    buf_done(&job->error_body);
    buf_init(&job->error_body, HTTP_ERROR_BODY_MAX);
    if (c->lib->curl_multi_add_handle(c->multi, job->easy) != CURLM_OK)
        return err_set(&job->e, ENOMEM, "out of memory");
    job->tries++;
    job->state = HTTP_RUNNING;
    return 0;
}

/* A try is over. Returns < 0 where the job failed. */
static int http_finish(struct http_client *c, struct http_job *job, CURLcode result)
{
    curl_off_t length = -1;
    char *url = NULL;
    int verdict;

    job->result = result;
    job->lib->curl_easy_getinfo(job->easy, CURLINFO_RESPONSE_CODE, &job->status);
    if (job->lib->curl_easy_getinfo(job->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length) == CURLE_OK && length >= 0)
        job->length = (uint64_t)length;
    if (job->lib->curl_easy_getinfo(job->easy, CURLINFO_EFFECTIVE_URL, &url) == CURLE_OK && url)
        snprintf(job->last_url, sizeof(job->last_url), "%s", url);
    c->lib->curl_multi_remove_handle(c->multi, job->easy);
    job->wait_ns = 0;
    verdict = job->done(job);
    job->state = verdict == HTTP_AGAIN ? HTTP_WAITING : HTTP_OVER;
    job->not_before_ns = http_now_ns() + job->wait_ns;
    return verdict < 0 ? verdict : 0;
}

/* ---- all of them ---- */

static int http_start_some(struct http_client *c, struct http_job **jobs, size_t n, size_t parallel)
{
    uint64_t now = http_now_ns();
    size_t running = 0;

    for (size_t i = 0; i < n; i++)
        running += jobs[i]->state == HTTP_RUNNING;
    for (size_t i = 0; i < n && running < parallel; i++) {
        int r;

        if (jobs[i]->state != HTTP_WAITING || jobs[i]->not_before_ns > now)
            continue;
        r = http_start(c, jobs[i]);
        if (r < 0)
            return r;
        running++;
    }
    return 0;
}

static int http_collect(struct http_client *c)
{
    const CURLMsg *msg;
    int left, r = 0;

    while (r == 0 && (msg = c->lib->curl_multi_info_read(c->multi, &left))) {
        char *opaque = NULL;

        if (msg->msg != CURLMSG_DONE)
            continue;
        c->lib->curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &opaque);
        r = http_finish(c, (struct http_job *)(void *)opaque, msg->data.result);
    }
    return r;
}

static bool http_all_over(struct http_job *const *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jobs[i]->state != HTTP_OVER)
            return false;
    return true;
}

/* The job that failed says why. */
static void http_take_error(struct http_job *const *jobs, size_t n, struct err *e)
{
    for (size_t i = 0; i < n && e; i++)
        if (jobs[i]->e.code) {
            *e = jobs[i]->e;
            return;
        }
}

int http_run(struct http_client *c, struct http_job **jobs, size_t n, size_t parallel, struct err *e)
{
    int r = 0, running;

    for (size_t i = 0; i < n; i++) {
        jobs[i]->state = HTTP_WAITING;
        jobs[i]->not_before_ns = http_now_ns() + jobs[i]->wait_ns;
    }
    while (r == 0 && !http_all_over(jobs, n)) {
        r = http_start_some(c, jobs, n, parallel);
        if (r == 0 && c->lib->curl_multi_perform(c->multi, &running) != CURLM_OK)
            r = err_set(e, ENOMEM, "out of memory");
        if (r == 0)
            r = http_collect(c);
        if (r == 0 && c->config.step && !c->config.step(c->config.opaque))
            r = err_set(e, ECANCELED, "interrupted");
        if (r == 0 && !http_all_over(jobs, n))
            c->lib->curl_multi_poll(c->multi, NULL, 0, HTTP_POLL_MS, NULL);
    }
    if (r < 0 && r != -ECANCELED)
        http_take_error(jobs, n, e);
    for (size_t i = 0; i < n; i++)
        if (jobs[i]->state == HTTP_RUNNING)
            c->lib->curl_multi_remove_handle(c->multi, jobs[i]->easy);
    return r;
}
