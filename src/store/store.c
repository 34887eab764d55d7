#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store_priv.h"

/* How long to wait for somebody else's transaction; ours take milliseconds. */
#define STORE_BUSY_MS 5000
#define STORE_BUSY_NAP_MS 20

/* errno for what SQLite says. */
static int store_errno(struct store *s)
{
    int code = sqlite3_extended_errcode(s->db), system = sqlite3_system_errno(s->db);

    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_READONLY:
        return EROFS;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return EACCES;
    case SQLITE_CANTOPEN:
        return system ? system : EACCES;
    case SQLITE_NOMEM:
        return ENOMEM;
    case SQLITE_CONSTRAINT:
        return EEXIST;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return EUCLEAN;
    default:
        return system == ENOSPC || system == EDQUOT ? ENOSPC : EIO;
    }
}

int store_fail(struct store *s, const char *object, struct err *e)
{
    int code = store_errno(s);
    const char *colon = object ? ": " : "";

    object = object ? object : "";
    switch (code) {
    case EBUSY:
        return err_set(e, code,
                       "%s%sstate database %s is locked by another process for %d s; end it (fuser %s shows it)",
                       object, colon, s->path, STORE_BUSY_MS / 1000, s->path);
    case ENOSPC:
        return err_set(e, code, "%s%sno space left for state database %s; free some, nothing was changed", object,
                       colon, s->path);
    case EROFS:
    case EACCES:
    case EPERM:
        return err_set(
            e, code,
            "%s%scannot write state database %s: %s; make it writable, or set CAISSON_STATE_DIR to another place",
            object, colon, s->path, strerror(code));
    case EUCLEAN:
        return err_set(
            e, EIO, "%s%sstate database %s is damaged (%s); restore it from a backup, or move it away to start empty",
            object, colon, s->path, sqlite3_errmsg(s->db));
    case ENOMEM:
        return err_set(e, code, "out of memory");
    default:
        return err_set(e, code, "%s%sstate database %s: %s", object, colon, s->path, sqlite3_errmsg(s->db));
    }
}

const char *store_path(const struct store *s)
{
    return s->path;
}

/* ---- statements and transactions ---- */

int store_exec(struct store *s, const char *sql, struct err *e)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : store_fail(s, NULL, e);
}

int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret_stmt, struct err *e)
{
    return sqlite3_prepare_v2(s->db, sql, -1, ret_stmt, NULL) == SQLITE_OK ? 0 : store_fail(s, NULL, e);
}

int store_next(struct store *s, sqlite3_stmt *stmt, struct err *e)
{
    switch (sqlite3_step(stmt)) {
    case SQLITE_ROW:
        return 1;
    case SQLITE_DONE:
        return 0;
    default:
        return store_fail(s, NULL, e);
    }
}

int store_begin(struct store *s, struct err *e)
{
    /* Immediate: whoever reads in order to write has the right to write from the start and cannot meet another one. */
    return store_exec(s, "BEGIN IMMEDIATE", e);
}

int store_commit(struct store *s, struct err *e)
{
    int r = store_exec(s, "COMMIT", e);

    if (r < 0)
        store_rollback(s);
    store_job_release(s);
    return r;
}

void store_rollback(struct store *s)
{
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    store_job_release(s);
}

int store_change(struct store *s, int (*change)(struct store *s, const void *arg, struct err *e), const void *arg,
                 struct err *e)
{
    bool own = sqlite3_get_autocommit(s->db);
    int r = own ? store_begin(s, e) : 0;

    if (r < 0)
        return r;
    r = change(s, arg, e);
    if (!own)
        return r;
    if (r == 0)
        return store_commit(s, e);
    store_rollback(s);
    return r;
}

void store_relax(struct store *s, bool relaxed)
{
    /* In WAL mode NORMAL leaves out the fsync of a commit, nothing else. Where it fails, changes last. */
    sqlite3_exec(s->db, relaxed ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL", NULL, NULL, NULL);
}

int64_t store_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- opening ---- */

/* *ret_there: whether the database exists or was made. */
static int store_find(enum store_access access, struct store *s, bool *ret_there, struct err *e)
{
    char dir[SYS_DIR_MAX];
    int r = sys_dirs_state(dir);
    AUTO_FD int fd = -1;

    if (r == -ENOENT)
        return err_set(e, ENOENT, "no place for the state database: HOME is not set; set it, or CAISSON_STATE_DIR");
    if (r < 0)
        return err_set(e, -r, "the path of the state directory is too long; set CAISSON_STATE_DIR to a shorter one");
    if (access == STORE_WRITE) {
        r = sys_dirs_make(dir);
        if (r == -EPERM)
            return err_set(e, EPERM,
                           "state directory %s must belong to you and be writable by nobody else; use chown and chmod",
                           dir);
        if (r < 0)
            return err_set(e, -r, "cannot make state directory %s: %s; set CAISSON_STATE_DIR to another place", dir,
                           strerror(-r));
    }
    snprintf(s->path, sizeof(s->path), "%s/state.db", dir);
    /* Made by us, because SQLite would make it readable by all. */
    fd = open(s->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (access == STORE_WRITE ? O_CREAT : 0), 0600);
    if (fd < 0 && errno == ENOENT && access == STORE_READ) {
        *ret_there = false;
        return 0;
    }
    if (fd < 0)
        return err_set(e, errno, "cannot open state database %s: %s; set CAISSON_STATE_DIR to another place", s->path,
                       strerror(errno));
    *ret_there = true;
    return 0;
}

/* Turning on WAL needs the database for ourselves for a moment, and SQLite does not always wait for that. */
static int store_set_wal(struct store *s, struct err *e)
{
    const struct timespec nap = { .tv_nsec = STORE_BUSY_NAP_MS * 1000000L };
    int r = 0;

    for (int waited = 0; waited < STORE_BUSY_MS; waited += STORE_BUSY_NAP_MS) {
        r = sqlite3_exec(s->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        if (r != SQLITE_BUSY)
            break;
        nanosleep(&nap, NULL);
    }
    return r == SQLITE_OK ? 0 : store_fail(s, NULL, e);
}

static int store_set_up(struct store *s, bool there, struct err *e)
{
    /* FULL: a change that was reported is there after a power failure too. */
    static const char pragmas[] = "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF; "
                                  "PRAGMA wal_autocheckpoint = 100";
    int r;

    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, STORE_BUSY_MS);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    /* The log goes into the database when it has grown a bit, not when a command ends: that would be three writes to
     * the disk more for each. It must not grow much, for the first to open the database reads all of it. */
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    r = store_exec(s, pragmas, e);
    if (r == 0 && there)
        r = store_set_wal(s, e);
    return r < 0 ? r : store_schema_update(s, e);
}

int store_open(enum store_access access, struct store **ret_store, struct err *e)
{
    struct store *s = calloc(1, sizeof(*s));
    bool there;
    int r;

    if (!s)
        return err_set(e, ENOMEM, "out of memory");
    r = store_find(access, s, &there, e);
    if (r == 0 && sqlite3_open_v2(there ? s->path : ":memory:", &s->db,
                                  SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW |
                                      (there ? 0 : SQLITE_OPEN_CREATE),
                                  NULL) != SQLITE_OK)
        r = s->db ? store_fail(s, NULL, e) : err_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = store_set_up(s, there, e);
    if (r < 0) {
        store_close(s);
        return r;
    }
    *ret_store = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_close(s->db);
    store_job_release(s);
    free(s);
}
