/* Checksums and segmentation in software, against two oracles: a slow reference here (every segment is taken apart and
 * summed up byte by byte), and the kernel, which is given the same GSO frames through a tap with vnet_hdr and cuts them
 * on their way over a bridge to a tap without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "net/offload.h"
#include "wire/inet_sum.h"

#define SEGMENTS 2048

/* What a frame is made of. */
struct shape {
    bool ipv6, udp;
    unsigned vlans, ip_options, extensions, tcp_options; /* ip_options, tcp_options: in words of 4 bytes */
    uint8_t tcp_flags;
    bool ecn; /* the GSO type's bit */
    uint16_t gso_size;
    size_t payload;
};

struct frame {
    struct net_hdr hdr;
    size_t l3, l4, body, len;
    uint8_t data[NET_FRAME_MAX];
};

struct out {
    unsigned n;
    size_t lens[SEGMENTS];
    uint8_t *data[SEGMENTS];
    struct net_hdr hdrs[SEGMENTS];
};

static uint32_t random_next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void be16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint16_t rd16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t rd32(const uint8_t *p)
{
    return (uint32_t)rd16(p) << 16 | rd16(p + 2);
}

/* The sum as RFC 1071 writes it down, in network order. */
static uint32_t slow_sum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t slow_pseudo(const struct frame *f, const struct shape *s, const uint8_t *data, size_t len)
{
    uint32_t sum = (s->udp ? 17u : 6u) + (uint32_t)len;

    return s->ipv6 ? slow_sum(data + f->l3 + 8, 32, sum) : slow_sum(data + f->l3 + 12, 8, sum);
}

static size_t make_ip(struct frame *f, const struct shape *s, size_t at)
{
    uint8_t *p = f->data + at;

    if (!s->ipv6) {
        size_t len = 20 + 4 * (size_t)s->ip_options;

        memset(p, 0, 20);
        p[0] = (uint8_t)(0x40 | len / 4);
        be16(p + 4, 0xfffe); /* the ID runs over */
        p[6] = 0x40;
        p[8] = 64;
        p[9] = s->udp ? 17 : 6;
        memcpy(p + 12, "\x0a\x01\x02\x03\x0a\x01\x02\x04", 8);
        memset(p + 20, 1, len - 20); /* no-operation options */
        return at + len;
    }
    memset(p, 0, 40);
    p[0] = 0x60;
    p[6] = s->udp ? 17 : 6;
    p[7] = 64;
    memcpy(p + 8, "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    memcpy(p + 24, "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2", 16);
    at += 40;
    for (unsigned i = 0; i < s->extensions; i++) { /* destination options of 8 or 16 bytes, all padding */
        size_t len = i & 1 ? 16 : 8;
        uint8_t *ext = f->data + at;

        memset(ext, 0, len);
        ext[0] = s->udp ? 17 : 6;
        ext[1] = (uint8_t)(len / 8 - 1);
        ext[2] = 1; /* PadN */
        ext[3] = (uint8_t)(len - 4);
        if (i > 0)
            f->data[at - (i & 1 ? 8 : 16)] = 60;
        at += len;
    }
    if (s->extensions > 0)
        p[6] = 60;
    return at;
}

static void make_frame(struct frame *f, const struct shape *s, uint32_t seed)
{
    size_t at = 12, l4_head = s->udp ? 8 : 20 + 4 * (size_t)s->tcp_options;
    uint8_t *l4;

    memcpy(f->data, "\x02\0\0\0\0\x22\x02\0\0\0\0\x11", 12);
    for (unsigned i = 0; i < s->vlans; i++, at += 4) {
        be16(f->data + at, s->vlans == 2 && i == 0 ? 0x88a8 : 0x8100);
        be16(f->data + at + 2, 0x6007 + i);
    }
    be16(f->data + at, s->ipv6 ? 0x86dd : 0x0800);
    f->l3 = at + 2;
    f->l4 = make_ip(f, s, f->l3);
    f->body = f->l4 + l4_head;
    f->len = f->body + s->payload;
    assert_true(f->len <= NET_FRAME_MAX);
    l4 = f->data + f->l4;
    memset(l4, 0, l4_head);
    be16(l4, 1234);
    be16(l4 + 2, 5678);
    if (s->udp) {
        be16(l4 + 4, 8 + s->payload);
    } else {
        memcpy(l4 + 4, "\xff\xff\xf0\0\0\0\1\2", 8); /* sequence numbers run over too */
        l4[12] = (uint8_t)(l4_head / 4 << 4);
        l4[13] = s->tcp_flags;
        be16(l4 + 14, 501);
        memset(l4 + 20, 1, l4_head - 20);
    }
    for (size_t i = 0; i < s->payload; i++)
        f->data[f->body + i] = (uint8_t)random_next(&seed);
    if (s->ipv6) {
        be16(f->data + f->l3 + 4, f->len - f->l3 - 40);
    } else {
        be16(f->data + f->l3 + 2, f->len - f->l3);
        be16(f->data + f->l3 + 10, ~slow_sum(f->data + f->l3, f->l4 - f->l3, 0) & 0xffff);
    }
    be16(l4 + (s->udp ? 6 : 16), slow_pseudo(f, s, f->data, f->len - f->l4));
    f->hdr = (struct net_hdr){ .flags = NET_HDR_NEEDS_CSUM,
                               .hdr_len = (uint16_t)f->body,
                               .csum_start = (uint16_t)f->l4,
                               .csum_offset = s->udp ? 6 : 16 };
    if (s->gso_size) {
        f->hdr.gso_size = s->gso_size;
        f->hdr.gso_type = s->udp ? NET_GSO_UDP_L4 : s->ipv6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
        f->hdr.gso_type |= s->ecn ? NET_GSO_ECN : 0;
    }
}

/* ---- what comes out ---- */

static void collect(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct out *o = opaque;

    assert_true(o->n < SEGMENTS);
    o->lens[o->n] = len;
    o->hdrs[o->n] = *hdr;
    o->data[o->n] = malloc(len);
    memcpy(o->data[o->n++], frame, len);
}

static void drop(struct out *o)
{
    while (o->n > 0)
        free(o->data[--o->n]);
}

static void check_sums(const struct frame *f, const struct shape *s, const uint8_t *data, size_t len)
{
    if (!s->ipv6)
        assert_int_equal(slow_sum(data + f->l3, f->l4 - f->l3, 0), 0xffff);
    assert_int_equal(slow_sum(data + f->l4, len - f->l4, slow_pseudo(f, s, data, len - f->l4)), 0xffff);
}

/* One segment, of part bytes from offset. */
static void check_segment(const struct frame *f, const struct shape *s, const struct out *o, unsigned i, size_t offset,
                          size_t part)
{
    const uint8_t *d = o->data[i], *l4 = d + f->l4;
    bool last = offset + part == s->payload;

    assert_int_equal(o->lens[i], f->body + part);
    assert_memory_equal(d, f->data, f->l3);
    assert_memory_equal(d + f->body, f->data + f->body + offset, part);
    if (s->ipv6) {
        assert_int_equal(rd16(d + f->l3 + 4), o->lens[i] - f->l3 - 40);
    } else {
        assert_int_equal(rd16(d + f->l3 + 2), o->lens[i] - f->l3);
        assert_int_equal(rd16(d + f->l3 + 4), (0xfffe + i) & 0xffff);
    }
    if (s->udp) {
        assert_int_equal(rd16(l4 + 4), 8 + part);
    } else {
        uint8_t flags = s->tcp_flags & (uint8_t) ~((last ? 0 : 9) | (i > 0 ? 0x80 : 0));

        assert_int_equal(rd32(l4 + 4), (uint32_t)(0xfffff000u + offset));
        assert_int_equal(l4[13], flags);
        assert_memory_equal(l4 + 14, f->data + f->l4 + 14, 2);
        assert_memory_equal(l4 + 20, f->data + f->l4 + 20, f->body - f->l4 - 20);
    }
}

static void check_reference(const struct frame *f, const struct shape *s)
{
    static struct out o;
    size_t size = s->gso_size ? s->gso_size : s->payload, offset = 0;
    const struct net_hdr zero = { 0 };

    assert_true(net_hdr_check(&f->hdr, f->data, f->len, f->len));
    assert_true(net_hdr_check(&f->hdr, f->data, MIN(f->len, (size_t)NET_HEAD_BYTES), f->len));
    assert_int_equal(net_offload_finish(&f->hdr, f->data, f->len, 0, collect, &o), 0);
    for (unsigned i = 0; i < o.n; i++) {
        size_t part = MIN(size, s->payload - offset);

        assert_memory_equal(&o.hdrs[i], &zero, sizeof(zero));
        if (s->gso_size)
            check_segment(f, s, &o, i, offset, part);
        check_sums(f, s, o.data[i], o.lens[i]);
        offset += part;
    }
    assert_int_equal(offset, s->payload);
    drop(&o);
    /* The next one takes checksums but no segmentation. */
    assert_int_equal(net_offload_finish(&f->hdr, f->data, f->len, NET_OFF_CSUM, collect, &o), 0);
    for (unsigned i = 0; i < o.n; i++) {
        assert_int_equal(o.hdrs[i].flags, NET_HDR_NEEDS_CSUM);
        assert_int_equal(o.hdrs[i].gso_type, NET_GSO_NONE);
        assert_true(net_hdr_check(&o.hdrs[i], o.data[i], o.lens[i], o.lens[i]));
        net_offload_checksum(&o.hdrs[i], o.data[i], o.lens[i]);
        check_sums(f, s, o.data[i], o.lens[i]);
    }
    drop(&o);
    /* All is taken: nothing is done. */
    assert_int_equal(net_offload_finish(&f->hdr, f->data, f->len, net_hdr_needs(&f->hdr), collect, &o), 0);
    assert_int_equal(o.n, 1);
    assert_int_equal(o.lens[0], f->len);
    assert_memory_equal(o.data[0], f->data, f->len);
    assert_memory_equal(&o.hdrs[0], &f->hdr, sizeof(f->hdr));
    drop(&o);
}

static const struct shape shapes[] = {
    { .payload = 1000 },
    { .payload = 0 },
    { .payload = 1001, .udp = true },
    { .payload = 77, .ipv6 = true, .extensions = 2, .vlans = 1 },
    { .payload = 65000, .gso_size = 1448, .tcp_options = 3, .tcp_flags = 0x18 },
    { .payload = 2896, .gso_size = 1448, .tcp_flags = 0x99 },
    { .payload = 1449, .gso_size = 1448, .tcp_flags = 0xd9, .ecn = true },
    { .payload = 1449, .gso_size = 1447, .tcp_flags = 0x19 },
    { .payload = 30000, .gso_size = 9000, .ip_options = 10, .tcp_options = 10, .tcp_flags = 0x11 },
    { .payload = 5000, .gso_size = 536, .vlans = 1, .tcp_flags = 0x18 },
    { .payload = 5000, .gso_size = 536, .vlans = 2, .tcp_flags = 0x18 },
    { .payload = 64000, .gso_size = 1428, .ipv6 = true, .tcp_options = 3, .tcp_flags = 0x99 },
    { .payload = 5000, .gso_size = 1000, .ipv6 = true, .extensions = 3, .tcp_flags = 0x10 },
    { .payload = 5001, .gso_size = 1001, .ipv6 = true, .vlans = 1, .ecn = true, .tcp_flags = 0xd8 },
    { .payload = 60000, .gso_size = 1472, .udp = true },
    { .payload = 3001, .gso_size = 1000, .udp = true, .ipv6 = true, .extensions = 1 },
    { .payload = 4000, .gso_size = 1000, .udp = true, .vlans = 1, .ip_options = 2 },
};

static struct shape random_shape(uint32_t *seed)
{
    struct shape s = { .ipv6 = random_next(seed) & 1, .udp = random_next(seed) % 4 == 0 };
    uint32_t segments = 2 + random_next(seed) % 20;

    s.vlans = random_next(seed) % 8 < 2;
    s.tcp_options = random_next(seed) % 11;
    s.tcp_flags = (uint8_t)(0x10 | (random_next(seed) & 0xc9));
    s.gso_size = (uint16_t)(88 + random_next(seed) % 3000);
    s.payload = s.gso_size + random_next(seed) % (s.gso_size * segments) + 1;
    s.ip_options = !s.ipv6 && random_next(seed) % 4 == 0 ? random_next(seed) % 11 : 0;
    s.extensions = s.ipv6 && random_next(seed) % 4 == 0 ? random_next(seed) % 3 : 0;
    if (s.payload > 65000)
        s.payload = 65000;
    return s;
}

static void test_reference(void **state)
{
    static struct frame f;
    uint32_t seed = 1;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        make_frame(&f, &shapes[i], i);
        check_reference(&f, &shapes[i]);
    }
    for (unsigned i = 0; i < 300; i++) {
        struct shape s = random_shape(&seed);

        make_frame(&f, &s, i);
        check_reference(&f, &s);
    }
}

/* A GSO frame of TCP as one long packet, also where the driver left the length out of the pseudo header. */
static void test_whole(void **state)
{
    static struct frame f;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        make_frame(&f, &shapes[i], i);
        if (shapes[i].gso_size && !shapes[i].udp)
            be16(f.data + f.l4 + 16, i);
        assert_int_equal(net_offload_whole(&f.hdr, f.data, f.len), !(shapes[i].udp && shapes[i].gso_size));
        if (!(shapes[i].udp && shapes[i].gso_size))
            check_sums(&f, &shapes[i], f.data, f.len);
    }
}

static void test_sum(void **state)
{
    uint8_t data[300];
    uint32_t seed = 7;

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < sizeof(data); i++)
            data[i] = round == 0 ? (uint8_t)random_next(&seed) : round == 1 ? 0xff : 0;
        for (size_t start = 0; start < 20; start++) {
            for (size_t len = 0; len < 270; len++) {
                uint16_t sum = inet_sum(data + start, len, htons(0xabcd));

                /* Zero and all ones are one number. */
                assert_int_equal(ntohs(sum) % 0xffff, slow_sum(data + start, len, 0xabcd) % 0xffff);
                assert_int_equal(ntohs(inet_sum_add(sum, htons(0xff01))) % 0xffff,
                                 slow_sum(data + start, len, 0xabcd + 0xff01) % 0xffff);
            }
        }
    }
}

/* ---- refusals ---- */

static void test_refused(void **state)
{
    static struct frame f, base;
    const struct shape tcp = { .payload = 5000, .gso_size = 1000, .tcp_flags = 0x18 };
    static const struct {
        size_t at; /* in the frame */
        uint8_t value;
    } bytes[] = {
        { 12, 0x09 }, { 14, 0x55 }, { 14, 0x44 }, { 14, 0x4f }, { 20, 0x20 },
        { 21, 1 },    { 23, 17 },   { 23, 50 },   { 46, 0x40 },
    };
    static const struct net_hdr hdrs[] = {
        { 1, 1, 54, 0, 34, 16 },        { 0, 1, 54, 1000, 34, 16 },    { 1, 4, 54, 1000, 34, 16 },
        { 1, 5, 54, 1000, 34, 16 },     { 1, 3, 54, 1000, 34, 16 },    { 1, 0x85, 54, 1000, 34, 16 },
        { 1, 2, 54, 1000, 34, 16 },     { 1, 0x80, 54, 1000, 34, 16 }, { 1, 1, 54, 1, 34, 16 },
        { 1, 1, 54, 2, 34, 16 },        { 1, 1, 54, 1000, 33, 16 },    { 1, 1, 54, 1000, 34, 6 },
        { 1, 1, 54, 1000, 35, 15 },     { 1, 0, 0, 0, 33, 16 },        { 1, 0, 0, 0, 0, 6 },
        { 1, 0, 0, 0, 14, 12 },         { 1, 0, 0, 0, 5054, 0 },       { 1, 0, 0, 0, 34, 5019 },
        { 1, 0, 0, 0, 0xffff, 0xffff }, { 4, 0, 0, 0, 0, 0 },          { 0x80, 0, 0, 0, 0, 0 },
        { 1, 1, 5055, 1000, 34, 16 },   { 0, 0, 0xffff, 0, 0, 0 },
    };

    (void)state;
    make_frame(&base, &tcp, 1);
    assert_int_equal(base.len, 5054);
    assert_true(net_hdr_check(&base.hdr, base.data, NET_HEAD_BYTES, base.len));
    for (unsigned i = 0; i < ARRAY_SIZE(hdrs); i++)
        assert_false(net_hdr_check(&hdrs[i], base.data, base.len, base.len));
    for (unsigned i = 0; i < ARRAY_SIZE(bytes); i++) {
        f = base;
        f.data[bytes[i].at] = bytes[i].value;
        if (net_hdr_check(&f.hdr, f.data, f.len, f.len))
            fail_msg("byte %zu: %#x was accepted", bytes[i].at, bytes[i].value);
    }
    /* Headers cut off, and headers alone. */
    for (size_t len = 0; len <= 54; len++)
        assert_false(net_hdr_check(&base.hdr, base.data, len, len));
    assert_true(net_hdr_check(&(struct net_hdr){ 0 }, base.data, 14, 14));
    assert_true(net_hdr_check(&(struct net_hdr){ 1, 0, 0, 0, 34, 5018 }, base.data, base.len, base.len));
    assert_true(net_hdr_check(&(struct net_hdr){ 1, 1, 54, 3, 34, 16 }, base.data, base.len, base.len));
}

static void test_extensions_bounded(void **state)
{
    static struct frame f;
    struct shape s = { .payload = 2000, .gso_size = 1000, .ipv6 = true };

    (void)state;
    for (s.extensions = 0; s.extensions < 12; s.extensions++) {
        make_frame(&f, &s, 1);
        assert_int_equal(net_hdr_check(&f.hdr, f.data, f.len, f.len), s.extensions <= 8);
        if (s.extensions > 0) {
            f.data[54] = 44; /* a fragment */
            assert_false(net_hdr_check(&f.hdr, f.data, f.len, f.len));
            f.data[54] = s.extensions == 1 ? 6 : 60;
            f.data[55] = 255; /* an extension header that reaches far behind */
            assert_false(net_hdr_check(&f.hdr, f.data, f.len, f.len));
        }
    }
}

/* Whatever is in a frame: nothing outside of it is touched (the sanitizers watch), and no more comes out than is in it.
 */
static void add_up(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    (void)hdr;
    *(size_t *)opaque += slow_sum(frame, len, 0) ? len : len;
}

static void test_mutations(void **state)
{
    static struct frame f;
    uint32_t seed = 99;
    unsigned accepted = 0;

    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        struct shape s = random_shape(&seed);
        size_t len, total = 0;
        uint8_t *exact;

        s.payload = MIN(s.payload, (size_t)600);
        s.gso_size = MIN(s.gso_size, (uint16_t)200);
        make_frame(&f, &s, i);
        for (unsigned n = random_next(&seed) % 3; n > 0; n--)
            f.data[random_next(&seed) % f.body] = (uint8_t)random_next(&seed);
        for (unsigned n = random_next(&seed) % 2; n > 0; n--)
            ((uint8_t *)&f.hdr)[random_next(&seed) % sizeof(f.hdr)] = (uint8_t)random_next(&seed);
        len = random_next(&seed) % 4 ? f.len : random_next(&seed) % f.len;
        exact = malloc(len + 1);
        memcpy(exact, f.data, len);
        if (net_hdr_check(&f.hdr, exact, len, len)) {
            accepted++;
            if (net_offload_finish(&f.hdr, exact, len, 0, add_up, &total) == 0)
                assert_true(total >= len && total <= len * (NET_SEGMENTS_MAX + 1));
            (void)!net_offload_whole(&f.hdr, exact, len);
        }
        free(exact);
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

/* ---- the kernel ---- */

struct bridge {
    int in, out;
};

static int tap_open(const char *name, short flags)
{
    struct ifreq r = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags) };
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), size = 10;

    if (fd < 0)
        return -1;
    strcpy(r.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &r) < 0 || (flags & IFF_VNET_HDR && ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool net_up(int sock, const char *name, int mtu)
{
    struct ifreq r = { .ifr_mtu = mtu };

    strcpy(r.ifr_name, name);
    if (mtu && ioctl(sock, SIOCSIFMTU, &r) < 0)
        return false;
    r.ifr_flags = IFF_UP | IFF_PROMISC;
    return ioctl(sock, SIOCSIFFLAGS, &r) == 0;
}

static bool bridge_add(int sock, const char *name)
{
    struct ifreq r = { 0 };

    strcpy(r.ifr_name, "br");
    r.ifr_ifindex = (int)if_nametoindex(name);
    return ioctl(sock, SIOCBRADDIF, &r) == 0;
}

static void no_filter(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, "0", 1);
        close(fd);
    }
}

/* Two taps on a bridge in a network namespace of our own. False: this machine does not let us. */
static bool bridge_open(struct bridge *b)
{
    int sock;

    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        return false;
    sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    b->in = tap_open("in", IFF_VNET_HDR);
    b->out = tap_open("out", 0);
    if (b->in < 0 || b->out < 0 || ioctl(sock, SIOCBRADDBR, "br") < 0)
        return false;
    no_filter("/proc/sys/net/bridge/bridge-nf-call-iptables");
    no_filter("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
    if (!net_up(sock, "in", 65521) || !net_up(sock, "out", 65521) || !bridge_add(sock, "in") ||
        !bridge_add(sock, "out") || !net_up(sock, "br", 0))
        return false;
    close(sock);
    return true;
}

/* The next frame from the bridge that is ours. */
static size_t bridge_read(const struct bridge *b, uint8_t *data, size_t size)
{
    for (;;) {
        struct pollfd p = { .fd = b->out, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, 20000) <= 0)
            return 0;
        n = read(b->out, data, size);
        if (n > 12 && memcmp(data + 6, "\x02\0\0\0\0\x11", 6) == 0)
            return (size_t)n;
    }
}

static void compare(const struct bridge *b, const struct frame *f, const struct shape *s)
{
    static uint8_t buf[70000], got[70000];
    static struct out o;

    memcpy(buf, &f->hdr, 10);
    memcpy(buf + 10, f->data, f->len);
    assert_int_equal(write(b->in, buf, 10 + f->len), 10 + f->len);
    assert_int_equal(net_offload_finish(&f->hdr, f->data, f->len, 0, collect, &o), 0);
    for (unsigned i = 0; i < o.n; i++) {
        size_t len = bridge_read(b, got, sizeof(got));
        uint8_t *sum = got + f->l4 + (s->udp ? 6 : 16);

        assert_int_equal(len, o.lens[i]);
        if (rd16(sum) == 0) /* the kernel writes a zero of TCP as it is */
            be16(sum, 0xffff);
        for (size_t at = 0; at < len; at++) {
            if (got[at] != o.data[i][at])
                fail_msg("segment %u of %u, byte %zu (l3 %zu, l4 %zu): kernel %#x, ours %#x", i, o.n, at, f->l3, f->l4,
                         got[at], o.data[i][at]);
        }
    }
    drop(&o);
}

static void test_kernel(void **state)
{
    static struct frame f;
    struct bridge b = { -1, -1 };
    uint32_t seed = 3;

    (void)state;
    if (!bridge_open(&b)) {
        print_message("no network namespace with taps and a bridge here: %s\n", strerror(errno));
        skip();
    }
    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        make_frame(&f, &shapes[i], i);
        compare(&b, &f, &shapes[i]);
    }
    for (unsigned i = 0; i < 300; i++) {
        struct shape s = random_shape(&seed);

        make_frame(&f, &s, i);
        compare(&b, &f, &s);
    }
    close(b.in);
    close(b.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),     cmocka_unit_test(test_reference),          cmocka_unit_test(test_whole),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_extensions_bounded), cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_kernel), /* last: it leaves our network namespace */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
