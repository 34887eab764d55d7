/* Reading of typed members of a JSON specification, shared by the parts of proto. Each gives -EINVAL (-ENOMEM) with a
 * text that names the member. */
#ifndef PROTO_VM_JSON_H
#define PROTO_VM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

/* Add a string; NULL: nothing. */
void vm_put_str(struct json_object *o, const char *key, const char *value);

/* Index of name in a table of n names, or -EINVAL. */
int vm_spec_lookup(const char *const *names, size_t n, const char *name) MUST_USE;

/* *ret is freed and replaced. */
int vm_get_str(struct json_object *v, const char *key, char **ret, struct err *e) MUST_USE;
int vm_get_uint(struct json_object *v, const char *key, uint64_t max, uint64_t *ret, struct err *e) MUST_USE;
int vm_get_bool(struct json_object *v, const char *key, bool *ret, struct err *e) MUST_USE;
/* Returns the index of the string in names. */
int vm_get_name(struct json_object *v, const char *key, const char *const *names, size_t n, struct err *e) MUST_USE;

#endif
