/* Copying between nodes by several threads. Under one lock a cursor walks over the extents of the source and deals out
 * ranges; reading, looking for zeroes, compressing and writing happen outside of it, so that one thread reads while
 * another writes. What reads as zero is not read, and where the target is blank, not written either.
 *
 * Invariant: ranges never overlap, and meet only at multiples of `align`; no two threads touch one compressed cluster.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/check.h"
#include "store/disk_priv.h"

#define COPY_CHUNK (1u << 20) /* at most read or written at once; a larger `align` makes it larger */
#define COPY_ZERO_CHUNK (256u << 20)
#define COPY_THREADS_MAX 16u
#define COPY_STEP_NS 100000000u /* between calls of step */

enum copy_kind { COPY_SKIP, COPY_ZERO, COPY_DATA };

struct copy_range {
    enum copy_kind kind;
    uint64_t off, len;
};

struct copy_run {
    const struct disk_copy *c;
    uint64_t chunk;
    pthread_mutex_t lock, write_lock; /* write_lock: with one_writer, taken without lock */
    pthread_cond_t changed;
    struct copy_range seen; /* what the source has at the cursor: looked up, and not dealt out yet */
    uint64_t at;            /* the cursor */
    uint64_t done, written; /* bytes */
    unsigned running;
    bool stop;
    int result;
    struct blk_node *guilty;
};

int disk_read_padded(struct blk_node *n, uint64_t off, uint8_t *data, uint64_t len)
{
    uint64_t inside = n && off < n->size ? MIN(len, n->size - off) : 0;
    int res = inside ? blk_pread(n, off, data, inside) : 0;

    memset(data + inside, 0, len - inside);
    return res;
}

int disk_extent_padded(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent)
{
    if (n && off < n->size)
        return blk_extent(n, off, MIN(len, n->size - off), ret_extent);
    *ret_extent = (struct blk_extent){ .flags = BLK_EXT_ZERO, .len = len };
    return 0;
}

static int copy_failed(struct copy_run *r, int res, struct blk_node *guilty)
{
    pthread_mutex_lock(&r->lock);
    if (r->result == 0) {
        r->result = res;
        r->guilty = guilty;
    }
    r->stop = true;
    pthread_mutex_unlock(&r->lock);
    return res;
}

/* ---- the cursor ---- */

/* What stands at off, by the extents alone: kind and length, at most len. */
static int copy_look(struct copy_run *r, uint64_t off, uint64_t len, struct copy_range *ret)
{
    const struct disk_copy *c = r->c;
    struct blk_node *owner = c->what == DISK_COPY_OWN ? c->from : c->to;
    struct blk_extent x;
    int res;

    if (c->what != DISK_COPY_ALL) {
        bool mine;

        res = blk_extent_here(owner, off, len, &x);
        if (res < 0) {
            r->guilty = owner;
            return res;
        }
        mine = (x.flags & BLK_EXT_ALLOCATED) != 0;
        if (c->what == DISK_COPY_OWN || mine) {
            bool skip = c->what == DISK_COPY_OWN ? !mine : mine;

            *ret = (struct copy_range){ skip ? COPY_SKIP : x.flags & BLK_EXT_ZERO ? COPY_ZERO : COPY_DATA, off, x.len };
            return 0;
        }
        len = x.len;
    }
    res = disk_extent_padded(c->from, off, len, &x);
    r->guilty = c->from;
    *ret = (struct copy_range){ x.flags & BLK_EXT_ZERO ? COPY_ZERO : COPY_DATA, off, x.len };
    if (res == 0 && c->base && ret->kind == COPY_ZERO) { /* only where the base is zero, too, is nothing to do */
        res = disk_extent_padded(c->base, off, ret->len, &x);
        r->guilty = c->base;
        ret->len = x.len;
        ret->kind = x.flags & BLK_EXT_ZERO ? COPY_SKIP : COPY_DATA;
    }
    if (res == 0)
        r->guilty = NULL;
    return res;
}

/* Make r->seen describe what is at the cursor, in whole multiples of align. */
static int copy_see(struct copy_run *r)
{
    const struct disk_copy *c = r->c;
    int res;

    if (r->seen.len > 0)
        return 0;
    res = copy_look(r, r->at, c->size - r->at, &r->seen);
    if (res < 0)
        return res;
    if (r->seen.kind == COPY_ZERO && c->blank)
        r->seen.kind = COPY_SKIP;
    if (r->at + r->seen.len == c->size)
        return 0;
    if (r->seen.kind != COPY_DATA && r->seen.len >= c->align) {
        r->seen.len = align_down(r->seen.len, c->align);
    } else if (r->seen.len % c->align) { /* the rest of the unit may be anything: it is read */
        r->seen.kind = COPY_DATA;
        r->seen.len = MIN(align_up(r->seen.len, c->align), c->size - r->at);
    }
    return 0;
}

/* Deal out the next range of work. 1: *ret; 0: no more. Called with the lock. */
static int copy_next(struct copy_run *r, struct copy_range *ret)
{
    uint64_t end = 0;

    *ret = (struct copy_range){ 0 };
    while (r->at < r->c->size) {
        uint64_t len;
        int res = copy_see(r);

        if (res < 0)
            return res;
        if (ret->len > 0 && (r->seen.kind != ret->kind || r->at == end))
            break;
        len = r->seen.len;
        if (r->seen.kind != COPY_SKIP) {
            if (ret->len == 0) {
                *ret = (struct copy_range){ r->seen.kind, r->at, 0 };
                end = r->seen.kind == COPY_ZERO ? r->at + COPY_ZERO_CHUNK : align_down(r->at, r->chunk) + r->chunk;
            }
            len = MIN(len, end - r->at);
            ret->len += len;
        } else {
            r->done += len;
        }
        r->at += len;
        r->seen.len -= len;
    }
    return ret->len > 0;
}

/* ---- a range ---- */

static enum copy_kind copy_judge(const struct disk_copy *c, const uint8_t *data, const uint8_t *base, uint64_t len)
{
    if (c->sparse == 0)
        return COPY_DATA;
    if (base && memcmp(data, base, len) == 0)
        return COPY_SKIP;
    if (!blk_buf_is_zero(data, len))
        return COPY_DATA;
    if (c->blank && !base)
        return COPY_SKIP;
    return c->explicit_zeroes && (len < c->sparse || !c->to->backing) ? COPY_DATA : COPY_ZERO;
}

static int copy_store(const struct disk_copy *c, enum copy_kind kind, uint64_t off, const uint8_t *data, uint64_t len)
{
    if (kind == COPY_ZERO)
        return blk_write_zeroes(c->to, off, len, BLK_ZERO_UNMAP);
    if (kind == COPY_SKIP)
        return 0;
    return c->compress ? c->to->ops->pwrite_compressed(c->to, off, data, len) : blk_pwrite(c->to, off, data, len);
}

/* Write what was read, run by run of one kind. Compressed, each unit is a run of its own. */
static int copy_put(struct copy_run *r, const struct copy_range *range, const uint8_t *data, const uint8_t *base)
{
    const struct disk_copy *c = r->c;
    const uint64_t unit = c->compress ? c->align : c->sparse ? c->sparse : range->len;
    uint64_t start = 0, written = 0;
    enum copy_kind kind = COPY_SKIP;
    int res = 0;

    for (uint64_t at = 0; at < range->len && res == 0;) {
        uint64_t len = MIN(range->len - at, unit - (c->sparse || c->compress ? (range->off + at) % unit : 0));
        enum copy_kind next = copy_judge(c, data + at, base ? base + at : NULL, len);

        if (at > start && (next != kind || c->compress)) {
            res = copy_store(c, kind, range->off + start, data + start, at - start);
            written += kind == COPY_DATA ? at - start : 0;
            start = at;
        }
        kind = next;
        at += len;
    }
    if (res == 0) {
        res = copy_store(c, kind, range->off + start, data + start, range->len - start);
        written += kind == COPY_DATA ? range->len - start : 0;
    }
    __atomic_fetch_add(&r->written, written, __ATOMIC_RELAXED);
    return res < 0 ? copy_failed(r, res, c->to) : 0;
}

static int copy_range(struct copy_run *r, const struct copy_range *range, uint8_t *data, uint8_t *base)
{
    const struct disk_copy *c = r->c;
    int res;

    if (range->kind == COPY_ZERO) {
        res = copy_store(c, COPY_ZERO, range->off, NULL, range->len);
        return res < 0 ? copy_failed(r, res, c->to) : 0;
    }
    res = disk_read_padded(c->from, range->off, data, range->len);
    if (res < 0)
        return copy_failed(r, res, c->from);
    res = base ? disk_read_padded(c->base, range->off, base, range->len) : 0;
    if (res < 0)
        return copy_failed(r, res, c->base);
    if (c->one_writer)
        pthread_mutex_lock(&r->write_lock);
    res = copy_put(r, range, data, base);
    if (c->one_writer)
        pthread_mutex_unlock(&r->write_lock);
    return res;
}

static void *copy_thread(void *opaque)
{
    struct copy_run *r = opaque;
    AUTO_FREE uint8_t *data = aligned_alloc(4096, r->chunk);
    AUTO_FREE uint8_t *base = r->c->base ? aligned_alloc(4096, r->chunk) : NULL;
    struct copy_range range = { 0 };
    int res = 1;

    if (!data || (r->c->base && !base))
        (void)copy_failed(r, -ENOMEM, NULL);
    pthread_mutex_lock(&r->lock);
    while (!r->stop && (res = copy_next(r, &range)) == 1) {
        pthread_mutex_unlock(&r->lock);
        res = copy_range(r, &range, data, base);
        pthread_mutex_lock(&r->lock);
        r->done += range.len;
    }
    if (res < 0 && r->result == 0)
        r->result = res;
    if (res < 0)
        r->stop = true;
    r->running--;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- the whole ---- */

static unsigned copy_threads(const struct disk_copy *c)
{
    cpu_set_t set;
    unsigned n = c->threads;

    if (n == 0)
        n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    /* Two even on one CPU: one waits for the disk while the other works. */
    return MIN(c->threads ? n : MAX(n, 2u), COPY_THREADS_MAX);
}

/* Wait for the threads, and tell how far they have come. */
static void copy_watch(struct copy_run *r)
{
    const struct disk_progress *p = r->c->progress;

    pthread_mutex_lock(&r->lock);
    while (r->running > 0) {
        struct timespec until;
        uint64_t done;
        bool go_on;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += COPY_STEP_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&r->changed, &r->lock, &until);
        done = r->done;
        if (!p)
            continue;
        pthread_mutex_unlock(&r->lock);
        go_on = p->step(p->opaque, done, r->c->size);
        pthread_mutex_lock(&r->lock);
        if (!go_on && r->running > 0) {
            r->stop = true;
            r->result = r->result ? r->result : -ECANCELED;
        }
    }
    pthread_mutex_unlock(&r->lock);
}

int disk_copy_run(const struct disk_copy *copy, uint64_t *ret_written, struct blk_node **ret_guilty)
{
    struct copy_run r = { .c = copy, .chunk = MAX(COPY_CHUNK, copy->align) };
    pthread_t threads[COPY_THREADS_MAX];
    unsigned wanted = copy_threads(copy), n = 0;
    pthread_condattr_t attr;

    CHECK(is_pow2(copy->align) && copy->align >= BLK_SECTOR);
    CHECK(!copy->base || copy->sparse > 0);
    CHECK(copy->what == DISK_COPY_ALL || copy->align == BLK_SECTOR); /* else units of two owners would be mixed */
    pthread_mutex_init(&r.lock, NULL);
    pthread_mutex_init(&r.write_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r.changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&r.lock);
    while (n < wanted && pthread_create(&threads[n], NULL, copy_thread, &r) == 0)
        n++;
    r.running = n;
    if (n == 0)
        r.result = -EAGAIN;
    pthread_mutex_unlock(&r.lock);
    copy_watch(&r);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&r.changed);
    pthread_mutex_destroy(&r.lock);
    pthread_mutex_destroy(&r.write_lock);
    if (ret_guilty)
        *ret_guilty = r.result ? r.guilty : NULL;
    if (ret_written)
        *ret_written = r.written;
    return r.result;
}
