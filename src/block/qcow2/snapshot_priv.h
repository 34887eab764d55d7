/* The table of internal snapshots. */
#ifndef BLOCK_QCOW2_SNAPSHOT_PRIV_H
#define BLOCK_QCOW2_SNAPSHOT_PRIV_H

#include "block/qcow2/qcow2_priv.h"

#define Q2_SNAPSHOTS_MAX 65536u
#define Q2_SNAPSHOT_BYTES_MAX (64u << 20) /* of the whole table */
#define Q2_SNAPSHOT_EXTRA_MAX 1024u
#define Q2_SNAPSHOT_L1_MAX                                                                     \
    (UINT64_C(1) << 30) /* bytes of all snapshots' L1 tables; their places are noted in memory \
                         */

struct q2_snap {
    uint64_t l1_off;
    uint32_t l1_size; /* entries */
    uint32_t date_s, date_ns;
    uint64_t vm_clock_ns, vm_state_size, disk_size;
    char *id, *name;
    uint8_t *extra; /* of the extra data what we do not know: behind its first 16 bytes */
    uint32_t extra_len;
};

struct q2_snap_table {
    struct q2_snap *snaps;
    unsigned n;
    uint64_t off, bytes; /* in the file */
};

/* Read the table that the header refers to. -EMEDIUMTYPE with why. The caller frees (q2_snap_table_done), also after a
 * failure. */
int q2_snap_table_load(struct q2 *q, struct q2_snap_table *ret, struct blk_why *why) MUST_USE;
void q2_snap_table_done(struct q2_snap_table *t);
void q2_snap_done(struct q2_snap *s);
/* The table as bytes of the file; v3 and v2 alike with 16 bytes of extra data. */
int q2_snap_table_build(const struct q2_snap_table *t, uint8_t **ret_data, uint64_t *ret_bytes) MUST_USE;
/* By id, then by name; -1: none. */
int q2_snap_find(const struct q2_snap_table *t, const char *id_or_name);

#endif
