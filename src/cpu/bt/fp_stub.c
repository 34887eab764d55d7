/* Stub memory of one VM: small executable copies of guest instructions (fp_priv.h has their contract). One memfd,
 * mapped twice: the view that executes is never writable.
 *
 * Stubs are handed out in sequence and found again by a hash of their bytes; nothing is freed singly. When the memory
 * gets full, it is dropped whole, with all blocks (bt_stubs_full, bt_stubs_reset). Ordinary code: guest FP state must
 * have been saved. Callers hold the cache's lock. It must not know instructions. */
#include "cpu/bt/fp.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cpu/bt/fp_priv.h"
#include "cpu/bt/fp_signal.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

#define FP_STUBS_RESERVE 1024U /* slots; more than one block can need */

/* What this host's CPU has and how it treats the x87 pointers. */
static void stubs_probe_host(struct bt_stubs *s)
{
    static const char amd[] = "AuthenticAMD", hygon[] = "HygonGenuine";
    uint8_t fx[512] ALIGNED(16);
    unsigned a, b, c, d;
    char vendor[12];

    __cpuid(0, a, b, c, d);
    memcpy(vendor, &b, 4);
    memcpy(vendor + 4, &d, 4);
    memcpy(vendor + 8, &c, 4);
    s->sha_unaligned = memcmp(vendor, amd, 12) == 0 || memcmp(vendor, hygon, 12) == 0;
    s->xsave_ptrs = s->fop_excptn_only = !s->sha_unaligned;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        s->fdp_excptn_only = (b & BIT(6)) != 0;
        s->zero_fcs = (b & BIT(13)) != 0;
    }
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & BIT(27))) {
        uint32_t lo, hi;

        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        s->xmask = lo & (FP_X87 | FP_SSE | FP_AVX);
    }
    memset(fx, 0, sizeof(fx));
    __asm__ volatile("fxsave64 %0" : "+m"(fx));
    s->mxcsr_mask = load_le32(fx + FP_OFF_MXCSR_MASK);
    if (s->mxcsr_mask == 0)
        s->mxcsr_mask = 0xffbf;
}

static void stubs_fill_fixed(struct bt_stubs *s)
{
    uint8_t *wait = s->rw + FP_SLOT * FP_SLOT_WAIT;

    s->rw[FP_SLOT * FP_SLOT_RET] = 0xc3;
    wait[0] = 0x9b; /* FWAIT; RET */
    wait[1] = 0xc3;
    s->used = FP_SLOT_FIRST;
}

static int stubs_map(struct bt_stubs *s)
{
    AUTO_FD int fd = memfd_create("caisson-stubs", MFD_CLOEXEC | MFD_EXEC);
    void *p;

    if (fd < 0 && errno == EINVAL) /* kernel before 6.3 */
        fd = memfd_create("caisson-stubs", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, FP_STUBS_SIZE) < 0)
        return -errno;
    p = mmap(NULL, FP_STUBS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    s->rw = p;
    p = mmap(NULL, FP_STUBS_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    s->rx = p;
    return 0;
}

int bt_stubs_new(struct bt_stubs **ret)
{
    struct bt_stubs *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    stubs_probe_host(s);
    r = stubs_map(s);
    if (r == 0) {
        stubs_fill_fixed(s);
        r = bt_fp_signal_add((uintptr_t)s->rx, FP_STUBS_SIZE);
    }
    if (r < 0) {
        bt_stubs_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void bt_stubs_free(struct bt_stubs *s)
{
    if (!s)
        return;
    if (s->rx) {
        bt_fp_signal_del((uintptr_t)s->rx);
        (void)munmap((void *)(uintptr_t)s->rx, FP_STUBS_SIZE);
    }
    if (s->rw)
        (void)munmap(s->rw, FP_STUBS_SIZE);
    free(s);
}

bool bt_stubs_full(const struct bt_stubs *s)
{
    return s->used > FP_SLOTS - FP_STUBS_RESERVE;
}

void bt_stubs_reset(struct bt_stubs *s)
{
    unsigned a = 0, b, cx = 0, d;

    memset(s->index, 0, sizeof(s->index));
    s->used = FP_SLOT_FIRST;
    /* Slots will be overwritten through the other mapping: nothing prefetched from them may survive. */
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(cx), "=d"(d)::"memory");
}

int bt_stub_get(struct bt_stubs *s, const uint8_t *code, unsigned n, uintptr_t *ret_stub)
{
    uint8_t slot[FP_SLOT] = { 0 };
    uint64_t h;
    uint32_t i;

    if (n >= FP_SLOT)
        return -EINVAL;
    memcpy(slot, code, n);
    slot[n] = 0xc3;
    h = load_le64(slot) * 0x9e3779b97f4a7c15ULL ^ load_le64(slot + 8) * 0xc2b2ae3d27d4eb4fULL;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15ULL;
    for (i = (uint32_t)(h >> 40) % FP_INDEX_SIZE; s->index[i] != 0; i = (i + 1) % FP_INDEX_SIZE) {
        if (memcmp(s->rw + (size_t)s->index[i] * FP_SLOT, slot, FP_SLOT) == 0) {
            *ret_stub = (uintptr_t)s->rx + (uintptr_t)s->index[i] * FP_SLOT;
            return 0;
        }
    }
    if (s->used >= FP_SLOTS)
        return -ENOSPC;
    s->index[i] = s->used++;
    memcpy(s->rw + (size_t)s->index[i] * FP_SLOT, slot, FP_SLOT);
    *ret_stub = (uintptr_t)s->rx + (uintptr_t)s->index[i] * FP_SLOT;
    return 0;
}
