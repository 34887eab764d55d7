#include "block/record.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/dirty.h"
#include "block/node.h"

#define RECORD_PREFIX "caisson-backup:"
#define RECORD_NAME_MAX (sizeof(RECORD_PREFIX) + BLK_RECORD_CHAIN_MAX + BLK_RECORD_ID_MAX)

struct blk_record {
    char name[RECORD_NAME_MAX];
    bool enabled;
    struct blk_dirty *dirty;
};

struct blk_records {
    struct blk_node *node;
    bool persistent;
    pthread_mutex_t lock; /* below */
    struct blk_record list[BLK_RECORDS_MAX];
    unsigned n;
};

int blk_records_new(struct blk_node *node, struct blk_records **ret_records)
{
    struct blk_records *r = calloc(1, sizeof(*r));
    struct blk_info info;

    if (!r)
        return -ENOMEM;
    blk_node_info(node, &info);
    r->node = node;
    r->persistent = node->ops->bitmap_add && !node->read_only && info.qcow2_version != 2;
    pthread_mutex_init(&r->lock, NULL);
    *ret_records = r;
    return 0;
}

void blk_records_free(struct blk_records *r)
{
    if (!r)
        return;
    for (unsigned i = 0; i < r->n; i++)
        blk_dirty_free(r->list[i].dirty);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

bool blk_records_persistent(const struct blk_records *r)
{
    return r->persistent;
}

static void record_name(char name[RECORD_NAME_MAX], const char *chain, const char *id)
{
    snprintf(name, RECORD_NAME_MAX, RECORD_PREFIX "%.*s:%.*s", BLK_RECORD_CHAIN_MAX - 1, chain, BLK_RECORD_ID_MAX - 1,
             id);
}

/* ---- in memory ---- */

static struct blk_record *record_find_locked(struct blk_records *r, const char *name)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (strcmp(r->list[i].name, name) == 0)
            return &r->list[i];
    }
    return NULL;
}

static void record_remove_locked(struct blk_records *r, struct blk_record *record)
{
    blk_dirty_free(record->dirty);
    *record = r->list[--r->n];
}

static void record_merge(struct blk_dirty *into, const struct blk_dirty *from)
{
    uint64_t at = 0, len = 0;

    while (blk_dirty_next(from, at + len, UINT64_MAX, UINT64_MAX, &at, &len))
        blk_dirty_set(into, at, len);
}

static int memory_switch(struct blk_records *r, const char *from, const char *to, struct blk_dirty *into)
{
    struct blk_record *old, *new;
    int res = -ENOENT;

    pthread_mutex_lock(&r->lock);
    old = from ? record_find_locked(r, from) : NULL;
    if (old || !from)
        res = r->n == BLK_RECORDS_MAX ? -ENOSPC : 0;
    if (res == 0) {
        new = &r->list[r->n];
        *new = (struct blk_record){ .enabled = true };
        res = blk_dirty_new(r->node->size, BLK_RECORD_GRANULARITY, &new->dirty);
    }
    if (res == 0) {
        snprintf(new->name, sizeof(new->name), "%s", to);
        r->n++;
        if (old) {
            record_merge(into, old->dirty);
            old->enabled = false;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return res;
}

static void memory_undo(struct blk_records *r, const char *from, const char *to)
{
    struct blk_record *old, *new;

    pthread_mutex_lock(&r->lock);
    old = from ? record_find_locked(r, from) : NULL;
    new = record_find_locked(r, to);
    if (old && new) {
        record_merge(old->dirty, new->dirty);
        old->enabled = true;
    }
    if (new)
        record_remove_locked(r, new);
    pthread_mutex_unlock(&r->lock);
}

bool blk_records_wants_marks(const struct blk_records *r)
{
    return !r->persistent;
}

void blk_records_mark(struct blk_records *r, uint64_t off, uint64_t len)
{
    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->n; i++) {
        if (r->list[i].enabled)
            blk_dirty_set(r->list[i].dirty, off, len);
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- in the image ---- */

static int image_collect(struct blk_node *n, const char *from, struct blk_dirty *into)
{
    uint64_t at = 0, len = 0;
    int res;

    while ((res = n->ops->bitmap_next(n, from, at + len, &at, &len)) > 0)
        blk_dirty_set(into, at, len);
    return res;
}

static int image_switch(struct blk_node *n, const char *from, const char *to, struct blk_dirty *into)
{
    int res = from ? image_collect(n, from, into) : 0;

    if (res == 0)
        res = n->ops->bitmap_add(n, to, BLK_RECORD_GRANULARITY, true, NULL);
    if (res < 0 || !from)
        return res;
    res = n->ops->bitmap_enable(n, from, false, NULL);
    if (res < 0 && n->ops->bitmap_remove(n, to, NULL) < 0)
        return res; /* it stays, and is removed by the next commit */
    return res;
}

/* from first records again, then gets what to has: nothing is missed between the two. */
static int image_undo(struct blk_node *n, const char *from, const char *to)
{
    uint64_t at = 0, len = 0;
    int res = from ? n->ops->bitmap_enable(n, from, true, NULL) : 0, removed;

    while (from && res == 0 && (res = n->ops->bitmap_next(n, to, at + len, &at, &len)) > 0)
        res = n->ops->bitmap_set(n, from, at, len);
    removed = n->ops->bitmap_remove(n, to, NULL);
    if (res == 0)
        return removed;
    if (n->ops->bitmap_remove(n, from, NULL) < 0) /* one that lacks something must not be used */
        return -EIO;
    return res;
}

/* ---- either ---- */

/* The name belongs to chain, and is not keep. */
static bool record_is_other(const char *name, const char *chain, const char *keep)
{
    const size_t prefix = strlen(RECORD_PREFIX), n = strlen(chain);

    return strncmp(name, RECORD_PREFIX, prefix) == 0 && strncmp(name + prefix, chain, n) == 0 &&
           name[prefix + n] == ':' && strcmp(name, keep) != 0;
}

static int image_commit(struct blk_node *n, const char *chain, const char *keep)
{
    struct blk_bitmap *list = NULL;
    unsigned count = 0;
    int res = n->ops->bitmap_list(n, &list, &count);

    for (unsigned i = 0; i < count && res == 0; i++) {
        if (record_is_other(list[i].name, chain, keep))
            res = n->ops->bitmap_remove(n, list[i].name, NULL);
    }
    free(list);
    return res;
}

static void memory_commit(struct blk_records *r, const char *chain, const char *keep)
{
    pthread_mutex_lock(&r->lock);
    for (unsigned i = r->n; i-- > 0;) {
        if (record_is_other(r->list[i].name, chain, keep))
            record_remove_locked(r, &r->list[i]);
    }
    pthread_mutex_unlock(&r->lock);
}

static bool image_has(struct blk_node *n, const char *name)
{
    struct blk_bitmap *list = NULL;
    unsigned count = 0;
    bool has = false;

    if (n->ops->bitmap_list(n, &list, &count) < 0)
        return false;
    for (unsigned i = 0; i < count; i++)
        has |= strcmp(list[i].name, name) == 0 && list[i].enabled && !list[i].in_use;
    free(list);
    return has;
}

bool blk_records_has(struct blk_records *r, const char *chain, const char *id)
{
    char name[RECORD_NAME_MAX];
    const struct blk_record *record;
    bool has;

    record_name(name, chain, id);
    if (r->persistent)
        return image_has(r->node, name);
    pthread_mutex_lock(&r->lock);
    record = record_find_locked(r, name);
    has = record && record->enabled;
    pthread_mutex_unlock(&r->lock);
    return has;
}

int blk_records_switch(struct blk_records *r, const char *chain, const char *from_id, const char *to_id,
                       struct blk_dirty *into)
{
    char from[RECORD_NAME_MAX] = "", to[RECORD_NAME_MAX];

    if (from_id)
        record_name(from, chain, from_id);
    record_name(to, chain, to_id);
    return r->persistent ? image_switch(r->node, from_id ? from : NULL, to, into)
                         : memory_switch(r, from_id ? from : NULL, to, into);
}

int blk_records_commit(struct blk_records *r, const char *chain, const char *to_id)
{
    char keep[RECORD_NAME_MAX];

    record_name(keep, chain, to_id);
    if (r->persistent)
        return image_commit(r->node, chain, keep);
    memory_commit(r, chain, keep);
    return 0;
}

int blk_records_undo(struct blk_records *r, const char *chain, const char *from_id, const char *to_id)
{
    char from[RECORD_NAME_MAX] = "", to[RECORD_NAME_MAX];

    if (from_id)
        record_name(from, chain, from_id);
    record_name(to, chain, to_id);
    if (r->persistent)
        return image_undo(r->node, from_id ? from : NULL, to);
    memory_undo(r, from_id ? from : NULL, to);
    return 0;
}
