#include "net/nat_host.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/ipv6.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "net/nat_nft.h"

/* ---- /proc/sys ---- */

static int net_sysctl_write(const char *path, const char *value)
{
    AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

/* The first character of the value. */
static int net_sysctl_read(const char *path, char *ret_value)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret_value, 1);

    return n < 0 ? -errno : n == 0 ? -EIO : 0;
}

static int net_sysctl_interface(const char *interface, const char *family, const char *key, const char *value)
{
    char path[128];

    if (snprintf(path, sizeof(path), "/proc/sys/net/%s/conf/%s/%s", family, interface, key) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    return net_sysctl_write(path, value);
}

/* A host that routes ignores router advertisements, unless accept_ra is 2: those that listen shall go on doing so. */
static void net_nat_keep_advertisements(void)
{
    DIR *dir = opendir("/proc/sys/net/ipv6/conf");
    struct dirent *entry;
    char path[300], value;

    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%.240s/accept_ra", entry->d_name);
        if (net_sysctl_read(path, &value) == 0 && value == '1')
            (void)net_sysctl_write(path, "2");
    }
    if (dir)
        closedir(dir);
}

/* *changed: whether it was off. */
static int net_nat_enable(const char *path, bool *changed)
{
    char value;
    int res = net_sysctl_read(path, &value);

    *changed = res == 0 && value == '0';
    return *changed ? net_sysctl_write(path, "1") : res;
}

int net_nat_host_forwarding(bool ip4, bool ip6, unsigned *ret_changed)
{
    bool changed4 = false, changed6 = false;
    char value;
    int res = ip4 ? net_nat_enable("/proc/sys/net/ipv4/ip_forward", &changed4) : 0;

    if (res == 0 && ip6 && net_sysctl_read("/proc/sys/net/ipv6/conf/all/forwarding", &value) == 0 && value == '0')
        net_nat_keep_advertisements();
    if (res == 0 && ip6)
        res = net_nat_enable("/proc/sys/net/ipv6/conf/all/forwarding", &changed6);
    *ret_changed = (changed4 ? NET_NFT_FORWARD4 : 0U) | (changed6 ? NET_NFT_FORWARD6 : 0U);
    return res;
}

/* ---- addresses ---- */

static struct ifreq net_nat_ifreq(const struct net_nat_network *n)
{
    struct ifreq r = { 0 };

    memcpy(r.ifr_name, n->interface, strlen(n->interface));
    return r;
}

static int net_nat_set_in(int fd, const struct net_nat_network *n, unsigned long request, uint32_t addr)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(addr) };
    struct ifreq r = net_nat_ifreq(n);

    memcpy(&r.ifr_addr, &in, sizeof(in));
    return ioctl(fd, request, &r) < 0 ? -errno : 0;
}

static int net_nat_address4(const struct net_nat_network *n)
{
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int res;

    if (fd < 0)
        return -errno;
    res = net_nat_set_in(fd, n, SIOCSIFADDR, n->gateway);
    if (res == 0)
        res = net_nat_set_in(fd, n, SIOCSIFNETMASK, addr_mask4(n->subnet.prefix));
    if (res == 0)
        res = net_nat_set_in(fd, n, SIOCSIFBRDADDR, addr_subnet4_last(&n->subnet));
    /* So that the host's own connections to 127.0.0.1 can be led to guests; no guest's packet gets there (input). */
    return res < 0 ? res : net_sysctl_interface(n->interface, "ipv4", "route_localnet", "1");
}

static int net_nat_add_in6(const struct net_nat_network *n, const uint8_t addr[16])
{
    AUTO_FD int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = net_nat_ifreq(n);
    struct in6_ifreq r6 = { .ifr6_prefixlen = 64 };

    memcpy(&r6.ifr6_addr, addr, 16);
    if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &r) < 0)
        return -errno;
    r6.ifr6_ifindex = r.ifr_ifindex;
    return ioctl(fd, SIOCSIFADDR, &r6) < 0 ? -errno : 0;
}

static int net_nat_address6(const struct net_nat_network *n)
{
    uint8_t link_local[16] = { 0xfe, 0x80 };
    int res = net_nat_add_in6(n, n->gateway6);

    memcpy(link_local + 8, n->gateway6 + 8, 8);
    return res < 0 ? res : net_nat_add_in6(n, link_local);
}

static int net_nat_link(const struct net_nat_network *n, const uint8_t mac[6])
{
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = net_nat_ifreq(n);

    if (fd < 0)
        return -errno;
    r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(r.ifr_hwaddr.sa_data, mac, 6);
    if (ioctl(fd, SIOCSIFHWADDR, &r) < 0 || ioctl(fd, SIOCGIFFLAGS, &r) < 0)
        return -errno;
    r.ifr_flags = (short)(r.ifr_flags | IFF_UP);
    return ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? -errno : 0;
}

int net_nat_host_address(const struct net_nat_network *n, const uint8_t mac[6])
{
    int res = 0;

    /* Before it is up, where IPv6 exists at all. */
    if (access("/proc/sys/net/ipv6", F_OK) == 0) {
        res = net_sysctl_interface(n->interface, "ipv6", "accept_ra", "0");
        if (res == 0)
            res = net_sysctl_interface(n->interface, "ipv6", "accept_dad", "0");
        if (res == 0)
            res = net_sysctl_interface(n->interface, "ipv6", "addr_gen_mode", "1"); /* no address of its own making */
    }
    if (res == 0)
        res = net_nat_link(n, mac);
    if (res == 0 && n->subnet.prefix)
        res = net_nat_address4(n);
    if (res == 0 && n->subnet6.prefix)
        res = net_nat_address6(n);
    return res;
}

/* ---- ports ---- */

int net_nat_host_reserve(const struct net_nat_forward *f)
{
    struct sockaddr_in in = { .sin_family = AF_INET,
                              .sin_port = htons(f->host_port),
                              .sin_addr.s_addr = htonl(f->host4) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(f->host_port) };
    AUTO_FD int fd = socket(f->ip6 ? AF_INET6 : AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    int one = 1, res;

    memcpy(&in6.sin6_addr, f->host6, 16);
    if (fd < 0)
        return -errno;
    if (f->ip6 && IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr))
        return -EADDRNOTAVAIL;
    if (f->ip6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
        return -errno;
    res = f->ip6 ? bind(fd, (struct sockaddr *)&in6, sizeof(in6)) : bind(fd, (struct sockaddr *)&in, sizeof(in));
    return res < 0 ? -errno : STEAL_FD(fd);
}
