#include "instance/vm_ports.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "instance/switch_client.h"
#include "proto/vm_spec.h"
#include "wire/addr.h"

/* The guest is known to the switch by the VM's name, whatever address it gets. */
static void ports_request(const struct store_instance *i, const struct vm_forward *f, enum net_msg_op op,
                          struct net_msg_request *ret_request)
{
    struct net_spec_forward *to = &ret_request->forward;

    *ret_request = (struct net_msg_request){ .op = op };
    to->udp = f->udp;
    to->host_port = f->host_port;
    to->guest_port = f->guest_port;
    addr_ip4_format(f->host_addr, to->host_addr);
    snprintf(to->guest, sizeof(to->guest), "%s", i->name);
}

static int ports_of_card(const struct store_instance *i, const struct vm_nic *nic, enum net_msg_op op, struct err *e)
{
    AUTO_FD int sock = -1;
    int r = inst_switch_connect(nic->network, &sock, e);

    if (r == 0 && sock < 0)
        r = op == NET_MSG_FORWARD_RM ? 0 : err_set(e, ENOTCONN, "network %s: its switch has ended", nic->network);
    for (unsigned k = 0; k < nic->n_forwards && r == 0 && sock >= 0; k++) {
        struct net_msg_request request;
        json_object *reply = NULL;

        ports_request(i, &nic->forwards[k], op, &request);
        r = inst_switch_call(sock, nic->network, &request, &reply, e);
        json_object_put(reply);
        if (op == NET_MSG_FORWARD_RM)
            r = 0; /* it may never have been there */
        else if (r < 0)
            err_wrap(e, "%s: -p %u:%u", i->name, nic->forwards[k].host_port, nic->forwards[k].guest_port);
    }
    return r;
}

static int ports_all(const struct store_instance *i, enum net_msg_op op, struct err *e)
{
    const struct vm_spec *vm = i->spec.vm;
    int r = 0;

    for (unsigned k = 0; k < vm->n_nets && r == 0; k++) {
        if (vm->nets[k].kind == VM_NIC_NETWORK && vm->nets[k].n_forwards > 0)
            r = ports_of_card(i, &vm->nets[k], op, e);
    }
    return r;
}

int inst_vm_ports_add(const struct store_instance *i, struct err *e)
{
    return ports_all(i, NET_MSG_FORWARD_ADD, e);
}

void inst_vm_ports_remove(const struct store_instance *i)
{
    struct err ignored = { 0 };

    (void)!ports_all(i, NET_MSG_FORWARD_RM, &ignored);
}
