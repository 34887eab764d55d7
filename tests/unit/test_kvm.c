/* The KVM engine, with a few bytes of real-mode code, which even a KVM without hardware behind it can run. Skipped
 * where there is no /dev/kvm. What needs a real guest is in tests/guest. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "cpu/kvm/kvm.h"

#define CODE_GPA 0x1000
#define ROM_GPA 0x10000

struct access {
    uint64_t addr, data;
    unsigned len;
    bool write, mmio;
};

struct fixture {
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpu;
    struct access log[32];
    unsigned n_log;
};

static const struct cpu_ops *const ops = &cpu_kvm_ops;

static void note(struct fixture *f, uint64_t addr, void *data, unsigned len, bool write, bool mmio)
{
    struct access a = { .addr = addr, .len = len, .write = write, .mmio = mmio };

    if (!write)
        memset(data, 0x5a, len);
    memcpy(&a.data, data, len);
    if (f->n_log < ARRAY_SIZE(f->log))
        f->log[f->n_log++] = a;
    if (!mmio && addr == 0xf4)
        ops->vcpu_kick(f->vcpu);
}

static void on_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    note(opaque, port, data, len, write, false);
}

static void on_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    note(opaque, gpa, data, len, write, true);
}

static const struct cpu_bus_ops bus = { .pio = on_pio, .mmio = on_mmio };

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct cpu_vm_config config = { .bus = &bus, .bus_opaque = f, .max_vcpus = 2 };

    assert_non_null(f);
    *state = f;
    assert_int_equal(mem_new(&f->mem), 0);
    assert_int_equal(mem_add_ram(f->mem, 0, 0x10000, false, NULL), 0);
    assert_int_equal(mem_add_ram(f->mem, ROM_GPA, 0x1000, true, NULL), 0);
    config.mem = f->mem;
    if (ops->vm_new(&config, &f->vm) < 0)
        return 0; /* each test skips itself */
    assert_int_equal(ops->vcpu_new(f->vm, 0, &f->vcpu), 0);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (f->vcpu)
        ops->vcpu_free(f->vcpu);
    ops->vm_free(f->vm);
    mem_free(f->mem);
    free(f);
    return 0;
}

static struct fixture *fixture_with_code(void **state, const void *code, size_t len)
{
    struct fixture *f = *state;
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2, .rsp = 0x800 };

    if (!f->vm)
        skip();
    assert_int_equal(mem_write(f->mem, GPA(CODE_GPA), code, len), 0);
    assert_int_equal(ops->get_sregs(f->vcpu, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(ops->set_sregs(f->vcpu, &sregs), 0);
    assert_int_equal(ops->set_regs(f->vcpu, &regs), 0);
    return f;
}

#define CODE(...)                                                                                \
    static const uint8_t code[] = { __VA_ARGS__, 0xe6, 0xf4, 0xeb, 0xfe }; /* out 0xf4; jmp . */ \
    struct fixture *f = fixture_with_code(state, code, sizeof(code))

static void run_to_kick(struct fixture *f)
{
    struct cpu_exit exit;

    assert_int_equal(ops->vcpu_run(f->vcpu, &exit), 0);
    assert_int_equal(exit.reason, CPU_EXIT_KICK);
}

static void expect_access(const struct access *a, uint64_t addr, uint64_t data, unsigned len, bool write, bool mmio)
{
    assert_int_equal(a->addr, addr);
    assert_int_equal(a->data, data);
    assert_int_equal(a->len, len);
    assert_int_equal(a->write, write);
    assert_int_equal(a->mmio, mmio);
}

static void test_port_accesses_reach_the_bus(void **state)
{
    /* mov al,0x77; out 0xe9,al; mov dx,0x123; in ax,dx; mov [0x2000],ax; mov cx,3; mov si,0x1000; rep outsb */
    CODE(0xb0, 0x77, 0xe6, 0xe9, 0xba, 0x23, 0x01, 0xed, 0xa3, 0x00, 0x20, 0xb9, 0x03, 0x00, 0xbe, 0x00, 0x10, 0xf3,
         0x6e);
    uint16_t stored;

    run_to_kick(f);
    assert_int_equal(f->n_log, 6);
    expect_access(&f->log[0], 0xe9, 0x77, 1, true, false);
    expect_access(&f->log[1], 0x123, 0x5a5a, 2, false, false);
    for (unsigned i = 0; i < 3; i++)
        expect_access(&f->log[2 + i], 0x123, code[i], 1, true, false);
    assert_int_equal(mem_read(f->mem, GPA(0x2000), &stored, 2), 0);
    assert_int_equal(stored, 0x5a5a);
}

static void test_mmio_reaches_the_bus_and_rom_writes_do_not(void **state)
{
    /* mov ax,0x2000; mov ds,ax; mov dword [4],0x11223344; mov bx,[6]; mov ax,0x1000; mov ds,ax; mov byte [8],1 */
    CODE(0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x66, 0xc7, 0x06, 0x04, 0x00, 0x44, 0x33, 0x22, 0x11, 0x8b, 0x1e, 0x06, 0x00,
         0xb8, 0x00, 0x10, 0x8e, 0xd8, 0xc6, 0x06, 0x08, 0x00, 0x01);
    struct kvm_regs regs;

    run_to_kick(f);
    assert_int_equal(f->n_log, 3);
    expect_access(&f->log[0], 0x20004, 0x11223344, 4, true, true);
    expect_access(&f->log[1], 0x20006, 0x5a5a, 2, false, true);
    assert_int_equal(ops->get_regs(f->vcpu, &regs), 0);
    assert_int_equal(regs.rbx & 0xffff, 0x5a5a);
    assert_int_equal(((uint8_t *)mem_ptr(f->mem, GPA(ROM_GPA), 1))[8], 0);
}

static void test_doorbell_takes_the_write(void **state)
{
    /* mov dx,0x300; mov ax,1; out dx,ax; mov al,2; out dx,al */
    CODE(0xba, 0x00, 0x03, 0xb8, 0x01, 0x00, 0xef, 0xb0, 0x02, 0xee);
    struct cpu_doorbell bell = { .addr = 0x300, .len = 2, .pio = true, .fd = eventfd(0, EFD_NONBLOCK) };
    eventfd_t count;

    assert_int_equal(ops->doorbell_add(f->vm, &bell), 0);
    run_to_kick(f);
    assert_int_equal(eventfd_read(bell.fd, &count), 0);
    assert_int_equal(count, 1);
    expect_access(&f->log[0], 0x300, 2, 1, true, false);
    assert_int_equal(ops->doorbell_del(f->vm, &bell), 0);
    assert_true(ops->doorbell_del(f->vm, &bell) < 0);
    close(bell.fd);
}

static void test_irqfds_and_lines(void **state)
{
    struct fixture *f = fixture_with_code(state, "", 1);
    int fd = eventfd(0, EFD_NONBLOCK);

    assert_int_equal(ops->irqfd_add(f->vm, fd, 0xfee00000, 0x4041), 0);
    assert_int_equal(ops->irqfd_add(f->vm, fd, 0xfee00000, 0x4041), -EEXIST);
    assert_int_equal(ops->irqfd_del(f->vm, fd), 0);
    assert_int_equal(ops->irqfd_del(f->vm, fd), -ENOENT);
    assert_int_equal(ops->irqfd_add(f->vm, -1, 0xfee00000, 0x4041), -EBADF);
    close(fd);
    assert_int_equal(ops->irq_line(f->vm, 24, true), -EINVAL);
    assert_int_equal(ops->irq_line(f->vm, 5, true), 0);
    assert_int_equal(ops->irq_line(f->vm, 5, false), 0);
    assert_int_equal(ops->signal_msi(f->vm, 0xfee00000, 0x4041), 0);
}

static void *kick_later(void *opaque)
{
    struct fixture *f = opaque;

    usleep(20000);
    ops->vcpu_kick(f->vcpu);
    return NULL;
}

static void test_kick_before_and_during_run(void **state)
{
    CODE(0xeb, 0xfe);
    pthread_t thread;

    ops->vcpu_kick(f->vcpu);
    run_to_kick(f);
    assert_int_equal(pthread_create(&thread, NULL, kick_later, f), 0);
    run_to_kick(f);
    pthread_join(thread, NULL);
    assert_int_equal(f->n_log, 0);
}

static void test_dirty_log(void **state)
{
    /* mov byte [0x3000],1 */
    CODE(0xc6, 0x06, 0x00, 0x30, 0x01);
    uint64_t bitmap[1];

    assert_int_equal(ops->sync_dirty(f->vm), -EINVAL);
    assert_int_equal(ops->log_dirty(f->vm, true), 0);
    run_to_kick(f);
    assert_int_equal(ops->sync_dirty(f->vm), 0);
    assert_true(mem_fetch_dirty(f->mem, &f->mem->regions[0], bitmap) >= 1);
    assert_true(bitmap[0] & BIT64(3));
    assert_false(bitmap[0] & BIT64(5));
    assert_int_equal(ops->sync_dirty(f->vm), 0);
    assert_int_equal(mem_fetch_dirty(f->mem, &f->mem->regions[0], bitmap), 0);
    assert_int_equal(ops->log_dirty(f->vm, false), 0);
}

static void test_state_round_trip(void **state)
{
    struct fixture *f = fixture_with_code(state, "", 1);
    struct cpu_msr_entry msrs[] = { { 0xc0000102, 0xffff800000001000 }, { 0x10, 0 }, { 0x12345678, 0 }, { 0x1b, 0 } };
    struct kvm_xsave xsave;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    struct kvm_debugregs debug;
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

    assert_int_equal(ops->set_msrs(f->vcpu, msrs, 1), 1);
    msrs[0].value = 0;
    assert_int_equal(ops->get_msrs(f->vcpu, msrs, 4), 2); /* the third does not exist */
    assert_int_equal(msrs[0].value, 0xffff800000001000);
    assert_int_equal(ops->get_xsave(f->vcpu, &xsave), 0);
    assert_int_equal(ops->set_xsave(f->vcpu, &xsave), 0);
    assert_int_equal(ops->get_lapic(f->vcpu, &lapic), 0);
    assert_int_equal(ops->set_lapic(f->vcpu, &lapic), 0);
    assert_int_equal(ops->get_events(f->vcpu, &events), 0);
    assert_int_equal(ops->set_events(f->vcpu, &events), 0);
    assert_int_equal(ops->get_mp_state(f->vcpu, &mp), 0);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
    assert_int_equal(ops->set_mp_state(f->vcpu, &mp), 0);
    assert_int_equal(ops->get_debugregs(f->vcpu, &debug), 0);
    assert_int_equal(ops->set_debugregs(f->vcpu, &debug), 0);
    assert_int_equal(ops->get_pit(f->vm, &pit), 0);
    assert_int_equal(ops->set_pit(f->vm, &pit), 0);
    assert_int_equal(ops->get_clock(f->vm, &clock), 0);
    assert_int_equal(ops->set_clock(f->vm, &clock), 0);
    assert_int_equal(ops->get_irqchip(f->vm, &chip), 0);
    assert_int_equal(ops->set_irqchip(f->vm, &chip), 0);
}

static void test_bad_arguments(void **state)
{
    struct fixture *f = fixture_with_code(state, "", 1);
    struct cpu_vm_config config = { .mem = f->mem, .bus = &bus, .max_vcpus = 0 };
    struct kvm_cpuid_entry2 one;
    struct cpu_vcpu *vcpu = NULL;
    struct cpu_vm *vm = NULL;
    unsigned n = 1;

    assert_int_equal(ops->vm_new(&config, &vm), -EINVAL);
    assert_null(vm);
    assert_int_equal(ops->vcpu_new(f->vm, 2, &vcpu), -EINVAL);
    assert_true(ops->vcpu_new(f->vm, 0, &vcpu) < 0); /* exists */
    assert_null(vcpu);
    assert_int_equal(ops->supported_cpuid(f->vm, &one, &n), -E2BIG);
    ops->vm_free(NULL);
}

static void count_figure(void *opaque, const char *name, uint64_t value)
{
    if (strcmp(name, "pio_accesses") == 0)
        *(uint64_t *)opaque = value;
}

static void test_stats_count_accesses(void **state)
{
    CODE(0xe6, 0x80);
    uint64_t pio = 0;

    run_to_kick(f);
    assert_int_equal(ops->stats(f->vm, count_figure, &pio), 0);
    assert_int_equal(pio, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_port_accesses_reach_the_bus, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mmio_reaches_the_bus_and_rom_writes_do_not, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_doorbell_takes_the_write, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_irqfds_and_lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kick_before_and_during_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dirty_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_state_round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stats_count_accesses, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
