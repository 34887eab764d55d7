/* `features`: what engines ask before they rely on something. */
#include <errno.h>
#include <seccomp.h>
#include <string.h>
#include <unistd.h>

#include "oci/documents.h"
#include "oci/json.h"
#include "oci/seccomp.h"
#include "wire/oci_spec.h"

#define FEATURES_MAX (64u << 10)

/* Those that libseccomp 2.5 resolves, all of which a configuration may name. */
static const char *const features_arches[] = {
    "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM",      "SCMP_ARCH_MIPS",        "SCMP_ARCH_MIPS64",  "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",  "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC",  "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",     "SCMP_ARCH_PPC64",    "SCMP_ARCH_PPC64LE",     "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",   "SCMP_ARCH_X32",      "SCMP_ARCH_X86",         "SCMP_ARCH_X86_64",
};

static const char *features_arch(size_t i)
{
    return i < ARRAY_SIZE(features_arches) ? features_arches[i] : NULL;
}

static const char *features_hook(size_t i)
{
    return i < OCI_HOOK_KINDS ? oci_hook_name((enum oci_hook_kind)i) : NULL;
}

static const char *features_ns(size_t i)
{
    return i < OCI_NS_KINDS ? oci_ns_name((enum oci_ns)i) : NULL;
}

static const char *features_cap(size_t i)
{
    return oci_cap_name((unsigned)i);
}

/* "name":[...] of all words that next gives, or of those that supported is true of. */
static void features_array(struct buf *b, const char *name, const char *(*next)(size_t i), bool (*supported)(size_t i))
{
    const char *comma = "";

    buf_printf(b, "\"%s\":[", name);
    for (size_t i = 0; next(i); i++) {
        if (supported && !supported(i))
            continue;
        buf_append_str(b, comma);
        oci_json_string(b, next(i));
        comma = ",";
    }
    buf_append_str(b, "]");
}

static void features_seccomp(struct buf *b)
{
    buf_append_str(b, "\"seccomp\":{\"enabled\":true,");
    features_array(b, "actions", oci_seccomp_action_word, NULL);
    buf_append_str(b, ",");
    features_array(b, "operators", oci_seccomp_compare_word, NULL);
    buf_append_str(b, ",");
    features_array(b, "archs", features_arch, NULL);
    buf_append_str(b, ",");
    features_array(b, "knownFlags", oci_seccomp_flag_word, NULL);
    buf_append_str(b, ",");
    features_array(b, "supportedFlags", oci_seccomp_flag_word, oci_seccomp_flag_supported);
    buf_append_str(b, "}");
}

void oci_features_json(struct buf *b)
{
    const struct scmp_version *library = seccomp_version();

    buf_append_str(b, "{\"ociVersionMin\":\"1.0.0\",\"ociVersionMax\":\"" OCI_VERSION "\",");
    features_array(b, "hooks", features_hook, NULL);
    buf_append_str(b, ",");
    features_array(b, "mountOptions", oci_mount_option_word, NULL);
    buf_append_str(b, ",\"linux\":{");
    features_array(b, "namespaces", features_ns, NULL);
    buf_append_str(b, ",");
    features_array(b, "capabilities", features_cap, NULL);
    buf_append_str(b, ",\"cgroup\":{\"v1\":true,\"v2\":true,\"systemd\":true,\"systemdUser\":true,\"rdma\":true},");
    features_seccomp(b);
    buf_append_str(b, ",\"apparmor\":{\"enabled\":true},\"selinux\":{\"enabled\":true},\"intelRdt\":{\"enabled\":true}"
                      ",\"mountExtensions\":{\"idmap\":{\"enabled\":true}}}");
    buf_printf(b, ",\"annotations\":{\"io.github.seccomp.libseccomp.version\":\"%u.%u.%u\"", library->major,
               library->minor, library->micro);
    buf_append_str(b, ",\"io.caisson.version\":\"" CAISSON_VERSION "\"}"
                      ",\"potentiallyUnsafeConfigAnnotations\":[\"org.systemd.property.\"]}\n");
}

int oci_verb_features(const struct oci_args *a, struct err *e)
{
    struct buf b;
    int r;

    (void)a;
    buf_init(&b, FEATURES_MAX);
    oci_features_json(&b);
    r = buf_error(&b);
    if (r == 0 && write(STDOUT_FILENO, b.data, b.len) != (ssize_t)b.len)
        r = -errno;
    buf_done(&b);
    return r < 0 ? err_set(e, -r, "features: write to the standard output: %s", strerrordesc_np(-r)) : 0;
}
