/* Where an instance has its files, its supervisor's lock and its socket. In the runtime directory it is known by the
 * first INST_ID_SHORT digits of its id (unique, store/instance.h), because paths of sockets are short. Any thread. */
#ifndef INSTANCE_PLACE_H
#define INSTANCE_PLACE_H

#include <stddef.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/inst_spec.h"
#include "sys/place.h"

#define INST_PATH_MAX 1024

/* STATE/instances/ID: what outlives a run. Nothing is made. -errno with text. */
int inst_dir(const char *id, char ret_path[INST_PATH_MAX], struct err *e) MUST_USE;
/* RUNTIME/instances: locks and sockets, and a directory for each run. */
int inst_run_root(char ret_path[INST_PATH_MAX], struct err *e) MUST_USE;
/* RUNTIME/instances/SHORT: what does not. */
int inst_run_dir(const char *id, char ret_path[INST_PATH_MAX], struct err *e) MUST_USE;
void inst_short_id(const char *id, char ret_id[INST_ID_SHORT + 1]);

/* Take the lock of an instance for work on it while it does not run. Waits for others who do such work, or a supervisor
 * that starts or ends. -EBUSY without text: it runs; other errors with text. Left with sys_place_leave. */
int inst_lock(const char *id, struct sys_place *ret_place, struct err *e) MUST_USE;
/* The same without waiting. -EBUSY without text: it runs, or somebody works on it. */
int inst_try_lock(const char *id, struct sys_place *ret_place, struct err *e) MUST_USE;
/* Be the only one who changes the specification of an instance, whether it runs or not: from reading it to storing it.
 * Waits; comes before inst_lock. Errors with text. */
int inst_lock_spec(const char *id, struct sys_place *ret_place, struct err *e) MUST_USE;
/* Take the place of the supervisor: lock and socket. -EBUSY with text: it runs already. */
int inst_take_place(const char *id, struct sys_place *ret_place, struct err *e) MUST_USE;
/* Connect to the supervisor. -ENOENT without text: none runs. */
int inst_connect(const char *id, int *ret_sock, struct err *e) MUST_USE;

#endif
