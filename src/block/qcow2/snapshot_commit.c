/* Changes of the set of snapshots, each atomic: all that changes (L1 tables, L2 tables whose COPIED flags change, the
 * table of snapshots, the whole refcount structure) is written to clusters that nothing refers to; then one write of
 * the header switches to it. Before that write, the file is the old image; after it, the new one. Neither has so much
 * as a leak, as the new refcounts were counted from the new references.
 *
 * What that costs: a pass over the metadata, and 1/32768 of the disk's size written for refcounts (64 KiB clusters). */
#include "block/qcow2/check_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/num.h"

/* The image as it is going to be. */
struct change {
    struct q2 *q;
    uint64_t *l1; /* active, host endian, n entries */
    uint32_t l1_size;
    uint64_t size; /* of the disk */
    struct q2_snap_table snaps;
    int created; /* the snapshot that gets a copy of the active L1 table; -1: none */
};

static void change_done(struct change *c)
{
    free(c->l1);
    q2_snap_table_done(&c->snaps);
}

/* ---- COPIED flags of the new state ---- */

/* Put the flags right of those entries whose clusters are in the window; the changed table goes to a new place. */
static int flag_table(struct q2_refs *r, struct q2_l2_ref *l2)
{
    struct q2 *q = r->q;
    bool changed = false;
    int res = q2_refs_read_l2(r, l2);

    for (unsigned i = 0; i < BIT(q->l2_bits) && res == 0; i++) {
        uint64_t entry = be64toh(r->table[i << q->extl2]), off = entry & Q2_OFFSET_MASK;
        uint64_t cluster = off >> q->cluster_bits, flag;

        if (entry & Q2_COMPRESSED || !off || cluster < r->lo || cluster >= r->hi)
            continue;
        flag = r->counts[cluster - r->lo] == 1 ? Q2_COPIED : 0;
        if ((entry & Q2_COPIED) != flag) {
            r->table[i << q->extl2] = htobe64((entry & ~Q2_COPIED) | flag);
            changed = true;
        }
    }
    if (res < 0 || !changed)
        return res;
    if (!l2->moved)
        res = q2_alloc_meta_locked(q, q->cluster_size, &l2->moved);
    return res < 0 ? res : blk_pwrite(q->node.file, l2->moved, r->table, q->cluster_size);
}

static int flag_tables(struct q2_refs *r)
{
    uint64_t lo = 0;
    int res;

    do {
        res = q2_refs_window(r, lo);
        for (size_t i = 0; i < r->n_l2 && res == 0; i++) {
            if (r->l2[i].n_active)
                res = flag_table(r, &r->l2[i]);
        }
        lo = align_down(r->next, BIT64(r->q->rb_bits));
    } while (res == 0 && r->next < r->n_clusters);
    return res;
}

/* Where the entries of the new L1 table lead now, and their flag: whether the table is this one's alone. */
static int flag_l1(const struct q2_refs *r, struct change *c)
{
    for (uint32_t i = 0; i < c->l1_size; i++) {
        uint64_t off = c->l1[i] & Q2_OFFSET_MASK;
        const struct q2_l2_ref *l2 = off ? q2_refs_find(r, off) : NULL;

        if (off && !l2)
            return -EIO;
        if (off)
            c->l1[i] = (l2->moved ? l2->moved : off) | ((l2->moved ? r->state->l1_times : l2->n) == 1 ? Q2_COPIED : 0);
    }
    return 0;
}

/* ---- writing ---- */

static int write_l1(struct change *c, uint64_t keep, uint64_t *ret_off)
{
    AUTO_FREE uint64_t *be = malloc(MAX((uint64_t)c->l1_size * 8, 8));
    int res;

    if (!be)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->l1_size; i++)
        be[i] = htobe64(c->l1[i] & keep);
    res = q2_alloc_meta_locked(c->q, MAX((uint64_t)c->l1_size * 8, 1), ret_off);
    return res < 0 ? res : blk_pwrite(c->q->node.file, *ret_off, be, (uint64_t)c->l1_size * 8);
}

static int write_snaps(struct change *c)
{
    AUTO_FREE uint8_t *data = NULL;
    uint64_t bytes;
    int res = q2_snap_table_build(&c->snaps, &data, &bytes);

    c->snaps.off = c->snaps.bytes = 0;
    if (res < 0 || c->snaps.n == 0)
        return res;
    res = q2_alloc_meta_locked(c->q, bytes, &c->snaps.off);
    c->snaps.bytes = bytes;
    return res < 0 ? res : blk_pwrite(c->q->node.file, c->snaps.off, data, bytes);
}

/* Everything but refcounts; *ret_l1_off: the new active table. */
static int write_tables(struct change *c, uint64_t *ret_l1_off)
{
    struct blk_check broken = { 0 };
    struct q2_state state = {
        .l1 = c->l1, .l1_size = c->l1_size, .l1_times = c->created >= 0 ? 2 : 1, .snaps = &c->snaps
    };
    struct q2_refs r;
    int res = q2_refs_init(&r, c->q, &state, &broken);

    if (res == 0)
        res = flag_tables(&r);
    if (res == 0 && broken.corruptions)
        res = -EMEDIUMTYPE;
    if (res == 0)
        res = flag_l1(&r, c);
    q2_refs_done(&r);
    if (res == 0)
        res = write_l1(c, UINT64_MAX, ret_l1_off);
    if (res == 0 && c->created >= 0) {
        struct q2_snap *s = &c->snaps.snaps[c->created];

        s->l1_size = c->l1_size;
        res = write_l1(c, ~Q2_COPIED, &s->l1_off);
    }
    return res == 0 ? write_snaps(c) : res;
}

/* New refcounts, the last step before the header. */
static int write_refcounts(struct change *c, uint64_t l1_off, uint64_t *ret_rt_off, uint32_t *ret_rt_clusters)
{
    struct blk_check broken = { 0 };
    struct q2_state state = { .l1 = c->l1, .l1_size = c->l1_size, .l1_off = l1_off, .l1_times = 1, .snaps = &c->snaps };
    struct q2_refs r;
    int res = q2_refs_init(&r, c->q, &state, &broken);

    if (res == 0)
        res = q2_rebuild(&r, 0, ret_rt_off, ret_rt_clusters);
    q2_refs_done(&r);
    return res == 0 && broken.corruptions ? -EMEDIUMTYPE : res;
}

/* Make it so. Whatever fails before the header is written leaves the image as it was. */
static int commit(struct change *c, struct blk_why *why)
{
    struct q2 *q = c->q;
    struct q2_header old = q->h;
    uint64_t l1_off, rt_off;
    uint32_t rt_clusters;
    int res = write_tables(c, &l1_off), again;

    if (res == 0)
        res = write_refcounts(c, l1_off, &rt_off, &rt_clusters);
    if (res == 0) {
        q->h.l1_off = l1_off;
        q->h.l1_size = c->l1_size;
        q->h.size = c->size;
        q->h.rt_off = rt_off;
        q->h.rt_clusters = rt_clusters;
        q->h.snapshots_off = c->snaps.off;
        q->h.n_snapshots = c->snaps.n;
        res = q2_header_write_locked(q);
        if (res == 0)
            res = blk_flush(q->node.file);
        if (res < 0)
            q->h = old;
    }
    if (res == -EMEDIUMTYPE)
        (void)blk_why_set(why, EMEDIUMTYPE, q->node.file->path,
                          "is damaged, or its refcounts are too narrow for one more snapshot; see `disk check`");
    again = q2_reload(q);
    if (res == 0 && again == 0)
        q->node.size = q->h.size;
    q2_inflated_drop(q);
    return res < 0 ? res : again;
}

/* ---- operations ---- */

static int change_begin(struct q2 *q, struct change *c, struct blk_why *why)
{
    int res;

    *c = (struct change){ .q = q, .l1_size = q->h.l1_size, .size = q->h.size, .created = -1 };
    if (q->node.read_only)
        return -EROFS;
    if (q->corrupt)
        return blk_why_set(why, EIO, q->node.file->path, "is damaged; repair it first (`disk check --repair`)");
    if (q->own_data)
        return blk_why_set(why, ENOTSUP, q->node.file->path,
                           "keeps its data in a file of its own, so it cannot have internal snapshots");
    c->l1 = malloc(MAX((uint64_t)c->l1_size * 8, 8));
    if (!c->l1)
        return -ENOMEM;
    memcpy(c->l1, q->l1, (uint64_t)c->l1_size * 8);
    /* What was freed is counted down in the file too; a change that fails takes everything from there again. */
    res = q2_writeback_locked(q, true);
    return res < 0 ? res : q2_snap_table_load(q, &c->snaps, why);
}

/* The id that a new snapshot gets: one more than the highest number. */
static char *next_id(const struct q2_snap_table *t)
{
    uint64_t max = 0, v;
    char *id;

    for (unsigned i = 0; i < t->n; i++) {
        if (num_parse_u64(t->snaps[i].id, 0, UINT64_MAX - 1, &v) == 0)
            max = MAX(max, v);
    }
    return asprintf(&id, "%llu", (unsigned long long)max + 1) < 0 ? NULL : id;
}

static int snap_add(struct change *c, const struct blk_snapshot *snapshot, struct blk_why *why)
{
    struct q2_snap_table *t = &c->snaps;
    const char *path = c->q->node.file->path;
    uint64_t now = (uint64_t)time(NULL) * 1000000000u, date = snapshot->date_ns ? snapshot->date_ns : now;
    struct q2_snap *grown, *s;

    if (snapshot->vm_state_size)
        return blk_why_set(why, ENOTSUP, path, "cannot take a VM's state into a snapshot");
    if (!snapshot->name[0] || (snapshot->id[0] && q2_snap_find(t, snapshot->id) >= 0))
        return blk_why_set(why, EEXIST, path, "has a snapshot of that id already, or no name was given");
    for (unsigned i = 0; i < t->n; i++) {
        if (strcmp(t->snaps[i].name, snapshot->name) == 0)
            return blk_why_set(why, EEXIST, path, "has a snapshot of that name already");
    }
    if (t->n >= Q2_SNAPSHOTS_MAX)
        return blk_why_set(why, EFBIG, path, "has 65536 snapshots, the most that are possible");
    grown = realloc(t->snaps, (t->n + 1) * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    t->snaps = grown;
    s = &grown[t->n];
    *s = (struct q2_snap){ .date_s = (uint32_t)(date / 1000000000u),
                           .date_ns = (uint32_t)(date % 1000000000u),
                           .vm_clock_ns = snapshot->vm_clock_ns,
                           .disk_size = c->size };
    s->id = snapshot->id[0] ? strdup(snapshot->id) : next_id(t);
    s->name = strdup(snapshot->name);
    c->created = (int)t->n++;
    return s->id && s->name ? 0 : -ENOMEM;
}

static int create_locked(struct q2 *q, const struct blk_snapshot *snapshot, struct blk_why *why)
{
    struct change c;
    int res = change_begin(q, &c, why);

    if (res == 0)
        res = snap_add(&c, snapshot, why);
    if (res == 0)
        res = commit(&c, why);
    change_done(&c);
    return res;
}

/* Begin a change of a snapshot. Returns its index; what was begun is to be ended in any case. */
static int change_begin_of(struct q2 *q, struct change *c, const char *id_or_name, struct blk_why *why)
{
    int i, res = change_begin(q, c, why);

    if (res < 0)
        return res;
    i = q2_snap_find(&c->snaps, id_or_name);
    return i < 0 ? blk_why_set(why, ENOENT, q->node.file->path, "has no snapshot of that name or id") : i;
}

static int apply_locked(struct q2 *q, const char *id_or_name, struct blk_why *why)
{
    const struct q2_snap *s;
    struct change c;
    uint32_t size;
    int i = change_begin_of(q, &c, id_or_name, why), res = i;

    if (i < 0)
        goto end;
    s = &c.snaps.snaps[i];
    size = s->l1_size;
    free(c.l1);
    c.l1 = malloc(MAX((uint64_t)size * 8, 8));
    res = c.l1 ? blk_pread(q->node.file, s->l1_off, c.l1, (uint64_t)size * 8) : -ENOMEM;
    for (uint32_t k = 0; k < size && res == 0; k++)
        c.l1[k] = be64toh(c.l1[k]);
    c.l1_size = size;
    c.size = align_up(s->disk_size, BLK_SECTOR);
    if (res == 0 && c.size != q->h.size)
        res = q2_bitmaps_resize(q, c.size, why);
    if (res == 0)
        q2_bitmaps_mark(q, 0, c.size); /* every byte may be another one now */
    if (res == 0)
        res = commit(&c, why);
    if (res < 0 && c.size && c.size != q->h.size) { /* the old size again; what was cut off may have been dirty */
        if (q2_bitmaps_resize(q, q->h.size, NULL) < 0)
            q->corrupt = true;
        q2_bitmaps_mark(q, 0, q->h.size);
    }
end:
    change_done(&c);
    return res;
}

static int delete_locked(struct q2 *q, const char *id_or_name, struct blk_why *why)
{
    struct change c;
    int i = change_begin_of(q, &c, id_or_name, why), res = i;

    if (i < 0)
        goto end;
    q2_snap_done(&c.snaps.snaps[i]);
    c.snaps.n--;
    memmove(&c.snaps.snaps[i], &c.snaps.snaps[i + 1], (c.snaps.n - (unsigned)i) * sizeof(*c.snaps.snaps));
    res = commit(&c, why);
end:
    change_done(&c);
    return res;
}

int q2_snapshot_create(struct blk_node *n, const struct blk_snapshot *snapshot, struct blk_why *why)
{
    struct q2 *q = q2_of(n);
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = create_locked(q, snapshot, why);
    q2_exclusive_end(q);
    return res;
}

/* A change that names a snapshot, with the disk's requests standing still. */
static int snapshot_change(struct blk_node *n, const char *id_or_name, struct blk_why *why,
                           int (*change)(struct q2 *q, const char *id_or_name, struct blk_why *why))
{
    struct q2 *q = q2_of(n);
    int res = q2_exclusive_begin(q);

    if (res < 0)
        return res;
    res = change(q, id_or_name, why);
    q2_exclusive_end(q);
    return res;
}

int q2_snapshot_apply(struct blk_node *n, const char *id_or_name, struct blk_why *why)
{
    return snapshot_change(n, id_or_name, why, apply_locked);
}

int q2_snapshot_delete(struct blk_node *n, const char *id_or_name, struct blk_why *why)
{
    return snapshot_change(n, id_or_name, why, delete_locked);
}
