/* Copying disks as they are at one instant, while a guest goes on writing to them ("copy before write"): the disks are
 * quiesced together, then every write to a place that is not copied yet waits until its old content is. A slow target
 * slows such writes down; one that fails ends the backup, never the guest.
 *
 * A watch stands before each disk for as long as it is open. It tells records (block/record.h) of what changes, and is
 * where a backup comes in. All functions belong to the loop thread, or to the time when it does not run. */
#ifndef BLOCK_BACKUP_H
#define BLOCK_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define BLK_BACKUP_DISKS_MAX 16
#define BLK_BACKUP_CLUSTER 65536u /* what is copied at least, and how targets are best made */

struct blk_backup;
struct blk_dirty;
struct blk_image;
struct blk_node;
struct blk_records;
struct blk_watch;
struct loop;

/* img: nothing was submitted to it yet; it has no other filter. It is borrowed until free. -ENOMEM. */
int blk_watch_new(struct blk_image *img, struct blk_watch **ret_watch) MUST_USE;
/* No backup uses it, nothing is in flight. NULL accepted. */
void blk_watch_free(struct blk_watch *w);
DEFINE_AUTO(blk_watch, struct blk_watch, blk_watch_free)
/* Valid as long as the watch. */
struct blk_records *blk_watch_records(struct blk_watch *w);
struct blk_image *blk_watch_image(struct blk_watch *w);

struct blk_backup_disk {
    struct blk_watch *watch;
    struct blk_node *target; /* open for writing, as large as the disk; borrowed until free */
    bool zeroed;             /* the target reads as zeroes: zeroes need not be written */
    bool compress;
};
struct blk_backup_config {
    struct blk_backup_disk disks[BLK_BACKUP_DISKS_MAX];
    unsigned n_disks;
    uint64_t bandwidth; /* bytes a second for copying what no write waits for; 0: no limit */
    /* The disks stand still: now records are switched, then blk_backup_run is called. Perhaps from within begin. */
    void (*frozen)(void *opaque);
    /* The end: everything was copied (0; the targets are not flushed), or -errno: of the disk with that index, or
     * -ECANCELED. No write waits any more. Not from within begin, run or cancel; free is not for within done. */
    void (*done)(void *opaque, int error, unsigned disk, bool target_failed);
    void *opaque;
};

/* Nothing happens yet. -ENOMEM; errors of eventfd and epoll. */
int blk_backup_new(const struct blk_backup_config *config, struct loop *loop, struct blk_backup **ret_backup) MUST_USE;
/* Also one that is running: writes go on, and the disks are resumed. NULL accepted. */
void blk_backup_free(struct blk_backup *b);
DEFINE_AUTO(blk_backup, struct blk_backup, blk_backup_free)

/* What is to be copied of disk i, to be filled in between frozen and run (any thread). */
struct blk_dirty *blk_backup_pending(struct blk_backup *b, unsigned i);
/* Quiesce all disks. -EBUSY: one of them is quiesced already, or has a backup; nothing has happened. */
int blk_backup_begin(struct blk_backup *b) MUST_USE;
/* After frozen: let the disks go on, and copy what is to be copied. */
void blk_backup_run(struct blk_backup *b);
/* done will be called with -ECANCELED, or is on its way. */
void blk_backup_cancel(struct blk_backup *b);
/* Bytes; total is known once it runs. */
void blk_backup_progress(const struct blk_backup *b, uint64_t *ret_done, uint64_t *ret_total);

#endif
