/* DNS messages: what a small server for the names of a network and a forwarder need. Names stay in wire form without
 * compression (length bytes and labels, ending with the root's zero byte, at most 255 bytes) and are compared without
 * regard to case. Pure; any thread.
 * Spec: RFC 1035 section 4, RFC 2181, RFC 2308 (negative answers), RFC 3596 (IPv6), RFC 6891 (EDNS) */
#ifndef WIRE_DNS_H
#define WIRE_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_NAME_MAX 255
#define DNS_TEXT_MAX 256 /* a name as text with its ending zero */
#define DNS_UDP_MIN 512  /* what every resolver takes by UDP */

enum { DNS_NOERROR = 0, DNS_FORMERR = 1, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3, DNS_NOTIMP = 4, DNS_REFUSED = 5 };
enum { DNS_TYPE_A = 1, DNS_TYPE_SOA = 6, DNS_TYPE_PTR = 12, DNS_TYPE_AAAA = 28, DNS_TYPE_ANY = 255 };
enum { DNS_CLASS_IN = 1, DNS_CLASS_ANY = 255 };

struct dns_name {
    uint8_t wire[DNS_NAME_MAX];
    uint8_t len; /* with the ending zero byte; 1: the root */
};

struct dns_query {
    uint16_t id;
    bool recursion_desired;
    uint8_t opcode;
    struct dns_name name;
    uint16_t type, class;
    size_t question_end; /* offset behind the question */
    bool edns;
    uint8_t edns_version;
    uint16_t udp_size; /* the longest answer that the client takes by UDP, >= DNS_UDP_MIN */
};

/* A query with one question. -EBADMSG: nothing to be answered (too short, or a response); -EINVAL: to be answered with
 * FORMERR; -EOPNOTSUPP: with NOTIMP. In the last two cases id, recursion_desired, opcode are set and question_end is
 * DNS_HEADER. */
int dns_query_parse(const uint8_t *msg, size_t len, struct dns_query *ret_query) MUST_USE;

/* Whether a response answers the query whose first question_end bytes are at query: ID, flags, question. Only these
 * are looked at. */
bool dns_response_matches(const uint8_t *msg, size_t len, const uint8_t *query, size_t question_end);

/* Text with dots ("a.b", ending dot accepted, "" and ".": the root) to wire form. -EINVAL: no name. */
int dns_name_parse(const char *text, struct dns_name *ret_name) MUST_USE;
bool dns_name_equal(const struct dns_name *a, const struct dns_name *b);
/* Whether n is zone or below it; *ret_labels, which may be NULL: how many labels more it has. */
bool dns_name_is_below(const struct dns_name *n, const struct dns_name *zone, unsigned *ret_labels);
unsigned dns_name_labels(const struct dns_name *n);
/* The first label as text in lower case; false where it has bytes that no host name has, or there is none. */
bool dns_name_first_label(const struct dns_name *n, char ret_label[64]);
/* label followed by zone. False where that is too long or label no host name of 1..63 bytes. */
bool dns_name_join(const char *label, const struct dns_name *zone, struct dns_name *ret_name);
/* d.c.b.a.in-addr.arpa -> a.b.c.d, host order. */
bool dns_name_reverse4(const struct dns_name *n, uint32_t *ret_addr);
/* Likewise for the 32 hexadecimal digits in ip6.arpa. */
bool dns_name_reverse6(const struct dns_name *n, uint8_t ret_addr[16]);
/* An answer under construction. What does not fit sets truncated. */
struct dns_writer {
    uint8_t *out;
    size_t cap, len;
    bool truncated;
};

/* Header and question from the query msg (parsed as q). cap >= DNS_UDP_MIN. authoritative: the AA flag. */
void dns_answer_begin(struct dns_writer *w, uint8_t *out, size_t cap, const uint8_t *msg, const struct dns_query *q,
                      unsigned rcode, bool authoritative);
/* A record of class IN whose owner is the question's name, in the answer section. */
void dns_answer_add(struct dns_writer *w, uint16_t type, uint32_t ttl_s, const void *data, size_t len);
/* The zone's SOA in the authority section, which says how long the negative answer is good for; in the answer section
 * where in_answer. */
void dns_answer_add_soa(struct dns_writer *w, const struct dns_name *zone, uint32_t ttl_s, bool in_answer);
/* Add the EDNS record where the query had one; truncated answers lose their records and get TC. Returns the length. */
size_t dns_answer_end(struct dns_writer *w, const struct dns_query *q);
/* A whole answer without records. Returns its length. */
size_t dns_answer_empty(uint8_t *out, size_t cap, const uint8_t *msg, const struct dns_query *q, unsigned rcode,
                        bool truncated);

#endif
