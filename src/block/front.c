/* The way of a job through the front, station by station (image.h), and what happens to it at the end. Every job is in
 * front->jobs, and in the queue that its state names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/front_priv.h"
#include "sys/loop.h"

#define BLK_FREE_JOBS 256
#define BLK_BACKOFF_MIN_NS 100000000ULL
#define BLK_BACKOFF_MAX_NS 1000000000ULL

/* ---- jobs ---- */

struct blk_job *blk_job_new(struct blk_front *front)
{
    struct blk_job *job;

    if (list_empty(&front->free_jobs)) {
        job = malloc(sizeof(*job));
        if (!job)
            return NULL;
    } else {
        job = CONTAINER_OF(front->free_jobs.next, struct blk_job, link);
        list_remove(&job->link);
        front->n_free--;
    }
    memset(job, 0, offsetof(struct blk_job, work));
    job->front = front;
    list_init(&job->link);
    list_add_before(&front->jobs, &job->all);
    return job;
}

static void blk_job_free(struct blk_job *job)
{
    struct blk_front *front = job->front;

    list_remove(&job->all);
    list_remove(&job->link);
    if (front->n_free == BLK_FREE_JOBS) {
        free(job);
        return;
    }
    list_add_before(&front->free_jobs, &job->link);
    front->n_free++;
}

void blk_job_add(struct blk_job *job, struct blk_req *req)
{
    if (job->n_reqs == 0) {
        job->op = req->op;
        job->unmap = req->unmap;
        job->durable = req->durable;
        job->off = req->off;
        job->first = req;
    } else {
        job->last->next = req;
    }
    job->last = req;
    job->len += req->op == BLK_FLUSH ? 0 : req->len;
    job->n_iov += req->n_iov;
    job->n_reqs++;
}

void blk_job_wait(struct blk_job *job, enum blk_job_state state, struct list *queue)
{
    job->state = state;
    list_add_before(queue, &job->link);
}

static enum blk_stats_kind blk_stats_kind_of(enum blk_op op)
{
    switch (op) {
    case BLK_READ:
        return BLK_STATS_READ;
    case BLK_WRITE:
        return BLK_STATS_WRITE;
    case BLK_FLUSH:
        return BLK_STATS_FLUSH;
    case BLK_DISCARD:
    case BLK_WRITE_ZEROES:
        break;
    }
    return BLK_STATS_DISCARD;
}

/* Take a job out from behind the gate. */
static void blk_job_leave(struct blk_job *job)
{
    struct blk_front *front = job->front;

    if (!job->gated)
        return;
    job->gated = false;
    front->begun--;
    if (front->begun == 0 && front->quiet) {
        void (*quiet)(void *opaque) = front->quiet;

        front->quiet = NULL;
        quiet(front->quiet_opaque);
    }
}

/* End the requests of a job, which stays. */
void blk_job_answer(struct blk_job *job, int res)
{
    struct blk_front *front = job->front;
    struct blk_op_stats *stats = &front->stats.op[blk_stats_kind_of(job->op)];
    struct blk_req *req = job->first;
    uint64_t now = sys_now_ns(), start = job->begun ? job->start_ns : now;

    if (job->n_reqs > 0 && !job->internal)
        stats->merged += job->n_reqs - 1;
    job->n_reqs = 0;
    job->first = NULL;
    front->unannounced = true;
    while (req) {
        struct blk_req *next = req->next;

        if (!job->internal)
            blk_op_stats_add(stats, req->op == BLK_FLUSH ? 0 : req->len, res, start - req->submit_ns, now - start);
        req->done(req, res);
        req = next;
    }
}

void blk_job_finish(struct blk_job *job, int res)
{
    if (job->retrying)
        job->front->n_retrying--;
    blk_job_answer(job, res);
    blk_job_leave(job);
    blk_job_free(job);
}

/* ---- the way of a job ---- */

void blk_front_arm(struct blk_front *front)
{
    uint64_t at = front->throttle_ns;

    if (front->retry_ns && (!at || front->retry_ns < at))
        at = front->retry_ns;
    loop_timer_set(front->timer, at);
}

void blk_job_start(struct blk_job *job)
{
    job->state = BLK_JOB_RUNNING;
    if (!job->begun) {
        job->begun = true;
        job->start_ns = sys_now_ns();
    }
    blk_job_run(job);
}

void blk_job_queue(struct blk_job *job)
{
    struct blk_front *front = job->front;

    if (front->ahead && blk_job_changes(job))
        blk_ahead_forget(front, job->off, job->len);
    if (job->op == BLK_READ && front->ahead && !job->internal && !job->no_ahead && blk_ahead_serve(job))
        return;
    if (front->cfg.sched && !front->draining) {
        job->state = BLK_JOB_QUEUED;
        job->turn.flow = &front->flow;
        job->turn.write = job->op != BLK_READ;
        job->turn.bytes = job->op == BLK_READ || job->op == BLK_WRITE ? job->len : 0;
        blk_sched_add(&job->turn);
        return;
    }
    blk_job_start(job);
}

void blk_job_pass(struct blk_job *job)
{
    struct blk_front *front = job->front;

    if (front->closed && !front->draining) {
        blk_job_wait(job, BLK_JOB_HELD, &front->held);
        return;
    }
    job->gated = true;
    front->begun++;
    if (front->filter && blk_job_changes(job)) {
        job->state = BLK_JOB_FILTERED;
        if (!front->filter->before_write(front->filter->opaque, job, job->off, job->len))
            return;
    }
    blk_job_queue(job);
}

/* 0: the job may go on, and was paid for; else when to ask again. */
static uint64_t blk_job_pay(struct blk_job *job)
{
    struct blk_front *front = job->front;
    uint64_t bytes = job->op == BLK_READ || job->op == BLK_WRITE ? job->len : 0;

    if (job->internal || job->op == BLK_FLUSH || front->draining)
        return 0;
    return blk_throttle_take(&front->throttle, job->op != BLK_READ, job->n_reqs, bytes, sys_now_ns());
}

void blk_front_limit(struct blk_front *front, struct blk_job *job)
{
    struct list *queue = &front->throttled[job->op != BLK_READ];
    const bool first = list_empty(queue), alone = first && list_empty(&front->throttled[job->op == BLK_READ]);
    uint64_t at;

    if (!blk_throttle_on(&front->throttle) || job->op == BLK_FLUSH) {
        blk_job_pass(job);
        return;
    }
    at = alone ? blk_job_pay(job) : 0;
    if (alone && at == 0) {
        blk_job_pass(job);
        return;
    }
    blk_job_wait(job, BLK_JOB_THROTTLED, queue);
    if (alone)
        front->throttle_ns = at;
    else if (first)
        blk_front_release(front);
    if (first)
        blk_front_arm(front);
}

/* Let go on what the limits allow, reads and writes in turn. */
void blk_front_release(struct blk_front *front)
{
    bool moved;

    do {
        moved = false;
        front->throttle_ns = 0;
        for (unsigned i = 0; i < 2 && !moved; i++) {
            bool write = front->write_first != (i == 1);
            struct list *queue = &front->throttled[write];
            struct blk_job *job = CONTAINER_OF(queue->next, struct blk_job, link);
            uint64_t at = list_empty(queue) ? 0 : blk_job_pay(job);
            bool waits = at > 0 && blk_throttle_shared(&front->throttle);

            if (list_empty(queue))
                continue;
            if (at == 0) {
                list_remove(&job->link);
                front->write_first = !write;
                blk_job_pass(job);
                moved = true;
            } else if (!front->throttle_ns || at < front->throttle_ns) {
                front->throttle_ns = at;
            }
            if (waits) /* what it saves up for is not for the others to take: it is its turn */
                break;
        }
    } while (moved);
}

void blk_front_announce(struct blk_front *front)
{
    if (!front->unannounced)
        return;
    front->unannounced = false;
    if (front->batch_fn)
        front->batch_fn(front->batch_opaque);
}

void blk_front_pump(struct blk_front *front)
{
    struct blk_front *other = NULL;
    struct blk_sched_entry *e;

    while (front->cfg.sched && (e = blk_sched_next(front->cfg.sched))) {
        struct blk_job *job = CONTAINER_OF(e, struct blk_job, turn);

        if (other && other != job->front) {
            blk_aio_kick(other->aio);
            blk_front_announce(other);
        }
        other = job->front != front ? job->front : NULL;
        job->has_slot = true;
        blk_job_start(job);
    }
    if (other) {
        blk_aio_kick(other->aio);
        blk_front_announce(other);
    }
}

/* ---- errors ---- */

/* Whether the host may recover from it. A flush that failed is not repeated where the kernel has dropped the data that
 * it could not write: the second one would succeed and lie. */
static bool blk_job_may_recover(const struct blk_job *job, int res)
{
    switch (-res) {
    case EIO:
    case ENOSPC:
    case EDQUOT:
        return job->op != BLK_FLUSH;
    case EAGAIN:
    case ENOMEM:
    case ENOBUFS:
    case ENOTCONN:
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case ESHUTDOWN:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case ENETRESET:
    case ESTALE:
    case EREMOTEIO:
    case ENOLINK:
        return true;
    default:
        return false;
    }
}

static void blk_front_tell(struct blk_front *front, enum blk_image_event event, int error)
{
    if (front->cfg.event)
        front->cfg.event(front->cfg.opaque, event, error);
}

static bool blk_job_keep(struct blk_job *job, int res)
{
    struct blk_front *front = job->front;

    if (!front->cfg.wait_on_error || job->internal || job->canceled || front->draining ||
        !blk_job_may_recover(job, res))
        return false;
    job->res = res;
    if (job->retrying)
        front->n_retrying--;
    job->retrying = false;
    blk_job_wait(job, BLK_JOB_KEPT, &front->kept);
    front->stats.waited++;
    if (!front->troubled) {
        front->troubled = true;
        front->backoff_ns = 0;
        blk_front_tell(front, BLK_EVENT_WAITING, -res);
    }
    if (!front->retry_ns) {
        front->backoff_ns = MIN(MAX(front->backoff_ns * 2, BLK_BACKOFF_MIN_NS), BLK_BACKOFF_MAX_NS);
        front->retry_ns = sys_now_ns() + front->backoff_ns;
        blk_front_arm(front);
    }
    blk_job_leave(job);
    return true;
}

void blk_front_retry(struct blk_front *front)
{
    struct list again;

    list_init(&again);
    front->retry_ns = 0;
    while (!list_empty(&front->kept)) {
        struct list *item = front->kept.next;

        list_remove(item);
        list_add_before(&again, item);
    }
    while (!list_empty(&again)) {
        struct blk_job *job = CONTAINER_OF(again.next, struct blk_job, link);

        list_remove(&job->link);
        job->retrying = true;
        front->n_retrying++;
        blk_job_pass(job);
    }
}

/* What failed together is tried one by one, so that each request gets its own result. */
static void blk_job_split(struct blk_job *job, int res)
{
    struct blk_front *front = job->front;
    struct blk_req *req = job->first;

    while (req) {
        struct blk_req *next = req->next;
        struct blk_job *part = blk_job_new(front);

        req->next = NULL;
        if (part) {
            blk_job_add(part, req);
            part->canceled = job->canceled;
            part->no_ahead = true;
            part->retrying = job->retrying;
            front->n_retrying += part->retrying;
            blk_job_pass(part);
        } else {
            front->unannounced = true;
            req->done(req, res);
        }
        req = next;
    }
    job->n_reqs = 0;
    job->first = NULL;
    blk_job_finish(job, res);
}

void blk_job_ended(struct blk_job *job, int res)
{
    struct blk_front *front = job->front;

    blk_job_clean(job);
    if (job->has_slot)
        blk_sched_end(front->cfg.sched);
    job->has_slot = false;
    if (front->ahead && blk_job_changes(job))
        blk_ahead_forget(front, job->off, job->len);
    if (res == -ENODATA && !job->by_worker) { /* beyond the end of the file, where a format may have zeroes */
        if (front->plain_fd < 0) {
            job->by_worker = true;
            blk_job_queue(job);
            return;
        }
        res = -EIO;
    }
    if (res < 0 && job->n_reqs > 1 && !job->canceled) {
        blk_job_split(job, res);
        return;
    }
    if (res < 0 && blk_job_keep(job, res))
        return;
    blk_job_finish(job, res);
    if (res == 0 && front->troubled && list_empty(&front->kept) && front->n_retrying == 0) {
        front->troubled = false;
        blk_front_tell(front, BLK_EVENT_RESUMED, 0);
    }
}
