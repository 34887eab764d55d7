/* See virtq_driver.h. */
#include "virtq_driver.h"

#include <string.h>

#include "base/bits.h"
#include "base/check.h"

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, F_AVAIL = 1 << 7, F_USED = 1 << 15 };

static uint8_t *drv_ptr(struct drv_queue *q, uint64_t gpa)
{
    uint8_t *p = mem_ptr(q->m, GPA(gpa), 1);

    CHECK(p);
    return p;
}

static uint16_t drv_load(struct drv_queue *q, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)(void *)drv_ptr(q, gpa), __ATOMIC_SEQ_CST);
}

static void drv_store(struct drv_queue *q, uint64_t gpa, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)drv_ptr(q, gpa), v, __ATOMIC_SEQ_CST);
}

uint64_t drv_queue_init(struct drv_queue *q, struct mem *m, uint64_t base, uint16_t size, bool packed, bool event_idx)
{
    uint64_t end;

    *q = (struct drv_queue){ .m = m, .packed = packed, .event_idx = event_idx, .size = size, .desc = base };
    q->driver = base + 16ULL * size;
    q->device = align_up(q->driver + (packed ? 4 : 6 + 2ULL * size), 4);
    q->tables = align_up(q->device + (packed ? 4 : 6 + 8ULL * size), 16);
    end = q->tables + 16ULL * DRV_INDIRECT * size;
    memset(mem_ptr(m, GPA(base), end - base), 0, end - base);
    q->avail_wrap = q->used_wrap = true;
    q->n_free = size;
    for (unsigned i = 0; i < size; i++)
        q->next[i] = (uint16_t)(i + 1);
    return end;
}

static void drv_split_desc(uint8_t *d, const struct drv_buf *b, bool more, uint16_t next)
{
    store_le64(d, b->gpa);
    store_le32(d + 8, b->len);
    store_le16(d + 12, (uint16_t)((b->in ? F_WRITE : 0) | (more ? F_NEXT : 0)));
    store_le16(d + 14, next);
}

/* An indirect table for the given id, and the descriptor that stands for it. */
static struct drv_buf drv_table(struct drv_queue *q, uint16_t id, const struct drv_buf *bufs, unsigned n)
{
    uint64_t at = q->tables + 16ULL * DRV_INDIRECT * id;
    uint8_t *t = drv_ptr(q, at);

    CHECK(n <= DRV_INDIRECT);
    for (unsigned i = 0; i < n; i++) {
        drv_split_desc(t + 16 * i, &bufs[i], i + 1 < n, (uint16_t)(i + 1));
        if (q->packed) {
            store_le16(t + 16 * i + 12, 0);
            store_le16(t + 16 * i + 14, bufs[i].in ? F_WRITE : 0);
        }
    }
    return (struct drv_buf){ .gpa = at, .len = 16 * n };
}

static bool drv_split_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned n, bool indirect, uint16_t head)
{
    uint16_t at = head;

    for (unsigned i = 0; i < n; i++) {
        uint8_t *d = drv_ptr(q, q->desc + 16ULL * at);

        drv_split_desc(d, &bufs[i], i + 1 < n, q->next[at]);
        if (indirect)
            store_le16(d + 12, F_INDIRECT);
        at = q->next[at];
    }
    q->free_head = at;
    drv_store(q, q->driver + 4 + 2ULL * (q->avail % q->size), head);
    drv_store(q, q->driver + 2, ++q->avail);
    return true;
}

static bool drv_packed_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned n, bool indirect, uint16_t id)
{
    uint64_t head = q->desc + 16ULL * q->avail;
    uint16_t head_flags = 0;

    q->free_head = q->next[id];
    for (unsigned i = 0; i < n; i++) {
        uint64_t gpa = q->desc + 16ULL * q->avail;
        uint8_t *d = drv_ptr(q, gpa);
        uint16_t flags = (uint16_t)((q->avail_wrap ? F_AVAIL : F_USED) | (bufs[i].in ? F_WRITE : 0) |
                                    (i + 1 < n ? F_NEXT : 0) | (indirect ? F_INDIRECT : 0));

        store_le64(d, bufs[i].gpa);
        store_le32(d + 8, bufs[i].len);
        store_le16(d + 12, id);
        if (i == 0)
            head_flags = flags;
        else
            drv_store(q, gpa + 14, flags);
        if (++q->avail == q->size) {
            q->avail = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    drv_store(q, head + 14, head_flags);
    return true;
}

bool drv_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned n, bool indirect, void *token)
{
    uint16_t id = q->free_head;
    struct drv_buf table;

    if (q->n_free < (indirect ? 1 : n))
        return false;
    if (indirect) {
        table = drv_table(q, id, bufs, n);
        bufs = &table;
        n = 1;
    }
    q->token[id] = token;
    q->n_desc[id] = (uint16_t)n;
    q->n_free = (uint16_t)(q->n_free - n);
    q->added = (uint16_t)(q->added + (q->packed ? n : 1));
    return q->packed ? drv_packed_add(q, bufs, n, indirect, id) : drv_split_add(q, bufs, n, indirect, id);
}

static bool drv_passed(uint16_t event, uint16_t next, uint16_t count)
{
    return (uint16_t)(next - event - 1) < count;
}

bool drv_should_kick(struct drv_queue *q)
{
    uint16_t added = q->added, event, flags;

    q->added = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (added == 0)
        return false;
    if (!q->packed && q->event_idx)
        return drv_passed(drv_load(q, q->device + 4 + 8ULL * q->size), q->avail, added);
    if (!q->packed)
        return !(drv_load(q, q->device) & 1);
    flags = drv_load(q, q->device + 2);
    if (flags != 2)
        return flags == 0;
    event = drv_load(q, q->device);
    if ((event >> 15) != q->avail_wrap)
        event = (uint16_t)((event & 0x7fff) - q->size);
    else
        event &= 0x7fff;
    return drv_passed(event, q->avail, added);
}

static bool drv_has_used(struct drv_queue *q)
{
    uint16_t flags;

    if (!q->packed)
        return drv_load(q, q->device + 2) != q->used;
    flags = drv_load(q, q->desc + 16ULL * q->used + 14);
    return !!(flags & F_AVAIL) == q->used_wrap && !!(flags & F_USED) == q->used_wrap;
}

static uint16_t drv_split_take(struct drv_queue *q, uint32_t *ret_len)
{
    const uint8_t *e = drv_ptr(q, q->device + 4 + 8ULL * (q->used % q->size));
    uint16_t id = (uint16_t)load_le32(e), last;

    *ret_len = load_le32(e + 4);
    CHECK(id < q->size && q->token[id]);
    q->used++;
    last = id;
    for (unsigned i = 1; i < q->n_desc[id]; i++)
        last = q->next[last];
    q->next[last] = q->free_head;
    q->free_head = id;
    return id;
}

static uint16_t drv_packed_take(struct drv_queue *q, uint32_t *ret_len)
{
    const uint8_t *d = drv_ptr(q, q->desc + 16ULL * q->used);
    uint16_t id = load_le16(d + 12);

    *ret_len = load_le32(d + 8);
    CHECK(id < q->size && q->token[id]);
    q->used = (uint16_t)(q->used + q->n_desc[id]);
    if (q->used >= q->size) {
        q->used = (uint16_t)(q->used - q->size);
        q->used_wrap = !q->used_wrap;
    }
    q->next[id] = q->free_head;
    q->free_head = id;
    return id;
}

void *drv_get_used(struct drv_queue *q, uint32_t *ret_len)
{
    uint16_t id;
    void *token;

    if (!drv_has_used(q))
        return NULL;
    id = q->packed ? drv_packed_take(q, ret_len) : drv_split_take(q, ret_len);
    q->n_free = (uint16_t)(q->n_free + q->n_desc[id]);
    token = q->token[id];
    q->token[id] = NULL;
    return token;
}

bool drv_enable_interrupt(struct drv_queue *q)
{
    if (q->packed) {
        if (q->event_idx)
            drv_store(q, q->driver, (uint16_t)(q->used | q->used_wrap << 15));
        drv_store(q, q->driver + 2, q->event_idx ? 2 : 0);
    } else if (q->event_idx) {
        drv_store(q, q->driver + 4 + 2ULL * q->size, q->used);
    } else {
        drv_store(q, q->driver, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return drv_has_used(q);
}

void drv_disable_interrupt(struct drv_queue *q)
{
    if (q->packed)
        drv_store(q, q->driver + 2, 1);
    else if (!q->event_idx)
        drv_store(q, q->driver, 1);
}
