/* Opening and making disks: from a description to a tree of nodes (block/node.h).
 *
 * Probing looks at the content only where no format was given, and never for writing by a guest: a disk that was opened
 * as raw stays raw, whatever a guest writes into its first sectors, because a guest-facing opener always names the
 * format. */
#ifndef BLOCK_OPEN_H
#define BLOCK_OPEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "block/node.h"

#define BLK_CHAIN_MAX 64 /* nodes of a backing chain */

/* none: O_DIRECT; writeback: the host's page cache; writethrough: each write is on stable storage when it ends (the
 * front flushes); unsafe: flushes are ignored, for disks that may be lost. */
enum blk_cache { BLK_CACHE_WRITEBACK, BLK_CACHE_NONE, BLK_CACHE_WRITETHROUGH, BLK_CACHE_UNSAFE };
enum blk_sharing {
    BLK_LOCK,      /* readers share, a writer is alone: among our programs and QEMU's (open file description locks) */
    BLK_LOCK_NONE, /* look at an image that somebody else may be using (`disk info --force-share`) */
};
enum blk_backing_mode {
    BLK_BACKING_OPEN,
    BLK_BACKING_NONE, /* leave the chain alone: node.backing is NULL */
};

struct blk_open_config {
    const char *path;   /* file name, or URI: nbd://, nbds://, nbd+unix://, rbd:POOL/IMAGE */
    const char *format; /* "raw", "qcow2", "luks", "vmdk", "vhdx"; NULL: probe */
    bool read_only;
    enum blk_cache cache;
    enum blk_sharing sharing;
    enum blk_backing_mode backing;
    /* Secret for an encrypted image and for those of its chain; borrowed during the call. NULL: none, -ENOKEY where one
     * is needed. */
    const uint8_t *secret;
    size_t secret_len;
    /* Directories that backing and data files must lie below (NULL-terminated; NULL: anywhere). Files that an image of
     * unknown origin names could be secrets of the host. */
    const char *const *allowed_dirs;
    bool guessed;          /* a backing file of unstated format, which may not name other files: -EPERM */
    bool discard_no_unmap; /* discard=ignore */
    /* For metadata only: encrypted images need no secret, their data then gives -ENOKEY; data files are not opened. */
    bool no_data;
    /* Internal snapshot (id or name) to read instead of the disk as it is; read_only only. -ENOENT: has no such one. */
    const char *snapshot;
};

/* Opens the whole chain, backing files read-only and shared. Errors of open(2), and
 *   -EBUSY: in use (why.path says which file); -EMEDIUMTYPE: not an image of that format, or one that makes no sense;
 *   -ELOOP: the chain bites its tail or is longer than BLK_CHAIN_MAX; -ENOKEY: encrypted, and no secret or a wrong one;
 *   -ENOTSUP: uses a feature that we do not know; -EISDIR, -ENOTBLK.
 * why (may be NULL) is filled where there is more to say. Caller owns *ret_node (blk_node_close). */
int blk_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why) MUST_USE;

/* Name of the format that the first bytes look like; "raw" where none does. Never fails for lack of bytes. */
const char *blk_probe(const uint8_t *head, size_t len);

struct blk_create_config {
    const char *path, *format; /* "raw", "qcow2", "luks" */
    uint64_t size;             /* bytes; rounded up to 512 */
    enum blk_prealloc prealloc;
    bool overwrite; /* else -EEXIST */
    bool no_sync;   /* the caller goes on writing, and makes it stable itself at the end */
    /* qcow2 */
    const char *backing_path, *backing_format; /* path is stored as given; relative: to the image's folder */
    uint32_t cluster_size;                     /* 512..2M, a power of two; 0: 64K */
    unsigned version;                          /* 2, 3; 0: 3 */
    unsigned refcount_bits;                    /* 1..64, a power of two; 0: 16 */
    bool lazy_refcounts, extended_l2, zstd;
    const char *data_file;
    bool data_file_raw;
    const uint8_t *secret; /* encrypt (LUKS) */
    size_t secret_len;
    unsigned luks_iter_ms; /* how long the key derivation should take here; 0: 2000 */
};
/* A failure leaves no file behind (nor harms one that was there, unless overwrite was asked for). */
int blk_create(const struct blk_create_config *config, struct blk_why *why) MUST_USE;

/* Give a finished file its name. replace: -EEXIST is not minded. On failure temp stays. */
int blk_name(const char *temp, const char *path, bool replace) MUST_USE;

/* ---- what formats provide (block/open.c has the one table of them) ---- */

struct blk_format {
    const char *name;
    bool can_write;
    /* 0..100: how sure the first bytes make us. NULL: never probed (raw). */
    int (*probe)(const uint8_t *head, size_t len);
    /* file: the opened node with the bytes; becomes the new node's child on success, stays the caller's on failure.
     * Opens further files (data file, extents) itself through blk_open_child. Backing files are opened by blk_open
     * afterwards, from what info says. */
    int (*open)(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
                struct blk_why *why);
    /* Fill an empty, writable file node. NULL: cannot be made. */
    int (*create)(struct blk_node *file, const struct blk_create_config *config, struct blk_why *why);
};
extern const struct blk_format blk_format_raw, blk_format_qcow2, blk_format_luks, blk_format_vmdk, blk_format_vhdx;

/* NULL: there is no such format. */
const struct blk_format *blk_format_find(const char *name);

/* A file that stands in an image: resolved relative to the image's folder, checked against config->allowed_dirs, opened
 * as a protocol node (no format on top) with the cache mode of config. */
int blk_open_child(const struct blk_open_config *config, const char *image_path, const char *path, bool read_only,
                   struct blk_node **ret_node, struct blk_why *why) MUST_USE;

/* Protocols. blk_file_open: errors as blk_open's. */
int blk_file_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why) MUST_USE;
int blk_nbd_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why) MUST_USE;
int blk_rbd_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why) MUST_USE;

#endif
