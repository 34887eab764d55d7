/* Shared by the files of the store: the connection, statements and the schema. */
#ifndef STORE_STORE_PRIV_H
#define STORE_STORE_PRIV_H

#include <sqlite3.h>
#include <stdint.h>

#include "proto/name.h"
#include "store/store.h"
#include "sys/dirs.h"

struct store_job_lock;

struct store {
    sqlite3 *db;
    struct store_job_lock *ended; /* of jobs whose row goes with the transaction that is open */
    char path[SYS_DIR_MAX + 16];
};

/* The error of the last call on this connection, as text about object ("network web"; NULL: none). Returns -errno. */
int store_fail(struct store *s, const char *object, struct err *e);
/* Run statements without results. */
int store_exec(struct store *s, const char *sql, struct err *e) MUST_USE;
/* Prepare one statement. */
int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret_stmt, struct err *e) MUST_USE;
/* The next row of a statement: 1, or 0 at the end. */
int store_next(struct store *s, sqlite3_stmt *stmt, struct err *e) MUST_USE;
/* The one of the names that sql selects (?1: text, or NULL) that was probably meant by name. False: none. */
bool store_nearest(struct store *s, const char *sql, const char *text, const char *name,
                   char ret_near[PROTO_NAME_MAX + 1]);
/* The error for a name that is not among those that sql selects: -ENOENT. what: "network"; see: the command that lists
 * them. */
int store_missing(struct store *s, const char *sql, const char *what, const char *see, const char *name,
                  struct err *e) MUST_USE;
/* sqlite3_finalize at the end of a scope, with AUTO(store_stmt). */
static inline void store_stmt_freep(sqlite3_stmt **stmt)
{
    sqlite3_finalize(*stmt);
}

/* Run change(s, arg) in the transaction that is open, or in one of its own. */
int store_change(struct store *s, int (*change)(struct store *s, const void *arg, struct err *e), const void *arg,
                 struct err *e) MUST_USE;
/* job.c: let go of the locks in s->ended, once their rows are gone for all (or stay after all). */
void store_job_release(struct store *s);
/* The time of rows: since 1970, UTC. */
int64_t store_now_ns(void);

/* Bring the schema of an open database up to date, or refuse a newer one. */
int store_schema_update(struct store *s, struct err *e) MUST_USE;

#endif
