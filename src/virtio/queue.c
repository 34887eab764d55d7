/* The part of virtqueues that both ring formats share: chains, checks of guest buffers, dispatch by format. */
#include "virtio/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/pack.h"
#include "virtio/queue_priv.h"

int virtq_chain_new(unsigned cap, struct virtq_chain **ret_chain)
{
    struct virtq_chain *c;

    CHECK(cap >= 1 && cap <= VIRTQ_INDIRECT_MAX);
    c = calloc(1, sizeof(*c) + cap * (sizeof(*c->iov) + sizeof(*c->seg)));
    if (!c)
        return -ENOMEM;
    c->cap = cap;
    c->iov = (struct iovec *)(void *)(c + 1);
    c->seg = (struct virtq_seg *)(void *)(c->iov + cap);
    *ret_chain = c;
    return 0;
}

void virtq_chain_free(struct virtq_chain *c)
{
    free(c);
}

void virtq_chain_clear(struct virtq_chain *c)
{
    c->n_out = c->n_in = 0;
    c->out_len = c->in_len = 0;
}

int virtq_chain_add(struct virtq *q, struct virtq_chain *c, uint64_t gpa, uint32_t len, bool write)
{
    if (len == 0)
        return 0;
    if ((!write && c->n_in > 0) || UINT32_MAX - c->out_len - c->in_len < len)
        return -EFAULT;
    while (len > 0) {
        struct mem_region *r = mem_find(q->mem, gpa);
        unsigned at = c->n_out + c->n_in;
        uint32_t part;

        if (!r || (write && r->read_only) || at == c->cap)
            return -EFAULT;
        part = (uint32_t)MIN((uint64_t)len, r->size - (gpa - r->gpa));
        c->iov[at] = (struct iovec){ .iov_base = r->host + (gpa - r->gpa), .iov_len = part };
        c->seg[at] = (struct virtq_seg){ .gpa = GPA(gpa), .len = part };
        if (write) {
            c->n_in++;
            c->in_len += part;
        } else {
            c->n_out++;
            c->out_len += part;
        }
        gpa += part;
        len -= part;
    }
    return 0;
}

int virtq_indirect_table(struct virtq *q, uint64_t gpa, uint32_t len, const uint8_t **ret_table, unsigned *ret_n)
{
    const uint8_t *table;

    if (!q->cfg.indirect || len == 0 || len % VIRTQ_DESC_BYTES != 0 || len / VIRTQ_DESC_BYTES > VIRTQ_INDIRECT_MAX)
        return -EFAULT;
    table = mem_ptr(q->mem, GPA(gpa), len);
    if (!table)
        return -EFAULT;
    *ret_table = table;
    *ret_n = len / VIRTQ_DESC_BYTES;
    return 0;
}

/* Copy between buf and n iovecs from offset off on. */
static size_t virtq_iov_copy(const struct iovec *iov, unsigned n, size_t off, uint8_t *buf, size_t len, bool to_iov)
{
    size_t done = 0;

    for (unsigned i = 0; i < n && done < len; i++) {
        uint8_t *base = iov[i].iov_base;
        size_t part;

        if (off >= iov[i].iov_len) {
            off -= iov[i].iov_len;
            continue;
        }
        part = MIN(len - done, iov[i].iov_len - off);
        if (to_iov)
            memcpy(base + off, buf + done, part);
        else
            memcpy(buf + done, base + off, part);
        done += part;
        off = 0;
    }
    return done;
}

size_t virtq_chain_read(const struct virtq_chain *c, size_t off, void *dst, size_t len)
{
    return virtq_iov_copy(c->iov, c->n_out, off, dst, len, false);
}

size_t virtq_chain_write(struct virtq_chain *c, size_t off, const void *src, size_t len)
{
    return virtq_iov_copy(c->iov + c->n_out, c->n_in, off, (uint8_t *)(uintptr_t)src, len, true);
}

int virtq_init(struct virtq *q, struct mem *m, const struct virtq_config *config)
{
    int res;

    *q = (struct virtq){ .mem = m, .cfg = *config, .avail_wrap = true, .used_wrap = true };
    if (config->size == 0 || config->size > VIRTQ_SIZE_MAX)
        return -EINVAL;
    res = config->packed ? virtq_packed_init(q) : virtq_split_init(q);
    if (res < 0)
        return res;
    q->ready = true;
    return 0;
}

void virtq_done(struct virtq *q)
{
    *q = (struct virtq){ 0 };
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
    int res;

    if (!q->ready || q->broken)
        return 0;
    virtq_chain_clear(chain);
    res = q->cfg.packed ? virtq_packed_pop(q, chain) : virtq_split_pop(q, chain);
    if (res < 0)
        q->broken = true;
    return res;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *chain)
{
    if (!q->ready || q->broken)
        return;
    if (q->cfg.packed)
        virtq_packed_unpop(q, chain);
    else
        q->next_avail--;
}

/* Mark the first len bytes of the device-writable part. */
static void virtq_chain_mark(struct virtq *q, const struct virtq_chain *c, uint32_t len)
{
    for (unsigned i = c->n_out; i < c->n_out + c->n_in && len > 0; i++) {
        uint32_t part = MIN(len, c->seg[i].len);

        mem_mark_written(q->mem, c->seg[i].gpa, part);
        len -= part;
    }
}

void virtq_push_many(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n)
{
    if (!q->ready || n == 0)
        return;
    for (unsigned i = 0; i < n; i++)
        virtq_chain_mark(q, chains[i], lens[i]);
    if (q->broken)
        return;
    if (q->cfg.packed)
        virtq_packed_push(q, chains, lens, n);
    else
        virtq_split_push(q, chains, lens, n);
}

void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t len)
{
    struct virtq_chain *one = (struct virtq_chain *)(uintptr_t)chain;

    virtq_push_many(q, &one, &len, 1);
}

bool virtq_should_interrupt(struct virtq *q)
{
    bool yes;

    if (!q->ready || q->broken || q->unsignalled == 0)
        return false;
    /* The driver publishes its wish, then looks at the used index; we published the used index, now look at the wish.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    yes = q->cfg.packed ? virtq_packed_should_interrupt(q) : virtq_split_should_interrupt(q);
    q->unsignalled = 0;
    return yes;
}

static void virtq_set_notify(struct virtq *q, bool on)
{
    if (q->cfg.packed)
        virtq_packed_set_notify(q, on);
    else
        virtq_split_set_notify(q, on);
}

void virtq_disable_notify(struct virtq *q)
{
    if (q->ready && !q->broken)
        virtq_set_notify(q, false);
}

bool virtq_enable_notify(struct virtq *q)
{
    if (!q->ready || q->broken)
        return false;
    virtq_set_notify(q, true);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return q->cfg.packed ? virtq_packed_available(q) : virtq_split_available(q);
}

void virtq_chain_save(const struct virtq_chain *c, struct buf *b)
{
    pack_u16(b, c->id);
    pack_u16(b, c->n_slots);
    pack_u16(b, (uint16_t)c->n_out);
    pack_u16(b, (uint16_t)c->n_in);
    for (unsigned i = 0; i < c->n_out + c->n_in; i++) {
        pack_u64(b, c->seg[i].gpa.v);
        pack_u32(b, c->seg[i].len);
    }
}

void virtq_chain_restore(struct virtq *q, struct virtq_chain *c, struct unpack *in)
{
    unsigned n_out, n_in;

    virtq_chain_clear(c);
    c->id = unpack_u16(in);
    c->n_slots = unpack_u16(in);
    n_out = unpack_u16(in);
    n_in = unpack_u16(in);
    if (n_out + n_in > c->cap || c->n_slots == 0 || c->n_slots > q->cfg.size ||
        (!q->cfg.packed && c->id >= q->cfg.size))
        unpack_refuse(in);
    for (unsigned i = 0; i < n_out + n_in && !in->error; i++) {
        uint64_t gpa = unpack_u64(in);
        uint32_t len = unpack_u32(in);

        if (len == 0 || virtq_chain_add(q, c, gpa, len, i >= n_out) < 0)
            unpack_refuse(in);
    }
}
