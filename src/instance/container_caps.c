/* Capabilities of a container: Podman's default set, more and fewer. */
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "instance/container_priv.h"
#include "wire/oci_spec.h"

static const char *const caps_default[] = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FOWNER",  "CAP_FSETID", "CAP_KILL",       "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP", "CAP_SETGID",       "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
};

/* All that we may give away ourselves. */
static uint64_t caps_all(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2] = { 0 };
    uint64_t bits = 0, own = UINT64_MAX;

    if (syscall(SYS_capget, &head, data) == 0)
        own = (uint64_t)data[1].permitted << 32 | data[0].permitted;
    for (unsigned i = 0; oci_cap_name(i); i++)
        bits |= BIT64(i);
    return bits & own;
}

/* One word of the user's: "NET_ADMIN", "cap_net_admin" or "ALL". */
static int caps_word(const char *option, const char *word, uint64_t *ret_bits, struct err *e)
{
    char name[64];
    int n;

    if (strcasecmp(word, "all") == 0) {
        *ret_bits = caps_all();
        return 0;
    }
    snprintf(name, sizeof(name), "%s%s", strncasecmp(word, "CAP_", 4) == 0 ? "" : "CAP_", word);
    for (char *c = name; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    n = oci_cap_number(name);
    if (n < 0)
        return err_set(e, EINVAL, "--%s %s: there is no such capability; capabilities(7) lists them", option, word);
    *ret_bits = BIT64(n);
    return 0;
}

static int caps_words(const char *option, const struct inst_strings *words, uint64_t *ret_bits, struct err *e)
{
    uint64_t bits = 0, one = 0;
    int r = 0;

    for (size_t i = 0; i < words->n && r == 0; i++) {
        r = caps_word(option, words->at[i], &one, e);
        bits |= one;
    }
    *ret_bits = bits;
    return r;
}

static bool caps_has_all(const struct inst_strings *words)
{
    for (size_t i = 0; i < words->n; i++) {
        if (strcasecmp(words->at[i], "all") == 0)
            return true;
    }
    return false;
}

int container_caps_bits(const struct inst_container *c, uint64_t *ret_bits, struct err *e)
{
    uint64_t bits = 0, add = 0, drop = 0;
    int r = caps_words("cap-add", &c->cap_add, &add, e);

    if (r == 0)
        r = caps_words("cap-drop", &c->cap_drop, &drop, e);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(caps_default); i++)
        bits |= BIT64(oci_cap_number(caps_default[i]));
    if (c->privileged || caps_has_all(&c->cap_add))
        bits = caps_all();
    if (caps_has_all(&c->cap_drop)) /* then --cap-add names those that stay */
        bits = caps_has_all(&c->cap_add) ? bits : add;
    else
        bits = (bits | add) & ~drop;
    *ret_bits = bits;
    return 0;
}

static json_object *caps_list(uint64_t bits)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; oci_cap_name(i); i++) {
        if (bits & BIT64(i))
            json_object_array_add(list, json_object_new_string(oci_cap_name(i)));
    }
    return list;
}

int container_caps_make(const struct inst_container *c, bool root, json_object **ret_caps, struct err *e)
{
    uint64_t bounding, added = 0;
    json_object *o;
    int r = container_caps_bits(c, &bounding, e);

    if (r == 0)
        r = caps_words("cap-add", &c->cap_add, &added, e);
    if (r < 0)
        return r;
    /* Another user than root has those only that were asked for, and keeps them over execve. */
    added &= bounding;
    o = json_object_new_object();
    json_object_object_add(o, "bounding", caps_list(bounding));
    json_object_object_add(o, "effective", caps_list(root ? bounding : added));
    json_object_object_add(o, "permitted", caps_list(root ? bounding : added));
    if (!root) {
        json_object_object_add(o, "inheritable", caps_list(added));
        json_object_object_add(o, "ambient", caps_list(added));
    }
    *ret_caps = o;
    return 0;
}
