/* Compressed clusters: a cache of the last ones that were read, and writing, packed one behind the other as QEMU does.
 * Decompression never makes more than one cluster, whatever the image says.
 * Spec: QEMU docs/interop/qcow2.txt, "Compressed Clusters Descriptor". */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bits.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_INFLATED_BYTES_MAX (8u << 20)
#define Q2_DEFLATE_WINDOW 12  /* what QEMU writes */
#define Q2_ZSTD_WINDOW_MAX 23 /* log2; what clusters of 2 MiB can need, and then some */

/* ---- codecs ---- */

/* in to exactly out_len bytes; what is left of in is of no interest. */
static int q2_inflate_zlib(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    z_stream z = { .next_in = (uint8_t *)(uintptr_t)in, .avail_in = (uInt)in_len, .next_out = out };
    int res;

    z.avail_out = (uInt)out_len;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    res = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return (res == Z_STREAM_END || res == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int q2_inflate_zstd(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    ZSTD_inBuffer from = { in, in_len, 0 };
    ZSTD_outBuffer to = { out, out_len, 0 };
    ZSTD_DStream *z = ZSTD_createDStream();
    size_t res = 1, before;

    if (!z)
        return -ENOMEM;
    if (ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, Q2_ZSTD_WINDOW_MAX)))
        res = 0;
    while (res != 0 && to.pos < to.size) {
        before = to.pos + from.pos;
        res = ZSTD_decompressStream(z, &to, &from);
        if (ZSTD_isError(res) || to.pos + from.pos == before)
            break;
    }
    ZSTD_freeDStream(z);
    return to.pos == to.size ? 0 : -EIO;
}

/* Returns the length, less than room; 0: does not shrink that far. */
static int q2_deflate(const struct q2 *q, const uint8_t *in, uint8_t *out, size_t room)
{
    z_stream z = { .next_in = (uint8_t *)(uintptr_t)in, .avail_in = q->cluster_size, .next_out = out };
    int res;

    if (q->h.compression == Q2_ZSTD) {
        size_t n = ZSTD_compress(out, room, in, q->cluster_size, ZSTD_CLEVEL_DEFAULT);

        return ZSTD_isError(n) || n >= room ? 0 : (int)n;
    }
    z.avail_out = (uInt)room;
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -Q2_DEFLATE_WINDOW, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    res = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return res == Z_STREAM_END && z.avail_out > 0 ? (int)(room - z.avail_out) : 0;
}

/* ---- reading ---- */

/* *ret: malloc'd, a cluster. */
static int q2_inflate(struct q2 *q, uint64_t entry, uint8_t **ret)
{
    uint64_t off, len, file_size = __atomic_load_n(&q->node.file->size, __ATOMIC_RELAXED);
    AUTO_FREE uint8_t *in = NULL;
    AUTO_FREE uint8_t *out = malloc(q->cluster_size);
    int res;

    q2_compressed_place(q, entry, &off, &len);
    if (off >= file_size || off < q->cluster_size)
        return -EIO;
    len = MIN(len, file_size - off);
    in = malloc(len);
    if (!in || !out)
        return -ENOMEM;
    res = blk_pread(q->node.file, off, in, len);
    if (res < 0)
        return res;
    if (q->h.compression == Q2_ZSTD)
        res = q2_inflate_zstd(in, len, out, q->cluster_size);
    else
        res = q2_inflate_zlib(in, len, out, q->cluster_size);
    if (res == 0)
        *ret = STEAL(out);
    return res;
}

/* Keep a cluster that was read; takes data. inflated_lock is held. */
static void q2_inflated_keep(struct q2 *q, uint64_t entry, uint8_t *data)
{
    unsigned n = MAX(2u, MIN(Q2_INFLATED, Q2_INFLATED_BYTES_MAX >> q->cluster_bits)), at = 0;

    for (unsigned i = 0; i < n; i++) {
        if (q->inflated[i].entry == entry) { /* another thread was as quick */
            free(data);
            return;
        }
        if (q->inflated[i].used < q->inflated[at].used)
            at = i;
    }
    free(q->inflated[at].data);
    q->inflated[at] = (struct q2_inflated){ .entry = entry, .used = ++q->inflated_clock, .data = data };
}

void q2_inflated_drop(struct q2 *q)
{
    pthread_mutex_lock(&q->inflated_lock);
    for (unsigned i = 0; i < Q2_INFLATED; i++) {
        free(q->inflated[i].data);
        q->inflated[i] = (struct q2_inflated){ 0 };
    }
    pthread_mutex_unlock(&q->inflated_lock);
}

int q2_read_compressed(struct q2 *q, uint64_t entry, uint64_t within, const struct iovec *iov, unsigned n_iov,
                       uint64_t skip, uint64_t len)
{
    uint8_t *data = NULL;
    int res;

    pthread_mutex_lock(&q->inflated_lock);
    for (unsigned i = 0; i < Q2_INFLATED && !data; i++) {
        if (q->inflated[i].entry == entry) {
            q->inflated[i].used = ++q->inflated_clock;
            data = q->inflated[i].data;
            blk_iov_from_buf(iov, n_iov, skip, data + within, len);
        }
    }
    pthread_mutex_unlock(&q->inflated_lock);
    if (data)
        return 0;
    res = q2_inflate(q, entry, &data);
    if (res < 0)
        return res;
    blk_iov_from_buf(iov, n_iov, skip, data + within, len);
    pthread_mutex_lock(&q->inflated_lock);
    q2_inflated_keep(q, entry, data);
    pthread_mutex_unlock(&q->inflated_lock);
    return 0;
}

/* ---- writing ---- */

/* Whether size bytes go behind the last ones, in the cluster that those end in. Counts the reference. */
static bool q2_pack_behind(struct q2 *q, uint64_t size)
{
    uint64_t room = align_up(q->packed_at, q->cluster_size) - q->packed_at;

    return room >= size && q2_refcount_update_locked(q, q->packed_at >> q->cluster_bits, 1, 1) == 0;
}

/* Storage for size bytes of compressed data, less than a cluster. */
static int q2_pack(struct q2 *q, uint64_t size, uint64_t *ret_off)
{
    uint64_t room, off, n, end;
    int res;

    if (q->packed_at && q2_pack_behind(q, size)) {
        *ret_off = q->packed_at;
        q->packed_at += size;
        return 0;
    }
    res = q2_alloc_some_locked(q, 1, &off, &n);
    if (res < 0)
        return res;
    end = align_up(q->packed_at, q->cluster_size);
    room = end - q->packed_at;
    /* Half here, half in the new cluster, if that comes next. */
    if (room && room < size && off == end && q2_refcount_update_locked(q, q->packed_at >> q->cluster_bits, 1, 1) == 0)
        off = q->packed_at;
    if (off + size > BIT64(62 - (q->cluster_bits - 8)))
        return -EFBIG;
    *ret_off = off;
    q->packed_at = off + size;
    return 0;
}

static uint64_t q2_pack_entry(const struct q2 *q, uint64_t off, uint64_t size)
{
    uint64_t more = ((off + size - 1) / BLK_SECTOR) - off / BLK_SECTOR;

    return Q2_COMPRESSED | off | more << (62 - (q->cluster_bits - 8));
}

static int q2_pack_begin(struct q2 *q, struct q2_claim *claim, uint64_t size, uint64_t *ret_off)
{
    int res;

    pthread_mutex_lock(&q->lock);
    (void)q2_claim_wait_locked(q, claim->first, 1);
    res = q->corrupt ? -EIO : q2_pack(q, size, ret_off);
    if (res == 0)
        q2_claim_add_locked(q, claim);
    pthread_mutex_unlock(&q->lock);
    return res;
}

static int q2_pack_end(struct q2 *q, struct q2_claim *claim, uint64_t entry, int res)
{
    struct q2_table *t;
    uint64_t old;
    unsigned i;

    pthread_mutex_lock(&q->lock);
    if (res == 0)
        res = q2_l2_for_write_locked(q, claim->first << q->cluster_bits, &t, &i);
    if (res == 0) {
        old = q2_entry(q, t, i);
        q2_entry_set_locked(q, t, i, entry, 0);
        q2_free_entry_locked(q, old, false);
    } else {
        q2_free_entry_locked(q, entry, false);
    }
    q2_claim_remove_locked(q, claim);
    pthread_mutex_unlock(&q->lock);
    return res;
}

static int q2_write_packed(struct q2 *q, uint64_t off, const uint8_t *data, uint64_t size)
{
    struct q2_claim claim = { .first = off >> q->cluster_bits, .n = 1 };
    uint64_t at = 0;
    int res = q2_relieve(q);

    if (res == 0)
        res = q2_pack_begin(q, &claim, size, &at);
    if (res < 0)
        return res;
    pthread_mutex_lock(&q->pack_lock); /* neighbours share sectors, which O_DIRECT writes whole */
    res = blk_pwrite(q->node.file, at, data, size);
    pthread_mutex_unlock(&q->pack_lock);
    return q2_pack_end(q, &claim, q2_pack_entry(q, at, size), res);
}

int q2_pwrite_compressed(struct blk_node *n, uint64_t off, const void *data, uint64_t len)
{
    struct q2 *q = q2_of(n);
    const struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
    AUTO_FREE uint8_t *whole = NULL;
    AUTO_FREE uint8_t *out = NULL;
    unsigned token;
    int res;

    if (q->own_data || q->luks)
        return -ENOTSUP;
    if (!q2_aligned(q, off) || len == 0 || len > q->cluster_size || (len < q->cluster_size && off + len != n->size))
        return -EINVAL;
    out = malloc(q->cluster_size);
    whole = len < q->cluster_size ? calloc(1, q->cluster_size) : NULL;
    if (!out || (len < q->cluster_size && !whole))
        return -ENOMEM;
    if (whole)
        memcpy(whole, data, len);
    res = q2_deflate(q, whole ? whole : data, out, q->cluster_size - 1);
    if (res < 0)
        return res;
    token = q2_enter(q);
    q2_bitmaps_mark(q, off, len);
    res = res > 0 ? q2_write_packed(q, off, out, (uint64_t)res) : q2_write_inside(q, off, &iov, 1, len);
    q2_leave(q, token);
    return res;
}
