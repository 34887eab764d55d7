/* What the supervisor (shim/) needs to run an instance of one kind: a const table for VMs (vm.c) and one for containers
 * (container.c). All functions are called on the supervisor's loop thread; those that may take long say so and run
 * before the loop does. `cleanup` is the other half of every `prepare`, also of one that was interrupted by kill -9: it
 * works from the instance's record and what it finds on the machine, and may be called any number of times. */
#ifndef INSTANCE_KIND_H
#define INSTANCE_KIND_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/err.h"
#include "store/instance.h"

struct json_object;

/* Where the payload's console goes. With a terminal: one descriptor, the pseudo-terminal's master or the VM's serial
 * line, both directions. Without: three pipes' ends. -1: none. The supervisor owns and closes them. */
struct inst_stdio {
    int console;
    int in, out, err;
};

/* One run of an instance. Owned by the supervisor, filled by prepare and start. */
struct inst_run {
    const struct store_instance *instance; /* borrowed */
    char dir[1024];                        /* STATE/instances/ID: what outlives a run (disks, upper layer, logs) */
    char rundir[1024];                     /* RUNTIME/instances/ID: what does not */
    pid_t pid;              /* the process whose end is the end of the run: VMM, or the container's init */
    int pidfd;              /* the run's; -1 before start */
    unsigned columns, rows; /* of the terminal, when it starts; 0: not known */
    void *kind;             /* the kind's own; freed by its release */
};

struct inst_kind_ops {
    /* Make all that a start needs (network, mounts, documents). May take seconds. */
    int (*prepare)(struct inst_run *run, struct err *e);
    /* Start it; *ret_stdio is filled. After an error cleanup follows. */
    int (*start)(struct inst_run *run, struct inst_stdio *ret_stdio, struct err *e);
    /* Ask it to end: power button, or the stop signal. */
    int (*stop)(struct inst_run *run, struct err *e);
    /* signal: of kill(2). VMs: SIGKILL and SIGTERM end it at once, SIGPWR presses the power button, others are refused.
     */
    int (*kill)(struct inst_run *run, int signal, struct err *e);
    int (*pause)(struct inst_run *run, bool pause, struct err *e);
    /* Run a command inside and tell its exit status (health checks). Starts it: *ret_pid is a child of the supervisor
     * whose exit code is the command's. -EOPNOTSUPP with text where there is nobody to run it. */
    int (*exec)(struct inst_run *run, const struct inst_strings *command, pid_t *ret_pid, struct err *e);
    /* A child that exec started was killed and reaped: end the command that it left inside. NULL: it leaves none. */
    void (*exec_killed)(const struct inst_run *run);
    /* Size of the terminal. */
    int (*resize)(struct inst_run *run, unsigned columns, unsigned rows);
    /* Figures of now: {"cpu_ns", "memory", "memory_limit", "pids", "net": {...}, "block": {...}}. */
    int (*stats)(struct inst_run *run, struct json_object **ret_stats, struct err *e);
    /* Change the limits of what runs to those of spec, which is stored afterwards; run->instance has the old ones.
     * NULL: what runs keeps its own, a next start has the new ones. */
    int (*update)(struct inst_run *run, const struct inst_spec *spec, struct err *e);
    /* The pid has ended: status of waitpid to an exit code. */
    int (*ended)(struct inst_run *run, int wait_status, bool *ret_oom);
    /* Undo prepare and start; idempotent, also after another process was killed. Errors are told, and all that can be
     * undone is undone. */
    int (*cleanup)(struct inst_run *run, struct err *e);
    /* Whether it ended as one that was saved, and a start goes on from there. After cleanup. NULL: never. */
    bool (*saved)(const struct inst_run *run);
    void (*release)(struct inst_run *run); /* memory only */
    /* rm: delete what is in run->dir that only the kind knows (volumes made for it, subordinate ids). Idempotent. */
    int (*destroy)(struct inst_run *run, struct err *e);
};

extern const struct inst_kind_ops inst_vm_ops, inst_container_ops;

/* The table of a kind. NULL: this program was built without it. */
const struct inst_kind_ops *inst_kind_ops(enum inst_kind kind);

/* Fill a run of an instance that has not begun: its directories, no process. Borrows i. -ENAMETOOLONG with text. */
int inst_run_init(struct inst_run *run, const struct store_instance *i, struct err *e) MUST_USE;

#endif
