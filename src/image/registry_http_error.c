/* What a failed try means: whether to repeat it, and how to tell it. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "image/registry_http_priv.h"

#define HTTP_BACKOFF_FIRST_NS 300000000ULL
#define HTTP_BACKOFF_LAST_NS 15000000000ULL
#define HTTP_ASKED_MAX_S 60

bool http_job_is_transient(const struct http_job *job)
{
    switch (job->result) {
    case CURLE_OK:
        return job->status == 408 || job->status == 429 || job->status == 500 || job->status == 502 ||
               job->status == 503 || job->status == 504;
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

bool http_job_is_plain(const struct http_job *job)
{
    return job->status == 0 && strncmp(job->url, "https:", 6) == 0 &&
           (job->result == CURLE_SSL_CONNECT_ERROR || job->result == CURLE_COULDNT_CONNECT ||
            job->result == CURLE_GOT_NOTHING || job->result == CURLE_RECV_ERROR);
}

uint64_t http_job_backoff_ns(const struct http_job *job, unsigned failures)
{
    uint64_t ns = HTTP_BACKOFF_FIRST_NS << MIN(failures, 10u);

    if (job->result == CURLE_OK && job->retry_after_s > 0)
        return MIN(job->retry_after_s, (uint64_t)HTTP_ASKED_MAX_S) * 1000000000ULL;
    return MIN(ns, HTTP_BACKOFF_LAST_NS);
}

/* The "message" of {"errors": [{"code", "message"}]}, as registries answer; control characters do not pass. */
static void http_message(const struct http_job *job, char *ret, size_t size)
{
    json_tokener *tokener = json_tokener_new_ex(8);
    json_object *o = NULL, *errors, *first, *message = NULL;

    ret[0] = '\0';
    if (tokener && job->error_body.len > 0 && job->error_body.len <= HTTP_ERROR_BODY_MAX)
        o = json_tokener_parse_ex(tokener, (const char *)job->error_body.data, (int)job->error_body.len);
    if (o && json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, "errors", &errors) &&
        json_object_is_type(errors, json_type_array) && json_object_array_length(errors) > 0) {
        first = json_object_array_get_idx(errors, 0);
        if (json_object_is_type(first, json_type_object) && json_object_object_get_ex(first, "message", &message) &&
            json_object_is_type(message, json_type_string))
            snprintf(ret, size, "%.160s", json_object_get_string(message));
    }
    for (char *p = ret; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    json_object_put(o);
    if (tokener)
        json_tokener_free(tokener);
}

void http_job_reason(const struct http_job *job, char *ret, size_t size)
{
    char message[200];

    if (job->result != CURLE_OK) {
        snprintf(ret, size, "%s", job->curl_error[0] ? job->curl_error : job->lib->curl_easy_strerror(job->result));
        return;
    }
    http_message(job, message, sizeof(message));
    snprintf(ret, size, "HTTP status %ld%s%s%s", job->status, message[0] ? " (" : "", message, message[0] ? ")" : "");
}

int http_job_errno(const struct http_job *job)
{
    if (job->error < 0)
        return -job->error;
    switch (job->result) {
    case CURLE_OK:
        break;
    case CURLE_OPERATION_TIMEDOUT:
        return ETIMEDOUT;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
        return EHOSTUNREACH;
    case CURLE_OUT_OF_MEMORY:
        return ENOMEM;
    default:
        return EIO;
    }
    switch (job->status) {
    case 401:
    case 403:
        return EACCES;
    case 404:
        return ENOENT;
    default:
        return EIO;
    }
}
