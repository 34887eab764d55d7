/* virtio-console, one port without the multiport extension. Output that the host does not take at once stays in the
 * chain at hand, and the transmit queue stands still until virtio_console_writable; input is refused while the guest
 * offers no buffer, so neither side makes this process buffer anything. Spec: virtio 1.2 section 5.3. */
#include "virtio/console.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/pack.h"
#include "virtio/ids.h"
#include "virtio/pci.h"

#define VCON_F_SIZE BIT64(0)

enum { VCON_RX = 0, VCON_TX = 1, VCON_QUEUES = 2 };
enum { VCON_QUEUE_SIZE = 64, VCON_CHAIN_CAP = 64, VCON_BUDGET = 64, VCON_COPY = 4096 };

/* Loop thread only, but for construction. */
struct virtio_console {
    struct virtio_pci *pci;
    struct virtio_console_host host;
    struct virtq_chain *rx, *tx;
    bool tx_busy; /* tx holds a chain, of which tx_done bytes are written */
    uint32_t tx_done;
    uint32_t tx_skip;   /* of the next chain: it was given back half written */
    bool input_refused; /* input_ready is owed */
};

/* Write on from the chain at hand; bounded by budget pieces. True: all of it is written. */
static bool vcon_write_chain(struct virtio_console *c, unsigned *budget)
{
    uint8_t data[VCON_COPY];

    while (*budget > 0 && c->tx_done < c->tx->out_len) {
        size_t n = virtq_chain_read(c->tx, c->tx_done, data, sizeof(data));
        size_t taken = c->host.write(c->host.opaque, data, n);

        (*budget)--;
        c->tx_done += (uint32_t)MIN(taken, n);
        if (taken < n)
            return false;
    }
    return c->tx_done == c->tx->out_len;
}

static void vcon_transmit(struct virtio_console *c)
{
    struct virtq *q = virtio_pci_queue(c->pci, VCON_TX);
    unsigned budget = VCON_BUDGET;
    int res = 0;

    if (!q || q->broken || virtio_pci_held(c->pci))
        return;
    while (budget > 0) {
        if (!c->tx_busy) {
            res = virtq_pop(q, c->tx);
            if (res == 0 && virtq_enable_notify(q) && --budget > 0)
                continue;
            if (res <= 0)
                break;
            c->tx_busy = true;
            c->tx_done = MIN(c->tx_skip, c->tx->out_len);
            c->tx_skip = 0;
        }
        if (!vcon_write_chain(c, &budget))
            break;
        c->tx_busy = false;
        virtq_push(q, c->tx, 0);
        budget -= budget > 0;
    }
    virtio_pci_interrupt(c->pci, VCON_TX);
    if (res < 0)
        virtio_pci_queue_broken(c->pci, VCON_TX);
    else if (budget == 0)
        virtio_pci_requeue(c->pci, VCON_TX);
}

size_t virtio_console_input(struct virtio_console *c, const uint8_t *data, size_t len)
{
    struct virtq *q = virtio_pci_queue(c->pci, VCON_RX);
    unsigned budget = VCON_BUDGET;
    size_t done = 0;
    int res = 0;

    while (q && !virtio_pci_held(c->pci) && done < len && budget-- > 0) {
        uint32_t n;

        res = virtq_pop(q, c->rx);
        if (res == 0 && virtq_enable_notify(q))
            continue;
        if (res <= 0)
            break;
        n = (uint32_t)virtq_chain_write(c->rx, 0, data + done, MIN(len - done, c->rx->in_len));
        virtq_push(q, c->rx, n);
        done += n;
    }
    virtio_pci_interrupt(c->pci, VCON_RX);
    if (res < 0)
        virtio_pci_queue_broken(c->pci, VCON_RX);
    c->input_refused = done < len;
    return done;
}

static void vcon_queue_notify(void *dev, unsigned queue)
{
    struct virtio_console *c = dev;

    if (queue == VCON_TX) {
        vcon_transmit(c);
    } else if (c->input_refused && c->host.input_ready) {
        c->input_refused = false;
        c->host.input_ready(c->host.opaque);
    }
}

void virtio_console_writable(struct virtio_console *c)
{
    vcon_transmit(c);
}

void virtio_console_resize(struct virtio_console *c, uint16_t columns, uint16_t rows)
{
    uint8_t size[4];

    store_le16(size, columns);
    store_le16(size + 2, rows);
    virtio_pci_config_set(c->pci, 0, size, sizeof(size));
}

static void vcon_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static bool vcon_reset(void *dev)
{
    struct virtio_console *c = dev;

    c->tx_busy = false;
    c->tx_skip = 0;
    return true;
}

static const struct virtio_dev_ops vcon_ops = {
    .activate = vcon_activate,
    .queue_notify = vcon_queue_notify,
    .reset = vcon_reset,
};

int virtio_console_new(const struct virtio_env *env, const struct virtio_console_config *config,
                       struct virtio_console **ret_console)
{
    struct virtio_console *c = calloc(1, sizeof(*c));
    uint8_t space[12] = { 0 }; /* columns, rows, max_nr_ports, emerg_wr; the last two belong to features not offered */
    struct virtio_pci_config pci = {
        .device_id = VIRTIO_ID_CONSOLE,
        .pci_class = 0x078000, /* communication, other */
        .slot = config->slot,
        .features = config->columns ? VCON_F_SIZE : 0,
        .n_queues = VCON_QUEUES,
        .queue_size = VCON_QUEUE_SIZE,
        .config = space,
        .config_len = sizeof(space),
        .ops = &vcon_ops,
        .opaque = c,
    };
    int res;

    if (!c)
        return -ENOMEM;
    c->host = config->host;
    store_le16(space, config->columns);
    store_le16(space + 2, config->rows);
    res = virtq_chain_new(VCON_CHAIN_CAP, &c->rx);
    if (res == 0)
        res = virtq_chain_new(VCON_CHAIN_CAP, &c->tx);
    if (res == 0)
        res = virtio_pci_new(env, &pci, &c->pci);
    if (res < 0) {
        virtio_console_free(c);
        return res;
    }
    *ret_console = c;
    return 0;
}

void virtio_console_free(struct virtio_console *c)
{
    if (!c)
        return;
    virtio_pci_free(c->pci);
    virtq_chain_free(c->rx);
    virtq_chain_free(c->tx);
    free(c);
}

/* ---- saved state ---- */

void virtio_console_hold(struct virtio_console *c, bool hold)
{
    struct virtq *q = virtio_pci_queue(c->pci, VCON_TX);

    /* The chain at hand goes back into its ring, which is saved with the guest's memory. */
    if (hold && c->tx_busy && q) {
        virtq_unpop(q, c->tx);
        c->tx_busy = false;
        c->tx_skip = c->tx_done;
    }
    virtio_pci_hold(c->pci, hold);
    if (!hold && c->input_refused && c->host.input_ready) {
        c->input_refused = false;
        c->host.input_ready(c->host.opaque);
    }
}

void virtio_console_save(struct virtio_console *c, struct buf *b)
{
    (void)virtio_pci_save(c->pci, b);
    pack_u32(b, c->tx_skip);
}

int virtio_console_restore(struct virtio_console *c, uint16_t version, struct unpack *in)
{
    uint64_t features;
    int live = virtio_pci_restore(c->pci, VCON_F_SIZE, in, &features);
    uint32_t tx_skip = unpack_u32(in);
    int res = unpack_end(in);

    (void)version;
    if (live < 0 || res < 0)
        return live < 0 ? live : res;
    c->tx_skip = live ? tx_skip : 0;
    return 0;
}
