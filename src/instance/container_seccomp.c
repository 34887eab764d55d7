/* The system call filter of a container: the default one (wire/oci_seccomp.h), or a file in the format that
 * Podman and Docker share, whose conditions are resolved here. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "instance/container_priv.h"
#include "wire/oci_seccomp.h"
#include "wire/oci_spec.h"

#define SECCOMP_FILE_MAX (4U << 20)

static bool seccomp_has(uint64_t caps, const char *cap)
{
    const int n = oci_cap_number(cap);

    return n >= 0 && caps & BIT64(n);
}

/* ---- a file ---- */

/* Whether one of (all: each of) the words in o[key] is true. Without any: dflt. */
static bool seccomp_words(json_object *o, const char *key, bool all, bool dflt, bool (*is)(uint64_t caps, const char *),
                          uint64_t caps)
{
    json_object *list = NULL;
    size_t n, hits = 0;

    if (!o || !json_object_object_get_ex(o, key, &list) || !json_object_is_type(list, json_type_array))
        return dflt;
    n = json_object_array_length(list);
    for (size_t i = 0; i < n; i++)
        hits += is(caps, json_object_get_string(json_object_array_get_idx(list, i)));
    return n == 0 ? dflt : all ? hits == n : hits > 0;
}

static bool seccomp_is_arch(uint64_t caps, const char *arch)
{
    return arch && (strcmp(arch, "amd64") == 0 || strcmp(arch, "x86_64") == 0);
}

static bool seccomp_is_cap(uint64_t caps, const char *cap)
{
    return cap && seccomp_has(caps, cap);
}

static bool seccomp_applies(json_object *rule, uint64_t caps)
{
    json_object *in = NULL, *ex = NULL;

    json_object_object_get_ex(rule, "includes", &in);
    json_object_object_get_ex(rule, "excludes", &ex);
    return seccomp_words(in, "caps", true, true, seccomp_is_cap, caps) &&
           seccomp_words(in, "arches", false, true, seccomp_is_arch, caps) &&
           !seccomp_words(ex, "caps", false, false, seccomp_is_cap, caps) &&
           !seccomp_words(ex, "arches", false, false, seccomp_is_arch, caps);
}

/* The members of from that the runtime reads. */
static void seccomp_copy(json_object *from, json_object *to, const char *const *keys)
{
    json_object *v;

    for (size_t i = 0; keys[i]; i++) {
        if (json_object_object_get_ex(from, keys[i], &v) && v)
            json_object_object_add(to, keys[i], json_object_get(v));
    }
}

static json_object *seccomp_resolve(json_object *file, uint64_t caps)
{
    static const char *const top[] = { "defaultAction", "defaultErrnoRet", "flags", NULL };
    static const char *const members[] = { "names", "action", "errnoRet", "args", NULL };
    json_object *o = oci_seccomp_new("SCMP_ACT_ERRNO"), *rules = NULL, *out = json_object_new_array(), *name;

    seccomp_copy(file, o, top);
    json_object_object_get_ex(file, "syscalls", &rules);
    for (size_t i = 0; json_object_is_type(rules, json_type_array) && i < json_object_array_length(rules); i++) {
        json_object *rule = json_object_array_get_idx(rules, i), *copy;

        if (!json_object_is_type(rule, json_type_object) || !seccomp_applies(rule, caps))
            continue;
        copy = json_object_new_object();
        seccomp_copy(rule, copy, members);
        if (json_object_object_get_ex(rule, "name", &name) && name) { /* the older form */
            json_object *list = json_object_new_array();

            json_object_array_add(list, json_object_get(name));
            json_object_object_add(copy, "names", list);
        }
        json_object_array_add(out, copy);
    }
    json_object_object_add(o, "syscalls", out);
    return o;
}

static int seccomp_file(const char *path, uint64_t caps, json_object **ret, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    json_object *o = NULL;
    struct buf b;
    int r;

    buf_init(&b, SECCOMP_FILE_MAX);
    r = fd < 0 ? -errno : fd_read_text(fd, &b);
    if (r == 0)
        o = json_tokener_parse((const char *)b.data);
    buf_done(&b);
    if (r < 0)
        return err_set(e, -r, "--security-opt seccomp=%s: %s", path, strerror(-r));
    if (!json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return err_set(e, EINVAL, "--security-opt seccomp=%s: is no JSON object; give a profile as Podman has them",
                       path);
    }
    *ret = seccomp_resolve(o, caps);
    json_object_put(o);
    return 0;
}

int container_seccomp_make(const struct container_document *d, uint64_t caps, json_object **ret_seccomp, struct err *e)
{
    const char *how = container_security(d->c, "seccomp");

    *ret_seccomp = NULL;
    if (how && strcmp(how, "unconfined") == 0)
        return 0;
    if (how)
        return seccomp_file(how, caps, ret_seccomp, e);
    if (!d->c->privileged)
        *ret_seccomp = oci_seccomp_default(caps);
    return 0;
}
