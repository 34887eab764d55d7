/* --cpu: what its words mean, what the default is on which machine, and the messages for what cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cpu_hosts.h"
#include "vmm/cpu_model.h"

static void test_default(void **state)
{
    static const struct {
        bt_cpuid_fn *host;
        const char *name, *noted; /* noted: what the note names, NULL: no note */
    } cases[] = {
        { hosts_intel, "x86-64-v3", NULL },
        { hosts_amd, "x86-64-v3", NULL },
        { hosts_no_aes, "x86-64-v3,-aes,-rdrand", "aes, rdrand" },
        { hosts_no_avx, "x86-64-v2", "avx2" },
        { hosts_no_sse42, "x86-64-v1", "sse4_2" },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct hosts_offer o;
        struct cpu_model m, again;
        struct vmm_cpu cpu, other;
        struct err e = { 0 };

        hosts_bt_offer(cases[i].host, &o);
        assert_int_equal(vmm_cpu_choose(NULL, &o.offer, "bt", &cpu, &m, &e), 0);
        assert_string_equal(cpu.name, cases[i].name);
        if (cases[i].noted)
            assert_non_null(strstr(cpu.note, cases[i].noted));
        else
            assert_string_equal(cpu.note, "");
        /* Its name leads to the same model, there and on the machine that has everything. */
        assert_int_equal(vmm_cpu_choose(cpu.name, &o.offer, "bt", &other, &again, &e), 0);
        assert_memory_equal(&again.set, &m.set, sizeof(m.set));
        hosts_bt_offer(hosts_amd, &o);
        assert_int_equal(vmm_cpu_choose(cpu.name, &o.offer, "bt", &other, &again, &e), 0);
        assert_memory_equal(&again.set, &m.set, sizeof(m.set));
        assert_string_equal(other.name, cpu.name);
    }
}

static void test_words(void **state)
{
    static const struct {
        const char *text, *name;
    } cases[] = {
        { "x86-64-v3", "x86-64-v3" },
        { "X86_64_v2", "x86-64-v2" },
        { "x86-64-v3,-avx2", "x86-64-v3,-avx2" },
        { "x86-64-v3,-f16c,-avx2,-avx,-fma", "x86-64-v3,-avx" },
        { "x86-64-v3,-xsave", "x86-64-v3,-xsave" },
        { "x86-64-v3,-lzcnt,-sse4.2", "x86-64-v3,-sse4_2,-abm" },
        { "x86-64-v2,+avx2", "x86-64-v2,+avx2" },
        { "x86-64-v2,+avx,+avx2,+xsave", "x86-64-v2,+avx2" },
        { "x86-64-v2,+aes,-popcnt", "x86-64-v2,-popcnt,+aes" },
        { "x86-64-v3,+avx2", "x86-64-v3" },
        { "x86-64-v1,-avx512f", "x86-64-v1" },
        { "x86-64-v3,+sha-ni,+invtsc", "x86-64-v3,+invtsc,+sha_ni" },
        { "host", "host" },
        { "host,-avx2", "host,-avx2" },
        { "x86-64-v3,-hypervisor,-smap", "x86-64-v3,-hypervisor,-smap" },
    };
    struct hosts_offer o;

    (void)state;
    hosts_bt_offer(hosts_intel, &o);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cpu_model m, again;
        struct vmm_cpu cpu;
        struct err e = { 0 };

        if (vmm_cpu_choose(cases[i].text, &o.offer, "bt", &cpu, &m, &e) < 0)
            fail_msg("%s: %s", cases[i].text, e.text);
        assert_string_equal(cpu.name, cases[i].name);
        assert_int_equal(vmm_cpu_choose(cases[i].name, &o.offer, "bt", &cpu, &again, &e), 0);
        assert_memory_equal(&again.set, &m.set, sizeof(m.set));
    }
}

static void test_refused(void **state)
{
    static const struct {
        bt_cpuid_fn *host;
        const char *text;
        int error;
        const char *said[3]; /* words that the message has */
    } cases[] = {
        { hosts_intel, "x86-64-v4", -EINVAL, { "'x86-64-v4'", "did you mean 'x86-64-v", "cpu ls" } },
        { hosts_intel, "haswell", -EINVAL, { "'haswell'", "cpu ls" } },
        { hosts_intel, "", -EINVAL, { "unknown CPU model" } },
        { hosts_intel, "-avx", -EINVAL, { "'-avx'" } },
        { hosts_intel, "x86-64-v3,-avx3", -EINVAL, { "'avx3'", "did you mean 'avx'" } },
        { hosts_intel, "x86-64-v3,+smapp", -EINVAL, { "'smapp'", "did you mean 'smap'" } },
        { hosts_intel, "x86-64-v3,avx2", -EINVAL, { "'avx2'", "+FEATURE" } },
        { hosts_intel, "x86-64-v3,", -EINVAL, { "+FEATURE" } },
        { hosts_intel, "x86-64-v3,+", -EINVAL, { "+FEATURE" } },
        { hosts_intel, "x86-64-v3,-avx,+avx2", -EINVAL, { "+avx2", "needs avx", "-avx" } },
        { hosts_intel, "x86-64-v3,+aes,-aes", -EINVAL, { "aes" } },
        { hosts_intel, "x86-64-v3,+avx512f", -ENOTSUP, { "avx512f", "the bt engine", "--cpu x86-64-v3" } },
        { hosts_intel, "x86-64-v3,+svm", -ENOTSUP, { "svm" } },
        { hosts_no_avx, "x86-64-v3", -ENOTSUP, { "avx2", "more", "--cpu x86-64-v2" } },
        { hosts_no_aes, "x86-64-v3", -ENOTSUP, { "aes, rdrand", "--cpu x86-64-v3,-aes,-rdrand" } },
        { hosts_no_avx, "x86-64-v2,+avx2", -ENOTSUP, { "avx2", "xsave", "use --cpu x86-64-v2" } },
        { hosts_no_aes, "x86-64-v3,-smap", -ENOTSUP, { "aes", "use --cpu x86-64-v3,-aes,-rdrand,-smap" } },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct hosts_offer o;
        struct cpu_model m;
        struct vmm_cpu cpu;
        struct err e = { 0 };

        hosts_bt_offer(cases[i].host, &o);
        assert_int_equal(vmm_cpu_choose(cases[i].text, &o.offer, "bt", &cpu, &m, &e), cases[i].error);
        for (unsigned k = 0; k < ARRAY_SIZE(cases[i].said) && cases[i].said[k]; k++) {
            if (!strstr(e.text, cases[i].said[k]))
                fail_msg("%s: '%s' does not say '%s'", cases[i].text, e.text, cases[i].said[k]);
        }
        assert_null(strchr(e.text, '\n'));
    }
}

/* Under KVM a portable model states only what differs from it, whatever the host's security features are. */
static void test_native(void **state)
{
    struct hosts_offer o;
    struct cpu_model m;
    struct vmm_cpu cpu;
    struct err e = { 0 };

    (void)state;
    hosts_kvm_offer(&o);
    assert_int_equal(vmm_cpu_choose(NULL, &o.offer, "kvm", &cpu, &m, &e), 0);
    assert_string_equal(cpu.name, "x86-64-v3");
    assert_true(cpu_set_has(&m.set, CPU_F_AMD_IBPB));
    assert_int_equal(vmm_cpu_choose("x86-64-v3,-amd_ibpb", &o.offer, "kvm", &cpu, &m, &e), 0);
    assert_string_equal(cpu.name, "x86-64-v3,-amd_ibpb");
    /* An older CPU: the profile without what it lacks and what needs that, and no words about it. */
    for (unsigned i = 0; i < o.n; i++) {
        if (o.entries[i].function == 1)
            o.entries[i].ecx &= ~(1U << 17); /* PCID */
    }
    cpu_offer_init(&o.offer, o.entries, o.n, true);
    assert_int_equal(vmm_cpu_choose(NULL, &o.offer, "kvm", &cpu, &m, &e), 0);
    assert_string_equal(cpu.name, "x86-64-v3");
    assert_string_equal(cpu.note, "");
    assert_false(cpu_set_has(&m.set, CPU_F_PCID) || cpu_set_has(&m.set, CPU_F_INVPCID));
    assert_int_equal(vmm_cpu_choose("x86-64-v2,+pcid", &o.offer, "kvm", &cpu, &m, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "use --cpu x86-64-v2"));
    assert_null(strstr(e.text, "use --cpu x86-64-v2,"));
}

static void test_topology(void **state)
{
    struct kvm_cpuid_entry2 entries[VMM_CPUID_MAX];
    struct hosts_offer o;
    struct vmm_cpu cpu;
    struct cpu_model m;
    struct err e = { 0 };
    const struct kvm_cpuid_entry2 *one;

    (void)state;
    hosts_bt_offer(hosts_intel, &o);
    assert_int_equal(vmm_cpu_choose("x86-64-v3", &o.offer, "bt", &cpu, &m, &e), 0);
    cpu.n_cpuid = VMM_CPUID_MAX;
    assert_int_equal(cpu_model_cpuid(&m, &o.offer, cpu.cpuid, &cpu.n_cpuid), 0);
    vmm_cpu_topology(&cpu, 3, 5, entries);
    one = cpu_cpuid_find(entries, cpu.n_cpuid, 1, 0);
    assert_non_null(one);
    assert_int_equal(one->ebx, 3U << 24 | 5U << 16 | 8U << 8);
    assert_true(one->edx & (1U << 28));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default), cmocka_unit_test(test_words),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_native),  cmocka_unit_test(test_topology),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
