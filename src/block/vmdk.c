/* VMDK, read-only, for import: one file with its descriptor inside (monolithicSparse, streamOptimized).
 *
 * The disk is cut into grains; a grain directory points to grain tables, these to grains, all in sectors of the file.
 * In stream-optimized files grains are zlib streams behind a 12-byte marker, and the header that counts stands at the
 * end (footer). The directory is held in memory, tables and the last grain that was unpacked in small caches.
 *
 * Everything in the file is hostile: sizes are bounded when it is opened, each offset is checked before it is read.
 * Source: VMware, "Virtual Disk Format 5.0", sections "Hosted Sparse Extents" and "Stream-Optimized". */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "block/open.h"

#define VMDK_MAGIC "KDMV"
#define VMDK_DESCRIPTOR "# Disk DescriptorFile"
#define VMDK_GD_AT_END UINT64_MAX
#define VMDK_DESCRIPTOR_MAX (64u << 10)
#define VMDK_GD_MAX (8u << 20) /* grain tables: 32 MiB of memory, 256 TiB of disk at the usual sizes */

enum {
    VMDK_HEADER = 512,
    VMDK_MARKER = 12,
    VMDK_GTES_MAX = 512,
    VMDK_GRAIN_MAX = 2048, /* sectors: bounds what one read unpacks */
    VMDK_TABLES = 64,      /* cached */
    VMDK_CREATE_TYPE_MAX = 32,
};
enum { VMDK_F_ZERO_GRAINS = 1 << 2, VMDK_F_COMPRESSED = 1 << 16 };
enum { VMDK_GTE_NONE = 0, VMDK_GTE_ZERO = 1 };

struct vmdk_header {
    uint32_t version, flags, gtes;
    uint64_t capacity, grain, gd, descriptor, descriptor_len; /* sectors */
    uint16_t compression;
};

struct vmdk_table {
    uint32_t sector; /* of the file; 0: empty */
    uint32_t gte[VMDK_GTES_MAX];
};

struct vmdk {
    struct blk_node node;
    struct vmdk_header h;
    char create_type[VMDK_CREATE_TYPE_MAX];
    uint32_t *gd;
    uint32_t n_gd;
    pthread_mutex_t lock; /* of the caches below */
    struct vmdk_table tables[VMDK_TABLES];
    uint64_t unpacked_at; /* file sector of the grain in unpacked; 0: none */
    uint8_t *unpacked;
};

static struct vmdk *vmdk_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct vmdk, node);
}

static uint64_t vmdk_grain_bytes(const struct vmdk *v)
{
    return v->h.grain * BLK_SECTOR;
}

/* ---- grains ---- */

/* The entry for a grain of the disk. */
static int vmdk_lookup(struct vmdk *v, uint64_t grain, uint32_t *ret_gte)
{
    uint32_t sector = v->gd[grain / v->h.gtes], index = (uint32_t)(grain % v->h.gtes);
    struct vmdk_table *t = &v->tables[(grain / v->h.gtes) % VMDK_TABLES];
    uint64_t bytes = v->h.gtes * sizeof(uint32_t);
    int res = 0;

    *ret_gte = VMDK_GTE_NONE;
    if (sector == 0)
        return 0;
    pthread_mutex_lock(&v->lock);
    if (t->sector != sector) {
        t->sector = 0;
        if ((uint64_t)sector * BLK_SECTOR + bytes > v->node.file->size)
            res = -EIO;
        else
            res = blk_pread(v->node.file, (uint64_t)sector * BLK_SECTOR, t->gte, bytes);
        if (res == 0)
            t->sector = sector;
    }
    if (res == 0)
        *ret_gte = t->gte[index];
    pthread_mutex_unlock(&v->lock);
    return res;
}

static bool vmdk_is_zero(const struct vmdk *v, uint32_t gte)
{
    return gte == VMDK_GTE_NONE || (gte == VMDK_GTE_ZERO && v->h.flags & VMDK_F_ZERO_GRAINS);
}

/* Unpack the grain at a sector of the file into out (one grain long). lba: what its marker must say. */
static int vmdk_unpack(struct vmdk *v, uint32_t sector, uint64_t lba, uint8_t *out)
{
    AUTO_FREE uint8_t *packed = NULL;
    uint8_t marker[VMDK_MARKER];
    uint64_t at = (uint64_t)sector * BLK_SECTOR;
    uLongf n = (uLongf)vmdk_grain_bytes(v);
    uint32_t len;
    int res;

    if (at + VMDK_MARKER > v->node.file->size)
        return -EIO;
    res = blk_pread(v->node.file, at, marker, VMDK_MARKER);
    if (res < 0)
        return res;
    len = load_le32(marker + 8);
    /* zlib may make what it cannot pack a little longer. */
    if (load_le64(marker) != lba || len == 0 || len > 2 * vmdk_grain_bytes(v) ||
        len > v->node.file->size - at - VMDK_MARKER)
        return -EIO;
    packed = malloc(len);
    if (!packed)
        return -ENOMEM;
    res = blk_pread(v->node.file, at + VMDK_MARKER, packed, len);
    if (res < 0)
        return res;
    if (uncompress(out, &n, packed, len) != Z_OK)
        return -EIO;
    memset(out + n, 0, vmdk_grain_bytes(v) - n); /* the last grain of a disk may be short */
    return 0;
}

/* Part of a packed grain. What was unpacked last is kept, since readers go on where they were. */
static int vmdk_read_packed(struct vmdk *v, uint32_t sector, uint64_t lba, uint64_t skip, const struct iovec *iov,
                            unsigned n_iov, uint64_t at, uint64_t len)
{
    AUTO_FREE uint8_t *grain = NULL;
    bool hit;
    int res;

    pthread_mutex_lock(&v->lock);
    hit = v->unpacked && v->unpacked_at == sector;
    if (hit)
        blk_iov_from_buf(iov, n_iov, at, v->unpacked + skip, len);
    pthread_mutex_unlock(&v->lock);
    if (hit)
        return 0;
    grain = malloc(vmdk_grain_bytes(v));
    if (!grain)
        return -ENOMEM;
    res = vmdk_unpack(v, sector, lba, grain);
    if (res < 0)
        return res;
    blk_iov_from_buf(iov, n_iov, at, grain + skip, len);
    if (skip + len < vmdk_grain_bytes(v)) {
        uint8_t *old;

        pthread_mutex_lock(&v->lock);
        old = v->unpacked;
        v->unpacked = STEAL(grain);
        v->unpacked_at = sector;
        pthread_mutex_unlock(&v->lock);
        free(old);
    }
    return 0;
}

static int vmdk_read_plain(struct vmdk *v, uint32_t sector, uint64_t skip, const struct iovec *iov, unsigned n_iov,
                           uint64_t at, uint64_t len)
{
    AUTO_FREE struct iovec *part = calloc(n_iov, sizeof(*part));
    uint64_t off = (uint64_t)sector * BLK_SECTOR + skip;

    if (!part)
        return -ENOMEM;
    if (off >= v->node.file->size)
        return -EIO;
    return blk_preadv(v->node.file, off, part, blk_iov_slice(iov, n_iov, at, len, part), len);
}

static int vmdk_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct vmdk *v = vmdk_of(n);
    int res = 0;

    for (uint64_t done = 0; done < len && res == 0;) {
        uint64_t grain = (off + done) / vmdk_grain_bytes(v), skip = (off + done) % vmdk_grain_bytes(v);
        uint64_t part = MIN(len - done, vmdk_grain_bytes(v) - skip);
        uint32_t gte;

        res = vmdk_lookup(v, grain, &gte);
        if (res == 0 && vmdk_is_zero(v, gte))
            blk_iov_zero(iov, n_iov, done, part);
        else if (res == 0 && v->h.flags & VMDK_F_COMPRESSED)
            res = vmdk_read_packed(v, gte, grain * v->h.grain, skip, iov, n_iov, done, part);
        else if (res == 0)
            res = vmdk_read_plain(v, gte, skip, iov, n_iov, done, part);
        done += part;
    }
    return res;
}

static int vmdk_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct vmdk *v = vmdk_of(n);
    const bool packed = v->h.flags & VMDK_F_COMPRESSED;
    struct blk_extent x = { 0 };
    uint64_t done = 0;

    while (done < len) {
        uint64_t skip = (off + done) % vmdk_grain_bytes(v);
        uint32_t gte;
        unsigned flags;
        int res = vmdk_lookup(v, (off + done) / vmdk_grain_bytes(v), &gte);

        if (res < 0)
            return res;
        flags = BLK_EXT_ALLOCATED;
        if (vmdk_is_zero(v, gte))
            flags |= BLK_EXT_ZERO;
        else
            flags |= BLK_EXT_DATA | (packed ? BLK_EXT_COMPRESSED : BLK_EXT_HOST);
        if (done == 0) {
            x.flags = flags;
            x.host_off = flags & BLK_EXT_HOST ? (uint64_t)gte * BLK_SECTOR + skip : 0;
        } else if (flags != x.flags || (flags & BLK_EXT_HOST && x.host_off + done != (uint64_t)gte * BLK_SECTOR)) {
            break;
        }
        done += vmdk_grain_bytes(v) - skip;
    }
    x.len = MIN(done, len);
    *ret_extent = x;
    return 0;
}

static void vmdk_info(struct blk_node *n, struct blk_info *ret_info)
{
    struct vmdk *v = vmdk_of(n);
    struct blk_info file;

    blk_node_info(n->file, &file);
    ret_info->actual_size = file.actual_size;
    ret_info->cluster_size = (uint32_t)vmdk_grain_bytes(v);
    ret_info->create_type = v->create_type;
    ret_info->compression = v->h.flags & VMDK_F_COMPRESSED ? "zlib" : NULL;
}

static void vmdk_close(struct blk_node *n)
{
    struct vmdk *v = vmdk_of(n);

    blk_node_close(n->file);
    pthread_mutex_destroy(&v->lock);
    free(v->unpacked);
    free(v->gd);
    free(n->path);
    free(v);
}

static const struct blk_node_ops vmdk_ops = {
    .name = "vmdk",
    .pread = vmdk_pread,
    .extent = vmdk_extent,
    .info = vmdk_info,
    .close = vmdk_close,
};

/* ---- opening ---- */

static void vmdk_parse_header(const uint8_t b[VMDK_HEADER], struct vmdk_header *h)
{
    h->version = load_le32(b + 4);
    h->flags = load_le32(b + 8);
    h->capacity = load_le64(b + 12);
    h->grain = load_le64(b + 20);
    h->descriptor = load_le64(b + 28);
    h->descriptor_len = load_le64(b + 36);
    h->gtes = load_le32(b + 44);
    h->gd = load_le64(b + 56);
    h->compression = load_le16(b + 77);
}

/* The value of KEY="VALUE" or KEY=VALUE at the beginning of a line. */
static bool vmdk_value(const char *text, const char *key, char *ret, size_t size)
{
    size_t key_len = strlen(key), n;

    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, key, key_len) != 0 || line[key_len] != '=')
            continue;
        line += key_len + 1;
        line += *line == '"';
        n = strcspn(line, "\"\r\n");
        if (n >= size)
            return false;
        memcpy(ret, line, n);
        ret[n] = '\0';
        return true;
    }
    return false;
}

/* The descriptor inside the file: which kind it is, and that it does not continue in other files. */
static int vmdk_read_descriptor(struct vmdk *v, struct blk_why *why)
{
    const char *path = v->node.file->path;
    uint64_t at = v->h.descriptor * BLK_SECTOR, len = v->h.descriptor_len * BLK_SECTOR;
    AUTO_FREE char *text = NULL;
    char parent[VMDK_CREATE_TYPE_MAX];
    int res;

    if (v->h.descriptor == 0)
        return blk_why_set(why, ENOTSUP, path, "is one part of a VMDK disk of several files, which is not supported");
    if (v->h.descriptor > INT64_MAX / BLK_SECTOR || v->h.descriptor_len > VMDK_DESCRIPTOR_MAX / BLK_SECTOR ||
        at + len > v->node.file->size)
        return blk_why_set(why, EMEDIUMTYPE, path, "has a VMDK descriptor that lies outside the file or is too long");
    text = calloc(1, len + 1);
    if (!text)
        return -ENOMEM;
    res = blk_pread(v->node.file, at, text, len);
    if (res < 0)
        return res;
    if (!vmdk_value(text, "createType", v->create_type, sizeof(v->create_type)))
        return blk_why_set(why, EMEDIUMTYPE, path, "has a VMDK descriptor without a createType");
    if (strcmp(v->create_type, "monolithicSparse") != 0 && strcmp(v->create_type, "streamOptimized") != 0)
        return blk_why_set(why, ENOTSUP, path,
                           "is a VMDK of a type that is not supported (monolithicSparse and streamOptimized are)");
    if (vmdk_value(text, "parentCID", parent, sizeof(parent)) && strcasecmp(parent, "ffffffff") != 0)
        return blk_why_set(why, ENOTSUP, path, "is a VMDK that builds on a parent disk, which is not supported");
    return 0;
}

/* Stream-optimized: the header at the end has the place of the directory. */
static int vmdk_read_footer(struct vmdk *v, struct blk_why *why)
{
    uint8_t b[VMDK_HEADER];
    uint64_t size = v->node.file->size;
    int res;

    if (size < 3 * VMDK_HEADER)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "is truncated: the VMDK footer is missing");
    res = blk_pread(v->node.file, align_down(size, BLK_SECTOR) - 2 * VMDK_HEADER, b, sizeof(b));
    if (res < 0)
        return res;
    if (memcmp(b, VMDK_MAGIC, 4) != 0)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "is truncated: the VMDK footer is missing");
    vmdk_parse_header(b, &v->h);
    return 0;
}

static int vmdk_check_header(const struct vmdk *v, struct blk_why *why)
{
    const struct vmdk_header *h = &v->h;
    const char *path = v->node.file->path;

    if (h->version < 1 || h->version > 3)
        return blk_why_set(why, ENOTSUP, path, "has a VMDK version that is not known");
    if (!is_pow2(h->grain) || h->grain < 8 || h->grain > VMDK_GRAIN_MAX)
        return blk_why_set(why, EMEDIUMTYPE, path, "has an impossible VMDK grain size");
    if (h->gtes == 0 || h->gtes > VMDK_GTES_MAX)
        return blk_why_set(why, EMEDIUMTYPE, path, "has VMDK grain tables of an impossible size");
    if (h->capacity == 0 || h->capacity > INT64_MAX / BLK_SECTOR)
        return blk_why_set(why, EMEDIUMTYPE, path, "has an impossible VMDK capacity");
    if (h->flags & VMDK_F_COMPRESSED && h->compression != 1)
        return blk_why_set(why, ENOTSUP, path, "has grains packed by a method that is not known");
    return 0;
}

static int vmdk_read_directory(struct vmdk *v, struct blk_why *why)
{
    const struct vmdk_header *h = &v->h;
    uint64_t grains = (h->capacity + h->grain - 1) / h->grain, tables = (grains + h->gtes - 1) / h->gtes;
    int res;

    if (tables > VMDK_GD_MAX)
        return blk_why_set(why, EFBIG, v->node.file->path, "has a VMDK grain directory of more than 32 MiB");
    if (h->gd == 0 || h->gd > INT64_MAX / BLK_SECTOR ||
        h->gd * BLK_SECTOR + tables * sizeof(uint32_t) > v->node.file->size)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path,
                           "has a VMDK grain directory that lies outside the file");
    v->n_gd = (uint32_t)tables;
    v->gd = calloc(tables, sizeof(uint32_t));
    if (!v->gd)
        return -ENOMEM;
    res = blk_pread(v->node.file, h->gd * BLK_SECTOR, v->gd, tables * sizeof(uint32_t));
    return res;
}

static int vmdk_load(struct vmdk *v, struct blk_why *why)
{
    uint8_t b[VMDK_HEADER];
    int res = blk_pread(v->node.file, 0, b, sizeof(b));

    if (res < 0)
        return res;
    if (memcmp(b, VMDK_DESCRIPTOR, strlen(VMDK_DESCRIPTOR)) == 0)
        return blk_why_set(why, ENOTSUP, v->node.file->path,
                           "is a VMDK descriptor whose data are in other files, which is not supported");
    if (memcmp(b, VMDK_MAGIC, 4) != 0)
        return blk_why_set(why, EMEDIUMTYPE, v->node.file->path, "is not a VMDK image");
    vmdk_parse_header(b, &v->h);
    res = vmdk_read_descriptor(v, why);
    if (res == 0 && v->h.gd == VMDK_GD_AT_END)
        res = vmdk_read_footer(v, why);
    if (res == 0)
        res = vmdk_check_header(v, why);
    return res < 0 ? res : vmdk_read_directory(v, why);
}

static int vmdk_open(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
                     struct blk_why *why)
{
    struct vmdk *v = calloc(1, sizeof(*v));
    int res;

    (void)config;
    if (!v)
        return -ENOMEM;
    v->node = (struct blk_node){
        .ops = &vmdk_ops, .read_only = true, .block_size = BLK_SECTOR, .physical_block_size = 4096, .file = file
    };
    pthread_mutex_init(&v->lock, NULL);
    res = vmdk_load(v, why);
    if (res < 0) {
        v->node.file = NULL; /* stays the caller's */
        vmdk_close(&v->node);
        return res;
    }
    v->node.size = v->h.capacity * BLK_SECTOR;
    *ret_node = &v->node;
    return 0;
}

static int vmdk_probe(const uint8_t *head, size_t len)
{
    if (len >= 4 && memcmp(head, VMDK_MAGIC, 4) == 0)
        return 100;
    return len >= strlen(VMDK_DESCRIPTOR) && memcmp(head, VMDK_DESCRIPTOR, strlen(VMDK_DESCRIPTOR)) == 0 ? 90 : 0;
}

const struct blk_format blk_format_vmdk = { .name = "vmdk", .probe = vmdk_probe, .open = vmdk_open };
