/* Disks of an NBD server, through libnbd: nbd://HOST/EXPORT, nbds:// with TLS, nbd+unix:///EXPORT?socket=PATH.
 *
 * A node keeps up to NBD_CONNS connections, as many as the server allows to use together; a call takes one for itself,
 * so that as many calls run at once. A connection that died is made again by the next call that needs it, which then
 * repeats its request (all requests may be repeated); while the server is away, calls fail with -ENOTCONN or
 * -ETIMEDOUT, and whoever called decides whether to try again. A server that comes back with a disk of another
 * size is refused.
 *
 * What the server says is checked by libnbd and here; nothing waits for it longer than NBD_TIMEOUT_MS. Spec: the NBD
 * protocol, doc/proto.md of its project. */
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "block/align.h"
#include "sys/library.h"
#include "block/open.h"
#include "sys/loop.h"

#define NBD_CONNS 4
#define NBD_TIMEOUT_MS 30000
#define NBD_CONNECT_MS 10000
#define NBD_TRANSFER_MAX (2u << 20)
#define NBD_RANGE_MAX (1u << 30)
#define NBD_CONTEXT "base:allocation"

/* Functions of the library, called as nbd->lib.NAME. */
#define NBD_FUNCTIONS(X)            \
    X(nbd_create)                   \
    X(nbd_close)                    \
    X(nbd_get_errno)                \
    X(nbd_add_meta_context)         \
    X(nbd_set_uri_allow_local_file) \
    X(nbd_aio_connect_uri)          \
    X(nbd_aio_is_connecting)        \
    X(nbd_aio_is_ready)             \
    X(nbd_aio_is_dead)              \
    X(nbd_aio_is_closed)            \
    X(nbd_poll)                     \
    X(nbd_get_size)                 \
    X(nbd_get_block_size)           \
    X(nbd_is_read_only)             \
    X(nbd_can_flush)                \
    X(nbd_can_trim)                 \
    X(nbd_can_zero)                 \
    X(nbd_can_multi_conn)           \
    X(nbd_can_meta_context)         \
    X(nbd_aio_pread)                \
    X(nbd_aio_pwrite)               \
    X(nbd_aio_flush)                \
    X(nbd_aio_trim)                 \
    X(nbd_aio_zero)                 \
    X(nbd_aio_block_status)         \
    X(nbd_aio_command_completed)    \
    X(nbd_aio_disconnect)

struct nbd_lib {
#define X(f) __typeof__(f) *f;
    NBD_FUNCTIONS(X)
#undef X
};

struct nbd_conn {
    struct nbd_handle *h; /* NULL: not connected */
    bool taken;
};

struct nbd {
    struct blk_node node;
    struct nbd_lib lib;
    void *library;
    uint32_t align;     /* smallest transfer, >= 1 */
    uint64_t piece_max; /* largest */
    bool no_sync, can_flush, can_trim, can_zero, can_status;
    pthread_mutex_t lock; /* of the connections */
    pthread_cond_t freed;
    pthread_mutex_t edge_lock; /* writes of partial blocks */
    unsigned n_conns;
    struct nbd_conn conns[NBD_CONNS];
};

enum nbd_command { NBD_READ, NBD_WRITE, NBD_FLUSH, NBD_TRIM, NBD_ZERO, NBD_STATUS };

struct nbd_call {
    enum nbd_command command;
    uint64_t off, len;
    void *data;     /* READ, WRITE */
    uint32_t flags; /* LIBNBD_CMD_FLAG_* */
    struct blk_extent *extent;
};

static struct nbd *nbd_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct nbd, node);
}

/* ---- connections ---- */

/* -errno for the library's last error in this thread. */
static int nbd_error(struct nbd *nbd)
{
    int code = nbd->lib.nbd_get_errno();

    return code > 0 ? -code : -EIO;
}

static void nbd_disconnect(struct nbd *nbd, struct nbd_conn *c)
{
    nbd->lib.nbd_close(c->h);
    c->h = NULL;
}

static int nbd_wait_connected(struct nbd *nbd, struct nbd_handle *h)
{
    uint64_t end = sys_now_ns() + NBD_CONNECT_MS * 1000000ULL;

    while (nbd->lib.nbd_aio_is_connecting(h)) {
        uint64_t now = sys_now_ns();

        if (now >= end)
            return -ETIMEDOUT;
        if (nbd->lib.nbd_poll(h, (int)((end - now) / 1000000) + 1) < 0)
            return nbd_error(nbd);
    }
    return nbd->lib.nbd_aio_is_ready(h) > 0 ? 0 : -ENOTCONN;
}

static int nbd_connect(struct nbd *nbd, struct nbd_conn *c)
{
    int res = 0;

    c->h = nbd->lib.nbd_create();
    if (!c->h)
        return -ENOMEM;
    /* Local files: certificates and keys for TLS, which a URI may name. */
    if (nbd->lib.nbd_set_uri_allow_local_file(c->h, true) < 0 || nbd->lib.nbd_add_meta_context(c->h, NBD_CONTEXT) < 0 ||
        nbd->lib.nbd_aio_connect_uri(c->h, nbd->node.path) < 0)
        res = nbd_error(nbd);
    if (res == 0)
        res = nbd_wait_connected(nbd, c->h);
    /* The disk that we know, not another one in its place. */
    if (res == 0 && nbd->node.size && nbd->lib.nbd_get_size(c->h) != (int64_t)nbd->node.size)
        res = -ESTALE;
    if (res < 0)
        nbd_disconnect(nbd, c);
    return res;
}

static struct nbd_conn *nbd_take(struct nbd *nbd)
{
    struct nbd_conn *found = NULL;

    pthread_mutex_lock(&nbd->lock);
    while (!found) {
        for (unsigned i = 0; i < nbd->n_conns && !found; i++) {
            if (!nbd->conns[i].taken)
                found = &nbd->conns[i];
        }
        if (!found)
            pthread_cond_wait(&nbd->freed, &nbd->lock);
    }
    found->taken = true;
    pthread_mutex_unlock(&nbd->lock);
    return found;
}

static void nbd_give_back(struct nbd *nbd, struct nbd_conn *c)
{
    pthread_mutex_lock(&nbd->lock);
    c->taken = false;
    pthread_cond_signal(&nbd->freed);
    pthread_mutex_unlock(&nbd->lock);
}

/* ---- calls ---- */

/* The server's word about the first range; NBD_CMD_BLOCK_STATUS may say more or less than was asked. */
static int nbd_status_seen(void *opaque, const char *context, uint64_t off, uint32_t *entries, size_t n, int *error)
{
    struct nbd_call *call = opaque;

    (void)error;
    if (strcmp(context, NBD_CONTEXT) != 0 || off != call->off || n < 2 || entries[0] == 0)
        return 0;
    call->extent->len = MIN(entries[0], call->len);
    call->extent->flags = BLK_EXT_ALLOCATED | (entries[1] & LIBNBD_STATE_ZERO ? BLK_EXT_ZERO : BLK_EXT_DATA);
    return 0;
}

static int64_t nbd_send(struct nbd *nbd, struct nbd_handle *h, struct nbd_call *call)
{
    const nbd_extent_callback seen = { .callback = nbd_status_seen, .user_data = call };

    switch (call->command) {
    case NBD_READ:
        return nbd->lib.nbd_aio_pread(h, call->data, call->len, call->off, NBD_NULL_COMPLETION, 0);
    case NBD_WRITE:
        return nbd->lib.nbd_aio_pwrite(h, call->data, call->len, call->off, NBD_NULL_COMPLETION, 0);
    case NBD_FLUSH:
        return nbd->lib.nbd_aio_flush(h, NBD_NULL_COMPLETION, 0);
    case NBD_TRIM:
        return nbd->lib.nbd_aio_trim(h, call->len, call->off, NBD_NULL_COMPLETION, 0);
    case NBD_ZERO:
        return nbd->lib.nbd_aio_zero(h, call->len, call->off, NBD_NULL_COMPLETION, call->flags);
    case NBD_STATUS:
        return nbd->lib.nbd_aio_block_status(h, call->len, call->off, seen, NBD_NULL_COMPLETION,
                                             LIBNBD_CMD_FLAG_REQ_ONE);
    }
    return -1;
}

/* One exchange. *ret_dead: the connection is of no use any more. */
static int nbd_exchange(struct nbd *nbd, struct nbd_handle *h, struct nbd_call *call, bool *ret_dead)
{
    uint64_t end = sys_now_ns() + NBD_TIMEOUT_MS * 1000000ULL;
    int64_t cookie = nbd_send(nbd, h, call);
    int done = cookie < 0 ? -1 : 0, res;

    while (done == 0 && (done = nbd->lib.nbd_aio_command_completed(h, (uint64_t)cookie)) == 0) {
        uint64_t now = sys_now_ns();

        if (now >= end) {
            *ret_dead = true; /* an answer that came now would find nobody */
            return -ETIMEDOUT;
        }
        if (nbd->lib.nbd_poll(h, (int)((end - now) / 1000000) + 1) < 0)
            done = -1;
    }
    if (done > 0)
        return 0;
    res = nbd_error(nbd);
    *ret_dead = nbd->lib.nbd_aio_is_dead(h) > 0 || nbd->lib.nbd_aio_is_closed(h) > 0;
    return *ret_dead ? -ENOTCONN : res;
}

/* Connect again. Why a server is away makes no difference (its socket is gone, nobody listens, it says nothing that
 * makes sense yet): it may come back. */
static int nbd_reconnect(struct nbd *nbd, struct nbd_conn *c)
{
    int res = nbd_connect(nbd, c);

    return res < 0 && res != -ESTALE && res != -ETIMEDOUT && res != -ENOMEM ? -ENOTCONN : res;
}

static int nbd_call(struct nbd *nbd, struct nbd_call *call)
{
    struct nbd_conn *c = nbd_take(nbd);
    int res = 0;

    for (unsigned attempt = 0; attempt < 2; attempt++) {
        bool fresh = !c->h, dead = false;

        if (fresh)
            res = nbd_reconnect(nbd, c);
        if (c->h)
            res = nbd_exchange(nbd, c->h, call, &dead);
        if (dead)
            nbd_disconnect(nbd, c);
        if (!dead || fresh)
            break;
    }
    nbd_give_back(nbd, c);
    return res;
}

/* A range in pieces that the server takes. */
static int nbd_ranges(struct nbd *nbd, struct nbd_call call, uint64_t off, uint64_t len, uint64_t piece)
{
    uint8_t *data = call.data;
    int res = 0;

    for (uint64_t done = 0; done < len && res == 0; done += piece) {
        call.off = off + done;
        call.len = MIN(len - done, piece);
        call.data = data ? data + done : NULL;
        res = nbd_call(nbd, &call);
    }
    return res;
}

static int nbd_flat(void *opaque, bool write, uint64_t off, uint8_t *data, uint64_t len)
{
    struct nbd *nbd = opaque;
    const struct nbd_call call = { .command = write ? NBD_WRITE : NBD_READ, .data = data };

    return nbd_ranges(nbd, call, off, len, nbd->piece_max);
}

static int nbd_transfer(struct nbd *nbd, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov,
                        uint64_t len)
{
    const struct blk_align a = { .align = nbd->align, .flat = nbd_flat, .opaque = nbd };
    const bool aligned = (off | len) % nbd->align == 0;
    int res;

    if (aligned && n_iov == 1)
        return nbd_flat(nbd, write, off, iov[0].iov_base, len);
    if (write && !aligned)
        pthread_mutex_lock(&nbd->edge_lock);
    res = blk_align_bounce(&a, write, off, iov, n_iov, 0, len);
    if (write && !aligned)
        pthread_mutex_unlock(&nbd->edge_lock);
    return res;
}

/* ---- operations ---- */

static int nbd_op_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    uint64_t inside = off < n->size ? MIN(len, n->size - off) : 0;
    AUTO_FREE struct iovec *part = NULL;

    if (inside == len)
        return nbd_transfer(nbd_of(n), false, off, iov, n_iov, len);
    blk_iov_zero(iov, n_iov, inside, len - inside);
    part = calloc(n_iov, sizeof(*part));
    if (!part)
        return -ENOMEM;
    return inside ? nbd_transfer(nbd_of(n), false, off, part, blk_iov_slice(iov, n_iov, 0, inside, part), inside) : 0;
}

/* An export does not grow. */
static bool nbd_fits(const struct blk_node *n, uint64_t off, uint64_t len)
{
    return off <= n->size && len <= n->size - off;
}

static int nbd_op_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    return nbd_fits(n, off, len) ? nbd_transfer(nbd_of(n), true, off, iov, n_iov, len) : -ENOSPC;
}

static int nbd_op_flush(struct blk_node *n)
{
    struct nbd_call call = { .command = NBD_FLUSH };

    return nbd_of(n)->can_flush && !nbd_of(n)->no_sync ? nbd_call(nbd_of(n), &call) : 0;
}

static int nbd_op_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    struct nbd *nbd = nbd_of(n);
    uint64_t first = align_up(off, nbd->align), end = align_down(off + len, nbd->align);
    const struct nbd_call call = { .command = NBD_TRIM };

    if (!nbd->can_trim || !nbd_fits(n, off, len) || first >= end)
        return 0;
    return nbd_ranges(nbd, call, first, end - first, NBD_RANGE_MAX);
}

static int nbd_op_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct nbd *nbd = nbd_of(n);
    const struct nbd_call call = { .command = NBD_ZERO, .flags = flags & BLK_ZERO_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE };

    if (!nbd_fits(n, off, len))
        return -ENOSPC;
    if (!nbd->can_zero || (off | len) % nbd->align)
        return -ENOTSUP;
    return nbd_ranges(nbd, call, off, len, NBD_RANGE_MAX);
}

static int nbd_op_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    struct nbd *nbd = nbd_of(n);
    uint64_t skip = off % nbd->align;
    struct blk_extent x = { .flags = BLK_EXT_ALLOCATED | BLK_EXT_DATA, .len = MIN(len + skip, NBD_RANGE_MAX) };
    struct nbd_call call = { .command = NBD_STATUS, .off = off - skip, .len = x.len, .extent = &x };
    int res = nbd->can_status ? nbd_call(nbd, &call) : 0;

    if (res == -ENOTCONN || res == -ETIMEDOUT)
        return res;
    if (x.len <= skip) /* a server that says less than its block size */
        x = (struct blk_extent){ .flags = BLK_EXT_ALLOCATED | BLK_EXT_DATA, .len = len + skip };
    x.len = MIN(x.len - skip, len);
    *ret_extent = x;
    return 0;
}

static void nbd_op_close(struct blk_node *n)
{
    struct nbd *nbd = nbd_of(n);

    for (unsigned i = 0; i < NBD_CONNS; i++) {
        if (!nbd->conns[i].h)
            continue;
        (void)nbd->lib.nbd_aio_disconnect(nbd->conns[i].h, 0); /* a polite end; nobody waits for it */
        nbd_disconnect(nbd, &nbd->conns[i]);
    }
    sys_library_close(nbd->library);
    pthread_mutex_destroy(&nbd->lock);
    pthread_mutex_destroy(&nbd->edge_lock);
    pthread_cond_destroy(&nbd->freed);
    free(n->path);
    free(nbd);
}

static const struct blk_node_ops nbd_ops = {
    .name = "nbd",
    .pread = nbd_op_pread,
    .pwrite = nbd_op_pwrite,
    .flush = nbd_op_flush,
    .discard = nbd_op_discard,
    .write_zeroes = nbd_op_write_zeroes,
    .extent = nbd_op_extent,
    .close = nbd_op_close,
};

/* ---- opening ---- */

static int nbd_load_library(struct nbd *nbd, struct blk_why *why)
{
    static const struct sys_symbol symbols[] = {
#define X(f) { #f, offsetof(struct nbd_lib, f) },
        NBD_FUNCTIONS(X)
#undef X
    };
    int res = sys_library_open("libnbd.so.0", symbols, ARRAY_SIZE(symbols), &nbd->lib, &nbd->library);

    if (res < 0)
        return blk_why_set(why, ENOPKG, nbd->node.path, "needs libnbd 1.14 or newer, in Debian the package libnbd0");
    return 0;
}

/* What the server offers; numbers from outside are brought into bounds. */
static int nbd_negotiated(struct nbd *nbd, bool read_only, struct blk_why *why)
{
    struct nbd_handle *h = nbd->conns[0].h;
    int64_t size = nbd->lib.nbd_get_size(h);
    int64_t least = nbd->lib.nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t most = nbd->lib.nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

    if (size < 0)
        return nbd_error(nbd);
    if (!read_only && nbd->lib.nbd_is_read_only(h) > 0)
        return blk_why_set(why, EROFS, nbd->node.path, "is exported read-only by its NBD server");
    if (least > 0 && (!is_pow2((uint64_t)least) || least > (64 << 10)))
        return blk_why_set(why, EPROTO, nbd->node.path, "has an NBD server that demands an impossible block size");
    nbd->align = least > 0 ? (uint32_t)least : 1;
    nbd->piece_max = most > 0 ? MIN((uint64_t)most, NBD_TRANSFER_MAX) : NBD_TRANSFER_MAX;
    nbd->piece_max = MAX(align_down(nbd->piece_max, nbd->align), nbd->align);
    nbd->node.size = (uint64_t)size;
    nbd->node.read_only = read_only;
    nbd->node.block_size = MAX(nbd->align, BLK_SECTOR);
    nbd->node.physical_block_size = MAX(4096u, nbd->node.block_size);
    nbd->can_flush = nbd->lib.nbd_can_flush(h) > 0;
    nbd->can_trim = nbd->lib.nbd_can_trim(h) > 0;
    nbd->can_zero = nbd->lib.nbd_can_zero(h) > 0;
    nbd->can_status = nbd->lib.nbd_can_meta_context(h, NBD_CONTEXT) > 0;
    /* Several connections need a server whose flush covers the writes of all of them. */
    nbd->n_conns = read_only || nbd->lib.nbd_can_multi_conn(h) > 0 ? NBD_CONNS : 1;
    return 0;
}

int blk_nbd_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    struct nbd *nbd = calloc(1, sizeof(*nbd));
    int res = 0;

    if (!nbd)
        return -ENOMEM;
    nbd->node.ops = &nbd_ops;
    nbd->no_sync = config->cache == BLK_CACHE_UNSAFE;
    pthread_mutex_init(&nbd->lock, NULL);
    pthread_mutex_init(&nbd->edge_lock, NULL);
    pthread_cond_init(&nbd->freed, NULL);
    nbd->node.path = strdup(config->path);
    if (!nbd->node.path)
        res = -ENOMEM;
    if (res == 0)
        res = nbd_load_library(nbd, why);
    if (res == 0) {
        res = nbd_connect(nbd, &nbd->conns[0]);
        if (res < 0)
            (void)blk_why_set(why, -res, config->path,
                              "cannot be reached: is its NBD server running, and the name of the export right?");
    }
    if (res == 0)
        res = nbd_negotiated(nbd, config->read_only, why);
    if (res < 0) {
        nbd_op_close(&nbd->node);
        return res;
    }
    *ret_node = &nbd->node;
    return 0;
}
