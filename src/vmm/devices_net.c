#include "vmm/devices_net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>

#include "base/log.h"
#include "net/ring.h"
#include "net/tap.h"
#include "net/user.h"
#include "virtio/net.h"
#include "vmm/machine_priv.h"

/* ---- user-mode network ---- */

static int devices_user_error(const struct vm_nic *nic, int forward, int code, struct err *e)
{
    const struct vm_forward *f = forward >= 0 ? &nic->forwards[forward] : NULL;
    const char *protocol = f && f->udp ? "UDP" : "TCP";

    if (!f)
        return err_set(e, code, "user network: %s", strerror(code));
    if (code == EADDRINUSE)
        return err_set(e, code,
                       "port forward: %s port %u of the host is already in use; choose another with --net user,fwd=",
                       protocol, f->host_port);
    if (code == EADDRNOTAVAIL)
        return err_set(e, EINVAL,
                       "port forward: %s port %u: the host does not have that address; leave it out for 127.0.0.1",
                       protocol, f->host_port);
    if (code == EACCES)
        return err_set(e, code, "port forward: %s port %u of the host needs root; choose one above 1023", protocol,
                       f->host_port);
    return err_set(e, code, "port forward: %s port %u of the host: %s", protocol, f->host_port, strerror(code));
}

static int devices_new_user(struct machine *m, const struct vm_nic *nic, struct net_backend **ret, struct err *e)
{
    struct net_user_forward forwards[VM_FORWARDS_MAX];
    const struct net_user_config config = { .forwards = forwards, .n_forwards = nic->n_forwards, .mtu = nic->mtu };
    int forward = -1, r;

    for (unsigned i = 0; i < nic->n_forwards; i++) {
        const struct vm_forward *f = &nic->forwards[i];

        forwards[i] = (struct net_user_forward){ .udp = f->udp,
                                                 .host_addr.s_addr = htonl(f->host_addr),
                                                 .host_port = f->host_port,
                                                 .guest_port = f->guest_port };
    }
    r = net_user_new(&config, m->loop, &forward, ret);
    return r < 0 ? devices_user_error(nic, forward, -r, e) : 0;
}

/* ---- tap ---- */

static int devices_tap_error(const struct vm_nic *nic, enum net_tap_step step, int code, struct err *e)
{
    const char *name = nic->ifname;

    if (step == NET_TAP_DEVICE && code == EACCES)
        return err_set(e, code, "tap %s: no right to /dev/net/tun; ask an administrator for it, or use --net user",
                       name);
    if (step == NET_TAP_DEVICE)
        return err_set(e, ENOENT,
                       "tap %s: this machine has no /dev/net/tun (%s); load the module tun, or use --net user", name,
                       strerror(code));
    if (step == NET_TAP_MTU)
        return err_set(
            e, code, "tap %s: cannot set its MTU to %u: %s; set it with ip link set %s mtu %u, or leave out mtu=", name,
            nic->mtu, strerror(code), name, nic->mtu);
    if (step == NET_TAP_ATTACH && code == ENODEV)
        return err_set(e, ENOENT, "tap %s: no such interface; make it with ip tuntap add %s mode tap user USER", name,
                       name);
    if (step == NET_TAP_ATTACH && code == EBUSY)
        return err_set(e, code, "tap %s: in use by another VM or program; give it another one", name);
    if (step == NET_TAP_ATTACH && (code == EPERM || code == EACCES))
        return err_set(
            e, EPERM,
            "tap %s: it belongs to another user; make it with ip tuntap add %s mode tap user USER, or be root", name,
            name);
    if (step == NET_TAP_ATTACH && code == EINVAL)
        return err_set(e, EINVAL, "tap %s: that interface is no tap device; make one with ip tuntap add NAME mode tap",
                       name);
    return err_set(e, code, "tap %s: %s", name, strerror(code));
}

static int devices_new_tap(struct machine *m, const struct vm_nic *nic, struct net_backend **ret, struct err *e)
{
    const struct net_tap_config config = { .name = nic->ifname, .mtu = nic->mtu };
    enum net_tap_step step = NET_TAP_MEMORY;
    int r = net_tap_new(&config, m->loop, &step, ret);

    return r < 0 ? devices_tap_error(nic, step, -r, e) : 0;
}

/* ---- port of a switch ---- */

/* The switch is gone: the cable is out. */
static void devices_net_hangup(void *opaque)
{
    const struct machine_port *port = opaque;

    log_warn("network %s: its switch has ended, and the guest's cable to it is out until the VM is started again",
             port->network);
    if (*port->net)
        virtio_net_set_link(*port->net, false);
}

/* The back end gets copies: those inherited stay open, so that a guest's reset, which starts this program afresh, finds
 * them again and the switch sees no hang-up. */
static int devices_copy_fds(const struct vm_nic *nic, struct net_ring_fds *ret_fds)
{
    int *const to[NET_RING_FDS] = { &ret_fds->memory, &ret_fds->doorbell_in, &ret_fds->doorbell_out };

    *ret_fds = (struct net_ring_fds){ -1, -1, -1 };
    if (nic->n_fds < NET_RING_FDS)
        return -EBADF;
    for (unsigned i = 0; i < NET_RING_FDS; i++) {
        *to[i] = fcntl(nic->fds[i], F_DUPFD_CLOEXEC, 0);
        if (*to[i] < 0) {
            int r = -errno;

            net_ring_fds_close(ret_fds);
            return r;
        }
    }
    return 0;
}

static int devices_new_ring(struct machine *m, unsigned i, struct err *e)
{
    const struct vm_nic *nic = &m->spec->nets[i];
    struct net_ring_config config = {
        .side = NET_RING_VM, .mtu = nic->mtu ? nic->mtu : 1500, .hangup = devices_net_hangup, .opaque = &m->net_ports[i]
    };
    int r = devices_copy_fds(nic, &config.fds);

    m->net_ports[i] = (struct machine_port){ .net = &m->nets[i], .network = nic->network };
    if (r == 0) {
        r = net_ring_backend_new(&config, m->loop, &m->net_backends[i]);
        if (r < 0)
            net_ring_fds_close(&config.fds);
    }
    return r < 0
               ? err_set(e, -r, "network %s: cannot use the port that its switch gave: %s", nic->network, strerror(-r))
               : 0;
}

/* ---- all ---- */

static int devices_new_backend(struct machine *m, unsigned i, struct err *e)
{
    const struct vm_nic *nic = &m->spec->nets[i];

    switch (nic->kind) {
    case VM_NIC_USER:
        return devices_new_user(m, nic, &m->net_backends[i], e);
    case VM_NIC_TAP:
        return devices_new_tap(m, nic, &m->net_backends[i], e);
    case VM_NIC_NETWORK:
        return devices_new_ring(m, i, e);
    }
    return err_set(e, EINVAL, "network card %u: unknown kind", i + 1);
}

int devices_net_new(struct machine *m, const struct virtio_env *env, struct err *e)
{
    for (unsigned i = 0; i < m->spec->n_nets; i++) {
        struct vm_nic nic = m->spec->nets[i];
        struct virtio_net_config config = {
            .mtu = nic.mtu, .pairs = nic.queues, .no_offloads = nic.no_offloads, .slot = -1
        };
        int r = devices_new_backend(m, i, e);

        if (r < 0)
            return r;
        r = vm_nic_complete(&nic, m->spec->name, i); /* where nobody has done so before */
        if (r == 0) {
            memcpy(config.mac, nic.mac, 6);
            config.backend = m->net_backends[i];
            r = virtio_net_new(env, &config, &m->nets[i]);
        }
        if (r < 0)
            return err_set(e, -r, "cannot make network card %u: %s", i + 1, strerror(-r));
    }
    return 0;
}

void devices_net_free(struct machine *m)
{
    for (unsigned i = 0; i < VM_NICS_MAX; i++) {
        virtio_net_free(m->nets[i]);
        m->nets[i] = NULL;
        net_backend_close(m->net_backends[i]);
        m->net_backends[i] = NULL;
    }
}
