/* virtio-blk. A request goes: pop, parse (header copied once, then checked), submit to the image, complete (status
 * byte, used ring, interrupt). Every request that has a place for its status is completed, with an error status if need
 * be; one without breaks its queue. At most VBLK_REQUESTS are in flight for the device; further chains wait in their
 * rings. Spec: virtio 1.2 section 5.2. */
#include "virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/list.h"
#include "base/pack.h"
#include "block/image.h"
#include "virtio/ids.h"
#include "virtio/pci.h"

#define VBLK_F_SEG_MAX BIT64(2)
#define VBLK_F_RO BIT64(5)
#define VBLK_F_BLK_SIZE BIT64(6)
#define VBLK_F_FLUSH BIT64(9)
#define VBLK_F_TOPOLOGY BIT64(10)
#define VBLK_F_CONFIG_WCE BIT64(11)
#define VBLK_F_MQ BIT64(12)
#define VBLK_F_DISCARD BIT64(13)
#define VBLK_F_WRITE_ZEROES BIT64(14)

enum { VBLK_T_IN = 0, VBLK_T_OUT = 1, VBLK_T_FLUSH = 4, VBLK_T_GET_ID = 8, VBLK_T_DISCARD = 11, VBLK_T_ZEROES = 13 };
enum { VBLK_S_OK = 0, VBLK_S_IOERR = 1, VBLK_S_UNSUPP = 2 };
enum { VBLK_RANGE_UNMAP = 1 }; /* flag of a discard or write-zeroes segment */

enum {
    VBLK_QUEUE_SIZE = 256,
    VBLK_SEG_MAX = 254,                                  /* data segments; header and status come on top */
    VBLK_CHAIN_CAP = VBLK_SEG_MAX + 2 + MEM_REGIONS_MAX, /* a segment may span RAM regions */
    VBLK_REQUESTS = 256,
    VBLK_KICK = 16,       /* requests after which the host begins, while we look for more */
    VBLK_RANGES_MAX = 16, /* segments of one discard or write-zeroes request */
    VBLK_HEADER = 16,
    VBLK_RANGE_BYTES = 16,
};
/* Largest discard or write-zeroes segment: 1 GiB, so that one request cannot keep the host busy for long. */
#define VBLK_RANGE_SECTORS (1u << 21)

/* Configuration space (section 5.2.4); all members lie where the specification puts them. */
struct vblk_space {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct vblk_space) == 64, "padded to a multiple of 8");
#define VBLK_SPACE_BYTES 60

struct vblk_range {
    uint64_t off, len; /* bytes */
    bool unmap;
};

struct vblk_req {
    struct list node; /* of the free list, or of the parked ones */
    bool busy;        /* holds a chain that is not given back */
    struct virtio_blk *dev;
    unsigned queue;
    struct virtq_chain *chain;
    struct blk_req io;
    uint8_t *status;   /* in guest memory */
    uint32_t data_len; /* device-writable bytes in front of the status */
    unsigned n_ranges, next_range;
    struct vblk_range ranges[VBLK_RANGES_MAX];
};

/* Loop thread only, but for construction. */
struct virtio_blk {
    struct virtio_pci *pci;
    struct blk_image *image;
    char serial[VIRTIO_BLK_SERIAL_MAX];
    uint64_t features; /* negotiated */
    unsigned n_queues;
    unsigned in_flight;
    bool resetting;                      /* a reset waits for in_flight to become 0 */
    bool serving;                        /* a queue is being run: interrupts come when that is done */
    bool starved[VIRTIO_BLK_QUEUES_MAX]; /* queue stopped for lack of a free request */
    bool pushed[VIRTIO_BLK_QUEUES_MAX];  /* has completions that no interrupt has announced */
    struct list free_reqs;
    struct list parked; /* restored, to be served when the device is released */
    struct vblk_req reqs[VBLK_REQUESTS];
};

/* ---- completion ---- */

/* A failed read leaves no bytes undefined that the used length claims. */
static void vblk_clear_data(struct vblk_req *r)
{
    const struct virtq *q = virtio_pci_queue(r->dev->pci, r->queue);
    uint32_t left = r->data_len;

    for (unsigned i = r->chain->n_out; q && left > 0; i++) {
        const struct virtq_seg *seg = &r->chain->seg[i];
        uint32_t n = MIN(left, seg->len);
        void *to = mem_ptr(q->mem, seg->gpa, n);

        if (to)
            memset(to, 0, n);
        left -= n;
    }
}

/* The interrupt is for vblk_batch, or for whoever runs the queue. */
static void vblk_complete(struct vblk_req *r, uint8_t status)
{
    struct virtio_blk *b = r->dev;
    struct virtq *q = virtio_pci_queue(b->pci, r->queue);

    /* No queue: the device was reset meanwhile, and its requests end without a trace. */
    if (q) {
        if (status != VBLK_S_OK)
            vblk_clear_data(r);
        *r->status = status;
        virtq_push(q, r->chain, r->data_len + 1);
        b->pushed[r->queue] = true;
    }
    r->busy = false;
    list_add_before(&b->free_reqs, &r->node);
    b->in_flight--;
    if (b->resetting && b->in_flight == 0) {
        b->resetting = false;
        virtio_pci_reset_done(b->pci);
    }
}

/* One interrupt for all that was completed in a row; and queues that ran out of requests go on. */
static void vblk_batch(void *opaque)
{
    struct virtio_blk *b = opaque;

    for (unsigned i = 0; i < b->n_queues && !b->serving; i++) {
        if (b->pushed[i]) {
            b->pushed[i] = false;
            virtio_pci_interrupt(b->pci, i);
        }
        if (b->starved[i] && !list_empty(&b->free_reqs)) {
            b->starved[i] = false;
            virtio_pci_requeue(b->pci, i);
        }
    }
}

static uint8_t vblk_status_of(int res)
{
    if (res == 0)
        return VBLK_S_OK;
    return res == -EOPNOTSUPP ? VBLK_S_UNSUPP : VBLK_S_IOERR;
}

static int vblk_submit_range(struct vblk_req *r)
{
    const struct vblk_range *range = &r->ranges[r->next_range++];

    r->io.off = range->off;
    r->io.len = range->len;
    r->io.unmap = range->unmap;
    return blk_image_submit(r->dev->image, &r->io);
}

static void vblk_io_done(struct blk_req *io, int res)
{
    struct vblk_req *r = io->opaque;

    if (res == 0 && r->next_range < r->n_ranges && !r->dev->resetting) {
        res = vblk_submit_range(r);
        if (res == 0) {
            blk_image_kick(r->dev->image);
            return;
        }
    }
    vblk_complete(r, vblk_status_of(res));
}

/* ---- requests ---- */

/* Whether completed writes may stay in the host's cache until a flush (section 5.2.6.2). */
static bool vblk_writeback(struct virtio_blk *b)
{
    uint8_t writeback;

    if (!(b->features & VBLK_F_CONFIG_WCE))
        return b->features & VBLK_F_FLUSH || b->image->writethrough; /* the image sees to the latter itself */
    virtio_pci_config_get(b->pci, offsetof(struct vblk_space, writeback), &writeback, 1);
    return writeback;
}

/* Submit r->io; ends the request at once where that fails. */
static void vblk_start(struct vblk_req *r, int res)
{
    if (res < 0)
        vblk_complete(r, vblk_status_of(res));
}

static void vblk_transfer(struct vblk_req *r, uint64_t sector, bool write)
{
    struct virtio_blk *b = r->dev;
    struct virtq_chain *c = r->chain;
    uint32_t len = write ? c->out_len - VBLK_HEADER : r->data_len;

    if (len % BLK_SECTOR != 0 || sector > b->image->size / BLK_SECTOR) {
        vblk_complete(r, VBLK_S_IOERR);
        return;
    }
    if (len == 0) {
        vblk_complete(r, VBLK_S_OK);
        return;
    }
    r->io.op = write ? BLK_WRITE : BLK_READ;
    r->io.off = sector * BLK_SECTOR;
    r->io.len = len;
    r->io.iov = c->iov + c->n_out;
    r->io.n_iov = c->n_in;
    if (write) {
        unsigned skip = 0, left = VBLK_HEADER;

        while (left >= c->iov[skip].iov_len)
            left -= (unsigned)c->iov[skip++].iov_len;
        c->iov[skip].iov_base = (uint8_t *)c->iov[skip].iov_base + left;
        c->iov[skip].iov_len -= left;
        r->io.iov = c->iov + skip;
        r->io.n_iov = c->n_out - skip;
        r->io.durable = !vblk_writeback(b);
    } else if (c->iov[c->n_out + c->n_in - 1].iov_len == 1) {
        r->io.n_iov--; /* nothing but the status */
    } else {
        c->iov[c->n_out + c->n_in - 1].iov_len--;
    }
    vblk_start(r, blk_image_submit(b->image, &r->io));
}

/* Copy and check the segments of a discard or write-zeroes request. Returns a status. */
static uint8_t vblk_parse_ranges(struct vblk_req *r, bool zeroes)
{
    uint32_t len = r->chain->out_len - VBLK_HEADER;
    uint64_t capacity = r->dev->image->size / BLK_SECTOR;

    if (len == 0 || len % VBLK_RANGE_BYTES != 0 || len / VBLK_RANGE_BYTES > VBLK_RANGES_MAX)
        return VBLK_S_UNSUPP;
    for (unsigned i = 0; i < len / VBLK_RANGE_BYTES; i++) {
        uint8_t raw[VBLK_RANGE_BYTES];
        uint64_t sector, n;
        uint32_t flags;

        (void)virtq_chain_read(r->chain, VBLK_HEADER + i * VBLK_RANGE_BYTES, raw, sizeof(raw));
        sector = load_le64(raw);
        n = load_le32(raw + 8);
        flags = load_le32(raw + 12);
        if (flags & ~(zeroes ? VBLK_RANGE_UNMAP : 0u))
            return VBLK_S_UNSUPP;
        if (n > VBLK_RANGE_SECTORS || sector > capacity || n > capacity - sector)
            return VBLK_S_IOERR;
        if (n == 0)
            continue;
        r->ranges[r->n_ranges++] =
            (struct vblk_range){ .off = sector * BLK_SECTOR, .len = n * BLK_SECTOR, .unmap = flags & VBLK_RANGE_UNMAP };
    }
    return VBLK_S_OK;
}

static void vblk_ranges(struct vblk_req *r, bool zeroes)
{
    uint8_t status = vblk_parse_ranges(r, zeroes);

    if (status != VBLK_S_OK || r->n_ranges == 0) {
        vblk_complete(r, status);
        return;
    }
    r->io.op = zeroes ? BLK_WRITE_ZEROES : BLK_DISCARD;
    r->io.durable = zeroes && !vblk_writeback(r->dev);
    vblk_start(r, vblk_submit_range(r));
}

static void vblk_get_id(struct vblk_req *r)
{
    size_t n = MIN(r->data_len, (uint32_t)sizeof(r->dev->serial));

    (void)virtq_chain_write(r->chain, 0, r->dev->serial, n);
    vblk_complete(r, VBLK_S_OK);
}

/* Serve the chain of r. False: it has no room for header or status, so the driver cannot even be told. */
static bool vblk_serve(struct vblk_req *r)
{
    struct virtq_chain *c = r->chain;
    uint8_t header[VBLK_HEADER];
    const struct iovec *last;

    if (c->out_len < VBLK_HEADER || c->in_len < 1)
        return false;
    (void)virtq_chain_read(c, 0, header, sizeof(header));
    last = &c->iov[c->n_out + c->n_in - 1];
    r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    r->data_len = c->in_len - 1;
    r->io.durable = false;
    r->n_ranges = r->next_range = 0;
    r->dev->in_flight++;
    switch (load_le32(header)) {
    case VBLK_T_IN:
        vblk_transfer(r, load_le64(header + 8), false);
        break;
    case VBLK_T_OUT:
        vblk_transfer(r, load_le64(header + 8), true);
        break;
    case VBLK_T_FLUSH:
        r->io.op = BLK_FLUSH;
        vblk_start(r, blk_image_submit(r->dev->image, &r->io));
        break;
    case VBLK_T_GET_ID:
        vblk_get_id(r);
        break;
    case VBLK_T_DISCARD:
        vblk_ranges(r, false);
        break;
    case VBLK_T_ZEROES:
        vblk_ranges(r, true);
        break;
    default:
        vblk_complete(r, VBLK_S_UNSUPP);
        break;
    }
    return true;
}

/* ---- operations of the transport ---- */

static void vblk_queue_notify(void *dev, unsigned queue)
{
    struct virtio_blk *b = dev;
    struct virtq *q = virtio_pci_queue(b->pci, queue);
    unsigned budget = VBLK_QUEUE_SIZE;
    int res = 1;

    virtq_disable_notify(q);
    b->serving = true;
    while (budget > 0) {
        struct vblk_req *r;

        if (list_empty(&b->free_reqs)) {
            b->starved[queue] = true;
            break;
        }
        r = CONTAINER_OF(b->free_reqs.next, struct vblk_req, node);
        res = virtq_pop(q, r->chain);
        if (res == 0 && virtq_enable_notify(q)) {
            virtq_disable_notify(q);
            budget--;
            continue;
        }
        if (res <= 0)
            break;
        list_remove(&r->node);
        r->queue = queue;
        r->busy = true;
        if (!vblk_serve(r)) {
            r->busy = false;
            list_add_before(&b->free_reqs, &r->node);
            res = -EFAULT;
            break;
        }
        budget--;
        if (budget % VBLK_KICK == 0)
            blk_image_kick(b->image);
    }
    blk_image_kick(b->image);
    b->serving = false;
    vblk_batch(b); /* for what was completed on the spot */
    if (res < 0)
        virtio_pci_queue_broken(b->pci, queue);
    else if (budget == 0)
        virtio_pci_requeue(b->pci, queue);
}

static void vblk_activate(void *dev, uint64_t features)
{
    struct virtio_blk *b = dev;

    b->features = features;
    memset(b->starved, 0, sizeof(b->starved));
}

/* Requests that came with a saved state end without a trace when the device is reset before it was released. */
static void vblk_drop_parked(struct virtio_blk *b)
{
    while (!list_empty(&b->parked)) {
        struct vblk_req *r = CONTAINER_OF(b->parked.next, struct vblk_req, node);

        r->busy = false;
        list_remove(&r->node);
        list_add_before(&b->free_reqs, &r->node);
    }
}

static bool vblk_reset(void *dev)
{
    struct virtio_blk *b = dev;
    uint8_t writeback = !b->image->writethrough;

    vblk_drop_parked(b);
    memset(b->starved, 0, sizeof(b->starved));
    memset(b->pushed, 0, sizeof(b->pushed));
    blk_image_cancel(b->image);
    virtio_pci_config_set(b->pci, offsetof(struct vblk_space, writeback), &writeback, 1);
    b->resetting = b->in_flight > 0;
    return !b->resetting;
}

static const struct virtio_dev_ops vblk_ops = {
    .activate = vblk_activate,
    .queue_notify = vblk_queue_notify,
    .reset = vblk_reset,
};

/* ---- construction ---- */

static void vblk_fill_space(const struct virtio_blk *b, struct vblk_space *s)
{
    const struct blk_image *img = b->image;
    uint32_t per_physical = img->physical_block_size / img->block_size;

    *s = (struct vblk_space){
        .capacity = img->size / BLK_SECTOR,
        .seg_max = VBLK_SEG_MAX,
        .blk_size = img->block_size,
        .physical_block_exp = (uint8_t)__builtin_ctz(per_physical),
        .min_io_size = (uint16_t)MIN(per_physical, UINT16_MAX),
        .opt_io_size = 0,
        .writeback = !img->writethrough,
        .num_queues = (uint16_t)b->n_queues,
        .max_discard_sectors = VBLK_RANGE_SECTORS,
        .max_discard_seg = VBLK_RANGES_MAX,
        .discard_sector_alignment = img->physical_block_size / BLK_SECTOR,
        .max_write_zeroes_sectors = VBLK_RANGE_SECTORS,
        .max_write_zeroes_seg = VBLK_RANGES_MAX,
        .write_zeroes_may_unmap = img->discards,
    };
}

/* What this code can do in front of one image or another. */
#define VBLK_FEATURES                                                                                                \
    (VBLK_F_SEG_MAX | VBLK_F_RO | VBLK_F_BLK_SIZE | VBLK_F_FLUSH | VBLK_F_TOPOLOGY | VBLK_F_CONFIG_WCE | VBLK_F_MQ | \
     VBLK_F_DISCARD | VBLK_F_WRITE_ZEROES)

static uint64_t vblk_features(const struct virtio_blk *b)
{
    const struct blk_image *img = b->image;
    uint64_t features = VBLK_F_SEG_MAX | VBLK_F_BLK_SIZE | VBLK_F_TOPOLOGY;

    if (b->n_queues > 1)
        features |= VBLK_F_MQ;
    if (!img->writethrough) /* else there is no cache to flush, nor to turn on */
        features |= VBLK_F_FLUSH | VBLK_F_CONFIG_WCE;
    if (img->read_only)
        return features | VBLK_F_RO;
    return features | VBLK_F_WRITE_ZEROES | (img->discards ? VBLK_F_DISCARD : 0);
}

static int vblk_init(struct virtio_blk *b, const struct virtio_env *env, int slot)
{
    struct vblk_space space, writable = { .writeback = 1 };
    struct virtio_pci_config config = {
        .device_id = VIRTIO_ID_BLOCK,
        .pci_class = 0x010000, /* mass storage, SCSI: what drivers of firmware look for */
        .slot = slot,
        .features = vblk_features(b),
        .n_queues = b->n_queues,
        .queue_size = VBLK_QUEUE_SIZE,
        .config = &space,
        .config_writable = &writable,
        .config_len = VBLK_SPACE_BYTES,
        .ops = &vblk_ops,
        .opaque = b,
    };

    vblk_fill_space(b, &space);
    for (unsigned i = 0; i < VBLK_REQUESTS; i++) {
        struct vblk_req *r = &b->reqs[i];
        int res = virtq_chain_new(VBLK_CHAIN_CAP, &r->chain);

        if (res < 0)
            return res;
        r->dev = b;
        r->io.done = vblk_io_done;
        r->io.opaque = r;
        list_add_before(&b->free_reqs, &r->node);
    }
    return virtio_pci_new(env, &config, &b->pci);
}

int virtio_blk_new(const struct virtio_env *env, const struct virtio_blk_config *config, struct virtio_blk **ret_blk)
{
    struct virtio_blk *b;
    int res;

    if (config->n_queues > VIRTIO_BLK_QUEUES_MAX)
        return -EINVAL;
    b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->image = config->image;
    blk_image_set_batch(b->image, vblk_batch, b);
    b->n_queues = MAX(config->n_queues, 1u);
    if (config->serial)
        memcpy(b->serial, config->serial, strnlen(config->serial, sizeof(b->serial)));
    list_init(&b->free_reqs);
    list_init(&b->parked);
    res = vblk_init(b, env, config->slot);
    if (res < 0) {
        virtio_blk_free(b);
        return res;
    }
    *ret_blk = b;
    return 0;
}

void virtio_blk_resized(struct virtio_blk *b)
{
    uint64_t capacity;

    blk_image_resized(b->image);
    capacity = b->image->size / BLK_SECTOR;
    virtio_pci_config_set(b->pci, offsetof(struct vblk_space, capacity), &capacity, sizeof(capacity));
}

void virtio_blk_free(struct virtio_blk *b)
{
    if (!b)
        return;
    if (b->in_flight > 0)
        blk_image_drain(b->image);
    blk_image_set_batch(b->image, NULL, NULL);
    virtio_pci_free(b->pci);
    for (unsigned i = 0; i < VBLK_REQUESTS; i++)
        virtq_chain_free(b->reqs[i].chain);
    free(b);
}

/* ---- saved state ---- */

void virtio_blk_hold(struct virtio_blk *b, bool hold)
{
    bool broken[VIRTIO_BLK_QUEUES_MAX] = { false };

    b->serving = !hold && !list_empty(&b->parked);
    while (!hold && !list_empty(&b->parked)) {
        struct vblk_req *r = CONTAINER_OF(b->parked.next, struct vblk_req, node);

        list_remove(&r->node);
        if (!vblk_serve(r)) {
            r->busy = false;
            list_add_before(&b->free_reqs, &r->node);
            broken[r->queue] = true;
        }
    }
    if (b->serving)
        blk_image_kick(b->image);
    b->serving = false;
    virtio_pci_hold(b->pci, hold); /* owed interrupts come with it */
    for (unsigned i = 0; i < b->n_queues; i++) {
        if (broken[i])
            virtio_pci_queue_broken(b->pci, i);
    }
}

void virtio_blk_save(struct virtio_blk *b, struct buf *out)
{
    bool live = virtio_pci_save(b->pci, out);
    unsigned n = 0;

    for (unsigned i = 0; i < VBLK_REQUESTS; i++)
        n += live && b->reqs[i].busy && virtio_pci_queue(b->pci, b->reqs[i].queue);
    pack_u16(out, (uint16_t)n);
    for (unsigned i = 0; i < VBLK_REQUESTS && n > 0; i++) {
        const struct vblk_req *r = &b->reqs[i];

        if (!r->busy)
            continue;
        pack_u16(out, (uint16_t)r->queue);
        virtq_chain_save(r->chain, out);
    }
}

static void vblk_restore_requests(struct virtio_blk *b, struct unpack *in)
{
    unsigned n = unpack_u16(in);

    if (n > VBLK_REQUESTS)
        unpack_refuse(in);
    for (unsigned i = 0; i < n && !in->error; i++) {
        struct vblk_req *r = CONTAINER_OF(b->free_reqs.next, struct vblk_req, node);
        unsigned queue = unpack_u16(in);
        struct virtq *q = queue < b->n_queues ? virtio_pci_queue(b->pci, queue) : NULL;

        if (!q) {
            unpack_refuse(in);
            return;
        }
        virtq_chain_restore(q, r->chain, in);
        if (in->error)
            return;
        r->queue = queue;
        r->busy = true;
        list_remove(&r->node);
        list_add_before(&b->parked, &r->node);
    }
}

int virtio_blk_restore(struct virtio_blk *b, uint16_t version, struct unpack *in)
{
    struct vblk_space own, saved;
    uint64_t features;
    int res;

    (void)version;
    virtio_pci_config_get(b->pci, 0, &own, VBLK_SPACE_BYTES);
    res = virtio_pci_restore(b->pci, VBLK_FEATURES, in, &features);
    if (res < 0)
        return res;
    b->features = features;
    virtio_pci_config_get(b->pci, 0, &saved, VBLK_SPACE_BYTES);
    if (saved.blk_size != own.blk_size || saved.num_queues != own.num_queues || saved.writeback > 1)
        return -EBADMSG;
    vblk_restore_requests(b, in);
    res = unpack_end(in);
    if (res < 0)
        return res;
    if (own.capacity < saved.capacity)
        return -ENOSPC;
    if (own.capacity > saved.capacity)
        virtio_pci_config_set(b->pci, offsetof(struct vblk_space, capacity), &own.capacity, sizeof(own.capacity));
    return 0;
}
