/* VM specification: JSON round trip, refusal of what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vm_spec.h"

static void test_round_trip(void **state)
{
    struct vm_spec a, b;
    struct err e = { 0 };
    char *text = NULL;

    (void)state;
    vm_spec_init(&a);
    vm_spec_init(&b);
    a.name = strdup("web-1");
    a.kernel = strdup("/boot/vmlinuz \"quoted\"");
    a.append = strdup("console=ttyS0");
    a.disks[0] = (struct vm_disk){ .path = strdup("/a,b"), .serial = strdup("S1"), .read_only = true };
    a.disks[1] = (struct vm_disk){ .path = strdup("/c") };
    a.n_disks = 2;
    a.net = VM_NET_USER;
    a.forwards[0] = (struct vm_forward){ .udp = true, .host_port = 65535, .guest_port = 1 };
    a.n_forwards = 1;
    a.memory = 5ULL << 30;
    a.cpus = 64;
    a.cpu = strdup("x86-64-v2,-popcnt");
    a.engine = VM_ENGINE_INTERP;
    a.console = VM_CONSOLE_FILE;
    a.console_file = strdup("log");
    a.console_device = VM_CONSOLE_VIRTIO;
    a.debug_exit = true;
    assert_int_equal(vm_spec_to_json(&a, &text), 0);
    assert_int_equal(vm_spec_from_json(text, &b, &e), 0);
    assert_string_equal(b.name, a.name);
    assert_string_equal(b.kernel, a.kernel);
    assert_null(b.initrd);
    assert_int_equal(b.n_disks, 2);
    assert_string_equal(b.disks[0].serial, "S1");
    assert_true(b.disks[0].read_only);
    assert_false(b.disks[1].read_only);
    assert_null(b.disks[1].serial);
    assert_int_equal(b.n_forwards, 1);
    assert_true(b.forwards[0].udp);
    assert_int_equal(b.forwards[0].host_port, 65535);
    assert_int_equal(b.memory, 5ULL << 30);
    assert_int_equal(b.cpus, 64);
    assert_string_equal(b.cpu, "x86-64-v2,-popcnt");
    assert_int_equal(b.engine, VM_ENGINE_INTERP);
    assert_int_equal(b.console, VM_CONSOLE_FILE);
    assert_string_equal(b.console_file, "log");
    assert_int_equal(b.console_device, VM_CONSOLE_VIRTIO);
    assert_true(b.debug_exit);
    assert_false(b.no_reboot);
    free(text);
    vm_spec_done(&a);
    vm_spec_done(&b);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *named; /* named: what the message must contain */
    } cases[] = {
        { "", "JSON" },
        { "[]", "JSON" },
        { "{\"kernel\":\"k\"", "JSON" },
        { "{}", "--kernel" },
        { "{\"kernel\":5}", "kernel" },
        { "{\"kernel\":\"k\",\"bogus\":1}", "bogus" },
        { "{\"kernel\":\"k\",\"memory\":4096}", "--memory" },
        { "{\"kernel\":\"k\",\"memory\":16777217}", "--memory" },
        { "{\"kernel\":\"k\",\"memory\":-1}", "memory" },
        { "{\"kernel\":\"k\",\"cpus\":0}", "--cpus" },
        { "{\"kernel\":\"k\",\"cpus\":65}", "cpus" },
        { "{\"kernel\":\"k\",\"cpu\":5}", "cpu" },
        { "{\"kernel\":\"k\",\"cpu\":\"\"}", "--cpu" },
        { "{\"kernel\":\"k\",\"engine\":\"xen\"}", "engine" },
        { "{\"kernel\":\"k\",\"name\":\"-x\"}", "-x" },
        { "{\"kernel\":\"k\",\"disks\":[{\"path\":\"\"}]}", "disk" },
        { "{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"speed\":1}]}", "speed" },
        { "{\"kernel\":\"k\",\"disks\":[1]}", "disk" },
        { "{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"serial\":\"123456789012345678901\"}]}", "serial" },
        { "{\"kernel\":\"k\",\"net\":\"user\",\"forwards\":[{\"host_port\":0,\"guest_port\":1}]}", "host_port" },
        { "{\"kernel\":\"k\",\"net\":\"none\",\"forwards\":[{\"host_port\":1,\"guest_port\":1}]}", "--net user" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vm_spec s;
        struct err e = { 0 };

        vm_spec_init(&s);
        assert_int_equal(vm_spec_from_json(cases[i].text, &s, &e), -EINVAL);
        if (!strstr(e.text, cases[i].named))
            fail_msg("case %zu: '%s' does not name '%s'", i, e.text, cases[i].named);
        vm_spec_done(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
