/* See cpu_hosts.h. */
#include "cpu_hosts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/bits.h"

#define AVX_BITS (BIT(12) | BIT(26) | BIT(28) | BIT(29)) /* FMA, XSAVE, AVX, F16C */

static void hosts_set(uint32_t r[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    r[0] = a;
    r[1] = b;
    r[2] = c;
    r[3] = d;
}

void hosts_intel(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    hosts_set(r, 0, 0, 0, 0);
    if (leaf == 0)
        hosts_set(r, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
    else if (leaf == 1)
        hosts_set(r, 0x000c06f2, 0x02100800, 0xfffaf38b, 0xbfebfbff);
    else if (leaf == 2)
        hosts_set(r, 0x00feff01, 0xf0, 0, 0);
    else if (leaf == 4 && subleaf < 4)
        hosts_set(r, (subleaf < 2 ? 0x121U : 0x143U) + subleaf, 0x02c0003f, 0x3f, 4);
    else if (leaf == 7 && subleaf == 0)
        hosts_set(r, 2, 0xf3bfbfef, 0xfb417f4e, 0xffdd4432);
    else if (leaf == 0xd && subleaf == 0)
        hosts_set(r, 0x602e7, 0xa88, 0x2b00, 0);
    else if (leaf == 0xd && subleaf == 1)
        hosts_set(r, 0x1f, 0x1000, 0x1800, 0);
    else if (leaf == 0x80000000)
        hosts_set(r, 0x80000008, 0, 0, 0);
    else if (leaf == 0x80000001)
        hosts_set(r, 0, 0, 0x121, 0x2c100800);
    else if (leaf >= 0x80000002 && leaf <= 0x80000004)
        hosts_set(r, 0x65746e49, 0x6c65746e, leaf, 0);
    else if (leaf == 0x80000008)
        hosts_set(r, 0x3934, 0x200, 0, 0);
}

void hosts_amd(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    hosts_set(r, 0, 0, 0, 0);
    if (leaf == 0)
        hosts_set(r, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
    else if (leaf == 1)
        hosts_set(r, 0x00800f12, 0x03080800, 0x7ed8320b, 0x178bfbff);
    else if (leaf == 7 && subleaf == 0)
        hosts_set(r, 0, 0x209c01a9, 0, 0);
    else if (leaf == 0xd && subleaf == 0)
        hosts_set(r, 7, 0x340, 0x340, 0);
    else if (leaf == 0xd && subleaf == 1)
        hosts_set(r, 0xf, 0x340, 0, 0);
    else if (leaf == 0x80000000)
        hosts_set(r, 0x8000001f, 0x68747541, 0x444d4163, 0x69746e65);
    else if (leaf == 0x80000001)
        hosts_set(r, 0x00800f12, 0x40000000, 0x35c233ff, 0x2fd3fbff);
    else if (leaf >= 0x80000002 && leaf <= 0x80000006)
        hosts_set(r, 0x20444d41, leaf, leaf, leaf);
    else if (leaf == 0x80000008)
        hosts_set(r, 0x3030, 0x1007, 0x500f, 0);
    else if (leaf == 0x8000001d && subleaf < 4)
        hosts_set(r, (subleaf < 2 ? 0x121U : 0x143U) + subleaf, 0x01c0003f, 0x3f, 0);
}

void hosts_no_aes(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    hosts_intel(leaf, subleaf, r);
    if (leaf == 1)
        r[2] &= ~(BIT(25) | BIT(30));
}

void hosts_no_avx(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    hosts_intel(leaf, subleaf, r);
    if (leaf == 0)
        r[0] = 0xb;
    else if (leaf == 1)
        r[2] &= ~(AVX_BITS | BIT(25) | BIT(22) | BIT(30));
    else if (leaf == 7 || leaf == 0xd)
        hosts_set(r, 0, 0, 0, 0);
    else if (leaf == 0x80000001)
        r[2] = 1;
}

void hosts_no_sse42(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    hosts_no_avx(leaf, subleaf, r);
    if (leaf == 1)
        r[2] &= ~(BIT(20) | BIT(23));
}

void hosts_bt_offer(bt_cpuid_fn *host, struct hosts_offer *ret)
{
    ret->n = HOSTS_CPUID_MAX;
    assert_int_equal(bt_offer_cpuid(host, ret->entries, &ret->n), 0);
    cpu_offer_init(&ret->offer, ret->entries, ret->n, false);
}

void hosts_kvm_offer(struct hosts_offer *ret)
{
    static const struct {
        uint32_t leaf;
        int subleaf;
        uint32_t r[4];
    } rows[] = {
        { 0, -1, { 0x20, 0x68747541, 0x444d4163, 0x69746e65 } },
        { 1, -1, { 0x00a60f12, 0x00080800, 0xfffab20b, 0x178bfbff } },
        { 6, -1, { 4, 1, 1, 1 } },
        { 7, 0, { 2, 0xf1bf97ab, 0x1c405fce, 0xbc000010 } },
        { 7, 1, { 0x30, 0, 0, 0 } },
        { 0xb, 0, { 0, 0, 0, 0 } },
        { 0xd, 0, { 0x2e7, 0x340, 0x988, 0 } },
        { 0xd, 1, { 0xf, 0x348, 0x1800, 0 } },
        { 0xd, 2, { 0x100, 0x240, 0, 0 } },
        { 0xd, 5, { 0x40, 0x340, 0, 0 } },
        { 0xd, 6, { 0x200, 0x380, 0, 0 } },
        { 0xd, 7, { 0x400, 0x580, 0, 0 } },
        { 0xd, 9, { 8, 0x980, 0, 0 } },
        { 0xd, 11, { 0x10, 0, 1, 0 } },
        { 0x1e, 0, { 1, 1, 1, 1 } },
        { 0x40000000, -1, { 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d } },
        { 0x40000001, -1, { 0x01007afb, 0, 0, 0 } },
        { 0x80000000, -1, { 0x80000022, 0x68747541, 0x444d4163, 0x69746e65 } },
        { 0x80000001, -1, { 0x00a60f12, 0x40000000, 0x00c003f7, 0x2fd3fbff } },
        { 0x80000002, -1, { 0x20444d41, 0x657a7952, 0x2037206e, 0 } },
        { 0x80000007, -1, { 0, 0, 0, 0x100 } },
        { 0x80000008, -1, { 0x3030, 0x1d1ff24d, 0x500f, 0 } },
        { 0x8000001d, 0, { 0x121, 0x01c0003f, 0x3f, 0 } },
        { 0x80000021, -1, { 0x18000145, 0, 0, 0 } },
        { 0x80000022, -1, { 1, 6, 0, 0 } },
    };

    ret->n = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        ret->entries[ret->n++] =
            (struct kvm_cpuid_entry2){ .function = rows[i].leaf,
                                       .index = rows[i].subleaf < 0 ? 0 : (uint32_t)rows[i].subleaf,
                                       .flags = rows[i].subleaf < 0 ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                       .eax = rows[i].r[0],
                                       .ebx = rows[i].r[1],
                                       .ecx = rows[i].r[2],
                                       .edx = rows[i].r[3] };
    }
    cpu_offer_init(&ret->offer, ret->entries, ret->n, true);
}
