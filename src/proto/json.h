/* Reading fields of JSON documents that a user or a peer wrote, each with an error that names document and field.
 * what: the document in the words of the user ("network description"); key: the field. All return 0 or -EINVAL with
 * text and leave their output untouched on failure. Any thread. */
#ifndef PROTO_JSON_H
#define PROTO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

/* A string of fewer than size bytes without zero bytes. */
int proto_json_text(struct json_object *v, const char *what, const char *key, char *ret_text, size_t size,
                    struct err *e) MUST_USE;
/* A whole number from min to max (max <= INT64_MAX). */
int proto_json_uint(struct json_object *v, const char *what, const char *key, uint64_t min, uint64_t max,
                    uint64_t *ret_value, struct err *e) MUST_USE;
int proto_json_bool(struct json_object *v, const char *what, const char *key, bool *ret_value, struct err *e) MUST_USE;
/* One of n names (n > 0); *ret_index: which. The error lists them. */
int proto_json_choice(struct json_object *v, const char *what, const char *key, const char *const *names, size_t n,
                      unsigned *ret_index, struct err *e) MUST_USE;
/* An array of at most max entries; *ret_n: how many. */
int proto_json_array(struct json_object *v, const char *what, const char *key, size_t max, size_t *ret_n,
                     struct err *e) MUST_USE;
/* Parse text as one JSON object, nested at most 32 deep and nothing behind it. *ret_object: the caller puts it. */
int proto_json_object(const char *text, const char *what, struct json_object **ret_object, struct err *e) MUST_USE;
/* The same, of a text of at most max bytes. */
int proto_json_object_bounded(const char *text, size_t max, const char *what, struct json_object **ret_object,
                              struct err *e) MUST_USE;
/* A point in time (ns since 1970) as JSON: RFC 3339 in UTC. NULL: out of memory. */
struct json_object *proto_json_time(int64_t ns);
/* What o says as text on one line, malloc'd; o (may be NULL: out of memory) is put in any case. -ENOMEM. */
int proto_json_take_text(struct json_object *o, char **ret_text) MUST_USE;
/* Parse a request: an object as of proto_json_object, whose field "op" is one of n names (n > 0); *ret_op: which. */
int proto_json_request(const char *text, const char *what, const char *const *ops, size_t n,
                       struct json_object **ret_object, unsigned *ret_op, struct err *e) MUST_USE;
/* Give get each field of a request but "op", until one fails, whose error is returned; o is put. */
int proto_json_request_fields(struct json_object *o,
                              int (*get)(void *request, const char *key, struct json_object *v, struct err *e),
                              void *request, struct err *e) MUST_USE;
/* Append to list what caisson doctor found: {"name", "status": "ok"|..., "detail": the text}. Of one line. */
void proto_json_finding(struct json_object *list, const char *name, const char *status, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* The error for a field that a document does not have: -EINVAL. */
int proto_json_unknown(const char *what, const char *key, struct err *e) MUST_USE;

#endif
