/* Persistent dirty bitmaps of an open image.
 *
 * The bits of all bitmaps are in memory while the image is open; a bitmap whose bits may differ from those in the file
 * has in_use set in the file, so that nobody trusts the file's after a crash. Which bitmaps there are, and which
 * record, changes only while no request is under way (q2_exclusive_begin), so marking needs no lock. */
#ifndef BLOCK_QCOW2_BITMAP_PRIV_H
#define BLOCK_QCOW2_BITMAP_PRIV_H

#include "block/qcow2/qcow2_priv.h"

#define Q2_BITMAPS_MAX 65535u
#define Q2_BITMAP_DIR_MAX (64u << 20)
#define Q2_BITMAP_BYTES_MAX (UINT64_C(512) << 20) /* of one bitmap's bits */
#define Q2_BITMAP_ALL_MAX (UINT64_C(1) << 30)     /* of all of an image's; memory is used only where bits are set */
#define Q2_BITMAP_EXTRA_MAX (1u << 16)

#define Q2_BITMAP_IN_USE BIT(0)
#define Q2_BITMAP_AUTO BIT(1)
#define Q2_BITMAP_EXTRA_COMPATIBLE BIT(2)

struct q2_bitmap {
    char *name;
    unsigned gran_bits;
    uint32_t flags; /* as in the file */
    uint8_t type;
    uint8_t *extra;
    uint32_t extra_len;
    uint64_t entry_off;         /* of the directory entry in the file */
    uint64_t table_off, *table; /* the bitmap table, host endian; where it is */
    uint32_t table_size;        /* entries */
    bool usable;                /* type and extra data are known, and the bits are right */
    bool changed;               /* the bits in memory may differ from the file's; in_use is set there, by us */
    uint64_t *bits;             /* usable: bits_len bytes, bit i of word i / 64 is granule i; zero behind n_bits */
    uint64_t n_bits, bits_len;
};

struct q2_bitmaps {
    struct q2_bitmap *list;
    unsigned n;
};

struct q2_refs;

/* ---- bitmap.c: directory ---- */

/* Read the directory and what it refers to into q->bitmaps; nothing is left there on failure. */
int q2_bitmaps_read(struct q2 *q) MUST_USE;
/* From now on the image may be written to: say in the file that the bitmaps which record are in use. Alone. */
int q2_bitmaps_start(struct q2 *q) MUST_USE;
/* Note what bitmaps occupy with q2_meta_add. */
int q2_bitmaps_note(struct q2 *q) MUST_USE;
/* Count their references. */
int q2_bitmaps_refs(struct q2_refs *r) MUST_USE;
/* Write the directory anew, elsewhere, and the header that refers to it; for a changed set of bitmaps. Alone. */
int q2_bitmaps_write_dir(struct q2 *q) MUST_USE;
/* Write one entry's flags and its table's place into the directory as it is, and flush. Alone. */
int q2_bitmap_write_entry(struct q2 *q, struct q2_bitmap *b, uint32_t flags) MUST_USE;
void q2_bitmap_done(struct q2_bitmap *b);
uint64_t q2_bitmap_n_bits(uint64_t disk_size, unsigned gran_bits);
/* Entries that the table of a bitmap with so many bits has. */
uint64_t q2_bitmap_table_size(const struct q2 *q, uint64_t n_bits);

/* ---- bitmap_bits.c ---- */

/* Memory for the bits, zeroed. -EFBIG: beyond Q2_BITMAP_BYTES_MAX. */
int q2_bitmap_bits_new(struct q2 *q, struct q2_bitmap *b, uint64_t disk_size) MUST_USE;
void q2_bitmap_bits_free(struct q2_bitmap *b);
int q2_bitmap_bits_load(struct q2 *q, struct q2_bitmap *b) MUST_USE;
/* Write the bits into the file. in_use is set there, and stays. Alone; the refcounts of new clusters are in the file
 * afterwards, what is not needed any more was handed to q2_free_meta_locked. */
int q2_bitmap_bits_store(struct q2 *q, struct q2_bitmap *b) MUST_USE;
/* Any thread, as a request. Bytes, not beyond the disk. */
void q2_bitmap_mark(struct q2_bitmap *b, uint64_t off, uint64_t len);
/* First dirty range at or behind off: true, bytes; not cut at the disk's end. */
bool q2_bitmap_find(const struct q2_bitmap *b, uint64_t off, uint64_t *ret_off, uint64_t *ret_len);
uint64_t q2_bitmap_count(const struct q2_bitmap *b);

#endif
