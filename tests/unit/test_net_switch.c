/* The switch between back ends that only remember what they are sent: where frames go, as what, and where they do not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "fault.h"
#include "net/offload.h"
#include "net/pcap.h"
#include "net_world.h"

/* ---- learning ---- */

static void test_learning(void **state)
{
    struct world w;
    uint8_t f[80], src[6], dst[6];

    begin(&w, 4);
    assert_int_equal(say_to(&w, 0, 1), 0xe); /* not known: everywhere */
    assert_int_equal(say_to(&w, 1, 0), 1);   /* learned */
    assert_int_equal(w.p[0]->dones, 1);
    assert_int_equal(w.p[0]->len, 60);
    assert_int_equal(say_to(&w, 0, 1), 2);
    assert_int_equal(say(&w, 2, broadcast, -1), 0xb);
    assert_int_equal(say_to(&w, 1, 1), 0); /* to itself */
    /* It moves to where it was seen last. */
    mac_of(1, src);
    mac_of(0, dst);
    assert_int_equal(reach(&w, 3, f, ethernet(f, dst, src, -1, 0x88b5)), 1);
    assert_int_equal(say_to(&w, 0, 1), 8);
    /* Old entries are forgotten. */
    clock_advance(301 * SECOND);
    assert_int_equal(say_to(&w, 0, 1), 0xe);
    /* Multicast sources, no source, frames for bridges only. */
    assert_int_equal(reach(&w, 0, f, ethernet(f, dst, broadcast, -1, 0x88b5)), 0);
    assert_int_equal(reach(&w, 0, f, ethernet(f, dst, (uint8_t[6]){ 0 }, -1, 0x88b5)), 0);
    assert_int_equal(net_port_get_counters(w.p[0]->port).in_malformed, 2);
    assert_int_equal(say(&w, 0, (uint8_t[6]){ 1, 0x80, 0xc2, 0, 0, 0 }, -1), 0);
    assert_int_equal(say(&w, 0, (uint8_t[6]){ 1, 0x80, 0xc2, 0, 0, 0x0f }, -1), 0);
    assert_int_equal(say(&w, 0, (uint8_t[6]){ 1, 0x80, 0xc2, 0, 0, 0x10 }, -1), 0xe);
    end(&w);
}

static void count_mac(void *opaque, const struct net_switch_mac *m)
{
    unsigned *counts = opaque;

    counts[net_port_get_config(m->port)->name[1] - '0']++;
}

/* One port that invents addresses fills its own share, nobody else's. */
static void test_table_bounds(void **state)
{
    struct world w;
    uint8_t f[80], src[6] = { 0x52, 0x54, 1 };
    unsigned counts[PORTS] = { 0 };

    begin(&w, 4);
    (void)say(&w, 1, broadcast, -1);
    for (unsigned i = 0; i < 20000; i++) {
        store_be16(src + 4, (uint16_t)i);
        assert_true(inject(&w, 0, &plain, f, ethernet(f, broadcast, src, -1, 0x88b5)));
    }
    net_switch_each_mac(w.sw, count_mac, counts);
    assert_int_equal(counts[0], 2048);
    assert_int_equal(counts[1], 1);
    assert_int_equal(say_to(&w, 2, 1), 2);
    /* Addresses that go to and fro keep the counts right. */
    for (unsigned i = 0; i < 30000; i++) {
        store_be16(src + 4, (uint16_t)(i * 7919 % 3000));
        assert_true(inject(&w, i % 2 ? 3 : 0, &plain, f, ethernet(f, broadcast, src, -1, 0x88b5)));
    }
    memset(counts, 0, sizeof(counts));
    net_switch_each_mac(w.sw, count_mac, counts);
    assert_true(counts[0] <= 2048 && counts[3] <= 2048);
    net_switch_port_remove(w.p[0]->port);
    w.p[0] = NULL;
    memset(counts, 0, sizeof(counts));
    net_switch_each_mac(w.sw, count_mac, counts);
    assert_int_equal(counts[0], 0);
    end(&w);
}

static void test_owner(void **state)
{
    struct world w;
    struct net_port_config c;
    struct net_port *port;
    struct fake *extra;
    uint8_t f[80], src[6], dst[6];

    begin(&w, 3);
    mac_of(4, src);
    (void)reach(&w, 2, f, ethernet(f, broadcast, src, -1, 0x88b5)); /* somebody says to be number 4 */
    c = config_of(4);
    c.filter_mac = true;
    add(&w, 4, &c);
    assert_int_equal(say_to(&w, 0, 4), 0x10); /* known without a word */
    mac_of(0, dst);
    assert_int_equal(reach(&w, 2, f, ethernet(f, dst, src, -1, 0x88b5)), 0); /* nobody else can be it */
    assert_int_equal(net_port_get_counters(w.p[2]->port).in_spoofed, 1);
    mac_of(5, src);
    assert_int_equal(reach(&w, 4, f, ethernet(f, dst, src, -1, 0x88b5)), 0); /* nor it somebody else */
    assert_int_equal(net_port_get_counters(w.p[4]->port).in_spoofed, 1);
    assert_ptr_equal(net_switch_port_by_mac(w.sw, c.mac), w.p[4]->port);
    extra = fake_new(&w);
    assert_int_equal(net_switch_port_add(w.sw, &c, &extra->base, &port), -EEXIST); /* name */
    snprintf(c.name, sizeof(c.name), "other");
    assert_int_equal(net_switch_port_add(w.sw, &c, &extra->base, &port), -EEXIST); /* address */
    c.filter_mac = false;
    assert_int_equal(net_switch_port_add(w.sw, &c, &extra->base, &port), -EEXIST);
    c.mac[0] |= 1;
    assert_int_equal(net_switch_port_add(w.sw, &c, &extra->base, &port), -EINVAL);
    c = config_of(5);
    c.vlan = 4095;
    assert_int_equal(net_switch_port_add(w.sw, &c, &extra->base, &port), -EINVAL);
    net_backend_close(&extra->base);
    w.closed--;
    end(&w);
}

/* ---- VLANs ---- */

static void set_vlan(struct net_vlan_set *s, unsigned vlan)
{
    s->bits[vlan / 64] |= BIT64(vlan % 64);
}

static void begin_vlans(struct world *w)
{
    struct net_port_config c;

    begin_empty(w);
    for (unsigned i = 0; i < 5; i++) {
        c = config_of(i);
        c.vlan = i < 2 ? 10 : i == 2 ? 20 : i == 3 ? 10 : 0; /* 3 and 4 are trunks */
        c.trunk = i >= 3;
        if (c.trunk) {
            set_vlan(&c.trunk_vlans, 20);
            set_vlan(&c.trunk_vlans, i == 3 ? 30 : 10);
        }
        add(w, i, &c);
    }
}

static void test_vlans(void **state)
{
    struct world w;
    uint8_t f[80], src[6];

    begin_vlans(&w);
    assert_int_equal(say(&w, 0, broadcast, -1), 0x1a); /* 1 and 3 without tag, 4 with */
    assert_int_equal(w.p[1]->len, 60);
    assert_int_equal(w.p[3]->len, 60);
    assert_int_equal(w.p[4]->len, 64);
    assert_int_equal(load_be32(w.p[4]->frame + 12), 0x8100000a);
    assert_int_equal(load_be16(w.p[4]->frame + 16), 0x88b5);
    assert_memory_equal(w.p[4]->frame + 18, w.p[1]->frame + 14, 46);
    assert_int_equal(say(&w, 2, broadcast, -1), 0x18);
    assert_int_equal(load_be32(w.p[3]->frame + 12), 0x81000014);
    /* From a trunk, priority bits are kept; the tag goes where the VLAN is native. */
    assert_int_equal(say(&w, 4, broadcast, 0xa000 | 20), 0xc);
    assert_int_equal(w.p[2]->len, 60);
    assert_int_equal(load_be32(w.p[3]->frame + 12), 0x8100a014);
    assert_int_equal(say(&w, 4, broadcast, 10), 0xb);
    assert_int_equal(say(&w, 3, broadcast, -1), 0x13);
    assert_int_equal(say(&w, 3, broadcast, 10), 0x13); /* the native VLAN with a tag */
    /* Learned for each VLAN by itself. */
    mac_of(4, src);
    assert_int_equal(say(&w, 0, src, -1), 0x10);
    assert_int_equal(say(&w, 2, src, -1), 0x10);
    /* Not carried: a tag on an access port, a VLAN that is not of the trunk, reserved ids. */
    assert_int_equal(say(&w, 0, broadcast, 10), 0);
    assert_int_equal(say(&w, 0, broadcast, 20), 0);
    assert_int_equal(say(&w, 3, broadcast, 40), 0);
    assert_int_equal(say(&w, 3, broadcast, 4095), 0);
    assert_int_equal(net_port_get_counters(w.p[0]->port).in_vlan, 2);
    assert_int_equal(net_port_get_counters(w.p[3]->port).in_vlan, 2);
    /* A tag that only has a priority is none. */
    assert_int_equal(say(&w, 0, broadcast, 0xe000), 0x1a);
    assert_int_equal(w.p[1]->len, 60);
    assert_int_equal(load_be32(w.p[4]->frame + 12), 0x8100e00a);
    /* Two tags would jump, whatever the first one is. */
    mac_of(0, src);
    assert_int_equal(reach(&w, 0, f, ethernet(f, broadcast, src, 0, 0x8100)), 0);
    assert_int_equal(reach(&w, 3, f, ethernet(f, broadcast, src, 10, 0x8100)), 0);
    /* Cut off in the tag. */
    (void)ethernet(f, broadcast, src, 10, 0x88b5);
    assert_int_equal(reach(&w, 3, f, 17), 0);
    assert_int_equal(net_port_get_counters(w.p[3]->port).in_malformed, 1);
    end(&w);
}

/* What a header says moves with the tag. */
static void test_vlan_offsets(void **state)
{
    struct world w;
    uint8_t f[80], src[6];
    struct net_hdr hdr = { .flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6 };

    begin_vlans(&w);
    mac_of(0, src);
    assert_true(inject(&w, 0, &hdr, f, ethernet(f, broadcast, src, -1, 0x88b5)));
    assert_int_equal(w.p[1]->hdr.csum_start, 34);
    assert_int_equal(w.p[4]->hdr.csum_start, 38);
    hdr.csum_start = 38;
    assert_true(inject(&w, 4, &hdr, f, ethernet(f, broadcast, src, 10, 0x88b5)));
    assert_int_equal(w.p[1]->hdr.csum_start, 34);
    assert_int_equal(w.p[1]->hdr.flags, NET_HDR_NEEDS_CSUM);
    end(&w);
}

static void test_isolation(void **state)
{
    struct world w;
    struct net_port_config c;

    begin(&w, 1);
    for (unsigned i = 1; i < 4; i++) {
        c = config_of(i);
        c.isolated = i < 3;
        add(&w, i, &c);
    }
    assert_int_equal(say(&w, 1, broadcast, -1), 0x9);
    assert_int_equal(say(&w, 2, broadcast, -1), 0x9);
    assert_int_equal(say(&w, 0, broadcast, -1), 0xe);
    assert_int_equal(say_to(&w, 1, 2), 0); /* learned, and not reached all the same */
    assert_int_equal(say_to(&w, 1, 0), 1);
    assert_int_equal(say_to(&w, 3, 2), 4);
    end(&w);
}

/* ---- limits ---- */

static void test_full_and_big(void **state)
{
    struct world w;
    static uint8_t f[NET_FRAME_MAX];
    uint8_t src[6], dst[6];
    struct net_port_counters c;

    begin(&w, 3);
    (void)say(&w, 1, broadcast, -1);
    w.p[1]->full = true;
    assert_int_equal(say_to(&w, 0, 1), 0);
    assert_int_equal(say(&w, 0, broadcast, -1), 4); /* the others are not held up */
    c = net_port_get_counters(w.p[1]->port);
    assert_int_equal(c.out_full, 2);
    w.p[1]->full = false;
    mac_of(0, src);
    mac_of(1, dst);
    (void)ethernet(f, dst, src, -1, 0x88b5);
    assert_int_equal(reach(&w, 0, f, 1514), 2);
    assert_int_equal(reach(&w, 0, f, 1515), 0);
    (void)ethernet(f, dst, src, 0, 0x88b5); /* what is judged is what would be sent */
    assert_int_equal(reach(&w, 0, f, 1518), 2);
    assert_int_equal(reach(&w, 0, f, 1519), 0);
    c = net_port_get_counters(w.p[1]->port);
    assert_int_equal(c.out_too_big, 2);
    assert_int_equal(c.out_frames, 2);
    assert_int_equal(c.out_bytes, 2 * 1514);
    end(&w);
}

static void step(struct world *w)
{
    for (int i = 0; i < 3; i++)
        assert_true(loop_run_once(w->loop) >= 0);
}

/* Beyond the rate a port is held back, not robbed: the frame is refused, and asked for again when it is time. */
static void test_rate_in(void **state)
{
    struct world w;
    struct net_port_config c;
    static uint8_t f[1514];
    uint8_t src[6];
    unsigned n = 0, seconds = 20;

    begin(&w, 1);
    c = config_of(1);
    c.rate_in = 100000;
    c.burst = 10000;
    add(&w, 1, &c);
    mac_of(1, src);
    (void)ethernet(f, broadcast, src, -1, 0x88b5);
    for (unsigned i = 0; i < seconds * 1000; i++) {
        while (inject(&w, 1, &plain, f, 1000))
            n++;
        step(&w);
        if (i == 0) {
            assert_int_equal(n, 10); /* the burst */
            assert_int_equal(w.p[1]->ready, 0);
        }
        clock_advance(SECOND / 1000);
        step(&w);
    }
    assert_in_range(n, seconds * 100, seconds * 100 + 11);
    assert_in_range(w.p[1]->ready, seconds * 100 - 2, seconds * 1000);
    assert_int_equal(w.p[0]->frames, n);
    assert_true(net_port_get_counters(w.p[1]->port).in_held > 0);
    net_switch_port_remove(w.p[1]->port); /* while it is held */
    w.p[1] = NULL;
    clock_advance(SECOND);
    step(&w);
    end(&w);
}

static void test_rate_out(void **state)
{
    struct world w;
    struct net_port_config c;
    static uint8_t f[1514];
    uint8_t src[6], dst[6];
    unsigned seconds = 10;

    begin(&w, 1);
    c = config_of(1);
    c.rate_out = 50000;
    c.burst = 5000;
    add(&w, 1, &c);
    (void)say(&w, 1, broadcast, -1);
    mac_of(0, src);
    mac_of(1, dst);
    (void)ethernet(f, dst, src, -1, 0x88b5);
    for (unsigned i = 0; i < seconds * 1000; i++) {
        assert_true(inject(&w, 0, &plain, f, 1000)); /* never held */
        clock_advance(SECOND / 1000);
    }
    assert_in_range(w.p[1]->frames, seconds * 50, seconds * 50 + 6);
    assert_int_equal(net_port_get_counters(w.p[1]->port).out_rate, seconds * 1000 - w.p[1]->frames);
    end(&w);
}

static void test_storm(void **state)
{
    struct world w;
    struct net_port_config c;

    begin(&w, 2);
    c = config_of(2);
    c.flood_rate = 100;
    add(&w, 2, &c);
    (void)say(&w, 0, broadcast, -1);
    for (unsigned i = 0; i < 1000; i++)
        (void)say(&w, 2, broadcast, -1);
    assert_int_equal(net_port_get_counters(w.p[2]->port).in_storm, 900);
    assert_int_equal(w.p[1]->frames, 101);
    assert_int_equal(say_to(&w, 2, 0), 1); /* what is for one only is not meant */
    assert_int_equal(say(&w, 0, broadcast, -1), 6);
    clock_advance(SECOND / 2);
    for (unsigned i = 0; i < 1000; i++)
        (void)say(&w, 2, broadcast, -1);
    assert_int_equal(net_port_get_counters(w.p[2]->port).in_storm, 900 + 950);
    end(&w);
}

/* ---- offloads ---- */

/* A TCP packet of n payload bytes from port 0 to port 1, with its checksum left to others. */
static size_t tcp_frame(uint8_t *f, size_t n, struct net_hdr *hdr, unsigned gso_size)
{
    uint8_t src[6], dst[6], *ip = f + 14, *tcp = f + 34;
    uint32_t sum = 0;

    mac_of(0, src);
    mac_of(1, dst);
    (void)ethernet(f, dst, src, -1, 0x0800);
    memset(ip, 0, 40);
    ip[0] = 0x45;
    store_be16(ip + 2, (uint16_t)(40 + n));
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, (uint8_t[]){ 10, 0, 0, 1, 10, 0, 0, 2 }, 8);
    for (unsigned i = 0; i < 20; i += 2)
        sum += load_be16(ip + i);
    store_be16(ip + 10, (uint16_t) ~(sum % 0xffff));
    store_be16(tcp, 1000);
    store_be16(tcp + 2, 2000);
    tcp[12] = 5 << 4;
    tcp[13] = 0x10;
    sum = 6 + 20 + (uint32_t)n; /* pseudo header */
    for (unsigned i = 12; i < 20; i += 2)
        sum += load_be16(ip + i);
    store_be16(tcp + 16, (uint16_t)(sum % 0xffff));
    for (size_t i = 0; i < n; i++)
        tcp[20 + i] = (uint8_t)(i * 7);
    *hdr = (struct net_hdr){ .flags = NET_HDR_NEEDS_CSUM, .hdr_len = 54, .csum_start = 34, .csum_offset = 16 };
    if (gso_size) {
        hdr->gso_type = NET_GSO_TCPV4;
        hdr->gso_size = (uint16_t)gso_size;
    }
    return 54 + n;
}

/* Whether the TCP checksum of a frame is right. */
static bool tcp_sum_ok(const uint8_t *f, size_t len)
{
    uint32_t sum = 6 + (uint32_t)(len - 34);

    for (unsigned i = 26; i < 34; i += 2)
        sum += load_be16(f + i);
    for (size_t i = 34; i < len; i++)
        sum += i % 2 ? f[i] : (uint32_t)f[i] << 8;
    return sum % 0xffff == 0;
}

static void test_gso(void **state)
{
    static uint8_t f[NET_FRAME_MAX];
    struct world w;
    struct net_hdr hdr;
    size_t len = tcp_frame(f, 60000, &hdr, 1448);

    begin(&w, 2);
    (void)say(&w, 1, broadcast, -1);
    (void)say(&w, 0, broadcast, -1);
    w.p[1]->frames = 0;
    assert_true(inject(&w, 0, &hdr, f, len));
    assert_int_equal(w.p[1]->frames, 1); /* as it came */
    assert_int_equal(w.p[1]->len, len);
    assert_memory_equal(&w.p[1]->hdr, &hdr, sizeof(hdr));
    assert_memory_equal(w.p[1]->frame, f, len);
    /* One that takes no segmentation, or nothing at all, gets finished frames. */
    w.p[1]->base.offloads = NET_OFF_CSUM;
    w.p[1]->frames = 0;
    assert_true(inject(&w, 0, &hdr, f, len));
    assert_int_equal(w.p[1]->frames, (60000 + 1447) / 1448);
    w.p[1]->base.offloads = 0;
    w.p[1]->frames = 0;
    w.p[1]->total = 0;
    assert_true(inject(&w, 0, &hdr, f, len));
    assert_int_equal(w.p[1]->frames, (60000 + 1447) / 1448);
    assert_int_equal(w.p[1]->total, 60000 + w.p[1]->frames * 54);
    assert_int_equal(w.p[1]->hdr.flags & NET_HDR_NEEDS_CSUM, 0);
    assert_true(tcp_sum_ok(w.p[1]->frame, w.p[1]->len)); /* the last one */
    end(&w);
}

/* ---- captures ---- */

/* Read a capture back: number of records, and the lengths' sum; checks the file's structure. */
static unsigned read_capture(int fd, size_t *ret_total, uint8_t *last, size_t *ret_last_len)
{
    static uint8_t data[1 << 20];
    ssize_t n = pread(fd, data, sizeof(data), 0);
    size_t at = 24, size = (size_t)n;
    unsigned records = 0;

    assert_true(n >= 24);
    assert_int_equal(load_le32(data), 0xa1b23c4d);
    assert_int_equal(load_le32(data + 20), 1);
    *ret_total = 0;
    while (at < size) {
        uint32_t captured = load_le32(data + at + 8);

        assert_true(at + 16 + captured <= size);
        assert_int_equal(load_le32(data + at + 12), captured);
        assert_true(load_le32(data + at + 4) < 1000000000);
        memcpy(last, data + at + 16, captured);
        *ret_last_len = captured;
        *ret_total += captured;
        records++;
        at += 16 + captured;
    }
    return records;
}

static void test_capture(void **state)
{
    static uint8_t f[NET_FRAME_MAX], last[NET_FRAME_MAX];
    struct world w;
    struct net_pcap *pcap;
    struct net_hdr hdr;
    size_t total, len, last_len;
    int all = memfd_create("all", 0), one = memfd_create("one", 0), capped = memfd_create("capped", 0), number, second;

    begin_vlans(&w);
    assert_int_equal(net_pcap_new(dup(all), 0, &pcap), 0);
    number = net_switch_capture(w.sw, NULL, pcap);
    assert_true(number > 0);
    assert_int_equal(net_pcap_new(dup(one), 0, &pcap), 0);
    second = net_switch_capture(w.sw, w.p[4]->port, pcap);
    assert_true(second > 0 && second != number);
    assert_int_equal(net_pcap_new(dup(capped), 200, &pcap), 0);
    assert_true(net_switch_capture(w.sw, NULL, pcap) > 0);
    (void)say(&w, 0, broadcast, -1);
    (void)say(&w, 4, broadcast, 20);
    (void)say(&w, 0, broadcast, -1);
    (void)say(&w, 0, broadcast, 10); /* dropped: not there */
    len = tcp_frame(f, 10000, &hdr, 1448);
    assert_true(inject(&w, 0, &hdr, f, len));
    assert_true(net_switch_capture_stop(w.sw, number));
    assert_false(net_switch_capture_stop(w.sw, number));
    assert_int_equal(read_capture(all, &total, last, &last_len), 3 + 7);
    assert_int_equal(total, 60 + 64 + 60 + 10000 + 7 * 54);
    assert_true(tcp_sum_ok(last, last_len)); /* as on a wire */
    net_switch_port_remove(w.p[4]->port);    /* ends its capture */
    w.p[4] = NULL;
    assert_false(net_switch_capture_stop(w.sw, second));
    assert_int_equal(read_capture(one, &total, last, &last_len), 3 + 7);
    assert_int_equal(total, 3 * 64 + 10000 + 7 * 58); /* with the tags that it saw */
    assert_int_equal(read_capture(capped, &total, last, &last_len), 2);
    end(&w);
    close(all);
    close(one);
    close(capped);
}

/* The longest frame that a port may send has no room for a tag. */
static void test_longest(void **state)
{
    static uint8_t f[NET_FRAME_MAX], last[NET_FRAME_MAX];
    struct world w;
    struct net_pcap *pcap;
    struct net_hdr hdr;
    size_t total, last_len;
    int file = memfd_create("file", 0);

    begin_vlans(&w);
    assert_int_equal(net_pcap_new(dup(file), 0, &pcap), 0);
    assert_true(net_switch_capture(w.sw, w.p[4]->port, pcap) > 0);
    assert_true(inject(&w, 0, &hdr, f, tcp_frame(f, NET_FRAME_MAX - 54, &hdr, 1448)));
    assert_int_equal(w.p[1]->len, NET_FRAME_MAX);
    assert_int_equal(w.p[4]->frames, 0);
    assert_int_equal(net_port_get_counters(w.p[4]->port).out_too_big, 1);
    assert_int_equal(net_port_get_counters(w.p[4]->port).out_frames, 0);
    assert_true(inject(&w, 0, &hdr, f, tcp_frame(f, NET_FRAME_MAX - 58, &hdr, 1448)));
    assert_int_equal(w.p[4]->len, NET_FRAME_MAX);
    net_switch_port_remove(w.p[4]->port); /* ends its capture */
    w.p[4] = NULL;
    assert_int_equal(read_capture(file, &total, last, &last_len), (NET_FRAME_MAX - 58 + 1447) / 1448);
    end(&w);
    close(file);
}

static void test_capture_bounds(void **state)
{
    struct world w;
    struct net_pcap *pcap;
    int full = open("/dev/full", O_WRONLY), pair[2];

    begin(&w, 2);
    assert_int_equal(net_pcap_new(full, 0, &pcap), -ENOSPC); /* still ours */
    close(full);
    assert_int_equal(pipe(pair), 0);
    assert_int_equal(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(net_pcap_new(pair[1], 0, &pcap), 0);
    assert_true(net_switch_capture(w.sw, NULL, pcap) > 0);
    for (unsigned i = 0; i < 10000; i++) { /* nobody reads: it ends, the switch does not */
        (void)say(&w, 0, broadcast, -1);
        clock_advance(SECOND / 1000);
    }
    assert_int_equal(w.p[1]->frames, 10000);
    assert_false(net_switch_capture_stop(w.sw, 1));
    for (unsigned i = 0; i < 9; i++) {
        int r, fd = memfd_create("x", 0);

        assert_int_equal(net_pcap_new(fd, 0, &pcap), 0);
        r = net_switch_capture(w.sw, NULL, pcap);
        assert_int_equal(r > 0 ? 0 : r, i < 8 ? 0 : -ENOSPC);
        if (r < 0)
            net_pcap_free(pcap);
    }
    close(pair[0]);
    end(&w);
}

/* ---- life ---- */

/* A service that answers while it is being sent to. */
static void test_answer_inside(void **state)
{
    struct world w;
    uint8_t src[6], dst[6];

    begin(&w, 3);
    mac_of(1, src);
    mac_of(0, dst);
    w.p[1]->answer_len = ethernet(w.p[1]->answer, dst, src, -1, 0x88b5);
    assert_int_equal(say(&w, 0, broadcast, -1), 7);
    assert_int_equal(w.p[0]->frames, 1);
    assert_int_equal(w.p[0]->dones, 1);
    assert_int_equal(w.p[2]->dones, 1);
    end(&w);
}

static void count_event(void *opaque, struct net_port *port)
{
    ++*(unsigned *)opaque;
    assert_non_null(net_port_get_config(port));
}

static int try_world(void)
{
    struct net_port_config c = config_of(0);
    struct world w = { 0 };
    struct fake *f;
    int r;

    r = loop_new(&w.loop);
    if (r < 0)
        return r;
    f = fake_new(&w);
    r = net_switch_new(w.loop, &w.sw);
    if (r == 0)
        r = net_switch_port_add(w.sw, &c, &f->base, &f->port);
    if (r < 0)
        net_backend_close(&f->base);
    net_switch_free(w.sw);
    loop_free(w.loop);
    return r;
}

static void test_life(void **state)
{
    struct world w;
    unsigned events = 0;
    struct net_switch_events listener = { count_event, count_event, &events };
    struct net_port *p = NULL;
    struct net_port_config c = config_of(5);

    begin(&w, 3);
    assert_int_equal(net_switch_listen(w.sw, &listener), 0);
    add(&w, 5, &c);
    assert_int_equal(events, 1);
    for (unsigned i = 0; i < 4; i++) {
        p = net_switch_port_next(w.sw, p);
        assert_non_null(p);
    }
    assert_ptr_equal(p, net_switch_port_by_name(w.sw, "p5"));
    assert_null(net_switch_port_next(w.sw, p));
    (void)say(&w, 5, broadcast, -1);
    net_switch_port_remove(p);
    w.p[5] = NULL;
    assert_int_equal(events, 2);
    assert_int_equal(w.closed, 1);
    assert_null(net_switch_port_by_name(w.sw, "p5"));
    assert_int_equal(say_to(&w, 0, 5), 6); /* forgotten */
    end(&w);
    net_switch_port_remove(NULL);
    net_switch_free(NULL);
}

static void test_failures(void **state)
{
    int r;

    for (unsigned n = 1; fault_begin(n), r = try_world(), fault_end(); n++)
        assert_int_equal(r, -ENOMEM);
    assert_int_equal(r, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learning),       cmocka_unit_test(test_table_bounds),  cmocka_unit_test(test_owner),
        cmocka_unit_test(test_vlans),          cmocka_unit_test(test_vlan_offsets),  cmocka_unit_test(test_isolation),
        cmocka_unit_test(test_full_and_big),   cmocka_unit_test(test_rate_in),       cmocka_unit_test(test_rate_out),
        cmocka_unit_test(test_storm),          cmocka_unit_test(test_gso),           cmocka_unit_test(test_capture),
        cmocka_unit_test(test_capture_bounds), cmocka_unit_test(test_answer_inside), cmocka_unit_test(test_life),
        cmocka_unit_test(test_failures),       cmocka_unit_test(test_longest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
