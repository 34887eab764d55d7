/* DNS queries from arbitrary bytes, the names in them, answers to them, and the same bytes as a response. */
#include "base/check.h"
#include "wire/dns.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t out[DNS_UDP_MIN], addr6[16];
    struct dns_name zone, joined;
    struct dns_query q, again;
    struct dns_writer w;
    char label[64];
    uint32_t addr;

    if (dns_query_parse(data, len, &q) < 0)
        return 0;
    CHECK(q.question_end <= len && q.name.len > 0 && q.udp_size >= DNS_UDP_MIN);
    CHECK(dns_name_parse("net.internal", &zone) == 0);
    (void)dns_name_is_below(&q.name, &zone, NULL);
    (void)dns_name_reverse4(&q.name, &addr);
    (void)dns_name_reverse6(&q.name, addr6);
    if (dns_name_first_label(&q.name, label) && dns_name_join(label, &zone, &joined))
        CHECK(dns_name_is_below(&joined, &zone, NULL) && dns_name_labels(&joined) == 3);
    dns_answer_begin(&w, out, sizeof(out), data, &q, DNS_NOERROR, true);
    dns_answer_add(&w, DNS_TYPE_A, 1, &addr, 0);
    dns_answer_add_soa(&w, &q.name, 1, false);
    CHECK(dns_answer_end(&w, &q) <= sizeof(out));
    CHECK(dns_response_matches(out, w.len, data, q.question_end) && dns_query_parse(out, w.len, &again) < 0);
    return 0;
}
