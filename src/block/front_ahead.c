/* Read-ahead for sequential readers whom the host's page cache does not serve: O_DIRECT, remote disks, compressed and
 * encrypted images. A few streams are told apart by where their next read should begin; segments of the disk are loaded
 * in front of them and kept until they were read, or something changes the disk there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/front_priv.h"
#include "sys/loop.h"

#define BLK_AHEAD_SEG (128u << 10)
#define BLK_AHEAD_STREAMS 4u
#define BLK_AHEAD_RUN 3u   /* reads in a row that make a stream */
#define BLK_AHEAD_OLD 256u /* reads of others after which an unread segment is given up */
#define BLK_AHEAD_ALIGN 4096u

enum blk_ahead_state { BLK_AHEAD_EMPTY, BLK_AHEAD_LOADING, BLK_AHEAD_READY };

struct blk_ahead_seg {
    struct blk_ahead *ahead;
    enum blk_ahead_state state;
    bool stale; /* LOADING: the disk changes there meanwhile */
    uint64_t off, len, used;
    uint8_t *data; /* BLK_AHEAD_SEG bytes; NULL: not yet */
    struct iovec iov;
    struct blk_req req;
    struct list waiters;
};

struct blk_ahead_stream {
    uint64_t next, ahead, used; /* where the next read begins; what was loaded up to; when it was seen */
    unsigned run;
};

struct blk_ahead {
    struct blk_front *front;
    uint64_t tick;
    struct blk_ahead_stream streams[BLK_AHEAD_STREAMS];
    unsigned n_segs;
    struct blk_ahead_seg segs[];
};

int blk_ahead_new(struct blk_front *front, struct blk_ahead **ret_ahead)
{
    unsigned n = MAX(front->cfg.readahead / BLK_AHEAD_SEG, 2u);
    struct blk_ahead *a = calloc(1, sizeof(*a) + n * sizeof(a->segs[0]));

    if (!a)
        return -ENOMEM;
    a->front = front;
    a->n_segs = n;
    for (unsigned i = 0; i < BLK_AHEAD_STREAMS; i++)
        a->streams[i].next = UINT64_MAX;
    for (unsigned i = 0; i < n; i++) {
        a->segs[i].ahead = a;
        list_init(&a->segs[i].waiters);
    }
    *ret_ahead = a;
    return 0;
}

void blk_ahead_free(struct blk_ahead *a)
{
    if (!a)
        return;
    for (unsigned i = 0; i < a->n_segs; i++)
        free(a->segs[i].data);
    free(a);
}

static struct blk_ahead_seg *blk_ahead_find(struct blk_ahead *a, uint64_t off)
{
    for (unsigned i = 0; i < a->n_segs; i++) {
        struct blk_ahead_seg *s = &a->segs[i];

        if (s->state != BLK_AHEAD_EMPTY && !s->stale && off >= s->off && off - s->off < s->len)
            return s;
    }
    return NULL;
}

/* ---- loading ---- */

static void blk_ahead_loaded(struct blk_req *req, int res)
{
    struct blk_ahead_seg *s = req->opaque;
    struct list waiters;

    s->state = res == 0 && !s->stale ? BLK_AHEAD_READY : BLK_AHEAD_EMPTY;
    s->stale = false;
    list_init(&waiters);
    while (!list_empty(&s->waiters)) {
        struct list *item = s->waiters.next;

        list_remove(item);
        list_add_before(&waiters, item);
    }
    while (!list_empty(&waiters)) {
        struct blk_job *job = CONTAINER_OF(waiters.next, struct blk_job, link);

        list_remove(&job->link);
        job->no_ahead = s->state != BLK_AHEAD_READY;
        blk_job_queue(job);
    }
}

static bool blk_ahead_load(struct blk_ahead_seg *s, uint64_t off, uint64_t len)
{
    struct blk_job *job;

    if (!s->data)
        s->data = aligned_alloc(BLK_AHEAD_ALIGN, BLK_AHEAD_SEG);
    job = s->data ? blk_job_new(s->ahead->front) : NULL;
    if (!job)
        return false;
    s->state = BLK_AHEAD_LOADING;
    s->off = off;
    s->len = len;
    s->used = s->ahead->tick;
    s->iov = (struct iovec){ .iov_base = s->data, .iov_len = len };
    s->req = (struct blk_req){
        .op = BLK_READ, .off = off, .len = len, .iov = &s->iov, .n_iov = 1, .done = blk_ahead_loaded, .opaque = s
    };
    job->internal = true;
    blk_job_add(job, &s->req);
    blk_job_pass(job);
    return true;
}

/* A segment to load into: an empty one, or one that nobody has read for long. */
static struct blk_ahead_seg *blk_ahead_room(struct blk_ahead *a)
{
    struct blk_ahead_seg *old = NULL;

    for (unsigned i = 0; i < a->n_segs; i++) {
        struct blk_ahead_seg *s = &a->segs[i];

        if (s->state == BLK_AHEAD_EMPTY)
            return s;
        if (s->state == BLK_AHEAD_READY && a->tick - s->used > BLK_AHEAD_OLD && (!old || s->used < old->used))
            old = s;
    }
    return old;
}

static void blk_ahead_extend(struct blk_ahead *a, struct blk_ahead_stream *stream)
{
    uint64_t size = a->front->img.size;
    unsigned segs = 1u << MIN(stream->run - BLK_AHEAD_RUN, 7u);
    uint64_t end = MIN(size, stream->next + (uint64_t)MIN(segs, a->n_segs) * BLK_AHEAD_SEG);

    stream->ahead = MAX(stream->ahead, stream->next);
    while (stream->ahead < end) {
        struct blk_ahead_seg *s = blk_ahead_find(a, stream->ahead);
        uint64_t at = stream->ahead;

        if (s) {
            stream->ahead = s->off + s->len;
            continue;
        }
        s = blk_ahead_room(a);
        if (!s)
            return;
        stream->ahead = MIN(size, at + BLK_AHEAD_SEG);
        if (!blk_ahead_load(s, at, stream->ahead - at)) {
            stream->ahead = at;
            return;
        }
    }
}

/* ---- readers ---- */

void blk_ahead_note(struct blk_job *job, bool alone)
{
    struct blk_ahead *a = job->front->ahead;
    struct blk_ahead_stream *stream = &a->streams[0];

    a->tick++;
    for (unsigned i = 0; i < BLK_AHEAD_STREAMS; i++) {
        struct blk_ahead_stream *s = &a->streams[i];

        if (s->next == job->off) {
            stream = s;
            break;
        }
        if (s->used < stream->used)
            stream = s;
    }
    if (stream->next != job->off)
        *stream = (struct blk_ahead_stream){ 0 };
    stream->used = a->tick;
    stream->next = job->off + job->len;
    stream->run = MIN(stream->run + 1, 1000u);
    if (alone && stream->run >= BLK_AHEAD_RUN && !job->front->draining)
        blk_ahead_extend(a, stream);
}

static void blk_ahead_copy(struct blk_ahead *a, const struct blk_req *req)
{
    for (uint64_t done = 0; done < req->len;) {
        struct blk_ahead_seg *s = blk_ahead_find(a, req->off + done);
        uint64_t at = req->off + done - s->off, n = MIN(s->len - at, req->len - done);

        blk_iov_from_buf(req->iov, req->n_iov, done, s->data + at, n);
        s->used = a->tick;
        done += n;
    }
}

bool blk_ahead_serve(struct blk_job *job)
{
    struct blk_ahead *a = job->front->ahead;
    uint64_t end = job->off + job->len;

    for (uint64_t at = job->off; at < end;) {
        struct blk_ahead_seg *s = blk_ahead_find(a, at);

        if (!s)
            return false;
        if (s->state == BLK_AHEAD_LOADING) {
            job->state = BLK_JOB_AHEAD;
            list_add_before(&s->waiters, &job->link);
            return true;
        }
        at = s->off + s->len;
    }
    for (const struct blk_req *req = job->first; req; req = req->next)
        blk_ahead_copy(a, req);
    for (unsigned i = 0; i < a->n_segs; i++) { /* read to its end: make room */
        struct blk_ahead_seg *s = &a->segs[i];

        if (s->state == BLK_AHEAD_READY && s->off + s->len > job->off && s->off + s->len <= end)
            s->state = BLK_AHEAD_EMPTY;
    }
    job->front->stats.readahead_hits += job->n_reqs;
    job->begun = true;
    job->start_ns = sys_now_ns();
    blk_ahead_note(job, true);
    blk_job_ended(job, 0);
    return true;
}

void blk_ahead_forget(struct blk_front *front, uint64_t off, uint64_t len)
{
    struct blk_ahead *a = front->ahead;

    for (unsigned i = 0; i < a->n_segs; i++) {
        struct blk_ahead_seg *s = &a->segs[i];

        if (off >= s->off + s->len || s->off >= off + len)
            continue;
        if (s->state == BLK_AHEAD_READY)
            s->state = BLK_AHEAD_EMPTY;
        else if (s->state == BLK_AHEAD_LOADING)
            s->stale = true;
    }
}
