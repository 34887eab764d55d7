/* Fuzz target: guest memory as the queues of a virtio-net device whose network sends every frame back. */
#include "fuzz_virtio.h"
#include "net/backend.h"
#include "virtio/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void echo_send(struct net_backend *b, const uint8_t *frame, size_t len)
{
    (void)b->receiver.receive(b->receiver.opaque, frame, len);
}

static void echo_nothing(struct net_backend *b)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct net_backend_ops ops = { "echo", echo_send, echo_nothing, echo_nothing, echo_nothing };
    static struct net_backend echo = { .ops = &ops, .mtu = 1500, .checksums_good = true };
    static struct fuzz_machine f;
    static struct virtio_net *net;

    if (!net) {
        fuzz_machine_init(&f);
        CHECK(virtio_net_new(&f.env, &(struct virtio_net_config){ .backend = &echo, .slot = 1 }, &net) == 0);
    }
    if (size > 1)
        fuzz_queues(&f, 3, data, size);
    return 0;
}
