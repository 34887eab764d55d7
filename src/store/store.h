/* The state database: what exists on this machine for this user (networks; with time VMs, containers, images, volumes,
 * snapshots, jobs), in SQLite under the state directory. Each change is one transaction, so that a crash at any instant
 * leaves the old or the new state; readers never wait for a writer (WAL). Each kind of object has a header and a file
 * of its own beside this one. Text of the database is checked like that of a stranger: a disk may have damaged it.
 *
 * A struct store belongs to one thread; several processes may have the database open. */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"

struct store;

enum store_access {
    STORE_READ,  /* nothing is made: without a database there are the built-in objects only */
    STORE_WRITE, /* directory and database are made where they are missing */
};

/* Open the state database of this user (sys/dirs.h) and bring its schema up to date. Errors with text: -EACCES or
 * -EROFS (no right to it), -ENOSPC, -EBUSY (somebody holds it for more than 5 s), -EPROTO (written by a newer
 * program), -EIO (damaged, or the disk failed), -ENOMEM. */
int store_open(enum store_access access, struct store **ret_store, struct err *e) MUST_USE;
/* What is not committed is undone. NULL accepted. */
void store_close(struct store *s);
DEFINE_AUTO(store, struct store, store_close)

/* Several changes and the reads that they rest on as one: between store_begin and store_commit nobody else changes
 * anything. Not nested. The functions that change one thing open a transaction of their own where there is none. Errors
 * as store_open; after a failed store_commit the transaction is undone. */
int store_begin(struct store *s, struct err *e) MUST_USE;
int store_commit(struct store *s, struct err *e) MUST_USE;
/* Undo; without a transaction nothing. */
void store_rollback(struct store *s);

/* Changes from now on may be lost by a failure of the host (power, kernel), as long as no later one that lasts follows;
 * the order stays, and the end of a process still loses nothing. For what such a failure makes untrue anyway, e.g. that
 * something runs. Not within a transaction. false: back to lasting changes. */
void store_relax(struct store *s, bool relaxed);

/* Where the database is, for messages. Valid until store_close. */
const char *store_path(const struct store *s);

#endif
