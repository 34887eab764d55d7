/* What a disk's guest has changed since a point in time: the memory of incremental backups. A record belongs to a chain
 * of backups and to the point that it counts from, by names: "caisson-backup:CHAIN:ID".
 *
 * In a qcow2 image it is a persistent dirty bitmap and survives the VM, as long as the image is closed cleanly. For
 * other disks it is in memory and ends with the VM.
 *
 * Any thread. Marking does not block; the rest may, as it may write to the image. */
#ifndef BLOCK_RECORD_H
#define BLOCK_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

#define BLK_RECORD_ID_MAX 33    /* of a point: lower-case letters and digits, with the terminating zero */
#define BLK_RECORD_CHAIN_MAX 64 /* with the terminating zero; no ':' */
#define BLK_RECORD_GRANULARITY 65536u
#define BLK_RECORDS_MAX 32 /* in memory, of one disk */

struct blk_dirty;
struct blk_node;
struct blk_records;

/* node: the disk's, borrowed until free. -ENOMEM. */
int blk_records_new(struct blk_node *node, struct blk_records **ret_records) MUST_USE;
void blk_records_free(struct blk_records *r); /* NULL accepted */
/* They survive the VM. */
bool blk_records_persistent(const struct blk_records *r);

/* There is one that can be trusted for chain, counting from point id. */
bool blk_records_has(struct blk_records *r, const char *chain, const char *id);
/* The disk is quiesced. Begin one for the point to_id, and let that of from_id (NULL: none) record no more; what it
 * has is set in into. On failure everything is as it was, but for what is in into. */
int blk_records_switch(struct blk_records *r, const char *chain, const char *from_id, const char *to_id,
                       struct blk_dirty *into) MUST_USE;
/* The point to_id is complete: all other records of the chain are removed. A failure only costs space. */
int blk_records_commit(struct blk_records *r, const char *chain, const char *to_id) MUST_USE;
/* There is no point to_id after all: from_id (NULL: none) has everything again. The guest may be writing. A failure
 * means that from_id is gone, too. */
int blk_records_undo(struct blk_records *r, const char *chain, const char *from_id, const char *to_id) MUST_USE;

/* There is one in memory, so that blk_records_mark has to be told of every change. */
bool blk_records_wants_marks(const struct blk_records *r);
void blk_records_mark(struct blk_records *r, uint64_t off, uint64_t len);

#endif
