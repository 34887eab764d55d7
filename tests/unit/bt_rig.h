/* A real vCPU of the interpreter for tests of its system half: engine, memory and interrupt controllers as in a VM, a
 * bus that records, and calls of engine functions with their exceptions caught as the run loop would. */
#ifndef TESTS_BT_RIG_H
#define TESTS_BT_RIG_H

#include "cpu/bt/state.h"

#define RIG_RAM_BYTES (16ULL << 20)
#define RIG_ROM 0x2000000ULL /* 64 KiB that guests cannot write */
#define RIG_MMIO 0xd0000000ULL
#define RIG_LOG_MAX 64

struct rig_access {
    uint64_t addr, value;
    unsigned len;
    bool write, pio;
};

struct bt_rig {
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpu;
    struct bt_vcpu *c;
    struct rig_access log[RIG_LOG_MAX];
    unsigned n_log;
};

/* A VM with one vCPU in reset state; its CPU model is everything that the engine offers, with the vendor's rules of
 * Intel or AMD. Fails the test where the host does not let it. */
struct bt_rig *rig_new(bool amd);
void rig_free(struct bt_rig *r);

/* Call fn(c, arg) as the run loop would: returns -1 where it came back, else the vector that it raised (details are in
 * c->exc; pending is cleared). */
int rig_try(struct bt_rig *r, void (*fn)(struct bt_vcpu *c, void *arg), void *arg);

/* Guest-physical memory. */
void rig_put(struct bt_rig *r, uint64_t gpa, uint64_t value, unsigned size);
uint64_t rig_get(struct bt_rig *r, uint64_t gpa, unsigned size);

/* A code or data descriptor. access: the byte with P, DPL, S, type; flags: G, D/B, L, AVL in bits 3..0. */
uint64_t rig_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags);

#endif
