/* Making images: the smallest possible one, of size 0, is written; then it is opened, and grows like any other. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/qcow2/qcow2_priv.h"

#define Q2_CLUSTER_DEFAULT (64u << 10)
#define Q2_FEATURE_BYTES 48u
#define Q2_V3_LENGTH_HERE 112u /* with the field of the compression type */

struct q2_feature {
    uint8_t type, bit;
    const char *name;
};

/* Header extension "feature name table", for those who do not know a feature. */
static int q2_feature_table(struct q2_header *h)
{
    static const struct q2_feature features[] = {
        { 0, 0, "dirty bit" },        { 0, 1, "corrupt bit" },         { 0, 2, "external data file" },
        { 0, 3, "compression type" }, { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
        { 2, 0, "bitmaps" },          { 2, 1, "raw external data" },
    };
    uint8_t *at;

    h->other_len = 8 + ARRAY_SIZE(features) * Q2_FEATURE_BYTES;
    h->other = calloc(1, h->other_len);
    if (!h->other)
        return -ENOMEM;
    at = h->other;
    q2_put_be32(at, 0x6803f857);
    q2_put_be32(at + 4, (uint32_t)(ARRAY_SIZE(features) * Q2_FEATURE_BYTES));
    at += 8;
    for (size_t i = 0; i < ARRAY_SIZE(features); i++, at += Q2_FEATURE_BYTES) {
        at[0] = features[i].type;
        at[1] = features[i].bit;
        memcpy(at + 2, features[i].name, strlen(features[i].name));
    }
    return 0;
}

static int q2_create_check(const struct blk_create_config *c, uint32_t cluster, struct blk_why *why)
{
    unsigned bits = c->refcount_bits ? c->refcount_bits : 16, version = c->version ? c->version : 3;

    if (version != 2 && version != 3)
        return blk_why_set(why, EINVAL, c->path, "can be of qcow2 version 2 or 3 only");
    if (!is_pow2(cluster) || cluster < 1u << Q2_CLUSTER_BITS_MIN || cluster > 1u << Q2_CLUSTER_BITS_MAX)
        return blk_why_set(why, EINVAL, c->path, "needs a cluster size that is a power of two from 512 to 2M");
    if (!is_pow2(bits) || bits > 64)
        return blk_why_set(why, EINVAL, c->path, "needs refcounts of 1, 2, 4, 8, 16, 32 or 64 bits");
    if (version == 2 && (bits != 16 || c->lazy_refcounts || c->extended_l2 || c->zstd || c->data_file))
        return blk_why_set(why, EINVAL, c->path, "would use features that qcow2 version 2 does not have");
    if (c->extended_l2 && cluster < 1u << 14)
        return blk_why_set(why, EINVAL, c->path, "needs clusters of at least 16K for extended L2 entries");
    if (c->backing_path && (!c->backing_path[0] || strlen(c->backing_path) > Q2_NAME_MAX))
        return blk_why_set(why, EINVAL, c->path, "can refer to backing files by names of 1 to 1023 bytes");
    if (c->data_file_raw && (!c->data_file || c->backing_path))
        return blk_why_set(why, EINVAL, c->path, "can have a raw data file only with a data file and without backing");
    if (c->backing_path && c->prealloc != BLK_PREALLOC_OFF && !c->extended_l2)
        return blk_why_set(why, EINVAL, c->path,
                           "has a backing file, so preallocation takes extended L2 entries; leave it out");
    return 0;
}

static int q2_create_text(const char *text, char **ret)
{
    *ret = text ? strdup(text) : NULL;
    return text && !*ret ? -ENOMEM : 0;
}

static int q2_create_header(const struct blk_create_config *c, uint32_t cluster, struct q2_header *h)
{
    bool v3 = c->version != 2;

    *h = (struct q2_header){ .version = v3 ? 3 : 2,
                             .cluster_bits = (unsigned)__builtin_ctz(cluster),
                             .refcount_order = (unsigned)__builtin_ctz(c->refcount_bits ? c->refcount_bits : 16),
                             .rt_off = cluster,
                             .rt_clusters = 1,
                             .length = v3 ? Q2_V3_LENGTH_HERE : 72,
                             .compression = c->zstd ? Q2_ZSTD : Q2_ZLIB };
    h->incompat = (c->zstd ? Q2_INCOMPAT_COMPRESSION : 0) | (c->extended_l2 ? Q2_INCOMPAT_EXTL2 : 0) |
                  (c->data_file ? Q2_INCOMPAT_DATA_FILE : 0);
    h->compat = c->lazy_refcounts ? Q2_COMPAT_LAZY : 0;
    h->autoclear = c->data_file_raw ? Q2_AUTOCLEAR_RAW : 0;
    if (q2_create_text(c->backing_path, &h->backing) < 0 || q2_create_text(c->data_file, &h->data_file) < 0 ||
        q2_create_text(c->backing_path ? c->backing_format : NULL, &h->backing_format) < 0)
        return -ENOMEM;
    return v3 && cluster >= 4096 ? q2_feature_table(h) : 0;
}

/* Header, refcount table of one cluster, one refcount block that counts these three. */
static int q2_create_smallest(struct blk_node *file, const struct q2_header *h)
{
    uint32_t cluster = 1u << h->cluster_bits;
    AUTO_FREE uint8_t *image = calloc(3, cluster);
    uint8_t *block = image ? image + 2 * (size_t)cluster : NULL;
    int res;

    if (!image)
        return -ENOMEM;
    res = q2_header_build(h, image, cluster);
    if (res < 0)
        return res;
    q2_put_be64(image + cluster, 2 * (uint64_t)cluster);
    for (unsigned i = 0; i < 3; i++) {
        if (h->refcount_order >= 3)
            block[((i + 1) << (h->refcount_order - 3)) - 1] = 1;
        else
            block[(i << h->refcount_order) >> 3] |= (uint8_t)(1u << ((i << h->refcount_order) & 7));
    }
    return blk_pwrite(file, 0, image, 3 * (uint64_t)cluster);
}

static int q2_create_luks(struct q2 *q, const struct blk_create_config *c)
{
    AUTO_FREE uint8_t *area = calloc(1, BLK_LUKS_AREA);
    uint64_t off;
    int res;

    if (!area)
        return -ENOMEM;
    res = blk_luks_make(c->secret, c->secret_len, c->luks_iter_ms, area, &q->luks);
    if (res < 0)
        return res;
    pthread_mutex_lock(&q->lock);
    res = q2_alloc_meta_locked(q, BLK_LUKS_AREA, &off);
    if (res == 0)
        res = blk_pwrite(q->node.file, off, area, BLK_LUKS_AREA);
    if (res == 0) {
        q->h.crypt = Q2_CRYPT_LUKS;
        q->h.has_luks = true;
        q->h.luks_off = off;
        q->h.luks_len = BLK_LUKS_AREA;
        res = q2_header_write_locked(q);
    }
    pthread_mutex_unlock(&q->lock);
    explicit_bzero(area, BLK_LUKS_AREA);
    return res;
}

/* The data file, empty, in the image's folder if its name is relative. *ret_made: its name, to be removed on failure.
 */
static int q2_create_data_file(struct blk_node *file, const struct blk_create_config *c, char **ret_made,
                               struct blk_why *why)
{
    const char *slash = strrchr(file->path, '/');
    AUTO_FREE char *name = NULL;
    AUTO_FD int fd = -1;
    int n;

    if (c->data_file[0] == '/' || !slash)
        n = asprintf(&name, "%s", c->data_file);
    else
        n = asprintf(&name, "%.*s/%s", (int)(slash - file->path), file->path, c->data_file);
    if (n < 0) {
        name = NULL;
        return -ENOMEM;
    }
    if (c->overwrite && access(name, F_OK) == 0) { /* not while somebody uses it */
        const struct blk_open_config old = { .path = name };
        AUTO(blk_node) struct blk_node *used = NULL;
        int res = blk_file_open(&old, &used, why);

        if (res < 0)
            return res;
    }
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | (c->overwrite ? O_TRUNC : O_EXCL), 0600);
    if (fd < 0) {
        int code = errno;

        return blk_why_set(why, code, name, NULL);
    }
    *ret_made = STEAL(name);
    return 0;
}

static int q2_create_rest(struct blk_node *file, const struct blk_create_config *c, struct blk_why *why)
{
    const struct blk_open_config open = { .path = file->path };
    struct blk_node *n;
    int res = q2_open(file, &open, &n, why);

    if (res < 0)
        return res;
    res = c->secret ? q2_create_luks(q2_of(n), c) : 0;
    if (res == 0)
        res = blk_resize(n, c->size, c->prealloc, why);
    if (res == 0)
        res = blk_flush(n);
    q2_release(n);
    return res;
}

int q2_create(struct blk_node *file, const struct blk_create_config *config, struct blk_why *why)
{
    uint32_t cluster = config->cluster_size ? config->cluster_size : Q2_CLUSTER_DEFAULT;
    AUTO_FREE char *made = NULL;
    struct q2_header h = { 0 };
    int res = q2_create_check(config, cluster, why);

    if (res < 0)
        return res;
    res = q2_create_header(config, cluster, &h);
    if (res == 0)
        res = q2_create_smallest(file, &h);
    if (res == -ENOSPC)
        (void)blk_why_set(why, ENOSPC, config->path, "has no room for its header; take larger clusters");
    if (res == 0 && config->data_file)
        res = q2_create_data_file(file, config, &made, why);
    if (res == 0)
        res = q2_create_rest(file, config, why);
    if (res < 0 && made)
        unlink(made);
    q2_header_done(&h);
    return res;
}
