/* The work of `caisson disk`: making, looking at, checking, copying and changing disk images. Each call opens what it
 * needs by name, does its work in the calling thread (copying uses helper threads inside) and closes it again; errors
 * become text here. Must not know the command line, terminals or running VMs. */
#ifndef STORE_DISK_H
#define STORE_DISK_H

#include <json-c/json_object.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "block/open.h"

/* Told about the progress of long work, several times a second, in the thread that called. Units are bytes, but for
 * their proportion they mean nothing. step returns false to stop: the call undoes what it can and returns -ECANCELED. A
 * NULL pointer to one is accepted everywhere: nobody is told, nothing stops. */
struct disk_progress {
    bool (*step)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

/* blk_open with text. Errors as there; e->code is the errno. Caller owns *ret_node. */
int disk_open(const struct blk_open_config *config, struct blk_node **ret_node, struct err *e) MUST_USE;
/* Put into words that a call failed with res (-errno): "disk PATH: ..." by why, where it says something, else "cannot
 * WHAT: " and what errno means, with the remedy. Returns res. */
int disk_fail(struct err *e, int res, const char *path, const struct blk_why *why, const char *what);

/* blk_create with text, and with what only a user can get wrong checked first. */
int disk_create(const struct blk_create_config *config, struct err *e) MUST_USE;

/* Facts about an image and, with chain, about all that it stands on: an array of one object each, the image first. The
 * backing file is named, not opened, unless chain is true. Caller puts *ret_array. The fields are in caisson(1). */
int disk_info(const struct blk_open_config *config, bool chain, json_object **ret_array, struct err *e) MUST_USE;

/* Check the structure of an image, and repair it (fix: 0, BLK_CHECK_FIX_LEAKS or BLK_CHECK_FIX_ALL). -ENOTSUP: the
 * format has nothing that could be checked. */
int disk_check(const struct blk_open_config *config, unsigned fix, struct blk_check *ret_check, struct err *e) MUST_USE;

#define DISK_SPARSE_DEFAULT 4096u

struct disk_convert_config {
    struct blk_open_config source; /* opened read-only, whatever it says */
    const char *snapshot;          /* id or name of the internal snapshot to copy; NULL: the disk as it is */
    /* What to make; size is the source's. overwrite replaces a file that is there, at the very end. A block device or
     * an URI is written in place, raw, and has to be there. */
    struct blk_create_config target;
    bool compress;
    uint64_t sparse;  /* runs of this many zero bytes become holes; 0: copy what the source has */
    unsigned threads; /* 0: as many as there are CPUs to use */
    bool no_sync;     /* end without waiting for stable storage */
};
struct disk_convert_report {
    uint64_t virtual_size, written; /* written: bytes of data, before compression */
    bool cloned;                    /* by reference, by the file system */
};
/* Copy a disk into a new image. The target gets its name only when it is complete and (but for no_sync) on stable
 * storage; a failure or a cancellation leaves nothing behind. */
int disk_convert(const struct disk_convert_config *config, const struct disk_progress *progress,
                 struct disk_convert_report *ret_report, struct err *e) MUST_USE;

/* Set the size in bytes (a multiple of 512). shrink: allow a smaller one, which loses what is behind it. */
int disk_resize(const struct blk_open_config *config, uint64_t size, bool shrink, enum blk_prealloc prealloc,
                struct err *e) MUST_USE;
/* The size in bytes, as disk_resize needs it for relative changes. */
int disk_size(const struct blk_open_config *config, uint64_t *ret_size, struct err *e) MUST_USE;

enum disk_snapshot_verb { DISK_SNAPSHOT_CREATE, DISK_SNAPSHOT_APPLY, DISK_SNAPSHOT_RM };
/* name: of the snapshot, or its id (not for create). create gives it the time of now. */
int disk_snapshot(const struct blk_open_config *config, enum disk_snapshot_verb verb, const char *name,
                  struct err *e) MUST_USE;
/* Array of objects as in disk_info. */
int disk_snapshot_ls(const struct blk_open_config *config, json_object **ret_array, struct err *e) MUST_USE;

enum disk_bitmap_verb { DISK_BITMAP_ADD, DISK_BITMAP_RM, DISK_BITMAP_ENABLE, DISK_BITMAP_DISABLE, DISK_BITMAP_CLEAR };
/* granularity: bytes, for add; 0: 64K. enabled: for add. */
int disk_bitmap(const struct blk_open_config *config, enum disk_bitmap_verb verb, const char *name,
                uint32_t granularity, bool enabled, struct err *e) MUST_USE;
int disk_bitmap_ls(const struct blk_open_config *config, json_object **ret_array, struct err *e) MUST_USE;

/* Move what an image holds into its backing file; keep: without emptying the image. Its backing file is opened for
 * writing, and made longer where the image is longer. */
int disk_commit(const struct blk_open_config *config, bool keep, const struct disk_progress *progress,
                struct err *e) MUST_USE;

struct disk_rebase_config {
    struct blk_open_config image;
    const char *backing, *backing_format; /* NULL: none any more; backing as it shall stand in the image */
    bool unsafe;                          /* change the name only: the caller knows that the content is the same */
};
/* Change the backing file of an image so that its content stays: where the new one differs, the old content is copied
 * into the image first. */
int disk_rebase(const struct disk_rebase_config *config, const struct disk_progress *progress, struct err *e) MUST_USE;

struct disk_difference {
    bool same;
    uint64_t offset;  /* of the first difference, where contents differ */
    const char *what; /* constant: "content", "size", "allocation"; NULL where same */
};
/* Compare two disks by content; a longer one has to be zero behind the end of the other. strict: sizes and the
 * allocation of ranges have to be the same, too. */
int disk_compare(const struct blk_open_config *a, const struct blk_open_config *b, bool strict,
                 const struct disk_progress *progress, struct disk_difference *ret_difference, struct err *e) MUST_USE;

/* Call each for every extent of the disk, neighbours of one kind put together, in order; path is the image that
 * decides (borrowed during the call). each returns < 0 to stop, which becomes the result. */
int disk_map(const struct blk_open_config *config,
             int (*each)(void *opaque, uint64_t off, const struct blk_extent *x, const char *path), void *opaque,
             struct err *e) MUST_USE;

#endif
