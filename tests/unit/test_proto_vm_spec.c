/* VM specification: JSON round trip, refusal of what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/vm_spec.h"
#include "refused.h"

static void fill_nets(struct vm_spec *s)
{
    struct vm_nic *n = s->nets;

    n[0] = (struct vm_nic){ .kind = VM_NIC_USER, .no_offloads = true, .n_forwards = 2 };
    n[0].forwards[0] = (struct vm_forward){ true, 0x7f000001, 65535, 1 };
    n[0].forwards[1] = (struct vm_forward){ false, 0, 8080, 80 };
    n[1] = (struct vm_nic){ .kind = VM_NIC_NETWORK,
                            .name = "lan",
                            .network = "web",
                            .mtu = 9000,
                            .queues = 8,
                            .vlan = 4094,
                            .mac = { 2, 0, 0, 0xab, 0xcd, 0xef },
                            .fds = { 5, 6, 7 },
                            .n_fds = 3 };
    n[2] = (struct vm_nic){ .kind = VM_NIC_TAP, .ifname = "tap0123456789ab" };
    s->n_nets = 3;
}

static void check_nets(const struct vm_spec *a, const struct vm_spec *b)
{
    assert_int_equal(b->n_nets, a->n_nets);
    for (unsigned i = 0; i < a->n_nets; i++) {
        const struct vm_nic *x = &a->nets[i], *y = &b->nets[i];

        assert_int_equal(y->kind, x->kind);
        assert_string_equal(y->name, x->name);
        assert_string_equal(y->network, x->network);
        assert_string_equal(y->ifname, x->ifname);
        assert_memory_equal(y->mac, x->mac, 6);
        assert_int_equal(y->mtu, x->mtu);
        assert_int_equal(y->queues, x->queues);
        assert_int_equal(y->no_offloads, x->no_offloads);
        assert_int_equal(y->vlan, x->vlan);
        assert_int_equal(y->n_forwards, x->n_forwards);
        for (unsigned f = 0; f < x->n_forwards; f++) {
            assert_int_equal(y->forwards[f].udp, x->forwards[f].udp);
            assert_int_equal(y->forwards[f].host_addr, x->forwards[f].host_addr);
            assert_int_equal(y->forwards[f].host_port, x->forwards[f].host_port);
            assert_int_equal(y->forwards[f].guest_port, x->forwards[f].guest_port);
        }
        assert_int_equal(y->n_fds, x->n_fds);
        assert_memory_equal(y->fds, x->fds, sizeof(x->fds));
    }
}

/* Names and MACs of cards: chosen where there are none, the same for the same VM, different for each card. */
static void test_complete(void **state)
{
    struct vm_spec a, b, c;
    struct err e = { 0 };

    (void)state;
    vm_spec_init(&a);
    vm_spec_init(&b);
    vm_spec_init(&c);
    assert_int_equal(a.n_nets, 1);
    assert_int_equal(a.nets[0].kind, VM_NIC_USER);
    a.name = strdup("web");
    b.name = strdup("web");
    c.name = strdup("wec");
    a.n_nets = b.n_nets = c.n_nets = 3;
    a.nets[2] = (struct vm_nic){ .name = "x", .mac = { 2, 1, 1, 1, 1, 1 } };
    assert_int_equal(vm_spec_complete(&a, &e), 0);
    assert_int_equal(vm_spec_complete(&b, &e), 0);
    assert_int_equal(vm_spec_complete(&c, &e), 0);
    assert_string_equal(a.nets[0].name, "net0");
    assert_string_equal(a.nets[1].name, "net1");
    assert_string_equal(a.nets[2].name, "x");
    assert_int_equal(a.nets[2].mac[1], 1);
    assert_int_equal(a.nets[0].mac[0] & 3, 2); /* locally administered, unicast */
    for (unsigned i = 0; i < 2; i++) {
        assert_memory_equal(a.nets[i].mac, b.nets[i].mac, 6);
        assert_memory_not_equal(a.nets[i].mac, c.nets[i].mac, 6);
    }
    assert_memory_not_equal(a.nets[0].mac, a.nets[1].mac, 6);
    /* VMs without names on one network must not meet with the same address. */
    vm_spec_done(&b);
    vm_spec_done(&c);
    b = c = (struct vm_spec){ .n_nets = 1, .nets[0] = { .kind = VM_NIC_NETWORK } };
    assert_int_equal(vm_spec_complete(&b, &e), 0);
    assert_int_equal(vm_spec_complete(&c, &e), 0);
    assert_memory_not_equal(b.nets[0].mac, c.nets[0].mac, 6);
    vm_spec_done(&a);
}

/* *ret_b is what is read back of a; the caller frees both. */
static void there_and_back(const struct vm_spec *a, struct vm_spec *ret_b)
{
    struct err e = { 0 };
    char *text = NULL;

    vm_spec_init(ret_b);
    assert_int_equal(vm_spec_to_json(a, &text), 0);
    if (vm_spec_from_json(text, ret_b, &e) != 0)
        fail_msg("%s: %s", text, e.text);
    free(text);
}

static void test_disks(void **state)
{
    struct vm_spec a, b;

    (void)state;
    vm_spec_init(&a);
    a.kernel = strdup("k");
    a.n_disks = 3;
    a.disks[0] = (struct vm_disk){ .path = strdup("/a"),
                                   .format = strdup("qcow2"),
                                   .secret_file = strdup("/s"),
                                   .ignore_discard = true,
                                   .wait_on_error = true,
                                   .no_readahead = true,
                                   .cache = VM_CACHE_UNSAFE,
                                   .aio = VM_AIO_THREADS,
                                   .weight = 10000,
                                   .queues = 16 };
    for (unsigned i = 0; i < VM_LIMITS; i++)
        a.disks[0].limits[i] = (struct vm_limit){ .rate = INT64_MAX - i, .burst = i };
    a.disks[1] = (struct vm_disk){ .path = strdup("/b"), .read_only = true, .cdrom = true, .readahead = 16 << 20 };
    a.disks[2] = (struct vm_disk){ .path = strdup("/c") };
    there_and_back(&a, &b);
    for (unsigned i = 0; i < 3; i++) {
        struct vm_disk *x = &a.disks[i], *y = &b.disks[i];

        assert_string_equal(x->path, y->path);
        assert_true(!x->format == !y->format && (!x->format || strcmp(x->format, y->format) == 0));
        assert_true(!x->secret_file == !y->secret_file &&
                    (!x->secret_file || strcmp(x->secret_file, y->secret_file) == 0));
        assert_true(x->read_only == y->read_only && x->cdrom == y->cdrom && x->ignore_discard == y->ignore_discard);
        assert_true(x->wait_on_error == y->wait_on_error && x->no_readahead == y->no_readahead);
        assert_true(x->cache == y->cache && x->aio == y->aio && x->readahead == y->readahead);
        assert_true(x->weight == y->weight && x->queues == y->queues);
        assert_memory_equal(x->limits, y->limits, sizeof(x->limits));
    }
    vm_spec_done(&a);
    vm_spec_done(&b);
}

static int read_refused(const char *text, struct err *e)
{
    struct vm_spec s;
    int r;

    vm_spec_init(&s);
    r = vm_spec_from_json(text, &s, e);
    vm_spec_done(&s);
    return r;
}

#define DISK(fields) "{\"kernel\":\"k\",\"disks\":[{" fields "}]}"

static void test_disks_refused(void **state)
{
    static const struct refused rows[] = {
        { DISK("\"path\":\"\""), "no file name" },
        { DISK("\"path\":\"/x\",\"cache\":\"warm\""), "cache" },
        { DISK("\"path\":\"/x\",\"cache\":3"), "cache" },
        { DISK("\"path\":\"/x\",\"iops\":-1"), "iops" },
        { DISK("\"path\":\"/x\",\"iops-burst\":5"), "burst" },
        { DISK("\"path\":\"/x\",\"iops-other\":5"), "iops-other" },
        { DISK("\"path\":\"/x\",\"weight\":10001"), "weight" },
        { DISK("\"path\":\"/x\",\"queues\":17"), "queues" },
        { DISK("\"path\":\"/x\",\"readahead\":16777217"), "readahead" },
        { DISK("\"path\":\"/x\",\"kind\":\"cdrom\""), "CD-ROM" },
        { DISK("\"path\":\"/x\",\"kind\":\"tape\""), "kind" },
        { DISK("\"path\":\"/x\",\"wrong\":1"), "wrong" },
    };

    (void)state;
    refused_all(rows, ARRAY_SIZE(rows), read_refused);
}

static void test_round_trip(void **state)
{
    struct vm_spec a, b;

    (void)state;
    vm_spec_init(&a);
    a.name = strdup("web-1");
    a.kernel = strdup("/boot/vmlinuz \"quoted\"");
    a.append = strdup("console=ttyS0");
    a.disks[0] = (struct vm_disk){ .path = strdup("/a,b"), .serial = strdup("S1"), .read_only = true };
    a.disks[1] = (struct vm_disk){ .path = strdup("/c") };
    a.n_disks = 2;
    fill_nets(&a);
    a.memory = 5ULL << 30;
    a.cpus = 64;
    a.cpu = strdup("x86-64-v2,-popcnt");
    a.engine = VM_ENGINE_INTERP;
    a.console = VM_CONSOLE_FILE;
    a.console_file = strdup("log");
    a.console_device = VM_CONSOLE_VIRTIO;
    a.debug_exit = true;
    a.clock_continue = true;
    there_and_back(&a, &b);
    assert_string_equal(b.name, a.name);
    assert_string_equal(b.kernel, a.kernel);
    assert_null(b.initrd);
    assert_int_equal(b.n_disks, 2);
    assert_string_equal(b.disks[0].serial, "S1");
    assert_true(b.disks[0].read_only);
    assert_false(b.disks[1].read_only);
    assert_null(b.disks[1].serial);
    check_nets(&a, &b);
    assert_int_equal(b.memory, 5ULL << 30);
    assert_int_equal(b.cpus, 64);
    assert_string_equal(b.cpu, "x86-64-v2,-popcnt");
    assert_int_equal(b.engine, VM_ENGINE_INTERP);
    assert_int_equal(b.console, VM_CONSOLE_FILE);
    assert_string_equal(b.console_file, "log");
    assert_int_equal(b.console_device, VM_CONSOLE_VIRTIO);
    assert_true(b.debug_exit);
    assert_true(b.clock_continue);
    assert_false(b.no_reboot);
    vm_spec_done(&a);
    vm_spec_done(&b);
}

static void test_refused(void **state)
{
    static const struct refused cases[] = {
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
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"host_port\":0,\"guest_port\":1}]}"
          "]}",
          "host_port" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"host_port\":1}]}]}",
          "guest_port" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"protocol\":\"sctp\",\"host_"
          "port\":1,\"guest_port\":1}]}]}",
          "tcp" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"host_addr\":\"::1\",\"host_"
          "port\":1,\"guest_port\":1}]}]}",
          "IPv4" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"tap\",\"ifname\":\"t\",\"forwards\":[{\"host_port\":1,"
          "\"guest_port\":1}]}]}",
          "--net user" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"host_port\":1,\"guest_port\":1},{"
          "\"host_port\":1,\"guest_port\":2}]}]}",
          "twice" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"forwards\":[{\"host_port\":1,\"guest_port\":1}]}"
          ",{\"kind\":\"user\",\"forwards\":[{\"host_addr\":\"0.0.0.0\",\"host_port\":1,\"guest_port\":2}]}]}",
          "twice" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"wifi\"}]}", "user" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"tap\"}]}", "tap=IF" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"tap\",\"ifname\":\"a234567890123456\"}]}", "15" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"network\"}]}", "network" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"network\",\"network\":\"Web\"}]}", "Web" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"mac\":\"5254\"}]}", "MAC" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"mac\":\"01:00:00:00:00:01\"}]}", "group" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"mtu\":500}]}", "576" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"mtu\":65521}]}", "65520" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"queues\":9}]}", "8" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"queues\":3}]}", "--cpus" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"network\",\"network\":\"n\",\"vlan\":4095}]}", "4094" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"kind\":\"user\",\"vlan\":1}]}", "NETWORK" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"name\":\"a\"},{\"name\":\"a\"}]}", "another name" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"name\":\"A b\"}]}", "A b" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"mac\":\"02:00:00:00:00:01\"},{\"mac\":\"02:00:00:00:00:01\"}]}",
          "same MAC" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"fds\":[2]}]}", "fds" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"fds\":[3,4,5,6,7]}]}", "fds" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"offloads\":1}]}", "offloads" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{\"speed\":1}]}", "speed" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[1]}", "object" },
        { "{\"kernel\":\"k\",\"cpus\":2,\"nets\":[{},{},{},{},{},{},{},{},{}]}", "nets" },
    };

    (void)state;
    refused_all(cases, ARRAY_SIZE(cases), read_refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_disks),   cmocka_unit_test(test_disks_refused),
        cmocka_unit_test(test_complete),   cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
