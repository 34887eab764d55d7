/* Fuzz target: guest memory as the queues of a virtio-net device whose network sends every frame back. */
#include "fuzz_virtio.h"
#include "net/backend.h"
#include "virtio/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool echo_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n, size_t len)
{
    static uint8_t frame[NET_FRAME_MAX];
    bool taken = net_backend_deliver(b, hdr, frame, net_gather(frame, iov, n, len));

    net_backend_deliver_done(b);
    return taken;
}

static void echo_nothing(struct net_backend *b)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct net_backend_ops ops = { "echo", echo_send,   echo_nothing, net_backend_send_ready,
                                                NULL,   echo_nothing };
    static struct net_backend echo = {
        .ops = &ops, .mtu = 1500, .offloads = NET_OFF_CSUM | NET_OFF_TSO4, .checksums_good = true
    };
    static struct fuzz_machine f;
    static struct virtio_net *net;

    if (!net) {
        fuzz_machine_init(&f);
        CHECK(virtio_net_new(&f.env, &(struct virtio_net_config){ .backend = &echo, .pairs = 2, .slot = 1 }, &net) ==
              0);
    }
    if (size > 1)
        fuzz_queues(&f, 5, data, size);
    return 0;
}
