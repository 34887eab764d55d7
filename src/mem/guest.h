/* Guest physical memory: a fixed table of RAM regions, each backed by a memfd that is mapped once, and the tracking
 * data that every writer of guest RAM (vCPUs, devices, loaders) keeps up to date: the dirty log, and the "code mask"
 * through which a translation engine learns that instructions which it has decoded were overwritten.
 *
 * Invariants: regions do not overlap, are page-aligned and never move or disappear while vCPUs or devices run. All
 * access functions check bounds; a hostile address yields -EFAULT or NULL, never an access outside RAM. It must not
 * know engines, buses or devices (MMIO is not here). */
#ifndef MEM_GUEST_H
#define MEM_GUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE 4096ULL
#define MEM_REGIONS_MAX 8

/* A guest-physical address; a struct so that it cannot be mixed up with host or guest-virtual addresses. */
struct gpa {
    uint64_t v;
};
#define GPA(x) ((struct gpa){ (x) })

/* One RAM region. Per page (index = offset in the region >> 12):
 *   code_mask: bit n set = an engine holds decoded code from bytes [64n, 64n+63] of the page. Set by engines only.
 *   code_gen: counts invalidations; incremented (and the mask cleared) by whoever writes to bytes whose mask bit is set
 *     (mem_note_write). An engine may set its top bit and reset it to 0 while it holds no code.
 *   dirty: 1 = written since the log was last fetched. */
struct mem_region {
    uint64_t gpa, size; /* bytes, page-aligned */
    uint8_t *host;
    int fd; /* the memfd */
    uint64_t fd_offset;
    bool read_only; /* ROM: guest writes are dropped by engines, mem_write refuses */
    _Atomic uint64_t *code_mask;
    _Atomic uint32_t *code_gen;
    _Atomic uint8_t *dirty;
};

struct mem {
    unsigned n_regions;
    struct mem_region regions[MEM_REGIONS_MAX]; /* ascending gpa */
    _Atomic bool log_dirty;
};

/* New empty guest memory. -ENOMEM. Caller owns *ret_mem (mem_free). */
int mem_new(struct mem **ret_mem) MUST_USE;
/* Unmap everything. NULL is accepted. No vCPU or device may use it any more. */
void mem_free(struct mem *m);
DEFINE_AUTO(mem, struct mem, mem_free)

/* Add size bytes of zeroed RAM at gpa (both page-aligned, size > 0). Before vCPUs run. *ret_region (may be NULL) lives
 * as long as m. -EINVAL alignment, -EEXIST overlap, -ENOSPC table full, -ENOMEM. */
int mem_add_ram(struct mem *m, uint64_t gpa, uint64_t size, bool read_only, struct mem_region **ret_region) MUST_USE;

/* The region that holds gpa, or NULL. Any thread. */
struct mem_region *mem_find(struct mem *m, uint64_t gpa);

/* Host pointer to [gpa, gpa+len), NULL unless the whole range lies in one region (len 0: gpa must be inside or NULL).
 * Valid as long as m. A writer calls mem_mark_written afterwards. Any thread. */
void *mem_ptr(struct mem *m, struct gpa gpa, uint64_t len);

/* Copy out of / into guest RAM; the range may span regions. -EFAULT: not all RAM (or read-only); then nothing was
 * copied. mem_write does the marking itself. Any thread; concurrent guest access may tear. */
int mem_read(struct mem *m, struct gpa gpa, void *dst, size_t len) MUST_USE;
int mem_write(struct mem *m, struct gpa gpa, const void *src, size_t len) MUST_USE;

/* Say that [gpa, gpa+len) was written through a host pointer (after the stores). Parts outside RAM are ignored. Any
 * thread. */
void mem_mark_written(struct mem *m, struct gpa gpa, uint64_t len);

/* The same for bytes [off, off+len) of one page, len >= 1, off+len <= 4096: the per-store hook of the engines. The
 * store must precede the call in program order; see cpu/bt for the asymmetric fence that makes the unfenced mask check
 * safe. */
static inline void mem_note_write(struct mem *m, struct mem_region *r, uint64_t page, unsigned off, unsigned len)
{
    uint64_t mask;

    atomic_signal_fence(memory_order_seq_cst);
    mask = atomic_load_explicit(&r->code_mask[page], memory_order_relaxed);
    if (UNLIKELY(mask != 0)) {
        unsigned first = off / 64, last = (off + len - 1) / 64;
        uint64_t touched = (~0ULL << first) & (~0ULL >> (63 - last));

        /* All blocks of the page become stale, so their marks go too (first the mask, then the count: a decoder that
         * marks in between takes its snapshot of the count before the increment, or finds its mark gone). */
        if (mask & touched) {
            atomic_store_explicit(&r->code_mask[page], 0, memory_order_seq_cst);
            atomic_fetch_add_explicit(&r->code_gen[page], 1, memory_order_seq_cst);
        }
    }
    if (UNLIKELY(atomic_load_explicit(&m->log_dirty, memory_order_relaxed)))
        atomic_store_explicit(&r->dirty[page], 1, memory_order_relaxed);
}

/* Start or stop the dirty log; starting clears it. */
void mem_log_dirty(struct mem *m, bool on);
/* Move the log of region r into bitmap (bit n = page n, DIV_ROUND_UP(pages, 64) words, fully overwritten) and clear it.
 * Returns the number of dirty pages. Any thread; writes that race are in this or the next log. */
uint64_t mem_fetch_dirty(struct mem *m, struct mem_region *r, uint64_t *bitmap);

#endif
