#include "wire/dns.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

enum {
    DNS_FLAG_QR = 0x8000,
    DNS_FLAG_AA = 0x0400,
    DNS_FLAG_TC = 0x0200,
    DNS_FLAG_RD = 0x0100,
    DNS_FLAG_RA = 0x0080,
};
enum { DNS_TYPE_OPT = 41 };
#define DNS_LABEL_MAX 63
#define DNS_RECORD 10 /* type, class, TTL and length of a record */
#define DNS_OPT_RECORD (1 + DNS_RECORD)
#define DNS_EDNS_SIZE 1232 /* the size of datagrams that we take ourselves */

static uint8_t dns_lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static bool dns_same(const uint8_t *a, const uint8_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (dns_lower(a[i]) != dns_lower(b[i]))
            return false;
    }
    return true;
}

/* An uncompressed name at msg[at]. Returns the offset behind it, 0: none. */
static size_t dns_take_name(const uint8_t *msg, size_t len, size_t at, struct dns_name *n)
{
    size_t begin = at;

    while (at < len && msg[at] != 0) {
        if (msg[at] > DNS_LABEL_MAX || (size_t)msg[at] + 1 > len - at)
            return 0;
        at += (size_t)msg[at] + 1;
        if (at - begin >= DNS_NAME_MAX)
            return 0;
    }
    if (at >= len)
        return 0;
    n->len = (uint8_t)(at + 1 - begin);
    memcpy(n->wire, msg + begin, n->len);
    return at + 1;
}

/* The offset behind a record's owner, which may be compressed and is not looked at otherwise; 0: malformed. */
static size_t dns_skip_name(const uint8_t *msg, size_t len, size_t at)
{
    while (at < len) {
        uint8_t n = msg[at];

        if (n == 0)
            return at + 1;
        if (n >= 0xc0)
            return len - at >= 2 ? at + 2 : 0;
        if (n > DNS_LABEL_MAX)
            return 0;
        at += (size_t)n + 1;
    }
    return 0;
}

/* Look for the OPT record among n records at msg[at]. */
static bool dns_take_records(const uint8_t *msg, size_t len, size_t at, unsigned n, struct dns_query *q)
{
    for (; n > 0; n--) {
        size_t owner = at, data_len;

        at = dns_skip_name(msg, len, at);
        if (at == 0 || len - at < DNS_RECORD)
            return false;
        data_len = load_be16(msg + at + 8);
        if (data_len > len - at - DNS_RECORD)
            return false;
        if (load_be16(msg + at) == DNS_TYPE_OPT) {
            if (q->edns || msg[owner] != 0)
                return false;
            q->edns = true;
            q->udp_size = MAX(load_be16(msg + at + 2), (uint16_t)DNS_UDP_MIN);
            q->edns_version = msg[at + 5];
        }
        at += DNS_RECORD + data_len;
    }
    return true;
}

int dns_query_parse(const uint8_t *msg, size_t len, struct dns_query *ret_query)
{
    struct dns_query q = { .question_end = DNS_HEADER, .udp_size = DNS_UDP_MIN };
    unsigned flags, n_records;
    size_t at;

    if (len < DNS_HEADER)
        return -EBADMSG;
    flags = load_be16(msg + 2);
    if (flags & DNS_FLAG_QR)
        return -EBADMSG;
    q.id = load_be16(msg);
    q.recursion_desired = flags & DNS_FLAG_RD;
    q.opcode = flags >> 11 & 15;
    *ret_query = q;
    if (q.opcode != 0)
        return -EOPNOTSUPP;
    n_records = (unsigned)load_be16(msg + 6) + load_be16(msg + 8) + load_be16(msg + 10);
    if (load_be16(msg + 4) != 1 || n_records > 4)
        return -EINVAL;
    at = dns_take_name(msg, len, DNS_HEADER, &q.name);
    if (at == 0 || len - at < 4)
        return -EINVAL;
    q.type = load_be16(msg + at);
    q.class = load_be16(msg + at + 2);
    if (!dns_take_records(msg, len, at + 4, n_records, &q))
        return -EINVAL;
    q.question_end = at + 4;
    *ret_query = q;
    return 0;
}

bool dns_response_matches(const uint8_t *msg, size_t len, const uint8_t *query, size_t question_end)
{
    return len >= question_end && memcmp(msg, query, 2) == 0 && msg[2] & 0x80 && (msg[2] & 0x78) == 0 &&
           load_be16(msg + 4) == 1 && question_end >= DNS_HEADER + 5 &&
           dns_same(msg + DNS_HEADER, query + DNS_HEADER, question_end - DNS_HEADER - 4) &&
           memcmp(msg + question_end - 4, query + question_end - 4, 4) == 0;
}

/* ---- names ---- */

int dns_name_parse(const char *text, struct dns_name *ret_name)
{
    struct dns_name n = { .len = 0 };

    if (strcmp(text, ".") == 0)
        text++;
    while (*text) {
        size_t len = strcspn(text, ".");

        if (len == 0 || len > DNS_LABEL_MAX || n.len + len + 2 > DNS_NAME_MAX)
            return -EINVAL;
        n.wire[n.len] = (uint8_t)len;
        memcpy(n.wire + n.len + 1, text, len);
        n.len = (uint8_t)(n.len + 1 + len);
        text += len;
        if (*text == '.')
            text++;
    }
    n.wire[n.len++] = 0;
    *ret_name = n;
    return 0;
}

bool dns_name_equal(const struct dns_name *a, const struct dns_name *b)
{
    return a->len == b->len && dns_same(a->wire, b->wire, a->len);
}

unsigned dns_name_labels(const struct dns_name *n)
{
    unsigned labels = 0;

    for (size_t at = 0; n->wire[at] != 0; at += (size_t)n->wire[at] + 1)
        labels++;
    return labels;
}

bool dns_name_is_below(const struct dns_name *n, const struct dns_name *zone, unsigned *ret_labels)
{
    unsigned labels = 0;
    size_t at = 0;

    /* From label to label, since length bytes may look like letters. */
    while ((size_t)n->len - at > zone->len) {
        at += (size_t)n->wire[at] + 1;
        labels++;
    }
    if ((size_t)n->len - at != zone->len || !dns_same(n->wire + at, zone->wire, zone->len))
        return false;
    if (ret_labels)
        *ret_labels = labels;
    return true;
}

bool dns_name_first_label(const struct dns_name *n, char ret_label[DNS_LABEL_MAX + 1])
{
    size_t len = n->wire[0];

    for (size_t i = 0; i < len; i++) {
        uint8_t c = dns_lower(n->wire[1 + i]);

        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
            return false;
        ret_label[i] = (char)c;
    }
    ret_label[len] = '\0';
    return len > 0;
}

bool dns_name_join(const char *label, const struct dns_name *zone, struct dns_name *ret_name)
{
    size_t len = strlen(label);

    if (len == 0 || len > DNS_LABEL_MAX || strchr(label, '.') || len + 1 + zone->len > DNS_NAME_MAX)
        return false;
    ret_name->wire[0] = (uint8_t)len;
    memcpy(ret_name->wire + 1, label, len);
    memcpy(ret_name->wire + 1 + len, zone->wire, zone->len);
    ret_name->len = (uint8_t)(len + 1 + zone->len);
    return true;
}

bool dns_name_reverse4(const struct dns_name *n, uint32_t *ret_addr)
{
    static const struct dns_name zone = { "\7in-addr\4arpa", 14 };
    unsigned labels;
    uint32_t addr = 0;
    size_t at = 0;

    if (!dns_name_is_below(n, &zone, &labels) || labels != 4)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        unsigned value = 0, len = n->wire[at++];

        if (len > 3 || (len > 1 && n->wire[at] == '0'))
            return false;
        for (; len > 0; len--, at++) {
            if (n->wire[at] < '0' || n->wire[at] > '9')
                return false;
            value = value * 10 + n->wire[at] - '0';
        }
        if (value > 255)
            return false;
        addr |= (uint32_t)value << (8 * i);
    }
    *ret_addr = addr;
    return true;
}

bool dns_name_reverse6(const struct dns_name *n, uint8_t ret_addr[16])
{
    static const struct dns_name zone = { "\3ip6\4arpa", 10 };
    uint8_t addr[16] = { 0 };
    unsigned labels;

    if (!dns_name_is_below(n, &zone, &labels) || labels != 32)
        return false;
    for (unsigned i = 0; i < 32; i++) {
        uint8_t c = dns_lower(n->wire[2 * i + 1]);
        unsigned digit = c <= '9' ? c - (unsigned)'0' : c - (unsigned)'a' + 10;

        if (n->wire[2 * i] != 1 || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        addr[15 - i / 2] |= (uint8_t)(digit << (i % 2 * 4));
    }
    memcpy(ret_addr, addr, sizeof(addr));
    return true;
}

/* ---- answers ---- */

/* Room for the EDNS record is kept free for the end. */
static uint8_t *dns_extend(struct dns_writer *w, size_t len)
{
    uint8_t *place = w->out + w->len;

    if (w->truncated || len > w->cap - DNS_OPT_RECORD - w->len) {
        w->truncated = true;
        return NULL;
    }
    w->len += len;
    return place;
}

static void dns_count(struct dns_writer *w, size_t field)
{
    store_be16(w->out + field, (uint16_t)(load_be16(w->out + field) + 1));
}

void dns_answer_begin(struct dns_writer *w, uint8_t *out, size_t cap, const uint8_t *msg, const struct dns_query *q,
                      unsigned rcode, bool authoritative)
{
    unsigned flags = DNS_FLAG_QR | DNS_FLAG_RA | (unsigned)q->opcode << 11 | rcode;

    *w = (struct dns_writer){ .out = out, .cap = cap, .len = q->question_end };
    memcpy(out, msg, q->question_end); /* at most 12 + 255 + 4 bytes */
    store_be16(out + 2,
               (uint16_t)(flags | (q->recursion_desired ? DNS_FLAG_RD : 0U) | (authoritative ? DNS_FLAG_AA : 0U)));
    memset(out + 4, 0, 8);
    store_be16(out + 4, q->question_end > DNS_HEADER);
}

static void dns_put_record(uint8_t *p, uint16_t type, uint32_t ttl_s, size_t len)
{
    store_be16(p, type);
    store_be16(p + 2, DNS_CLASS_IN);
    store_be32(p + 4, ttl_s);
    store_be16(p + 8, (uint16_t)len);
}

void dns_answer_add(struct dns_writer *w, uint16_t type, uint32_t ttl_s, const void *data, size_t len)
{
    uint8_t *p = dns_extend(w, 2 + DNS_RECORD + len);

    if (!p)
        return;
    store_be16(p, 0xc000 | DNS_HEADER); /* the question's name */
    dns_put_record(p + 2, type, ttl_s, len);
    memcpy(p + 2 + DNS_RECORD, data, len);
    dns_count(w, 6);
}

void dns_answer_add_soa(struct dns_writer *w, const struct dns_name *zone, uint32_t ttl_s, bool in_answer)
{
    static const char mailbox[] = "\nhostmaster"; /* \n: the label's length, 10 */
    size_t names = 2 * (size_t)zone->len + sizeof(mailbox) - 1, len = names + 20;
    uint8_t *p = dns_extend(w, zone->len + DNS_RECORD + len);

    if (!p)
        return;
    memcpy(p, zone->wire, zone->len);
    dns_put_record(p + zone->len, DNS_TYPE_SOA, ttl_s, len);
    p += zone->len + DNS_RECORD;
    memcpy(p, zone->wire, zone->len); /* the primary server; then the mailbox, hostmaster.ZONE */
    memcpy(p + zone->len, mailbox, sizeof(mailbox) - 1);
    memcpy(p + zone->len + sizeof(mailbox) - 1, zone->wire, zone->len);
    p += names;
    store_be32(p, 1); /* serial, then refresh, retry, expire, minimum: nobody transfers this zone */
    store_be32(p + 4, 3600);
    store_be32(p + 8, 600);
    store_be32(p + 12, 86400);
    store_be32(p + 16, ttl_s);
    dns_count(w, in_answer ? 6 : 8);
}

size_t dns_answer_end(struct dns_writer *w, const struct dns_query *q)
{
    if (w->truncated) {
        w->len = q->question_end;
        memset(w->out + 6, 0, 6);
        w->out[2] |= DNS_FLAG_TC >> 8;
    }
    if (q->edns) {
        uint8_t *p = w->out + w->len;

        p[0] = 0;
        store_be16(p + 1, DNS_TYPE_OPT);
        store_be16(p + 3, DNS_EDNS_SIZE);
        /* Extended RCODE 1 (BADVERS): we know version 0 only. */
        store_be32(p + 5, q->edns_version ? 1U << 24 : 0);
        store_be16(p + 9, 0);
        dns_count(w, 10);
        w->len += DNS_OPT_RECORD;
    }
    return w->len;
}

size_t dns_answer_empty(uint8_t *out, size_t cap, const uint8_t *msg, const struct dns_query *q, unsigned rcode,
                        bool truncated)
{
    struct dns_writer w;

    dns_answer_begin(&w, out, cap, msg, q, rcode, false);
    w.truncated = truncated;
    return dns_answer_end(&w, q);
}
