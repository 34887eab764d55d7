/* Interface of the front: requests in, and everything that is done to all of them at once. */
#include "block/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "block/front_priv.h"
#include "sys/loop.h"

#define BLK_WORKERS 16
#define BLK_WORKERS_IDLE_MS 10000
#define BLK_MERGE_LOOK 4 /* how far back in a batch a neighbour is looked for */

/* ---- events ---- */

/* After completions: the interrupt first, then new work. */
static void blk_front_batch(void *opaque)
{
    struct blk_front *front = opaque;

    blk_front_announce(front);
    blk_image_kick(&front->img);
}

static void blk_front_timer(void *opaque)
{
    struct blk_front *front = opaque;
    uint64_t now = sys_now_ns();

    if (front->retry_ns && now >= front->retry_ns)
        blk_front_retry(front);
    if (front->throttle_ns && now >= front->throttle_ns)
        blk_front_release(front);
    blk_front_arm(front);
    blk_image_kick(&front->img);
    blk_front_announce(front);
}

/* ---- requests ---- */

static bool blk_front_merge(struct blk_front *front, struct blk_req *req)
{
    struct list *item = front->batch.prev;

    if (req->op != BLK_READ && req->op != BLK_WRITE)
        return false;
    for (unsigned i = 0; i < BLK_MERGE_LOOK && item != &front->batch; i++, item = item->prev) {
        struct blk_job *job = CONTAINER_OF(item, struct blk_job, link);

        if (job->op == req->op && job->off + job->len == req->off && job->durable == req->durable &&
            job->len + req->len <= BLK_MERGE_BYTES && job->n_iov + req->n_iov <= BLK_MERGE_IOV) {
            blk_job_add(job, req);
            return true;
        }
    }
    return false;
}

int blk_image_submit(struct blk_image *img, struct blk_req *req)
{
    struct blk_front *front = blk_front_of(img);
    struct blk_job *job;

    if (req->op != BLK_FLUSH && (req->off > img->size || req->len > img->size - req->off || req->len == 0 ||
                                 (req->off | req->len) % BLK_SECTOR != 0))
        return -EINVAL;
    if (img->read_only && req->op != BLK_READ && req->op != BLK_FLUSH)
        return -EROFS;
    if (list_empty(&front->batch))
        front->batch_ns = sys_now_ns();
    req->submit_ns = front->batch_ns;
    req->next = NULL;
    if (blk_front_merge(front, req))
        return 0;
    job = blk_job_new(front);
    if (!job)
        return -ENOMEM;
    blk_job_add(job, req);
    blk_job_wait(job, BLK_JOB_BATCH, &front->batch);
    return 0;
}

void blk_image_kick(struct blk_image *img)
{
    struct blk_front *front = blk_front_of(img);

    if (front->kicking) /* by a done function: the loop below sees what it submitted */
        return;
    front->kicking = true;
    do {
        while (!list_empty(&front->batch)) {
            struct blk_job *job = CONTAINER_OF(front->batch.next, struct blk_job, link);

            list_remove(&job->link);
            blk_front_limit(front, job);
        }
        blk_front_pump(front);
    } while (!list_empty(&front->batch));
    front->kicking = false;
    blk_aio_kick(front->aio);
    blk_front_announce(front);
}

/* Take a job that is not at the host out of its queue and end its requests. */
static void blk_job_cancel(struct blk_job *job, int res)
{
    job->canceled = true;
    if (job->state == BLK_JOB_QUEUED)
        blk_sched_remove(&job->turn);
    list_remove(&job->link);
    if (job->state == BLK_JOB_FILTERED) /* blk_image_continue still needs it */
        blk_job_answer(job, res);
    else
        blk_job_finish(job, res);
}

/* A job in one of the states given as bits, that has requests; NULL: none. */
static struct blk_job *blk_front_find(struct blk_front *front, unsigned states, bool only_canceled)
{
    struct blk_job *job;

    LIST_FOR_EACH(job, &front->jobs, all) {
        if (states & 1u << job->state && job->n_reqs > 0 && !job->internal && (!only_canceled || job->canceled))
            return job;
    }
    return NULL;
}

void blk_image_cancel(struct blk_image *img)
{
    struct blk_front *front = blk_front_of(img);
    struct blk_job *job;

    LIST_FOR_EACH(job, &front->jobs, all)
        job->canceled = !job->internal;
    while ((job = blk_front_find(front, ~(1u << BLK_JOB_RUNNING), true)))
        blk_job_cancel(job, -ECANCELED);
    if (list_empty(&front->kept))
        front->retry_ns = 0;
    blk_front_arm(front);
    blk_image_kick(img);
}

/* Move everything on that can be moved without the host. */
static void blk_front_hurry(struct blk_front *front)
{
    struct blk_job *job;

    blk_image_kick(&front->img);
    blk_front_release(front);
    while (!list_empty(&front->held)) {
        job = CONTAINER_OF(front->held.next, struct blk_job, link);
        list_remove(&job->link);
        blk_job_pass(job);
    }
    while ((job = blk_front_find(front, 1u << BLK_JOB_KEPT, false)))
        blk_job_cancel(job, job->res);
    while ((job = blk_front_find(front, 1u << BLK_JOB_FILTERED, false)))
        blk_job_cancel(job, -ECANCELED);
    LIST_FOR_EACH(job, &front->jobs, all) {
        if (job->state == BLK_JOB_QUEUED) {
            blk_sched_remove(&job->turn);
            job->state = BLK_JOB_HELD;
            list_add_before(&front->held, &job->link);
        }
    }
    while (!list_empty(&front->held)) {
        job = CONTAINER_OF(front->held.next, struct blk_job, link);
        list_remove(&job->link);
        blk_job_start(job);
    }
    blk_aio_kick(front->aio);
    blk_front_announce(front);
}

void blk_image_drain(struct blk_image *img)
{
    struct blk_front *front = blk_front_of(img);

    front->draining = true;
    for (;;) {
        blk_front_hurry(front);
        /* A worker may wait for requests in flight (blk_unmap), never the other way round. */
        if (blk_aio_count(front->aio) > 0)
            blk_aio_wait(front->aio);
        else if (blk_workers_count(front->workers) > 0)
            blk_workers_wait(front->workers);
        else if (!blk_front_find(front, ~0u, false))
            break;
    }
    front->draining = false;
    front->throttle_ns = front->retry_ns = 0;
    blk_front_arm(front);
    blk_front_announce(front);
}

void blk_image_set_batch(struct blk_image *img, void (*fn)(void *opaque), void *opaque)
{
    struct blk_front *front = blk_front_of(img);

    front->batch_fn = fn;
    front->batch_opaque = opaque;
}

/* ---- quiesce and filter ---- */

int blk_image_quiesce(struct blk_image *img, void (*quiet)(void *opaque), void *opaque)
{
    struct blk_front *front = blk_front_of(img);

    if (front->closed)
        return -EBUSY;
    front->closed = true;
    if (front->begun == 0) {
        quiet(opaque);
        return 0;
    }
    front->quiet = quiet;
    front->quiet_opaque = opaque;
    return 0;
}

void blk_image_resume(struct blk_image *img)
{
    struct blk_front *front = blk_front_of(img);
    struct list held;

    front->closed = false;
    front->quiet = NULL;
    list_init(&held);
    while (!list_empty(&front->held)) {
        struct list *item = front->held.next;

        list_remove(item);
        list_add_before(&held, item);
    }
    while (!list_empty(&held)) {
        struct blk_job *job = CONTAINER_OF(held.next, struct blk_job, link);

        list_remove(&job->link);
        blk_job_pass(job);
    }
    blk_image_kick(img);
}

void blk_image_set_filter(struct blk_image *img, const struct blk_filter *filter)
{
    blk_front_of(img)->filter = filter;
}

void blk_image_continue(struct blk_job *job)
{
    struct blk_front *front = job->front;

    CHECK(job->state == BLK_JOB_FILTERED);
    if (job->n_reqs > 0)
        blk_job_queue(job);
    else
        blk_job_finish(job, 0); /* was canceled meanwhile */
    blk_image_kick(&front->img);
}

/* ---- life ---- */

struct blk_node *blk_image_node(struct blk_image *img)
{
    return blk_front_of(img)->node;
}

void blk_image_resized(struct blk_image *img)
{
    img->size = blk_front_of(img)->node->size / BLK_SECTOR * BLK_SECTOR;
}

void blk_image_set_limits(struct blk_image *img, const struct blk_limits *limits)
{
    struct blk_front *front = blk_front_of(img);

    blk_throttle_init(&front->throttle, limits, sys_now_ns());
    blk_front_release(front);
    blk_front_arm(front);
    blk_image_kick(img);
}

const struct blk_stats *blk_image_stats(const struct blk_image *img)
{
    return &CONTAINER_OF(img, struct blk_front, img)->stats;
}

/* The file that the disk is, byte for byte: what needs no worker to be flushed. */
static int blk_front_plain_fd(struct blk_node *node)
{
    const struct blk_node *file = strcmp(node->ops->name, "raw") == 0 ? node->file : node;
    struct blk_piece pieces[BLK_PIECES_MAX];

    if (!file || strcmp(file->ops->name, "file") != 0 || blk_map(node, BLK_READ, 0, BLK_SECTOR, pieces) != 1)
        return -1;
    blk_unmap(node);
    return pieces[0].fd;
}

static void blk_front_free(struct blk_front *front)
{
    blk_aio_free(front->aio);
    blk_workers_free(front->workers);
    loop_timer_free(front->timer);
    blk_ahead_free(front->ahead);
    if (front->flow.sched)
        blk_flow_done(&front->flow);
    while (!list_empty(&front->free_jobs)) {
        struct blk_job *job = CONTAINER_OF(front->free_jobs.next, struct blk_job, link);

        list_remove(&job->link);
        free(job);
    }
    free(front);
}

static int blk_front_init(struct blk_front *front, struct loop *loop)
{
    const struct blk_image_config *cfg = &front->cfg;
    int res = blk_aio_new(loop, cfg->aio, blk_front_batch, front, &front->aio);

    if (res == 0)
        res = blk_workers_new(loop, BLK_WORKERS, BLK_WORKERS_IDLE_MS, blk_front_batch, front, &front->workers);
    if (res == 0)
        res = loop_timer_new(loop, blk_front_timer, front, &front->timer);
    if (res == 0 && cfg->readahead > 0)
        res = blk_ahead_new(front, &front->ahead);
    if (res == 0 && cfg->sched)
        blk_flow_init(&front->flow, cfg->sched, cfg->weight ? cfg->weight : BLK_WEIGHT_DEFAULT);
    return res;
}

int blk_image_new(struct blk_node *node, const struct blk_image_config *config, struct loop *loop,
                  struct blk_image **ret_img)
{
    struct list *lists[7];
    struct blk_front *front;
    int res;

    if (node->size < BLK_SECTOR || config->readahead > BLK_READAHEAD_MAX)
        return -EINVAL;
    front = calloc(1, sizeof(*front));
    if (!front)
        return -ENOMEM;
    front->cfg = *config;
    front->node = node;
    front->img = (struct blk_image){ .size = node->size / BLK_SECTOR * BLK_SECTOR,
                                     .read_only = node->read_only,
                                     .discards = !config->ignore_discard,
                                     .writethrough = config->writethrough && !config->ignore_flush,
                                     .block_size = node->block_size,
                                     .physical_block_size = MAX(node->physical_block_size, node->block_size) };
    memcpy(lists,
           (struct list *const[]){ &front->jobs, &front->batch, &front->throttled[0], &front->throttled[1],
                                   &front->held, &front->kept, &front->free_jobs },
           sizeof(lists));
    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    blk_throttle_init(&front->throttle, &config->limits, sys_now_ns());
    front->plain_fd = blk_front_plain_fd(node);
    res = blk_front_init(front, loop);
    if (res < 0) {
        blk_front_free(front);
        return res;
    }
    *ret_img = &front->img;
    return 0;
}

void blk_image_close(struct blk_image *img)
{
    struct blk_front *front;
    struct blk_node *node;

    if (!img)
        return;
    front = blk_front_of(img);
    node = front->node;
    blk_image_drain(img);
    CHECK(list_empty(&front->jobs));
    blk_front_free(front);
    blk_node_close(node);
}
