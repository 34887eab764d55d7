/* A rig for tests of cpu/bt/irqchip: a VM without a run loop, whose clock stands still unless told, and whose vCPUs
 * only collect event bits. */
#ifndef TESTS_BT_IRQCHIP_FAKE_H
#define TESTS_BT_IRQCHIP_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/bt/irqchip/chip.h"
#include "cpu/bt/irqchip/pv.h"
#include "cpu/bt/state.h"

#define FAKE_APIC 0xfee00000ULL
#define FAKE_IOAPIC 0xfec00000ULL

struct fake {
    struct bt_vm vm;
    struct mem *mem;
};

/* The world outside, as the fakes see it. One rig at a time. */
extern uint64_t fake_tsc; /* 1 GHz: also ns */
extern uint64_t fake_mono, fake_real, fake_run_delay;
extern unsigned fake_ticker_wakes, fake_tlb_flushes, fake_yields;
extern bool fake_x2apic; /* CPUID */

struct fake *fake_new(unsigned vcpus);
void fake_free(struct fake *f);
struct bt_vcpu *fake_vcpu(struct fake *f, unsigned id);

/* Switch the LAPIC on by SVR (spurious vector 0xff). */
void fake_apic_on(struct bt_vcpu *c);
void fake_x2_on(struct bt_vcpu *c);
uint32_t fake_apic_read(struct bt_vcpu *c, unsigned off);
void fake_apic_write(struct bt_vcpu *c, unsigned off, uint32_t value);
uint32_t fake_io_read(struct bt_vcpu *c, unsigned reg);
void fake_io_write(struct bt_vcpu *c, unsigned reg, uint32_t value);
/* 64-bit redirection entry. */
void fake_io_redir(struct bt_vcpu *c, unsigned pin, uint64_t entry);
uint8_t fake_in(struct bt_vcpu *c, uint16_t port);
void fake_out(struct bt_vcpu *c, uint16_t port, uint8_t value);
/* rdmsr that must work; wrmsr that returns whether it did. */
uint64_t fake_rdmsr(struct bt_vcpu *c, uint32_t index);
bool fake_wrmsr(struct bt_vcpu *c, uint32_t index, uint64_t value);
/* Event bits since the last call. */
uint32_t fake_events(struct bt_vcpu *c);
/* What the run loop does: expire timers if asked to, and take an interrupt (-1: none). */
void fake_pump(struct bt_vcpu *c);
int fake_take(struct bt_vcpu *c);
/* Let time pass; what the ticker would do is done. */
void fake_wait(struct fake *f, uint64_t ns);

#endif
