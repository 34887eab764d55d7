#include "cli/net_option.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "wire/addr.h"

#define NET_WORD_MAX 128
#define NET_LOOPBACK4 0x7f000001U

/* One part of the option: NAME or NAME=VALUE. */
struct net_word {
    char name[NET_WORD_MAX];
    char *value; /* in name; NULL: no = */
};

/* Cut the part at *p off; *p goes behind its comma, at the end to NULL. */
static int net_next_word(const char **p, struct net_word *w, const char *text, struct err *e)
{
    size_t len = strcspn(*p, ",");

    if (len >= sizeof(w->name))
        return err_set(e, EINVAL, "--net %s: the part '%.20s...' is too long; see caisson vm run --help", text, *p);
    memcpy(w->name, *p, len);
    w->name[len] = '\0';
    w->value = strchr(w->name, '=');
    if (w->value)
        *w->value++ = '\0';
    *p = (*p)[len] == ',' ? *p + len + 1 : NULL;
    return 0;
}

/* Cut text at its last colon; returns what is behind it, NULL without one. */
static char *net_split_last(char *text)
{
    char *p = strrchr(text, ':');

    if (p)
        *p++ = '\0';
    return p;
}

/* PROTO:[ADDR:]HOSTPORT:GUESTPORT */
static int net_parse_forward(const char *value, struct vm_nic *nic, struct err *e)
{
    struct vm_forward f = { .host_addr = NET_LOOPBACK4 };
    char word[NET_WORD_MAX], *addr, *host, *guest;
    uint64_t host_port, guest_port;

    if (nic->n_forwards == VM_FORWARDS_MAX)
        return err_set(e, EINVAL, "--net: too many port forwards; at most %d for a card are possible", VM_FORWARDS_MAX);
    snprintf(word, sizeof(word), "%s", value);
    guest = net_split_last(word);
    host = guest ? net_split_last(word) : NULL;
    addr = strchr(word, ':');
    if (addr)
        *addr++ = '\0';
    f.udp = strcmp(word, "udp") == 0;
    if (!host || (!f.udp && strcmp(word, "tcp") != 0) || num_parse_u64(host, 1, 65535, &host_port) < 0 ||
        num_parse_u64(guest, 1, 65535, &guest_port) < 0 || (addr && addr_ip4_parse(addr, &f.host_addr) < 0))
        return err_set(e, EINVAL,
                       "--net: bad port forward '%s'; use fwd=tcp:[ADDR:]HOSTPORT:GUESTPORT or fwd=udp:..., an IPv4 "
                       "address and ports 1 to 65535",
                       value);
    f.host_port = (uint16_t)host_port;
    f.guest_port = (uint16_t)guest_port;
    nic->forwards[nic->n_forwards++] = f;
    return 0;
}

static int net_parse_number(const struct net_word *w, unsigned min, unsigned max, unsigned *ret, struct err *e)
{
    uint64_t n;

    if (num_parse_u64(w->value, min, max, &n) < 0)
        return err_set(e, EINVAL, "--net: %s=%s is not possible; use a number from %u to %u", w->name, w->value, min,
                       max);
    *ret = (unsigned)n;
    return 0;
}

static int net_parse_text(const struct net_word *w, char *to, size_t size, struct err *e)
{
    if (!w->value[0] || strlen(w->value) >= size)
        return err_set(e, EINVAL, "--net: %s=%s is not possible; use 1 to %zu characters", w->name, w->value, size - 1);
    memcpy(to, w->value, strlen(w->value) + 1);
    return 0;
}

/* What the card is connected to: the first part. */
static int net_parse_kind(const struct net_word *w, const char *text, struct vm_nic *nic, struct err *e)
{
    if (w->value && strcmp(w->name, "tap") == 0) {
        nic->kind = VM_NIC_TAP;
        return net_parse_text(w, nic->ifname, sizeof(nic->ifname), e);
    }
    if (strcmp(w->name, "user") == 0 && !w->value) {
        nic->kind = VM_NIC_USER;
        return 0;
    }
    nic->kind = VM_NIC_NETWORK;
    if (w->value || !proto_name_ok(w->name))
        return err_set(e, EINVAL,
                       "--net %s: '%s' is no network; use user, the name of a network (caisson network ls), tap=IF or "
                       "none",
                       text, w->name);
    memcpy(nic->network, w->name, strlen(w->name) + 1);
    return 0;
}

static int net_parse_part(const struct net_word *w, const char *text, struct vm_nic *nic, struct err *e)
{
    unsigned n = 0;
    int r;

    if (w->value && strcmp(w->name, "fwd") == 0)
        return net_parse_forward(w->value, nic, e);
    if (w->value && strcmp(w->name, "name") == 0)
        return net_parse_text(w, nic->name, sizeof(nic->name), e);
    if (w->value && strcmp(w->name, "queues") == 0)
        return net_parse_number(w, 1, VM_NIC_QUEUES_MAX, &nic->queues, e);
    if (w->value && strcmp(w->name, "mtu") == 0) {
        r = net_parse_number(w, VM_NIC_MTU_MIN, VM_NIC_MTU_MAX, &n, e);
        nic->mtu = (uint16_t)n;
        return r;
    }
    if (w->value && strcmp(w->name, "vlan") == 0) {
        r = net_parse_number(w, 1, VM_NIC_VLAN_MAX, &n, e);
        nic->vlan = (uint16_t)n;
        return r;
    }
    if (w->value && strcmp(w->name, "mac") == 0) {
        if (addr_mac_parse(w->value, nic->mac) < 0 || !addr_mac_is_unicast(nic->mac))
            return err_set(
                e, EINVAL,
                "--net: mac=%s is no address of a card; use six pairs of hexadecimal digits, the first even, "
                "e.g. 52:54:00:12:34:56",
                w->value);
        return 0;
    }
    if (w->value && strcmp(w->name, "offload") == 0) {
        nic->no_offloads = strcmp(w->value, "off") == 0;
        if (nic->no_offloads || strcmp(w->value, "on") == 0)
            return 0;
        return err_set(e, EINVAL, "--net: offload=%s is not possible; use on or off", w->value);
    }
    return err_set(e, EINVAL,
                   "--net %s: unknown part '%s'; use fwd=tcp:[ADDR:]HOSTPORT:GUESTPORT, mac=, mtu=, queues=, "
                   "offload=on|off, vlan= or name=",
                   text, w->name);
}

static int net_parse(const char *text, struct vm_spec *s, bool *ret_none, struct err *e)
{
    struct vm_nic *nic = &s->nets[s->n_nets];
    struct net_word w;
    const char *p = text;
    int r = net_next_word(&p, &w, text, e);

    if (r < 0)
        return r;
    if (strcmp(w.name, "none") == 0 && !w.value) {
        *ret_none = true;
        return p ? err_set(e, EINVAL, "--net %s: nothing can follow none; give --net user,... for a network", text) : 0;
    }
    if (s->n_nets == VM_NICS_MAX)
        return err_set(e, EINVAL, "too many network cards; give --net at most %d times", VM_NICS_MAX);
    *nic = (struct vm_nic){ 0 };
    s->n_nets++;
    r = net_parse_kind(&w, text, nic, e);
    while (r == 0 && p) {
        r = net_next_word(&p, &w, text, e);
        if (r == 0)
            r = net_parse_part(&w, text, nic, e);
    }
    return r;
}

int cli_net_options(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    bool given = false, none = false;

    for (size_t i = 0; i < args->n_given; i++) {
        int r;

        if (strcmp(args->given[i].option->name, "net") != 0)
            continue;
        if (!given)
            s->n_nets = 0; /* the default makes way */
        given = true;
        r = net_parse(args->given[i].value, s, &none, e);
        if (r < 0)
            return r;
    }
    if (none && s->n_nets > 0)
        return err_set(e, EINVAL, "--net none together with another --net; give one or the other");
    return 0;
}

int cli_net_no_forwards(const struct vm_spec *s, struct err *e)
{
    for (unsigned i = 0; i < s->n_nets; i++) {
        if (s->nets[i].kind == VM_NIC_NETWORK && s->nets[i].n_forwards > 0)
            return err_set(e, EINVAL,
                           "--net %s: ports are forwarded by the network, not by a card; give caisson network create "
                           "--publish, or --net user,fwd=...",
                           s->nets[i].network);
    }
    return 0;
}
