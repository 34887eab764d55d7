/* Reading an OCI document: typed access to JSON with one sticky error that knows its place. Read on after an error
 * freely, what is returned then is empty; ask once at the end. Private to the parsers of wire/oci_spec.h and
 * wire/oci_image.h. */
#ifndef WIRE_OCI_READ_H
#define WIRE_OCI_READ_H

#include <json-c/json.h>

#include "wire/oci_spec.h"

struct oci_reader {
    struct oci_spec *spec; /* owns what is allocated */
    void *into;            /* what oci_read_document's caller fills */
    int error;             /* 0, -EINVAL or -ENOMEM */
    const char *what;
    char where[OCI_WHERE_MAX]; /* of the error, once there is one; else where we are */
    size_t at;                 /* its length */
};

/* A word and what it stands for; a table ends with name NULL. */
struct oci_word {
    const char *name;
    int64_t value;
};

enum oci_need { OCI_OPTIONAL, OCI_REQUIRED };

/* Parse a document of this type (an object or an array), at most OCI_CONFIG_MAX bytes, and let read fill what it
 * describes: the spec that *ret_spec becomes (it owns all that was allocated, and the document), or into. -EINVAL with
 * why (may be NULL), -ENOMEM. */
int oci_read_document(const char *text, size_t len, json_type type,
                      void (*read)(struct oci_reader *r, struct json_object *root), void *into,
                      struct oci_spec **ret_spec, struct oci_why *why) MUST_USE;

/* Go down into a member or an element; give the result to oci_up. */
size_t oci_down(struct oci_reader *r, const char *key);
size_t oci_down_index(struct oci_reader *r, size_t index);
void oci_up(struct oci_reader *r, size_t at);

/* The first error counts. what: a constant. */
void oci_bad(struct oci_reader *r, const char *what);
void oci_bad_member(struct oci_reader *r, const char *key, const char *what);

/* calloc that the spec frees; n may be 0. NULL on error. */
void *oci_alloc(struct oci_reader *r, size_t n, size_t size);

/* A member of an object (o may be NULL: nothing is there); JSON's null counts as missing. Numbers outside min..max are
 * errors. What is missing leaves *ret as it was. */
struct json_object *oci_get(struct oci_reader *r, struct json_object *o, const char *key, json_type type,
                            enum oci_need need);
const char *oci_get_string(struct oci_reader *r, struct json_object *o, const char *key, enum oci_need need);
bool oci_get_bool(struct oci_reader *r, struct json_object *o, const char *key,
                  bool *ret_present); /* ret: may be NULL */
bool oci_get_int(struct oci_reader *r, struct json_object *o, const char *key, int64_t min, int64_t max, int64_t *ret);
bool oci_get_u32(struct oci_reader *r, struct json_object *o, const char *key, uint32_t max, uint32_t *ret);
bool oci_get_u64(struct oci_reader *r, struct json_object *o, const char *key, uint64_t *ret);
void oci_get_strings(struct oci_reader *r, struct json_object *o, const char *key, struct oci_strings *ret);
/* An object of strings. check looks at each key, and says what is bad about it. */
struct oci_key_value *oci_get_pairs(struct oci_reader *r, struct json_object *o, const char *key,
                                    void (*check)(struct oci_reader *r, const char *key), size_t *ret_n);
/* An element of an array, which must be of a type. */
struct json_object *oci_element(struct oci_reader *r, struct json_object *array, size_t i, json_type type);
/* An array of objects, into an array of structures: begin, next for each i < n and oci_up(r, l.inner) behind it, end.
 */
struct oci_list {
    struct json_object *array; /* NULL: not there */
    size_t n;                  /* structures in v, zeroed; 0 after an error */
    void *v;
    size_t at, inner; /* places to go back up to */
};
struct oci_list oci_list_begin(struct oci_reader *r, struct json_object *o, const char *key, size_t size);
struct json_object *oci_list_next(struct oci_reader *r, struct oci_list *l, size_t i);
void oci_list_end(struct oci_reader *r, const struct oci_list *l);
/* A word of a table; unknown: an error that says what. */
bool oci_find_word(const struct oci_word *table, const char *name, int64_t *ret);
bool oci_get_word(struct oci_reader *r, struct json_object *o, const char *key, const struct oci_word *table,
                  enum oci_need need, const char *what, int64_t *ret);

/* Parts of the document, each in a file of its own. */
void oci_read_process(struct oci_reader *r, struct json_object *o);
void oci_read_mounts(struct oci_reader *r, struct json_object *root);
void oci_read_mappings(struct oci_reader *r, struct json_object *o, const char *key, struct oci_mappings *ret);
void oci_read_linux(struct oci_reader *r, struct json_object *o);
void oci_read_resources(struct oci_reader *r, struct json_object *o);
void oci_read_seccomp(struct oci_reader *r, struct json_object *o);
/* What no single field shows. */
void oci_check_spec(struct oci_reader *r);

#endif
