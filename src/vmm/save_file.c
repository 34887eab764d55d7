#include "vmm/save_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/crc32c.h"
#include "base/fdio.h"
#include "base/pack.h"

#define HEADER_SIZE 64U
#define TRAILER_SIZE 96U
#define ENTRY_SIZE 64U
#define ENTRIES_MAX (1ULL << 22) /* 4 TiB of guest memory */

static const char save_magic[8] = { 'C', 'A', 'I', 'S', 'S', 'A', 'V', 'E' };
static const char save_end_magic[8] = { 'C', 'A', 'I', 'S', 'S', 'E', 'N', 'D' };

/* The trailer's numbers. */
struct save_layout {
    uint64_t size; /* of the whole file */
    uint64_t state_off, state_len, index_off, n_chunks;
    uint32_t state_crc, index_crc, n_sections;
};

unsigned save_chunk_pages(const struct save_chunk *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(c->pages); i++)
        n += (unsigned)__builtin_popcountll(c->pages[i]);
    return n;
}

/* ---- writing ---- */

/* What was packed so far, with its check sum behind it, filled up to size before that. */
static void save_seal(struct buf *b, size_t size)
{
    buf_extend(b, size - 4 - b->len);
    pack_u32(b, b->data ? crc32c(0, b->data, b->len) : 0);
}

int save_writer_init(struct save_writer *w, int fd)
{
    struct buf head;
    int r;

    *w = (struct save_writer){ .fd = fd };
    atomic_init(&w->end, HEADER_SIZE);
    buf_init(&w->state, SAVE_STATE_MAX);
    if (getrandom(w->id, sizeof(w->id), 0) != sizeof(w->id))
        return -EIO;
    buf_init(&head, HEADER_SIZE);
    pack_bytes(&head, save_magic, sizeof(save_magic));
    pack_u32(&head, SAVE_VERSION);
    pack_u32(&head, 0);
    pack_bytes(&head, w->id, sizeof(w->id));
    save_seal(&head, HEADER_SIZE);
    r = buf_error(&head);
    if (r == 0)
        r = fd_pwrite_all(fd, head.data, head.len, 0);
    buf_done(&head);
    return r;
}

void save_writer_section(struct save_writer *w, const char *kind, uint32_t instance, uint16_t version, const void *data,
                         size_t len)
{
    if (len > SAVE_SECTION_MAX || w->n_sections == SAVE_SECTIONS_MAX) {
        w->state.error = -E2BIG;
        return;
    }
    w->n_sections++;
    pack_text(&w->state, kind);
    pack_u32(&w->state, instance);
    pack_u16(&w->state, version);
    pack_blob(&w->state, data, (uint32_t)len);
}

int save_writer_chunk(struct save_writer *w, struct save_chunk *c, const void *data, uint32_t len)
{
    c->off = atomic_fetch_add(&w->end, len);
    c->len = len;
    c->crc = crc32c(0, data, len);
    return fd_pwrite_all(w->fd, data, len, c->off);
}

static int save_write_index(struct save_writer *w, const struct save_chunk *chunks, size_t n, uint64_t off,
                            struct save_layout *l)
{
    struct buf b;
    int r;

    buf_init(&b, n * ENTRY_SIZE + 1);
    for (size_t i = 0; i < n; i++) {
        const struct save_chunk *c = &chunks[i];

        if (save_chunk_pages(c) == 0)
            continue;
        l->n_chunks++;
        pack_u64(&b, c->gpa);
        pack_u64(&b, c->off);
        pack_u32(&b, c->len);
        pack_u32(&b, c->crc);
        pack_u32(&b, c->coding);
        pack_u32(&b, 0);
        for (unsigned k = 0; k < ARRAY_SIZE(c->pages); k++)
            pack_u64(&b, c->pages[k]);
    }
    r = buf_error(&b);
    l->index_off = off;
    l->index_crc = crc32c(0, b.data, b.len);
    l->size = off + b.len + TRAILER_SIZE;
    if (r == 0 && b.len > 0)
        r = fd_pwrite_all(w->fd, b.data, b.len, off);
    buf_done(&b);
    return r;
}

static int save_write_trailer(struct save_writer *w, const struct save_layout *l)
{
    struct buf b;
    int r;

    buf_init(&b, TRAILER_SIZE);
    pack_bytes(&b, save_end_magic, sizeof(save_end_magic));
    pack_bytes(&b, w->id, sizeof(w->id));
    pack_u64(&b, l->size);
    pack_u64(&b, l->state_off);
    pack_u64(&b, l->state_len);
    pack_u32(&b, l->state_crc);
    pack_u32(&b, l->n_sections);
    pack_u64(&b, l->index_off);
    pack_u64(&b, l->n_chunks);
    pack_u32(&b, l->index_crc);
    save_seal(&b, TRAILER_SIZE);
    r = buf_error(&b);
    if (r == 0)
        r = fd_pwrite_all(w->fd, b.data, b.len, l->size - TRAILER_SIZE);
    buf_done(&b);
    return r;
}

int save_writer_finish(struct save_writer *w, const struct save_chunk *chunks, size_t n, uint64_t *ret_size)
{
    struct save_layout l = { .state_off = atomic_load(&w->end),
                             .state_len = w->state.len,
                             .n_sections = w->n_sections };
    int r = buf_error(&w->state);

    if (r < 0)
        return r;
    l.state_crc = crc32c(0, w->state.data, w->state.len);
    if (w->state.len > 0)
        r = fd_pwrite_all(w->fd, w->state.data, w->state.len, l.state_off);
    if (r == 0)
        r = save_write_index(w, chunks, n, l.state_off + l.state_len, &l);
    if (r == 0)
        r = save_write_trailer(w, &l);
    if (r == 0)
        *ret_size = l.size;
    return r;
}

void save_writer_done(struct save_writer *w)
{
    buf_done(&w->state);
}

/* ---- reading ---- */

static int save_damaged(const char *path, const char *what, struct err *e)
{
    return err_set(e, EBADMSG, "saved VM %s: damaged (%s); it cannot be used, take another copy", path, what);
}

/* The error of a read, with text. */
static int save_read_error(const char *path, int r, struct err *e)
{
    return r == -EBADMSG ? save_damaged(path, "it ends early", e)
                         : err_set(e, -r, "saved VM %s: cannot read it: %s", path, strerror(-r));
}

static bool save_sealed(const uint8_t *data, size_t size)
{
    return load_le32(data + size - 4) == crc32c(0, data, size - 4);
}

static int save_read_header(struct save_reader *r, const char *path, struct err *e)
{
    uint8_t head[HEADER_SIZE];
    uint32_t version;
    int res = fd_pread_all(r->fd, head, sizeof(head), 0);

    if (res == -EBADMSG || (res == 0 && memcmp(head, save_magic, sizeof(save_magic)) != 0))
        return err_set(e, EBADMSG, "%s: not a saved VM; name a file that caisson vm save has made", path);
    if (res < 0)
        return save_read_error(path, res, e);
    version = load_le32(head + 8);
    if (!save_sealed(head, sizeof(head)))
        return save_damaged(path, "check sum of the header", e);
    if (version != SAVE_VERSION)
        return err_set(
            e, ENOTSUP,
            "saved VM %s: of format %u, this program knows up to %u; use the version of Caisson that made it", path,
            version, SAVE_VERSION);
    memcpy(r->id, head + 16, sizeof(r->id));
    return 0;
}

static int save_read_trailer(struct save_reader *r, const char *path, struct save_layout *l, struct err *e)
{
    uint8_t tail[TRAILER_SIZE], id[SAVE_ID_SIZE], magic[8];
    struct unpack u;
    struct stat st;
    int res = fstat(r->fd, &st) < 0 ? -errno : 0;

    if (res == 0 && (uint64_t)st.st_size < HEADER_SIZE + TRAILER_SIZE)
        res = -EBADMSG;
    if (res == 0)
        res = fd_pread_all(r->fd, tail, sizeof(tail), (uint64_t)st.st_size - TRAILER_SIZE);
    if (res < 0)
        return save_read_error(path, res, e);
    unpack_init(&u, tail, sizeof(tail));
    unpack_bytes(&u, magic, sizeof(magic));
    unpack_bytes(&u, id, sizeof(id));
    l->size = unpack_u64(&u);
    l->state_off = unpack_u64(&u);
    l->state_len = unpack_u64(&u);
    l->state_crc = unpack_u32(&u);
    l->n_sections = unpack_u32(&u);
    l->index_off = unpack_u64(&u);
    l->n_chunks = unpack_u64(&u);
    l->index_crc = unpack_u32(&u);
    if (memcmp(magic, save_end_magic, sizeof(magic)) != 0)
        return save_damaged(path, "its end is missing", e);
    if (!save_sealed(tail, sizeof(tail)) || memcmp(id, r->id, sizeof(id)) != 0)
        return save_damaged(path, "check sum of its end", e);
    /* One lies behind the other, without gaps; so nothing of this can overflow either. */
    if (l->size != (uint64_t)st.st_size || l->state_len > SAVE_STATE_MAX || l->n_chunks > ENTRIES_MAX ||
        l->n_sections > SAVE_SECTIONS_MAX || l->state_off < HEADER_SIZE || l->state_off > l->size ||
        l->index_off != l->state_off + l->state_len ||
        l->size != l->index_off + l->n_chunks * ENTRY_SIZE + TRAILER_SIZE)
        return save_damaged(path, "lengths that do not fit each other", e);
    return 0;
}

/* *ret: malloc'd, len bytes (NULL for none). */
static int save_read_part(struct save_reader *r, const char *path, uint64_t off, uint64_t len, uint32_t crc,
                          const char *what, uint8_t **ret, struct err *e)
{
    uint8_t *data = malloc(len ? len : 1);
    int res = data ? fd_pread_all(r->fd, data, len, off) : -ENOMEM;

    if (res == 0 && crc32c(0, data, len) == crc) {
        *ret = data;
        return 0;
    }
    free(data);
    return res < 0 ? save_read_error(path, res, e) : save_damaged(path, what, e);
}

static int save_read_sections(struct save_reader *r, const char *path, const struct save_layout *l, struct err *e)
{
    struct unpack u;
    int res = save_read_part(r, path, l->state_off, l->state_len, l->state_crc, "check sum of the state", &r->state, e);

    if (res < 0)
        return res;
    r->sections = calloc(l->n_sections ? l->n_sections : 1, sizeof(*r->sections));
    if (!r->sections)
        return err_set(e, ENOMEM, "out of memory");
    unpack_init(&u, r->state, l->state_len);
    for (; r->n_sections < l->n_sections; r->n_sections++) {
        struct save_section *s = &r->sections[r->n_sections];
        uint32_t len = 0;
        const uint8_t *kind = unpack_blob(&u, SAVE_KIND_MAX - 1, &len);

        if (kind)
            memcpy(s->kind, kind, len);
        if (!kind || memchr(kind, '\0', len))
            unpack_refuse(&u);
        s->instance = unpack_u32(&u);
        s->version = unpack_u16(&u);
        s->data = unpack_blob(&u, SAVE_SECTION_MAX, &s->len);
    }
    return unpack_end(&u) < 0 ? save_damaged(path, "sections that make no sense", e) : 0;
}

static bool save_chunk_ok(const struct save_chunk *c, const struct save_chunk *before, uint64_t data_end)
{
    unsigned pages = save_chunk_pages(c);

    return pages > 0 && c->gpa % SAVE_CHUNK_SIZE == 0 && (!before || c->gpa > before->gpa) && c->len > 0 &&
           c->len <= SAVE_CHUNK_STORED_MAX && c->off >= HEADER_SIZE && c->off <= data_end &&
           c->len <= data_end - c->off &&
           (c->coding == SAVE_ZSTD ||
            (c->coding == SAVE_RAW && c->len == pages * (SAVE_CHUNK_SIZE / SAVE_CHUNK_PAGES)));
}

static int save_read_index(struct save_reader *r, const char *path, const struct save_layout *l, struct err *e)
{
    AUTO_FREE uint8_t *index = NULL;
    struct unpack u;
    uint64_t stored = 0;
    int res = save_read_part(r, path, l->index_off, l->n_chunks * ENTRY_SIZE, l->index_crc, "check sum of the index",
                             &index, e);

    if (res < 0)
        return res;
    r->chunks = calloc(l->n_chunks ? l->n_chunks : 1, sizeof(*r->chunks));
    if (!r->chunks)
        return err_set(e, ENOMEM, "out of memory");
    unpack_init(&u, index, l->n_chunks * ENTRY_SIZE);
    for (; r->n_chunks < l->n_chunks; r->n_chunks++) {
        struct save_chunk *c = &r->chunks[r->n_chunks];

        c->gpa = unpack_u64(&u);
        c->off = unpack_u64(&u);
        c->len = unpack_u32(&u);
        c->crc = unpack_u32(&u);
        c->coding = unpack_u32(&u);
        if (unpack_u32(&u) != 0)
            unpack_refuse(&u);
        for (unsigned k = 0; k < ARRAY_SIZE(c->pages); k++)
            c->pages[k] = unpack_u64(&u);
        if (!save_chunk_ok(c, r->n_chunks ? c - 1 : NULL, l->state_off))
            unpack_refuse(&u);
        stored += c->len;
    }
    /* No byte of the file is without a check sum. */
    if (unpack_end(&u) < 0 || stored != l->state_off - HEADER_SIZE)
        return save_damaged(path, "an index that makes no sense", e);
    return 0;
}

int save_reader_new(int fd, const char *path, struct save_reader **ret_reader, struct err *e)
{
    AUTO(save_reader) struct save_reader *r = calloc(1, sizeof(*r));
    struct save_layout l = { 0 };
    int res;

    if (!r)
        return err_set(e, ENOMEM, "out of memory");
    r->fd = fd;
    res = save_read_header(r, path, e);
    if (res == 0)
        res = save_read_trailer(r, path, &l, e);
    if (res == 0)
        res = save_read_sections(r, path, &l, e);
    if (res == 0)
        res = save_read_index(r, path, &l, e);
    if (res < 0)
        return res;
    *ret_reader = STEAL(r);
    return 0;
}

void save_reader_free(struct save_reader *r)
{
    if (!r)
        return;
    free(r->state);
    free(r->sections);
    free(r->chunks);
    free(r);
}

const struct save_section *save_reader_find(const struct save_reader *r, const char *kind, uint32_t instance)
{
    for (unsigned i = 0; i < r->n_sections; i++) {
        if (r->sections[i].instance == instance && strcmp(r->sections[i].kind, kind) == 0)
            return &r->sections[i];
    }
    return NULL;
}

int save_reader_chunk(const struct save_reader *r, const struct save_chunk *c, void *data)
{
    int res = fd_pread_all(r->fd, data, c->len, c->off);

    if (res < 0)
        return res;
    return crc32c(0, data, c->len) == c->crc ? 0 : -EBADMSG;
}
