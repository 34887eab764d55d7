/* The qcow2 format: opening with all checks, facts, closing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2/qcow2_priv.h"

static int q2_probe(const uint8_t *head, size_t len)
{
    return len >= 8 && q2_be32(head) == Q2_MAGIC && q2_be32(head + 4) >= 2 ? 100 : 0;
}

static void q2_free(struct q2 *q)
{
    q2_bitmaps_done(q);
    q2_limbo_done(q);
    q2_inflated_drop(q);
    q2_cache_done(&q->l2);
    q2_cache_done(&q->rb);
    blk_luks_free(q->luks);
    blk_node_close(q->own_data);
    free(q->meta.slots);
    free(q->l1);
    free(q->rt);
    q2_header_done(&q->h);
    pthread_mutex_destroy(&q->wb_lock);
    pthread_mutex_destroy(&q->lock);
    pthread_mutex_destroy(&q->fly.lock);
    pthread_mutex_destroy(&q->inflated_lock);
    pthread_mutex_destroy(&q->pack_lock);
    pthread_cond_destroy(&q->fly.changed);
    pthread_cond_destroy(&q->claims_changed);
    free(q->node.path);
    free(q);
}

/* Everything that is recorded in memory into the file. Freed clusters are counted down by the first write-back, so it
 * takes a second one. */
static int q2_settle(struct q2 *q)
{
    int res = q2_bitmaps_store(q);

    for (unsigned i = 0; i < 2; i++) {
        if (q2_exclusive_begin(q) < 0)
            return -EIO;
        q2_exclusive_end(q);
    }
    return res;
}

void q2_release(struct blk_node *n)
{
    struct q2 *q = q2_of(n);

    if (!n->read_only && !q->corrupt && q2_settle(q) < 0)
        log_debug("qcow2: %s: not everything could be written at the end", n->path);
    q2_free(q);
}

static void q2_close(struct blk_node *n)
{
    struct blk_node *file = n->file;

    q2_release(n);
    blk_node_close(file);
}

static void q2_info(struct blk_node *n, struct blk_info *ret_info)
{
    const struct q2 *q = q2_of(n);
    struct blk_info file;

    blk_node_info(n->file, &file);
    ret_info->actual_size = file.actual_size;
    ret_info->cluster_size = q->cluster_size;
    ret_info->backing_path = q->h.backing;
    ret_info->backing_format = q->h.backing ? q->h.backing_format : NULL;
    ret_info->data_file = q->own_data ? q->h.data_file : NULL;
    ret_info->compression = q->h.compression == Q2_ZSTD ? "zstd" : "zlib";
    ret_info->encryption = q->h.crypt == Q2_CRYPT_LUKS ? "luks" : NULL;
    ret_info->qcow2_version = q->h.version;
    ret_info->refcount_bits = 1u << q->h.refcount_order;
    ret_info->lazy_refcounts = (q->h.compat & Q2_COMPAT_LAZY) != 0;
    ret_info->extended_l2 = q->extl2;
    ret_info->data_file_raw = q->data_raw;
    ret_info->dirty = (q->h.incompat & Q2_INCOMPAT_DIRTY) != 0;
    ret_info->corrupt = q->corrupt;
}

static int q2_new_text(const char *text, char **ret)
{
    *ret = text ? strdup(text) : NULL;
    return text && !*ret ? -ENOMEM : 0;
}

int q2_set_backing(struct blk_node *n, const char *path, const char *format, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    AUTO_FREE char *new_path = NULL;
    AUTO_FREE char *new_format = NULL;
    char *old_path, *old_format;
    int res;

    if (path && q->data_raw)
        return blk_why_set(why, ENOTSUP, n->path, "has a raw data file, which excludes a backing file");
    if (path && (!path[0] || strlen(path) > Q2_NAME_MAX))
        return blk_why_set(why, EINVAL, n->path, "can refer to backing files by names of 1 to 1023 bytes");
    if (q2_new_text(path, &new_path) < 0 || q2_new_text(path ? format : NULL, &new_format) < 0)
        return -ENOMEM;
    res = q2_exclusive_begin(q);
    if (res < 0)
        return res;
    old_path = q->h.backing;
    old_format = q->h.backing_format;
    q->h.backing = new_path;
    q->h.backing_format = new_format;
    res = q->corrupt ? -EIO : q2_header_write_locked(q);
    if (res == 0)
        res = blk_flush(n->file);
    if (res < 0) {
        q->h.backing = old_path;
        q->h.backing_format = old_format;
    } else {
        new_path = old_path; /* to be freed */
        new_format = old_format;
    }
    q2_exclusive_end(q);
    return res == -ENOSPC ? blk_why_set(why, ENOSPC, n->path, "has no room for that name in its first cluster") : res;
}

static const struct blk_node_ops q2_ops = {
    .name = "qcow2",
    .pread = q2_pread,
    .pwrite = q2_pwrite,
    .flush = q2_flush,
    .discard = q2_discard,
    .write_zeroes = q2_write_zeroes,
    .extent = q2_extent,
    .map = q2_map,
    .unmap = q2_unmap,
    .resize = q2_resize,
    .pwrite_compressed = q2_pwrite_compressed,
    .check = q2_check,
    .info = q2_info,
    .set_backing = q2_set_backing,
    .forget = q2_forget,
    .snapshot_list = q2_snapshot_list,
    .snapshot_create = q2_snapshot_create,
    .snapshot_apply = q2_snapshot_apply,
    .snapshot_delete = q2_snapshot_delete,
    .bitmap_list = q2_bitmap_list,
    .bitmap_add = q2_bitmap_add,
    .bitmap_remove = q2_bitmap_remove,
    .bitmap_enable = q2_bitmap_enable,
    .bitmap_clear = q2_bitmap_clear,
    .bitmap_next = q2_bitmap_next,
    .bitmap_set = q2_bitmap_set,
    .close = q2_close,
};

/* ---- opening ---- */

static struct q2 *q2_new(struct blk_node *file, const struct blk_open_config *config)
{
    struct q2 *q = calloc(1, sizeof(*q));

    if (!q)
        return NULL;
    q->node.ops = &q2_ops;
    q->node.read_only = config->read_only;
    q->node.file = file;
    q->data = file;
    q->discard_ignored = config->discard_no_unmap;
    pthread_mutex_init(&q->wb_lock, NULL);
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->fly.lock, NULL);
    pthread_mutex_init(&q->inflated_lock, NULL);
    pthread_mutex_init(&q->pack_lock, NULL);
    pthread_cond_init(&q->fly.changed, NULL);
    pthread_cond_init(&q->claims_changed, NULL);
    list_init(&q->claims);
    q->node.path = strdup(config->path);
    if (!q->node.path) {
        q2_free(q);
        return NULL;
    }
    return q;
}

static int q2_read_header(struct q2 *q, struct blk_why *why)
{
    struct blk_node *file = q->node.file;
    uint8_t first[BLK_SECTOR] = { 0 };
    AUTO_FREE uint8_t *head = NULL;
    uint64_t len;
    uint32_t bits;
    int res = blk_pread(file, 0, first, sizeof(first));

    if (res < 0)
        return res;
    bits = q2_be32(first + 20);
    len = MIN(file->size, BIT64(MAX(MIN(bits, Q2_CLUSTER_BITS_MAX), Q2_CLUSTER_BITS_MIN)));
    head = malloc(len + 1);
    if (!head)
        return -ENOMEM;
    res = blk_pread(file, 0, head, len);
    return res < 0 ? res : q2_header_parse(head, len, file->size, q->node.path, &q->h, why);
}

static int q2_geometry(struct q2 *q)
{
    const struct q2_header *h = &q->h;
    uint64_t tables;
    int res;

    q->cluster_bits = h->cluster_bits;
    q->cluster_size = 1u << h->cluster_bits;
    q->extl2 = (h->incompat & Q2_INCOMPAT_EXTL2) != 0;
    q->data_raw = (h->autoclear & Q2_AUTOCLEAR_RAW) != 0;
    q->l2_entry_size = q->extl2 ? 16 : 8;
    q->l2_bits = q->cluster_bits - (q->extl2 ? 4 : 3);
    q->sub_bits = q->cluster_bits - (q->extl2 ? 5 : 0);
    q->rb_bits = q->cluster_bits + 3 - h->refcount_order;
    q->refcount_max = BITS64((1u << h->refcount_order) - 1, 0);
    q->corrupt = (h->incompat & Q2_INCOMPAT_CORRUPT) != 0;
    q->end = q2_clusters(q, q->node.file->size);
    q->zero_from = q->end << q->cluster_bits;
    q->node.size = align_up(h->size, BLK_SECTOR);
    q->node.block_size = q->node.file->block_size;
    q->node.physical_block_size = MAX(q->node.block_size, MIN(q->cluster_size, 4096u));
    tables = MAX(16u, Q2_L2_CACHE_BYTES >> q->cluster_bits);
    res = q2_cache_init(&q->l2, (unsigned)tables);
    return res < 0 ? res : q2_cache_init(&q->rb, (unsigned)MAX(16u, Q2_RB_CACHE_BYTES >> q->cluster_bits));
}

/* In the place of a data file that is not opened, since only metadata is wanted: nobody has to have it then, and
 * nothing that a stranger's image names is touched. */
static int q2_absent_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    (void)n, (void)off, (void)iov, (void)n_iov, (void)len;
    return -EIO;
}

static void q2_absent_close(struct blk_node *n)
{
    free(n);
}

static const struct blk_node_ops q2_absent_ops = {
    .name = "absent",
    .pread = q2_absent_pread,
    .close = q2_absent_close,
};

static int q2_absent_new(struct blk_node **ret_node)
{
    struct blk_node *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    *n = (struct blk_node){ .ops = &q2_absent_ops, .size = INT64_MAX, .read_only = true };
    *ret_node = n;
    return 0;
}

static int q2_open_data_file(struct q2 *q, const struct blk_open_config *config, struct blk_why *why)
{
    int res;

    if (!(q->h.incompat & Q2_INCOMPAT_DATA_FILE))
        return 0;
    if (!q->h.data_file)
        return blk_why_set(why, EMEDIUMTYPE, config->path, "has a data file, but does not say which");
    if (config->guessed)
        return blk_why_set(why, EPERM, config->path,
                           "is a backing file whose format is not stated, and names a data file");
    if (config->no_data)
        res = q2_absent_new(&q->own_data);
    else
        res = blk_open_child(config, config->path, q->h.data_file, config->read_only, &q->own_data, why);
    if (res == 0)
        q->data = q->own_data;
    return res;
}

static int q2_open_luks(struct q2 *q, const struct blk_open_config *config, struct blk_why *why)
{
    if (q->h.crypt == Q2_CRYPT_NONE)
        return 0;
    if (q->h.crypt != Q2_CRYPT_LUKS)
        return blk_why_set(why, ENOTSUP, config->path,
                           "is encrypted by the old AES method, which is not safe; convert it with qemu-img");
    if (config->no_data && !config->secret)
        return blk_luks_look(q->node.file, q->h.luks_off, q->h.luks_len, &q->luks, why);
    return blk_luks_unlock(q->node.file, q->h.luks_off, q->h.luks_len, config->secret, config->secret_len, &q->luks,
                           why);
}

int q2_load(struct q2 *q)
{
    int res = q2_rt_load(q);

    if (res == 0)
        res = q2_l1_load(q);
    if (res == 0)
        res = q2_meta_add(q, q->h.rt_off, (uint64_t)q->h.rt_clusters << q->cluster_bits);
    if (res == 0)
        res = q2_meta_add(q, q->h.l1_off, (uint64_t)q->h.l1_size * 8);
    if (res == 0 && q->h.has_luks)
        res = q2_meta_add(q, q->h.luks_off, q->h.luks_len);
    return res;
}

/* What a writer has to put right first. */
static int q2_make_writable(struct q2 *q, struct blk_why *why)
{
    int res;

    if (q->node.read_only || q->corrupt)
        return 0;
    if (q->h.incompat & Q2_INCOMPAT_DIRTY) {
        res = q2_repair_dirty(q, why);
        if (res < 0)
            return res;
        q->h.incompat &= ~Q2_INCOMPAT_DIRTY;
    } else if (!(q->h.autoclear & ~Q2_AUTOCLEAR_KNOWN)) {
        return 0;
    }
    q->h.autoclear &= Q2_AUTOCLEAR_KNOWN;
    pthread_mutex_lock(&q->lock);
    res = q2_header_write_locked(q);
    pthread_mutex_unlock(&q->lock);
    return res < 0 ? res : blk_flush(q->node.file);
}

static int q2_set_up(struct q2 *q, const struct blk_open_config *config, struct blk_why *why)
{
    int res = q2_read_header(q, why);

    if (res == 0)
        res = q2_geometry(q);
    if (res == 0)
        res = q2_open_data_file(q, config, why);
    if (res == 0 && config->snapshot)
        res = q2_snapshot_view(q, config->snapshot, why);
    if (res == 0)
        res = q2_load(q);
    if (res == 0)
        res = q2_snapshots_open(q, why);
    if (res == 0)
        res = q2_make_writable(q, why);
    if (res == 0)
        res = q2_open_luks(q, config, why);
    if (res == 0 && q->h.has_bitmaps)
        res = q2_bitmaps_open(q, why);
    return res;
}

int q2_open(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
            struct blk_why *why)
{
    struct q2 *q = q2_new(file, config);
    int res;

    if (!q)
        return -ENOMEM;
    res = q2_set_up(q, config, why);
    if (res < 0) {
        q2_free(q);
        return res;
    }
    *ret_node = &q->node;
    return 0;
}

const struct blk_format blk_format_qcow2 = {
    .name = "qcow2",
    .can_write = true,
    .probe = q2_probe,
    .open = q2_open,
    .create = q2_create,
};
