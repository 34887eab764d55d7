#include "vmm/save_ram.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/fdio.h"
#include "block/node.h"
#include "mem/guest.h"

#define RAM_THREADS_MAX 8U
#define RAM_LEVEL 1 /* of zstd: at more the disk is waiting for us */

unsigned save_ram_threads(void)
{
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

    return n < 1 ? 1 : MIN(n, RAM_THREADS_MAX);
}

static void ram_fail(struct save_ram *s, int r)
{
    int none = 0;

    atomic_compare_exchange_strong(&s->error, &none, r);
}

static bool ram_page_set(const struct save_chunk *c, unsigned page)
{
    return c->pages[page / 64] >> (page % 64) & 1;
}

/* ---- saving ---- */

int save_ram_init(struct save_ram *s, struct mem *mem, struct save_writer *writer, bool compress)
{
    size_t n = 0;

    *s = (struct save_ram){ .mem = mem, .writer = writer, .compress = compress };
    for (unsigned i = 0; i < mem->n_regions; i++)
        n += (mem->regions[i].size + SAVE_CHUNK_SIZE - 1) >> SAVE_CHUNK_SHIFT;
    s->chunks = calloc(n ? n : 1, sizeof(*s->chunks));
    if (!s->chunks)
        return -ENOMEM;
    for (unsigned i = 0; i < mem->n_regions; i++) {
        const struct mem_region *r = &mem->regions[i];

        s->total += r->size;
        for (uint64_t off = 0; off < r->size; off += SAVE_CHUNK_SIZE)
            s->chunks[s->n_chunks++].gpa = r->gpa + off;
    }
    return 0;
}

void save_ram_done(struct save_ram *s)
{
    free(s->chunks);
    s->chunks = NULL;
}

/* Find the pages of [off, off + len) of a region that are not zero and append them to to. Memory is read from the file
 * behind it: its holes are skipped, which to look at would fill, and pages that are not mapped need no page fault.
 * Returns the bytes that were appended, or -errno. */
static int64_t ram_gather(const struct mem_region *r, uint64_t off, uint64_t len, struct save_chunk *c, uint8_t *to)
{
    uint64_t at = off, end = off + len;
    int64_t n = 0;

    while (at < end) {
        off_t data = lseek(r->fd, (off_t)(r->fd_offset + at), SEEK_DATA), hole;
        uint64_t stop;
        int res;

        if (data < 0)
            return errno == ENXIO ? n : -errno; /* nothing but a hole up to the end */
        hole = lseek(r->fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        at = MAX(at, ((uint64_t)data - r->fd_offset) & ~(MEM_PAGE_SIZE - 1));
        stop = MIN(end, (uint64_t)hole - r->fd_offset);
        res = at < stop ? fd_pread_all(r->fd, to + n, stop - at, r->fd_offset + at) : 0;
        if (res < 0)
            return res;
        for (const uint8_t *from = to + n; at < stop; at += MEM_PAGE_SIZE, from += MEM_PAGE_SIZE) {
            unsigned page = (unsigned)((at - off) >> MEM_PAGE_SHIFT);

            if (blk_buf_is_zero(from, MEM_PAGE_SIZE))
                continue;
            c->pages[page / 64] |= 1ULL << (page % 64);
            if (from != to + n)
                memcpy(to + n, from, MEM_PAGE_SIZE);
            n += MEM_PAGE_SIZE;
        }
    }
    return n;
}

struct ram_saver {
    ZSTD_CCtx *zstd;
    uint8_t *plain, *packed; /* a chunk's pages; what becomes of them */
};

/* Frames of SAVE_FRAME_PAGES pages, one behind the other, so that one page can be had without decoding all. 0: it does
 * not become smaller. */
static size_t ram_compress(const struct ram_saver *a, size_t n)
{
    size_t packed = 0;

    for (size_t at = 0; at < n; at += SAVE_FRAME_PAGES * MEM_PAGE_SIZE) {
        size_t len = ZSTD_compressCCtx(a->zstd, a->packed + packed, SAVE_CHUNK_STORED_MAX - packed, a->plain + at,
                                       MIN(n - at, SAVE_FRAME_PAGES * MEM_PAGE_SIZE), RAM_LEVEL);

        if (ZSTD_isError(len))
            return 0;
        packed += len;
    }
    return packed < n ? packed : 0;
}

static int ram_save_chunk(struct save_ram *s, struct save_chunk *c, const struct ram_saver *a)
{
    const struct mem_region *r = mem_find(s->mem, c->gpa);
    uint64_t off = c->gpa - r->gpa, len = MIN((uint64_t)SAVE_CHUNK_SIZE, r->size - off);
    int64_t n = ram_gather(r, off, len, c, a->plain);
    size_t packed = 0;

    atomic_fetch_add(&s->done, len);
    if (n <= 0)
        return (int)n;
    if (s->compress)
        packed = ram_compress(a, (size_t)n);
    c->coding = packed ? SAVE_ZSTD : SAVE_RAW;
    return save_writer_chunk(s->writer, c, packed ? a->packed : a->plain, (uint32_t)(packed ? packed : (size_t)n));
}

void save_ram_work(struct save_ram *s)
{
    struct ram_saver a = { .zstd = ZSTD_createCCtx(),
                           .plain = malloc(SAVE_CHUNK_SIZE),
                           .packed = malloc(SAVE_CHUNK_STORED_MAX) };
    size_t i;
    int r = a.zstd && a.plain && a.packed ? 0 : -ENOMEM;

    while (r == 0 && atomic_load(&s->error) == 0 && (i = atomic_fetch_add(&s->next, 1)) < s->n_chunks)
        r = ram_save_chunk(s, &s->chunks[i], &a);
    if (r < 0)
        ram_fail(s, r);
    ZSTD_freeCCtx(a.zstd);
    free(a.plain);
    free(a.packed);
}

/* ---- loading ---- */

void save_ram_init_load(struct save_ram *s, struct mem *mem, const struct save_reader *reader, bool check_only)
{
    *s = (struct save_ram){ .mem = mem, .reader = reader, .n_chunks = reader->n_chunks, .check_only = check_only };
    for (unsigned i = 0; i < mem->n_regions; i++)
        s->total += mem->regions[i].size;
}

struct save_ram_loader {
    ZSTD_DCtx *zstd;
    uint8_t *plain, *packed;
    const struct save_chunk *chunk; /* that packed has, NULL: none */
    unsigned n_frames;
    struct ram_frame {
        uint32_t at, len;  /* in packed */
        unsigned first, n; /* pages */
    } frames[SAVE_CHUNK_PAGES];
};

int save_ram_loader_new(struct save_ram_loader **ret_loader)
{
    struct save_ram_loader *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    l->zstd = ZSTD_createDCtx();
    l->plain = malloc(SAVE_CHUNK_SIZE);
    l->packed = malloc(SAVE_CHUNK_STORED_MAX);
    if (!l->zstd || !l->plain || !l->packed) {
        save_ram_loader_free(l);
        return -ENOMEM;
    }
    *ret_loader = l;
    return 0;
}

void save_ram_loader_free(struct save_ram_loader *l)
{
    if (!l)
        return;
    ZSTD_freeDCtx(l->zstd);
    free(l->plain);
    free(l->packed);
    free(l);
}

/* Read, check and decode a chunk. *ret_pages: its pages that are stored, one behind the other, until the next call. */
static int ram_decode(struct save_ram_loader *l, const struct save_reader *r, const struct save_chunk *c,
                      const uint8_t **ret_pages)
{
    const size_t n = save_chunk_pages(c) * MEM_PAGE_SIZE;
    int res = save_reader_chunk(r, c, l->packed);

    if (res < 0)
        return res;
    if (c->coding == SAVE_ZSTD && ZSTD_decompressDCtx(l->zstd, l->plain, n, l->packed, c->len) != n)
        return -EBADMSG;
    *ret_pages = c->coding == SAVE_ZSTD ? l->plain : l->packed;
    return 0;
}

/* Where the frames of the chunk in packed are. */
static int ram_list_frames(struct save_ram_loader *l, const struct save_chunk *c)
{
    const unsigned pages = save_chunk_pages(c);
    unsigned first = 0;
    uint32_t at = 0;

    l->n_frames = 0;
    while (at < c->len) {
        size_t len = ZSTD_findFrameCompressedSize(l->packed + at, c->len - at);
        unsigned long long size = ZSTD_getFrameContentSize(l->packed + at, c->len - at);

        if (ZSTD_isError(len) || size == 0 || size > (pages - first) * MEM_PAGE_SIZE || size % MEM_PAGE_SIZE != 0)
            return -EBADMSG; /* so is a size that is unknown */
        l->frames[l->n_frames++] = (struct ram_frame){ at, (uint32_t)len, first, (unsigned)(size >> MEM_PAGE_SHIFT) };
        first += (unsigned)(size >> MEM_PAGE_SHIFT);
        at += (uint32_t)len;
    }
    return first == pages ? 0 : -EBADMSG;
}

int save_ram_open(struct save_ram_loader *l, const struct save_reader *r, const struct save_chunk *c)
{
    int res;

    if (l->chunk == c)
        return 0;
    l->chunk = NULL;
    res = save_reader_chunk(r, c, l->packed);
    if (res == 0 && c->coding == SAVE_ZSTD)
        res = ram_list_frames(l, c);
    if (res == 0)
        l->chunk = c;
    return res;
}

const struct save_chunk *save_ram_opened(const struct save_ram_loader *l)
{
    return l->chunk;
}

void save_ram_group(const struct save_ram_loader *l, unsigned nth, unsigned *ret_first, unsigned *ret_n)
{
    unsigned i = 0;

    if (l->chunk->coding == SAVE_RAW) {
        *ret_first = nth - nth % SAVE_FRAME_PAGES;
        *ret_n = MIN(SAVE_FRAME_PAGES, save_chunk_pages(l->chunk) - *ret_first);
        return;
    }
    while (nth >= l->frames[i].first + l->frames[i].n)
        i++;
    *ret_first = l->frames[i].first;
    *ret_n = l->frames[i].n;
}

int save_ram_group_pages(struct save_ram_loader *l, unsigned first, const uint8_t **ret_pages)
{
    const struct ram_frame *f = l->frames;
    size_t size;

    if (l->chunk->coding == SAVE_RAW) {
        *ret_pages = l->packed + first * MEM_PAGE_SIZE;
        return 0;
    }
    while (f->first != first)
        f++;
    size = f->n * MEM_PAGE_SIZE;
    if (ZSTD_decompressDCtx(l->zstd, l->plain, size, l->packed + f->at, f->len) != size)
        return -EBADMSG;
    *ret_pages = l->plain;
    return 0;
}

const struct mem_region *save_ram_place(struct mem *m, const struct save_chunk *c)
{
    const struct mem_region *r = mem_find(m, c->gpa);
    unsigned last = 0;

    for (unsigned i = 0; i < SAVE_CHUNK_PAGES; i++)
        last = ram_page_set(c, i) ? i : last;
    return r && r->size - (c->gpa - r->gpa) >= (last + 1) * MEM_PAGE_SIZE ? r : NULL;
}

int save_ram_put(struct mem *m, uint64_t gpa, const uint8_t *from, uint64_t len)
{
    const struct mem_region *r = mem_find(m, gpa);

    return fd_pwrite_all(r->fd, from, len, r->fd_offset + (gpa - r->gpa));
}

/* The pages go to the file behind the memory, a run at a time: an eighth of the time that the page faults of writing
 * to the mapping take. */
static int ram_scatter(struct mem *m, const struct save_chunk *c, const uint8_t *from)
{
    int res = 0;

    for (unsigned i = 0, end; i < SAVE_CHUNK_PAGES && res == 0; i = end) {
        for (end = i; end < SAVE_CHUNK_PAGES && ram_page_set(c, end); end++) {
        }
        if (end > i)
            res = save_ram_put(m, c->gpa + i * MEM_PAGE_SIZE, from, (end - i) * MEM_PAGE_SIZE);
        from += (end - i) * MEM_PAGE_SIZE;
        end += end == i;
    }
    return res;
}

static int ram_load_chunk(const struct save_ram *s, const struct save_chunk *c, struct save_ram_loader *l)
{
    const uint8_t *pages = NULL;
    int r = save_ram_place(s->mem, c) ? 0 : -EBADMSG;

    if (r == 0 && s->check_only)
        return save_reader_chunk(s->reader, c, l->packed);
    if (r == 0)
        r = ram_decode(l, s->reader, c, &pages);
    return r < 0 ? r : ram_scatter(s->mem, c, pages);
}

void save_ram_load_work(struct save_ram *s)
{
    struct save_ram_loader *l = NULL;
    int r = save_ram_loader_new(&l);
    size_t i;

    while (r == 0 && atomic_load(&s->error) == 0 && (i = atomic_fetch_add(&s->next, 1)) < s->n_chunks) {
        r = ram_load_chunk(s, &s->reader->chunks[i], l);
        atomic_fetch_add(&s->done, SAVE_CHUNK_SIZE);
    }
    if (r < 0)
        ram_fail(s, r);
    save_ram_loader_free(l);
}
