/* Guest memory to and from the file of a saved VM. Several threads share the work: each calls the work function, which
 * returns when there is nothing left for it. Pages that are zero are not stored; pages that the guest has never touched
 * are not even looked at, so that saving gives them no memory. */
#ifndef VMM_SAVE_RAM_H
#define VMM_SAVE_RAM_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "vmm/save_file.h"

#define SAVE_FRAME_PAGES 16U /* that are compressed together, where this program compresses */

struct mem;
struct mem_region;

struct save_ram {
    struct mem *mem; /* borrowed */
    bool compress;
    bool check_only;                  /* to load: compare the check sums, load nothing */
    struct save_writer *writer;       /* to save: borrowed */
    const struct save_reader *reader; /* to load: borrowed */
    struct save_chunk *chunks;        /* to save: all of memory, ascending; own */
    size_t n_chunks;
    _Atomic size_t next; /* chunk that nobody has taken yet */
    _Atomic int error;   /* the first one, 0 none; set it to stop the work */
    _Atomic uint64_t done;
    uint64_t total; /* bytes of guest memory */
};

/* Prepare for saving all of mem. -ENOMEM. */
int save_ram_init(struct save_ram *s, struct mem *mem, struct save_writer *writer, bool compress) MUST_USE;
void save_ram_done(struct save_ram *s);
/* A thread's share of saving. Nobody writes to guest memory meanwhile. */
void save_ram_work(struct save_ram *s);

/* A thread's share of loading into memory that is all zero. error becomes -EBADMSG where a chunk is damaged or lies
 * outside guest memory. */
void save_ram_init_load(struct save_ram *s, struct mem *mem, const struct save_reader *reader, bool check_only);
void save_ram_load_work(struct save_ram *s);

/* ---- page by page ---- */

/* What a thread needs to decode a chunk; it keeps the last one. -ENOMEM. */
struct save_ram_loader;
int save_ram_loader_new(struct save_ram_loader **ret_loader) MUST_USE;
void save_ram_loader_free(struct save_ram_loader *l); /* NULL accepted */
/* Read and check a chunk, unless l has it. -EBADMSG: damaged; -errno of read. */
int save_ram_open(struct save_ram_loader *l, const struct save_reader *r, const struct save_chunk *c) MUST_USE;
/* The chunk that l has, NULL: none. */
const struct save_chunk *save_ram_opened(const struct save_ram_loader *l);
/* The stored pages of the open chunk that are decoded together with its nth one: n of them from first on. */
void save_ram_group(const struct save_ram_loader *l, unsigned nth, unsigned *ret_first, unsigned *ret_n);
/* Decode the group that begins with the page first. *ret_pages: one behind the other, until the next call. -EBADMSG */
int save_ram_group_pages(struct save_ram_loader *l, unsigned first, const uint8_t **ret_pages) MUST_USE;
/* The region that has all pages of a chunk, NULL: one of them is not in guest memory. */
const struct mem_region *save_ram_place(struct mem *m, const struct save_chunk *c);
/* Write len bytes to the file behind guest memory at gpa, all in one region. -errno of write. */
int save_ram_put(struct mem *m, uint64_t gpa, const uint8_t *from, uint64_t len) MUST_USE;

/* How many threads are worth it here. */
unsigned save_ram_threads(void);

#endif
