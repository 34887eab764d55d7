/* The engine probe's judgement, with a fake engine that plays the guest's part: it writes results and touches ports as
 * told, so that every way to lose is reached without a CPU. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "cpu/bt/bt.h"
#include "cpu/kvm/kvm.h"
#include "vmm/probe.h"
#include "vmm/probe_guest.h"
#include "vmm/probe_memo.h"

enum fake_mode { FAKE_GOOD, FAKE_WRONG, FAKE_FAULT, FAKE_TRIPLE, FAKE_INTERNAL, FAKE_STUCK, FAKE_SLOW, FAKE_RUN_ERROR };

struct cpu_vm {
    struct cpu_vm_config config;
};
struct cpu_vcpu {
    struct cpu_vm *vm;
    _Atomic bool kicked;
};

/* Tests run one after another; the ops tables have no room for a context. */
static enum fake_mode fake_mode;

static int fake_vm_new(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    *ret_vm = calloc(1, sizeof(**ret_vm));
    assert_non_null(*ret_vm);
    (*ret_vm)->config = *config;
    return 0;
}

static int fake_vm_new_eacces(const struct cpu_vm_config *config, struct cpu_vm **ret_vm)
{
    (void)config;
    (void)ret_vm;
    return -EACCES;
}

static void fake_vm_free(struct cpu_vm *vm)
{
    free(vm);
}

static int fake_supported_cpuid(struct cpu_vm *vm, struct kvm_cpuid_entry2 *entries, unsigned *n_entries)
{
    (void)vm;
    (void)entries;
    *n_entries = 0;
    return 0;
}

static int fake_vcpu_new(struct cpu_vm *vm, unsigned id, struct cpu_vcpu **ret_vcpu)
{
    assert_int_equal(id, 0);
    *ret_vcpu = calloc(1, sizeof(**ret_vcpu));
    assert_non_null(*ret_vcpu);
    (*ret_vcpu)->vm = vm;
    return 0;
}

static void fake_vcpu_free(struct cpu_vcpu *vcpu)
{
    free(vcpu);
}

static int fake_set_cpuid(struct cpu_vcpu *vcpu, const struct kvm_cpuid_entry2 *entries, unsigned n)
{
    (void)vcpu;
    (void)entries;
    (void)n;
    return 0;
}

static int fake_get_regs(struct cpu_vcpu *vcpu, struct kvm_regs *regs)
{
    (void)vcpu;
    memset(regs, 0, sizeof(*regs));
    return 0;
}

static int fake_set_regs(struct cpu_vcpu *vcpu, const struct kvm_regs *regs)
{
    (void)vcpu;
    assert_int_equal(regs->rip, 0);
    return 0;
}

static int fake_get_sregs(struct cpu_vcpu *vcpu, struct kvm_sregs *sregs)
{
    (void)vcpu;
    memset(sregs, 0, sizeof(*sregs));
    return 0;
}

static int fake_set_sregs(struct cpu_vcpu *vcpu, const struct kvm_sregs *sregs)
{
    (void)vcpu;
    assert_int_equal(sregs->cs.base, PROBE_BASE);
    return 0;
}

static void fake_kick(struct cpu_vcpu *vcpu)
{
    vcpu->kicked = true;
}

static void fake_out(struct cpu_vcpu *vcpu, uint16_t port, uint8_t value)
{
    vcpu->vm->config.bus->pio(vcpu->vm->config.bus_opaque, port, &value, 1, true);
}

/* The results as probe_guest.S leaves them on a CPU without XSAVE (checked once under QEMU). */
static void fake_write_results(struct mem *m)
{
    static const struct {
        unsigned index;
        uint64_t value;
    } results[] = {
        { PROBE_R_REAL, 0x1000 },
        { PROBE_R_PROTECTED, 0x1ff00e00 },
        { PROBE_R_LONG, 0xd75b3c6bc36bba41 },
        { PROBE_R_INT3_COUNT, 3 },
        { PROBE_R_INT3_CS, 0x10 },
        { PROBE_R_PF_ERROR, 1 },
        { PROBE_R_PF_CR2, PROBE_HOLE },
        { PROBE_R_PF_VALUE, 0x1234567 },
        { PROBE_R_INVLPG_OLD, 0x1234567 },
        { PROBE_R_INVLPG_NEW, 0x89abcde },
        { PROBE_R_MSR_GS, 0xffff800011223344 },
        { PROBE_R_CX16_HIT, 1 },
        { PROBE_R_CX16_LO, 0xaaaabbbbccccdddd },
        { PROBE_R_CX16_HI, 0x123456789abcdef0 },
        { PROBE_R_CX16_MISS_RAX, 0xaaaabbbbccccdddd },
        { PROBE_R_SSE_INT, 436 },
        { PROBE_R_SSE_FP, 0x40115edd3345d340 },
        { PROBE_R_USER_CS, 0x33 },
        { PROBE_R_USER_SYSCALLS, 0xa3 },
        { PROBE_R_USER_INT3_CS, 0x33 },
        { PROBE_R_TIMER, 1 },
        { PROBE_R_SPEED, 0xb4916967014b6700 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(results); i++) {
        uint64_t value = results[i].value;

        if (fake_mode == FAKE_WRONG && results[i].index == PROBE_R_CX16_HI)
            value ^= 1;
        assert_int_equal(mem_write(m, GPA(PROBE_RESULTS + 8 * results[i].index), &value, 8), 0);
    }
}

static void fake_play_guest(struct cpu_vcpu *vcpu)
{
    fake_write_results(vcpu->vm->config.mem);
    for (unsigned i = 0; i <= PROBE_SPEED_ROUNDS; i++) {
        fake_out(vcpu, PROBE_PORT_STEP, PROBE_STEP_SPEED);
        if (fake_mode == FAKE_SLOW)
            usleep(20000);
    }
    fake_out(vcpu, PROBE_PORT_DONE, 0);
}

static int fake_run(struct cpu_vcpu *vcpu, struct cpu_exit *exit)
{
    fake_out(vcpu, PROBE_PORT_STEP, PROBE_STEP_CMPXCHG16B);
    switch (fake_mode) {
    case FAKE_FAULT:
        fake_out(vcpu, PROBE_PORT_FAULT, 6);
        break;
    case FAKE_TRIPLE:
        exit->reason = CPU_EXIT_SHUTDOWN;
        return 0;
    case FAKE_INTERNAL:
        *exit =
            (struct cpu_exit){ .reason = CPU_EXIT_INTERNAL_ERROR,
                               .internal = { .rip = 0x1234, .bytes = { 0x0f, 0xc7 }, .n_bytes = 2, .why = "emul" } };
        return 0;
    case FAKE_RUN_ERROR:
        return -EIO;
    case FAKE_STUCK:
        break;
    default:
        fake_play_guest(vcpu);
        break;
    }
    while (!vcpu->kicked)
        usleep(1000);
    vcpu->kicked = false;
    exit->reason = CPU_EXIT_KICK;
    return 0;
}

static const struct cpu_ops fake_ops = {
    .name = "fake",
    .vm_new = fake_vm_new,
    .vm_free = fake_vm_free,
    .supported_cpuid = fake_supported_cpuid,
    .vcpu_new = fake_vcpu_new,
    .vcpu_free = fake_vcpu_free,
    .vcpu_run = fake_run,
    .vcpu_kick = fake_kick,
    .vcpu_set_cpuid = fake_set_cpuid,
    .get_regs = fake_get_regs,
    .set_regs = fake_set_regs,
    .get_sregs = fake_get_sregs,
    .set_sregs = fake_set_sregs,
};

static struct vmm_probe_result probe_as(enum fake_mode mode)
{
    struct vmm_probe_result result;

    fake_mode = mode;
    vmm_probe_engine(&fake_ops, &result);
    return result;
}

static void test_good_engine_wins(void **state)
{
    struct vmm_probe_result r = probe_as(FAKE_GOOD);

    (void)state;
    assert_string_equal(r.reason, "");
    assert_true(r.ok);
    assert_int_equal(r.error, 0);
}

static void test_each_defect_loses_with_its_reason(void **state)
{
    static const struct {
        enum fake_mode mode;
        const char *reason;
    } cases[] = {
        { FAKE_WRONG, "CMPXCHG16B: wrong result: 0x123456789abcdef1 instead of 0x123456789abcdef0 (check 14)" },
        { FAKE_FAULT, "CMPXCHG16B: unexpected exception 6" },
        { FAKE_TRIPLE, "CMPXCHG16B: triple fault" },
        { FAKE_INTERNAL, "CMPXCHG16B: emul at rip 0x1234, bytes 0f c7" },
        { FAKE_STUCK, "CMPXCHG16B: no end within 2 s" },
        { FAKE_RUN_ERROR, "CMPXCHG16B: cannot run: Input/output error" },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct vmm_probe_result r = probe_as(cases[i].mode);

        assert_false(r.ok);
        assert_string_equal(r.reason, cases[i].reason);
    }
}

static void test_slow_engine_loses(void **state)
{
    struct vmm_probe_result r = probe_as(FAKE_SLOW);

    (void)state;
    assert_false(r.ok);
    assert_int_equal(strncmp(r.reason, "too slow: 20000 instructions took ", 34), 0);
}

static void test_setup_failure_is_told(void **state)
{
    struct cpu_ops ops = fake_ops;
    struct vmm_probe_result r;

    (void)state;
    ops.vm_new = fake_vm_new_eacces;
    vmm_probe_engine(&ops, &r);
    assert_false(r.ok);
    assert_int_equal(r.error, -EACCES);
    assert_string_equal(r.reason, "cannot be set up: Permission denied");
}

/* The interpreter needs no hardware: on every host it runs the guest code, and fast enough. */
static void test_interpreter_wins(void **state)
{
    struct vmm_probe_result r;

    (void)state;
    vmm_probe_engine(&cpu_interp_ops, &r);
    print_message("interp: %u ns in all, %u ps an instruction\n", (unsigned)r.elapsed_ns, (unsigned)r.insn_ps);
    assert_string_equal(r.reason, "");
    assert_true(r.ok);
}

/* Whatever this host's /dev/kvm is: the probe ends, and says why where it lost. */
static void test_real_kvm_gets_a_verdict(void **state)
{
    struct vmm_probe_result r;

    (void)state;
    vmm_probe_engine(&cpu_kvm_ops, &r);
    assert_int_equal(r.ok, r.reason[0] == '\0');
    print_message("kvm: %s\n", r.ok ? "usable" : r.reason);
}

/* The last word of the memo becomes word. */
static void forge(const char *path, const char *word)
{
    char text[512] = "";
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
    fclose(f);
    *(strrchr(text, ' ') + 1) = '\0';
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fprintf(f, "%s%s\n", text, word) > 0);
    fclose(f);
}

/* What was found before counts, as long as it was found here and now. */
static void test_memo(void **state)
{
    char dir[] = "/tmp/test-probe-XXXXXX", path[64];
    bool found;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(setenv("CAISSON_RUNTIME_DIR", dir, 1), 0);
    snprintf(path, sizeof(path), "%s/kvm-probe", dir);
    found = vmm_probe_memo_kvm();
    if (access(path, F_OK) == 0) { /* no /dev/kvm, no memo */
        assert_int_equal(vmm_probe_memo_kvm(), found);
        forge(path, found ? "no" : "yes");
        assert_int_equal(vmm_probe_memo_kvm(), !found); /* it is believed */
        forge(path, "perhaps");
        assert_int_equal(vmm_probe_memo_kvm(), found); /* probed again */
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(vmm_probe_memo_kvm(), found);
    (void)unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_engine_wins),
        cmocka_unit_test(test_each_defect_loses_with_its_reason),
        cmocka_unit_test(test_slow_engine_loses),
        cmocka_unit_test(test_setup_failure_is_told),
        cmocka_unit_test(test_interpreter_wins),
        cmocka_unit_test(test_real_kvm_gets_a_verdict),
        cmocka_unit_test(test_memo),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
