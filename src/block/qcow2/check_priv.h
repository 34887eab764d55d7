/* Counting of references to host clusters, from everything in an image that refers to one; what check, repair and the
 * changes of snapshots stand on.
 *
 * Memory is bounded: references are counted for a window of the file at a time (Q2_WINDOW clusters), and all of the
 * metadata is read once for each window that has any. L2 tables that several L1 tables share are read once, with their
 * multiplicity. */
#ifndef BLOCK_QCOW2_CHECK_PRIV_H
#define BLOCK_QCOW2_CHECK_PRIV_H

#include "block/qcow2/qcow2_priv.h"
#include "block/qcow2/snapshot_priv.h"

/* A multiple of the entries of each refcount block (2^24 with 2 MiB clusters and 1 bit). 64 MiB of counters; 1 TiB of
 * file with the usual clusters. */
#define Q2_WINDOW (UINT64_C(1) << 24)
#define Q2_L2_REFS_MAX \
    (UINT64_C(1) << 23) /* L2 tables that one check can deal with; 4 PiB of disk with 64 KiB clusters */

/* What refers to clusters: the image as it is, or as it is going to be. Borrows everything. */
struct q2_state {
    const uint64_t *l1; /* of the active disk, host endian; NULL: as it is in the file */
    uint32_t l1_size;
    uint64_t l1_off;   /* 0: not yet in the file */
    uint32_t l1_times; /* how many L1 tables have this content (a snapshot that is to get a copy), >= 1 */
    const struct q2_snap_table *snaps;
    uint64_t rt_off; /* 0: count no refcount structures */
    uint32_t rt_clusters;
};

struct q2_l2_ref {
    uint64_t off;         /* as the L1 entry says */
    uint32_t n, n_active; /* how often it is referred to; from the active L1 table */
    bool sole;            /* nothing else refers to its cluster, so it may be written to */
    uint64_t moved;       /* where its changed copy is; 0: there is none (snapshot_commit.c) */
};

struct q2_refs {
    struct q2 *q;
    const struct q2_state *state;
    struct q2_l2_ref *l2; /* sorted by off */
    size_t n_l2, room;
    uint64_t file_size;  /* references beyond it make no sense */
    uint64_t n_clusters; /* of the file, or up to the last reference */
    /* The window. */
    uint32_t *counts;
    uint64_t window;       /* room in counts */
    uint64_t lo, hi, next; /* clusters; next: the first one behind the window with a reference */
    bool first;            /* the first window: what is wrong in itself is counted now */
    struct blk_check *res;
    bool rebuild, bad_blocks; /* not all refcounts can be repaired in place; blocks of them are where they cannot be */
    uint64_t n_broken;        /* L2 entries that q2_entry_broken says so of */
    uint64_t *table;          /* a cluster of memory */
    uint8_t *rb;              /* another */
    uint64_t rb_index;        /* which refcount block is in rb; UINT64_MAX: none */
};

/* Collect the L2 tables of the state; counts what is wrong with L1 entries in res. -EFBIG: more than Q2_L2_REFS_MAX. r
 * is to be cleared by q2_refs_done in any case. */
int q2_refs_init(struct q2_refs *r, struct q2 *q, const struct q2_state *state, struct blk_check *res) MUST_USE;
void q2_refs_done(struct q2_refs *r);
/* Count for the window that begins at cluster lo; the first call is with 0. */
int q2_refs_window(struct q2_refs *r, uint64_t lo) MUST_USE;
/* References to [off, off + bytes), m times. */
void q2_refs_add(struct q2_refs *r, uint64_t off, uint64_t bytes, uint32_t m);
/* The L2 table at that place, as an L1 entry has it; NULL: none. */
struct q2_l2_ref *q2_refs_find(const struct q2_refs *r, uint64_t off);
/* An entry that makes no sense and holds no data that could be told: repair makes zeroes of it. */
bool q2_entry_broken(const struct q2 *q, uint64_t entry, uint64_t bits);
/* Read an L2 table (its copy, if there is one) into r->table. */
int q2_refs_read_l2(struct q2_refs *r, const struct q2_l2_ref *l2) MUST_USE;
/* The refcount that the file has for a cluster; 0 where it has none or its block makes no sense. */
int q2_refs_stored(struct q2_refs *r, uint64_t cluster, uint64_t *ret) MUST_USE;
/* Whether there is a readable block for it. */
bool q2_refs_has_block(const struct q2_refs *r, uint64_t cluster);

/* Write a whole new refcount table and blocks for a state, where base (a cluster that is free, as all behind it are)
 * says, or where the allocator finds room (base 0). Nothing refers to it yet. r: of that state with rt_off 0, before
 * its first window. -EFBIG: the table would be too long; -ERANGE: a refcount that does not fit. */
int q2_rebuild(struct q2_refs *r, uint64_t base, uint64_t *ret_rt_off, uint32_t *ret_rt_clusters) MUST_USE;

/* Alone, after the file was changed behind the caches: take everything from the file again, by way of the header. */
int q2_reload(struct q2 *q) MUST_USE;

#endif
