#include "wire/dhcp.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

#define DHCP_SNAME 44
#define DHCP_FILE 108
#define DHCP_COOKIE 236
#define DHCP_OPTIONS 240
#define DHCP_MAGIC 0x63825363U
#define DHCP_MIN 300 /* BOOTP's size, of which some clients insist */

enum {
    DHCP_OPT_PAD = 0,
    DHCP_OPT_MASK = 1,
    DHCP_OPT_ROUTER = 3,
    DHCP_OPT_DNS = 6,
    DHCP_OPT_HOST_NAME = 12,
    DHCP_OPT_DOMAIN = 15,
    DHCP_OPT_MTU = 26,
    DHCP_OPT_BROADCAST = 28,
    DHCP_OPT_REQUESTED_IP = 50,
    DHCP_OPT_LEASE = 51,
    DHCP_OPT_OVERLOAD = 52,
    DHCP_OPT_TYPE = 53,
    DHCP_OPT_SERVER_ID = 54,
    DHCP_OPT_T1 = 58,
    DHCP_OPT_T2 = 59,
    DHCP_OPT_CLIENT_ID = 61,
    DHCP_OPT_END = 255,
};

bool dhcp_host_name(const uint8_t *name, size_t len, char ret_name[DHCP_HOST_MAX + 1])
{
    char out[DHCP_HOST_MAX + 1] = { 0 };
    size_t n = 0;

    for (size_t i = 0; i < len && name[i] != '\0' && name[i] != '.'; i++) {
        uint8_t c = name[i] >= 'A' && name[i] <= 'Z' ? (uint8_t)(name[i] | 0x20) : name[i];

        if (n == DHCP_HOST_MAX || !((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && n > 0)))
            return false;
        out[n++] = (char)c;
    }
    if (n == 0 || out[n - 1] == '-')
        return false;
    memcpy(ret_name, out, sizeof(out));
    return true;
}

static bool dhcp_take_address(const uint8_t *value, size_t len, uint32_t *ret)
{
    if (len != 4)
        return false;
    *ret = load_be32(value);
    return true;
}

/* One option; false: it makes the message malformed. */
static bool dhcp_take_option(struct dhcp_message *m, uint8_t code, const uint8_t *value, size_t len, uint8_t *overload)
{
    switch (code) {
    case DHCP_OPT_TYPE:
        m->type = len == 1 ? value[0] : 0;
        return len == 1;
    case DHCP_OPT_REQUESTED_IP:
        return dhcp_take_address(value, len, &m->requested_ip);
    case DHCP_OPT_SERVER_ID:
        return dhcp_take_address(value, len, &m->server_id);
    case DHCP_OPT_HOST_NAME:
        if (!dhcp_host_name(value, len, m->host_name))
            m->host_name[0] = '\0';
        return true;
    case DHCP_OPT_CLIENT_ID:
        m->client_id_len = len <= DHCP_CLIENT_ID_MAX ? (uint8_t)len : 0;
        memcpy(m->client_id, value, m->client_id_len);
        return true;
    case DHCP_OPT_OVERLOAD:
        *overload = len == 1 ? value[0] : 0;
        return len == 1;
    default:
        return true;
    }
}

static bool dhcp_take_options(struct dhcp_message *m, const uint8_t *p, size_t len, uint8_t *overload)
{
    size_t at = 0;

    while (at < len && p[at] != DHCP_OPT_END) {
        size_t n;

        if (p[at] == DHCP_OPT_PAD) {
            at++;
            continue;
        }
        if (len - at < 2)
            return false;
        n = p[at + 1];
        if (n > len - at - 2 || !dhcp_take_option(m, p[at], p + at + 2, n, overload))
            return false;
        at += 2 + n;
    }
    return true;
}

int dhcp_parse(const uint8_t *data, size_t len, struct dhcp_message *ret_message)
{
    struct dhcp_message m = { 0 };
    uint8_t overload = 0, nested = 0;

    if (len < DHCP_OPTIONS || load_be32(data + DHCP_COOKIE) != DHCP_MAGIC)
        return len < DHCP_COOKIE ? -EBADMSG : -EPROTONOSUPPORT;
    if (data[0] != 1 || data[1] != 1 || data[2] != 6) /* BOOTREQUEST, Ethernet */
        return -EPROTONOSUPPORT;
    m.xid = load_be32(data + 4);
    m.flags = load_be16(data + 10);
    m.ciaddr = load_be32(data + 12);
    m.giaddr = load_be32(data + 24);
    memcpy(m.mac, data + 28, 6);
    if (!dhcp_take_options(&m, data + DHCP_OPTIONS, len - DHCP_OPTIONS, &overload))
        return -EBADMSG;
    /* Options may go on in the fields of the boot file and the server's name, in this order. */
    if ((overload & 1 && !dhcp_take_options(&m, data + DHCP_FILE, 128, &nested)) ||
        (overload & 2 && !dhcp_take_options(&m, data + DHCP_SNAME, 64, &nested)))
        return -EBADMSG;
    if (m.type == 0)
        return -EPROTONOSUPPORT;
    *ret_message = m;
    return 0;
}

struct dhcp_writer {
    uint8_t *out;
    size_t len;
};

static void dhcp_put(struct dhcp_writer *w, uint8_t code, const void *value, size_t len)
{
    if (len == 0 || len > 255 || len + 3 > DHCP_REPLY_MAX - w->len) /* + 3: code, length, and the end option */
        return;
    w->out[w->len] = code;
    w->out[w->len + 1] = (uint8_t)len;
    memcpy(w->out + w->len + 2, value, len);
    w->len += 2 + len;
}

static void dhcp_put_u32(struct dhcp_writer *w, uint8_t code, uint32_t value)
{
    uint8_t be[4];

    store_be32(be, value);
    if (value)
        dhcp_put(w, code, be, sizeof(be));
}

static void dhcp_put_text(struct dhcp_writer *w, uint8_t code, const char *text)
{
    if (text)
        dhcp_put(w, code, text, strlen(text));
}

size_t dhcp_reply_build(const struct dhcp_reply *r, const struct dhcp_message *m, uint8_t out[DHCP_REPLY_MAX])
{
    struct dhcp_writer w = { .out = out, .len = DHCP_OPTIONS };
    uint8_t type = (uint8_t)r->type, mtu[2];

    memset(out, 0, DHCP_REPLY_MAX);
    out[0] = 2; /* BOOTREPLY */
    out[1] = 1;
    out[2] = 6;
    store_be32(out + 4, m->xid);
    store_be16(out + 10, m->flags);
    store_be32(out + 12, r->ciaddr);
    store_be32(out + 16, r->yiaddr);
    store_be32(out + 24, m->giaddr);
    memcpy(out + 28, m->mac, 6);
    store_be32(out + DHCP_COOKIE, DHCP_MAGIC);
    dhcp_put(&w, DHCP_OPT_TYPE, &type, 1);
    dhcp_put_u32(&w, DHCP_OPT_SERVER_ID, r->server_id);
    dhcp_put_u32(&w, DHCP_OPT_LEASE, r->lease_s);
    dhcp_put_u32(&w, DHCP_OPT_T1, r->lease_s / 2);
    dhcp_put_u32(&w, DHCP_OPT_T2, r->lease_s - r->lease_s / 8);
    dhcp_put_u32(&w, DHCP_OPT_MASK, r->mask);
    dhcp_put_u32(&w, DHCP_OPT_ROUTER, r->router);
    dhcp_put_u32(&w, DHCP_OPT_DNS, r->dns);
    dhcp_put_u32(&w, DHCP_OPT_BROADCAST, r->broadcast);
    store_be16(mtu, r->mtu);
    dhcp_put(&w, DHCP_OPT_MTU, mtu, r->mtu ? sizeof(mtu) : 0);
    dhcp_put(&w, DHCP_OPT_CLIENT_ID, m->client_id, m->client_id_len);
    dhcp_put_text(&w, DHCP_OPT_HOST_NAME, r->host_name);
    dhcp_put_text(&w, DHCP_OPT_DOMAIN, r->domain);
    out[w.len++] = DHCP_OPT_END;
    return MAX(w.len, (size_t)DHCP_MIN);
}
