/* CPU models: the table of features, what each model has, the CPUID tables that they become, and that the engine obeys
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "bt_rig.h"
#include "cpu/bt/bt.h"
#include "cpu/bt/int_priv.h"
#include "cpu/bt/sys_priv.h"
#include "cpu_hosts.h"

/* x86-64 psABI 1.0, table 3.1, as /proc/cpuinfo calls them; what only an operating system can have (OSFXSR, OSXSAVE) is
 * left out. OSXSAVE needs XSAVE. */
static const char *const psabi[3][16] = {
    { "lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2" },
    { "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3" },
    { "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave" },
};

static unsigned find_feature(const char *name)
{
    int id = cpu_feature_find(name, (unsigned)strlen(name));

    if (id < 0)
        fail_msg("no feature %s", name);
    return (unsigned)id;
}

static void make(struct cpu_model *m, unsigned model, const struct hosts_offer *o)
{
    cpu_model_init(m, &cpu_models[model], &o->offer);
}

static unsigned table_of(const struct cpu_model *m, const struct hosts_offer *o, struct kvm_cpuid_entry2 *entries)
{
    unsigned n = HOSTS_CPUID_MAX;

    memset(entries, 0, HOSTS_CPUID_MAX * sizeof(*entries));
    assert_int_equal(cpu_model_cpuid(m, &o->offer, entries, &n), 0);
    return n;
}

static uint32_t reg_of(const struct kvm_cpuid_entry2 *entries, unsigned n, uint32_t leaf, uint32_t subleaf,
                       unsigned reg)
{
    const struct kvm_cpuid_entry2 *e = cpu_cpuid_find(entries, n, leaf, subleaf);
    struct kvm_cpuid_entry2 copy;

    if (!e)
        fail_msg("no leaf %x.%x", leaf, subleaf);
    copy = *e;
    return *cpu_cpuid_reg(&copy, reg);
}

static void test_features(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CPU_F_N; i++) {
        const struct cpu_feature *f = &cpu_features[i];

        assert_true(f->bit < 32);
        assert_int_equal(find_feature(f->name), i);
        if (f->other)
            assert_int_equal(find_feature(f->other), i);
        for (unsigned k = 0; k < i; k++) {
            const struct cpu_feature *g = &cpu_features[k];

            if (f->leaf == g->leaf && f->subleaf == g->subleaf && f->reg == g->reg && f->bit == g->bit)
                fail_msg("%s and %s are one bit", f->name, g->name);
        }
    }
    assert_int_equal(find_feature("sse4.1"), CPU_F_SSE4_1);
    assert_int_equal(find_feature("SSE4-2"), CPU_F_SSE4_2);
    assert_int_equal(cpu_feature_find("avx2x", 5), -ENOENT);
    assert_int_equal(cpu_feature_find("", 0), -ENOENT);
}

/* A level demands its own part of the psABI and those below it, and nothing else. */
static void test_levels(void **state)
{
    static const unsigned models[3] = { CPU_MODEL_V1, CPU_MODEL_V2, CPU_MODEL_V3 };

    (void)state;
    for (unsigned level = 1; level <= 3; level++) {
        const struct cpu_model_base *base = &cpu_models[models[level - 1]];
        unsigned wanted = 0, demanded = 0;

        assert_int_equal(base->level, level);
        for (unsigned l = 0; l < level; l++) {
            for (unsigned i = 0; i < 16 && psabi[l][i]; i++) {
                wanted++;
                if (!cpu_model_demands(base, find_feature(psabi[l][i])))
                    fail_msg("%s does not demand %s", base->name, psabi[l][i]);
            }
        }
        for (unsigned i = 0; i < CPU_F_N; i++)
            demanded += cpu_model_demands(base, i);
        assert_int_equal(demanded, wanted);
    }
}

/* The engine offers what all models have, on machines of either vendor, and nothing that cannot be masked by name. */
static void test_offer(void **state)
{
    static bt_cpuid_fn *const hosts[] = { hosts_intel, hosts_amd };
    const uint32_t amd_copies = 0x0183f3ff; /* 0x80000001 EDX, of leaf 1 */

    (void)state;
    for (unsigned h = 0; h < ARRAY_SIZE(hosts); h++) {
        struct hosts_offer o;
        struct cpu_set missing;
        struct cpu_model m;

        hosts_bt_offer(hosts[h], &o);
        for (unsigned i = 0; i < CPU_MODELS_N; i++) {
            make(&m, i, &o);
            assert_int_equal(cpu_model_missing(&m, &o.offer, &missing), 0);
        }
        for (unsigned i = 0; i < CPU_F_N; i++) {
            const struct cpu_feature *f = &cpu_features[i];
            struct kvm_cpuid_entry2 *e = (struct kvm_cpuid_entry2 *)cpu_cpuid_find(o.entries, o.n, f->leaf, f->subleaf);

            if (e)
                *cpu_cpuid_reg(e, f->reg) &= ~BIT(f->bit);
        }
        assert_int_equal(reg_of(o.entries, o.n, 1, 0, CPU_ECX), 0);
        assert_int_equal(reg_of(o.entries, o.n, 1, 0, CPU_EDX), 0);
        for (unsigned reg = CPU_EBX; reg <= CPU_EDX; reg++)
            assert_int_equal(reg_of(o.entries, o.n, 7, 0, reg), 0);
        assert_int_equal(reg_of(o.entries, o.n, 7, 2, CPU_EDX), 0);
        assert_int_equal(reg_of(o.entries, o.n, 0xd, 1, CPU_EAX), 0);
        assert_int_equal(reg_of(o.entries, o.n, 0x80000001, 0, CPU_ECX), 0);
        assert_int_equal(reg_of(o.entries, o.n, 0x80000001, 0, CPU_EDX) & ~amd_copies, 0);
        assert_int_equal(reg_of(o.entries, o.n, 0x80000008, 0, CPU_EBX), 0);
    }
}

/* A portable model is the same, byte by byte, on a machine of Intel's, on one of AMD's and on this one. */
static void test_same_everywhere(void **state)
{
    (void)state;
    for (unsigned i = CPU_MODEL_V3; i <= CPU_MODEL_V1; i++) {
        struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX], b[HOSTS_CPUID_MAX];
        struct hosts_offer intel, amd, here;
        struct cpu_set missing;
        struct cpu_model m;
        unsigned n;

        hosts_bt_offer(hosts_intel, &intel);
        hosts_bt_offer(hosts_amd, &amd);
        make(&m, i, &intel);
        n = table_of(&m, &intel, a);
        assert_int_equal(reg_of(a, n, 0, 0, CPU_EBX), 0x756e6547);
        make(&m, i, &amd);
        assert_int_equal(table_of(&m, &amd, b), n);
        assert_memory_equal(a, b, sizeof(a));

        here.n = HOSTS_CPUID_MAX;
        assert_int_equal(bt_supported_cpuid(here.entries, &here.n), 0);
        cpu_offer_init(&here.offer, here.entries, here.n, false);
        make(&m, i, &here);
        if (cpu_model_missing(&m, &here.offer, &missing) > 0)
            continue;
        assert_int_equal(table_of(&m, &here, b), n);
        assert_memory_equal(a, b, sizeof(a));
    }
}

/* The host model is the offer. */
static void test_host(void **state)
{
    struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX];
    struct hosts_offer o;
    struct cpu_model m;

    (void)state;
    hosts_bt_offer(hosts_amd, &o);
    make(&m, CPU_MODEL_HOST, &o);
    assert_int_equal(table_of(&m, &o, a), o.n);
    assert_memory_equal(a, o.entries, o.n * sizeof(a[0]));
    hosts_bt_offer(hosts_intel, &o);
    make(&m, CPU_MODEL_HOST, &o);
    assert_int_equal(table_of(&m, &o, a), o.n);
    assert_memory_equal(a, o.entries, o.n * sizeof(a[0]));
}

/* What a table shows is what the model has, and XSAVE's sizes fit. */
static void test_tables(void **state)
{
    static const struct {
        unsigned model;
        unsigned masked; /* CPU_F_NONE: nothing */
        uint32_t components, size;
    } cases[] = {
        { CPU_MODEL_V3, CPU_F_NONE, 7, 832 },       { CPU_MODEL_V3, CPU_F_AVX, 3, 576 },
        { CPU_MODEL_V3, CPU_F_SSE4_1, 3, 576 },     { CPU_MODEL_V3, CPU_F_AVX2, 7, 832 },
        { CPU_MODEL_V3, CPU_F_XSAVE, 0, 0 },        { CPU_MODEL_V2, CPU_F_NONE, 0, 0 },
        { CPU_MODEL_V1, CPU_F_NONE, 0, 0 },         { CPU_MODEL_HOST, CPU_F_NONE, 7, 832 },
        { CPU_MODEL_HOST, CPU_F_AVX, 3, 576 },      { CPU_MODEL_HOST, CPU_F_FXSR, 0, 0 },
        { CPU_MODEL_V3, CPU_F_HYPERVISOR, 7, 832 },
    };
    struct hosts_offer o;

    (void)state;
    hosts_bt_offer(hosts_intel, &o);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX];
        struct cpu_set shown;
        struct cpu_model m;
        unsigned n;

        make(&m, cases[i].model, &o);
        if (cases[i].masked != CPU_F_NONE) {
            assert_true(cpu_set_has(&m.set, cases[i].masked));
            cpu_set_put(&m.set, cases[i].masked, false);
            cpu_set_close(&m.set);
        }
        n = table_of(&m, &o, a);
        cpu_set_from_cpuid(&shown, a, n);
        assert_memory_equal(&shown, &m.set, sizeof(shown));
        if (cases[i].components == 0) {
            assert_null(cpu_cpuid_find(a, n, 0xd, 0));
        } else {
            assert_int_equal(reg_of(a, n, 0xd, 0, CPU_EAX), cases[i].components);
            assert_int_equal(reg_of(a, n, 0xd, 0, CPU_ECX), cases[i].size);
            assert_int_equal(cpu_cpuid_find(a, n, 0xd, 2) != NULL, cases[i].components == 7);
        }
        assert_int_equal(cpu_cpuid_find(a, n, 0x40000000, 0) != NULL, cases[i].masked != CPU_F_HYPERVISOR);
    }
}

/* A feature that a model does not have brings its leaf with it. */
static void test_added_leaf(void **state)
{
    struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX];
    struct hosts_offer o;
    struct cpu_model m;
    unsigned n;

    (void)state;
    hosts_bt_offer(hosts_amd, &o);
    make(&m, CPU_MODEL_V3, &o);
    cpu_set_add(&m.set, CPU_F_NULL_SEL_CLR);
    n = table_of(&m, &o, a);
    assert_int_equal(reg_of(a, n, 0x80000000, 0, CPU_EAX), 0x80000021);
    assert_int_equal(reg_of(a, n, 0x80000021, 0, CPU_EAX), BIT(6));
    n = 10;
    assert_int_equal(cpu_model_cpuid(&m, &o.offer, a, &n), -E2BIG);
    assert_int_equal(n, 10);
}

static void test_closure(void **state)
{
    struct cpu_set s = { 0 };

    (void)state;
    cpu_set_add(&s, CPU_F_AVX2);
    for (unsigned i = 0; i < CPU_F_N; i++) {
        static const unsigned wanted[] = { CPU_F_FPU,    CPU_F_FXSR,   CPU_F_SSE,   CPU_F_SSE2, CPU_F_SSE3, CPU_F_SSSE3,
                                           CPU_F_SSE4_1, CPU_F_SSE4_2, CPU_F_XSAVE, CPU_F_AVX,  CPU_F_AVX2 };
        bool in = false;

        for (unsigned k = 0; k < ARRAY_SIZE(wanted); k++)
            in = in || wanted[k] == i;
        if (cpu_set_has(&s, i) != in)
            fail_msg("AVX2 and %s", cpu_features[i].name);
    }
    cpu_set_put(&s, CPU_F_XSAVE, false);
    cpu_set_close(&s);
    assert_false(cpu_set_has(&s, CPU_F_AVX));
    assert_false(cpu_set_has(&s, CPU_F_AVX2));
    assert_true(cpu_set_has(&s, CPU_F_SSE4_2));
}

/* Under KVM the identity and what concerns speculation stay the host's; all else is the model's. */
static void test_native(void **state)
{
    struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX];
    struct hosts_offer o;
    struct cpu_set missing;
    struct cpu_model m;
    unsigned n;

    (void)state;
    hosts_kvm_offer(&o);
    make(&m, CPU_MODEL_V3, &o);
    assert_int_equal(cpu_model_missing(&m, &o.offer, &missing), 0);
    n = table_of(&m, &o, a);
    assert_int_equal(reg_of(a, n, 0, 0, CPU_EBX), 0x68747541);
    assert_int_equal(reg_of(a, n, 0, 0, CPU_EAX), 0x16);
    assert_int_equal(reg_of(a, n, 1, 0, CPU_EAX), 0x00a60f12);
    assert_int_equal(reg_of(a, n, 6, 0, CPU_EBX), 0);
    assert_int_equal(reg_of(a, n, 7, 0, CPU_EBX) & 0xf0030000, 0); /* no AVX-512 */
    assert_int_equal(reg_of(a, n, 7, 0, CPU_ECX), BIT(2) | BIT(22));
    assert_int_equal(reg_of(a, n, 7, 0, CPU_EDX), 0xbc000010 & ~BIT(30)); /* bit 30 has no name */
    assert_int_equal(reg_of(a, n, 0xd, 0, CPU_EAX), 7);
    assert_int_equal(reg_of(a, n, 0xd, 0, CPU_ECX), 832);
    assert_int_equal(reg_of(a, n, 0xd, 1, CPU_EAX), 1);
    assert_int_equal(reg_of(a, n, 0xd, 1, CPU_ECX), 0);
    assert_null(cpu_cpuid_find(a, n, 0xd, 5));
    assert_null(cpu_cpuid_find(a, n, 0xd, 9));
    assert_null(cpu_cpuid_find(a, n, 0x1e, 0));
    assert_null(cpu_cpuid_find(a, n, 0x80000022, 0));
    assert_int_equal(reg_of(a, n, 0x80000001, 0, CPU_ECX), BIT(0) | BIT(5));
    assert_int_equal(reg_of(a, n, 0x80000007, 0, CPU_EDX), 0);
    assert_int_equal(reg_of(a, n, 0x80000008, 0, CPU_EBX), BIT(12) | BIT(14) | BIT(15) | BIT(24) | BIT(26) | BIT(28));
    assert_int_equal(reg_of(a, n, 0x80000021, 0, CPU_EAX), BIT(2) | BIT(6) | BIT(8) | BIT(27) | BIT(28));
    assert_int_equal(reg_of(a, n, 0x40000001, 0, CPU_EAX), 0x01007afb);

    make(&m, CPU_MODEL_HOST, &o);
    assert_int_equal(table_of(&m, &o, a), o.n);
    cpu_set_put(&m.set, CPU_F_PKU, false);
    cpu_set_put(&m.set, CPU_F_AVX, false);
    cpu_set_close(&m.set);
    n = table_of(&m, &o, a);
    assert_int_equal(reg_of(a, n, 0xd, 0, CPU_EAX), 3);
    assert_int_equal(reg_of(a, n, 0xd, 0, CPU_ECX), 576);
    assert_int_equal(reg_of(a, n, 7, 0, CPU_EBX) & (BIT(5) | 0xd0230000), 0);
    assert_non_null(cpu_cpuid_find(a, n, 0x1e, 0));
}

/* ---- the engine obeys ---- */

static void rig_model(struct bt_rig *r, unsigned model, unsigned masked)
{
    struct kvm_cpuid_entry2 a[HOSTS_CPUID_MAX];
    struct hosts_offer o;
    struct cpu_model m;
    unsigned n;

    hosts_bt_offer(hosts_amd, &o);
    make(&m, model, &o);
    if (masked != CPU_F_NONE) {
        cpu_set_put(&m.set, masked, false);
        cpu_set_close(&m.set);
    }
    n = table_of(&m, &o, a);
    assert_int_equal(cpu_interp_ops.vcpu_set_cpuid(r->vcpu, a, n), 0);
}

static void test_engine_vendor(void **state)
{
    struct bt_rig *r = rig_new(true);

    (void)state;
    assert_int_equal(r->c->sys.amd, 1);
    rig_model(r, CPU_MODEL_V3, CPU_F_NONE);
    assert_int_equal(r->c->sys.amd, 0);
    rig_model(r, CPU_MODEL_HOST, CPU_F_NONE);
    assert_int_equal(r->c->sys.amd, 1);
    rig_free(r);
}

static void test_engine_registers(void **state)
{
    static const struct {
        unsigned masked;
        uint64_t cr4, efer;
        uint32_t msr; /* 0: none */
    } cases[] = {
        { CPU_F_SMAP, BT_CR4_SMAP, 0, 0 },
        { CPU_F_SMEP, BT_CR4_SMEP, 0, 0 },
        { CPU_F_PCID, BT_CR4_PCIDE, 0, 0 },
        { CPU_F_UMIP, BT_CR4_UMIP, 0, 0 },
        { CPU_F_FSGSBASE, BT_CR4_FSGSBASE, 0, 0 },
        { CPU_F_XSAVE, BT_CR4_OSXSAVE, 0, 0 },
        { CPU_F_NX, 0, BT_EFER_NXE, 0 },
        { CPU_F_SYSCALL, 0, BT_EFER_SCE, 0xc0000082 },
        { CPU_F_TSC_DEADLINE, 0, 0, 0x6e0 },
        { CPU_F_TSC_ADJUST, 0, 0, 0x3b },
        { CPU_F_MTRR, 0, 0, 0x2ff },
        { CPU_F_PAT, 0, 0, 0x277 },
        { CPU_F_SEP, 0, 0, 0x175 },
        { CPU_F_SPEC_CTRL, 0, 0, 0x48 },
        { CPU_F_ARCH_CAPABILITIES, 0, 0, 0x10a },
    };
    struct bt_rig *r = rig_new(false);
    uint64_t v;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        rig_model(r, CPU_MODEL_V3, CPU_F_NONE);
        assert_int_equal(r->c->sys.cr4_valid & cases[i].cr4, cases[i].cr4);
        assert_int_equal(r->c->sys.efer_valid & cases[i].efer, cases[i].efer);
        assert_true(cases[i].msr == 0 || bt_msr_read(r->c, cases[i].msr, &v, false));
        rig_model(r, CPU_MODEL_V3, cases[i].masked);
        assert_int_equal(r->c->sys.cr4_valid & cases[i].cr4, 0);
        assert_int_equal(r->c->sys.efer_valid & cases[i].efer, 0);
        if (cases[i].msr == 0)
            continue;
        assert_false(bt_msr_read(r->c, cases[i].msr, &v, false));
        assert_false(bt_msr_write(r->c, cases[i].msr, 0, false));
        assert_true(bt_msr_read(r->c, cases[i].msr, &v, true));
    }
    rig_free(r);
}

static void test_engine_spec_ctrl(void **state)
{
    struct bt_rig *r = rig_new(false);
    uint64_t v = 0;

    (void)state;
    rig_model(r, CPU_MODEL_V1, CPU_F_NONE);
    assert_true(bt_msr_write(r->c, 0x48, 0x401, false)); /* IBRS, BHI_DIS_S */
    assert_true(bt_msr_read(r->c, 0x48, &v, false));
    assert_int_equal(v, 0x401);
    assert_false(bt_msr_write(r->c, 0x48, 0x800, false));
    rig_model(r, CPU_MODEL_V1, CPU_F_BHI_CTRL);
    assert_false(bt_msr_write(r->c, 0x48, 0x401, false));
    rig_free(r);
}

/* Instructions of absent features are undefined. */
static void test_engine_instructions(void **state)
{
    static const uint8_t popcnt[] = { 0xf3, 0x0f, 0xb8, 0xc1 }, crc32[] = { 0xf2, 0x0f, 0x38, 0xf0, 0xc1 },
                         movbe[] = { 0x0f, 0x38, 0xf0, 0x07 }, aesimc[] = { 0x66, 0x0f, 0x38, 0xdb, 0xc1 };
    static const struct {
        const uint8_t *bytes;
        unsigned len;
        unsigned from; /* the first level that has it */
    } cases[] = {
        { popcnt, sizeof(popcnt), 2 },
        { crc32, sizeof(crc32), 2 },
        { movbe, sizeof(movbe), 3 },
        { aesimc, sizeof(aesimc), 3 },
    };
    static const unsigned models[] = { CPU_MODEL_V1, CPU_MODEL_V2, CPU_MODEL_V3 };
    struct bt_rig *r = rig_new(false);

    (void)state;
    for (unsigned level = 1; level <= 3; level++) {
        rig_model(r, models[level - 1], CPU_F_NONE);
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            struct bt_op op;

            assert_int_equal(bt_decode(r->c, cases[i].bytes, cases[i].len, BT_MODE_16, &op), 0);
            if ((op.fn == bt_int_ud) != (level < cases[i].from))
                fail_msg("instruction %u at level %u", i, level);
        }
    }
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_offer),
        cmocka_unit_test(test_same_everywhere),
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_added_leaf),
        cmocka_unit_test(test_closure),
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_engine_vendor),
        cmocka_unit_test(test_engine_registers),
        cmocka_unit_test(test_engine_spec_ctrl),
        cmocka_unit_test(test_engine_instructions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
