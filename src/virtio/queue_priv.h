/* What queue.c and the two ring formats share. */
#ifndef VIRTIO_QUEUE_PRIV_H
#define VIRTIO_QUEUE_PRIV_H

#include "virtio/queue.h"

enum { VIRTQ_DESC_NEXT = 1, VIRTQ_DESC_WRITE = 2, VIRTQ_DESC_INDIRECT = 4 };

/* A descriptor as it lies in guest memory, either format: the last four bytes are flags, next (split) or id, flags
 * (packed). */
struct virtq_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next_or_id;
};

#define VIRTQ_DESC_BYTES 16u

/* Ring words are shared with vCPUs that run at the same time: one load or store each, never torn. p is aligned. */
static inline uint16_t virtq_load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}

static inline uint16_t virtq_load16_acquire(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static inline void virtq_store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELAXED);
}

static inline void virtq_store16_release(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static inline void virtq_store32(uint8_t *p, uint32_t v)
{
    __atomic_store_n((uint32_t *)(void *)p, v, __ATOMIC_RELAXED);
}

/* Say that [p, p+len) of the device or descriptor area was written. base/gpa: host and guest address of that area. */
static inline void virtq_mark(struct virtq *q, const uint8_t *base, struct gpa gpa, const uint8_t *p, uint64_t len)
{
    mem_mark_written(q->mem, GPA(gpa.v + (uint64_t)(p - base)), len);
}

/* Whether event lies among the last count of the entries that end before index next (both free-running). */
static inline bool virtq_event_passed(uint16_t event, uint16_t next, uint16_t count)
{
    return (uint16_t)(next - event - 1) < count;
}

void virtq_chain_clear(struct virtq_chain *c);
/* Append a buffer. -EFAULT: outside RAM, readable after writable, too many pieces, 4 GiB or more in all. Zero lengths
 * add nothing. */
int virtq_chain_add(struct virtq *q, struct virtq_chain *c, uint64_t gpa, uint32_t len, bool write) MUST_USE;
/* Host address of an indirect table and its number of descriptors (1..VIRTQ_INDIRECT_MAX); -EFAULT. */
int virtq_indirect_table(struct virtq *q, uint64_t gpa, uint32_t len, const uint8_t **ret_table,
                         unsigned *ret_n) MUST_USE;

int virtq_split_init(struct virtq *q) MUST_USE;
int virtq_split_pop(struct virtq *q, struct virtq_chain *c) MUST_USE;
void virtq_split_push(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n);
bool virtq_split_should_interrupt(struct virtq *q);
void virtq_split_set_notify(struct virtq *q, bool on);
bool virtq_split_available(struct virtq *q);

int virtq_packed_init(struct virtq *q) MUST_USE;
int virtq_packed_pop(struct virtq *q, struct virtq_chain *c) MUST_USE;
void virtq_packed_unpop(struct virtq *q, const struct virtq_chain *c);
void virtq_packed_push(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n);
bool virtq_packed_should_interrupt(struct virtq *q);
void virtq_packed_set_notify(struct virtq *q, bool on);
bool virtq_packed_available(struct virtq *q);

#endif
