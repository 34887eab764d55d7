/* Invariants: a granule is set in `pending` until it is on the target, and in `busy` while a worker copies it; a write
 * that touches one that is set in pending is in `held`. Workers read the disk only where pending is set, so what they
 * read does not change under them. Once `error` is set nothing more is begun and nothing held. */
#include "block/backup.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/list.h"
#include "block/dirty.h"
#include "block/image.h"
#include "block/record.h"
#include "block/workers.h"
#include "sys/loop.h"

#define BACKUP_COPY_MAX (1u << 20) /* bytes of one copy */
#define BACKUP_FLIGHT 8u           /* copies at once */
#define BACKUP_FLIGHT_IDLE 2u      /* of these, for which no write waits */
#define BACKUP_IDLE_MS 10000
#define BACKUP_ALIGN 4096u
/* ioprio_set(2): best effort, the middle and the last of its levels. */
#define BACKUP_PRIO_WHO_THREAD 1
#define BACKUP_PRIO(level) (2 << 13 | (level))

/* A disk of a backup. */
struct backup_part {
    struct blk_backup *backup;
    struct blk_backup_disk disk;
    struct blk_dirty *pending, *busy;
    uint64_t cursor;  /* nothing is to be begun before it, but for what writes wait for */
    struct list held; /* struct backup_held */
};

struct backup_held {
    struct list link;
    struct blk_job *job;
    uint64_t pos, end; /* nothing is to be copied from its beginning to pos */
};

struct backup_copy {
    struct blk_work work;
    struct backup_part *part;
    uint64_t off, len;
    bool urgent; /* a write waits for it */
    int res;
    bool target_failed;
};

enum backup_state { BACKUP_NEW, BACKUP_FREEZING, BACKUP_FROZEN, BACKUP_RUNNING, BACKUP_ENDED };

struct blk_backup {
    struct blk_backup_config cfg;
    struct backup_part parts[BLK_BACKUP_DISKS_MAX];
    enum backup_state state;
    struct blk_workers *workers;
    struct loop_timer *timer;
    unsigned n_loud; /* disks that are not quiet yet, and 1 while they are asked */
    unsigned flight, flight_idle, turn, turn_held;
    uint64_t next_ns; /* when the next copy fits the bandwidth */
    uint64_t total;
    int error;
    unsigned error_disk;
    bool target_failed;
};

struct blk_watch {
    struct blk_image *img;
    struct blk_records *records;
    struct blk_filter filter;
    struct backup_part *part; /* NULL: no backup */
};

static void backup_settle(struct blk_backup *b);

/* ---- copying, on a worker ---- */

static int copy_fail(struct backup_copy *c, int res)
{
    c->target_failed = res < 0;
    return res;
}

static int copy_zeroes(struct backup_copy *c, uint64_t off, uint64_t len)
{
    const struct blk_backup_disk *d = &c->part->disk;

    return d->zeroed ? 0 : copy_fail(c, blk_write_zeroes(d->target, off, len, BLK_ZERO_UNMAP));
}

static int copy_write(struct backup_copy *c, uint64_t off, const uint8_t *data, uint64_t len)
{
    struct blk_node *target = c->part->disk.target;

    if (c->part->disk.compress && target->ops->pwrite_compressed)
        return copy_fail(c, target->ops->pwrite_compressed(target, off, data, len));
    return copy_fail(c, blk_pwrite(target, off, data, len));
}

/* A range that is data: runs of clusters with and without content. */
static int copy_data(struct backup_copy *c, uint8_t *data, uint64_t off, uint64_t len)
{
    int res = blk_pread(blk_image_node(c->part->disk.watch->img), off, data, len);

    for (uint64_t at = 0, n; at < len && res == 0; at += n) {
        const bool zero = blk_buf_is_zero(data + at, MIN(len - at, BLK_BACKUP_CLUSTER));

        n = MIN(len - at, BLK_BACKUP_CLUSTER);
        while (!c->part->disk.compress && at + n < len &&
               blk_buf_is_zero(data + at + n, MIN(len - at - n, BLK_BACKUP_CLUSTER)) == zero)
            n += MIN(len - at - n, BLK_BACKUP_CLUSTER);
        res = zero ? copy_zeroes(c, off + at, n) : copy_write(c, off + at, data + at, n);
    }
    return res;
}

static int copy_range(struct backup_copy *c)
{
    struct blk_node *source = blk_image_node(c->part->disk.watch->img);
    AUTO_FREE uint8_t *data = aligned_alloc(BACKUP_ALIGN, BACKUP_COPY_MAX);
    uint64_t len;
    int res = data ? 0 : -ENOMEM;

    for (uint64_t at = 0; at < c->len && res == 0; at += len) {
        struct blk_extent x;

        res = blk_extent(source, c->off + at, c->len - at, &x);
        if (res < 0)
            break;
        len = x.len;
        /* Only whole clusters are left out: what a compressed write gets is a cluster. */
        if (x.flags & BLK_EXT_ZERO && (len >= BLK_BACKUP_CLUSTER || len == c->len - at)) {
            len = len == c->len - at ? len : len / BLK_BACKUP_CLUSTER * BLK_BACKUP_CLUSTER;
            res = copy_zeroes(c, c->off + at, len);
        } else {
            len = len < c->len - at ? (len + BLK_BACKUP_CLUSTER - 1) / BLK_BACKUP_CLUSTER * BLK_BACKUP_CLUSTER : len;
            len = MIN(len, c->len - at);
            res = copy_data(c, data, c->off + at, len);
        }
    }
    return res;
}

static void copy_run(struct blk_work *w)
{
    struct backup_copy *c = CONTAINER_OF(w, struct backup_copy, work);

    /* The host's disk serves the guest first; where it knows no priorities nothing is lost. */
    (void)syscall(SYS_ioprio_set, BACKUP_PRIO_WHO_THREAD, 0, BACKUP_PRIO(c->urgent ? 4 : 7));
    c->res = copy_range(c);
}

/* ---- held writes ---- */

/* What is to be copied and in nobody's hands, from off to end. */
static bool part_next(const struct backup_part *p, uint64_t off, uint64_t end, uint64_t *ret_off, uint64_t *ret_len)
{
    uint64_t at, len, busy, busy_len;

    while (off < end && blk_dirty_next(p->pending, off, end - off, BACKUP_COPY_MAX, &at, &len)) {
        if (!blk_dirty_next(p->busy, at, len, UINT64_MAX, &busy, &busy_len))
            busy = at + len;
        if (busy > at) {
            *ret_off = at;
            *ret_len = busy - at;
            return true;
        }
        off = at + busy_len;
    }
    return false;
}

/* Let the writes go on for which everything was copied, or all. */
static void part_release(struct backup_part *p, bool all)
{
    struct backup_held *h;

    LIST_FOR_EACH(h, &p->held, link) {
        uint64_t at = h->end, len;

        if (!all && blk_dirty_next(p->pending, h->pos, h->end - h->pos, 1, &at, &len)) {
            h->pos = at;
            continue;
        }
        list_remove(&h->link);
        blk_image_continue(h->job);
        free(h);
    }
}

static void backup_fail(struct blk_backup *b, int error, const struct backup_part *p, bool target_failed)
{
    if (b->error)
        return;
    b->error = error;
    b->error_disk = p ? (unsigned)(p - b->parts) : 0;
    b->target_failed = target_failed;
    loop_timer_set(b->timer, 1); /* settle, but not from within whatever called */
}

/* ---- what to copy next ---- */

static void copy_done(struct blk_work *w, int error)
{
    struct backup_copy *c = CONTAINER_OF(w, struct backup_copy, work);
    struct backup_part *p = c->part;
    struct blk_backup *b = p->backup;
    int res = error < 0 ? error : c->res;

    b->flight--;
    b->flight_idle -= !c->urgent;
    blk_dirty_clear(p->busy, c->off, c->len);
    if (res < 0) {
        backup_fail(b, res, p, c->target_failed);
    } else {
        blk_dirty_clear(p->pending, c->off, c->len);
        part_release(p, false);
    }
    free(c);
    backup_settle(b);
}

static void backup_start_copy(struct blk_backup *b, struct backup_part *p, uint64_t off, uint64_t len, bool urgent)
{
    struct backup_copy *c = malloc(sizeof(*c));
    uint64_t now = sys_now_ns();

    if (!c) {
        backup_fail(b, -ENOMEM, p, false);
        return;
    }
    *c = (struct backup_copy){ .part = p, .off = off, .len = len, .urgent = urgent };
    c->work.run = copy_run;
    c->work.done = copy_done;
    blk_dirty_set(p->busy, off, len);
    b->flight++;
    b->flight_idle += !urgent;
    if (b->cfg.bandwidth > 0)
        b->next_ns = MAX(b->next_ns, now) + len * 1000000000u / b->cfg.bandwidth;
    blk_workers_submit(b->workers, &c->work);
}

/* One more copy for each write that waits. False: nothing was begun. */
static bool backup_pump_turn(struct blk_backup *b)
{
    bool begun = false;

    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        struct backup_part *p = &b->parts[(b->turn_held + i) % b->cfg.n_disks];
        struct backup_held *h;

        LIST_FOR_EACH(h, &p->held, link) {
            /* Whole granules, as far as the disk goes. */
            uint64_t at = h->pos / BLK_BACKUP_CLUSTER * BLK_BACKUP_CLUSTER, len;
            uint64_t end = (h->end + BLK_BACKUP_CLUSTER - 1) / BLK_BACKUP_CLUSTER * BLK_BACKUP_CLUSTER;

            if (b->flight >= BACKUP_FLIGHT || b->error)
                return false;
            if (!part_next(p, at, end, &at, &len))
                continue;
            backup_start_copy(b, p, at, len, true);
            begun = true;
            b->turn_held = (unsigned)(p - b->parts) + 1;
            list_remove(&h->link); /* the others first, the next time */
            list_add_before(&p->held, &h->link);
        }
    }
    return begun;
}

/* In turn: a write that discards half the disk must not hold up the others until that is copied. */
static void backup_pump_held(struct blk_backup *b)
{
    while (backup_pump_turn(b))
        ;
}

static bool watch_before_write(void *opaque, struct blk_job *job, uint64_t off, uint64_t len)
{
    struct blk_watch *w = opaque;
    struct backup_part *p = w->part;
    struct backup_held *h;
    uint64_t at, n;

    if (blk_records_wants_marks(w->records))
        blk_records_mark(w->records, off, len);
    if (!p || p->backup->error || !blk_dirty_next(p->pending, off, len, 1, &at, &n))
        return true;
    h = malloc(sizeof(*h));
    if (!h) {
        backup_fail(p->backup, -ENOMEM, p, false);
        return true;
    }
    *h = (struct backup_held){ .job = job, .pos = at, .end = off + len };
    list_add_before(&p->held, &h->link);
    backup_pump_held(p->backup);
    return false;
}

/* For nobody in particular: the disks in turn. */
static bool backup_pump_idle(struct blk_backup *b)
{
    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        struct backup_part *p = &b->parts[(b->turn + i) % b->cfg.n_disks];
        uint64_t at, len;

        if (!part_next(p, p->cursor, UINT64_MAX, &at, &len))
            continue;
        p->cursor = at + len;
        b->turn = (b->turn + i + 1) % b->cfg.n_disks;
        backup_start_copy(b, p, at, len, false);
        return true;
    }
    return false;
}

static bool backup_complete(const struct blk_backup *b)
{
    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        if (blk_dirty_bytes(b->parts[i].pending) > 0)
            return false;
    }
    return true;
}

static void backup_end(struct blk_backup *b)
{
    b->state = BACKUP_ENDED;
    loop_timer_set(b->timer, 0);
    for (unsigned i = 0; i < b->cfg.n_disks; i++)
        b->parts[i].disk.watch->part = NULL;
    b->cfg.done(b->cfg.opaque, b->error, b->error_disk, b->target_failed);
}

/* Whatever happened: begin what can be begun, and see whether that was all. */
static void backup_settle(struct blk_backup *b)
{
    if (b->state == BACKUP_ENDED || b->state == BACKUP_NEW)
        return;
    if (b->error) {
        for (unsigned i = 0; i < b->cfg.n_disks; i++)
            part_release(&b->parts[i], true);
        if (b->flight == 0)
            backup_end(b);
        return;
    }
    if (b->state != BACKUP_RUNNING)
        return;
    backup_pump_held(b);
    while (!b->error && b->flight_idle < BACKUP_FLIGHT_IDLE && b->flight < BACKUP_FLIGHT) {
        if (b->cfg.bandwidth > 0 && b->next_ns > sys_now_ns()) {
            loop_timer_set(b->timer, b->next_ns);
            break;
        }
        if (!backup_pump_idle(b))
            break;
    }
    if (!b->error && b->flight == 0 && backup_complete(b))
        backup_end(b);
}

static void backup_timer(void *opaque)
{
    backup_settle(opaque);
}

/* ---- the instant ---- */

static void backup_quiet(void *opaque)
{
    struct blk_backup *b = opaque;

    if (--b->n_loud > 0 || b->state != BACKUP_FREEZING)
        return;
    b->state = BACKUP_FROZEN;
    b->cfg.frozen(b->cfg.opaque);
}

static void backup_resume(struct blk_backup *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        blk_image_resume(b->parts[i].disk.watch->img);
}

int blk_backup_begin(struct blk_backup *b)
{
    if (b->state != BACKUP_NEW)
        return -EBUSY;
    b->n_loud = b->cfg.n_disks + 1;
    b->state = BACKUP_FREEZING;
    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        struct blk_watch *w = b->parts[i].disk.watch;
        int res = w->part ? -EBUSY : blk_image_quiesce(w->img, backup_quiet, b);

        if (res < 0) {
            b->state = BACKUP_NEW;
            backup_resume(b, i);
            return res;
        }
    }
    backup_quiet(b);
    return 0;
}

void blk_backup_run(struct blk_backup *b)
{
    if (b->state != BACKUP_FROZEN)
        return; /* it was canceled */
    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        b->total += blk_dirty_bytes(b->parts[i].pending);
        b->parts[i].disk.watch->part = &b->parts[i];
    }
    b->state = BACKUP_RUNNING;
    backup_resume(b, b->cfg.n_disks);
    loop_timer_set(b->timer, 1);
}

void blk_backup_cancel(struct blk_backup *b)
{
    const enum backup_state was = b->state;

    if (was == BACKUP_NEW || was == BACKUP_ENDED)
        return;
    backup_fail(b, -ECANCELED, NULL, false);
    if (was == BACKUP_RUNNING)
        return;
    b->state = BACKUP_RUNNING; /* with nothing to do */
    backup_resume(b, b->cfg.n_disks);
}

struct blk_dirty *blk_backup_pending(struct blk_backup *b, unsigned i)
{
    return b->parts[i].pending;
}

void blk_backup_progress(const struct blk_backup *b, uint64_t *ret_done, uint64_t *ret_total)
{
    *ret_total = *ret_done = b->total;
    for (unsigned i = 0; i < b->cfg.n_disks && b->total > 0; i++)
        *ret_done -= MIN(*ret_done, blk_dirty_bytes(b->parts[i].pending));
}

/* ---- life ---- */

int blk_backup_new(const struct blk_backup_config *config, struct loop *loop, struct blk_backup **ret_backup)
{
    AUTO(blk_backup) struct blk_backup *b = calloc(1, sizeof(*b));
    int res;

    if (!b)
        return -ENOMEM;
    b->cfg = *config;
    res = blk_workers_new(loop, BACKUP_FLIGHT, BACKUP_IDLE_MS, NULL, NULL, &b->workers);
    for (unsigned i = 0; i < config->n_disks; i++) {
        struct backup_part *p = &b->parts[i];
        const uint64_t size = config->disks[i].watch->img->size;

        p->backup = b;
        p->disk = config->disks[i];
        list_init(&p->held);
        if (res == 0)
            res = blk_dirty_new(size, BLK_BACKUP_CLUSTER, &p->pending);
        if (res == 0)
            res = blk_dirty_new(size, BLK_BACKUP_CLUSTER, &p->busy);
    }
    if (res == 0)
        res = loop_timer_new(loop, backup_timer, b, &b->timer);
    if (res < 0)
        return res;
    *ret_backup = STEAL(b);
    return 0;
}

void blk_backup_free(struct blk_backup *b)
{
    if (!b)
        return;
    if (b->state != BACKUP_NEW && b->state != BACKUP_ENDED) {
        b->cfg.done = NULL;
        blk_backup_cancel(b);
        b->state = BACKUP_ENDED;
        for (unsigned i = 0; i < b->cfg.n_disks; i++) {
            b->parts[i].disk.watch->part = NULL;
            part_release(&b->parts[i], true);
        }
        while (blk_workers_count(b->workers) > 0)
            blk_workers_wait(b->workers);
    }
    blk_workers_free(b->workers);
    loop_timer_free(b->timer);
    for (unsigned i = 0; i < b->cfg.n_disks; i++) {
        blk_dirty_free(b->parts[i].pending);
        blk_dirty_free(b->parts[i].busy);
    }
    free(b);
}

static const struct blk_filter watch_filter = { .before_write = watch_before_write };

int blk_watch_new(struct blk_image *img, struct blk_watch **ret_watch)
{
    struct blk_watch *w = calloc(1, sizeof(*w));
    int res = w ? blk_records_new(blk_image_node(img), &w->records) : -ENOMEM;

    if (res < 0) {
        free(w);
        return res;
    }
    w->img = img;
    w->filter = watch_filter;
    w->filter.opaque = w;
    blk_image_set_filter(img, &w->filter);
    *ret_watch = w;
    return 0;
}

void blk_watch_free(struct blk_watch *w)
{
    if (!w)
        return;
    blk_image_set_filter(w->img, NULL);
    blk_records_free(w->records);
    free(w);
}

struct blk_records *blk_watch_records(struct blk_watch *w)
{
    return w->records;
}

struct blk_image *blk_watch_image(struct blk_watch *w)
{
    return w->img;
}
