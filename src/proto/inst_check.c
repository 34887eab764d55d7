/* What is asked of the specification that a user gives now, beyond inst_spec_check: words that nothing would read are
 * mistyped ones. Rows of older versions are read back without this. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/word.h"
#include "proto/inst_spec.h"
#include "proto/name.h"
#include "wire/addr.h"
#include "wire/oci_spec.h"

#define CHECK_MEMORY_MIN (6ULL << 20) /* as Podman and Docker: with less not even the runtime gets to its end */
#define CHECK_HOSTNAME_MAX 64U        /* of the kernel */

/* Docker's words that are none of the kernel's; container_mounts.c takes them out. */
static const char *const check_other_words[] = { "z", "Z", "U", "nocopy", "copy", "cached", "delegated", "consistent" };
/* What tmpfs takes with a value. */
static const char *const check_tmpfs_words[] = {
    "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol"
};

static const char *check_mount_word(const void *opaque, size_t i)
{
    const char *word = oci_mount_option_word(i);
    size_t n = 0;

    (void)opaque;
    if (word)
        return word;
    while (oci_mount_option_word(n))
        n++;
    return i - n < ARRAY_SIZE(check_other_words) ? check_other_words[i - n] : NULL;
}

static bool check_is_mount_option(const struct inst_mount *m, const char *word)
{
    const char *value = strchr(word, '='), *known;

    for (size_t i = 0; value && m->kind == INST_MOUNT_TMPFS && i < ARRAY_SIZE(check_tmpfs_words); i++) {
        if (strlen(check_tmpfs_words[i]) == (size_t)(value - word) &&
            strncmp(check_tmpfs_words[i], word, (size_t)(value - word)) == 0)
            return value[1] != '\0';
    }
    for (size_t i = 0; (known = check_mount_word(NULL, i)) != NULL; i++) {
        if (strcmp(known, word) == 0)
            return true;
    }
    return word[0] == '\0';
}

static int check_mount(const struct inst_mount *m, struct err *e)
{
    for (const char *at = m->options; at && *at; at += strcspn(at, ","), at += *at == ',') {
        const char *near;
        char word[64];

        if (snprintf(word, sizeof(word), "%.*s", (int)strcspn(at, ","), at) < (int)sizeof(word) &&
            check_is_mount_option(m, word))
            continue;
        near = word_nearest(word, check_mount_word, NULL);
        if (near)
            return err_set(e, EINVAL, "mount at %.80s: unknown option '%s'; did you mean '%s'?", m->target, word, near);
        return err_set(e, EINVAL, "mount at %.80s: unknown option '%s'; use ro, rw, nosuid, nodev, noexec, ...%s",
                       m->target, word, m->kind == INST_MOUNT_TMPFS ? ", size=SIZE, mode=MODE" : "");
    }
    return 0;
}

/* WORD, WORD=VALUE or WORD:VALUE. */
static bool check_is_security(const char *text)
{
    const size_t len = strcspn(text, "=:");
    const char *value = text[len] ? text + len + 1 : "";
    char word[32];

    if (snprintf(word, sizeof(word), "%.*s", (int)len, text) >= (int)sizeof(word))
        return false;
    if (strcmp(word, "no-new-privileges") == 0)
        return !text[len] || strcmp(value, "true") == 0 || strcmp(value, "false") == 0;
    if (strcmp(word, "unmask") == 0)
        return strcmp(value, "ALL") == 0;
    return value[0] && (strcmp(word, "seccomp") == 0 || strcmp(word, "apparmor") == 0 || strcmp(word, "label") == 0);
}

static bool check_is_address(const char *text)
{
    uint8_t ip6[16];
    uint32_t ip4;

    return addr_ip4_parse(text, &ip4) == 0 || addr_ip6_parse(text, ip6) == 0;
}

static int check_host(const char *text, struct err *e)
{
    const char *colon = strchr(text, ':');
    char name[PROTO_HOST_NAME_MAX + 1];

    if (!colon || snprintf(name, sizeof(name), "%.*s", (int)MIN(colon - text, 1000), text) >= (int)sizeof(name) ||
        !proto_host_name_ok(name) || (strcmp(colon + 1, "host-gateway") != 0 && !check_is_address(colon + 1)))
        return err_set(e, EINVAL,
                       "--add-host '%.80s': no name and address; give NAME:ADDRESS, e.g. db:10.1.2.3, or "
                       "NAME:host-gateway",
                       text);
    return 0;
}

int inst_memory_check(uint64_t bytes, struct err *e)
{
    return bytes > 0 && bytes < CHECK_MEMORY_MIN
               ? err_set(e, EINVAL, "--memory: %" PRIu64 " bytes are too little for a container; give 6M or more",
                         bytes)
               : 0;
}

int inst_spec_check_new(const struct inst_spec *s, struct err *e)
{
    const struct inst_container *c = &s->container;
    int r = inst_spec_check(s, e);

    if (r < 0 || s->kind != INST_CONTAINER)
        return r;
    for (size_t i = 0; i < c->n_mounts && r == 0; i++)
        r = check_mount(&c->mounts[i], e);
    for (size_t i = 0; i < c->security.n && r == 0; i++) {
        if (!check_is_security(c->security.at[i]))
            r = err_set(e, EINVAL,
                        "--security-opt '%.80s': unknown; give no-new-privileges, seccomp=FILE|unconfined, "
                        "apparmor=PROFILE, label=... or unmask=ALL",
                        c->security.at[i]);
    }
    for (size_t i = 0; i < c->hosts.n && r == 0; i++)
        r = check_host(c->hosts.at[i], e);
    for (size_t i = 0; i < c->dns.n && r == 0; i++) {
        if (!check_is_address(c->dns.at[i]))
            r = err_set(e, EINVAL, "--dns '%.80s': no IP address; give that of a resolver, e.g. 9.9.9.9", c->dns.at[i]);
    }
    if (r == 0 && c->hostname && (!proto_host_name_ok(c->hostname) || strlen(c->hostname) > CHECK_HOSTNAME_MAX))
        r = err_set(e, EINVAL, "--hostname '%.80s': not a host name; use at most %u letters, digits, - _ and .",
                    c->hostname, CHECK_HOSTNAME_MAX);
    return r < 0 ? r : inst_memory_check(c->memory, e);
}
