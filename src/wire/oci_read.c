#include "wire/oci_read.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Arrays of a spec, to be freed with it. */
struct oci_array {
    struct oci_array *next;
    _Alignas(max_align_t) uint8_t data[];
};

size_t oci_down(struct oci_reader *r, const char *key)
{
    size_t at = r->at;

    if (r->error)
        return at;
    snprintf(r->where + at, sizeof(r->where) - at, "%s%s", at ? "." : "", key);
    r->at = strlen(r->where);
    return at;
}

size_t oci_down_index(struct oci_reader *r, size_t index)
{
    size_t at = r->at;

    if (r->error)
        return at;
    snprintf(r->where + at, sizeof(r->where) - at, "[%zu]", index);
    r->at = strlen(r->where);
    return at;
}

void oci_up(struct oci_reader *r, size_t at)
{
    if (r->error)
        return;
    r->at = at;
    r->where[at] = '\0';
}

void oci_bad(struct oci_reader *r, const char *what)
{
    if (r->error)
        return;
    r->error = -EINVAL;
    r->what = what;
}

void oci_bad_member(struct oci_reader *r, const char *key, const char *what)
{
    (void)oci_down(r, key);
    oci_bad(r, what);
}

void *oci_alloc(struct oci_reader *r, size_t n, size_t size)
{
    struct oci_array *a;

    if (r->error)
        return NULL;
    a = size && n > (SIZE_MAX - sizeof(*a)) / size ? NULL : calloc(1, sizeof(*a) + n * size);
    if (!a) {
        r->error = -ENOMEM;
        r->what = "is too big for the memory";
        return NULL;
    }
    a->next = r->spec->arrays;
    r->spec->arrays = a;
    return a->data;
}

void oci_spec_free(struct oci_spec *s)
{
    struct oci_array *next;

    if (!s)
        return;
    for (struct oci_array *a = s->arrays; a; a = next) {
        next = a->next;
        free(a);
    }
    json_object_put(s->document);
    free(s);
}

static const char *oci_type_text(json_type type)
{
    switch (type) {
    case json_type_boolean:
        return "must be true or false";
    case json_type_int:
        return "must be an integer";
    case json_type_string:
        return "must be a string";
    case json_type_array:
        return "must be an array";
    default:
        return "must be an object";
    }
}

struct json_object *oci_get(struct oci_reader *r, struct json_object *o, const char *key, json_type type,
                            enum oci_need need)
{
    struct json_object *value = NULL;

    if (r->error || !json_object_object_get_ex(o, key, &value))
        value = NULL;
    if (!value) {
        if (need == OCI_REQUIRED)
            oci_bad_member(r, key, "is missing");
        return NULL;
    }
    if (!json_object_is_type(value, type)) {
        oci_bad_member(r, key, oci_type_text(type));
        return NULL;
    }
    return value;
}

/* A NUL in the middle would make the C string another one than the JSON string. */
static const char *oci_text(struct oci_reader *r, struct json_object *value)
{
    const char *text = json_object_get_string(value);

    if (strlen(text) != (size_t)json_object_get_string_len(value))
        oci_bad(r, "must not contain a NUL character");
    return text;
}

const char *oci_get_string(struct oci_reader *r, struct json_object *o, const char *key, enum oci_need need)
{
    struct json_object *value = oci_get(r, o, key, json_type_string, need);
    size_t at = oci_down(r, key);
    const char *text = value ? oci_text(r, value) : NULL;

    oci_up(r, at);
    return text;
}

bool oci_get_bool(struct oci_reader *r, struct json_object *o, const char *key, bool *ret_present)
{
    struct json_object *value = oci_get(r, o, key, json_type_boolean, OCI_OPTIONAL);

    if (ret_present)
        *ret_present = value != NULL;
    return value && json_object_get_boolean(value);
}

bool oci_get_int(struct oci_reader *r, struct json_object *o, const char *key, int64_t min, int64_t max, int64_t *ret)
{
    struct json_object *value = oci_get(r, o, key, json_type_int, OCI_OPTIONAL);
    int64_t n;

    if (!value)
        return false;
    n = json_object_get_int64(value); /* cut to its range */
    if (n < min || n > max || (n == INT64_MAX && json_object_get_uint64(value) > INT64_MAX)) {
        oci_bad_member(r, key, "is out of range");
        return false;
    }
    *ret = n;
    return true;
}

bool oci_get_u32(struct oci_reader *r, struct json_object *o, const char *key, uint32_t max, uint32_t *ret)
{
    int64_t n;

    if (!oci_get_int(r, o, key, 0, max, &n))
        return false;
    *ret = (uint32_t)n;
    return true;
}

bool oci_get_u64(struct oci_reader *r, struct json_object *o, const char *key, uint64_t *ret)
{
    struct json_object *value = oci_get(r, o, key, json_type_int, OCI_OPTIONAL);

    if (!value)
        return false;
    if (json_object_get_int64(value) < 0) {
        oci_bad_member(r, key, "must not be negative");
        return false;
    }
    *ret = json_object_get_uint64(value);
    return true;
}

struct json_object *oci_element(struct oci_reader *r, struct json_object *array, size_t i, json_type type)
{
    struct json_object *value = json_object_array_get_idx(array, i);

    if (json_object_is_type(value, type))
        return value;
    oci_bad(r, oci_type_text(type));
    return NULL;
}

void oci_get_strings(struct oci_reader *r, struct json_object *o, const char *key, struct oci_strings *ret)
{
    struct json_object *array = oci_get(r, o, key, json_type_array, OCI_OPTIONAL);
    size_t n = array ? json_object_array_length(array) : 0, at;
    const char **v = oci_alloc(r, n + 1, sizeof(*v));

    if (!v)
        return;
    at = oci_down(r, key);
    for (size_t i = 0; i < n; i++) {
        size_t inner = oci_down_index(r, i);
        struct json_object *value = oci_element(r, array, i, json_type_string);

        v[i] = value ? oci_text(r, value) : "";
        oci_up(r, inner);
    }
    oci_up(r, at);
    *ret = (struct oci_strings){ .v = v, .n = n };
}

struct oci_key_value *oci_get_pairs(struct oci_reader *r, struct json_object *o, const char *key,
                                    void (*check)(struct oci_reader *r, const char *key), size_t *ret_n)
{
    struct json_object *pairs = oci_get(r, o, key, json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, key), n = 0;
    struct oci_key_value *list = oci_alloc(r, pairs ? (size_t)json_object_object_length(pairs) : 0, sizeof(*list));

    if (pairs && list) {
        json_object_object_foreach(pairs, name, value)
        {
            (void)value;
            check(r, name);
            list[n++] = (struct oci_key_value){ .key = name, .value = oci_get_string(r, pairs, name, OCI_REQUIRED) };
        }
    }
    oci_up(r, at);
    *ret_n = n;
    return list;
}

struct oci_list oci_list_begin(struct oci_reader *r, struct json_object *o, const char *key, size_t size)
{
    struct oci_list l = { .array = oci_get(r, o, key, json_type_array, OCI_OPTIONAL) };

    l.at = oci_down(r, key);
    l.n = l.array ? json_object_array_length(l.array) : 0;
    l.v = oci_alloc(r, l.n, size);
    if (!l.v)
        l.n = 0;
    return l;
}

struct json_object *oci_list_next(struct oci_reader *r, struct oci_list *l, size_t i)
{
    l->inner = oci_down_index(r, i);
    return oci_element(r, l->array, i, json_type_object);
}

void oci_list_end(struct oci_reader *r, const struct oci_list *l)
{
    oci_up(r, l->at);
}

bool oci_find_word(const struct oci_word *table, const char *name, int64_t *ret)
{
    for (; table->name; table++) {
        if (strcmp(table->name, name) == 0) {
            *ret = table->value;
            return true;
        }
    }
    return false;
}

bool oci_get_word(struct oci_reader *r, struct json_object *o, const char *key, const struct oci_word *table,
                  enum oci_need need, const char *what, int64_t *ret)
{
    const char *name = oci_get_string(r, o, key, need);

    if (!name)
        return false;
    if (oci_find_word(table, name, ret))
        return true;
    oci_bad_member(r, key, what);
    return false;
}
