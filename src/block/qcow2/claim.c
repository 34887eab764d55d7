/* Claims: one writer at a time gives a guest cluster new storage. A claim lasts over the writer's data I/O, during
 * which lock is free. */
#include "block/qcow2/qcow2_priv.h"

bool q2_claimed_locked(const struct q2 *q, uint64_t first, uint64_t n)
{
    for (const struct list *l = q->claims.next; l != &q->claims; l = l->next) {
        const struct q2_claim *c = CONTAINER_OF(l, struct q2_claim, link);

        if (first < c->first + c->n && c->first < first + n)
            return true;
    }
    return false;
}

bool q2_claim_wait_locked(struct q2 *q, uint64_t first, uint64_t n)
{
    bool waited = false;

    while (q2_claimed_locked(q, first, n)) {
        pthread_cond_wait(&q->claims_changed, &q->lock);
        waited = true;
    }
    return waited;
}

void q2_claim_add_locked(struct q2 *q, struct q2_claim *c)
{
    list_add_before(&q->claims, &c->link);
}

void q2_claim_remove_locked(struct q2 *q, struct q2_claim *c)
{
    list_remove(&c->link);
    pthread_cond_broadcast(&q->claims_changed);
}
