/* qcow2, private to its folder: the open image, its metadata in memory, and what the files here do for each other.
 *
 * Locks, in the order in which they are taken: wb_lock (one write-back, one exclusive operation at a time), lock (all
 * metadata: header, L1, refcount table, both caches, records of allocations; held over metadata I/O, never over data
 * I/O or a flush, but for exclusive operations), fly_lock (counters of requests; never held over anything).
 * Names that end in _locked want lock held. Everything that reads or changes L1, L2 or refcounts is _locked.
 *
 * Order on disk (docs in writeback.c): refcounts and new L2 tables, then a flush, then the L2 entries and L1 entries
 * that refer to them, then a flush; only then are refcounts of what is no longer referred to taken down. Every
 * write-back does all of it, so a crash at any point leaves leaked clusters at worst. Spec: QEMU
 * docs/interop/qcow2.txt. Must not know the event loop, devices or other formats (but for block/luks.h). */
#ifndef BLOCK_QCOW2_QCOW2_PRIV_H
#define BLOCK_QCOW2_QCOW2_PRIV_H

#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/attr.h"
#include "base/bits.h"
#include "base/list.h"
#include "block/luks.h"
#include "block/open.h"

#define Q2_MAGIC 0x514649fbu
#define Q2_CLUSTER_BITS_MIN 9u
#define Q2_CLUSTER_BITS_MAX 21u
#define Q2_L1_BYTES_MAX (32u << 20)
#define Q2_RT_BYTES_MAX (8u << 20)
#define Q2_NAME_MAX 1023u /* bytes of the backing file's name */
#define Q2_EXT_BYTES_MAX (1u << 20)
#define Q2_L2_CACHE_BYTES (32u << 20)
#define Q2_RB_CACHE_BYTES (8u << 20)

/* Header: feature bits. */
#define Q2_INCOMPAT_DIRTY BIT64(0)
#define Q2_INCOMPAT_CORRUPT BIT64(1)
#define Q2_INCOMPAT_DATA_FILE BIT64(2)
#define Q2_INCOMPAT_COMPRESSION BIT64(3)
#define Q2_INCOMPAT_EXTL2 BIT64(4)
#define Q2_INCOMPAT_KNOWN BITS64(4, 0)
#define Q2_COMPAT_LAZY BIT64(0)
#define Q2_AUTOCLEAR_BITMAPS BIT64(0)
#define Q2_AUTOCLEAR_RAW BIT64(1)
#define Q2_AUTOCLEAR_KNOWN BITS64(1, 0)

/* L1 and L2 entries. */
#define Q2_COPIED BIT64(63)
#define Q2_COMPRESSED BIT64(62)
#define Q2_ZERO BIT64(0)
#define Q2_OFFSET_MASK BITS64(55, 9)
#define Q2_SUBCLUSTERS 32u /* of a cluster with extended L2 entries */

enum { Q2_CRYPT_NONE, Q2_CRYPT_AES, Q2_CRYPT_LUKS };
enum { Q2_ZLIB, Q2_ZSTD };

/* The header as numbers, and its extensions. */
struct q2_header {
    unsigned version; /* 2, 3 */
    unsigned cluster_bits, refcount_order;
    uint64_t size;
    uint32_t crypt;
    uint32_t l1_size; /* entries */
    uint64_t l1_off;
    uint64_t rt_off;
    uint32_t rt_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_off;
    uint64_t incompat, compat, autoclear;
    uint32_t length;      /* of the fixed part in the file, with fields that are unknown to us */
    unsigned compression; /* Q2_ZLIB, Q2_ZSTD */
    /* Extensions. Strings are malloc'd, NULL: none. */
    char *backing, *backing_format, *data_file;
    bool has_luks;
    uint64_t luks_off, luks_len;
    bool has_bitmaps;
    uint32_t n_bitmaps;
    uint64_t bitmap_dir_off, bitmap_dir_size;
    uint8_t *other; /* extensions that are unknown to us, and the feature name table, as they stand in the file */
    size_t other_len;
    uint8_t *tail; /* of the fixed part, behind what we know: kept as it is */
    size_t tail_len;
};

/* A table (L2 table or refcount block) in memory, exactly one cluster, as it is in the file (big endian). */
struct q2_table {
    struct list lru;
    struct q2_table *hash_next;
    uint64_t off; /* in the file */
    uint8_t *data;
    uint32_t dirty_lo, dirty_hi; /* bytes that differ from the file; none: lo >= hi */
    bool fresh;                  /* L2: the L1 table in the file does not refer to it yet */
    bool busy;                   /* being written by a write-back that has let go of the lock: must stay */
};

struct q2_cache {
    struct list lru; /* most recently used first */
    struct q2_table **buckets;
    unsigned n_buckets; /* a power of two */
    unsigned n, n_max;  /* n goes beyond n_max where all are dirty, until the next write-back */
    unsigned n_dirty;
};

/* Set of host clusters that hold metadata; open addressing, 0 is empty (the header's cluster is known to be). */
struct q2_meta {
    uint64_t *slots;
    size_t n, n_slots;
};

/* A run of guest clusters that a writer is giving new storage; on the writer's stack. Others that want to write there
 * wait for it. */
struct q2_claim {
    struct list link;
    uint64_t first, n; /* guest clusters */
};

/* Clusters that nothing in memory refers to any more. */
struct q2_freed {
    struct q2_freed *next;
    uint64_t cluster, n; /* host clusters; each loses one reference */
    bool punch;          /* give the storage back to the host as well */
};
/* Stages of freed clusters: fresh (references to them may be in the file still), ripe (not so; wait for the requests
 * that found them before). */
struct q2_limbo {
    struct q2_freed *fresh, *ripe;
    uint64_t n_fresh;    /* clusters */
    uint64_t ripe_epoch; /* requests of this epoch and before may use the ripe ones */
};

/* Requests under way. An epoch ends when the one before it has no requests left, so whatever was let go of in epoch e
 * is unused in epoch e + 2. blk_map's are not told apart: as a group they count as one request. */
struct q2_fly {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t epoch;
    uint64_t n[2]; /* of epoch and epoch - 1, by the low bit */
    uint64_t n_mapped, map_epoch;
    uint64_t n_backing; /* maps of the backing node that are still to be ended */
    unsigned closed;    /* somebody wants to be alone, or is: no entry */
};

#define Q2_INFLATED 8
struct q2_inflated { /* a compressed cluster that was read */
    uint64_t entry;  /* its L2 entry; 0: none */
    uint64_t used;
    uint8_t *data;
};

struct q2_bitmaps; /* bitmap*.c */

struct q2 {
    struct blk_node node;
    struct q2_header h;
    struct blk_node *data; /* the file that holds the guest's clusters: node.file or own_data */
    struct blk_node *own_data;
    struct blk_luks *luks; /* NULL: in clear */
    struct q2_bitmaps *bitmaps;

    /* From the header. */
    uint32_t cluster_size;
    unsigned cluster_bits;
    unsigned l2_bits;       /* log2 of entries in an L2 table */
    unsigned l2_entry_size; /* 8, 16 */
    unsigned sub_bits;      /* log2 of the bytes of a subcluster; cluster_bits without extended entries */
    unsigned rb_bits;       /* log2 of entries in a refcount block */
    uint64_t refcount_max;
    bool extl2, data_raw, discard_ignored;

    pthread_mutex_t wb_lock, lock;
    uint64_t *l1; /* h.l1_size entries, host endian */
    uint32_t l1_dirty_lo, l1_dirty_hi;
    uint64_t *rt; /* rt_size entries, host endian */
    uint32_t rt_size, rt_dirty_lo, rt_dirty_hi;
    uint64_t rt_new_off; /* where the table goes at the next write-back; 0: stays where the header says */
    struct q2_cache l2, rb;
    struct q2_meta meta;
    struct q2_limbo limbo;
    struct list claims;
    pthread_cond_t claims_changed;
    uint64_t free_hint;           /* no free host cluster below it */
    uint64_t end;                 /* no host cluster from here on is in the file or was used since it was opened */
    uint64_t zero_from;           /* the file reads as zeroes from this byte on */
    uint64_t packed_at;           /* where the next compressed cluster goes; 0: into a new host cluster */
    bool corrupt;                 /* found out while open: no more writes */
    uint64_t wb_started, wb_done; /* number of the last write-back that began; of the last that succeeded */

    struct q2_fly fly;

    pthread_mutex_t inflated_lock, pack_lock;
    struct q2_inflated inflated[Q2_INFLATED];
    unsigned n_inflated; /* in use of the array */
    uint64_t inflated_clock;
};

/* Numbers of the file, big endian, at any address. */
static inline uint32_t q2_be32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t q2_be64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static inline void q2_put_be32(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void q2_put_be64(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

static inline struct q2 *q2_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct q2, node);
}

static inline uint64_t q2_clusters(const struct q2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + ((bytes & (q->cluster_size - 1)) != 0);
}

static inline bool q2_aligned(const struct q2 *q, uint64_t v)
{
    return (v & (q->cluster_size - 1)) == 0;
}

/* Widen a span, which is empty while lo >= hi, by [at, at + n). */
static inline void q2_span_add(uint32_t *lo, uint32_t *hi, uint32_t at, uint32_t n)
{
    bool empty = *lo >= *hi;

    *lo = empty ? at : MIN(*lo, at);
    *hi = empty ? at + n : MAX(*hi, at + n);
}

/* ---- header.c ---- */

/* Parse and check. head: the first bytes of the file, len of them (up to one cluster); file_size bounds offsets.
 * -EMEDIUMTYPE, -ENOTSUP with why; *ret is to be cleared by q2_header_done in either case. */
int q2_header_parse(const uint8_t *head, size_t len, uint64_t file_size, const char *path, struct q2_header *ret,
                    struct blk_why *why) MUST_USE;
void q2_header_done(struct q2_header *h);
/* The whole header as it stands in the file, padded with zeroes. out: room bytes (a cluster). Returns how many of them
 * matter; -ENOSPC: does not fit. */
int q2_header_build(const struct q2_header *h, uint8_t *out, size_t room) MUST_USE;
/* Write q->h into the file. Not flushed. */
int q2_header_write_locked(struct q2 *q) MUST_USE;
/* Something in the file makes no sense, so writing would do harm: set the corrupt bit (v3), refuse writes from now on.
 * Returns -EIO. */
int q2_corrupt_locked(struct q2 *q);

/* ---- fly.c: requests under way; being alone ---- */

/* Each request that looks at the mapping is between these two. enter returns a token for leave, and waits while
 * somebody is alone. */
unsigned q2_enter(struct q2 *q);
void q2_leave(struct q2 *q, unsigned token);
/* For map: false where it may not enter. */
bool q2_enter_map(struct q2 *q);
void q2_leave_map(struct q2 *q);
/* One more blk_unmap of the backing node is owed; inside enter_map. */
void q2_owe_backing(struct q2 *q);
/* Whether everything that was under way in that epoch has ended; moves the epoch on if it can. */
bool q2_epoch_over(struct q2 *q, uint64_t epoch);
uint64_t q2_epoch(struct q2 *q);
/* Be alone, with all metadata written back and no freed cluster waiting: no request under way, none enters, no map
 * outstanding. begin takes wb_lock and lock, end lets go of them. After a failure (of the write-back) they are not
 * held. Not from within a request. For what changes many references at once: snapshots, resize, check, bitmaps'
 * storage. */
int q2_exclusive_begin(struct q2 *q) MUST_USE;
void q2_exclusive_end(struct q2 *q);

/* ---- cache.c ---- */

int q2_cache_init(struct q2_cache *c, unsigned n_max) MUST_USE;
void q2_cache_done(struct q2_cache *c);
/* The table at off, read if need be; valid until lock is let go of or the next call on this cache. -EIO: off makes no
 * sense. */
int q2_cache_get_locked(struct q2 *q, struct q2_cache *c, uint64_t off, struct q2_table **ret) MUST_USE;
/* Likewise, but only if it is in memory; NULL: not. */
struct q2_table *q2_cache_peek_locked(struct q2 *q, struct q2_cache *c, uint64_t off);
/* A new table of zeroes for off, all of it dirty. */
int q2_cache_add_locked(struct q2 *q, struct q2_cache *c, uint64_t off, struct q2_table **ret) MUST_USE;
void q2_cache_dirty_locked(struct q2_cache *c, struct q2_table *t, uint32_t off, uint32_t len);
void q2_cache_clean_locked(struct q2_cache *c, struct q2_table *t);
/* Forget a table, changes and all. */
void q2_cache_drop_locked(struct q2 *q, struct q2_cache *c, uint64_t off);
void q2_cache_drop_all_locked(struct q2_cache *c);

/* ---- meta.c: where metadata stands, so that no data is written over it ---- */

int q2_meta_add(struct q2 *q, uint64_t off, uint64_t bytes) MUST_USE;
void q2_meta_remove(struct q2 *q, uint64_t off, uint64_t bytes);
/* Whether [off, off + bytes) of the image file touches metadata. */
bool q2_meta_hit(const struct q2 *q, uint64_t off, uint64_t bytes);

/* ---- refcount.c ---- */

/* The refcount with index i in a block as it stands in the file. */
uint64_t q2_rc_load(const struct q2 *q, const uint8_t *data, uint64_t i);
void q2_rc_store(const struct q2 *q, uint8_t *data, uint64_t i, uint64_t value);
/* Refcount of the host cluster with this index. */
int q2_refcount_get_locked(struct q2 *q, uint64_t cluster, uint64_t *ret) MUST_USE;
/* Add delta to the refcounts of n clusters in memory. -ERANGE: an overflow or a value below 0 (nothing was changed for
 * that cluster and those behind it); -ENOENT: there is no refcount block for it, and none is made. Decrements only
 * where the file holds no reference any more (see q2_free_locked). */
int q2_refcount_update_locked(struct q2 *q, uint64_t cluster, uint64_t n, int64_t delta) MUST_USE;
/* Get 1..n free, contiguous host clusters with refcount 1; *ret_off: where (bytes), *ret_n: how many. The first free
 * ones are taken. -ENOSPC, -EFBIG. */
int q2_alloc_some_locked(struct q2 *q, uint64_t n, uint64_t *ret_off, uint64_t *ret_n) MUST_USE;
/* Exactly n contiguous ones, at the end of the file if need be. *ret_off in bytes. */
int q2_alloc_clusters_locked(struct q2 *q, uint64_t n, uint64_t *ret_off) MUST_USE;
/* Likewise, behind all that is in use. */
int q2_alloc_at_end_locked(struct q2 *q, uint64_t n, uint64_t *ret_off) MUST_USE;
/* Like alloc_clusters, for metadata of that many bytes: noted so that no data is written there (q2_meta_add). */
int q2_alloc_meta_locked(struct q2 *q, uint64_t bytes, uint64_t *ret_off) MUST_USE;
/* Whether data at these bytes of the image file can be where a mapping says: inside, not over metadata. */
bool q2_host_ok_locked(const struct q2 *q, uint64_t off, uint64_t len);
/* Take back an allocation that nothing in memory or in the file ever referred to. */
void q2_unalloc_locked(struct q2 *q, uint64_t off, uint64_t n);
int q2_rt_load(struct q2 *q) MUST_USE;

/* ---- limbo.c: freeing ---- */

/* One reference less to n host clusters, from byte off on, that nothing in memory refers to any more; the count goes
 * down after the next write-back, when no request can be using them. punch: the host may have the storage. Where memory
 * is short, the clusters leak. */
void q2_free_locked(struct q2 *q, uint64_t off, uint64_t n, bool punch);
/* Likewise for metadata (which is no longer noted as such). bytes: rounded up to clusters. */
void q2_free_meta_locked(struct q2 *q, uint64_t off, uint64_t bytes);
/* What an L2 entry refers to: a standard or a compressed cluster, or nothing. */
void q2_free_entry_locked(struct q2 *q, uint64_t entry, bool punch);
/* End of a write-back: what was fresh at its start is ripe; count down what can be. wb_lock and lock are held; lock is
 * let go of in between unless alone. */
void q2_limbo_ripen_locked(struct q2 *q, struct q2_freed *fresh);
void q2_limbo_reap_locked(struct q2 *q, bool alone);
void q2_limbo_done(struct q2 *q);

/* ---- writeback.c ---- */

/* Write back all metadata in a safe order, with flushes in between, and count down what was freed. Everything that was
 * written before is on stable storage afterwards. wb_lock and lock are held; without alone, lock is let go of during
 * data flushes and writes (and held again at the return). */
int q2_writeback_locked(struct q2 *q, bool alone) MUST_USE;
/* Long operations call this between steps (no lock held): writes back when the caches are full of changes or much was
 * freed. */
int q2_relieve(struct q2 *q) MUST_USE;
/* The same inside q2_exclusive_begin..end. */
int q2_relieve_alone(struct q2 *q) MUST_USE;
bool q2_wants_relief_locked(const struct q2 *q);
int q2_flush(struct blk_node *n);

/* ---- l2.c: mapping ---- */

enum q2_kind {
    Q2_K_UNALLOCATED, /* the backing file's, else zeroes. host != 0: has a place nevertheless (extended entries) */
    Q2_K_ZERO,        /* host != 0: preallocated */
    Q2_K_DATA,
    Q2_K_COMPRESSED,
};
/* What a run of guest bytes consists of. */
struct q2_run {
    enum q2_kind kind;
    uint64_t len;
    bool has_host;
    bool copied;    /* refcount 1: may be written in place */
    uint64_t host;  /* byte in q->data that holds the first byte, with has_host */
    uint64_t entry; /* COMPRESSED: the L2 entry */
};

int q2_l1_load(struct q2 *q) MUST_USE;
void q2_l1_set_locked(struct q2 *q, uint32_t i, uint64_t entry);
/* The run at off, of one kind and, with has_host, in one piece in the file; 1..len bytes, within one L2 table unless
 * unallocated. cached: fail with -EAGAIN rather than read a table. -EIO: the image is broken here. */
int q2_lookup_locked(struct q2 *q, uint64_t off, uint64_t len, bool cached, struct q2_run *ret) MUST_USE;
/* L2 table for this guest offset to change it: made or copied (if snapshots share it) as needed. *ret_index: of the
 * entry. */
int q2_l2_for_write_locked(struct q2 *q, uint64_t off, struct q2_table **ret_table, unsigned *ret_index) MUST_USE;
/* Likewise to read it; *ret_table NULL: there is none. */
int q2_l2_for_read_locked(struct q2 *q, uint64_t off, struct q2_table **ret_table, unsigned *ret_index) MUST_USE;
uint64_t q2_entry(const struct q2 *q, const struct q2_table *t, unsigned i);
/* Second half of an extended entry; 0 without such. */
uint64_t q2_entry_bits(const struct q2 *q, const struct q2_table *t, unsigned i);
void q2_entry_set_locked(struct q2 *q, struct q2_table *t, unsigned i, uint64_t entry, uint64_t bits);
/* Where the sectors of a compressed cluster stand: first byte and length up to the end of the last sector. */
void q2_compressed_place(const struct q2 *q, uint64_t entry, uint64_t *ret_off, uint64_t *ret_len);

/* ---- claim.c ---- */

/* Wait until nobody allocates in these guest clusters. True: waited (lock was let go of: look again). */
bool q2_claim_wait_locked(struct q2 *q, uint64_t first, uint64_t n);
bool q2_claimed_locked(const struct q2 *q, uint64_t first, uint64_t n);
void q2_claim_add_locked(struct q2 *q, struct q2_claim *c);
void q2_claim_remove_locked(struct q2 *q, struct q2_claim *c);

/* ---- data.c, read.c, write.c, zero.c, compressed.c, map.c ---- */

/* Part of an iovec. */
struct q2_iov {
    struct iovec few[16], *v;
    unsigned n;
};
/* v's place for n entries, to be cleared by q2_iov_done. -ENOMEM. */
int q2_iov_room(struct q2_iov *s, unsigned n) MUST_USE;
void q2_iov_done(struct q2_iov *s);

/* Data of clusters, encrypted where the image is. off: in q->data. */
int q2_data_read(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                 uint64_t len) MUST_USE;
int q2_data_write(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t skip,
                  uint64_t len) MUST_USE;
/* Whether this run is known to read as zeroes. */
bool q2_run_is_zero(const struct q2 *q, const struct q2_run *run, uint64_t off);
/* Whether [lo, hi) reads as zeroes now. */
bool q2_zero_now_locked(struct q2 *q, uint64_t lo, uint64_t hi);
/* Up to where the backing node counts: nothing shows through from behind the end of the disk. */
uint64_t q2_backing_end(const struct q2 *q);
/* Read the disk from within a request. */
int q2_read_inside(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len) MUST_USE;
/* within: first byte wanted in the cluster; skip: in the iovec. */
int q2_read_compressed(struct q2 *q, uint64_t entry, uint64_t within, const struct iovec *iov, unsigned n_iov,
                       uint64_t skip, uint64_t len) MUST_USE;
int q2_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len);
int q2_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len);
int q2_write_inside(struct q2 *q, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len) MUST_USE;
int q2_pwrite_compressed(struct blk_node *n, uint64_t off, const void *data, uint64_t len);
int q2_discard(struct blk_node *n, uint64_t off, uint64_t len);
int q2_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags);
int q2_forget(struct blk_node *n, uint64_t off, uint64_t len);
int q2_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent);
int q2_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len, struct blk_piece pieces[BLK_PIECES_MAX]);
void q2_unmap(struct blk_node *n);
void q2_inflated_drop(struct q2 *q);
/* How entries of guest clusters [first, first + n) are emptied. */
enum q2_wipe {
    Q2_WIPE_DISCARD,   /* reads as zeroes while the backing file stays the same; storage is freed */
    Q2_WIPE_ZERO,      /* reads as zeroes, whatever backing file comes; storage stays */
    Q2_WIPE_ZERO_FREE, /* likewise; storage is freed */
    Q2_WIPE_FORGET,    /* as if never written */
};
int q2_wipe(struct q2 *q, uint64_t first, uint64_t n, enum q2_wipe how) MUST_USE;

/* ---- resize.c, create.c, open.c ---- */

int q2_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why);
/* Give the guest range storage; inside no request. */
int q2_preallocate(struct q2 *q, uint64_t off, uint64_t len, enum blk_prealloc prealloc) MUST_USE;
/* Make the L1 table at least that long (entries); alone. */
int q2_l1_grow(struct q2 *q, uint64_t entries) MUST_USE;
int q2_create(struct blk_node *file, const struct blk_create_config *config, struct blk_why *why);
/* L1 table and refcount table into memory, and where metadata stands; nothing of it is there yet. */
int q2_load(struct q2 *q) MUST_USE;
/* Open on an open file; file is the caller's on failure. */
int q2_open(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
            struct blk_why *why);
/* Close all but the file node. */
void q2_release(struct blk_node *n);
int q2_set_backing(struct blk_node *n, const char *path, const char *format, struct blk_why *why);

/* ---- snapshot*.c, bitmap*.c, check*.c (their owner declares more in headers of their own) ---- */

/* Ops of struct blk_node_ops; open.c has the table. */
int q2_check(struct blk_node *n, unsigned fix, struct blk_check *ret_check, struct blk_why *why);
/* Inside q2_open, before the node is used by anyone: rebuild refcounts of an image whose dirty bit is set. */
int q2_repair_dirty(struct q2 *q, struct blk_why *why) MUST_USE;
int q2_snapshot_list(struct blk_node *n, struct blk_snapshot **ret_list, unsigned *ret_n);
int q2_snapshot_create(struct blk_node *n, const struct blk_snapshot *snapshot, struct blk_why *why);
int q2_snapshot_apply(struct blk_node *n, const char *id_or_name, struct blk_why *why);
int q2_snapshot_delete(struct blk_node *n, const char *id_or_name, struct blk_why *why);
/* In q2_open: check the snapshot table's place; note it and the snapshots' L1 tables with q2_meta_add. */
int q2_snapshots_open(struct q2 *q, struct blk_why *why) MUST_USE;
/* In q2_open of a read-only image, before its L1 table is loaded: from here on it is the disk of that snapshot.
 * -ENOENT. */
int q2_snapshot_view(struct q2 *q, const char *id_or_name, struct blk_why *why) MUST_USE;
/* In q2_open, where h.has_bitmaps: load. May set q->bitmaps. */
int q2_bitmaps_open(struct q2 *q, struct blk_why *why) MUST_USE;
/* The guest's range is about to change. Never blocks; does nothing without bitmaps. Any thread, any lock held. */
void q2_bitmaps_mark(struct q2 *q, uint64_t off, uint64_t len);
/* Alone: the file is to say that the bits in it mean nothing until they are stored again. */
int q2_bitmaps_touch(struct q2 *q) MUST_USE;
/* Alone: the disk's size is about to become size, or has become it. */
int q2_bitmaps_resize(struct q2 *q, uint64_t size, struct blk_why *why) MUST_USE;
/* At close, before the last write-back, no lock held: store what was recorded. Then free q->bitmaps. */
int q2_bitmaps_store(struct q2 *q) MUST_USE;
void q2_bitmaps_done(struct q2 *q);
int q2_bitmap_list(struct blk_node *n, struct blk_bitmap **ret_list, unsigned *ret_n);
int q2_bitmap_add(struct blk_node *n, const char *name, uint32_t granularity, bool enabled, struct blk_why *why);
int q2_bitmap_remove(struct blk_node *n, const char *name, struct blk_why *why);
int q2_bitmap_enable(struct blk_node *n, const char *name, bool on, struct blk_why *why);
int q2_bitmap_clear(struct blk_node *n, const char *name, struct blk_why *why);
int q2_bitmap_next(struct blk_node *n, const char *name, uint64_t off, uint64_t *ret_off, uint64_t *ret_len);
int q2_bitmap_set(struct blk_node *n, const char *name, uint64_t off, uint64_t len);

#endif
