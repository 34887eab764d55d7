/* See bt_rig.h. */
#include "bt_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cpu/bt/bt.h"
#include "cpu/bt/engine_priv.h"

static void rig_record(struct bt_rig *r, uint64_t addr, void *data, unsigned len, bool write, bool pio)
{
    struct rig_access a = { .addr = addr, .len = len, .write = write, .pio = pio };

    if (write)
        memcpy(&a.value, data, len);
    else
        for (unsigned i = 0; i < len; i++)
            ((uint8_t *)data)[i] = (uint8_t)(addr + i); /* every byte tells its address */
    if (r->n_log < RIG_LOG_MAX)
        r->log[r->n_log++] = a;
}

static void rig_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    rig_record(opaque, port, data, len, write, true);
}

static void rig_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    rig_record(opaque, gpa, data, len, write, false);
}

static const struct cpu_bus_ops rig_bus = { .pio = rig_pio, .mmio = rig_mmio };

struct bt_rig *rig_new(bool amd)
{
    const struct cpu_ops *ops = &cpu_interp_ops;
    struct bt_rig *r = calloc(1, sizeof(*r));
    struct kvm_cpuid_entry2 entries[BT_CPUID_MAX];
    unsigned n = BT_CPUID_MAX;

    assert_non_null(r);
    assert_int_equal(mem_new(&r->mem), 0);
    assert_int_equal(mem_add_ram(r->mem, 0, RIG_RAM_BYTES, false, NULL), 0);
    assert_int_equal(mem_add_ram(r->mem, RIG_ROM, 0x10000, true, NULL), 0);
    assert_int_equal(
        ops->vm_new(&(struct cpu_vm_config){ .mem = r->mem, .bus = &rig_bus, .bus_opaque = r, .max_vcpus = 1 }, &r->vm),
        0);
    assert_int_equal(ops->supported_cpuid(r->vm, entries, &n), 0);
    for (unsigned i = 0; i < n; i++) {
        if (entries[i].function == 0) {
            entries[i].ebx = amd ? 0x68747541 : 0x756e6547;
            entries[i].edx = amd ? 0x69746e65 : 0x49656e69;
            entries[i].ecx = amd ? 0x444d4163 : 0x6c65746e;
        }
    }
    assert_int_equal(ops->vcpu_new(r->vm, 0, &r->vcpu), 0);
    assert_int_equal(ops->vcpu_set_cpuid(r->vcpu, entries, n), 0);
    r->c = &r->vcpu->c;
    return r;
}

void rig_free(struct bt_rig *r)
{
    cpu_interp_ops.vcpu_free(r->vcpu);
    cpu_interp_ops.vm_free(r->vm);
    mem_free(r->mem);
    free(r);
}

/* In a frame of its own: nothing in it lives across the jump but what is behind pointers. */
static NOINLINE int rig_guard(struct bt_rig *r, void (*fn)(struct bt_vcpu *c, void *arg), void *arg)
{
    if (__builtin_setjmp(r->c->jmp))
        return r->c->exc.vector;
    fn(r->c, arg);
    return -1;
}

int rig_try(struct bt_rig *r, void (*fn)(struct bt_vcpu *c, void *arg), void *arg)
{
    int vector;

    r->c->exc.pending = 0;
    vector = rig_guard(r, fn, arg);
    r->c->exc.pending = 0;
    return vector;
}

static uint8_t *rig_host(struct bt_rig *r, uint64_t gpa)
{
    uint8_t *p = mem_ptr(r->mem, GPA(gpa), 8);

    assert_non_null(p);
    return p;
}

void rig_put(struct bt_rig *r, uint64_t gpa, uint64_t value, unsigned size)
{
    memcpy(rig_host(r, gpa), &value, size);
}

uint64_t rig_get(struct bt_rig *r, uint64_t gpa, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, rig_host(r, gpa), size);
    return v;
}

uint64_t rig_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}
