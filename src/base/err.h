/* The error object of the user-facing layers (vmm, oci, store, daemon, cli): one line that says what failed, on which
 * object, why and what the user can do. Lower layers return -errno and never build text. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/attr.h"

#define ERR_TEXT_MAX 512

/* Initialise with { 0 }. code is the errno value (> 0) once set. Owned by the caller; no destructor needed. */
struct err {
    int code;
    char text[ERR_TEXT_MAX];
};

/* Fill e (which may be NULL) and return -code. code: errno value > 0. The text has no trailing newline and ends with
 * the remedy where there is one. An error that is already set is replaced. Any thread. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Put "context: " in front of the text of an error that is set. Returns -e->code (or -EINVAL where e is NULL). */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
