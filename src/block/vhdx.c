/* VHDX, read-only, for import: fixed and dynamic disks that were closed cleanly.
 *
 * The file begins with an identifier, two copies each of a header and of a region table; the newer valid header counts.
 * Two regions matter: metadata (sizes) and the block allocation table, one 64-bit entry a block, with an entry for a
 * sector bitmap, unused here, after each chunk of blocks. The table is read piece by piece into a small cache.
 *
 * Everything in the file is hostile: checksums are checked, sizes bounded, offsets checked before they are read.
 * Spec: [MS-VHDX] 2. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/crc32c.h"
#include "block/open.h"

#define VHDX_MIB (1ULL << 20)
#define VHDX_KIB (1ULL << 10)
#define VHDX_HEADER_AT (64 * VHDX_KIB)
#define VHDX_REGIONS_AT (192 * VHDX_KIB)
#define VHDX_SIZE_MAX (64ULL << 40)
#define VHDX_BAT_CHUNK 4096 /* bytes of the table read at once */

enum { VHDX_HEADER = 4096, VHDX_TABLE = 64 << 10, VHDX_ENTRIES_MAX = 2047, VHDX_BAT_CHUNKS = 64, VHDX_GUID = 16 };
enum { VHDX_PAYLOAD_PRESENT = 6, VHDX_PAYLOAD_PARTIAL = 7 };
enum { VHDX_HAS_PARENT = 1 << 1 };

struct vhdx_bat {
    uint64_t off; /* in the region; valid says whether it counts */
    bool valid;
    uint8_t raw[VHDX_BAT_CHUNK];
};

struct vhdx {
    struct blk_node node;
    uint32_t block_bytes;
    uint64_t chunk_ratio; /* blocks for each sector bitmap */
    uint64_t bat_at, bat_len, meta_at, meta_len;
    pthread_mutex_t lock; /* of the cache */
    struct vhdx_bat bat[VHDX_BAT_CHUNKS];
};

/* GUIDs as they lie in the file: the first three parts little-endian. */
static const uint8_t vhdx_guid_bat[VHDX_GUID] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                                  0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const uint8_t vhdx_guid_metadata[VHDX_GUID] = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                                       0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };
static const uint8_t vhdx_guid_parameters[VHDX_GUID] = { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                                         0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b };
static const uint8_t vhdx_guid_disk_size[VHDX_GUID] = { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                                        0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 };
static const uint8_t vhdx_guid_logical[VHDX_GUID] = { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                                      0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f };

static struct vhdx *vhdx_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct vhdx, node);
}

/* ---- blocks ---- */

/* The table's entry for a block of the disk. */
static int vhdx_lookup(struct vhdx *v, uint64_t block, uint64_t *ret_entry)
{
    uint64_t at = (block + block / v->chunk_ratio) * 8, chunk = align_down(at, VHDX_BAT_CHUNK);
    struct vhdx_bat *b = &v->bat[chunk / VHDX_BAT_CHUNK % VHDX_BAT_CHUNKS];
    int res = 0;

    pthread_mutex_lock(&v->lock);
    if (!b->valid || b->off != chunk) {
        b->valid = false;
        res = blk_pread(v->node.file, v->bat_at + chunk, b->raw, MIN(v->bat_len - chunk, VHDX_BAT_CHUNK));
        b->valid = res == 0;
        b->off = chunk;
    }
    if (res == 0)
        *ret_entry = load_le64(b->raw + (at - chunk));
    pthread_mutex_unlock(&v->lock);
    return res;
}

/* Where a block lies in the file: 1 and the place, 0: zeroes, -EIO: the entry makes no sense. */
static int vhdx_place(struct vhdx *v, uint64_t block, uint64_t *ret_off)
{
    uint64_t entry = 0, off;
    int res = vhdx_lookup(v, block, &entry);

    if (res < 0)
        return res;
    if ((entry & 7) == VHDX_PAYLOAD_PARTIAL)
        return -EIO;
    if ((entry & 7) != VHDX_PAYLOAD_PRESENT)
        return 0;
    off = align_down(entry, VHDX_MIB);
    if (off < VHDX_MIB || off >= v->node.file->size)
        return -EIO;
    *ret_off = off;
    return 1;
}

static int vhdx_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct vhdx *v = vhdx_of(n);
    AUTO_FREE struct iovec *part = calloc(n_iov, sizeof(*part));

    if (!part)
        return -ENOMEM;
    for (uint64_t done = 0; done < len;) {
        uint64_t skip = (off + done) % v->block_bytes, step = MIN(len - done, v->block_bytes - skip), at;
        int res = vhdx_place(v, (off + done) / v->block_bytes, &at);

        if (res == 0)
            blk_iov_zero(iov, n_iov, done, step);
        else if (res > 0)
            res = blk_preadv(n->file, at + skip, part, blk_iov_slice(iov, n_iov, done, step, part), step);
        if (res < 0)
            return res;
        done += step;
    }
    return 0;
}

static int vhdx_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct vhdx *v = vhdx_of(n);
    struct blk_extent x = { 0 };
    uint64_t done = 0;

    while (done < len) {
        uint64_t skip = (off + done) % v->block_bytes, at = 0;
        int res = vhdx_place(v, (off + done) / v->block_bytes, &at);
        unsigned flags = BLK_EXT_ALLOCATED | (res > 0 ? BLK_EXT_DATA | BLK_EXT_HOST : BLK_EXT_ZERO);

        if (res < 0)
            return res;
        if (done == 0) {
            x.flags = flags;
            x.host_off = at + (res > 0 ? skip : 0);
        } else if (flags != x.flags || (res > 0 && at != x.host_off + done)) {
            break;
        }
        done += v->block_bytes - skip;
    }
    x.len = MIN(done, len);
    *ret_extent = x;
    return 0;
}

static void vhdx_info(struct blk_node *n, struct blk_info *ret_info)
{
    struct blk_info file;

    blk_node_info(n->file, &file);
    ret_info->actual_size = file.actual_size;
    ret_info->cluster_size = vhdx_of(n)->block_bytes;
}

static void vhdx_close(struct blk_node *n)
{
    struct vhdx *v = vhdx_of(n);

    blk_node_close(n->file);
    pthread_mutex_destroy(&v->lock);
    free(n->path);
    free(v);
}

static const struct blk_node_ops vhdx_ops = {
    .name = "vhdx",
    .pread = vhdx_pread,
    .extent = vhdx_extent,
    .info = vhdx_info,
    .close = vhdx_close,
};

/* ---- opening ---- */

/* Read a structure with a signature and a CRC-32C of all of it in bytes 4 to 7. 1: good, 0: not. */
static int vhdx_read_signed(struct blk_node *file, uint64_t at, const char *signature, uint8_t *raw, size_t len)
{
    uint32_t sum;
    int res = blk_pread(file, at, raw, len);

    if (res < 0)
        return res;
    if (memcmp(raw, signature, 4) != 0)
        return 0;
    sum = load_le32(raw + 4);
    store_le32(raw + 4, 0);
    return crc32c(0, raw, len) == sum;
}

/* The newer of the two headers that are good. Its log must be empty: we do not replay, since we do not write. */
static int vhdx_read_header(struct vhdx *v, uint8_t *raw, struct blk_why *why)
{
    struct blk_node *file = v->node.file;
    bool found = false, log = false;
    uint64_t sequence = 0;
    uint16_t version = 0;

    for (unsigned i = 0; i < 2; i++) {
        int res = vhdx_read_signed(file, VHDX_HEADER_AT * (i + 1), "head", raw, VHDX_HEADER);

        if (res < 0)
            return res;
        if (res == 0 || (found && load_le64(raw + 8) <= sequence))
            continue;
        found = true;
        sequence = load_le64(raw + 8);
        log = !blk_buf_is_zero(raw + 48, VHDX_GUID);
        version = load_le16(raw + 66);
    }
    if (!found)
        return blk_why_set(why, EMEDIUMTYPE, file->path, "has no valid VHDX header");
    if (version != 1)
        return blk_why_set(why, ENOTSUP, file->path, "has a VHDX version that is not known");
    if (log)
        return blk_why_set(why, ENOTSUP, file->path,
                           "was not closed cleanly: its log has to be replayed by the program that wrote it");
    return 0;
}

static int vhdx_parse_regions(struct vhdx *v, const uint8_t *raw, struct blk_why *why)
{
    struct blk_node *file = v->node.file;
    uint32_t count = load_le32(raw + 8);

    if (count > VHDX_ENTRIES_MAX)
        return blk_why_set(why, EMEDIUMTYPE, file->path, "has a VHDX region table that is too long");
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = raw + 16 + 32 * i;
        uint64_t at = load_le64(e + 16), len = load_le32(e + 24);

        if (at < VHDX_MIB || at > file->size || len > file->size - at)
            return blk_why_set(why, EMEDIUMTYPE, file->path, "has a VHDX region that lies outside the file");
        if (memcmp(e, vhdx_guid_bat, VHDX_GUID) == 0) {
            v->bat_at = at;
            v->bat_len = len;
        } else if (memcmp(e, vhdx_guid_metadata, VHDX_GUID) == 0) {
            v->meta_at = at;
            v->meta_len = len;
        } else if (load_le32(e + 28) & 1) {
            return blk_why_set(why, ENOTSUP, file->path, "needs a VHDX region that is not known");
        }
    }
    if (!v->bat_at || !v->meta_at || v->meta_len < VHDX_TABLE)
        return blk_why_set(why, EMEDIUMTYPE, file->path, "lacks a VHDX region that every disk has");
    return 0;
}

static int vhdx_read_regions(struct vhdx *v, uint8_t *raw, struct blk_why *why)
{
    for (unsigned i = 0; i < 2; i++) {
        int res = vhdx_read_signed(v->node.file, VHDX_REGIONS_AT + i * VHDX_TABLE, "regi", raw, VHDX_TABLE);

        if (res < 0)
            return res;
        if (res > 0)
            return vhdx_parse_regions(v, raw, why);
    }
    return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "has no valid VHDX region table");
}

/* Find an item of the metadata region and read its first len bytes. */
static int vhdx_item(struct vhdx *v, const uint8_t *table, const uint8_t *guid, void *ret, uint32_t len,
                     struct blk_why *why)
{
    uint32_t count = load_le16(table + 10);

    for (uint32_t i = 0; i < MIN(count, (uint32_t)VHDX_ENTRIES_MAX); i++) {
        const uint8_t *e = table + 32 + 32 * i;
        uint64_t at = load_le32(e + 16);

        if (memcmp(e, guid, VHDX_GUID) != 0)
            continue;
        if (load_le32(e + 20) < len || at < VHDX_TABLE || at + len > v->meta_len)
            break;
        return blk_pread(v->node.file, v->meta_at + at, ret, len);
    }
    return blk_why_set(why, EMEDIUMTYPE, v->node.file->path,
                       "lacks a VHDX metadata item that every disk has, or misplaces it");
}

/* Sizes within the bounds of the specification (2.6.2), and a table that has room for them. */
static int vhdx_check_sizes(struct vhdx *v, uint32_t flags, uint32_t logical, struct blk_why *why)
{
    const char *path = v->node.file->path;
    uint64_t blocks, entries;

    if (flags & VHDX_HAS_PARENT)
        return blk_why_set(why, ENOTSUP, path, "is a VHDX that builds on a parent disk, which is not supported");
    if (logical != 512 && logical != 4096)
        return blk_why_set(why, EMEDIUMTYPE, path, "has an impossible VHDX sector size");
    if (!is_pow2(v->block_bytes) || v->block_bytes < VHDX_MIB || v->block_bytes > 256 * VHDX_MIB)
        return blk_why_set(why, EMEDIUMTYPE, path, "has an impossible VHDX block size");
    if (v->node.size == 0 || v->node.size % logical || v->node.size > VHDX_SIZE_MAX)
        return blk_why_set(why, EMEDIUMTYPE, path, "has an impossible VHDX disk size");
    v->chunk_ratio = (1ULL << 23) * logical / v->block_bytes;
    blocks = (v->node.size + v->block_bytes - 1) / v->block_bytes;
    entries = blocks + (blocks - 1) / v->chunk_ratio;
    if (v->bat_len < entries * 8)
        return blk_why_set(why, EMEDIUMTYPE, path, "has a VHDX block table that is too short for its disk");
    v->node.block_size = logical;
    v->node.physical_block_size = 4096;
    return 0;
}

static int vhdx_read_metadata(struct vhdx *v, uint8_t *table, struct blk_why *why)
{
    uint8_t parameters[8], disk_size[8], logical[4];
    int res = blk_pread(v->node.file, v->meta_at, table, VHDX_TABLE);

    if (res < 0)
        return res;
    if (memcmp(table, "metadata", 8) != 0)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "has no VHDX metadata where its region is");
    res = vhdx_item(v, table, vhdx_guid_parameters, parameters, sizeof(parameters), why);
    if (res == 0)
        res = vhdx_item(v, table, vhdx_guid_disk_size, disk_size, sizeof(disk_size), why);
    if (res == 0)
        res = vhdx_item(v, table, vhdx_guid_logical, logical, sizeof(logical), why);
    if (res < 0)
        return res;
    v->block_bytes = load_le32(parameters);
    v->node.size = load_le64(disk_size);
    return vhdx_check_sizes(v, load_le32(parameters + 4), load_le32(logical), why);
}

static int vhdx_load(struct vhdx *v, struct blk_why *why)
{
    AUTO_FREE uint8_t *raw = malloc(VHDX_TABLE);
    int res;

    if (!raw)
        return -ENOMEM;
    res = blk_pread(v->node.file, 0, raw, 8);
    if (res == 0 && memcmp(raw, "vhdxfile", 8) != 0)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "is not a VHDX image");
    if (res == 0)
        res = vhdx_read_header(v, raw, why);
    if (res == 0)
        res = vhdx_read_regions(v, raw, why);
    return res < 0 ? res : vhdx_read_metadata(v, raw, why);
}

static int vhdx_open(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
                     struct blk_why *why)
{
    struct vhdx *v = calloc(1, sizeof(*v));
    int res;

    (void)config;
    if (!v)
        return -ENOMEM;
    v->node = (struct blk_node){ .ops = &vhdx_ops, .read_only = true, .file = file };
    pthread_mutex_init(&v->lock, NULL);
    res = vhdx_load(v, why);
    if (res < 0) {
        v->node.file = NULL; /* stays the caller's */
        vhdx_close(&v->node);
        return res;
    }
    *ret_node = &v->node;
    return 0;
}

static int vhdx_probe(const uint8_t *head, size_t len)
{
    return len >= 8 && memcmp(head, "vhdxfile", 8) == 0 ? 100 : 0;
}

const struct blk_format blk_format_vhdx = { .name = "vhdx", .probe = vhdx_probe, .open = vhdx_open };
