/* Calls that are newer than the profile. A profile that denies what it does not name by EPERM makes C libraries give up
 * where ENOSYS makes them try the older call; so numbers above all that the profile names give ENOSYS, as runc does it.
 *
 * The stub in front of a program:
 *     ld  [arch]
 *     jeq A, 0, 4       ; not A: the next architecture
 *     ld  [nr]
 *     jgt newest, 0, 1
 *     ret ENOSYS
 *     ja  program
 *     jeq B ... */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "oci/seccomp_priv.h"

#define STUB_X32_BIT 0x40000000u
#define STUB_ARCH_INSNS 9 /* at most, for one architecture */

static const struct sock_filter stub_load_nr = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
static const struct sock_filter stub_enosys = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);

static struct sock_filter stub_jump(unsigned op, uint32_t k, uint8_t jt, uint8_t jf)
{
    return (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | op | BPF_K), k, jt, jf);
}

/* Jumps to the program proper are written as "ja" with k 0, and given their distance at the end. */
static const struct sock_filter stub_go = BPF_STMT(BPF_JMP | BPF_JA, 0);

/* x86-64 and x32 are one architecture to the kernel: bit 30 of the number tells them apart. newest < 0: leave all to
 * the program. x32 too many in the way of x86-64's comparison goes to the program, which knows what to do about it. */
static size_t stub_x86_64(struct sock_filter *p, int newest, int newest_x32)
{
    size_t n = 0;

    p[n++] = stub_load_nr;
    p[n++] = stub_jump(BPF_JSET, STUB_X32_BIT, 3, 0);
    p[n++] = stub_jump(BPF_JGT, newest < 0 ? UINT32_MAX : (uint32_t)newest, 0, 1);
    p[n++] = stub_enosys;
    p[n++] = stub_go;
    p[n++] = stub_jump(BPF_JGT, newest_x32 < 0 ? UINT32_MAX : (uint32_t)newest_x32, 0, 1);
    p[n++] = stub_enosys;
    p[n++] = stub_go;
    return n;
}

static size_t stub_plain(struct sock_filter *p, int newest)
{
    size_t n = 0;

    p[n++] = stub_load_nr;
    p[n++] = stub_jump(BPF_JGT, (uint32_t)newest, 0, 1);
    p[n++] = stub_enosys;
    p[n++] = stub_go;
    return n;
}

static size_t stub_write(struct sock_filter *p, const uint32_t *arches, const int *newest, size_t n)
{
    int x32 = -1;
    size_t len = 1;

    for (size_t i = 0; i < n; i++) {
        if (arches[i] == SCMP_ARCH_X32)
            x32 = newest[i];
    }
    p[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    for (size_t i = 0; i < n; i++) {
        size_t at = len, body;

        if (arches[i] == SCMP_ARCH_X32 || newest[i] < 0)
            continue;
        if (arches[i] == SCMP_ARCH_X86_64)
            body = stub_x86_64(p + at + 1, newest[i], x32);
        else
            body = stub_plain(p + at + 1, newest[i]);
        p[at] = stub_jump(BPF_JEQ, arches[i], 0, (uint8_t)body);
        len = at + 1 + body;
    }
    for (size_t i = 0; i < len; i++) {
        if (p[i].code == (BPF_JMP | BPF_JA))
            p[i].k = (uint32_t)(len - i - 1);
    }
    return len;
}

int oci_bpf_stub(struct oci_bpf *b, const uint32_t *arches, const int *newest, size_t n)
{
    struct sock_filter *p = calloc(1 + n * STUB_ARCH_INSNS + b->n, sizeof(*p));
    size_t len;

    if (!p)
        return -ENOMEM;
    len = stub_write(p, arches, newest, n);
    if (len + b->n > OCI_BPF_MAX) {
        free(p);
        return -E2BIG;
    }
    memcpy(p + len, b->program, b->n * sizeof(*p));
    free(b->program);
    b->program = p;
    b->n += len;
    return 0;
}
