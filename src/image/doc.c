/* Members of an image's configuration. Those that a stranger's image has with another type are replaced. */
#include <json-c/json.h>
#include <string.h>

#include "image/image_priv.h"

static json_object *doc_member(json_object *o, const char *member, enum json_type type)
{
    json_object *v = NULL;

    if (json_object_object_get_ex(o, member, &v) && json_object_is_type(v, type))
        return v;
    v = type == json_type_array ? json_object_new_array() : json_object_new_object();
    json_object_object_add(o, member, v);
    return v;
}

json_object *image_doc_list(json_object *o, const char *member)
{
    return doc_member(o, member, json_type_array);
}

json_object *image_doc_object(json_object *o, const char *member)
{
    return doc_member(o, member, json_type_object);
}

void image_doc_env(json_object *env, const char *pair)
{
    size_t key = strcspn(pair, "=") + 1;

    for (size_t i = 0; i < json_object_array_length(env); i++) {
        const char *old = json_object_get_string(json_object_array_get_idx(env, i));

        if (old && strncmp(old, pair, key) == 0) {
            json_object_array_put_idx(env, i, json_object_new_string(pair));
            return;
        }
    }
    json_object_array_add(env, json_object_new_string(pair));
}
