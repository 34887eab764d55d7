/* A network card of a VM, as part of its specification (proto/vm_spec.h): what it is connected to and how.
 *
 * {"kind": "user"|"network"|"tap", "name": "net0", "network": "web", "ifname": "tap0", "mac": "52:...", "mtu": 1500,
 * "queues": 2, "offloads": true, "vlan": 10, "forwards": [{"protocol": "tcp"|"udp", "host_addr": "127.0.0.1",
 * "host_port": 8080, "guest_port": 80}], "fds": [5, 6, 7]}
 *
 * The struct owns nothing: copy it freely. It must not know how networks are run. */
#ifndef PROTO_VM_NIC_H
#define PROTO_VM_NIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/name.h"

struct json_object;

#define VM_NICS_MAX 8
#define VM_FORWARDS_MAX 32 /* of one card */
#define VM_NIC_QUEUES_MAX 8
#define VM_NIC_FDS_MAX 4
#define VM_NIC_IF_MAX 15 /* IFNAMSIZ - 1 */
#define VM_NIC_MTU_MIN 576
#define VM_NIC_MTU_MAX 65520
#define VM_NIC_VLAN_MAX 4094

enum vm_nic_kind {
    VM_NIC_USER,    /* user-mode network of its own */
    VM_NIC_NETWORK, /* port of the switch of a network of `caisson network` */
    VM_NIC_TAP,     /* a tap device of the host */
};

/* Connections to a port of the host go on to one of the guest. */
struct vm_forward {
    bool udp;
    uint32_t host_addr;             /* to listen on, host order */
    uint16_t host_port, guest_port; /* 1..65535 */
};

struct vm_nic {
    enum vm_nic_kind kind;
    char name[PROTO_NAME_MAX + 1];    /* unique in the VM; vm_nic_complete: netI */
    char network[PROTO_NAME_MAX + 1]; /* VM_NIC_NETWORK */
    char ifname[VM_NIC_IF_MAX + 1];   /* VM_NIC_TAP */
    uint8_t mac[6];                   /* all zero: none yet, see vm_nic_complete */
    uint16_t mtu;                     /* 0: that of what it is connected to */
    unsigned queues;                  /* pairs, 1..VM_NIC_QUEUES_MAX and not more than vCPUs; 0: 1 */
    bool no_offloads;                 /* the guest computes checksums and segments itself */
    uint16_t vlan;                    /* VM_NIC_NETWORK: 1..VM_NIC_VLAN_MAX; 0: none */
    struct vm_forward forwards[VM_FORWARDS_MAX];
    unsigned n_forwards;
    /* VM_NIC_NETWORK: the descriptors of net/ring.h (memory, doorbell in, doorbell out), then what is only to be held
     * open; as caisson-vmm inherits them. */
    int fds[VM_NIC_FDS_MAX];
    unsigned n_fds;
};

/* The name of its kind in JSON. */
const char *vm_nic_kind_name(enum vm_nic_kind kind);

/* Fill name and MAC where they are not set. The MAC of card number index stays the same for a VM of the same name; one
 * on a network without a VM's name is random. 0; -errno of getrandom. */
int vm_nic_complete(struct vm_nic *nic, const char *vm_name, unsigned index) MUST_USE;

/* Check ranges that both ends rely on, and that the parts fit the kind; the text names the option and the remedy.
 * -EINVAL. */
int vm_nic_check(const struct vm_nic *nic, unsigned cpus, struct err *e) MUST_USE;
/* Likewise for what n cards must not have in common: names, MACs, ports forwarded. */
int vm_nics_check(const struct vm_nic *nics, unsigned n, struct err *e) MUST_USE;

/* As a JSON value that the caller puts; NULL: out of memory. */
struct json_object *vm_nic_to_object(const struct vm_nic *nic);
/* From a JSON value (borrowed); nic is initialised here. -EINVAL with text. Not checked otherwise (vm_nic_check). */
int vm_nic_from_object(struct json_object *o, struct vm_nic *nic, struct err *e) MUST_USE;

#endif
