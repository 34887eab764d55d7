/* A bare vCPU for tests of instruction handlers: identity-mapped scratch memory behind the soft TLB, exceptions that
 * come back as values, and fakes of what the handlers call in other parts of the engine. */
#ifndef TESTS_BT_FAKE_H
#define TESTS_BT_FAKE_H

#include <setjmp.h>

#include "cpu/bt/decode.h"
#include "cpu/bt/state.h"

#define BT_FAKE_PAGES 4

struct bt_fake {
    struct bt_vcpu *c;
    struct bt_vm vm;
    struct mem mem;
    struct mem_region region;
    _Atomic uint64_t code_mask[BT_FAKE_PAGES];
    uint8_t *scratch; /* BT_FAKE_PAGES pages below 4 GiB; linear address = host address */
    jmp_buf on_raise;
    int vector; /* of the last exception, -1: none */
    uint32_t error;
    unsigned writes_noted;
    unsigned foreign;   /* instructions that bt_bind_int did not want */
    bool hide_features; /* bt_has_cpuid answers no to all */
};

/* Map memory and reset; the tests fail if the host does not let them. One at a time. */
struct bt_fake *bt_fake_new(void);
void bt_fake_free(struct bt_fake *f);
/* Registers zero, the given mode with flat segments, TLB as by default: all scratch pages hit. */
void bt_fake_reset(struct bt_fake *f, enum bt_mode mode);
/* Empty the TLB, so that the slow paths are taken. */
void bt_fake_no_tlb(struct bt_fake *f);
/* Run one operation at c->rip. Returns what the handler returned, or -1 where it raised f->vector. */
int bt_fake_run(struct bt_fake *f, const struct bt_op *op);

#endif
