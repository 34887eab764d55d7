/* virtio-rng. A request gets at most VRNG_BYTES_MAX bytes (the driver asks again for more) and one call serves at most
 * VRNG_BUDGET requests, so that a greedy guest cannot hold the loop thread. Spec: virtio 1.2 section 5.4. */
#include "virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/pack.h"
#include "virtio/ids.h"
#include "virtio/pci.h"

enum { VRNG_QUEUE_SIZE = 64, VRNG_CHAIN_CAP = 64, VRNG_BYTES_MAX = 4096, VRNG_BUDGET = 16 };

struct virtio_rng {
    struct virtio_pci *pci;
    struct virtq_chain *chain;
};

/* Fill a request. Returns the bytes written; getrandom cannot fail once the host has booted, and 0 is a valid answer.
 */
static uint32_t vrng_fill(struct virtq_chain *c)
{
    uint8_t bytes[VRNG_BYTES_MAX];
    ssize_t n = getrandom(bytes, MIN(c->in_len, sizeof(bytes)), GRND_NONBLOCK);

    return n > 0 ? (uint32_t)virtq_chain_write(c, 0, bytes, (size_t)n) : 0;
}

static void vrng_queue_notify(void *dev, unsigned queue)
{
    struct virtio_rng *r = dev;
    struct virtq *q = virtio_pci_queue(r->pci, queue);
    unsigned served = 0;
    int res = 0;

    do {
        while (served < VRNG_BUDGET && (res = virtq_pop(q, r->chain)) > 0) {
            virtq_push(q, r->chain, vrng_fill(r->chain));
            served++;
        }
    } while (res == 0 && served < VRNG_BUDGET && virtq_enable_notify(q) && ++served);
    virtio_pci_interrupt(r->pci, queue);
    if (res < 0)
        virtio_pci_queue_broken(r->pci, queue);
    else if (served >= VRNG_BUDGET)
        virtio_pci_requeue(r->pci, queue);
}

static void vrng_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static bool vrng_reset(void *dev)
{
    (void)dev;
    return true;
}

static const struct virtio_dev_ops vrng_ops = {
    .activate = vrng_activate,
    .queue_notify = vrng_queue_notify,
    .reset = vrng_reset,
};

int virtio_rng_new(const struct virtio_env *env, int slot, struct virtio_rng **ret_rng)
{
    struct virtio_rng *r = calloc(1, sizeof(*r));
    struct virtio_pci_config config = {
        .device_id = VIRTIO_ID_RNG,
        .pci_class = 0x00ff00,
        .slot = slot,
        .n_queues = 1,
        .queue_size = VRNG_QUEUE_SIZE,
        .ops = &vrng_ops,
        .opaque = r,
    };
    int res;

    if (!r)
        return -ENOMEM;
    res = virtq_chain_new(VRNG_CHAIN_CAP, &r->chain);
    if (res == 0)
        res = virtio_pci_new(env, &config, &r->pci);
    if (res < 0) {
        virtio_rng_free(r);
        return res;
    }
    *ret_rng = r;
    return 0;
}

void virtio_rng_free(struct virtio_rng *r)
{
    if (!r)
        return;
    virtio_pci_free(r->pci);
    virtq_chain_free(r->chain);
    free(r);
}

void virtio_rng_hold(struct virtio_rng *r, bool hold)
{
    virtio_pci_hold(r->pci, hold);
}

void virtio_rng_save(struct virtio_rng *r, struct buf *b)
{
    (void)virtio_pci_save(r->pci, b);
}

int virtio_rng_restore(struct virtio_rng *r, uint16_t version, struct unpack *in)
{
    uint64_t features;
    int live = virtio_pci_restore(r->pci, 0, in, &features);

    (void)version;
    return live < 0 ? live : unpack_end(in);
}
