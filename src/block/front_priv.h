/* The inside of the asynchronous front, shared by image.c (interface), front.c (the way of a request),
 * front_job.c (doing it) and front_ahead.c (read-ahead). */
#ifndef BLOCK_FRONT_PRIV_H
#define BLOCK_FRONT_PRIV_H

#include "block/image.h"
#include "block/sched.h"
#include "block/workers.h"

#define BLK_JOB_IOV 24
#define BLK_MERGE_BYTES (1u << 20)
#define BLK_MERGE_IOV 1024u

enum blk_job_state {
    BLK_JOB_BATCH,     /* submitted, not kicked */
    BLK_JOB_THROTTLED, /* waits for the limits */
    BLK_JOB_HELD,      /* at the closed gate */
    BLK_JOB_FILTERED,  /* held by the filter */
    BLK_JOB_AHEAD,     /* waits for a read-ahead that has its bytes */
    BLK_JOB_QUEUED,    /* waits for its turn */
    BLK_JOB_RUNNING,   /* at the host */
    BLK_JOB_KEPT,      /* failed, to be tried again */
};

/* One or more requests that go to the host together. */
struct blk_job {
    struct blk_front *front;
    enum blk_job_state state;
    struct list link; /* of the queue in which it waits */
    struct list all;  /* of front->jobs */
    enum blk_op op;
    bool unmap, durable;
    bool internal;  /* read-ahead: no limits, no filter, no statistics */
    bool by_worker; /* do not try to go straight to the file */
    bool no_ahead;  /* do not look into what was read ahead */
    bool canceled;  /* its requests have ended, or will with the host's answer, whatever that is */
    bool gated;     /* counts in front->begun */
    bool begun;     /* start_ns stands */
    bool retrying;  /* was kept; counts in front->n_retrying */
    bool has_slot;  /* counts at the scheduler */
    bool mapped;    /* blk_unmap is due */
    uint64_t off, len;
    struct blk_req *first, *last; /* by their next */
    unsigned n_reqs, n_iov;
    uint64_t start_ns;
    struct blk_sched_entry turn;

    /* At the host. */
    const struct iovec *iov; /* the whole of the data: first->iov or iov_own */
    struct iovec *iov_own;   /* malloc'd, or NULL */
    struct iovec *slices;    /* what aio consumes: slices_few or malloc'd */
    uint8_t *head;           /* copy of the beginning of a guarded write */
    unsigned pending;
    int res;
    struct blk_work work;
    struct blk_aio_req aio[BLK_PIECES_MAX];
    struct iovec slices_few[BLK_JOB_IOV];
};

struct blk_ahead;

struct blk_front {
    struct blk_image img; /* first */
    struct blk_image_config cfg;
    struct blk_node *node;
    int plain_fd; /* the disk is this file, byte for byte; -1: it is not */
    struct blk_aio *aio;
    struct blk_workers *workers;
    struct loop_timer *timer; /* limits, and the next attempt of what is kept */
    struct blk_throttle throttle;
    struct blk_flow flow;
    struct blk_ahead *ahead; /* NULL: none */
    void (*batch_fn)(void *opaque);
    void *batch_opaque;

    struct list jobs; /* all but the free ones */
    struct list batch, throttled[2], held, kept, free_jobs;
    unsigned n_free;
    unsigned begun; /* jobs behind the gate */
    unsigned n_retrying;
    bool write_first; /* whose turn it is at the limits */
    bool draining, kicking;
    bool troubled;                  /* BLK_EVENT_WAITING was told, BLK_EVENT_RESUMED not yet */
    bool refused;                   /* BLK_EVENT_REFUSED was told */
    bool unannounced;               /* done functions were called since batch_fn was */
    uint64_t batch_ns;              /* when the oldest of batch was submitted */
    uint64_t throttle_ns, retry_ns; /* when to look again, 0: not */
    uint64_t backoff_ns;
    bool closed;                 /* the gate: quiesced */
    void (*quiet)(void *opaque); /* not yet called */
    void *quiet_opaque;
    const struct blk_filter *filter;
    struct blk_stats stats;
};

static inline struct blk_front *blk_front_of(struct blk_image *img)
{
    return CONTAINER_OF(img, struct blk_front, img);
}

static inline bool blk_job_changes(const struct blk_job *job)
{
    return job->op != BLK_READ && job->op != BLK_FLUSH;
}

/* front.c */

/* A job of the image with nothing in it, in front->jobs; NULL: no memory. */
struct blk_job *blk_job_new(struct blk_front *front);
/* Append a request to a job that has not begun. */
void blk_job_add(struct blk_job *job, struct blk_req *req);
void blk_job_wait(struct blk_job *job, enum blk_job_state state, struct list *queue);
/* From the start: limits, and what blk_job_pass does. */
void blk_front_limit(struct blk_front *front, struct blk_job *job);
/* From the gate on: hold, filter, and what blk_job_queue does. */
void blk_job_pass(struct blk_job *job);
/* Behind gate and filter: read-ahead, turn, host. */
void blk_job_queue(struct blk_job *job);
/* To the host, without waiting for a turn. */
void blk_job_start(struct blk_job *job);
/* The host, or whoever served it, is done with the job: end its requests, keep it, or try again. */
void blk_job_ended(struct blk_job *job, int res);
/* End the requests of a job, which stays. */
void blk_job_answer(struct blk_job *job, int res);
/* End the requests of a job that is in no queue, and the job. */
void blk_job_finish(struct blk_job *job, int res);

/* Start what has its turn now. */
void blk_front_pump(struct blk_front *front);
/* Let go on what the limits allow, reads and writes in turn. */
void blk_front_release(struct blk_front *front);
/* Another attempt for what is kept. */
void blk_front_retry(struct blk_front *front);
/* Set the timer to what comes first. */
void blk_front_arm(struct blk_front *front);
/* Call batch_fn where done functions were called since it was. */
void blk_front_announce(struct blk_front *front);

/* front_job.c */

/* Do it: blk_job_ended is called at the end, maybe from here. */
void blk_job_run(struct blk_job *job);
/* Free what blk_job_run needed. */
void blk_job_clean(struct blk_job *job);

/* front_ahead.c */

int blk_ahead_new(struct blk_front *front, struct blk_ahead **ret_ahead) MUST_USE;
void blk_ahead_free(struct blk_ahead *a); /* no read-ahead is in flight */
/* True: the read was served or will be; the caller has nothing more to do with it. */
bool blk_ahead_serve(struct blk_job *job);
/* A read begins; alone: the host does not read ahead for it. */
void blk_ahead_note(struct blk_job *job, bool alone);
/* The bytes change. */
void blk_ahead_forget(struct blk_front *front, uint64_t off, uint64_t len);

#endif
