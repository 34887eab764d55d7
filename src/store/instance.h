/* Instances (VMs and containers) in the state database: what they are (the specification), what the user wants of them,
 * and how their last run ended. Whether one runs now is not here: that is the lock of its supervisor
 * (instance/client.h), because a process can die and a row cannot. */
#ifndef STORE_INSTANCE_H
#define STORE_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/inst_spec.h"
#include "proto/name.h"
#include "store/store.h"

/* As the database knows it. "running" in a row whose supervisor has no lock any more is one that crashed, and is to be
 * cleaned up (inst_repair). */
enum store_inst_status {
    STORE_INST_CREATING, /* its files are being made; without a living maker it is to be removed */
    STORE_INST_CREATED,  /* never started */
    STORE_INST_STARTING, /* a supervisor prepares it */
    STORE_INST_RUNNING,
    STORE_INST_EXITED,
    STORE_INST_SAVED,    /* a VM whose memory is in a snapshot file; start goes on with it */
    STORE_INST_REMOVING, /* rm was begun */
};

struct store_instance {
    char id[INST_ID_LEN + 1];
    char name[PROTO_NAME_MAX + 1];
    struct inst_spec spec;
    enum store_inst_status status;
    bool wanted; /* the user started it and did not stop it: start it at boot as its restart policy says */
    int64_t created_ns, started_ns, ended_ns; /* since 1970, UTC; 0: not yet */
    int exit_code;                            /* of the last run; 128 + signal */
    bool oom_killed;
    unsigned restarts;        /* by the policy, since the user's start */
    char error[ERR_TEXT_MAX]; /* why the last start failed; "": it did not */
};

/* The first half of making an instance whose files take time: a row with status creating, without an event. The maker
 * holds the lock of the instance (instance/place.h) until store_instance_finish, which writes the specification and the
 * status of i, with the event "create". Errors as store_instance_add. */
int store_instance_begin(struct store *s, const char *name, const struct inst_spec *spec,
                         struct store_instance *ret_instance, struct err *e) MUST_USE;
int store_instance_finish(struct store *s, const struct store_instance *i, struct err *e) MUST_USE;
/* New random id; name "": one is generated ("brave-otter"). -EEXIST: the name is taken, with a remedy. ret_instance
 * (may be NULL) is the caller's. The row and an event "create" are one transaction. */
int store_instance_add(struct store *s, const char *name, const struct inst_spec *spec,
                       struct store_instance *ret_instance, struct err *e) MUST_USE;
void store_instance_done(struct store_instance *i);

/* By name, id or unambiguous prefix of an id (>= 2 digits). -ENOENT with the nearest name; -ENOTUNIQ: the prefix fits
 * several. */
int store_instance_get(struct store *s, const char *name_or_id, struct store_instance *ret_instance,
                       struct err *e) MUST_USE;
/* In the order of creation. fn borrows the instance and must not use s. */
int store_instance_each(struct store *s, int (*fn)(void *opaque, const struct store_instance *i), void *opaque,
                        struct err *e) MUST_USE;
/* Write status, wanted, times, exit code, restarts and error of i (by id). action: the event that goes with it
 * ("start", "die", "stop", ...); NULL: none. -ENOENT: it is gone. */
int store_instance_set(struct store *s, const struct store_instance *i, const char *action, struct err *e) MUST_USE;
int store_instance_rename(struct store *s, const char *id, const char *name, struct err *e) MUST_USE;
/* Replace the specification (update). */
int store_instance_update(struct store *s, const char *id, const struct inst_spec *spec, struct err *e) MUST_USE;
/* With the event "remove", unless it was never finished. */
int store_instance_remove(struct store *s, const struct store_instance *i, struct err *e) MUST_USE;

const char *store_inst_status_name(enum store_inst_status status);

#endif
