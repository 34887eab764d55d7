/* The guest's data where it stands in the file, in clear or encrypted. Encryption goes by whole sectors through a
 * bounce buffer; the number of a sector is its place in the file. */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "block/align.h"
#include "block/qcow2/qcow2_priv.h"

int q2_iov_room(struct q2_iov *s, unsigned n)
{
    s->n = 0;
    s->v = n <= ARRAY_SIZE(s->few) ? s->few : malloc(n * sizeof(struct iovec));
    return s->v ? 0 : -ENOMEM;
}

void q2_iov_done(struct q2_iov *s)
{
    if (s->v != s->few)
        free(s->v);
}

/* Whole sectors, decrypted on their way in and encrypted, in place, on their way out. */
static int q2_crypt_flat(void *opaque, bool write, uint64_t off, uint8_t *data, uint64_t len)
{
    struct q2 *q = opaque;
    int res = write ? blk_luks_encrypt(q->luks, off, data, data, len) : blk_pread(q->data, off, data, len);

    if (res < 0)
        return res;
    return write ? blk_pwrite(q->data, off, data, len) : blk_luks_decrypt(q->luks, off, data, data, len);
}

static int q2_crypt(struct q2 *q, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                    uint64_t len)
{
    const struct blk_align a = { .align = BLK_SECTOR, .flat = q2_crypt_flat, .opaque = q };
    const bool parts = write && (off | len) % BLK_SECTOR != 0;
    int res;

    if (parts) /* two writers of one sector must not undo each other */
        pthread_mutex_lock(&q->pack_lock);
    res = blk_align_bounce(&a, write, off, iov, n_iov, skip, len);
    if (parts)
        pthread_mutex_unlock(&q->pack_lock);
    return res;
}

/* [skip, skip + len) of the vector, from or to off. */
static int q2_data_part(struct q2 *q, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                        uint64_t len)
{
    struct q2_iov part;
    int res = q2_iov_room(&part, n_iov);

    if (res < 0)
        return res;
    part.n = blk_iov_slice(iov, n_iov, skip, len, part.v);
    res = write ? blk_pwritev(q->data, off, part.v, part.n, len) : blk_preadv(q->data, off, part.v, part.n, len);
    q2_iov_done(&part);
    return res;
}

int q2_data_read(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len)
{
    if (q->luks)
        return q2_crypt(q, false, off, iov, n_iov, skip, len);
    return q2_data_part(q, false, off, iov, n_iov, skip, len);
}

int q2_data_write(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len)
{
    if (q->luks)
        return q2_crypt(q, true, off, iov, n_iov, skip, len);
    if (skip == 0) {
        uint64_t total = 0;

        for (unsigned i = 0; i < n_iov && total <= len; i++)
            total += iov[i].iov_len;
        if (total == len)
            return blk_pwritev(q->data, off, iov, n_iov, len);
    }
    return q2_data_part(q, true, off, iov, n_iov, skip, len);
}
