/* A network without VMs: a switch with the services of a network and one port for each named tap, which the driver
 * (netns.py) puts into network namespaces of their own, so that the kernel plays the guests.
 *
 *   gateway MODE RESOLV_CONF LEASES [MTU]     MODE: isolated, slirp, nft, user
 *
 * Commands on stdin, one answer line each: up TAP MAC NAME | forward PROTO HOST HOST_PORT GUEST GUEST_PORT |
 * unforward PROTO HOST HOST_PORT | leases. It ends with its stdin. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "base/num.h"
#include "net/backend.h"
#include "net/services.h"
#include "net/user.h"
#include "sys/loop.h"
#include "wire/addr.h"

struct world {
    struct loop *loop;
    struct net_switch *sw;
    struct net_services services;
    uint16_t mtu;
};

static int add_tap(struct world *w, const char *name, const uint8_t mac[6], const char *host)
{
    struct net_tap_config tap = { .name = name, .create = true, .mtu = w->mtu };
    struct net_port_config config = { .filter_mac = true,
                                      .filter_ip = w->services.ops != NULL,
                                      .ip6_prefix = { { 0xfd, 0x88 } } };
    struct net_backend *backend;
    enum net_tap_step step;
    struct net_port *port;
    int res = net_tap_new(&tap, w->loop, &step, &backend);

    if (res < 0)
        return res;
    snprintf(config.name, sizeof(config.name), "%s", name);
    memcpy(config.mac, mac, 6);
    res = net_switch_port_add(w->sw, &config, backend, &port);
    if (res == 0 && w->services.ops)
        w->services.ops->vm_up(w->services.opaque, port, host);
    return res;
}

/* The network of one guest, as with --net user, which has services of its own. */
static int add_user(struct world *w, struct net_services_report *report)
{
    struct net_port_config config = { .name = "user" };
    struct net_user_config user = { .mtu = w->mtu };
    struct net_backend *backend;
    struct net_port *port;
    int forward, res = net_user_new(&user, w->loop, &forward, &backend);

    *report = (struct net_services_report){ 0 };
    return res < 0 ? res : net_switch_port_add(w->sw, &config, backend, &port);
}

static void print_lease(void *opaque, const struct net_lease *lease)
{
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(lease->mac, mac);
    printf("%s=%d.%d.%d.%d=%s%s ", mac, lease->ip.bytes[12], lease->ip.bytes[13], lease->ip.bytes[14],
           lease->ip.bytes[15], lease->host, lease->expires_s ? "" : "!");
}

static void set_ip(struct net_ip *ip, const char *text)
{
    struct in_addr in;

    memset(ip, 0, sizeof(*ip));
    if (inet_pton(AF_INET6, text, ip->bytes) == 1)
        return;
    if (inet_pton(AF_INET, text, &in) == 1) {
        memset(ip->bytes + 10, 0xff, 2);
        memcpy(ip->bytes + 12, &in, 4);
    }
}

static uint16_t port(const char *text)
{
    uint64_t n = 0;

    return num_parse_u64(text ? text : "", 1, 65535, &n) < 0 ? 0 : (uint16_t)n;
}

static int command(struct world *w, char **a)
{
    struct net_forward_rule rule = { .udp = a[1] && strcmp(a[1], "udp") == 0 };
    uint8_t mac[6];

    if (w->services.ops && strcmp(a[0], "leases") == 0) {
        w->services.ops->leases(w->services.opaque, print_lease, NULL);
        return 0;
    }
    if (!a[1] || !a[2] || !a[3])
        return -EINVAL;
    if (strcmp(a[0], "up") == 0)
        return addr_mac_parse(a[2], mac) < 0 ? -EINVAL : add_tap(w, a[1], mac, a[3]);
    if (!w->services.ops)
        return -EOPNOTSUPP;
    set_ip(&rule.host_addr, a[2]);
    rule.host_port = port(a[3]);
    if (strcmp(a[0], "unforward") == 0)
        return w->services.ops->forward_remove(w->services.opaque, &rule);
    snprintf(rule.guest_name, sizeof(rule.guest_name), "%s", a[4] ? a[4] : "");
    rule.guest_port = port(a[5]);
    return w->services.ops->forward_add(w->services.opaque, &rule);
}

static void readable(void *opaque, uint32_t events)
{
    struct world *w = opaque;
    char line[512], *args[8] = { NULL }, *at = line;
    ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);
    int res;

    if (n <= 0) {
        loop_stop(w->loop, 0);
        return;
    }
    line[n] = '\0';
    line[strcspn(line, "\n")] = '\0';
    for (unsigned i = 0; i < 7 && at; i++)
        args[i] = strsep(&at, " ");
    res = command(w, args);
    printf("%s\n", res < 0 ? strerrorname_np(-res) : "ok");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct net_services_config c = {
        .name = "nettest",
        .service = { .subnet = { 0x0a580000, 24 },
                     .gateway = 0x0a580001,
                     .subnet6 = { { 0xfd, 0x88 }, 64 },
                     .gateway6 = { 0xfd, 0x88, [15] = 1 },
                     .dhcp = true,
                     .dhcp_first = 0x0a580064,
                     .dhcp_last = 0x0a580096,
                     .dns = true,
                     .domain = "net.internal",
                     .mtu = 1500 },
    };
    struct net_services_report report;
    struct loop_fd *src;
    struct world w = { 0 };
    int res;

    CHECK(argc >= 4);
    c.nat = strcmp(argv[1], "nft") == 0     ? NET_SERVICES_NFT
            : strcmp(argv[1], "slirp") == 0 ? NET_SERVICES_SLIRP
                                            : NET_SERVICES_ISOLATED;
    c.service.resolv_conf = argv[2];
    c.service.lease_path = argv[3];
    c.service.mtu = w.mtu = argc > 4 ? port(argv[4]) : 1500;
    signal(SIGPIPE, SIG_IGN);
    CHECK(loop_new(&w.loop) == 0 && net_switch_new(w.loop, &w.sw) == 0);
    if (strcmp(argv[1], "user") == 0)
        res = add_user(&w, &report);
    else
        res = net_services_open(&c, w.loop, w.sw, &w.services, &report);
    if (res < 0) {
        printf("%s at step %d tap %d nft %d\n", strerrorname_np(-res), report.step, report.tap_step, report.nft_step);
        return 1;
    }
    CHECK(loop_fd_add(w.loop, STDIN_FILENO, EPOLLIN, readable, &w, &src) == 0);
    printf("ready changed=%u interface=%s\n", report.host_changed, report.interface);
    fflush(stdout);
    res = loop_run(w.loop);
    if (w.services.ops)
        w.services.ops->free(w.services.opaque);
    net_switch_free(w.sw);
    loop_fd_free(src);
    loop_free(w.loop);
    return res;
}
