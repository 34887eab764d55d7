/* Work in several steps (a pull, a build, the making of an instance's files): noted before its first step and struck
 * out after the last, so that the next command can undo what a killed process left. A job is alive while the process
 * that began it holds its lock (RUNTIME/job/N.lock). */
#ifndef STORE_JOB_H
#define STORE_JOB_H

#include <stdint.h>

#include "store/store.h"

struct store_job {
    int64_t serial;
    const char *verb;   /* "image pull", "rm", ...: which undo function it is for */
    const char *object; /* id or name */
    const char *plan;   /* JSON: what undoing needs (paths) */
    int64_t started_ns;
};

struct store_job_lock; /* held by this process */

/* Commits at once (not inside a transaction). */
int store_job_begin(struct store *s, const char *verb, const char *object, const char *plan,
                    struct store_job_lock **ret_lock, struct err *e) MUST_USE;
/* All is done or undone. Inside a transaction the row goes with it. Frees lock; NULL accepted. */
int store_job_end(struct store *s, struct store_job_lock *lock, struct err *e) MUST_USE;
/* Let go of a job that is neither done nor undone: store_job_repair goes on with it. NULL accepted. */
void store_job_leave(struct store_job_lock *lock);
/* Strike out the jobs of verb and object that began before lock's: what it does makes them moot. The caller knows that
 * nobody works on them any more. */
int store_job_supersede(struct store *s, const struct store_job_lock *lock, const char *verb, const char *object,
                        struct err *e) MUST_USE;
/* Call undo for each job whose process is gone, holding its lock, and strike it out where undo returns 0. undo may use
 * s. Called by every command that writes, before its work. */
int store_job_repair(struct store *s,
                     int (*undo)(void *opaque, struct store *s, const struct store_job *job, struct err *e),
                     void *opaque, struct err *e) MUST_USE;
int store_job_each(struct store *s, int (*fn)(void *opaque, const struct store_job *job), void *opaque,
                   struct err *e) MUST_USE;

#endif
