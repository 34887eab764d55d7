/* The table of internal snapshots: reading it with all its checks, building it.
 * Spec: QEMU docs/interop/qcow2.txt, "Snapshots". */
#include "block/qcow2/snapshot_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    AT_L1_OFF = 0,
    AT_L1_SIZE = 8,
    AT_ID_LEN = 12,
    AT_NAME_LEN = 14,
    AT_DATE_S = 16,
    AT_DATE_NS = 20,
    AT_CLOCK = 24,
    AT_STATE32 = 32,
    AT_EXTRA_LEN = 36,
    ENTRY_LEN = 40,
    EXTRA_STATE = 0,
    EXTRA_DISK = 8,
    EXTRA_KNOWN = 16,
};

static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

void q2_snap_done(struct q2_snap *s)
{
    free(s->id);
    free(s->name);
    free(s->extra);
    *s = (struct q2_snap){ 0 };
}

void q2_snap_table_done(struct q2_snap_table *t)
{
    for (unsigned i = 0; i < t->n; i++)
        q2_snap_done(&t->snaps[i]);
    free(t->snaps);
    *t = (struct q2_snap_table){ 0 };
}

static const char *snap_check(const struct q2 *q, const struct q2_snap *s)
{
    uint64_t bytes = (uint64_t)s->l1_size * 8, file_size = q->node.file->size;
    uint64_t needed = s->disk_size ? ((s->disk_size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;

    if (bytes > Q2_L1_BYTES_MAX || s->l1_size < needed)
        return "has a snapshot with an L1 table of an impossible size";
    if (bytes && (!q2_aligned(q, s->l1_off) || !s->l1_off || s->l1_off > file_size || bytes > file_size - s->l1_off))
        return "has a snapshot with an L1 table outside the file";
    if (s->disk_size > INT64_MAX - BLK_SECTOR)
        return "has a snapshot that claims a disk of more than 8 EiB";
    return NULL;
}

/* One entry at `at` of the file; *ret_len: its length with the padding. */
static int snap_read(struct q2 *q, uint64_t at, uint64_t room, struct q2_snap *s, uint64_t *ret_len,
                     const char **ret_why)
{
    uint8_t fixed[ENTRY_LEN], known[EXTRA_KNOWN] = { 0 };
    unsigned id_len, name_len;
    uint32_t extra_len;
    uint64_t len;
    int res = room < ENTRY_LEN ? -EMEDIUMTYPE : blk_pread(q->node.file, at, fixed, ENTRY_LEN);

    *ret_why = "has a table of snapshots that does not end in the file, or is longer than 64 MiB";
    if (res < 0)
        return res;
    id_len = get16(fixed + AT_ID_LEN);
    name_len = get16(fixed + AT_NAME_LEN);
    extra_len = q2_be32(fixed + AT_EXTRA_LEN);
    len = align_up(ENTRY_LEN + (uint64_t)extra_len + id_len + name_len, 8);
    if (extra_len > Q2_SNAPSHOT_EXTRA_MAX || len > align_up(room, 8))
        return -EMEDIUMTYPE;
    *s = (struct q2_snap){ .l1_off = q2_be64(fixed + AT_L1_OFF),
                           .l1_size = q2_be32(fixed + AT_L1_SIZE),
                           .date_s = q2_be32(fixed + AT_DATE_S),
                           .date_ns = q2_be32(fixed + AT_DATE_NS),
                           .vm_clock_ns = q2_be64(fixed + AT_CLOCK),
                           .vm_state_size = q2_be32(fixed + AT_STATE32),
                           .disk_size = q->h.size };
    s->id = calloc(1, id_len + 1u);
    s->name = calloc(1, name_len + 1u);
    s->extra_len = extra_len > EXTRA_KNOWN ? extra_len - EXTRA_KNOWN : 0;
    s->extra = s->extra_len ? malloc(s->extra_len) : NULL;
    if (!s->id || !s->name || (s->extra_len && !s->extra))
        return -ENOMEM;
    res = blk_pread(q->node.file, at + ENTRY_LEN, known, MIN(extra_len, EXTRA_KNOWN));
    if (res == 0 && s->extra_len)
        res = blk_pread(q->node.file, at + ENTRY_LEN + EXTRA_KNOWN, s->extra, s->extra_len);
    if (res == 0)
        res = blk_pread(q->node.file, at + ENTRY_LEN + extra_len, s->id, id_len);
    if (res == 0)
        res = blk_pread(q->node.file, at + ENTRY_LEN + extra_len + id_len, s->name, name_len);
    if (extra_len >= EXTRA_DISK)
        s->vm_state_size = q2_be64(known + EXTRA_STATE);
    if (extra_len >= EXTRA_KNOWN)
        s->disk_size = q2_be64(known + EXTRA_DISK);
    *ret_why = res == 0 ? snap_check(q, s) : NULL;
    *ret_len = len;
    return res == 0 && *ret_why ? -EMEDIUMTYPE : res;
}

int q2_snap_table_load(struct q2 *q, struct q2_snap_table *ret, struct blk_why *why)
{
    uint64_t file_size = q->node.file->size, off = q->h.snapshots_off, at = off, l1_bytes = 0;
    const char *path = q->node.file->path;

    *ret = (struct q2_snap_table){ .off = off };
    if (q->h.n_snapshots == 0)
        return 0;
    if (q->h.n_snapshots > Q2_SNAPSHOTS_MAX || !q2_aligned(q, off) || !off || off > file_size)
        return blk_why_set(why, EMEDIUMTYPE, path, "has a table of snapshots outside the file, or of more than 65536");
    ret->snaps = calloc(q->h.n_snapshots, sizeof(*ret->snaps));
    if (!ret->snaps)
        return -ENOMEM;
    for (; ret->n < q->h.n_snapshots; ret->n++) {
        uint64_t len = 0, room = MIN(file_size - at, Q2_SNAPSHOT_BYTES_MAX - (at - off));
        struct q2_snap *s = &ret->snaps[ret->n];
        const char *text = NULL;
        int res = snap_read(q, at, room, s, &len, &text);

        l1_bytes += (uint64_t)s->l1_size * 8;
        if (res == 0 && l1_bytes > MIN(file_size, Q2_SNAPSHOT_L1_MAX)) {
            res = -EMEDIUMTYPE;
            text = "has snapshots whose L1 tables overlap, or take more than 1 GiB";
        }
        if (res < 0) {
            q2_snap_done(s);
            return text ? blk_why_set(why, -res, path, text) : res;
        }
        at += len;
        /* The last one's padding may be missing at the end of the file. */
        at = MIN(at, file_size);
    }
    ret->bytes = at - off;
    return 0;
}

static uint8_t *snap_put(const struct q2_snap *s, uint8_t *p)
{
    size_t id_len = strlen(s->id), name_len = strlen(s->name), len = ENTRY_LEN + EXTRA_KNOWN + s->extra_len;

    q2_put_be64(p + AT_L1_OFF, s->l1_off);
    q2_put_be32(p + AT_L1_SIZE, s->l1_size);
    p[AT_ID_LEN] = (uint8_t)(id_len >> 8);
    p[AT_ID_LEN + 1] = (uint8_t)id_len;
    p[AT_NAME_LEN] = (uint8_t)(name_len >> 8);
    p[AT_NAME_LEN + 1] = (uint8_t)name_len;
    q2_put_be32(p + AT_DATE_S, s->date_s);
    q2_put_be32(p + AT_DATE_NS, s->date_ns);
    q2_put_be64(p + AT_CLOCK, s->vm_clock_ns);
    q2_put_be32(p + AT_STATE32, s->vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->vm_state_size);
    q2_put_be32(p + AT_EXTRA_LEN, EXTRA_KNOWN + s->extra_len);
    q2_put_be64(p + ENTRY_LEN + EXTRA_STATE, s->vm_state_size);
    q2_put_be64(p + ENTRY_LEN + EXTRA_DISK, s->disk_size);
    if (s->extra_len)
        memcpy(p + ENTRY_LEN + EXTRA_KNOWN, s->extra, s->extra_len);
    memcpy(p + len, s->id, id_len);
    memcpy(p + len + id_len, s->name, name_len);
    return p + align_up(len + id_len + name_len, 8);
}

int q2_snap_table_build(const struct q2_snap_table *t, uint8_t **ret_data, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;
    uint8_t *data, *p;

    for (unsigned i = 0; i < t->n; i++)
        bytes += align_up(
            ENTRY_LEN + EXTRA_KNOWN + t->snaps[i].extra_len + strlen(t->snaps[i].id) + strlen(t->snaps[i].name), 8);
    if (bytes > Q2_SNAPSHOT_BYTES_MAX)
        return -EFBIG;
    p = data = calloc(1, MAX(bytes, 1));
    if (!data)
        return -ENOMEM;
    for (unsigned i = 0; i < t->n; i++)
        p = snap_put(&t->snaps[i], p);
    *ret_data = data;
    *ret_bytes = bytes;
    return 0;
}

int q2_snap_find(const struct q2_snap_table *t, const char *id_or_name)
{
    for (unsigned i = 0; i < t->n; i++) {
        if (strcmp(t->snaps[i].id, id_or_name) == 0)
            return (int)i;
    }
    for (unsigned i = 0; i < t->n; i++) {
        if (strcmp(t->snaps[i].name, id_or_name) == 0)
            return (int)i;
    }
    return -1;
}

int q2_snapshots_open(struct q2 *q, struct blk_why *why)
{
    struct q2_snap_table t;
    int res = q2_snap_table_load(q, &t, why);

    if (res == 0)
        res = q2_meta_add(q, t.off, t.bytes);
    for (unsigned i = 0; i < t.n && res == 0; i++)
        res = q2_meta_add(q, t.snaps[i].l1_off, (uint64_t)t.snaps[i].l1_size * 8);
    q2_snap_table_done(&t);
    return res;
}

int q2_snapshot_view(struct q2 *q, const char *id_or_name, struct blk_why *why)
{
    struct q2_snap_table t;
    int i = -1, res = q2_snap_table_load(q, &t, why);

    if (res == 0) {
        i = q2_snap_find(&t, id_or_name);
        if (i < 0)
            res = blk_why_set(why, ENOENT, q->node.path, "has no snapshot of that name or id");
    }
    if (res == 0 && t.snaps[i].disk_size == 0)
        res = blk_why_set(why, EMEDIUMTYPE, q->node.path, "has a snapshot without a size");
    if (res == 0) { /* the L1 table was checked against the file and the size when the table was read */
        q->h.l1_off = t.snaps[i].l1_off;
        q->h.l1_size = t.snaps[i].l1_size;
        q->h.size = t.snaps[i].disk_size;
        q->node.size = align_up(q->h.size, BLK_SECTOR);
    }
    q2_snap_table_done(&t);
    return res;
}

int q2_snapshot_list(struct blk_node *n, struct blk_snapshot **ret_list, unsigned *ret_n)
{
    struct q2 *q = q2_of(n);
    struct blk_snapshot *list = NULL;
    struct q2_snap_table t;
    int res;

    pthread_mutex_lock(&q->lock);
    res = q2_snap_table_load(q, &t, NULL);
    pthread_mutex_unlock(&q->lock);
    if (res == 0) {
        list = calloc(MAX(t.n, 1u), sizeof(*list));
        res = list ? 0 : -ENOMEM;
    }
    for (unsigned i = 0; i < t.n && res == 0; i++) {
        const struct q2_snap *s = &t.snaps[i];

        list[i] = (struct blk_snapshot){ .disk_size = s->disk_size,
                                         .vm_state_size = s->vm_state_size,
                                         .date_ns = s->date_s * UINT64_C(1000000000) + s->date_ns,
                                         .vm_clock_ns = s->vm_clock_ns };
        snprintf(list[i].id, sizeof(list[i].id), "%s", s->id);
        snprintf(list[i].name, sizeof(list[i].name), "%s", s->name);
    }
    if (res == 0) {
        *ret_list = list;
        *ret_n = t.n;
    }
    q2_snap_table_done(&t);
    return res;
}
