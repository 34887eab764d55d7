/* Requests under way: who may still be using storage that was let go of, and how to be alone. See struct q2_fly. */
#include "block/qcow2/qcow2_priv.h"

/* The epoch may move on once nobody of the one before it is left. */
static void q2_epoch_move(struct q2_fly *f)
{
    if (f->n[(f->epoch + 1) & 1] == 0)
        f->epoch++;
}

static unsigned q2_begin(struct q2_fly *f)
{
    unsigned token = f->epoch & 1;

    f->n[token]++;
    return token;
}

static void q2_end(struct q2_fly *f, unsigned token)
{
    if (--f->n[token] == 0 && f->closed)
        pthread_cond_broadcast(&f->changed);
}

unsigned q2_enter(struct q2 *q)
{
    struct q2_fly *f = &q->fly;
    unsigned token;

    pthread_mutex_lock(&f->lock);
    while (f->closed)
        pthread_cond_wait(&f->changed, &f->lock);
    token = q2_begin(f);
    pthread_mutex_unlock(&f->lock);
    return token;
}

void q2_leave(struct q2 *q, unsigned token)
{
    pthread_mutex_lock(&q->fly.lock);
    q2_end(&q->fly, token);
    pthread_mutex_unlock(&q->fly.lock);
}

bool q2_enter_map(struct q2 *q)
{
    struct q2_fly *f = &q->fly;
    bool may;

    pthread_mutex_lock(&f->lock);
    /* The group of maps must get a chance to end when an epoch is to. */
    may = !f->closed && (f->n_mapped == 0 || f->map_epoch == f->epoch);
    if (may && f->n_mapped++ == 0) {
        f->map_epoch = f->epoch;
        (void)q2_begin(f);
    }
    pthread_mutex_unlock(&f->lock);
    return may;
}

void q2_leave_map(struct q2 *q)
{
    struct q2_fly *f = &q->fly;
    uint64_t owed = 0;

    pthread_mutex_lock(&f->lock);
    if (--f->n_mapped == 0) {
        owed = f->n_backing;
        f->n_backing = 0;
        q2_end(f, f->map_epoch & 1);
    }
    pthread_mutex_unlock(&f->lock);
    while (owed-- > 0)
        blk_unmap(q->node.backing);
}

void q2_owe_backing(struct q2 *q)
{
    pthread_mutex_lock(&q->fly.lock);
    q->fly.n_backing++;
    pthread_mutex_unlock(&q->fly.lock);
}

uint64_t q2_epoch(struct q2 *q)
{
    uint64_t epoch;

    pthread_mutex_lock(&q->fly.lock);
    epoch = q->fly.epoch;
    pthread_mutex_unlock(&q->fly.lock);
    return epoch;
}

bool q2_epoch_over(struct q2 *q, uint64_t epoch)
{
    struct q2_fly *f = &q->fly;
    bool over;

    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < 2 && f->epoch < epoch + 2; i++)
        q2_epoch_move(f);
    over = f->epoch >= epoch + 2;
    pthread_mutex_unlock(&f->lock);
    return over;
}

int q2_exclusive_begin(struct q2 *q)
{
    struct q2_fly *f = &q->fly;
    int res;

    pthread_mutex_lock(&f->lock);
    f->closed++;
    while (f->n[0] + f->n[1] > 0)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
    pthread_mutex_lock(&q->wb_lock);
    pthread_mutex_lock(&q->lock);
    res = q->node.read_only ? 0 : q2_writeback_locked(q, true);
    if (res < 0)
        q2_exclusive_end(q);
    return res;
}

void q2_exclusive_end(struct q2 *q)
{
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->wb_lock);
    pthread_mutex_lock(&q->fly.lock);
    q->fly.closed--;
    pthread_cond_broadcast(&q->fly.changed);
    pthread_mutex_unlock(&q->fly.lock);
}
