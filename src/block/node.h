/* Disk nodes: one blocking interface for every protocol (file, NBD, RBD) and every format (raw, qcow2, LUKS, VMDK,
 * VHDX). A disk is a tree of nodes: a format stands on the node that holds its bytes, and may have a backing node below
 * it.
 *
 * Threads: an open node may be used by several threads at once; calls that move data or change the image take whatever
 * locks the node needs and may block. Exceptions say so. Ranges that two threads write at the same time get the bytes
 * of either. block/image.h puts the asynchronous face of the event loop in front of a tree of these.
 *
 * Errors are -errno; where the image itself is at fault, struct blk_why says in words what is wrong with it. Must not
 * know devices, guests or the event loop. */
#ifndef BLOCK_NODE_H
#define BLOCK_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define BLK_SECTOR 512u
#define BLK_PATH_MAX 4096
#define BLK_PIECES_MAX 8

struct blk_node;
struct buf;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES };

/* Why an image was refused or a call failed: a constant sentence without the path, made to stand behind "disk PATH: ",
 * and the path of the file that it is about (of a backing file, perhaps). text NULL: errno says all there is. */
struct blk_why {
    const char *text;
    char path[BLK_PATH_MAX];
};
/* Fill w (NULL accepted) and return -code. text must be a constant. */
int blk_why_set(struct blk_why *w, int code, const char *path, const char *text);

/* What a range of a disk consists of. */
enum {
    BLK_EXT_DATA = 1 << 0,      /* has to be read to know its bytes */
    BLK_EXT_ZERO = 1 << 1,      /* reads as zeroes */
    BLK_EXT_ALLOCATED = 1 << 2, /* this node decides, not one further down the backing chain */
    BLK_EXT_HOST = 1 << 3,      /* host_off is the place in the file that holds it, uncompressed and in clear */
    BLK_EXT_COMPRESSED = 1 << 4,
};
struct blk_extent {
    unsigned flags;
    uint64_t len;      /* > 0, never beyond what was asked for */
    uint64_t host_off; /* with BLK_EXT_HOST */
    unsigned depth;    /* 0: the node asked; 1: its backing node; ... */
};

/* A request, or a part of it, as it may go straight to a host file. */
struct blk_piece {
    int fd;       /* -1: reads as zeroes, no I/O needed */
    uint64_t off; /* in the file */
    uint64_t len;
    uint32_t align; /* of memory, offset and length (O_DIRECT), else 1 */
};

enum blk_prealloc { BLK_PREALLOC_OFF, BLK_PREALLOC_METADATA, BLK_PREALLOC_FALLOC, BLK_PREALLOC_FULL };

enum { BLK_ZERO_UNMAP = 1 }; /* flag of write_zeroes: the storage may be given back */

/* Report of a check. leaks and corruptions count clusters (qemu-img's words). */
struct blk_check {
    uint64_t leaks, corruptions, leaks_fixed, corruptions_fixed;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end; /* byte behind the last cluster in use */
};
enum { BLK_CHECK_FIX_LEAKS = 1, BLK_CHECK_FIX_ALL = 2 };

#define BLK_NAME_MAX 1024 /* of snapshots and bitmaps, bytes with the terminating zero */

struct blk_snapshot {
    char id[BLK_NAME_MAX], name[BLK_NAME_MAX];
    uint64_t disk_size, vm_state_size; /* bytes */
    uint64_t date_ns;                  /* since 1970 */
    uint64_t vm_clock_ns;              /* how long the VM had run */
};

struct blk_bitmap {
    char name[BLK_NAME_MAX];
    uint32_t granularity; /* bytes, a power of two */
    bool enabled;         /* recording ("auto" in the file) */
    bool in_use;          /* was not closed cleanly: its content is no longer to be trusted */
    uint64_t dirty;       /* bytes, rounded to granules */
};

/* Facts about a node for `disk info`; members that do not apply are 0 or NULL. Strings are borrowed from the node. */
struct blk_info {
    const char *format, *path;
    uint64_t virtual_size, actual_size; /* actual_size: allocated on the host */
    uint32_t cluster_size;
    const char *backing_path, *backing_format; /* as they stand in the image */
    const char *data_file;
    const char *compression; /* "zlib", "zstd" */
    const char *encryption;  /* "luks" */
    unsigned qcow2_version, refcount_bits;
    bool lazy_refcounts, extended_l2, data_file_raw, dirty, corrupt;
    const char *create_type; /* VMDK */
};

/* Contract of a node. Required: name, pread, close. A member that is NULL is answered by block/node.c: -ENOTSUP, or
 * what the comment says. Ranges were checked against size (formats; writes to a file node may go beyond its end and
 * make it longer); no write reaches a read-only node. iov is not changed, its lengths add up to len > 0. */
struct blk_node_ops {
    const char *name; /* "file", "qcow2", ... */
    int (*pread)(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len);
    int (*pwrite)(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len);
    /* Everything that was acknowledged before the call is on stable storage after it. NULL: file's. */
    int (*flush)(struct blk_node *n);
    int (*discard)(struct blk_node *n, uint64_t off, uint64_t len); /* a hint. NULL: does nothing */
    int (*write_zeroes)(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags); /* NULL: written as data */
    /* What stands at off: the first extent, cut at len. NULL: data, allocated. */
    int (*extent)(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent);
    /* WITHOUT BLOCKING (no I/O, no lock that is held over I/O): where this READ or in-place WRITE can go at once.
     * Returns 1..BLK_PIECES_MAX with the pieces, which add up to len, or 0: use pread or pwrite. Each success is paired
     * with one unmap when the I/O has ended; until then the node neither moves nor reuses that storage. NULL: 0. */
    int (*map)(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len, struct blk_piece pieces[BLK_PIECES_MAX]);
    void (*unmap)(struct blk_node *n);
    int (*resize)(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why);
    /* A write whose range is stored compressed; off is a multiple of the cluster size, len one cluster or the image's
     * end. */
    int (*pwrite_compressed)(struct blk_node *n, uint64_t off, const void *data, uint64_t len);
    int (*check)(struct blk_node *n, unsigned fix, struct blk_check *ret_check, struct blk_why *why);
    void (*info)(struct blk_node *n, struct blk_info *ret_info);
    /* Rewrite the reference to the backing file (NULL: none); the content is not touched. */
    int (*set_backing)(struct blk_node *n, const char *path, const char *format, struct blk_why *why);
    /* Make a cluster-aligned range (whole image for commit) refer to the backing file again. */
    int (*forget)(struct blk_node *n, uint64_t off, uint64_t len);

    int (*snapshot_list)(struct blk_node *n, struct blk_snapshot **ret_list, unsigned *ret_n); /* caller frees */
    int (*snapshot_create)(struct blk_node *n, const struct blk_snapshot *snapshot, struct blk_why *why);
    int (*snapshot_apply)(struct blk_node *n, const char *id_or_name, struct blk_why *why);
    int (*snapshot_delete)(struct blk_node *n, const char *id_or_name, struct blk_why *why);

    /* Persistent dirty bitmaps. */
    int (*bitmap_list)(struct blk_node *n, struct blk_bitmap **ret_list, unsigned *ret_n); /* caller frees */
    int (*bitmap_add)(struct blk_node *n, const char *name, uint32_t granularity, bool enabled, struct blk_why *why);
    int (*bitmap_remove)(struct blk_node *n, const char *name, struct blk_why *why);
    int (*bitmap_enable)(struct blk_node *n, const char *name, bool on, struct blk_why *why);
    int (*bitmap_clear)(struct blk_node *n, const char *name, struct blk_why *why);
    /* Next dirty range at or behind off: 1 and the range (cut at the end of the disk), 0: none. */
    int (*bitmap_next)(struct blk_node *n, const char *name, uint64_t off, uint64_t *ret_off, uint64_t *ret_len);
    /* Set bits: a merge, or a restore. */
    int (*bitmap_set)(struct blk_node *n, const char *name, uint64_t off, uint64_t len);

    /* Write back what is cached, close the children, free n. Nothing is in flight. What can fail has been done by
     * flush. */
    void (*close)(struct blk_node *n);
};

/* First member of each kind of node. Constant while open, but for size (resize) and n_children's pointers. */
struct blk_node {
    const struct blk_node_ops *ops;
    char *path;    /* as it was opened: file name or URI */
    uint64_t size; /* bytes. Formats: a multiple of BLK_SECTOR; file nodes: whatever the file has */
    bool read_only;
    uint32_t block_size;          /* smallest unit that is served well, a power of two >= 512 */
    uint32_t physical_block_size; /* >= block_size; discard works in these */
    struct blk_node *file;        /* holds this format's bytes; NULL for protocols */
    struct blk_node *backing; /* NULL: none. Its size may differ; beyond its end are zeroes. Closed by blk_node_close */
};

int blk_pread(struct blk_node *n, uint64_t off, void *data, uint64_t len) MUST_USE;
int blk_pwrite(struct blk_node *n, uint64_t off, const void *data, uint64_t len) MUST_USE;
/* -EINVAL: range outside; -EROFS. */
int blk_preadv(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len) MUST_USE;
int blk_pwritev(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len) MUST_USE;
int blk_flush(struct blk_node *n) MUST_USE;
int blk_discard(struct blk_node *n, uint64_t off, uint64_t len) MUST_USE;
int blk_write_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags) MUST_USE;
/* Follows the backing chain down to the node that decides; blk_extent_here does not. */
int blk_extent(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent) MUST_USE;
int blk_extent_here(struct blk_node *n, uint64_t off, uint64_t len, struct blk_extent *ret_extent) MUST_USE;
int blk_map(struct blk_node *n, enum blk_op op, uint64_t off, uint64_t len,
            struct blk_piece pieces[BLK_PIECES_MAX]) MUST_USE;
void blk_unmap(struct blk_node *n);
int blk_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why) MUST_USE;
void blk_node_info(struct blk_node *n, struct blk_info *ret_info);
/* Flush (result lost: call blk_flush before where it matters), then close. NULL accepted. */
void blk_node_close(struct blk_node *n);
DEFINE_AUTO(blk_node, struct blk_node, blk_node_close)

/* Iovec arithmetic. out has room for n_iov entries; returns how many it took. */
unsigned blk_iov_slice(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len, struct iovec *out);
void blk_iov_to_buf(const struct iovec *iov, unsigned n_iov, uint64_t skip, void *buf, uint64_t len);
void blk_iov_from_buf(const struct iovec *iov, unsigned n_iov, uint64_t skip, const void *buf, uint64_t len);
void blk_iov_zero(const struct iovec *iov, unsigned n_iov, uint64_t skip, uint64_t len);
bool blk_buf_is_zero(const void *buf, size_t len);

#endif
