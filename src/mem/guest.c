#include "mem/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"

int mem_new(struct mem **ret_mem)
{
    struct mem *m = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    *ret_mem = m;
    return 0;
}

static void mem_region_done(struct mem_region *r)
{
    uint64_t pages = r->size >> MEM_PAGE_SHIFT;

    if (r->host)
        munmap(r->host, r->size);
    if (r->code_mask)
        munmap((void *)r->code_mask, pages * sizeof(*r->code_mask));
    if (r->code_gen)
        munmap((void *)r->code_gen, pages * sizeof(*r->code_gen));
    if (r->dirty)
        munmap((void *)r->dirty, pages);
    if (r->fd >= 0)
        close(r->fd);
}

void mem_free(struct mem *m)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->n_regions; i++)
        mem_region_done(&m->regions[i]);
    free(m);
}

/* Lazily populated zeroed pages: the tracking arrays cost nothing for memory that the guest never touches. */
static void *mem_map_anon(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static int mem_region_init(struct mem_region *r, uint64_t gpa, uint64_t size, bool read_only)
{
    uint64_t pages = size >> MEM_PAGE_SHIFT;
    void *host;

    *r = (struct mem_region){ .gpa = gpa, .size = size, .fd = -1, .read_only = read_only };
    r->fd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (r->fd < 0)
        return -errno;
    if (ftruncate(r->fd, (off_t)size) < 0)
        return -errno;
    host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->fd, 0);
    if (host == MAP_FAILED)
        return -errno;
    r->host = host;
    r->code_mask = mem_map_anon(pages * sizeof(*r->code_mask));
    r->code_gen = mem_map_anon(pages * sizeof(*r->code_gen));
    r->dirty = mem_map_anon(pages);
    if (!r->code_mask || !r->code_gen || !r->dirty)
        return -ENOMEM;
    return 0;
}

int mem_add_ram(struct mem *m, uint64_t gpa, uint64_t size, bool read_only, struct mem_region **ret_region)
{
    struct mem_region r;
    unsigned at;
    int res;

    if (size == 0 || (gpa | size) & (MEM_PAGE_SIZE - 1) || gpa + size < gpa || size > INT64_MAX)
        return -EINVAL;
    if (m->n_regions == MEM_REGIONS_MAX)
        return -ENOSPC;
    for (at = 0; at < m->n_regions && m->regions[at].gpa < gpa; at++) {
    }
    if ((at > 0 && m->regions[at - 1].gpa + m->regions[at - 1].size > gpa) ||
        (at < m->n_regions && gpa + size > m->regions[at].gpa))
        return -EEXIST;
    res = mem_region_init(&r, gpa, size, read_only);
    if (res < 0) {
        mem_region_done(&r);
        return res;
    }
    memmove(&m->regions[at + 1], &m->regions[at], (m->n_regions - at) * sizeof(r));
    m->regions[at] = r;
    m->n_regions++;
    if (ret_region)
        *ret_region = &m->regions[at];
    return 0;
}

struct mem_region *mem_find(struct mem *m, uint64_t gpa)
{
    for (unsigned i = 0; i < m->n_regions; i++) {
        struct mem_region *r = &m->regions[i];

        if (gpa - r->gpa < r->size)
            return r;
    }
    return NULL;
}

void *mem_ptr(struct mem *m, struct gpa gpa, uint64_t len)
{
    struct mem_region *r = mem_find(m, gpa.v);

    if (!r || len > r->size - (gpa.v - r->gpa))
        return NULL;
    return r->host + (gpa.v - r->gpa);
}

static bool mem_range_ok(struct mem *m, uint64_t gpa, size_t len, bool write)
{
    while (len > 0) {
        struct mem_region *r = mem_find(m, gpa);
        uint64_t part;

        if (!r || (write && r->read_only))
            return false;
        part = MIN((uint64_t)len, r->size - (gpa - r->gpa));
        gpa += part;
        len -= part;
    }
    return true;
}

int mem_read(struct mem *m, struct gpa gpa, void *dst, size_t len)
{
    uint64_t at = gpa.v;
    uint8_t *to = dst;

    if (!mem_range_ok(m, at, len, false))
        return -EFAULT;
    while (len > 0) {
        struct mem_region *r = mem_find(m, at);
        size_t part = MIN(len, r->size - (at - r->gpa));

        memcpy(to, r->host + (at - r->gpa), part);
        at += part;
        to += part;
        len -= part;
    }
    return 0;
}

int mem_write(struct mem *m, struct gpa gpa, const void *src, size_t len)
{
    uint64_t at = gpa.v;
    const uint8_t *from = src;
    size_t left = len;

    if (!mem_range_ok(m, at, len, true))
        return -EFAULT;
    while (left > 0) {
        struct mem_region *r = mem_find(m, at);
        size_t part = MIN(left, r->size - (at - r->gpa));

        memcpy(r->host + (at - r->gpa), from, part);
        at += part;
        from += part;
        left -= part;
    }
    mem_mark_written(m, gpa, len);
    return 0;
}

void mem_mark_written(struct mem *m, struct gpa gpa, uint64_t len)
{
    uint64_t at = gpa.v;

    /* Device writes are rare and large, so a real fence is affordable here. */
    atomic_thread_fence(memory_order_seq_cst);
    while (len > 0) {
        struct mem_region *r = mem_find(m, at);
        uint64_t part = MIN(len, MEM_PAGE_SIZE - (at & (MEM_PAGE_SIZE - 1)));

        if (r)
            mem_note_write(m, r, (at - r->gpa) >> MEM_PAGE_SHIFT, (unsigned)(at & (MEM_PAGE_SIZE - 1)), (unsigned)part);
        at += part;
        len -= part;
    }
}

void mem_log_dirty(struct mem *m, bool on)
{
    if (on) {
        for (unsigned i = 0; i < m->n_regions; i++) {
            struct mem_region *r = &m->regions[i];

            for (uint64_t page = 0; page < r->size >> MEM_PAGE_SHIFT; page++)
                atomic_store_explicit(&r->dirty[page], 0, memory_order_relaxed);
        }
    }
    atomic_store(&m->log_dirty, on);
}

uint64_t mem_fetch_dirty(struct mem *m, struct mem_region *r, uint64_t *bitmap)
{
    uint64_t pages = r->size >> MEM_PAGE_SHIFT, count = 0;

    (void)m;
    memset(bitmap, 0, (pages + 63) / 64 * sizeof(*bitmap));
    for (uint64_t page = 0; page < pages; page++) {
        if (atomic_load_explicit(&r->dirty[page], memory_order_relaxed) && atomic_exchange(&r->dirty[page], 0)) {
            bitmap[page / 64] |= BIT64(page % 64);
            count++;
        }
    }
    return count;
}
