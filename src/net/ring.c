/* Shared frame rings. Both directions are mapped twice in a row, so that a record that goes over the end of its ring is
 * contiguous all the same. */
#include "net/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "base/log.h"
#include "net/ring_priv.h"
#include "sys/loop.h"

enum {
    NET_RING_BUDGET = 256,       /* frames in one go */
    NET_RING_MTU_MIN = 68,       /* RFC 791 */
    NET_RING_PUBLISH = 16 << 10, /* bytes after which the peer may see them, though the batch is not over */
    NET_RING_DRAIN = 512,        /* bytes read from a doorbell at once */
    NET_RING_OFFLOADS = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN | NET_OFF_USO,
};

struct net_ring {
    struct net_backend base;
    struct net_ring_config config;
    struct loop_fd *src;
    struct loop_timer *timer; /* goes on after a budget that was used up outside an event */
    void *map;                /* all of it; NULL: none */
    size_t map_bytes;
    uint32_t bytes; /* of one direction */
    struct net_ring_ctl *tx, *rx;
    uint8_t *tx_data, *rx_data;
    uint32_t tx_head, tx_published, tx_tail; /* tx_tail: as last read, and checked */
    uint32_t rx_tail, rx_published;
    bool tx_blocked;       /* send said no and promised send_ready */
    bool rx_pending;       /* frame holds one that the receiver had no room for */
    bool dead;             /* peer gone or broken */
    bool reported;         /* hangup was called */
    uint32_t blocked_need; /* bytes that the refused frame takes */
    uint32_t rx_len;       /* of what is in frame */
    struct net_hdr rx_hdr;
    struct net_ring_counters counters;
    uint8_t frame[NET_FRAME_MAX];
};

/* ---- the peer ---- */

static void net_ring_end(struct net_ring *r, bool broken)
{
    if (r->dead)
        return;
    r->dead = true;
    r->counters.broken = broken;
    log_debug("net: ring: the peer %s", broken ? "broke the rules" : "is gone");
    loop_fd_free(r->src);
    r->src = NULL;
    loop_timer_set(r->timer, 1); /* hangup is called from there, where the owner may close us */
}

static void net_ring_ring(struct net_ring *r)
{
    /* A full pipe wakes as well as one byte more; a closed one is noticed by its other half. */
    r->counters.rung++;
    if (write(r->config.fds.doorbell_out, "", 1) < 0)
        return;
}

static void net_ring_drain(struct net_ring *r)
{
    char bytes[NET_RING_DRAIN];

    if (read(r->config.fds.doorbell_in, bytes, sizeof(bytes)) < 0)
        return; /* nothing there */
}

/* ---- producing ---- */

/* Let the peer see what was written, and wake it where it sleeps before that. */
static void net_ring_publish(struct net_ring *r)
{
    uint32_t old = r->tx_published;

    if (r->tx_head == old)
        return;
    atomic_store_explicit(&r->tx->head, r->tx_head, memory_order_release);
    r->tx_published = r->tx_head;
    atomic_thread_fence(memory_order_seq_cst);
    if (net_ring_passed(atomic_load_explicit(&r->tx->data_event, memory_order_relaxed), old, r->tx_head))
        net_ring_ring(r);
}

/* Read how far the peer is. False: it lies. */
static bool net_ring_read_tail(struct net_ring *r)
{
    uint32_t tail = atomic_load_explicit(&r->tx->tail, memory_order_acquire);

    /* It may only move forward, and not beyond what it was given. */
    if (tail - r->tx_tail > r->tx_published - r->tx_tail)
        return false;
    r->tx_tail = tail;
    return true;
}

static bool net_ring_has_room(const struct net_ring *r, uint32_t need)
{
    return r->bytes - (r->tx_head - r->tx_tail) >= need;
}

/* Make room for need bytes known. False: there is none, or the ring is dead. */
static bool net_ring_find_room(struct net_ring *r, uint32_t need)
{
    if (net_ring_has_room(r, need))
        return true;
    if (!net_ring_read_tail(r))
        goto broken;
    if (net_ring_has_room(r, need))
        return true;
    net_ring_publish(r);
    if (!r->base.receiver.send_ready)
        return false;
    /* Wake us when half of it is free, not for each frame. */
    atomic_store_explicit(&r->tx->space_event, r->tx_head - r->bytes / 2 - 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!net_ring_read_tail(r))
        goto broken;
    if (net_ring_has_room(r, need))
        return true;
    r->tx_blocked = true;
    r->blocked_need = need;
    return false;
broken:
    net_ring_end(r, true);
    return false;
}

static bool net_ring_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                          size_t len)
{
    struct net_ring *r = (struct net_ring *)b;
    struct net_ring_record record = { .len = (uint32_t)len, .hdr = *hdr };
    uint32_t need = net_ring_need(len);
    uint8_t *to;

    if (r->dead)
        return true;
    if (!net_ring_find_room(r, need))
        return r->dead;
    to = r->tx_data + (r->tx_head & (r->bytes - 1));
    memcpy(to, &record, sizeof(record));
    to += sizeof(record);
    for (unsigned i = 0; i < n_iov; i++) {
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
        to += iov[i].iov_len;
    }
    r->tx_head += need;
    if (r->tx_head - r->tx_published >= NET_RING_PUBLISH)
        net_ring_publish(r);
    return true;
}

static void net_ring_send_done(struct net_backend *b)
{
    struct net_ring *r = (struct net_ring *)b;

    if (!r->dead)
        net_ring_publish(r);
}

/* ---- consuming ---- */

/* Tell the peer how much is free, and wake it where it waits for that. */
static void net_ring_release(struct net_ring *r)
{
    uint32_t old = r->rx_published;

    if (r->rx_tail == old)
        return;
    atomic_store_explicit(&r->rx->tail, r->rx_tail, memory_order_release);
    r->rx_published = r->rx_tail;
    atomic_thread_fence(memory_order_seq_cst);
    if (net_ring_passed(atomic_load_explicit(&r->rx->space_event, memory_order_relaxed), old, r->rx_tail))
        net_ring_ring(r);
}

/* Copy the next record out. 1: taken; 0: none; -EPROTO: the ring makes no sense. */
static int net_ring_take(struct net_ring *r)
{
    uint32_t avail = atomic_load_explicit(&r->rx->head, memory_order_acquire) - r->rx_tail;
    struct net_ring_record record;
    const uint8_t *from = r->rx_data + (r->rx_tail & (r->bytes - 1));

    if (avail == 0)
        return 0;
    /* All records are whole units, so there is at least the head of one. */
    if (avail > r->bytes || avail % NET_RING_ALIGN != 0)
        return -EPROTO;
    memcpy(&record, from, sizeof(record));
    if (record.len < NET_HEADER || record.len > NET_FRAME_MAX || net_ring_need(record.len) > avail)
        return -EPROTO;
    memcpy(r->frame, from + sizeof(record), record.len);
    r->rx_hdr = record.hdr;
    r->rx_len = record.len;
    r->rx_tail += net_ring_need(record.len);
    if (r->rx_tail - r->rx_published >= r->bytes / 8)
        net_ring_release(r);
    return 1;
}

/* Hand over frames until there are none, the receiver has no room or the budget is used up. True: there may be more. */
static bool net_ring_consume(struct net_ring *r)
{
    unsigned budget = NET_RING_BUDGET;
    int res = 0;

    while (budget > 0) {
        if (!r->rx_pending) {
            res = net_ring_take(r);
            if (res < 0)
                break;
            if (res == 0) {
                /* Asked to be woken from here on; what came before that is seen now. */
                atomic_store_explicit(&r->rx->data_event, r->rx_tail, memory_order_relaxed);
                atomic_thread_fence(memory_order_seq_cst);
                if (atomic_load_explicit(&r->rx->head, memory_order_relaxed) == r->rx_tail)
                    break;
                budget--;
                continue;
            }
        }
        r->rx_pending = !net_backend_deliver(&r->base, &r->rx_hdr, r->frame, r->rx_len);
        if (r->rx_pending)
            break;
        budget--;
    }
    net_backend_deliver_done(&r->base);
    net_ring_release(r);
    if (res < 0)
        net_ring_end(r, true);
    return budget == 0 && !r->dead;
}

static void net_ring_go_on(struct net_ring *r)
{
    if (net_ring_consume(r))
        loop_timer_set(r->timer, 1);
}

static void net_ring_event(void *opaque, uint32_t events)
{
    struct net_ring *r = opaque;

    r->counters.woken++;
    net_ring_drain(r); /* before looking, so that no ring is lost */
    r->base.offloads = atomic_load_explicit(&r->tx->offloads, memory_order_relaxed) & NET_RING_OFFLOADS;
    if (r->tx_blocked && !net_ring_read_tail(r)) {
        net_ring_end(r, true);
        return;
    }
    if (r->tx_blocked && net_ring_has_room(r, r->blocked_need)) {
        r->tx_blocked = false;
        net_backend_send_ready(&r->base);
    }
    if (!r->dead && !r->rx_pending)
        net_ring_go_on(r);
    if (events & (EPOLLHUP | EPOLLERR))
        net_ring_end(r, false);
}

static void net_ring_timeout(void *opaque)
{
    struct net_ring *r = opaque;

    if (!r->dead && !r->rx_pending) {
        net_ring_go_on(r);
    } else if (r->dead && !r->reported) {
        r->reported = true;
        if (r->config.hangup)
            r->config.hangup(r->config.opaque);
    }
}

static void net_ring_receive_ready(struct net_backend *b)
{
    struct net_ring *r = (struct net_ring *)b;

    if (!r->dead && r->rx_pending)
        net_ring_go_on(r);
}

static void net_ring_set_receive_offloads(struct net_backend *b, unsigned offloads)
{
    struct net_ring *r = (struct net_ring *)b;

    if (r->dead || atomic_load_explicit(&r->rx->offloads, memory_order_relaxed) == offloads)
        return;
    atomic_store_explicit(&r->rx->offloads, offloads, memory_order_relaxed);
    net_ring_ring(r); /* so that the peer looks */
}

/* ---- construction ---- */

void net_ring_fds_close(struct net_ring_fds *fds)
{
    int *all[] = { &fds->memory, &fds->doorbell_in, &fds->doorbell_out };

    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        base_closep(all[i]);
        *all[i] = -1;
    }
}

static void net_ring_close(struct net_backend *b)
{
    struct net_ring *r = (struct net_ring *)b;

    loop_fd_free(r->src);
    loop_timer_free(r->timer);
    if (r->map)
        munmap(r->map, r->map_bytes);
    net_ring_fds_close(&r->config.fds);
    free(r);
}

static const struct net_backend_ops net_ring_ops = {
    .name = "ring",
    .send = net_ring_send,
    .send_done = net_ring_send_done,
    .receive_ready = net_ring_receive_ready,
    .set_receive_offloads = net_ring_set_receive_offloads,
    .close = net_ring_close,
};

static size_t net_ring_file_bytes(size_t bytes)
{
    return NET_RING_PAGE + 2 * bytes;
}

static bool net_ring_bytes_ok(size_t bytes)
{
    return is_pow2(bytes) && bytes >= NET_RING_BYTES_MIN && bytes <= NET_RING_BYTES_MAX;
}

int net_ring_create(size_t bytes, struct net_ring_fds *ret_switch, struct net_ring_fds *ret_vm)
{
    struct net_ring_fds a = { -1, -1, -1 }, b = { -1, -1, -1 };
    int to_a[2] = { -1, -1 }, to_b[2] = { -1, -1 }, res = 0;

    if (!net_ring_bytes_ok(bytes))
        return -EINVAL;
    a.memory = memfd_create("net-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (a.memory < 0 || ftruncate(a.memory, (off_t)net_ring_file_bytes(bytes)) < 0 ||
        fcntl(a.memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        res = -errno;
    if (res == 0 && (b.memory = fcntl(a.memory, F_DUPFD_CLOEXEC, 0)) < 0)
        res = -errno;
    if (res == 0 && (pipe2(to_a, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(to_b, O_CLOEXEC | O_NONBLOCK) < 0))
        res = -errno;
    a.doorbell_in = to_a[0];
    a.doorbell_out = to_b[1];
    b.doorbell_in = to_b[0];
    b.doorbell_out = to_a[1];
    if (res < 0) {
        net_ring_fds_close(&a);
        net_ring_fds_close(&b);
        return res;
    }
    /* Pages of pipes are limited for each user, and one byte at a time is all that we write. */
    (void)fcntl(a.doorbell_in, F_SETPIPE_SZ, NET_RING_PAGE);
    (void)fcntl(b.doorbell_in, F_SETPIPE_SZ, NET_RING_PAGE);
    *ret_switch = a;
    *ret_vm = b;
    return 0;
}

/* Map a direction's bytes twice in a row at `at`, inside what is reserved. */
static int net_ring_map_twice(const struct net_ring *r, uint8_t *at, off_t offset)
{
    for (unsigned i = 0; i < 2; i++) {
        if (mmap(at + (size_t)i * r->bytes, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                 r->config.fds.memory, offset) == MAP_FAILED)
            return -errno;
    }
    return 0;
}

static int net_ring_map(struct net_ring *r)
{
    enum net_ring_side me = r->config.side, peer = me == NET_RING_VM ? NET_RING_SWITCH : NET_RING_VM;
    struct net_ring_page *page;
    uint8_t *data[2];
    int res;

    r->map_bytes = NET_RING_PAGE + 4 * (size_t)r->bytes;
    r->map = mmap(NULL, r->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->map == MAP_FAILED) {
        r->map = NULL;
        return -errno;
    }
    page = r->map;
    data[0] = (uint8_t *)r->map + NET_RING_PAGE;
    data[1] = data[0] + 2 * (size_t)r->bytes;
    if (mmap(page, NET_RING_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->config.fds.memory, 0) ==
        MAP_FAILED)
        return -errno;
    res = net_ring_map_twice(r, data[0], NET_RING_PAGE);
    if (res == 0)
        res = net_ring_map_twice(r, data[1], NET_RING_PAGE + (off_t)r->bytes);
    r->rx = &page->ctl[me];
    r->rx_data = data[me];
    r->tx = &page->ctl[peer];
    r->tx_data = data[peer];
    return res;
}

/* Whether the descriptors are what they should be; sets r->bytes. They may come from a process that we do not trust. */
static int net_ring_check_fds(struct net_ring *r)
{
    const struct net_ring_fds *fds = &r->config.fds;
    struct stat memory, in, out;
    int seals;

    if (fstat(fds->memory, &memory) < 0 || fstat(fds->doorbell_in, &in) < 0 || fstat(fds->doorbell_out, &out) < 0)
        return -errno;
    if (!S_ISREG(memory.st_mode) || !S_ISFIFO(in.st_mode) || !S_ISFIFO(out.st_mode) || memory.st_size < NET_RING_PAGE ||
        memory.st_size > (off_t)net_ring_file_bytes(NET_RING_BYTES_MAX) ||
        !net_ring_bytes_ok((size_t)(memory.st_size - NET_RING_PAGE) / 2) ||
        net_ring_file_bytes((size_t)(memory.st_size - NET_RING_PAGE) / 2) != (size_t)memory.st_size)
        return -EINVAL;
    seals = fcntl(fds->memory, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPERM;
    r->bytes = (uint32_t)((memory.st_size - NET_RING_PAGE) / 2);
    if (fcntl(fds->doorbell_in, F_SETFL, O_NONBLOCK) < 0 || fcntl(fds->doorbell_out, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

/* Go on where an earlier user of this end stopped: a VM that starts afresh keeps its port. In new memory all is zero.
 */
static int net_ring_resume(struct net_ring *r)
{
    r->tx_head = r->tx_published = atomic_load_explicit(&r->tx->head, memory_order_relaxed);
    r->tx_tail = atomic_load_explicit(&r->tx->tail, memory_order_acquire);
    r->rx_tail = r->rx_published = atomic_load_explicit(&r->rx->tail, memory_order_relaxed);
    if (r->tx_head - r->tx_tail > r->bytes || (r->tx_head | r->tx_tail | r->rx_tail) % NET_RING_ALIGN != 0)
        return -EINVAL;
    /* Nobody may ring for what is there already. */
    if (atomic_load_explicit(&r->rx->head, memory_order_relaxed) != r->rx_tail)
        loop_timer_set(r->timer, 1);
    return 0;
}

int net_ring_backend_new(const struct net_ring_config *config, struct loop *l, struct net_backend **ret_backend)
{
    struct net_ring *r;
    int res;

    if (config->mtu < NET_RING_MTU_MIN || config->mtu > NET_MTU_MAX)
        return -EINVAL;
    r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->base = (struct net_backend){ .ops = &net_ring_ops, .mtu = config->mtu, .checksums_good = true };
    r->config = *config;
    res = net_ring_check_fds(r);
    if (res == 0)
        res = net_ring_map(r);
    if (res == 0)
        res = loop_timer_new(l, net_ring_timeout, r, &r->timer);
    if (res == 0)
        res = net_ring_resume(r);
    if (res == 0)
        res = loop_fd_add(l, config->fds.doorbell_in, EPOLLIN, net_ring_event, r, &r->src);
    if (res < 0) {
        r->config.fds = (struct net_ring_fds){ -1, -1, -1 }; /* still the caller's */
        net_ring_close(&r->base);
        return res;
    }
    r->base.offloads = atomic_load_explicit(&r->tx->offloads, memory_order_relaxed) & NET_RING_OFFLOADS;
    loop_timer_set(r->timer, 1); /* asks for doorbells, which an earlier user may have had off when it went */
    *ret_backend = &r->base;
    return 0;
}

struct net_ring_counters net_ring_get_counters(const struct net_backend *b)
{
    return ((const struct net_ring *)b)->counters;
}
