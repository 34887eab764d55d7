/* The lock of a job is taken inside the transaction that adds its row, so that nobody ever sees the row of a living
 * job without its lock; and it is let go only when the row is gone for everybody. */
#include "store/job.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "store/store_priv.h"
#include "sys/place.h"

struct store_job_lock {
    struct store_job_lock *next; /* in store.ended */
    int64_t serial;
    struct sys_place place;
};

/* RUNTIME/job. */
static int job_dir(char ret_dir[SYS_DIR_MAX], struct err *e)
{
    char runtime[SYS_DIR_MAX];
    int r = sys_dirs_runtime(runtime);

    if (r == 0 && snprintf(ret_dir, SYS_DIR_MAX, "%s/job", runtime) >= SYS_DIR_MAX)
        r = -ENAMETOOLONG;
    return r < 0 ? err_set(e, -r,
                           "the path of the runtime directory is too long; set CAISSON_RUNTIME_DIR to a "
                           "shorter one")
                 : 0;
}

/* -EBUSY without text: the job lives. */
static int job_lock(int64_t serial, struct store_job_lock **ret_lock, struct err *e)
{
    struct store_job_lock *lock = calloc(1, sizeof(*lock));
    char dir[SYS_DIR_MAX], name[32];
    int r;

    if (!lock)
        return err_set(e, ENOMEM, "out of memory");
    lock->serial = serial;
    r = job_dir(dir, e);
    if (r == 0) {
        snprintf(name, sizeof(name), "%lld", (long long)serial);
        r = sys_place_lock(dir, name, &lock->place);
        if (r < 0 && r != -EBUSY)
            err_set(e, -r, "cannot lock a job in %s: %s; make it yours and writable, or set CAISSON_RUNTIME_DIR", dir,
                    strerror(-r));
    }
    if (r < 0) {
        free(lock);
        return r;
    }
    *ret_lock = lock;
    return 0;
}

static void job_unlock(struct store_job_lock *lock)
{
    sys_place_leave(&lock->place);
    free(lock);
}

void store_job_release(struct store *s)
{
    while (s->ended) {
        struct store_job_lock *lock = s->ended;

        s->ended = lock->next;
        job_unlock(lock);
    }
}

static int job_insert(struct store *s, const struct store_job *job, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "INSERT INTO jobs (verb, object, plan, started_ns) VALUES (?, ?, ?, ?)", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_text(stmt, 1, job->verb, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, job->object, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, job->plan, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, store_now_ns());
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

int store_job_begin(struct store *s, const char *verb, const char *object, const char *plan,
                    struct store_job_lock **ret_lock, struct err *e)
{
    const struct store_job job = { .verb = verb, .object = object, .plan = plan };
    struct store_job_lock *lock = NULL;
    int r = store_begin(s, e);

    if (r < 0)
        return r;
    r = job_insert(s, &job, e);
    if (r == 0)
        r = job_lock(sqlite3_last_insert_rowid(s->db), &lock, e);
    if (r == -EBUSY)
        err_set(e, EBUSY, "job lock of %s is taken by a stranger; try again", object);
    if (r < 0) {
        store_rollback(s);
        return r;
    }
    r = store_commit(s, e);
    if (r < 0) {
        job_unlock(lock);
        return r;
    }
    *ret_lock = lock;
    return 0;
}

static int job_delete(struct store *s, const void *arg, struct err *e)
{
    const int64_t *serial = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "DELETE FROM jobs WHERE serial = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_int64(stmt, 1, *serial);
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

int store_job_end(struct store *s, struct store_job_lock *lock, struct err *e)
{
    int r;

    if (!lock)
        return 0;
    r = store_change(s, job_delete, &lock->serial, e);
    lock->next = s->ended;
    s->ended = lock;
    if (sqlite3_get_autocommit(s->db))
        store_job_release(s);
    return r;
}

void store_job_leave(struct store_job_lock *lock)
{
    if (lock)
        job_unlock(lock);
}

struct job_older {
    int64_t serial;
    const char *verb, *object;
};

static int job_delete_older(struct store *s, const void *arg, struct err *e)
{
    const struct job_older *older = arg;
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "DELETE FROM jobs WHERE serial < ? AND verb = ? AND object = ?", &stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_int64(stmt, 1, older->serial);
    sqlite3_bind_text(stmt, 2, older->verb, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, older->object, -1, SQLITE_STATIC);
    return sqlite3_step(stmt) == SQLITE_DONE ? 0 : store_fail(s, NULL, e);
}

int store_job_supersede(struct store *s, const struct store_job_lock *lock, const char *verb, const char *object,
                        struct err *e)
{
    return store_change(s, job_delete_older, &(struct job_older){ lock->serial, verb, object }, e);
}

/* ---- those of dead processes ---- */

static int job_read(struct store *s, sqlite3_stmt *stmt, struct store_job *ret_job, struct err *e)
{
    *ret_job = (struct store_job){
        .serial = sqlite3_column_int64(stmt, 0),
        .verb = (const char *)sqlite3_column_text(stmt, 1),
        .object = (const char *)sqlite3_column_text(stmt, 2),
        .plan = (const char *)sqlite3_column_text(stmt, 3),
        .started_ns = sqlite3_column_int64(stmt, 4),
    };
    return ret_job->verb && ret_job->object && ret_job->plan ? 0 : store_fail(s, NULL, e);
}

/* The first job after serial. 1: none. *ret_stmt lends the strings of *ret_job. */
static int job_next(struct store *s, int64_t after, sqlite3_stmt **ret_stmt, struct store_job *ret_job, struct err *e)
{
    int r = store_prepare(s,
                          "SELECT serial, verb, object, plan, started_ns FROM jobs WHERE serial > ? "
                          "ORDER BY serial LIMIT 1",
                          ret_stmt, e);

    if (r < 0)
        return r;
    sqlite3_bind_int64(*ret_stmt, 1, after);
    r = store_next(s, *ret_stmt, e);
    return r < 0 ? r : r > 0 ? job_read(s, *ret_stmt, ret_job, e) : 1;
}

/* A copy whose strings stay when the statement is reset, so that undo can use s. */
static int job_copy(struct store_job *job, char *ret_texts[3])
{
    const char **const from[] = { &job->verb, &job->object, &job->plan };

    for (int i = 0; i < 3; i++) {
        ret_texts[i] = strdup(*from[i]);
        if (!ret_texts[i])
            return -ENOMEM;
        *from[i] = ret_texts[i];
    }
    return 0;
}

/* Whether the row is still there: who had the lock before may have ended the job. */
static int job_is_there(struct store *s, int64_t serial, bool *ret_there, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    struct store_job job = { 0 };
    int r = job_next(s, serial - 1, &stmt, &job, e);

    if (r >= 0)
        *ret_there = r == 0 && job.serial == serial;
    return r < 0 ? r : 0;
}

static int job_repair_one(struct store *s, const struct store_job *job,
                          int (*undo)(void *opaque, struct store *s, const struct store_job *job, struct err *e),
                          void *opaque, struct err *e)
{
    struct store_job_lock *lock = NULL;
    bool there = false;
    int r = job_lock(job->serial, &lock, e);

    if (r < 0)
        return r == -EBUSY ? 0 : r;
    r = job_is_there(s, job->serial, &there, e);
    if (r == 0 && there)
        r = undo(opaque, s, job, e);
    if (r == 0 && there)
        return store_job_end(s, lock, e);
    job_unlock(lock);
    return r;
}

static bool job_stays(void *opaque, const char *name)
{
    struct err ignored = { 0 };
    bool there = true;
    uint64_t serial;

    if (num_parse_u64(name, 1, INT64_MAX, &serial) == 0)
        (void)!job_is_there(opaque, (int64_t)serial, &there, &ignored);
    return there;
}

static bool job_is_one(void *opaque, const char *name)
{
    bool *any = opaque;

    (void)name;
    *any = true;
    return true;
}

/* Locks without a row, of who was killed right before it was there or after it went. In a transaction, as locks are
 * taken in one. */
static void job_sweep(struct store *s)
{
    struct err ignored = { 0 };
    char dir[SYS_DIR_MAX];
    bool any = false;

    if (job_dir(dir, &ignored) < 0)
        return;
    sys_place_sweep(dir, job_is_one, &any);
    if (!any || store_begin(s, &ignored) < 0)
        return;
    sys_place_sweep(dir, job_stays, s);
    store_rollback(s);
}

int store_job_repair(struct store *s,
                     int (*undo)(void *opaque, struct store *s, const struct store_job *job, struct err *e),
                     void *opaque, struct err *e)
{
    int64_t after = 0;
    int first = 0;

    for (;;) {
        sqlite3_stmt *stmt = NULL;
        char *texts[3] = { NULL, NULL, NULL };
        struct store_job job;
        int r = job_next(s, after, &stmt, &job, e);

        if (r == 0)
            r = job_copy(&job, texts);
        sqlite3_finalize(stmt); /* before undo writes */
        if (r == 0) {
            after = job.serial;
            r = job_repair_one(s, &job, undo, opaque, first < 0 ? NULL : e);
            first = first < 0 ? first : r; /* the others are repaired all the same */
            r = 0;
        }
        for (int i = 0; i < 3; i++)
            free(texts[i]);
        if (r > 0)
            job_sweep(s);
        if (r != 0)
            return r < 0 ? r : first;
    }
}

int store_job_each(struct store *s, int (*fn)(void *opaque, const struct store_job *job), void *opaque, struct err *e)
{
    AUTO(store_stmt) sqlite3_stmt *stmt = NULL;
    int r = store_prepare(s, "SELECT serial, verb, object, plan, started_ns FROM jobs ORDER BY serial", &stmt, e);

    if (r < 0)
        return r;
    while ((r = store_next(s, stmt, e)) > 0) {
        struct store_job job;

        r = job_read(s, stmt, &job, e);
        if (r == 0)
            r = fn(opaque, &job);
        if (r != 0)
            return r;
    }
    return r;
}
