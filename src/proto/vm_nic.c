#include "proto/vm_nic.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "proto/json.h"
#include "wire/addr.h"

#define VM_NIC_DOCUMENT "VM specification: network card"
#define VM_FORWARD_DOCUMENT "VM specification: port forward"
#define VM_NIC_FD_MAX 0xffff
#define LOOPBACK4 0x7f000001U

static const char *const vm_nic_kinds[] = {
    [VM_NIC_USER] = "user", [VM_NIC_NETWORK] = "network", [VM_NIC_TAP] = "tap"
};
static const char *const vm_nic_protocols[] = { "tcp", "udp" };

const char *vm_nic_kind_name(enum vm_nic_kind kind)
{
    return vm_nic_kinds[kind];
}

/* ---- completing ---- */

static bool vm_nic_has_mac(const struct vm_nic *nic)
{
    static const uint8_t none[6];

    return memcmp(nic->mac, none, sizeof(none)) != 0;
}

int vm_nic_complete(struct vm_nic *nic, const char *vm_name, unsigned index)
{
    uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a */

    if (!nic->name[0])
        snprintf(nic->name, sizeof(nic->name), "net%u", index);
    if (vm_nic_has_mac(nic))
        return 0;
    for (const char *p = vm_name ? vm_name : ""; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3ULL;
    hash = (hash ^ index) * 0x100000001b3ULL;
    if (!vm_name && nic->kind != VM_NIC_USER && getrandom(&hash, sizeof(hash), 0) != sizeof(hash))
        return -errno;
    /* 0x52: locally administered, unicast. */
    nic->mac[0] = 0x52;
    memcpy(nic->mac + 1, &hash, 5);
    return 0;
}

/* ---- checking ---- */

static int vm_nic_check_numbers(const struct vm_nic *nic, unsigned cpus, struct err *e)
{
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(nic->mac, mac);
    if (vm_nic_has_mac(nic) && !addr_mac_is_unicast(nic->mac))
        return err_set(e, EINVAL, "--net: %s is the address of a group; give mac= an even first byte", mac);
    if (nic->mtu && (nic->mtu < VM_NIC_MTU_MIN || nic->mtu > VM_NIC_MTU_MAX))
        return err_set(e, EINVAL, "--net: an MTU of %u is not possible; give mtu= %u to %u", nic->mtu, VM_NIC_MTU_MIN,
                       VM_NIC_MTU_MAX);
    if (nic->queues > VM_NIC_QUEUES_MAX)
        return err_set(e, EINVAL, "--net: %u queues are not possible; give queues= 1 to %u", nic->queues,
                       VM_NIC_QUEUES_MAX);
    if (nic->queues > 1 && nic->queues > cpus)
        return err_set(e, EINVAL, "--net: %u queues for %u vCPU%s; give queues= at most as many, or more --cpus",
                       nic->queues, cpus, cpus == 1 ? "" : "s");
    if (nic->vlan > VM_NIC_VLAN_MAX)
        return err_set(e, EINVAL, "--net: VLAN %u is not possible; give vlan= 1 to %u", nic->vlan, VM_NIC_VLAN_MAX);
    return 0;
}

int vm_nic_check(const struct vm_nic *nic, unsigned cpus, struct err *e)
{
    int r = vm_nic_check_numbers(nic, cpus, e);

    if (r < 0)
        return r;
    if (nic->name[0] && !proto_name_ok(nic->name))
        return err_set(e, EINVAL,
                       "--net: name '%s' is not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       nic->name, PROTO_NAME_MAX);
    if (nic->kind == VM_NIC_NETWORK && !proto_name_ok(nic->network))
        return err_set(e, EINVAL, "--net: '%s' cannot be the name of a network; see caisson network ls", nic->network);
    if (nic->kind == VM_NIC_TAP && !nic->ifname[0])
        return err_set(e, EINVAL, "--net tap=: no interface named; give --net tap=IF, e.g. tap=tap0");
    if (nic->vlan && nic->kind != VM_NIC_NETWORK)
        return err_set(e, EINVAL, "--net: vlan= needs the switch of a network; give --net NETWORK,vlan=%u", nic->vlan);
    if (nic->n_forwards > 0 && nic->kind == VM_NIC_TAP)
        return err_set(e, EINVAL, "--net: a port forward needs a network with NAT; give --net user,fwd=...");
    for (unsigned i = 0; i < nic->n_forwards; i++) {
        if (nic->forwards[i].host_port == 0 || nic->forwards[i].guest_port == 0)
            return err_set(e, EINVAL, "--net: port 0 cannot be forwarded; use ports 1 to 65535");
    }
    return 0;
}

static bool vm_forwards_clash(const struct vm_forward *a, const struct vm_forward *b)
{
    return a->udp == b->udp && a->host_port == b->host_port &&
           (a->host_addr == b->host_addr || a->host_addr == 0 || b->host_addr == 0);
}

static int vm_nics_check_forwards(const struct vm_nic *a, const struct vm_nic *b, struct err *e)
{
    for (unsigned i = 0; i < a->n_forwards; i++) {
        for (unsigned j = a == b ? i + 1 : 0; j < b->n_forwards; j++) {
            if (vm_forwards_clash(&a->forwards[i], &b->forwards[j]))
                return err_set(e, EINVAL, "--net: %s port %u of the host is forwarded twice; give one of them another",
                               a->forwards[i].udp ? "UDP" : "TCP", a->forwards[i].host_port);
        }
    }
    return 0;
}

int vm_nics_check(const struct vm_nic *nics, unsigned n, struct err *e)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = i; j < n; j++) {
            const struct vm_nic *a = &nics[i], *b = &nics[j];
            int r = vm_nics_check_forwards(a, b, e);

            if (r < 0)
                return r;
            if (i == j)
                continue;
            if (a->name[0] && strcmp(a->name, b->name) == 0)
                return err_set(e, EINVAL, "--net: two cards are called '%s'; give one of them another name=", a->name);
            if (vm_nic_has_mac(a) && memcmp(a->mac, b->mac, 6) == 0)
                return err_set(e, EINVAL,
                               "--net: cards %u and %u have the same MAC; give one of them another mac=", i + 1, j + 1);
        }
    }
    return 0;
}

/* ---- writing ---- */

static void vm_nic_put_text(json_object *o, const char *key, const char *text)
{
    if (text[0])
        json_object_object_add(o, key, json_object_new_string(text));
}

static void vm_nic_put_number(json_object *o, const char *key, unsigned n)
{
    if (n)
        json_object_object_add(o, key, json_object_new_int((int)n));
}

static void vm_nic_put_forwards(json_object *o, const struct vm_nic *nic)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < nic->n_forwards; i++) {
        json_object *f = json_object_new_object();
        char addr[ADDR_IP4_TEXT];

        addr_ip4_format(nic->forwards[i].host_addr, addr);
        vm_nic_put_text(f, "protocol", vm_nic_protocols[nic->forwards[i].udp]);
        vm_nic_put_text(f, "host_addr", addr);
        vm_nic_put_number(f, "host_port", nic->forwards[i].host_port);
        vm_nic_put_number(f, "guest_port", nic->forwards[i].guest_port);
        json_object_array_add(list, f);
    }
    json_object_object_add(o, "forwards", list);
}

struct json_object *vm_nic_to_object(const struct vm_nic *nic)
{
    json_object *o = json_object_new_object();
    char mac[ADDR_MAC_TEXT];

    if (!o)
        return NULL;
    addr_mac_format(nic->mac, mac);
    vm_nic_put_text(o, "kind", vm_nic_kinds[nic->kind]);
    vm_nic_put_text(o, "name", nic->name);
    vm_nic_put_text(o, "network", nic->network);
    vm_nic_put_text(o, "ifname", nic->ifname);
    vm_nic_put_text(o, "mac", vm_nic_has_mac(nic) ? mac : "");
    vm_nic_put_number(o, "mtu", nic->mtu);
    vm_nic_put_number(o, "queues", nic->queues);
    json_object_object_add(o, "offloads", json_object_new_boolean(!nic->no_offloads));
    vm_nic_put_number(o, "vlan", nic->vlan);
    if (nic->n_forwards > 0)
        vm_nic_put_forwards(o, nic);
    if (nic->n_fds > 0) {
        json_object *fds = json_object_new_array();

        for (unsigned i = 0; i < nic->n_fds; i++)
            json_object_array_add(fds, json_object_new_int(nic->fds[i]));
        json_object_object_add(o, "fds", fds);
    }
    return o;
}

/* ---- reading ---- */

static int vm_nic_get_number(json_object *v, const char *what, const char *key, uint64_t min, uint64_t max,
                             unsigned *ret, struct err *e)
{
    uint64_t n;
    int r = proto_json_uint(v, what, key, min, max, &n, e);

    if (r == 0)
        *ret = (unsigned)n;
    return r;
}

static int vm_nic_get_port(json_object *v, const char *key, uint16_t *ret, struct err *e)
{
    unsigned n;
    int r = vm_nic_get_number(v, VM_FORWARD_DOCUMENT, key, 1, 65535, &n, e);

    if (r == 0)
        *ret = (uint16_t)n;
    return r;
}

static int vm_forward_from_object(json_object *o, struct vm_forward *f, struct err *e)
{
    *f = (struct vm_forward){ .host_addr = LOOPBACK4 };
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, VM_FORWARD_DOCUMENT ": must be an object");
    json_object_object_foreach(o, key, v)
    {
        char addr[ADDR_IP4_TEXT];
        unsigned protocol;
        int r;

        if (strcmp(key, "protocol") == 0) {
            r = proto_json_choice(v, VM_FORWARD_DOCUMENT, key, vm_nic_protocols, ARRAY_SIZE(vm_nic_protocols),
                                  &protocol, e);
            f->udp = r == 0 && protocol == 1;
        } else if (strcmp(key, "host_addr") == 0) {
            r = proto_json_text(v, VM_FORWARD_DOCUMENT, key, addr, sizeof(addr), e);
            if (r == 0 && addr_ip4_parse(addr, &f->host_addr) < 0)
                r = err_set(e, EINVAL, VM_FORWARD_DOCUMENT ": '%s' is no IPv4 address", addr);
        } else if (strcmp(key, "host_port") == 0) {
            r = vm_nic_get_port(v, key, &f->host_port, e);
        } else if (strcmp(key, "guest_port") == 0) {
            r = vm_nic_get_port(v, key, &f->guest_port, e);
        } else {
            r = proto_json_unknown(VM_FORWARD_DOCUMENT, key, e);
        }
        if (r < 0)
            return r;
    }
    if (f->host_port == 0 || f->guest_port == 0)
        return err_set(e, EINVAL, VM_FORWARD_DOCUMENT ": needs a host_port and a guest_port");
    return 0;
}

static int vm_nic_get_forwards(json_object *v, struct vm_nic *nic, struct err *e)
{
    size_t n;
    int r = proto_json_array(v, VM_NIC_DOCUMENT, "forwards", VM_FORWARDS_MAX, &n, e);

    for (size_t i = 0; r == 0 && i < n; i++)
        r = vm_forward_from_object(json_object_array_get_idx(v, i), &nic->forwards[nic->n_forwards++], e);
    return r;
}

static int vm_nic_get_fds(json_object *v, struct vm_nic *nic, struct err *e)
{
    size_t n;
    int r = proto_json_array(v, VM_NIC_DOCUMENT, "fds", VM_NIC_FDS_MAX, &n, e);

    for (size_t i = 0; r == 0 && i < n; i++) {
        unsigned fd;

        r = vm_nic_get_number(json_object_array_get_idx(v, i), VM_NIC_DOCUMENT, "fds", 3, VM_NIC_FD_MAX, &fd, e);
        if (r == 0)
            nic->fds[nic->n_fds++] = (int)fd;
    }
    return r;
}

static int vm_nic_get_mac(json_object *v, struct vm_nic *nic, struct err *e)
{
    char mac[ADDR_MAC_TEXT];
    int r = proto_json_text(v, VM_NIC_DOCUMENT, "mac", mac, sizeof(mac), e);

    if (r == 0 && addr_mac_parse(mac, nic->mac) < 0)
        r = err_set(e, EINVAL, VM_NIC_DOCUMENT ": '%s' is no MAC address", mac);
    return r;
}

static int vm_nic_get_field(const char *key, json_object *v, struct vm_nic *nic, struct err *e)
{
    unsigned n = 0;
    bool on;
    int r;

    if (strcmp(key, "name") == 0)
        return proto_json_text(v, VM_NIC_DOCUMENT, key, nic->name, sizeof(nic->name), e);
    if (strcmp(key, "network") == 0)
        return proto_json_text(v, VM_NIC_DOCUMENT, key, nic->network, sizeof(nic->network), e);
    if (strcmp(key, "ifname") == 0)
        return proto_json_text(v, VM_NIC_DOCUMENT, key, nic->ifname, sizeof(nic->ifname), e);
    if (strcmp(key, "mac") == 0)
        return vm_nic_get_mac(v, nic, e);
    if (strcmp(key, "queues") == 0)
        return vm_nic_get_number(v, VM_NIC_DOCUMENT, key, 1, VM_NIC_QUEUES_MAX, &nic->queues, e);
    if (strcmp(key, "forwards") == 0)
        return vm_nic_get_forwards(v, nic, e);
    if (strcmp(key, "fds") == 0)
        return vm_nic_get_fds(v, nic, e);
    if (strcmp(key, "kind") == 0) {
        r = proto_json_choice(v, VM_NIC_DOCUMENT, key, vm_nic_kinds, ARRAY_SIZE(vm_nic_kinds), &n, e);
        nic->kind = (enum vm_nic_kind)n;
    } else if (strcmp(key, "mtu") == 0) {
        r = vm_nic_get_number(v, VM_NIC_DOCUMENT, key, VM_NIC_MTU_MIN, VM_NIC_MTU_MAX, &n, e);
        nic->mtu = (uint16_t)n;
    } else if (strcmp(key, "vlan") == 0) {
        r = vm_nic_get_number(v, VM_NIC_DOCUMENT, key, 1, VM_NIC_VLAN_MAX, &n, e);
        nic->vlan = (uint16_t)n;
    } else if (strcmp(key, "offloads") == 0) {
        r = proto_json_bool(v, VM_NIC_DOCUMENT, key, &on, e);
        nic->no_offloads = r == 0 && !on;
    } else {
        r = proto_json_unknown(VM_NIC_DOCUMENT, key, e);
    }
    return r;
}

int vm_nic_from_object(struct json_object *o, struct vm_nic *nic, struct err *e)
{
    *nic = (struct vm_nic){ 0 };
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, EINVAL, VM_NIC_DOCUMENT ": must be an object");
    json_object_object_foreach(o, key, v)
    {
        int r = vm_nic_get_field(key, v, nic, e);

        if (r < 0)
            return r;
    }
    return 0;
}
