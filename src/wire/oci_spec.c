/* The top of config.json: what stands beside process, mounts and linux, and the entrances. */
#include "wire/oci_spec.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/oci_read.h"

#define OCI_DEPTH_MAX 64
#define OCI_HOOK_TIMEOUT_MAX (365 * 24 * 3600)

static const char *const oci_hook_names[OCI_HOOK_KINDS] = {
    [OCI_HOOK_PRESTART] = "prestart",
    [OCI_HOOK_CREATE_RUNTIME] = "createRuntime",
    [OCI_HOOK_CREATE_CONTAINER] = "createContainer",
    [OCI_HOOK_START_CONTAINER] = "startContainer",
    [OCI_HOOK_POSTSTART] = "poststart",
    [OCI_HOOK_POSTSTOP] = "poststop",
};

const char *oci_hook_name(enum oci_hook_kind kind)
{
    return oci_hook_names[kind];
}

const char *oci_annotation(const struct oci_spec *s, const char *key)
{
    for (size_t i = 0; i < s->n_annotations; i++) {
        if (strcmp(s->annotations[i].key, key) == 0)
            return s->annotations[i].value;
    }
    return NULL;
}

static void oci_read_hook(struct oci_reader *r, struct json_object *o, struct oci_hook *h)
{
    h->timeout_s = OCI_UNSET;
    h->path = oci_get_string(r, o, "path", OCI_REQUIRED);
    if (h->path && h->path[0] != '/')
        oci_bad_member(r, "path", "must be an absolute path");
    oci_get_strings(r, o, "args", &h->args);
    oci_get_strings(r, o, "env", &h->env);
    oci_get_int(r, o, "timeout", 1, OCI_HOOK_TIMEOUT_MAX, &h->timeout_s);
}

static void oci_read_hooks(struct oci_reader *r, struct json_object *root)
{
    struct json_object *hooks = oci_get(r, root, "hooks", json_type_object, OCI_OPTIONAL);
    size_t at = oci_down(r, "hooks");

    for (unsigned kind = 0; hooks && kind < OCI_HOOK_KINDS; kind++) {
        struct oci_list l = oci_list_begin(r, hooks, oci_hook_names[kind], sizeof(struct oci_hook));

        r->spec->hooks[kind] = l.v;
        r->spec->n_hooks[kind] = l.n;
        for (size_t i = 0; i < l.n; i++) {
            oci_read_hook(r, oci_list_next(r, &l, i), &r->spec->hooks[kind][i]);
            oci_up(r, l.inner);
        }
        oci_list_end(r, &l);
    }
    oci_up(r, at);
}

static void oci_check_annotation(struct oci_reader *r, const char *key)
{
    if (!key[0])
        oci_bad(r, "has an empty key");
}

/* SemVer with a major version that we know. */
static void oci_read_version(struct oci_reader *r, struct json_object *root)
{
    const char *version = oci_get_string(r, root, "ociVersion", OCI_REQUIRED), *p = version;

    r->spec->version = version;
    /* Three numbers; what may stand behind them says nothing to us. */
    for (unsigned i = 0; p && i < 3; i++) {
        size_t digits = strspn(p, "0123456789");

        if (digits == 0 || (i < 2 && p[digits] != '.'))
            oci_bad_member(r, "ociVersion", "must be a version like 1.2.0");
        p = r->error ? NULL : p + digits + (i < 2);
    }
    if (p && strncmp(version, "1.", 2) != 0)
        oci_bad_member(r, "ociVersion", "is a version that is not supported; 1.0.0 to 1.2.x are");
}

static void oci_read_root(struct oci_reader *r, struct json_object *root)
{
    struct json_object *o = oci_get(r, root, "root", json_type_object, OCI_REQUIRED);
    size_t at = oci_down(r, "root");

    r->spec->root_path = oci_get_string(r, o, "path", OCI_REQUIRED);
    if (r->spec->root_path && !r->spec->root_path[0])
        oci_bad_member(r, "path", "must not be empty");
    r->spec->root_readonly = oci_get_bool(r, o, "readonly", NULL);
    oci_up(r, at);
}

static void oci_read_config(struct oci_reader *r, struct json_object *root)
{
    struct oci_spec *s = r->spec;

    oci_read_version(r, root);
    oci_read_process(r, oci_get(r, root, "process", json_type_object, OCI_OPTIONAL));
    oci_read_root(r, root);
    s->hostname = oci_get_string(r, root, "hostname", OCI_OPTIONAL);
    s->domainname = oci_get_string(r, root, "domainname", OCI_OPTIONAL);
    oci_read_mounts(r, root);
    oci_read_hooks(r, root);
    r->spec->annotations = oci_get_pairs(r, root, "annotations", oci_check_annotation, &r->spec->n_annotations);
    oci_read_linux(r, oci_get(r, root, "linux", json_type_object, OCI_OPTIONAL));
    oci_check_spec(r);
}

static void oci_read_process_only(struct oci_reader *r, struct json_object *root)
{
    oci_read_process(r, root);
}

static void oci_read_resources_only(struct oci_reader *r, struct json_object *root)
{
    oci_read_resources(r, root);
}

static int oci_parse_json(const char *text, size_t len, json_type type, struct json_object **ret, struct oci_why *why)
{
    struct json_tokener *tok;
    struct json_object *root;
    size_t end;

    if (len > OCI_CONFIG_MAX) {
        *why = (struct oci_why){ .what = "is longer than 8 MiB" };
        return -EINVAL;
    }
    tok = json_tokener_new_ex(OCI_DEPTH_MAX);
    if (!tok)
        return -ENOMEM;
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8 | JSON_TOKENER_ALLOW_TRAILING_CHARS);
    root = json_tokener_parse_ex(tok, text, (int)len);
    end = json_tokener_get_parse_end(tok);
    while (root && end < len && memchr(" \t\r\n", text[end], 4))
        end++;
    if (root && end < len)
        *why = (struct oci_why){ .what = "has something behind the end of its JSON" };
    else if (!root)
        *why = (struct oci_why){ .what = "is not valid JSON" };
    else if (!json_object_is_type(root, type))
        *why = (struct oci_why){ .what = type == json_type_array ? "must be a JSON array" : "must be a JSON object" };
    json_tokener_free(tok);
    if (why->what) {
        json_object_put(root);
        return -EINVAL;
    }
    *ret = root;
    return 0;
}

int oci_read_document(const char *text, size_t len, json_type type,
                      void (*read)(struct oci_reader *r, struct json_object *root), void *into,
                      struct oci_spec **ret_spec, struct oci_why *why)
{
    AUTO(oci_spec) struct oci_spec *s = calloc(1, sizeof(*s));
    struct oci_reader r = { .spec = s, .into = into };
    struct json_object *root = NULL;
    struct oci_why unused;
    int res;

    why = why ? why : &unused;
    *why = (struct oci_why){ 0 };
    if (!s)
        return -ENOMEM;
    res = oci_parse_json(text, len, type, &root, why);
    if (res < 0)
        return res;
    s->document = root;
    read(&r, root);
    if (r.error) {
        why->what = r.what;
        memcpy(why->where, r.where, sizeof(why->where));
        return r.error;
    }
    *ret_spec = STEAL(s);
    return 0;
}

int oci_spec_parse(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why)
{
    return oci_read_document(text, len, json_type_object, oci_read_config, NULL, ret_spec, why);
}

int oci_spec_parse_process(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why)
{
    return oci_read_document(text, len, json_type_object, oci_read_process_only, NULL, ret_spec, why);
}

int oci_spec_parse_resources(const char *text, size_t len, struct oci_spec **ret_spec, struct oci_why *why)
{
    return oci_read_document(text, len, json_type_object, oci_read_resources_only, NULL, ret_spec, why);
}
