/* Tap devices in a network namespace of the test's own: which error means what, sizes, and the kernel's ARP as a peer.
 * Skipped where the kernel lets nobody make namespaces or taps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "fault.h"
#include "net/backend.h"
#include "net/tap.h"
#include "sys/loop.h"

struct seen {
    struct net_backend *b;
    unsigned refuse, refused, arps;
    uint8_t arp[64];
};

static int try_tap(struct loop *l, const struct net_tap_config *c, enum net_tap_step *ret_step)
{
    struct net_backend *b = NULL;
    int r = net_tap_new(c, l, ret_step, &b);

    net_backend_close(b);
    return r;
}

static void refused(struct loop *l, struct net_tap_config c, int error, enum net_tap_step step)
{
    enum net_tap_step at = NET_TAP_MEMORY;

    assert_int_equal(try_tap(l, &c, &at), error);
    assert_int_equal(at, step);
}

/* A tap that stays when nobody holds it. */
static void make_persistent(const char *name, bool on)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    memcpy(ifr.ifr_name, name, strlen(name));
    assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, on ? 1UL : 0UL), 0);
    close(fd);
}

static void test_errors(void **state)
{
    struct loop *l;
    struct net_backend *b = NULL;
    enum net_tap_step step;

    assert_int_equal(loop_new(&l), 0);
    refused(l, (struct net_tap_config){ .name = "none0" }, -ENODEV, NET_TAP_ATTACH);
    refused(l, (struct net_tap_config){ .name = "" }, -EINVAL, NET_TAP_ATTACH);
    refused(l, (struct net_tap_config){ .name = "sixteen-letters-" }, -EINVAL, NET_TAP_ATTACH);
    refused(l, (struct net_tap_config){ .name = "lo" }, -EINVAL, NET_TAP_ATTACH);
    refused(l, (struct net_tap_config){ .name = "lo", .create = true }, -EEXIST, NET_TAP_ATTACH);
    refused(l, (struct net_tap_config){ .name = "t0", .create = true, .mtu = 1 }, -EINVAL, NET_TAP_MTU);
    assert_int_equal(if_nametoindex("t0"), 0); /* nothing is left behind */
    refused(l, (struct net_tap_config){ .name = "t0", .create = true, .bridge = "br-none" }, -ENODEV, NET_TAP_BRIDGE);
    refused(l, (struct net_tap_config){ .name = "t0", .create = true, .bridge = "lo" }, -EOPNOTSUPP, NET_TAP_BRIDGE);
    make_persistent("stays", true);
    assert_int_equal(net_tap_new(&(struct net_tap_config){ .name = "stays" }, l, &step, &b), 0);
    assert_string_equal(net_tap_name(b), "stays");
    refused(l, (struct net_tap_config){ .name = "stays" }, -EBUSY, NET_TAP_ATTACH);
    net_backend_close(b);
    assert_int_not_equal(if_nametoindex("stays"), 0);
    make_persistent("stays", false);
    b = NULL;
    assert_int_equal(net_tap_new(&(struct net_tap_config){ .name = "c%d", .create = true, .mtu = 9000 }, l, &step, &b),
                     0);
    assert_string_equal(net_tap_name(b), "c0");
    assert_int_equal(b->mtu, 9000);
    net_backend_close(b);
    assert_int_equal(if_nametoindex("c0"), 0);
    loop_free(l);
}

static bool on_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct seen *s = opaque;

    if (s->refuse > 0) {
        s->refuse--;
        s->refused++;
        return false;
    }
    if (len >= 42 && load_be16(frame + 12) == 0x0806 && load_be16(frame + 20) == 2) {
        memcpy(s->arp, frame, 42);
        s->arps++;
    }
    return true;
}

static void set_address(const char *name, const char *address)
{
    struct ifreq ifr = { 0 };
    struct sockaddr_in in = { .sin_family = AF_INET };
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_int_equal(inet_pton(AF_INET, address, &in.sin_addr), 1);
    memcpy(ifr.ifr_name, name, strlen(name));
    memcpy(&ifr.ifr_addr, &in, sizeof(in));
    assert_int_equal(ioctl(sock, SIOCSIFADDR, &ifr), 0);
    close(sock);
}

/* Who has 10.1.2.3? The kernel says so; also when the receiver had no room at first. */
static void test_kernel_answers(void **state)
{
    static const uint8_t question[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0,  9, 8, 6,
                                          0,    1,    8,    0,    6,    4,    0, 1, 2, 0, 0,  0, 0, 9,
                                          10,   1,    2,    9,    0,    0,    0, 0, 0, 0, 10, 1, 2, 3 };
    static const struct net_hdr plain;
    struct net_tap_config c = { .name = "k0", .create = true, .up = true };
    struct iovec iov[2] = { { (void *)(uintptr_t)question, 20 }, { (void *)(uintptr_t)(question + 20), 22 } };
    struct seen s = { .refuse = 3 };
    enum net_tap_step step;
    struct loop *l;

    assert_int_equal(loop_new(&l), 0);
    assert_int_equal(net_tap_new(&c, l, &step, &s.b), 0);
    net_backend_connect(s.b, &(struct net_receiver){ .receive = on_receive, .opaque = &s });
    net_backend_set_receive_offloads(s.b, s.b->offloads);
    assert_int_equal(s.b->offloads & (NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6),
                     NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6);
    set_address("k0", "10.1.2.3");
    for (unsigned i = 0; i < 1000 && s.arps == 0; i++) {
        if (i % 100 == 0)
            assert_true(net_backend_send(s.b, &plain, iov, 2, sizeof(question)));
        net_backend_send_done(s.b);
        assert_true(loop_run_once(l) >= 0);
        net_backend_receive_ready(s.b);
        if (s.arps == 0)
            (void)poll(NULL, 0, 10);
    }
    assert_int_equal(s.arps, 1);
    assert_true(s.refused > 0);
    assert_memory_equal(s.arp + 28, ((uint8_t[]){ 10, 1, 2, 3 }), 4);
    net_backend_close(s.b);
    loop_free(l);
}

static void test_failures(void **state)
{
    struct net_tap_config c = { .name = "f0", .create = true };
    enum net_tap_step step;
    struct loop *l;
    int r;

    assert_int_equal(loop_new(&l), 0);
    for (unsigned n = 1; fault_begin(n), r = try_tap(l, &c, &step), fault_end(); n++)
        assert_int_equal(r, -ENOMEM);
    assert_int_equal(r, 0);
    loop_free(l);
}

/* Root of a namespace of our own, if that can be. */
static int enter(void **state)
{
    if (unshare(geteuid() == 0 ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0 ||
        access("/dev/net/tun", R_OK | W_OK) < 0)
        *state = (void *)"no namespace, or no tap devices";
    return 0;
}

static void test_possible(void **state)
{
    if (*state)
        skip();
}

int main(void)
{
    void *why = NULL;
    const struct CMUnitTest none[] = { cmocka_unit_test_prestate(test_possible, (void *)"no") };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_kernel_answers),
        cmocka_unit_test(test_failures),
    };

    (void)enter(&why);
    return why ? cmocka_run_group_tests(none, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
}
