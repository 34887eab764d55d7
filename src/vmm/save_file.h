/* The file of a saved VM as bytes (docs/snapshot-format.md): header, chunks of RAM, sections of state, the index of the
 * chunks, and a trailer without which a file is not complete. This file knows frames, lengths and check sums; it must
 * not know what is in a section or where a chunk belongs in guest memory.
 *
 * A reader takes the bytes of a stranger: nothing of the file is used before its check sum was compared, and a check
 * sum that fits does not make a number trusted. */
#ifndef VMM_SAVE_FILE_H
#define VMM_SAVE_FILE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/err.h"

#define SAVE_VERSION 1U
#define SAVE_ID_SIZE 16
#define SAVE_CHUNK_SHIFT 20
#define SAVE_CHUNK_SIZE (1U << SAVE_CHUNK_SHIFT) /* of guest memory */
#define SAVE_CHUNK_PAGES 256U
#define SAVE_CHUNK_STORED_MAX                                                               \
    (SAVE_CHUNK_SIZE + (SAVE_CHUNK_SIZE >> 7) + 512) /* bytes that one may have in the file \
                                                      */
#define SAVE_STATE_MAX (64U << 20)
#define SAVE_SECTION_MAX (4U << 20)
#define SAVE_SECTIONS_MAX 512U
#define SAVE_KIND_MAX 32

enum save_coding { SAVE_RAW, SAVE_ZSTD };

/* A piece of guest memory: the pages of it that are not zero, one behind the other. */
struct save_chunk {
    uint64_t gpa;                          /* a multiple of SAVE_CHUNK_SIZE */
    uint64_t pages[SAVE_CHUNK_PAGES / 64]; /* bit n: page n is stored; 0 nowhere: the chunk is not in the index */
    uint64_t off;                          /* in the file */
    uint32_t len, crc;                     /* as stored */
    uint32_t coding;                       /* enum save_coding */
};

/* ---- writing ---- */

struct save_writer {
    int fd; /* borrowed; a regular file, empty */
    uint8_t id[SAVE_ID_SIZE];
    _Atomic uint64_t end; /* where the next chunk goes */
    struct buf state;     /* sections */
    unsigned n_sections;
};

/* Begin a file. -errno of getrandom and write. save_writer_done in any case. */
int save_writer_init(struct save_writer *w, int fd) MUST_USE;
/* Append a section; len <= SAVE_SECTION_MAX. The first error sticks and is told by save_writer_finish. */
void save_writer_section(struct save_writer *w, const char *kind, uint32_t instance, uint16_t version, const void *data,
                         size_t len);
/* Append the bytes of a chunk and fill in its off, len and crc. Any thread. -errno of write. */
int save_writer_chunk(struct save_writer *w, struct save_chunk *c, const void *data, uint32_t len) MUST_USE;
/* Write sections, index and trailer. chunks: n of them, ascending; those without pages are left out. *ret_size: of the
 * file. -errno. Nothing is on stable storage yet. */
int save_writer_finish(struct save_writer *w, const struct save_chunk *chunks, size_t n, uint64_t *ret_size) MUST_USE;
void save_writer_done(struct save_writer *w);

/* ---- reading ---- */

struct save_section {
    char kind[SAVE_KIND_MAX];
    uint32_t instance;
    uint16_t version;
    const uint8_t *data; /* belongs to the reader */
    uint32_t len;
};

struct save_reader {
    int fd; /* borrowed */
    uint8_t id[SAVE_ID_SIZE];
    uint8_t *state; /* the sections' bytes */
    struct save_section *sections;
    unsigned n_sections;
    struct save_chunk *chunks; /* ascending, each with a page or more */
    size_t n_chunks;
};

/* Read and check everything but the chunks' bytes. path: for errors. Errors have text: -EBADMSG: damaged, or no saved
 * VM; -ENOTSUP: of a later version; -ENOMEM, -errno of read. *ret_reader: save_reader_free. */
int save_reader_new(int fd, const char *path, struct save_reader **ret_reader, struct err *e) MUST_USE;
void save_reader_free(struct save_reader *r); /* NULL accepted */
DEFINE_AUTO(save_reader, struct save_reader, save_reader_free)
/* The first section of that kind and instance, NULL: none. */
const struct save_section *save_reader_find(const struct save_reader *r, const char *kind, uint32_t instance);
/* The stored bytes of a chunk into data (SAVE_CHUNK_STORED_MAX bytes). Any thread. -EBADMSG: damaged; -errno. */
int save_reader_chunk(const struct save_reader *r, const struct save_chunk *c, void *data) MUST_USE;

/* Pages that are stored. */
unsigned save_chunk_pages(const struct save_chunk *c);

#endif
