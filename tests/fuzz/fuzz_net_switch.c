/* Fuzz target: frames into the ports of a switch with every filter, trunks and a port without offloads. Input: records
 * of port, 10 bytes of header, two of length, frame. */
#include "base/bits.h"
#include "base/check.h"
#include "net/backend.h"
#include "net/switch.h"
#include "sys/loop.h"

#define PORTS 4
#define RECORD 13

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool sink_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n, size_t len)
{
    static uint8_t frame[NET_FRAME_MAX];

    CHECK(net_gather(frame, iov, n, sizeof(frame)) == len);
    return frame[len - 1] != 0xee; /* no room now and then */
}

static void sink_nothing(struct net_backend *b)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct net_backend_ops ops = { "sink", sink_send, sink_nothing, sink_nothing, NULL, sink_nothing };
    static struct net_backend sinks[PORTS];
    static struct net_switch *sw;
    static struct loop *loop;
    struct net_port *port;

    CHECK(loop || loop_new(&loop) == 0);
    CHECK(net_switch_new(loop, &sw) == 0);
    for (unsigned i = 0; i < PORTS; i++) {
        struct net_port_config c = { .name = { (char)('a' + i) },
                                     .mac = { 2, 0, 0, 0, 0, (uint8_t)i },
                                     .trunk = i & 1,
                                     .trunk_vlans.bits[0] = 0xfe,
                                     .filter_mac = i == 2,
                                     .filter_ip = i >= 2,
                                     .filter_ip6_any = i == 3,
                                     .vlan = i == 1 };

        sinks[i] = (struct net_backend){ .ops = &ops, .mtu = 1500, .offloads = i ? NET_OFF_CSUM | NET_OFF_TSO4 : 0 };
        CHECK(net_switch_port_add(sw, &c, &sinks[i], &port) == 0);
    }
    while (size > RECORD) {
        struct net_backend *b = &sinks[data[0] % PORTS];
        size_t len = MIN((size_t)load_le16(data + 11), size - RECORD);
        struct net_hdr hdr;

        memcpy(&hdr, data + 1, sizeof(hdr));
        (void)!net_backend_deliver(b, &hdr, data + RECORD, len);
        net_backend_deliver_done(b);
        data += RECORD + len;
        size -= RECORD + len;
    }
    net_switch_free(sw);
    (void)!loop_run_once(loop); /* buries the timers */
    return 0;
}
