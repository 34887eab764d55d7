/* Files of the filter cache, and profiles: whatever compiles is within the kernel's limit, goes into the cache and
 * comes out of it as it was. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "oci/seccomp_priv.h"

static void through_cache(const struct oci_seccomp *s, const struct oci_bpf *b)
{
    struct oci_bpf back = { 0 };
    struct buf key, file;

    buf_init(&key, 1 << 24);
    buf_init(&file, 1 << 25);
    oci_seccomp_key(s, &key);
    oci_seccomp_cache_pack(&key, b, &file);
    CHECK(buf_error(&key) == 0 && oci_seccomp_cache_unpack(&key, file.data, file.len, &back) == 0);
    CHECK(back.n == b->n && back.flags == b->flags && memcmp(back.program, b->program, b->n * 8) == 0);
    oci_bpf_done(&back);
    buf_done(&file);
    buf_done(&key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf key = { .data = (uint8_t *)"key", .len = 3 };
    struct oci_bpf b = { 0 };
    struct oci_spec *s = NULL;

    if (oci_seccomp_cache_unpack(&key, data, size, &b) == 0)
        CHECK(b.n > 0 && b.n <= OCI_BPF_MAX);
    oci_bpf_done(&b);
    if (oci_spec_parse((const char *)data, size, &s, NULL) == 0 && s->seccomp.present &&
        oci_seccomp_compile(&s->seccomp, &b, NULL) == 0) {
        CHECK(b.n > 0 && b.n <= OCI_BPF_MAX);
        through_cache(&s->seccomp, &b);
        oci_bpf_done(&b);
    }
    oci_spec_free(s);
    return 0;
}
