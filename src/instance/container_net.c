/* The container's place on its network: a tap in its network namespace as a port of the switch, the address that the
 * network gives it, port forwards. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/container_priv.h"
#include "instance/net_attach.h"
#include "instance/switch_client.h"
#include "store/network.h"

static void net_port_name(const struct store_instance *i, char ret_name[INST_ID_SHORT + 1])
{
    snprintf(ret_name, INST_ID_SHORT + 1, "%.*s", INST_ID_SHORT, i->id);
}

/* The same for each run, so that the network gives the same address: of the id's first digits. */
static void net_mac(const char *id, uint8_t ret_mac[6])
{
    uint64_t bits = 0;

    for (int i = 0; i < 10; i++)
        bits = bits << 4 | (uint64_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'a' + 10);
    ret_mac[0] = 0x02; /* locally administered */
    for (int i = 5; i > 0; i--, bits >>= 8)
        ret_mac[i] = (uint8_t)bits;
}

static void net_request(const struct store_instance *i, const struct container_net *net,
                        struct net_msg_request *ret_request)
{
    *ret_request = (struct net_msg_request){ .op = NET_MSG_ATTACH, .attach = { .tap = true } };
    net_port_name(i, ret_request->attach.vm);
    snprintf(ret_request->attach.host, sizeof(ret_request->attach.host), "%s", i->name);
    memcpy(ret_request->attach.mac, net->mac, sizeof(net->mac));
}

static int net_detach(const struct store_instance *i, int sock, const char *network, struct err *e)
{
    struct net_msg_request request = { .op = NET_MSG_DETACH };
    json_object *reply = NULL;
    int r;

    snprintf(request.port, sizeof(request.port), "%.*s.0", INST_ID_SHORT, i->id);
    r = inst_switch_call(sock, network, &request, &reply, e);
    json_object_put(reply);
    return r;
}

/* A port of an earlier run that nobody took away is not in the way. */
static void net_detach_stale(const struct store_instance *i, const char *network)
{
    struct err ignored = { 0 };
    AUTO_FD int sock = -1;

    if (inst_switch_connect(network, &sock, &ignored) == 0 && sock >= 0)
        (void)!net_detach(i, sock, network, &ignored);
}

static int net_attach_tap(const struct store_instance *i, const struct net_spec *spec, struct container_net *net,
                          int tap, struct err *e)
{
    AUTO_FD int pidfd = pidfd_open(getpid(), 0);
    const int fds[NET_MSG_TAP_FDS] = { tap, pidfd };
    struct net_msg_request request;
    json_object *reply = NULL, *ip = NULL;
    int r;

    if (pidfd < 0)
        return err_set(e, errno, "%s: pidfd_open: %s", i->name, strerror(errno));
    net_request(i, net, &request);
    r = inst_net_ask(spec, &request, fds, NET_MSG_TAP_FDS, &reply, NULL, NULL, e);
    if (r == -EEXIST) {
        net_detach_stale(i, spec->name);
        r = inst_net_ask(spec, &request, fds, NET_MSG_TAP_FDS, &reply, NULL, NULL, e);
    }
    if (r == 0 && json_object_object_get_ex(reply, "ip", &ip) && ip &&
        addr_ip4_parse(json_object_get_string(ip), &net->ip) < 0)
        r = err_set(e, EBADMSG, "network %s: its switch answers nonsense; install all programs from one build",
                    spec->name);
    json_object_put(reply);
    return r;
}

static void net_forward(const struct inst_port *p, uint32_t ip, struct net_spec_forward *ret_forward)
{
    struct net_spec_forward f = { .udp = p->udp, .host_port = p->host_port, .guest_port = p->port };

    snprintf(f.host_addr, sizeof(f.host_addr), "%s", p->host_addr[0] ? p->host_addr : "0.0.0.0");
    addr_ip4_format(ip, f.guest);
    *ret_forward = f;
}

/* RUNTIME/instances/ID/ip: the address that forwards lead to, written before the first is made. */
static void net_ip_path(const struct inst_run *run, char *ret_path, size_t size)
{
    snprintf(ret_path, size, "%s/ip", run->rundir);
}

static int net_forwards(const struct inst_run *run, const struct net_spec *spec, uint32_t ip, struct err *e)
{
    const struct store_instance *i = run->instance;
    const struct inst_container *c = &i->spec.container;
    char path[sizeof(run->rundir) + 16], text[ADDR_IP4_TEXT];
    int r = 0;

    if (c->n_ports > 0 && !ip)
        return err_set(e, EOPNOTSUPP, "%s: network %s gives no addresses, so no port can be published; leave -p away",
                       i->name, spec->name);
    net_ip_path(run, path, sizeof(path));
    addr_ip4_format(ip, text);
    r = container_file_write(path, text, strlen(text), e);
    for (size_t p = 0; p < c->n_ports && r == 0; p++) {
        struct net_msg_request request = { .op = NET_MSG_FORWARD_ADD };
        json_object *reply = NULL;

        net_forward(&c->ports[p], ip, &request.forward);
        r = inst_net_ask(spec, &request, NULL, 0, &reply, NULL, NULL, e);
        json_object_put(reply);
        if (r < 0)
            err_wrap(e, "%s: -p %u:%u", i->name, c->ports[p].host_port, c->ports[p].port);
    }
    return r;
}

static int net_up_locked(const struct inst_run *run, const struct net_spec *spec, struct container_net *net,
                         struct err *e)
{
    const struct store_instance *i = run->instance;
    struct container_tap tap;
    int r;

    net_mac(i->id, net->mac);
    net->mtu = spec->mtu;
    net->prefix = spec->subnet.prefix;
    net->gateway = spec->mode == NET_SPEC_ISOLATED ? 0 : spec->gateway;
    net->dns = spec->dns;
    snprintf(net->domain, sizeof(net->domain), "%s", spec->domain);
    r = container_tap_open(net->mac, net->mtu, &tap, e);
    if (r < 0)
        return r;
    r = net_attach_tap(i, spec, net, tap.tap, e);
    if (r == 0)
        r = container_tap_finish(&tap, net, e);
    if (r == 0)
        r = net_forwards(run, spec, net->ip, e);
    if (r == 0)
        net->netns = STEAL_FD(tap.netns);
    container_tap_done(&tap);
    if (net->dns && !net->gateway)
        net->gateway = spec->gateway; /* it is nobody's router, but answers */
    return r;
}

int container_net_up(const struct inst_run *run, struct container_net *net, struct err *e)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    const char *name = run->instance->spec.container.network;
    AUTO_FD int lock = -1;
    int r;

    if (!network)
        return err_set(e, ENOMEM, "out of memory");
    r = inst_network_find(name, network, e); /* before anything is made for a name that is none */
    if (r == 0)
        r = lock = inst_switch_lock(name, e);
    if (r >= 0)
        r = inst_network_find(name, network, e); /* as it is now that nobody removes it */
    return r < 0 ? r : net_up_locked(run, &network->spec, net, e);
}

int container_net_start(const struct store_instance *i, struct err *e)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    const struct net_msg_request request = { .op = NET_MSG_INFO };
    const char *name = i->spec.container.network;
    json_object *reply = NULL;
    AUTO_FD int lock = -1;
    int r;

    if (!network)
        return err_set(e, ENOMEM, "out of memory");
    r = inst_network_find(name, network, e);
    if (r == 0)
        r = lock = inst_switch_lock(name, e);
    if (r >= 0)
        r = inst_net_ask(&network->spec, &request, NULL, 0, &reply, NULL, NULL, e);
    json_object_put(reply);
    return r;
}

bool container_net_used(const struct inst_container *c)
{
    return c->network && strcmp(c->network, "none") != 0 && strcmp(c->network, "host") != 0;
}

/* The address of the run that is over, or is somebody else's who was killed; 0: it published nothing. */
static uint32_t net_last_ip(const struct inst_run *run)
{
    char path[sizeof(run->rundir) + 16], text[ADDR_IP4_TEXT] = "";
    uint32_t ip = 0;
    FILE *f;

    net_ip_path(run, path, sizeof(path));
    f = fopen(path, "re");
    if (!f)
        return 0;
    if (!fgets(text, sizeof(text), f) || addr_ip4_parse(text, &ip) < 0)
        ip = 0;
    fclose(f);
    return ip;
}

void container_net_down(const struct inst_run *run)
{
    const struct store_instance *i = run->instance;
    const struct inst_container *c = &i->spec.container;
    uint32_t ip = net_last_ip(run);
    struct err ignored = { 0 };
    AUTO_FD int sock = -1;

    if (!container_net_used(c) || inst_switch_connect(c->network, &sock, &ignored) < 0 || sock < 0)
        return;
    for (size_t p = 0; p < c->n_ports && ip; p++) {
        struct net_msg_request request = { .op = NET_MSG_FORWARD_RM };
        json_object *reply = NULL;

        net_forward(&c->ports[p], ip, &request.forward);
        (void)!inst_switch_call(sock, c->network, &request, &reply, &ignored);
        json_object_put(reply);
    }
    (void)!net_detach(i, sock, c->network, &ignored);
}
