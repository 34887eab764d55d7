/* An image's configuration while it is built. */
#include <string.h>

#include "image/build_priv.h"
#include "image/import.h"
#include "proto/json.h"

json_object *build_doc_config(json_object *doc)
{
    return image_doc_object(doc, "config");
}

json_object *build_doc_new(void)
{
    json_object *doc = json_object_new_object(), *rootfs;

    json_object_object_add(doc, "architecture", json_object_new_string(image_arch()));
    json_object_object_add(doc, "os", json_object_new_string("linux"));
    rootfs = image_doc_object(doc, "rootfs");
    json_object_object_add(rootfs, "type", json_object_new_string("layers"));
    (void)image_doc_list(rootfs, "diff_ids");
    (void)build_doc_config(doc);
    return doc;
}

void build_doc_text(json_object *doc, const char *member, const char *value)
{
    json_object_object_add(build_doc_config(doc), member, json_object_new_string(value));
}

void build_doc_strings(json_object *doc, const char *member, const struct inst_strings *values)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; i < values->n; i++)
        json_object_array_add(list, json_object_new_string(values->at[i]));
    json_object_object_add(build_doc_config(doc), member, list);
}

void build_doc_pair(json_object *doc, const char *pair)
{
    image_doc_env(image_doc_list(build_doc_config(doc), "Env"), pair);
}

void build_doc_label(json_object *doc, const char *pair)
{
    json_object *labels = image_doc_object(build_doc_config(doc), "Labels");
    const char *equals = strchr(pair, '=');
    AUTO_FREE char *key = strndup(pair, equals ? (size_t)(equals - pair) : strlen(pair));

    if (key)
        json_object_object_add(labels, key, json_object_new_string(equals ? equals + 1 : ""));
}

void build_doc_set(json_object *doc, const char *member, const char *key)
{
    json_object_object_add(image_doc_object(build_doc_config(doc), member), key, json_object_new_object());
}

const char *build_doc_get(json_object *doc, const char *member)
{
    json_object *v = NULL;

    return json_object_object_get_ex(build_doc_config(doc), member, &v) && json_object_is_type(v, json_type_string)
               ? json_object_get_string(v)
               : "";
}

const char *build_doc_env(json_object *doc, const char *name)
{
    json_object *env = image_doc_list(build_doc_config(doc), "Env");
    size_t len = strlen(name);

    for (size_t i = 0; i < json_object_array_length(env); i++) {
        const char *pair = json_object_get_string(json_object_array_get_idx(env, i));

        if (pair && strncmp(pair, name, len) == 0 && pair[len] == '=')
            return pair + len + 1;
    }
    return NULL;
}

void build_doc_history(json_object *doc, const char *text, bool empty, int64_t created_ns)
{
    json_object *step = json_object_new_object(), *created = NULL;

    if (created_ns)
        json_object_object_add(doc, "created", proto_json_time(created_ns));
    if (json_object_object_get_ex(doc, "created", &created))
        json_object_object_add(step, "created", json_object_get(created));
    json_object_object_add(step, "created_by", json_object_new_string(text));
    if (empty)
        json_object_object_add(step, "empty_layer", json_object_new_boolean(true));
    json_object_array_add(image_doc_list(doc, "history"), step);
}

void build_doc_diff_id(json_object *doc, const char *diff_id)
{
    json_object_array_add(image_doc_list(image_doc_object(doc, "rootfs"), "diff_ids"), json_object_new_string(diff_id));
}
