/* The asynchronous face of a disk: requests go in on the loop thread, and complete there. Behind it stands a tree of
 * blocking nodes (block/node.h). A request whose bytes lie in a host file goes straight to it (block/aio.h); everything
 * else is done by a few worker threads.
 *
 * On its way a request is merged with its neighbours of the same batch, waits for the disk's limits (block/throttle.h),
 * passes the gate (quiesce) and the filter (backup), is served from read-ahead, or waits for its turn among the disks
 * of the VM (block/sched.h). One that the host fails may be kept and tried again (on_error).
 *
 * All functions belong to the loop thread, or to the time before it runs. Must not know devices or guests. */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "block/aio.h"
#include "block/node.h"
#include "block/stats.h"
#include "block/throttle.h"

struct blk_job;
struct blk_sched;

#define BLK_READAHEAD_MAX (16u << 20)

/* Filled by the caller down to opaque; must stay in place until done was called. */
struct blk_req {
    enum blk_op op;
    bool unmap;              /* WRITE_ZEROES: the storage may be given back */
    bool durable;            /* WRITE, WRITE_ZEROES: on stable storage when it has ended */
    uint64_t off, len;       /* bytes, multiples of BLK_SECTOR; FLUSH: ignored */
    const struct iovec *iov; /* READ, WRITE: adds up to len; borrowed, unchanged */
    unsigned n_iov;
    /* res: 0 or -errno; -ECANCELED after blk_image_cancel. Loop thread, never from within blk_image_submit. */
    void (*done)(struct blk_req *req, int res);
    void *opaque;
    /* Private to the image. */
    struct blk_req *next; /* of the same job */
    uint64_t submit_ns;
};

/* Facts about an open image; they change only by blk_image_resized. */
struct blk_image {
    uint64_t size; /* bytes, > 0, a multiple of BLK_SECTOR */
    bool read_only;
    bool discards;                /* discards reach the host */
    bool writethrough;            /* every write is durable */
    uint32_t block_size;          /* smallest unit that is served well, a power of two >= 512 */
    uint32_t physical_block_size; /* >= block_size */
};

enum blk_image_event {
    BLK_EVENT_WAITING, /* the host failed a request with `error`; it is kept, as the following ones will be */
    BLK_EVENT_RESUMED, /* all that was kept has been done */
    BLK_EVENT_REFUSED, /* a write would have turned a raw disk into another format (guard) */
};

struct blk_image_config {
    enum blk_aio_kind aio;
    bool writethrough; /* cache=writethrough: each write is flushed */
    bool ignore_flush; /* cache=unsafe */
    bool ignore_discard;
    /* The format was guessed to be raw: refuse (-EIO) to write what would be taken for another one when guessed again.
     */
    bool guard;
    bool wait_on_error; /* on_error=wait; else errors go to the guest */
    struct blk_limits limits;
    struct blk_sched *sched; /* shared by the disks of a VM, borrowed until close; NULL: no scheduling */
    unsigned weight;         /* with sched; 0: BLK_WEIGHT_DEFAULT */
    uint32_t readahead;      /* most bytes read ahead where the host does not do it, ..BLK_READAHEAD_MAX; 0: none */
    void (*event)(void *opaque, enum blk_image_event event, int error); /* loop thread; may be NULL */
    void *opaque;
};

/* Takes the node over on success (blk_image_close closes it). -EINVAL: sizes that make no disk, readahead; -ENOMEM;
 * errors of io_uring. */
int blk_image_new(struct blk_node *node, const struct blk_image_config *config, struct loop *loop,
                  struct blk_image **ret_img) MUST_USE;
/* Drains, then closes the node. No filter is set any more. NULL accepted. */
void blk_image_close(struct blk_image *img);
DEFINE_AUTO(blk_image, struct blk_image, blk_image_close)
/* Borrowed; for calls of other threads too (struct blk_node is thread-safe), e.g. by a backup. */
struct blk_node *blk_image_node(struct blk_image *img);

/* Queue a request; it starts at the latest with blk_image_kick. -EINVAL: outside the image, or no whole sectors;
 * -EROFS; -ENOMEM; done is not called in these cases. */
int blk_image_submit(struct blk_image *img, struct blk_req *req) MUST_USE;
/* Start what was submitted: once for a batch. May call done functions. */
void blk_image_kick(struct blk_image *img);
/* Block until nothing is in flight; done functions are called from here. Limits, scheduling and quiesce are ignored,
 * errors are reported. */
void blk_image_drain(struct blk_image *img);
/* End every request that is not at the host with -ECANCELED, at once; those that are will end when the host is done
 * with them, and are not kept if they fail. For a device that is reset. */
void blk_image_cancel(struct blk_image *img);
/* fn is called on the loop thread after a series of done calls: the time to interrupt a guest. NULL: nobody. */
void blk_image_set_batch(struct blk_image *img, void (*fn)(void *opaque), void *opaque);

/* The node was resized (it has grown): take its size over. */
void blk_image_resized(struct blk_image *img);
/* New limits from now on. */
void blk_image_set_limits(struct blk_image *img, const struct blk_limits *limits);
/* Valid until the image is closed. */
const struct blk_stats *blk_image_stats(const struct blk_image *img);

/* Hold requests that have not begun, and call quiet when those that have begun are done: then the node's content stands
 * still until blk_image_resume. Requests that are kept for the host to recover count as not begun. -EBUSY: it is
 * quiesced already. */
int blk_image_quiesce(struct blk_image *img, void (*quiet)(void *opaque), void *opaque) MUST_USE;
void blk_image_resume(struct blk_image *img);

/* A look at what is going to change the disk, before it does: how a backup saves the old content. */
struct blk_filter {
    /* off..off+len is going to be written, zeroed or discarded by job. True: go on; false: hold it until
     * blk_image_continue(job). Asked again for a write that the host failed and that is tried again. Loop thread. */
    bool (*before_write)(void *opaque, struct blk_job *job, uint64_t off, uint64_t len);
    void *opaque;
};
/* At most one; NULL takes it away, which is for when it holds nothing. Set it while the image is quiesced and every
 * write that ends after that has been seen by it. filter is borrowed. */
void blk_image_set_filter(struct blk_image *img, const struct blk_filter *filter);
/* Let a job go on that before_write has held, exactly once. Loop thread, not from within before_write. */
void blk_image_continue(struct blk_job *job);

#endif
