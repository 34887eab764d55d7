/* caisson network create: from options to a network in the state database. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/command.h"
#include "instance/net_host.h"
#include "cli/table.h"
#include "proto/exit_code.h"
#include "store/network.h"

/* ---- options ---- */

static int create_subnet6(const char *text, struct addr_subnet6 *ret_subnet, struct err *e)
{
    struct addr_subnet6 s = { .addr = { 0xfd }, .prefix = 64 };

    if (strcmp(text, "none") == 0) {
        *ret_subnet = (struct addr_subnet6){ 0 };
        return 0;
    }
    if (strcmp(text, "auto") != 0) {
        if (addr_subnet6_parse(text, ret_subnet) < 0)
            return err_set(e, EINVAL, "--subnet6 %s: no IPv6 subnet; use PREFIX::/64, auto or none", text);
        return 0;
    }
    /* A unique local prefix: 40 random bits, RFC 4193 section 3.2. */
    if (getrandom(s.addr + 1, 5, 0) != 5)
        return err_set(e, EIO, "no random numbers from the kernel; give --subnet6 PREFIX::/64, or none");
    *ret_subnet = s;
    return 0;
}

/* FIRST-LAST */
static int create_range(const char *text, struct net_spec *s, struct err *e)
{
    char first[ADDR_IP4_TEXT];
    const char *dash = strchr(text, '-');

    if (dash && dash - text < (int)sizeof(first)) {
        snprintf(first, sizeof(first), "%.*s", (int)(dash - text), text);
        if (addr_ip4_parse(first, &s->dhcp_first) == 0 && addr_ip4_parse(dash + 1, &s->dhcp_last) == 0)
            return 0;
    }
    return err_set(e, EINVAL, "--dhcp-range %s: no range; use FIRST-LAST, e.g. 10.188.7.100-10.188.7.200", text);
}

/* MAC=NAME=IP */
static int create_host(const char *text, struct net_spec *s, struct err *e)
{
    struct net_spec_host *h = &s->hosts[s->n_hosts];
    const char *name = strchr(text, '='), *ip = name ? strchr(name + 1, '=') : NULL;
    char mac[ADDR_MAC_TEXT];

    if (s->n_hosts == NET_SPEC_HOSTS_MAX)
        return err_set(e, EINVAL, "too many fixed leases; give --host at most %d times", NET_SPEC_HOSTS_MAX);
    *h = (struct net_spec_host){ 0 };
    if (ip && name - text < (int)sizeof(mac) && ip - name - 1 < (int)sizeof(h->name)) {
        snprintf(mac, sizeof(mac), "%.*s", (int)(name - text), text);
        snprintf(h->name, sizeof(h->name), "%.*s", (int)(ip - name - 1), name + 1);
        if (addr_mac_parse(mac, h->mac) == 0 && addr_ip4_parse(ip + 1, &h->addr) == 0) {
            s->n_hosts++;
            return 0;
        }
    }
    return err_set(e, EINVAL, "--host %s: no fixed lease; use MAC=NAME=IP, e.g. 52:54:00:00:00:05=db=10.188.7.5", text);
}

static int create_port(const char *text, size_t len, uint16_t *ret_port)
{
    char word[8];
    uint64_t port;

    if (len >= sizeof(word))
        return -EINVAL;
    snprintf(word, sizeof(word), "%.*s", (int)len, text);
    if (num_parse_u64(word, 1, 65535, &port) < 0)
        return -EINVAL;
    *ret_port = (uint16_t)port;
    return 0;
}

/* Copy an address or name; IPv6 addresses stand in brackets, and are kept in one spelling. */
static int create_copy(char *to, size_t size, const char *text, size_t len)
{
    uint8_t addr6[16];
    char spelling[ADDR_IP6_TEXT];

    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        if (len - 2 >= sizeof(spelling))
            return -EINVAL;
        snprintf(spelling, sizeof(spelling), "%.*s", (int)len - 2, text + 1);
        if (addr_ip6_parse(spelling, addr6) < 0)
            return -EINVAL;
        addr_ip6_format(addr6, spelling);
        snprintf(to, size, "%s", spelling);
        return 0;
    }
    if (len == 0 || len >= size)
        return -EINVAL;
    snprintf(to, size, "%.*s", (int)len, text);
    return 0;
}

/* The last colon from text to end that stands in no brackets, or NULL. */
static const char *create_last_colon(const char *text, const char *end)
{
    bool inside = false;

    while (end > text) {
        end--;
        if (*end == ']' || *end == '[')
            inside = *end == ']';
        if (*end == ':' && !inside)
            return end;
    }
    return NULL;
}

/* [HOSTADDR:]HOSTPORT:GUEST:GUESTPORT[/tcp|/udp] */
static int create_publish(const char *text, struct net_spec *s, struct err *e)
{
    struct net_spec_forward *f = &s->forwards[s->n_forwards];
    const char *end = text + strcspn(text, "/"), *guest_port, *guest, *host_port;
    bool udp = strcmp(end, "/udp") == 0;
    size_t len;

    if (s->n_forwards == NET_SPEC_FORWARDS_MAX)
        return err_set(e, EINVAL, "too many port forwards; give --publish at most %d times", NET_SPEC_FORWARDS_MAX);
    *f = (struct net_spec_forward){ .udp = udp, .host_addr = "127.0.0.1" };
    guest_port = udp || *end == '\0' || strcmp(end, "/tcp") == 0 ? create_last_colon(text, end) : NULL;
    guest = guest_port ? create_last_colon(text, guest_port) : NULL;
    host_port = guest ? create_last_colon(text, guest) : NULL;
    len = guest ? (size_t)(guest - (host_port ? host_port + 1 : text)) : 0;
    if (guest && create_port(guest_port + 1, (size_t)(end - guest_port - 1), &f->guest_port) == 0 &&
        create_copy(f->guest, sizeof(f->guest), guest + 1, (size_t)(guest_port - guest - 1)) == 0 &&
        create_port(host_port ? host_port + 1 : text, len, &f->host_port) == 0 &&
        (!host_port || create_copy(f->host_addr, sizeof(f->host_addr), text, (size_t)(host_port - text)) == 0)) {
        s->n_forwards++;
        return 0;
    }
    return err_set(
        e, EINVAL,
        "--publish %s: no port forward; use [HOSTADDR:]HOSTPORT:GUEST:GUESTPORT[/udp], e.g. 8080:web:80, IPv6 "
        "addresses in brackets",
        text);
}

static int create_switch_option(const char *name, const char *value, bool *ret_on, struct err *e)
{
    if (!value)
        return 0;
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
        return err_set(e, EINVAL, "--%s %s: use on or off", name, value);
    *ret_on = strcmp(value, "on") == 0;
    return 0;
}

static int create_text(const char *name, const char *value, char *to, size_t size, struct err *e)
{
    if (value && (!value[0] || strlen(value) >= size))
        return err_set(e, EINVAL, "--%s %s: too %s; use 1 to %zu characters", name, value, value[0] ? "long" : "short",
                       size - 1);
    if (value)
        snprintf(to, size, "%s", value);
    return 0;
}

static int create_mode(const struct cli_args *args, struct net_spec *s, struct err *e)
{
    const char *mode = cli_value(args, "mode"), *backend = cli_value(args, "backend");
    int r;

    if (mode && net_spec_mode_parse(mode, &s->mode) < 0)
        return err_set(e, EINVAL, "--mode %s: unknown mode; use nat, isolated or bridge", mode);
    if (backend && net_spec_backend_parse(backend, &s->backend) < 0)
        return err_set(e, EINVAL, "--backend %s: unknown back end; use slirp or nft", backend);
    /* The network that is bridged to has services of its own. */
    s->dhcp = s->dns = s->mode != NET_SPEC_BRIDGE;
    s->mac_filter = true;
    s->isolated_ports = cli_value(args, "isolated") != NULL;
    r = create_switch_option("dhcp", cli_value(args, "dhcp"), &s->dhcp, e);
    if (r == 0)
        r = create_switch_option("dns", cli_value(args, "dns"), &s->dns, e);
    if (r == 0)
        r = create_switch_option("mac-filter", cli_value(args, "mac-filter"), &s->mac_filter, e);
    if (r == 0)
        r = create_text("bridge", cli_value(args, "bridge"), s->bridge, sizeof(s->bridge), e);
    if (r == 0)
        r = create_text("tap", cli_value(args, "tap"), s->tap, sizeof(s->tap), e);
    return r < 0 ? r : create_text("domain", cli_value(args, "domain"), s->domain, sizeof(s->domain), e);
}

static int create_addresses(const struct cli_args *args, struct net_spec *s, struct err *e)
{
    const char *subnet = cli_value(args, "subnet"), *subnet6 = cli_value(args, "subnet6"),
               *gateway = cli_value(args, "gateway"), *range = cli_value(args, "dhcp-range"),
               *mtu = cli_value(args, "mtu");
    uint64_t n;
    int r = 0;

    if (subnet && addr_subnet4_parse(subnet, &s->subnet) < 0)
        return err_set(e, EINVAL,
                       "--subnet %s: no IPv4 subnet; use ADDRESS/PREFIX with no bits behind the prefix, e.g. "
                       "10.188.7.0/24",
                       subnet);
    if (gateway && addr_ip4_parse(gateway, &s->gateway) < 0)
        return err_set(e, EINVAL, "--gateway %s: no IPv4 address", gateway);
    if (mtu) {
        if (num_parse_u64(mtu, NET_SPEC_MTU_MIN, NET_SPEC_MTU_MAX, &n) < 0)
            return err_set(e, EINVAL, "--mtu %s: not possible; use %d to %d", mtu, NET_SPEC_MTU_MIN, NET_SPEC_MTU_MAX);
        s->mtu = (uint32_t)n;
    }
    if (range)
        r = create_range(range, s, e);
    if (r == 0 && (subnet6 || s->mode != NET_SPEC_BRIDGE))
        r = create_subnet6(subnet6 ? subnet6 : "auto", &s->subnet6, e);
    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        if (strcmp(args->given[i].option->name, "host") == 0)
            r = create_host(args->given[i].value, s, e);
        else if (strcmp(args->given[i].option->name, "publish") == 0)
            r = create_publish(args->given[i].value, s, e);
    }
    return r;
}

/* ---- the host's own subnets ---- */

/* A routed network must not take over addresses of the host's; behind libslirp it only hides them from the guests. */
static int create_check_host(const struct net_spec *s, const struct inst_host_subnet *list, size_t n, struct err *e)
{
    for (size_t i = 0; i < n && s->mode == NET_SPEC_NAT; i++) {
        bool four = addr_subnet4_overlaps(&s->subnet, &list[i].subnet);
        char mine[ADDR_SUBNET_TEXT], theirs[ADDR_SUBNET_TEXT];

        if (!four && !addr_subnet6_overlaps(&s->subnet6, &list[i].subnet6))
            continue;
        if (four) {
            addr_subnet4_format(&s->subnet, mine);
            addr_subnet4_format(&list[i].subnet, theirs);
        } else {
            addr_subnet6_format(&s->subnet6, mine);
            addr_subnet6_format(&list[i].subnet6, theirs);
        }
        if (s->backend == NET_SPEC_NFT)
            return err_set(e, EADDRINUSE,
                           "network %s: subnet %s overlaps %s of this host's interface %s; give another --subnet%s",
                           s->name, mine, theirs, list[i].interface, four ? "" : "6");
        fprintf(stderr,
                "caisson: warning: network %s: guests cannot reach what is in both its subnet %s and %s of this host's "
                "interface %s\n",
                s->name, mine, theirs, list[i].interface);
    }
    return 0;
}

static int create_pick(struct store *store, struct net_spec *s, const struct inst_host_subnet *list, size_t n,
                       struct err *e)
{
    AUTO_FREE struct addr_subnet4 *taken = calloc(n + 1, sizeof(*taken));

    if (!taken)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        taken[i] = list[i].subnet;
    return store_network_pick_subnet(store, taken, n, &s->subnet, e);
}

/* Choose what is still open and store the network: one transaction. */
static int create_store(struct net_spec *s, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    AUTO_FREE struct inst_host_subnet *list = NULL;
    bool needs_subnet = s->mode == NET_SPEC_NAT || s->dhcp || s->dns;
    size_t n = 0;
    int r = store_open(STORE_WRITE, &store, e);

    if (r < 0)
        return r;
    r = inst_host_subnets(&list, &n);
    if (r < 0)
        return err_set(e, -r, "cannot list the addresses of this host: %s", strerror(-r));
    r = store_begin(store, e);
    if (r == 0 && s->subnet.prefix == 0 && needs_subnet && s->mode != NET_SPEC_BRIDGE)
        r = create_pick(store, s, list, n, e);
    if (r == 0)
        r = net_spec_complete(s, e);
    if (r == 0)
        r = create_check_host(s, list, n, e);
    if (r == 0)
        r = store_network_add(store, s, e);
    return r < 0 ? r : store_commit(store, e);
}

static int create_print(const struct cli_args *args, const struct net_spec *s, struct err *e)
{
    json_object *o;
    int r;

    if (!cli_value(args, "json")) {
        printf("%s\n", s->name);
        return 0;
    }
    o = net_spec_to_object(s);
    r = o ? cli_json_print(o, stdout, e) : err_set(e, ENOMEM, "out of memory");
    json_object_put(o);
    return r;
}

int cli_cmd_network_create(const struct cli_args *args)
{
    AUTO_FREE struct net_spec *s = malloc(sizeof(*s));
    struct err e = { 0 };
    int r;

    if (!s) {
        err_set(&e, ENOMEM, "out of memory");
        return cli_fail(&e);
    }
    if (args->n_operands != 1 || !proto_name_ok(args->operands[0])) {
        err_set(&e, EINVAL,
                args->n_operands == 1 ? "network name '%s' is not allowed; use 1 to 63 of a-z, 0-9 and '-', not "
                                        "starting with '-'"
                                      : "no name for the network%s; see 'caisson network create --help'",
                args->n_operands == 1 ? args->operands[0] : "");
        return cli_fail(&e);
    }
    net_spec_init(s, args->operands[0]);
    r = create_mode(args, s, &e);
    if (r == 0)
        r = create_addresses(args, s, &e);
    if (r == 0)
        r = create_store(s, &e);
    if (r == 0)
        r = create_print(args, s, &e);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
