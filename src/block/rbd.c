/* Disks of a Ceph cluster, through librbd: rbd:POOL/IMAGE[@SNAPSHOT][:conf=FILE][:id=USER]. A writer holds the image's
 * exclusive lock where it has that feature. librbd takes calls of several threads at once; a cluster that does not
 * answer gives -ETIMEDOUT. Built where librbd's headers are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "sys/library.h"
#include "block/open.h"

#ifdef CAISSON_HAVE_RBD

#include <rados/librados.h>
#include <rbd/librbd.h>

#define RBD_ADMIN "admin"
#define RBD_CONNECT_SECONDS "10"
#define RBD_ANSWER_SECONDS "30"
#define RBD_PIECE_MAX (4u << 20)

#define RADOS_FUNCTIONS(X)  \
    X(rados_create)         \
    X(rados_conf_read_file) \
    X(rados_conf_set)       \
    X(rados_connect)        \
    X(rados_shutdown)       \
    X(rados_ioctx_create)   \
    X(rados_ioctx_destroy)
#define RBD_FUNCTIONS(X)  \
    X(rbd_open)           \
    X(rbd_open_read_only) \
    X(rbd_close)          \
    X(rbd_get_size)       \
    X(rbd_read)           \
    X(rbd_write)          \
    X(rbd_flush)          \
    X(rbd_discard)        \
    X(rbd_write_zeroes)   \
    X(rbd_resize)         \
    X(rbd_diff_iterate2)  \
    X(rbd_lock_acquire)

struct rbd_lib {
#define X(f) __typeof__(f) *f;
    RADOS_FUNCTIONS(X)
    RBD_FUNCTIONS(X)
#undef X
};

struct rbd {
    struct blk_node node;
    struct rbd_lib lib;
    void *rados_library, *rbd_library;
    rados_t cluster; /* NULL: not there yet, as the next two */
    rados_ioctx_t pool;
    rbd_image_t image;
    bool no_sync;
};

/* The parts of the name; all point into text. */
struct rbd_name {
    char *text, *pool, *image, *snapshot, *conf, *id;
};

static struct rbd *rbd_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct rbd, node);
}

/* ---- operations ---- */

static int rbd_flat(struct rbd *r, bool write, uint64_t off, uint8_t *data, uint64_t len)
{
    while (len > 0) {
        size_t part = MIN(len, RBD_PIECE_MAX);
        ssize_t n = write ? r->lib.rbd_write(r->image, off, part, (const char *)data)
                          : r->lib.rbd_read(r->image, off, part, (char *)data);

        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EIO;
        data += n;
        off += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

static int rbd_op_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    int res = 0;

    for (unsigned i = 0; i < n_iov && res == 0; off += iov[i++].iov_len) {
        uint64_t inside = off < n->size ? MIN(iov[i].iov_len, n->size - off) : 0;

        res = rbd_flat(rbd_of(n), false, off, iov[i].iov_base, inside);
        if (inside < iov[i].iov_len)
            memset((uint8_t *)iov[i].iov_base + inside, 0, iov[i].iov_len - inside);
    }
    (void)len;
    return res;
}

static bool rbd_fits(const struct blk_node *n, uint64_t off, uint64_t len)
{
    return off <= n->size && len <= n->size - off;
}

static int rbd_op_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    int res = rbd_fits(n, off, len) ? 0 : -ENOSPC;

    for (unsigned i = 0; i < n_iov && res == 0; off += iov[i++].iov_len)
        res = rbd_flat(rbd_of(n), true, off, iov[i].iov_base, iov[i].iov_len);
    return res;
}

static int rbd_op_flush(struct blk_node *n)
{
    struct rbd *r = rbd_of(n);

    return r->no_sync ? 0 : r->lib.rbd_flush(r->image);
}

static int rbd_op_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return rbd_fits(n, off, len) ? rbd_of(n)->lib.rbd_discard(rbd_of(n)->image, off, len) : 0;
}

static int rbd_op_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int how = flags & BLK_ZERO_UNMAP ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION;
    ssize_t res = rbd_fits(n, off, len) ? rbd_of(n)->lib.rbd_write_zeroes(rbd_of(n)->image, off, len, how, 0) : -ENOSPC;

    return res < 0 ? (int)res : 0;
}

struct rbd_seen {
    uint64_t from, len; /* first data at or behind what was asked for */
    bool found;
};

enum { RBD_ENOUGH = -ECANCELED };

static int rbd_extent_seen(uint64_t off, size_t len, int exists, void *opaque)
{
    struct rbd_seen *seen = opaque;

    if (!exists)
        return 0;
    if (seen->found && off != seen->from + seen->len)
        return RBD_ENOUGH;
    if (!seen->found)
        seen->from = off;
    seen->found = true;
    seen->len += len;
    return 0;
}

static int rbd_op_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct rbd *r = rbd_of(n);
    struct rbd_seen seen = { 0 };
    struct blk_extent x = { .flags = BLK_EXT_ALLOCATED | BLK_EXT_ZERO, .len = len };
    int res = r->lib.rbd_diff_iterate2(r->image, NULL, off, len, 1, 1, rbd_extent_seen, &seen);

    if (res < 0 && res != RBD_ENOUGH)
        return res;
    if (seen.found && seen.from > off) {
        x.len = MIN(len, seen.from - off);
    } else if (seen.found) { /* whole objects: the first may begin before off */
        x.flags = BLK_EXT_ALLOCATED | BLK_EXT_DATA;
        x.len = MIN(len, seen.from + seen.len - off);
    }
    *ret_extent = x;
    return 0;
}

static int rbd_op_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    int res;

    if (prealloc != BLK_PREALLOC_OFF && prealloc != BLK_PREALLOC_METADATA)
        return blk_why_set(why, ENOTSUP, n->path, "is a Ceph image, which cannot be preallocated");
    res = rbd_of(n)->lib.rbd_resize(rbd_of(n)->image, size);
    if (res == 0)
        n->size = size;
    return res;
}

static void rbd_op_close(struct blk_node *n)
{
    struct rbd *r = rbd_of(n);

    if (r->image)
        r->lib.rbd_close(r->image);
    if (r->pool)
        r->lib.rados_ioctx_destroy(r->pool);
    if (r->cluster)
        r->lib.rados_shutdown(r->cluster);
    sys_library_close(r->rbd_library);
    sys_library_close(r->rados_library);
    free(n->path);
    free(r);
}

static const struct blk_node_ops rbd_ops = {
    .name = "rbd",
    .pread = rbd_op_pread,
    .pwrite = rbd_op_pwrite,
    .flush = rbd_op_flush,
    .discard = rbd_op_discard,
    .write_zeroes = rbd_op_write_zeroes,
    .extent = rbd_op_extent,
    .resize = rbd_op_resize,
    .close = rbd_op_close,
};

/* ---- opening ---- */

static int rbd_load_libraries(struct rbd *r, struct blk_why *why)
{
    static const struct sys_symbol rados[] = {
#define X(f) { #f, offsetof(struct rbd_lib, f) },
        RADOS_FUNCTIONS(X)
    };
    static const struct sys_symbol rbd[] = { RBD_FUNCTIONS(X)
#undef X
    };
    int res = sys_library_open("librados.so.2", rados, ARRAY_SIZE(rados), &r->lib, &r->rados_library);

    if (res == 0)
        res = sys_library_open("librbd.so.1", rbd, ARRAY_SIZE(rbd), &r->lib, &r->rbd_library);
    return res < 0 ? blk_why_set(why, ENOPKG, r->node.path, "needs librbd, in Debian the package librbd1") : 0;
}

/* rbd:POOL/IMAGE[@SNAPSHOT][:conf=FILE][:id=USER] */
static int rbd_parse(const char *path, struct rbd_name *name)
{
    char *save = NULL, *word, *text = strdup(path + strlen("rbd:"));

    if (!text)
        return -ENOMEM;
    *name = (struct rbd_name){ .text = text };
    name->pool = strtok_r(name->text, ":", &save);
    while ((word = strtok_r(NULL, ":", &save))) {
        if (strncmp(word, "conf=", 5) == 0)
            name->conf = word + 5;
        else if (strncmp(word, "id=", 3) == 0)
            name->id = word + 3;
        else
            return -EINVAL;
    }
    name->image = name->pool ? strchr(name->pool, '/') : NULL;
    if (!name->image || name->image == name->pool || !name->image[1])
        return -EINVAL;
    *name->image++ = '\0';
    name->snapshot = strchr(name->image, '@');
    if (name->snapshot)
        *name->snapshot++ = '\0';
    return 0;
}

static int rbd_connect(struct rbd *r, const struct rbd_name *name, struct blk_why *why)
{
    int res = r->lib.rados_create(&r->cluster, name->id ? name->id : RBD_ADMIN);

    if (res < 0)
        return res;
    res = r->lib.rados_conf_read_file(r->cluster, name->conf);
    if (res < 0)
        return blk_why_set(why, -res, r->node.path,
                           "needs a Ceph configuration that can be read: name it with :conf=FILE");
    (void)r->lib.rados_conf_set(r->cluster, "client_mount_timeout", RBD_CONNECT_SECONDS);
    (void)r->lib.rados_conf_set(r->cluster, "rados_osd_op_timeout", RBD_ANSWER_SECONDS);
    (void)r->lib.rados_conf_set(r->cluster, "rados_mon_op_timeout", RBD_ANSWER_SECONDS);
    res = r->lib.rados_connect(r->cluster);
    if (res < 0)
        return blk_why_set(why, -res, r->node.path,
                           "is in a Ceph cluster that cannot be reached, or that refuses the user");
    res = r->lib.rados_ioctx_create(r->cluster, name->pool, &r->pool);
    return res < 0 ? blk_why_set(why, -res, r->node.path, "is in a Ceph pool that cannot be opened") : 0;
}

static int rbd_open_image(struct rbd *r, const struct rbd_name *name, bool read_only, struct blk_why *why)
{
    int res;

    if (name->snapshot && !read_only)
        return blk_why_set(why, EROFS, r->node.path, "is a Ceph snapshot, which can only be read");
    res = read_only ? r->lib.rbd_open_read_only(r->pool, name->image, &r->image, name->snapshot)
                    : r->lib.rbd_open(r->pool, name->image, &r->image, NULL);
    if (res < 0) {
        r->image = NULL;
        return blk_why_set(why, -res, r->node.path, "cannot be opened in its Ceph pool");
    }
    /* -EINVAL: the image has no such lock. */
    res = read_only ? 0 : r->lib.rbd_lock_acquire(r->image, RBD_LOCK_MODE_EXCLUSIVE);
    if (res < 0 && res != -EINVAL)
        return res == -EROFS || res == -EBUSY ? -EBUSY : res;
    return r->lib.rbd_get_size(r->image, &r->node.size);
}

int blk_rbd_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    struct rbd *r = calloc(1, sizeof(*r));
    struct rbd_name name = { 0 };
    int res;

    if (!r)
        return -ENOMEM;
    r->node = (struct blk_node){ .ops = &rbd_ops,
                                 .read_only = config->read_only,
                                 .block_size = BLK_SECTOR,
                                 .physical_block_size = 4096,
                                 .path = strdup(config->path) };
    r->no_sync = config->cache == BLK_CACHE_UNSAFE;
    res = r->node.path ? rbd_parse(config->path, &name) : -ENOMEM;
    if (res == -EINVAL)
        (void)blk_why_set(why, EINVAL, config->path,
                          "is no Ceph image: write rbd:POOL/IMAGE[@SNAPSHOT][:conf=FILE][:id=USER]");
    if (res == 0)
        res = rbd_load_libraries(r, why);
    if (res == 0)
        res = rbd_connect(r, &name, why);
    if (res == 0)
        res = rbd_open_image(r, &name, config->read_only, why);
    free(name.text);
    if (res < 0) {
        rbd_op_close(&r->node);
        return res;
    }
    *ret_node = &r->node;
    return 0;
}

#else

int blk_rbd_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    (void)ret_node;
    return blk_why_set(why, ENOTSUP, config->path,
                       "is a Ceph image, which this build cannot open (librbd was not there)");
}

#endif
