/* Driver side of virtqueues, for tests: written from the specification's driver part alone, independent of src/virtio,
 * so that both halves check each other. Spec: virtio 1.2 sections 2.7 and 2.8. */
#ifndef TESTS_VIRTQ_DRIVER_H
#define TESTS_VIRTQ_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/guest.h"

#define DRV_SIZE_MAX 256

struct drv_buf {
    uint64_t gpa;
    uint32_t len;
    bool in; /* device-writable */
};

struct drv_queue {
    struct mem *m;
    bool packed, event_idx;
    uint16_t size;
    uint64_t desc, driver, device; /* guest addresses of the three areas */
    uint64_t tables;               /* indirect tables, DRV_INDIRECT descriptors for each id */
    uint16_t avail, used;          /* split: free-running; packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t n_free, free_head, added; /* free descriptors; slots added since the last kick decision */
    uint16_t next[DRV_SIZE_MAX];       /* split: free list and chains; packed: free ids */
    uint16_t n_desc[DRV_SIZE_MAX];     /* by id: descriptors that it took */
    void *token[DRV_SIZE_MAX];         /* by id */
};
#define DRV_INDIRECT 32

/* Lay the queue out from guest address base on; returns the first address behind it. */
uint64_t drv_queue_init(struct drv_queue *q, struct mem *m, uint64_t base, uint16_t size, bool packed, bool event_idx);
/* Make a buffer available; false: no room. token: not NULL. */
bool drv_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned n, bool indirect, void *token);
/* Whether the device wants a notification for what was added since the last call. */
bool drv_should_kick(struct drv_queue *q);
/* Next completed buffer: its token, or NULL. */
void *drv_get_used(struct drv_queue *q, uint32_t *ret_len);
/* Ask for an interrupt at the next completion; true: there is one already. */
bool drv_enable_interrupt(struct drv_queue *q);
void drv_disable_interrupt(struct drv_queue *q);

#endif
