#include "instance/net_attach.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/switch_client.h"

/* A switch may decide to end at the very moment when it is asked; then a new one is started. */
#define NET_ATTACH_TRIES 3

static void net_attach_request(const struct vm_spec *s, unsigned index, struct net_msg_request *ret_request)
{
    const struct vm_nic *nic = &s->nets[index];

    *ret_request = (struct net_msg_request){ .op = NET_MSG_ATTACH };
    snprintf(ret_request->attach.vm, sizeof(ret_request->attach.vm), "%s", s->name);
    ret_request->attach.nic = index;
    memcpy(ret_request->attach.mac, nic->mac, sizeof(nic->mac));
    ret_request->attach.vlan = nic->vlan;
}

/* The card cannot send what the network does not carry. */
static int net_attach_check_mtu(const struct vm_nic *nic, const struct net_spec *network, struct err *e)
{
    if (nic->mtu > network->mtu)
        return err_set(e, EINVAL, "network %s carries packets of %u bytes, not %u; give the card mtu=%u or less",
                       network->name, network->mtu, nic->mtu, network->mtu);
    return 0;
}

/* Hand the descriptors of a reply to the card. */
static int net_attach_keep(struct vm_nic *nic, const int *fds, unsigned n, struct err *e)
{
    bool fits = n >= NET_MSG_RING_FDS && n <= VM_NIC_FDS_MAX;

    for (unsigned i = 0; i < n; i++) {
        if (fits)
            nic->fds[nic->n_fds++] = fds[i];
        else
            close(fds[i]);
    }
    return fits ? 0
                : err_set(e, EBADMSG, "network %s: its switch gives no port; install all programs from one build",
                          nic->network);
}

/* Connect to the switch that runs, or start one. The caller holds the lock. */
static int net_attach_connect(const struct net_spec *network, int *ret_sock, struct err *e)
{
    int r = inst_switch_connect(network->name, ret_sock, e);

    return r == 0 && *ret_sock < 0 ? inst_switch_start(network, ret_sock, e) : r;
}

int inst_net_ask(const struct net_spec *network, const struct net_msg_request *request, const int *fds, unsigned n_fds,
                 json_object **ret_reply, int *ret_fds, unsigned *ret_n, struct err *e)
{
    int r = -ECONNRESET;

    for (int i = 0; i < NET_ATTACH_TRIES && (r == -ECONNRESET || r == -EPIPE); i++) {
        AUTO_FD int sock = -1;

        r = net_attach_connect(network, &sock, e);
        if (r == 0)
            r = net_msg_call(sock, network->name, request, fds, n_fds, INST_SWITCH_TIMEOUT_MS, ret_reply, ret_fds,
                             ret_n, e);
    }
    return r;
}

static int net_attach_ask(const struct vm_spec *s, unsigned index, const struct net_spec *network,
                          int ret_fds[NET_MSG_FDS_MAX], unsigned *ret_n, struct err *e)
{
    struct net_msg_request request;
    json_object *reply = NULL;
    int r;

    net_attach_request(s, index, &request);
    r = inst_net_ask(network, &request, NULL, 0, &reply, ret_fds, ret_n, e);
    json_object_put(reply);
    return r;
}

static int net_attach_one(struct vm_spec *s, unsigned index, struct err *e)
{
    struct vm_nic *nic = &s->nets[index];
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    AUTO_FD int lock = -1;
    int fds[NET_MSG_FDS_MAX], r;
    unsigned n = 0;

    if (!network)
        return err_set(e, ENOMEM, "out of memory");
    r = inst_network_find(nic->network, network, e); /* before anything is made for a name that is none */
    if (r == 0)
        r = lock = inst_switch_lock(nic->network, e);
    if (r >= 0)
        r = inst_network_find(nic->network, network, e); /* as it is now that nobody removes it */
    if (r == 0)
        r = net_attach_check_mtu(nic, &network->spec, e);
    if (r == 0)
        r = net_attach_ask(s, index, &network->spec, fds, &n, e);
    if (r == 0)
        r = net_attach_keep(nic, fds, n, e);
    if (r == 0 && n < NET_MSG_RING_FDS)
        r = err_set(e, EBADMSG, "network %s: its switch gives no port; install all programs from one build",
                    nic->network);
    if (r == 0 && nic->mtu == 0)
        nic->mtu = (uint16_t)network->spec.mtu;
    return r;
}

static int net_attach_name(struct vm_spec *s, struct err *e)
{
    char name[32];

    if (s->name)
        return 0;
    snprintf(name, sizeof(name), "vm-%d", (int)getpid());
    s->name = strdup(name);
    return s->name ? 0 : err_set(e, ENOMEM, "out of memory");
}

int inst_net_attach(struct vm_spec *s, struct err *e)
{
    int r = 0;

    for (unsigned i = 0; i < s->n_nets && r == 0; i++) {
        if (s->nets[i].kind != VM_NIC_NETWORK)
            continue;
        r = net_attach_name(s, e);
        if (r == 0)
            r = net_attach_one(s, i, e);
    }
    return r;
}
