/* "linux.seccomp" of config.json. */
#include <string.h>

#include "wire/oci_read.h"

static const struct oci_word oci_action_words[] = {
    { "SCMP_ACT_KILL", OCI_ACT_KILL_THREAD },
    { "SCMP_ACT_KILL_THREAD", OCI_ACT_KILL_THREAD },
    { "SCMP_ACT_KILL_PROCESS", OCI_ACT_KILL_PROCESS },
    { "SCMP_ACT_TRAP", OCI_ACT_TRAP },
    { "SCMP_ACT_ERRNO", OCI_ACT_ERRNO },
    { "SCMP_ACT_TRACE", OCI_ACT_TRACE },
    { "SCMP_ACT_ALLOW", OCI_ACT_ALLOW },
    { "SCMP_ACT_LOG", OCI_ACT_LOG },
    { "SCMP_ACT_NOTIFY", OCI_ACT_NOTIFY },
    { 0 },
};

static const struct oci_word oci_compare_words[] = {
    { "SCMP_CMP_NE", OCI_CMP_NE },
    { "SCMP_CMP_LT", OCI_CMP_LT },
    { "SCMP_CMP_LE", OCI_CMP_LE },
    { "SCMP_CMP_EQ", OCI_CMP_EQ },
    { "SCMP_CMP_GE", OCI_CMP_GE },
    { "SCMP_CMP_GT", OCI_CMP_GT },
    { "SCMP_CMP_MASKED_EQ", OCI_CMP_MASKED_EQ },
    { 0 },
};

const char *oci_seccomp_action_word(size_t i)
{
    return i < ARRAY_SIZE(oci_action_words) ? oci_action_words[i].name : NULL;
}

const char *oci_seccomp_compare_word(size_t i)
{
    return i < ARRAY_SIZE(oci_compare_words) ? oci_compare_words[i].name : NULL;
}

static const char oci_no_action[] = "is no action that is known";

static void oci_read_seccomp_args(struct oci_reader *r, struct json_object *o, struct oci_seccomp_rule *rule)
{
    struct oci_list l = oci_list_begin(r, o, "args", sizeof(*rule->args));

    rule->args = l.v;
    rule->n_args = l.n;
    for (size_t i = 0; i < l.n; i++) {
        struct json_object *e = oci_list_next(r, &l, i);
        struct oci_seccomp_arg *a = &rule->args[i];
        int64_t op = 0;

        oci_get_u32(r, e, "index", 5, &a->index);
        if (!oci_get_u64(r, e, "value", &a->value))
            oci_bad_member(r, "value", "is missing");
        oci_get_u64(r, e, "valueTwo", &a->value_two);
        oci_get_word(r, e, "op", oci_compare_words, OCI_REQUIRED, "is no comparison that is known", &op);
        a->op = (int)op;
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}

static void oci_read_seccomp_rule(struct oci_reader *r, struct json_object *e, struct oci_seccomp_rule *rule)
{
    int64_t action = 0;

    oci_get_strings(r, e, "names", &rule->names);
    if (rule->names.n == 0)
        oci_bad_member(r, "names", "must name a system call");
    oci_get_word(r, e, "action", oci_action_words, OCI_REQUIRED, oci_no_action, &action);
    rule->action = (enum oci_seccomp_action)action;
    rule->errno_ret = OCI_UNSET;
    oci_get_int(r, e, "errnoRet", 0, 65535, &rule->errno_ret);
    if (rule->errno_ret != OCI_UNSET && rule->action != OCI_ACT_ERRNO && rule->action != OCI_ACT_TRACE)
        oci_bad_member(r, "errnoRet", "is only for SCMP_ACT_ERRNO and SCMP_ACT_TRACE");
    oci_read_seccomp_args(r, e, rule);
}

static void oci_read_seccomp_rules(struct oci_reader *r, struct json_object *o, struct oci_seccomp *s)
{
    struct oci_list l = oci_list_begin(r, o, "syscalls", sizeof(*s->rules));

    s->rules = l.v;
    s->n_rules = l.n;
    for (size_t i = 0; i < l.n; i++) {
        oci_read_seccomp_rule(r, oci_list_next(r, &l, i), &s->rules[i]);
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}

static void oci_check_words(struct oci_reader *r, const char *key, const struct oci_strings *words, const char *prefix,
                            const char *what)
{
    for (size_t i = 0; i < words->n; i++) {
        if (strncmp(words->v[i], prefix, strlen(prefix)) != 0)
            oci_bad_member(r, key, what);
    }
}

void oci_read_seccomp(struct oci_reader *r, struct json_object *o)
{
    struct oci_seccomp *s = &r->spec->seccomp;
    size_t at = oci_down(r, "seccomp");
    int64_t action = 0;

    s->default_errno_ret = OCI_UNSET;
    if (o) {
        s->present = true;
        oci_get_word(r, o, "defaultAction", oci_action_words, OCI_REQUIRED, oci_no_action, &action);
        s->default_action = (enum oci_seccomp_action)action;
        if (s->default_action == OCI_ACT_NOTIFY)
            oci_bad_member(r, "defaultAction", "must not be SCMP_ACT_NOTIFY: nothing could start");
        oci_get_int(r, o, "defaultErrnoRet", 0, 65535, &s->default_errno_ret);
        oci_get_strings(r, o, "architectures", &s->architectures);
        oci_check_words(r, "architectures", &s->architectures, "SCMP_ARCH_", "has an architecture that is not known");
        s->flags_present = oci_get(r, o, "flags", json_type_array, OCI_OPTIONAL) != NULL;
        oci_get_strings(r, o, "flags", &s->flags);
        oci_check_words(r, "flags", &s->flags, "SECCOMP_FILTER_FLAG_", "has a flag that is not known");
        s->listener_path = oci_get_string(r, o, "listenerPath", OCI_OPTIONAL);
        s->listener_metadata = oci_get_string(r, o, "listenerMetadata", OCI_OPTIONAL);
        oci_read_seccomp_rules(r, o, s);
    }
    oci_up(r, at);
}
