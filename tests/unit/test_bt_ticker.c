/* The ticker thread with real clocks: no expiry is lost, none comes early, whoever arms when. Run it under TSan as
 * well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/bt/irqchip/chip.h"
#include "cpu/bt/mmu.h"
#include "cpu/bt/sys.h"

#define VCPUS 3
#define ROUNDS 400

static struct bt_vm vm;

void bt_vcpu_signal(struct bt_vcpu *c, uint32_t events)
{
    atomic_fetch_or(&c->events, events);
}

void bt_tlb_flush_all(struct bt_vcpu *c)
{
    (void)c;
}

bool bt_has_cpuid(const struct bt_vcpu *c, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    (void)c;
    (void)leaf;
    (void)subleaf;
    (void)reg;
    (void)bit;
    return true;
}

/* A vCPU that runs: sets its deadline, perhaps moves it, and waits for the interrupt. */
static void *vcpu_main(void *opaque)
{
    struct bt_vcpu *c = opaque;
    unsigned seed = c->id + 1;

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t deadline = bt_host_tsc() + (uint64_t)(rand_r(&seed) % 300) * vm.tsc_khz / 1000;

        if (i % 3 == 0)
            bt_lapic_msr_write(c, 0x6e0, deadline + vm.tsc_khz * 1000, false);
        bt_lapic_msr_write(c, 0x6e0, deadline, false);
        while (bt_irq_pending(c) < 0) {
            if (atomic_load(&c->events) & BT_EV_TIMER) {
                atomic_fetch_and(&c->events, ~(uint32_t)BT_EV_TIMER);
                bt_timers_run(c);
            } else {
                sched_yield();
            }
        }
        if (bt_host_tsc() < deadline || bt_irq_ack(c) != 0x60)
            return c;
        bt_lapic_msr_write(c, 0x80b, 0, false);
    }
    return NULL;
}

static void test_expiries(void **state)
{
    pthread_t threads[VCPUS];

    (void)state;
    assert_int_equal(bt_irqchip_new(&vm, &vm.irqchip), 0);
    assert_true(vm.tsc_khz > 100000);
    for (unsigned i = 0; i < VCPUS; i++) {
        struct bt_vcpu *c = aligned_alloc(64, sizeof(*c));

        assert_non_null(c);
        memset(c, 0, sizeof(*c));
        c->vm = &vm;
        c->id = i;
        vm.vcpus[i] = c;
        assert_int_equal(bt_lapic_new(c, &c->lapic), 0);
        assert_true(bt_lapic_msr_write(c, 0x1b, 0xfee00c00, true));
        assert_true(bt_lapic_msr_write(c, 0x80f, 0x1ff, false));
        assert_true(bt_lapic_msr_write(c, 0x832, 0x40060, false));
    }
    for (unsigned i = 0; i < VCPUS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, vcpu_main, vm.vcpus[i]), 0);
    for (unsigned i = 0; i < VCPUS; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    /* Freed while the ticker is at work */
    for (unsigned i = 0; i < VCPUS; i++) {
        bt_lapic_msr_write(vm.vcpus[i], 0x6e0, bt_host_tsc() + 1000, false);
        bt_lapic_free(vm.vcpus[i]->lapic);
        free(vm.vcpus[i]);
    }
    bt_irqchip_free(vm.irqchip);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_expiries) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
