/* Disk images: one interface for every format. Requests are asynchronous and complete on the loop thread; all functions
 * belong to the loop thread, or to the time before it runs.
 * Must not know devices or guests. */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "block/aio.h"

struct blk_image;

#define BLK_SECTOR 512u

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES };

/* Filled by the caller down to opaque; must stay in place until done was called. */
struct blk_req {
    enum blk_op op;
    bool unmap;        /* WRITE_ZEROES: the storage may be given back */
    uint64_t off, len; /* bytes; FLUSH: ignored */
    struct iovec *iov; /* READ, WRITE: adds up to len; consumed */
    unsigned n_iov;
    /* res: 0 or -errno. Loop thread, never from within blk_image_submit. */
    void (*done)(struct blk_req *req, int res);
    void *opaque;
    /* Private to the image. */
    struct blk_image *img;
    struct blk_aio_req aio;
    uint64_t at, left;
    uint8_t *bounce;
    struct iovec bounce_iov;
    unsigned part;
};

struct blk_image_ops {
    const char *format;
    /* req was checked: inside the image, not a write to a read-only one, READ and WRITE have len > 0. 0, or -errno:
     * done is not called then. */
    int (*submit)(struct blk_image *img, struct blk_req *req);
    void (*kick)(struct blk_image *img);  /* start what was submitted */
    void (*drain)(struct blk_image *img); /* block until nothing is in flight */
    void (*close)(struct blk_image *img); /* nothing is in flight; frees img */
};

/* First member of each format; set by open, constant then. */
struct blk_image {
    const struct blk_image_ops *ops;
    uint64_t size; /* bytes, > 0, a multiple of BLK_SECTOR */
    bool read_only;
    uint32_t block_size;          /* smallest unit that is served well, a power of two >= 512 */
    uint32_t physical_block_size; /* >= block_size */
};

struct blk_open_config {
    const char *path;
    bool read_only;
    bool direct; /* O_DIRECT */
    enum blk_aio_kind aio;
};

/* Open a raw image: regular file or block device, locked against other users (open file description lock, so the kernel
 * releases it however the process ends): shared when read-only, else exclusive. Errors of open(2), and
 *   -EBUSY: in use by another process;
 *   -ENOMEDIUM: empty;
 *   -EMEDIUMTYPE: size is not a multiple of 512;
 *   -EISDIR, -ENOTBLK: a directory; something else that is neither file nor block device.
 * Caller owns *ret_img (blk_image_close). */
int blk_raw_open(const struct blk_open_config *config, struct loop *loop, struct blk_image **ret_img) MUST_USE;

/* Waits for requests in flight. NULL accepted. */
void blk_image_close(struct blk_image *img);
DEFINE_AUTO(blk_image, struct blk_image, blk_image_close)

/* Queue a request; it starts at the latest with blk_image_kick. -EINVAL: outside the image; -EROFS; -ENOMEM; done is
 * not called in these cases. */
int blk_image_submit(struct blk_image *img, struct blk_req *req) MUST_USE;
void blk_image_kick(struct blk_image *img);
/* Block until nothing is in flight; done functions are called from here. */
void blk_image_drain(struct blk_image *img);

#endif
