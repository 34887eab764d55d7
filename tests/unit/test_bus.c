/* hw/bus: ranges, overlaps, limits, accesses at and across edges, changes from inside a handler. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "hw/bus.h"

struct probe {
    struct bus *bus;
    uint64_t off;
    unsigned len, calls;
    uint64_t value;
    bool remove_self;
    uint64_t base;
};

static void probe_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct probe *p = dev;

    p->off = off;
    p->len = len;
    p->calls++;
    memcpy(data, &p->value, len);
}

static void probe_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct probe *p = dev;

    p->off = off;
    p->len = len;
    p->calls++;
    p->value = 0;
    memcpy(&p->value, data, len);
    if (p->remove_self)
        bus_remove(p->bus, p->base, p);
}

static const struct bus_ops probe_ops = { .read = probe_read, .write = probe_write };

static void test_access(void **state)
{
    AUTO(bus) struct bus *b = NULL;
    struct probe lo = { .value = 0x1122334455667788 }, hi = { .value = 0xaa };
    uint64_t v = 0;

    assert_int_equal(bus_new(0xffff, &b), 0);
    assert_int_equal(bus_add(b, 0x60, 1, &probe_ops, &hi), 0);
    assert_int_equal(bus_add(b, 0x40, 0x10, &probe_ops, &lo), 0);
    assert_true(bus_read(b, 0x48, &v, 8));
    assert_true(v == 0x1122334455667788);
    assert_int_equal(lo.off, 8);
    assert_int_equal(lo.len, 8);
    assert_true(bus_write(b, 0x60, &(uint8_t){ 0x5c }, 1));
    assert_int_equal(hi.value, 0x5c);
    /* across an edge, in a hole, past the end of the address space */
    v = 0;
    assert_false(bus_read(b, 0x4e, &v, 4));
    assert_int_equal(v, 0xffffffff);
    assert_false(bus_read(b, 0x3f, &v, 2));
    assert_false(bus_write(b, 0x60, &v, 2));
    assert_false(bus_read(b, 0x50, &v, 1));
    assert_false(bus_read(b, UINT64_MAX, &v, 8));
    assert_int_equal(lo.calls, 1);
    assert_int_equal(hi.calls, 1);
}

static void test_overlap(void **state)
{
    AUTO(bus) struct bus *b = NULL;
    struct probe a = { 0 }, c = { 0 };
    uint8_t byte;

    assert_int_equal(bus_new(0xffff, &b), 0);
    assert_int_equal(bus_add(b, 0x100, 0x10, &probe_ops, &a), 0);
    assert_int_equal(bus_add(b, 0x10f, 1, &probe_ops, &c), -EEXIST);
    assert_int_equal(bus_add(b, 0xf8, 9, &probe_ops, &c), -EEXIST);
    assert_int_equal(bus_add(b, 0xf0, 0x100, &probe_ops, &c), -EEXIST);
    assert_int_equal(bus_add(b, 0xf0, 0x10, &probe_ops, &c), 0);
    assert_int_equal(bus_add(b, 0x110, 0x10, &probe_ops, &c), 0);
    assert_int_equal(bus_add(b, 0xffff, 2, &probe_ops, &c), -EINVAL);
    assert_int_equal(bus_add(b, 0xffff, 1, &probe_ops, &c), 0);
    assert_int_equal(bus_add(b, 0x200, 0, &probe_ops, &c), -EINVAL);
    assert_int_equal(bus_add(b, 0x200, UINT64_MAX, &probe_ops, &c), -EINVAL);
    bus_remove(b, 0x100, &c); /* not its owner */
    assert_true(bus_read(b, 0x100, &byte, 1));
    bus_remove(b, 0x101, &a); /* not its base */
    assert_true(bus_read(b, 0x100, &byte, 1));
    bus_remove(b, 0x100, &a);
    assert_false(bus_read(b, 0x100, &byte, 1));
    assert_true(bus_read(b, 0x110, &byte, 1));
}

static void test_many_and_top(void **state)
{
    AUTO(bus) struct bus *b = NULL;
    static struct probe probes[200];
    uint8_t byte;

    assert_int_equal(bus_new(UINT64_MAX, &b), 0);
    for (unsigned i = 0; i < 200; i++) {
        unsigned at = i * 67 % 200; /* not in order */

        probes[at].value = at;
        assert_int_equal(bus_add(b, at * 0x1000ULL, 0x1000, &probe_ops, &probes[at]), 0);
    }
    for (unsigned i = 0; i < 200; i++) {
        assert_true(bus_read(b, i * 0x1000ULL + 0xfff, &byte, 1));
        assert_int_equal(byte, i);
        assert_int_equal(probes[i].off, 0xfff);
    }
    assert_int_equal(bus_add(b, UINT64_MAX - 0xfff, 0x1000, &probe_ops, &probes[7]), 0);
    assert_true(bus_read(b, UINT64_MAX, &byte, 1));
    assert_int_equal(byte, 7);
}

static void test_change_inside_handler(void **state)
{
    AUTO(bus) struct bus *b = NULL;
    struct probe p = { .remove_self = true, .base = 0x10 };

    assert_int_equal(bus_new(0xffff, &b), 0);
    p.bus = b;
    assert_int_equal(bus_add(b, 0x10, 1, &probe_ops, &p), 0);
    assert_true(bus_write(b, 0x10, &(uint8_t){ 1 }, 1));
    assert_false(bus_write(b, 0x10, &(uint8_t){ 2 }, 1));
    assert_int_equal(p.value, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_many_and_top),
        cmocka_unit_test(test_change_inside_handler),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
