/* Shared by the files of the HTTP client, and by who takes addresses apart. */
#ifndef IMAGE_REGISTRY_HTTP_PRIV_H
#define IMAGE_REGISTRY_HTTP_PRIV_H

#include "base/cleanup.h"
#include "image/registry_http.h"

/* Functions of libcurl, called as lib->NAME. */
#define HTTP_LIB_FUNCTIONS(X)   \
    X(curl_easy_cleanup)        \
    X(curl_easy_getinfo)        \
    X(curl_easy_init)           \
    X(curl_easy_reset)          \
    X(curl_easy_setopt)         \
    X(curl_easy_strerror)       \
    X(curl_free)                \
    X(curl_global_init)         \
    X(curl_multi_add_handle)    \
    X(curl_multi_cleanup)       \
    X(curl_multi_info_read)     \
    X(curl_multi_init)          \
    X(curl_multi_perform)       \
    X(curl_multi_poll)          \
    X(curl_multi_remove_handle) \
    X(curl_slist_append)        \
    X(curl_slist_free_all)      \
    X(curl_url)                 \
    X(curl_url_cleanup)         \
    X(curl_url_get)             \
    X(curl_url_set)

struct http_lib {
#define X(f) __typeof__(f) *f;
    HTTP_LIB_FUNCTIONS(X)
#undef X
};

/* libcurl: opened by the first call, and open as long as the process lives (OpenSSL's clean-up at exit is in it). It
 * brings thirty libraries, whose linking is half of the time that a command without a registry takes. NULL with text:
 * not there. */
const struct http_lib *http_lib_get(struct err *e);

struct http_client {
    struct http_config config;
    const struct http_lib *lib;
    CURLM *multi;
    bool use_authorities;
    struct buf authorities; /* PEM */
    char *cert, *key;       /* paths; NULL: none */
};
DEFINE_AUTO(http_client, struct http_client, http_client_free)

/* CLOCK_MONOTONIC. */
uint64_t http_now_ns(void);

#endif
