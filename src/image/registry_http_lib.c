#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#include "image/registry_http_priv.h"
#include "sys/library.h"

static pthread_once_t http_lib_once = PTHREAD_ONCE_INIT; /* check: allow(globals:http_lib_once) with http_lib */
static struct http_lib http_lib;                         /* check: allow(globals:http_lib) one library, one table */
static int http_lib_result;                              /* check: allow(globals:http_lib_result) with http_lib */

static void http_lib_open(void)
{
    static const struct sys_symbol symbols[] = {
#define X(f) { #f, offsetof(struct http_lib, f) },
        HTTP_LIB_FUNCTIONS(X)
#undef X
    };
    void *library;

    http_lib_result = sys_library_open("libcurl.so.4", symbols, ARRAY_SIZE(symbols), &http_lib, &library);
    if (http_lib_result == 0 && http_lib.curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        http_lib_result = -ENOMEM;
}

const struct http_lib *http_lib_get(struct err *e)
{
    pthread_once(&http_lib_once, http_lib_open);
    if (http_lib_result == 0)
        return &http_lib;
    if (http_lib_result == -ENOMEM)
        (void)!err_set(e, ENOMEM, "cannot start libcurl: out of memory");
    else
        (void)!err_set(e, ENOENT, "registries need libcurl.so.4, which is %s; install it: apt-get install libcurl4",
                       http_lib_result == -ENOSYS ? "too old" : "not there");
    return NULL;
}
