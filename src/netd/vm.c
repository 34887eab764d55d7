/* Ports of VMs and containers. A VM's belongs to whoever holds its ring's descriptors, and goes when they are closed. A
 * container's goes with the container's first process: the tap itself would not tell, because an open one keeps the
 * network namespace alive that it is in. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "net/backend.h"
#include "net/ring.h"
#include "net/tap.h"
#include "netd/netd_priv.h"
#include "sys/loop.h"

_Static_assert(NET_MSG_RING_FDS == NET_RING_FDS, "descriptors of a ring");

struct netd_vm {
    struct list link; /* in netd.vms */
    struct netd *netd;
    struct net_port *port;
    int pidfd; /* of a container; -1 */
    struct loop_fd *end;
};

static void vm_remove(struct netd_vm *vm)
{
    struct netd *d = vm->netd;

    log_debug("network %s: port %s goes", d->spec.name, net_port_get_config(vm->port)->name);
    netd_services_vm_down(d, vm->port);
    net_switch_port_remove(vm->port);
    loop_fd_free(vm->end);
    base_closep(&vm->pidfd);
    list_remove(&vm->link);
    d->n_vms--;
    free(vm);
    d->idle_at_ns = sys_now_ns() + d->idle_ns;
    netd_control_idle(d);
}

static void vm_hangup(void *opaque)
{
    vm_remove(opaque);
}

static void vm_port_config(const struct netd *d, const struct net_msg_attach *a, struct net_port_config *ret_config)
{
    struct net_port_config c = {
        .vlan = a->vlan,
        .trunk = a->n_trunk > 0,
        .isolated = a->isolated || d->spec.isolated_ports,
        .filter_mac = d->spec.mac_filter && !a->no_filter,
        .rate_in = a->rate_in,
        .rate_out = a->rate_out,
        .burst = a->burst,
    };

    snprintf(c.name, sizeof(c.name), "%s.%u", a->vm, a->nic);
    memcpy(c.mac, a->mac, sizeof(c.mac));
    for (unsigned i = 0; i < a->n_trunk; i++)
        c.trunk_vlans.bits[a->trunk[i] / 64] |= 1ULL << (a->trunk[i] % 64);
    /* Which addresses a guest has is known where the network gives them out. */
    c.filter_ip = c.filter_mac && d->spec.mode != NET_SPEC_BRIDGE && d->spec.dhcp;
    if (d->spec.subnet6.prefix)
        memcpy(c.ip6_prefix.bytes, d->spec.subnet6.addr, 8);
    *ret_config = c;
}

static int vm_refused(const struct netd *d, const struct net_msg_attach *a, const char *name, int r, struct err *e)
{
    struct net_port *other = net_switch_port_by_mac(d->sw, a->mac);
    char mac[ADDR_MAC_TEXT];

    if (r != -EEXIST)
        return err_set(e, -r, "network %s: no port for %s: %s", d->spec.name, name, strerror(-r));
    if (net_switch_port_by_name(d->sw, name))
        return err_set(e, EEXIST, "network %s: %s has a port already; stop that VM first", d->spec.name, name);
    addr_mac_format(a->mac, mac);
    return err_set(e, EEXIST, "network %s: MAC address %s is that of %s; give the card another one", d->spec.name, mac,
                   other ? net_port_get_config(other)->name : "another port");
}

/* Add the switch's end of a ring as a port. */
static int vm_add_port(struct netd_vm *vm, const struct net_port_config *config, struct net_ring_fds *fds)
{
    struct net_ring_config ring = {
        .fds = *fds, .side = NET_RING_SWITCH, .mtu = (uint16_t)vm->netd->spec.mtu, .hangup = vm_hangup, .opaque = vm
    };
    AUTO(net_backend) struct net_backend *backend = NULL;
    int r = net_ring_backend_new(&ring, vm->netd->loop, &backend);

    if (r < 0)
        return r;
    *fds = (struct net_ring_fds){ -1, -1, -1 };
    r = net_switch_port_add(vm->netd->sw, config, backend, &vm->port);
    if (r == 0)
        backend = NULL;
    return r;
}

/* vm has its port. */
static void vm_register(struct netd *d, struct netd_vm *vm, const struct net_msg_attach *a)
{
    net_port_set_opaque(vm->port, vm);
    list_add_before(&d->vms, &vm->link);
    d->n_vms++;
    netd_services_vm_up(d, vm->port, a->host[0] ? a->host : a->vm);
    netd_control_idle(d);
}

int netd_vm_attach(struct netd *d, const struct net_msg_attach *a, int ret_fds[NET_MSG_RING_FDS],
                   struct net_port **ret_port, struct err *e)
{
    struct net_ring_fds ours = { -1, -1, -1 }, theirs = { -1, -1, -1 };
    AUTO_FREE struct netd_vm *vm = calloc(1, sizeof(*vm));
    struct net_port_config config;
    int r = vm ? net_ring_create(NET_RING_BYTES, &ours, &theirs) : -ENOMEM;

    vm_port_config(d, a, &config);
    if (r == 0) {
        vm->netd = d;
        vm->pidfd = -1;
        r = vm_add_port(vm, &config, &ours);
    }
    if (r < 0) {
        net_ring_fds_close(&ours);
        net_ring_fds_close(&theirs);
        return vm_refused(d, a, config.name, r, e);
    }
    ret_fds[0] = theirs.memory;
    ret_fds[1] = theirs.doorbell_in;
    ret_fds[2] = theirs.doorbell_out;
    *ret_port = vm->port;
    vm_register(d, STEAL(vm), a);
    return 0;
}

static void vm_ended(void *opaque, uint32_t events)
{
    vm_remove(opaque);
}

int netd_vm_attach_tap(struct netd *d, const struct net_msg_attach *a, int *fds, struct net_port **ret_port,
                       struct err *e)
{
    AUTO(net_backend) struct net_backend *backend = NULL;
    AUTO_FREE struct netd_vm *vm = calloc(1, sizeof(*vm));
    struct net_port_config config;
    int r = vm ? net_tap_adopt(fds[0], (uint16_t)d->spec.mtu, d->loop, &backend) : -ENOMEM;

    vm_port_config(d, a, &config);
    if (r == 0) {
        fds[0] = -1;
        vm->netd = d;
        r = loop_fd_add(d->loop, fds[1], EPOLLIN, vm_ended, vm, &vm->end);
    }
    if (r == 0)
        r = net_switch_port_add(d->sw, &config, backend, &vm->port);
    if (r < 0) {
        if (vm)
            loop_fd_free(vm->end);
        return vm_refused(d, a, config.name, r, e);
    }
    backend = NULL;
    vm->pidfd = STEAL_FD(fds[1]);
    *ret_port = vm->port;
    vm_register(d, STEAL(vm), a);
    return 0;
}

int netd_vm_detach(struct netd *d, const char *port, struct err *e)
{
    struct netd_vm *vm;

    LIST_FOR_EACH(vm, &d->vms, link) {
        if (strcmp(net_port_get_config(vm->port)->name, port) == 0) {
            vm_remove(vm);
            return 0;
        }
    }
    return err_set(e, ENOENT, "network %s: no VM has a port '%s'; 'caisson network inspect %s' lists them",
                   d->spec.name, port, d->spec.name);
}

void netd_vm_detach_all(struct netd *d)
{
    while (!list_empty(&d->vms))
        vm_remove(CONTAINER_OF(d->vms.next, struct netd_vm, link));
}
