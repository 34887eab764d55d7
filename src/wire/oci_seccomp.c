#include "wire/oci_seccomp.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "wire/oci_seccomp_table.h"
#include "wire/oci_spec.h"

/* CLONE_NEW*, without time (which is clone3's only). */
#define SECCOMP_CLONE_NAMESPACES 0x7e020000
#define SECCOMP_AF_VSOCK 40

static json_object *seccomp_text(const char *text)
{
    return json_object_new_string(text);
}

json_object *oci_seccomp_new(const char *action)
{
    static const char *const arches[] = { "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32" };
    json_object *o = json_object_new_object(), *list = json_object_new_array();

    json_object_object_add(o, "defaultAction", seccomp_text(action));
    for (size_t i = 0; i < ARRAY_SIZE(arches); i++)
        json_object_array_add(list, seccomp_text(arches[i]));
    json_object_object_add(o, "architectures", list);
    return o;
}

static json_object *seccomp_rule(const char *action, int error, json_object *names)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "names", names);
    json_object_object_add(o, "action", seccomp_text(action));
    if (error)
        json_object_object_add(o, "errnoRet", json_object_new_int(error));
    return o;
}

static json_object *seccomp_names(const char *const *names)
{
    json_object *list = json_object_new_array();

    for (size_t i = 0; names[i]; i++)
        json_object_array_add(list, seccomp_text(names[i]));
    return list;
}

/* A call is allowed where its argument compares to a value. */
static json_object *seccomp_compare(const char *name, const char *op, uint64_t value)
{
    const char *const names[] = { name, NULL };
    json_object *rule = seccomp_rule("SCMP_ACT_ALLOW", 0, seccomp_names(names)), *args = json_object_new_array(),
                *arg = json_object_new_object();

    json_object_object_add(arg, "index", json_object_new_int(0));
    json_object_object_add(arg, "value", json_object_new_uint64(value));
    json_object_object_add(arg, "valueTwo", json_object_new_uint64(0));
    json_object_object_add(arg, "op", seccomp_text(op));
    json_object_array_add(args, arg);
    json_object_object_add(rule, "args", args);
    return rule;
}

static bool seccomp_has(uint64_t caps, const char *cap)
{
    const int n = oci_cap_number(cap);

    return n >= 0 && caps & BIT64(n);
}

static bool seccomp_granted(const char *name, uint64_t caps)
{
    for (const struct oci_seccomp_cap *c = oci_seccomp_caps; c->cap; c++) {
        for (size_t i = 0; seccomp_has(caps, c->cap) && c->names[i]; i++) {
            if (strcmp(c->names[i], name) == 0)
                return true;
        }
    }
    return false;
}

json_object *oci_seccomp_default(uint64_t caps)
{
    static const uint64_t personalities[] = { 0, 8, 0x20000, 0x20008, 0xffffffff };
    json_object *o = oci_seccomp_new("SCMP_ACT_ERRNO"), *rules = json_object_new_array(),
                *refused = json_object_new_array(), *granted = json_object_new_array();
    static const char *const clone_names[] = { "clone", NULL };

    json_object_object_add(o, "defaultErrnoRet", json_object_new_int(ENOSYS));
    json_object_array_add(rules, seccomp_rule("SCMP_ACT_ALLOW", 0, seccomp_names(oci_seccomp_allowed)));
    for (size_t i = 0; oci_seccomp_refused[i]; i++) {
        const char *name = oci_seccomp_refused[i];

        json_object_array_add(seccomp_granted(name, caps) ? granted : refused, seccomp_text(name));
    }
    if (seccomp_has(caps, "CAP_SYS_ADMIN"))
        json_object_array_add(granted, seccomp_text("clone3"));
    json_object_array_add(rules, seccomp_rule("SCMP_ACT_ERRNO", EPERM, refused));
    if (json_object_array_length(granted) > 0)
        json_object_array_add(rules, seccomp_rule("SCMP_ACT_ALLOW", 0, granted));
    else
        json_object_put(granted);
    if (seccomp_has(caps, "CAP_SYS_ADMIN"))
        json_object_array_add(rules, seccomp_rule("SCMP_ACT_ALLOW", 0, seccomp_names(clone_names)));
    else
        json_object_array_add(rules, seccomp_compare("clone", "SCMP_CMP_MASKED_EQ", SECCOMP_CLONE_NAMESPACES));
    json_object_array_add(rules, seccomp_compare("socket", "SCMP_CMP_NE", SECCOMP_AF_VSOCK));
    for (size_t i = 0; i < ARRAY_SIZE(personalities); i++)
        json_object_array_add(rules, seccomp_compare("personality", "SCMP_CMP_EQ", personalities[i]));
    json_object_object_add(o, "syscalls", rules);
    return o;
}
