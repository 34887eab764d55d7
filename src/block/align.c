#include "block/align.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "block/node.h"

#define BLK_BOUNCE (256u << 10) /* fits the second-level cache, which matters to encryption */
#define BLK_BOUNCE_ALIGN 4096u

/* Fill in what a write of [head, head + part) leaves of the first and the last block of a buffer for the blocks at at.
 */
static int blk_align_edges(const struct blk_align *a, uint64_t at, uint8_t *bounce, uint64_t head, uint64_t part)
{
    const uint64_t whole = align_up(head + part, a->align), last = whole - a->align;
    const bool tail = (head + part) % a->align != 0;
    int res = 0;

    if (head != 0 || (tail && last == 0))
        res = a->flat(a->opaque, false, at, bounce, a->align);
    if (res == 0 && tail && last != 0)
        res = a->flat(a->opaque, false, at + last, bounce + last, a->align);
    return res;
}

int blk_align_bounce(const struct blk_align *a, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov,
                     uint64_t skip, uint64_t len)
{
    const uint64_t size = align_up(MIN(len, BLK_BOUNCE - 2 * a->align) + 2 * a->align, BLK_BOUNCE_ALIGN);
    AUTO_FREE uint8_t *bounce = aligned_alloc(MAX(a->align, BLK_BOUNCE_ALIGN), size);
    int res = 0;

    if (!bounce)
        return -ENOMEM;
    for (uint64_t done = 0; done < len && res == 0;) {
        uint64_t at = align_down(off + done, a->align), head = off + done - at;
        uint64_t part = MIN(len - done, align_down(size, a->align) - head), whole = align_up(head + part, a->align);

        if (write) {
            res = blk_align_edges(a, at, bounce, head, part);
            blk_iov_to_buf(iov, n_iov, skip + done, bounce + head, part);
        }
        if (res == 0)
            res = a->flat(a->opaque, write, at, bounce, whole);
        if (res == 0 && !write)
            blk_iov_from_buf(iov, n_iov, skip + done, bounce + head, part);
        done += part;
    }
    return res;
}
