/* One thread answers page faults, another one goes through all chunks. Both insert groups of pages (that are compressed
 * together) with the lock held and note them, so that a page that the guest may have written to since is never written
 * again.
 *
 * Pages are written to the file behind the memory (as in save_ram.c), then whoever waits for them is woken. A wake-up
 * that comes before the sleeper sleeps is not lost: its fault stays to be read, and each fault that is read is answered
 * by one. A page that is not stored is made a zero page when it is touched. When all is loaded the userfaultfd is
 * closed, and the kernel serves the memory alone again. */
#include "vmm/save_lazy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem/guest.h"
#include "proto/exit_code.h"
#include "vmm/save_file.h"
#include "vmm/save_ram.h"

#define LAZY_CHUNKS 32U /* that the answering thread keeps, as they are stored */
#define LAZY_BACKGROUND_NICE 10
#define LAZY_EVENTS 16

struct save_lazy {
    struct mem *mem;
    struct save_reader reader; /* own: fd and chunks */
    char *path;
    int uffd, stop_fd;
    atomic_bool stop;
    pthread_t answering, loading;
    bool has_answering, has_loading;

    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
    uint64_t (*there)[SAVE_CHUNK_PAGES / 64]; /* of each chunk: pages that were inserted */
};

/* The process ends here, because whoever waits for the page (a vCPU, or the kernel on behalf of a write to a disk)
 * cannot be made to give up. */
static _Noreturn void lazy_fatal(const struct save_lazy *l, int r)
{
    fprintf(stderr, "caisson: saved VM %s: its memory cannot be loaded any more (%s); the VM was ended\n", l->path,
            r == -EBADMSG ? "the file has changed" : strerror(-r));
    fflush(stderr);
    _exit(EXIT_CODE_FAILED);
}

/* ---- inserting ---- */

static bool lazy_bit(const uint64_t *bits, unsigned page)
{
    return bits[page / 64] >> (page % 64) & 1;
}

/* Stored pages of c before page. */
static unsigned lazy_rank(const struct save_chunk *c, unsigned page)
{
    unsigned n = 0;

    for (unsigned i = 0; i < page; i++)
        n += lazy_bit(c->pages, i);
    return n;
}

/* Insert that group of the open chunk to which its nth stored page belongs, but for what is there already. *ret_next:
 * the first one behind it. */
static int lazy_insert(struct save_lazy *l, struct save_ram_loader *loader, unsigned nth, unsigned *ret_next)
{
    const struct save_chunk *c = save_ram_opened(loader);
    uint64_t *there = l->there[c - l->reader.chunks];
    const uint8_t *pages = NULL;
    unsigned first = 0, n = 0, rank = 0;
    int r;

    save_ram_group(loader, nth, &first, &n);
    *ret_next = first + n;
    r = save_ram_group_pages(loader, first, &pages);
    if (r < 0)
        return r;
    pthread_mutex_lock(&l->lock);
    for (unsigned i = 0, run; i < SAVE_CHUNK_PAGES && rank < first + n && r == 0; i += MAX(run, 1U)) {
        run = 0;
        if (!lazy_bit(c->pages, i))
            continue;
        while (rank >= first && rank + run < first + n && i + run < SAVE_CHUNK_PAGES && lazy_bit(c->pages, i + run) &&
               !lazy_bit(there, i + run)) {
            there[(i + run) / 64] |= 1ULL << ((i + run) % 64);
            run++;
        }
        if (run > 0)
            r = save_ram_put(l->mem, c->gpa + i * MEM_PAGE_SIZE, pages + (rank - first) * MEM_PAGE_SIZE,
                             run * MEM_PAGE_SIZE);
        rank += MAX(run, 1U);
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}

/* ---- answering faults ---- */

/* The chunk that holds gpa, NULL: none does. */
static const struct save_chunk *lazy_find(const struct save_lazy *l, uint64_t gpa)
{
    size_t low = 0, high = l->reader.n_chunks;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct save_chunk *c = &l->reader.chunks[middle];

        if (gpa >= c->gpa && gpa - c->gpa < SAVE_CHUNK_SIZE)
            return c;
        if (gpa < c->gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const struct mem_region *lazy_region(const struct save_lazy *l, uint64_t host)
{
    for (unsigned i = 0; i < l->mem->n_regions; i++) {
        const struct mem_region *r = &l->mem->regions[i];

        if (host >= (uintptr_t)r->host && host - (uintptr_t)r->host < r->size)
            return r;
    }
    return NULL;
}

static void lazy_wake(const struct save_lazy *l, uint64_t host)
{
    struct uffdio_range range = { .start = host, .len = MEM_PAGE_SIZE };

    (void)ioctl(l->uffd, UFFDIO_WAKE, &range);
}

static void lazy_zero(const struct save_lazy *l, uint64_t host)
{
    struct uffdio_zeropage zero = { .range = { .start = host, .len = MEM_PAGE_SIZE } };

    if (ioctl(l->uffd, UFFDIO_ZEROPAGE, &zero) < 0) /* it is there, or the kernel has it tried again */
        lazy_wake(l, host);
}

/* Chunks that the answering thread has open. */
struct lazy_cache {
    struct save_ram_loader *loaders[LAZY_CHUNKS];
    unsigned next; /* to be used for another chunk */
};

static struct save_ram_loader *lazy_cached(struct lazy_cache *cache, const struct save_chunk *c)
{
    for (unsigned i = 0; i < LAZY_CHUNKS; i++) {
        if (save_ram_opened(cache->loaders[i]) == c)
            return cache->loaders[i];
    }
    return cache->loaders[cache->next++ % LAZY_CHUNKS];
}

/* Make the page at host be there. */
static int lazy_answer(struct save_lazy *l, uint64_t host, struct lazy_cache *cache)
{
    const struct mem_region *region = lazy_region(l, host);
    uint64_t gpa = region ? region->gpa + (host - (uintptr_t)region->host) : 0;
    const struct save_chunk *c = region ? lazy_find(l, gpa) : NULL;
    unsigned page = c ? (unsigned)((gpa - c->gpa) >> MEM_PAGE_SHIFT) : 0, next;
    struct save_ram_loader *loader;
    int r;

    if (!c || !lazy_bit(c->pages, page)) {
        lazy_zero(l, host);
        return 0;
    }
    loader = lazy_cached(cache, c);
    r = save_ram_open(loader, &l->reader, c);
    if (r == 0)
        r = lazy_insert(l, loader, lazy_rank(c, page), &next);
    if (r == 0)
        lazy_wake(l, host);
    return r;
}

static int lazy_answer_all(struct save_lazy *l, struct lazy_cache *cache)
{
    struct uffd_msg events[LAZY_EVENTS];
    ssize_t n = read(l->uffd, events, sizeof(events));
    int r = 0;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (size_t i = 0; i < (size_t)n / sizeof(*events) && r == 0; i++) {
        if (events[i].event == UFFD_EVENT_PAGEFAULT)
            r = lazy_answer(l, events[i].arg.pagefault.address & ~(MEM_PAGE_SIZE - 1), cache);
    }
    return r;
}

static void *lazy_answering(void *opaque)
{
    struct save_lazy *l = opaque;
    struct lazy_cache cache = { .next = 0 };
    struct pollfd p[] = { { .fd = l->uffd, .events = POLLIN }, { .fd = l->stop_fd, .events = POLLIN } };
    int r = 0;

    for (unsigned i = 0; i < LAZY_CHUNKS && r == 0; i++)
        r = save_ram_loader_new(&cache.loaders[i]);
    while (r == 0 && !atomic_load(&l->stop)) {
        if (poll(p, 2, -1) > 0 && p[0].revents)
            r = lazy_answer_all(l, &cache);
    }
    for (unsigned i = 0; i < LAZY_CHUNKS; i++)
        save_ram_loader_free(cache.loaders[i]);
    if (r < 0)
        lazy_fatal(l, r);
    return NULL;
}

/* ---- in the background ---- */

static int lazy_load_all(struct save_lazy *l, struct save_ram_loader *loader)
{
    int r = 0;

    for (size_t i = 0; i < l->reader.n_chunks && r == 0; i++) {
        const unsigned pages = save_chunk_pages(&l->reader.chunks[i]);

        r = save_ram_open(loader, &l->reader, &l->reader.chunks[i]);
        for (unsigned nth = 0; nth < pages && r == 0;)
            r = atomic_load(&l->stop) ? -ECANCELED : lazy_insert(l, loader, nth, &nth);
    }
    return r;
}

static void *lazy_loading(void *opaque)
{
    struct save_lazy *l = opaque;
    struct save_ram_loader *loader = NULL;
    int r;

    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), LAZY_BACKGROUND_NICE);
    r = save_ram_loader_new(&loader);
    if (r == 0)
        r = lazy_load_all(l, loader);
    save_ram_loader_free(loader);
    if (r < 0 && r != -ECANCELED)
        lazy_fatal(l, r);
    /* No page is missing: the other thread goes, then closing wakes whoever it has not answered. */
    atomic_store(&l->stop, true);
    (void)!eventfd_write(l->stop_fd, 1);
    pthread_join(l->answering, NULL);
    close(l->uffd);
    close(l->reader.fd);
    pthread_mutex_lock(&l->lock);
    l->done = true;
    pthread_cond_broadcast(&l->done_cond);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- beginning and end ---- */

/* -EPERM: this user may not have faults of the kernel delivered. */
static int lazy_open(void)
{
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
    AUTO_FD int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return -errno;
    return ioctl(fd, UFFDIO_API, &api) < 0 ? -EOPNOTSUPP : STEAL_FD(fd);
}

/* Watch the chunks that are stored; the others are zero without our help. */
static int lazy_register(struct save_lazy *l)
{
    for (size_t i = 0, end; i < l->reader.n_chunks; i = end) {
        const struct save_chunk *c = l->reader.chunks;
        const struct mem_region *r = save_ram_place(l->mem, &c[i]);
        struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
        uint64_t stop;

        for (end = i + 1; end < l->reader.n_chunks && c[end].gpa == c[end - 1].gpa + SAVE_CHUNK_SIZE; end++) {
            if (save_ram_place(l->mem, &c[end]) != r)
                break;
        }
        stop = MIN(c[end - 1].gpa + SAVE_CHUNK_SIZE, r->gpa + r->size);
        reg.range = (struct uffdio_range){ .start = (uintptr_t)r->host + (c[i].gpa - r->gpa), .len = stop - c[i].gpa };
        if (ioctl(l->uffd, UFFDIO_REGISTER, &reg) < 0)
            return -EOPNOTSUPP;
    }
    return 0;
}

static int lazy_start(struct save_lazy *l)
{
    int r = -pthread_create(&l->answering, NULL, lazy_answering, l);

    l->has_answering = r == 0;
    if (r == 0)
        r = -pthread_create(&l->loading, NULL, lazy_loading, l);
    l->has_loading = r == 0;
    return r;
}

int save_lazy_new(struct mem *mem, struct save_reader *r, const char *path, struct save_lazy **ret_lazy)
{
    struct save_lazy *l;
    int res = 0;

    for (size_t i = 0; i < r->n_chunks; i++) {
        if (!save_ram_place(mem, &r->chunks[i]))
            return -EBADMSG;
    }
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->done_cond, NULL);
    l->mem = mem;
    l->reader =
        (struct save_reader){ .fd = fcntl(r->fd, F_DUPFD_CLOEXEC, 0), .chunks = r->chunks, .n_chunks = r->n_chunks };
    l->path = strdup(path);
    l->there = calloc(r->n_chunks + 1, sizeof(*l->there));
    l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->uffd = lazy_open();
    if (!l->path || !l->there)
        res = -ENOMEM;
    else if (l->reader.fd < 0 || l->stop_fd < 0)
        res = -EMFILE;
    else
        res = l->uffd < 0 ? l->uffd : lazy_register(l);
    if (res == 0)
        res = lazy_start(l);
    if (res < 0) {
        l->reader.chunks = NULL; /* still r's */
        save_lazy_free(l);
        return res;
    }
    r->chunks = NULL;
    r->n_chunks = 0;
    *ret_lazy = l;
    return 0;
}

void save_lazy_wait(struct save_lazy *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    while (!l->done)
        pthread_cond_wait(&l->done_cond, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

void save_lazy_free(struct save_lazy *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, true);
    if (l->stop_fd >= 0)
        (void)!eventfd_write(l->stop_fd, 1);
    if (l->has_loading) { /* it ends the other one and closes what they use */
        pthread_join(l->loading, NULL);
    } else {
        if (l->has_answering)
            pthread_join(l->answering, NULL);
        base_closep(&l->uffd);
        base_closep(&l->reader.fd);
    }
    base_closep(&l->stop_fd);
    pthread_cond_destroy(&l->done_cond);
    pthread_mutex_destroy(&l->lock);
    free(l->reader.chunks);
    free(l->there);
    free(l->path);
    free(l);
}
