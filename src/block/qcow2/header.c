/* The header of a qcow2 image: parsing with all its checks, and writing it back with the extensions that we do not know
 * kept as they are. Everything it says about places is checked against the size of the file here, but for what the
 * owners of those places check themselves (snapshots, bitmaps).
 * Spec: QEMU docs/interop/qcow2.txt, "Header", "Header extensions". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/text.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_V2_LENGTH 72u
#define Q2_V3_LENGTH 104u
#define Q2_COMPRESSION_AT 104u

enum {
    Q2_X_END = 0,
    Q2_X_BACKING_FORMAT = 0xe2792aca,
    Q2_X_FEATURES = 0x6803f857,
    Q2_X_BITMAPS = 0x23852875,
    Q2_X_LUKS = 0x0537be77,
    Q2_X_DATA_FILE = 0x44415441,
};

struct q2_parse {
    const uint8_t *head;
    size_t len;
    uint64_t file_size;
    const char *path;
    struct blk_why *why;
};

static int q2_bad(const struct q2_parse *p, const char *text)
{
    return blk_why_set(p->why, EMEDIUMTYPE, p->path, text);
}

/* ---- parsing ---- */

static int q2_parse_v3(const struct q2_parse *p, struct q2_header *h)
{
    if (p->len < Q2_V3_LENGTH)
        return q2_bad(p, "is too short for a qcow2 header");
    h->incompat = q2_be64(p->head + 72);
    h->compat = q2_be64(p->head + 80);
    h->autoclear = q2_be64(p->head + 88);
    h->refcount_order = q2_be32(p->head + 96);
    h->length = q2_be32(p->head + 100);
    if (h->length < Q2_V3_LENGTH || h->length % 8 || h->length > p->len)
        return q2_bad(p, "has a qcow2 header of an impossible length");
    if (h->incompat & ~Q2_INCOMPAT_KNOWN)
        return blk_why_set(p->why, ENOTSUP, p->path, "uses a qcow2 feature that is not known here");
    if (h->refcount_order > 6)
        return q2_bad(p, "has refcounts of more than 64 bits");
    if (h->length > Q2_COMPRESSION_AT)
        h->compression = p->head[Q2_COMPRESSION_AT];
    if ((h->incompat & Q2_INCOMPAT_COMPRESSION ? 1 : 0) != (h->compression != Q2_ZLIB))
        return q2_bad(p, "contradicts itself about its compression");
    if (h->compression > Q2_ZSTD)
        return blk_why_set(p->why, ENOTSUP, p->path, "is compressed by a method that is not known here");
    if (h->length > Q2_COMPRESSION_AT + 8) {
        h->tail_len = h->length - Q2_COMPRESSION_AT - 8;
        h->tail = malloc(h->tail_len);
        if (!h->tail)
            return -ENOMEM;
        memcpy(h->tail, p->head + Q2_COMPRESSION_AT + 8, h->tail_len);
    }
    return 0;
}

static int q2_parse_fixed(const struct q2_parse *p, struct q2_header *h)
{
    if (p->len < Q2_V2_LENGTH || q2_be32(p->head) != Q2_MAGIC)
        return q2_bad(p, "is not a qcow2 image");
    h->version = q2_be32(p->head + 4);
    h->cluster_bits = q2_be32(p->head + 20);
    h->size = q2_be64(p->head + 24);
    h->crypt = q2_be32(p->head + 32);
    h->l1_size = q2_be32(p->head + 36);
    h->l1_off = q2_be64(p->head + 40);
    h->rt_off = q2_be64(p->head + 48);
    h->rt_clusters = q2_be32(p->head + 56);
    h->n_snapshots = q2_be32(p->head + 60);
    h->snapshots_off = q2_be64(p->head + 64);
    h->refcount_order = 4;
    h->length = Q2_V2_LENGTH;
    if (h->version != 2 && h->version != 3)
        return blk_why_set(p->why, ENOTSUP, p->path, "is of a qcow2 version other than 2 and 3");
    if (h->cluster_bits < Q2_CLUSTER_BITS_MIN || h->cluster_bits > Q2_CLUSTER_BITS_MAX)
        return q2_bad(p, "has a cluster size outside 512 bytes to 2 MiB");
    if (h->crypt > Q2_CRYPT_LUKS)
        return blk_why_set(p->why, ENOTSUP, p->path, "is encrypted by a method that is not known here");
    return h->version == 3 ? q2_parse_v3(p, h) : 0;
}

/* Whether bytes at off are inside the file and at the start of a cluster. */
static bool q2_placed(const struct q2_parse *p, const struct q2_header *h, uint64_t off, uint64_t bytes)
{
    return off > 0 && (off & (BIT64(h->cluster_bits) - 1)) == 0 && off <= p->file_size && bytes <= p->file_size - off;
}

static int q2_check_tables(const struct q2_parse *p, const struct q2_header *h)
{
    unsigned l2_bits = h->cluster_bits - (h->incompat & Q2_INCOMPAT_EXTL2 ? 4 : 3);
    uint64_t needed = h->size ? ((h->size - 1) >> (h->cluster_bits + l2_bits)) + 1 : 0;

    if (h->size > INT64_MAX - BLK_SECTOR)
        return q2_bad(p, "claims a disk of more than 8 EiB");
    if (h->incompat & Q2_INCOMPAT_EXTL2 && h->cluster_bits < 14)
        return q2_bad(p, "has clusters that are too small for subclusters");
    if (h->l1_size > Q2_L1_BYTES_MAX / 8 || h->l1_size < needed)
        return q2_bad(p, "has an L1 table of an impossible size");
    if (h->l1_size > 0 && !q2_placed(p, h, h->l1_off, (uint64_t)h->l1_size * 8))
        return q2_bad(p, "has an L1 table outside the file");
    if (h->rt_clusters == 0 || h->rt_clusters > Q2_RT_BYTES_MAX >> h->cluster_bits)
        return q2_bad(p, "has a refcount table of an impossible size");
    if (!q2_placed(p, h, h->rt_off, (uint64_t)h->rt_clusters << h->cluster_bits))
        return q2_bad(p, "has a refcount table outside the file");
    if (h->autoclear & Q2_AUTOCLEAR_RAW && !(h->incompat & Q2_INCOMPAT_DATA_FILE))
        return q2_bad(p, "has a raw data file, but no data file");
    return 0;
}

static int q2_dup_text(const uint8_t *text, size_t len, char **ret)
{
    if (*ret) /* the first one counts */
        return 0;
    *ret = text_copy(text, len);
    return *ret ? 0 : -ENOMEM;
}

static int q2_keep_other(struct q2_header *h, const uint8_t *at, size_t len)
{
    uint8_t *grown = realloc(h->other, h->other_len + len);

    if (!grown)
        return -ENOMEM;
    memcpy(grown + h->other_len, at, len);
    h->other = grown;
    h->other_len += len;
    return 0;
}

static int q2_parse_luks(const struct q2_parse *p, struct q2_header *h, const uint8_t *data, uint32_t len)
{
    if (len != 16)
        return q2_bad(p, "has a pointer to its encryption header that makes no sense");
    h->has_luks = true;
    h->luks_off = q2_be64(data);
    h->luks_len = q2_be64(data + 8);
    if (!q2_placed(p, h, h->luks_off, h->luks_len))
        return q2_bad(p, "has an encryption header outside the file");
    return 0;
}

static int q2_parse_bitmaps(const struct q2_parse *p, struct q2_header *h, const uint8_t *data, uint32_t len)
{
    if (len != 24)
        return q2_bad(p, "has a bitmaps extension that makes no sense");
    h->has_bitmaps = true;
    h->n_bitmaps = q2_be32(data);
    h->bitmap_dir_size = q2_be64(data + 8);
    h->bitmap_dir_off = q2_be64(data + 16);
    if (!q2_placed(p, h, h->bitmap_dir_off, h->bitmap_dir_size))
        return q2_bad(p, "has a directory of bitmaps outside the file");
    return 0;
}

/* One extension; at: its 8 bytes of head. */
static int q2_parse_extension(const struct q2_parse *p, struct q2_header *h, const uint8_t *at, uint32_t len)
{
    switch (q2_be32(at)) {
    case Q2_X_BACKING_FORMAT:
        return q2_dup_text(at + 8, len, &h->backing_format);
    case Q2_X_DATA_FILE:
        return q2_dup_text(at + 8, len, &h->data_file);
    case Q2_X_LUKS:
        return q2_parse_luks(p, h, at + 8, len);
    case Q2_X_BITMAPS:
        /* Without the bit it is stale, of no use to anyone, and its clusters are leaks. */
        return h->autoclear & Q2_AUTOCLEAR_BITMAPS ? q2_parse_bitmaps(p, h, at + 8, len) : 0;
    default:
        return q2_keep_other(h, at, 8 + align_up(len, 8));
    }
}

static int q2_parse_extensions(const struct q2_parse *p, struct q2_header *h, size_t end)
{
    size_t at = h->length;

    while (end - at >= 8) {
        uint32_t len = q2_be32(p->head + at + 4);
        int res;

        if (q2_be32(p->head + at) == Q2_X_END)
            break;
        if (align_up((uint64_t)len, 8) > end - at - 8)
            return q2_bad(p, "has a header extension that does not end in the header");
        res = q2_parse_extension(p, h, p->head + at, len);
        if (res < 0)
            return res;
        at += 8 + align_up(len, 8);
    }
    if (h->autoclear & Q2_AUTOCLEAR_BITMAPS && !h->has_bitmaps)
        h->autoclear &= ~Q2_AUTOCLEAR_BITMAPS;
    if ((h->crypt == Q2_CRYPT_LUKS) != h->has_luks)
        return q2_bad(p, "contradicts itself about its encryption");
    return 0;
}

int q2_header_parse(const uint8_t *head, size_t len, uint64_t file_size, const char *path, struct q2_header *ret,
                    struct blk_why *why)
{
    const struct q2_parse p = { head, len, file_size, path, why };
    uint64_t backing_off, end;
    uint32_t backing_len;
    int res;

    *ret = (struct q2_header){ 0 };
    res = q2_parse_fixed(&p, ret);
    if (res == 0)
        res = q2_check_tables(&p, ret);
    if (res < 0)
        return res;
    end = MIN(len, BIT64(ret->cluster_bits));
    if (ret->length > end)
        return q2_bad(&p, "has a qcow2 header of an impossible length");
    backing_off = q2_be64(head + 8);
    backing_len = q2_be32(head + 16);
    if (backing_off) {
        if (backing_off < ret->length || backing_off > end || backing_len > end - backing_off ||
            backing_len > Q2_NAME_MAX)
            return q2_bad(&p, "has the name of its backing file outside the header");
        if (backing_len && q2_dup_text(head + backing_off, backing_len, &ret->backing) < 0)
            return -ENOMEM;
        end = backing_off;
    }
    return q2_parse_extensions(&p, ret, end);
}

void q2_header_done(struct q2_header *h)
{
    free(h->backing);
    free(h->backing_format);
    free(h->data_file);
    free(h->other);
    free(h->tail);
    *h = (struct q2_header){ 0 };
}

/* ---- writing ---- */

struct q2_build {
    uint8_t *out;
    size_t at, room;
    bool full;
};

/* Room for an extension; returns the place of its data, NULL: does not fit. */
static uint8_t *q2_build_extension(struct q2_build *b, uint32_t type, size_t len)
{
    uint8_t *at = b->out + b->at;

    if (b->full || len > b->room || 8 + align_up(len, 8) > b->room - b->at) {
        b->full = true;
        return NULL;
    }
    q2_put_be32(at, type);
    q2_put_be32(at + 4, (uint32_t)len);
    b->at += 8 + align_up(len, 8);
    return at + 8;
}

static void q2_build_text(struct q2_build *b, uint32_t type, const char *text)
{
    uint8_t *data = text ? q2_build_extension(b, type, strlen(text)) : NULL;

    if (data)
        memcpy(data, text, strlen(text));
}

static void q2_build_extensions(struct q2_build *b, const struct q2_header *h)
{
    uint8_t *data;

    q2_build_text(b, Q2_X_BACKING_FORMAT, h->backing_format);
    q2_build_text(b, Q2_X_DATA_FILE, h->data_file);
    if (h->has_luks && (data = q2_build_extension(b, Q2_X_LUKS, 16))) {
        q2_put_be64(data, h->luks_off);
        q2_put_be64(data + 8, h->luks_len);
    }
    if (h->has_bitmaps && (data = q2_build_extension(b, Q2_X_BITMAPS, 24))) {
        q2_put_be32(data, h->n_bitmaps);
        q2_put_be64(data + 8, h->bitmap_dir_size);
        q2_put_be64(data + 16, h->bitmap_dir_off);
    }
    if (h->other_len > b->room - b->at)
        b->full = true;
    if (b->full || !h->other_len)
        return;
    memcpy(b->out + b->at, h->other, h->other_len);
    b->at += h->other_len;
}

static void q2_build_fixed(const struct q2_header *h, uint8_t *out)
{
    q2_put_be32(out, Q2_MAGIC);
    q2_put_be32(out + 4, h->version);
    q2_put_be32(out + 20, h->cluster_bits);
    q2_put_be64(out + 24, h->size);
    q2_put_be32(out + 32, h->crypt);
    q2_put_be32(out + 36, h->l1_size);
    q2_put_be64(out + 40, h->l1_off);
    q2_put_be64(out + 48, h->rt_off);
    q2_put_be32(out + 56, h->rt_clusters);
    q2_put_be32(out + 60, h->n_snapshots);
    q2_put_be64(out + 64, h->snapshots_off);
    if (h->version < 3)
        return;
    q2_put_be64(out + 72, h->incompat);
    q2_put_be64(out + 80, h->compat);
    q2_put_be64(out + 88, h->autoclear);
    q2_put_be32(out + 96, h->refcount_order);
    q2_put_be32(out + 100, h->length);
    if (h->length > Q2_COMPRESSION_AT)
        out[Q2_COMPRESSION_AT] = (uint8_t)h->compression;
    if (h->tail_len)
        memcpy(out + Q2_COMPRESSION_AT + 8, h->tail, h->tail_len);
}

int q2_header_build(const struct q2_header *h, uint8_t *out, size_t room)
{
    size_t name_len = h->backing ? strlen(h->backing) : 0;
    struct q2_build b = { .out = out, .at = h->length, .room = room };

    memset(out, 0, room);
    if (h->length > room)
        return -ENOSPC;
    q2_build_fixed(h, out);
    q2_build_extensions(&b, h);
    /* The end mark is eight zero bytes. */
    if (b.full || b.room - b.at < 8 + name_len)
        return -ENOSPC;
    if (name_len) {
        b.at += 8;
        memcpy(out + b.at, h->backing, name_len);
        q2_put_be64(out + 8, b.at);
        q2_put_be32(out + 16, (uint32_t)name_len);
    }
    return (int)(b.at + 8 + name_len > room ? room : b.at + 8 + name_len);
}

int q2_header_write_locked(struct q2 *q)
{
    AUTO_FREE uint8_t *out = malloc(q->cluster_size);
    int res;

    if (!out)
        return -ENOMEM;
    res = q2_header_build(&q->h, out, q->cluster_size);
    return res < 0 ? res : blk_pwrite(q->node.file, 0, out, MIN(q->cluster_size, align_up((uint64_t)res, 4096)));
}

int q2_corrupt_locked(struct q2 *q)
{
    if (!q->corrupt && q->h.version >= 3 && !q->node.read_only) {
        q->h.incompat |= Q2_INCOMPAT_CORRUPT;
        if (q2_header_write_locked(q) < 0 || blk_flush(q->node.file) < 0)
            log_debug("qcow2: %s: could not be marked as corrupt", q->node.path ? q->node.path : "?");
    }
    q->corrupt = true;
    return -EIO;
}
