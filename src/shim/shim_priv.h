/* The supervisor of one instance: what its files share. Everything belongs to the main thread, which is the loop's. */
#ifndef SHIM_SHIM_PRIV_H
#define SHIM_SHIM_PRIV_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "instance/kind.h"
#include "instance/log.h"
#include "proto/shim_msg.h"
#include "store/instance.h"
#include "sys/loop.h"
#include "sys/place.h"

struct json_object;
struct shim_conn;
struct shim_io;
struct shim_health;

enum shim_state {
    SHIM_STARTING,
    SHIM_RUNNING,
    SHIM_WAITING, /* for the time of the next try */
    SHIM_ENDED,   /* all is recorded; output is still on its way to who is attached */
};

struct shim {
    struct loop *loop;
    struct sys_place place;
    struct store_instance instance;
    const struct inst_kind_ops *ops;
    struct inst_run run;
    struct inst_log *log;
    struct shim_io *io;
    struct shim_health *health;
    enum shim_state state;
    enum store_inst_status before; /* of the row, when this supervisor began */
    bool wanted_before;
    unsigned columns, rows; /* of the terminal, as who is attached last said; 0: nobody did */
    bool paused;
    bool stop_asked;                 /* the run is to end, whatever the policy says */
    bool restart_asked;              /* and another one is to begin */
    bool final_kill;                 /* the polite end was asked for and its time is over */
    uint64_t run_began_ns, delay_ns; /* monotonic; of the next try */
    struct loop_timer *stop_timer, *delay_timer, *record_timer;
    unsigned record_tries;
    struct list conns;
    unsigned n_conns;
    struct loop_fd *place_src, *signal_src;
    int signal_fd;
};

/* ---- main.c ---- */

/* Write the row, with an event where action is not NULL. */
int shim_record(struct shim *s, const char *action, struct err *e) MUST_USE;
/* An event without a change of the row. attributes as in store/event.h. */
void shim_tell(struct shim *s, const char *action, const char *attributes);

/* ---- run.c ---- */

/* Prepare and start a run. What is asked by the starter (may be NULL) is served in between. After an error nothing is
 * left of it. */
int shim_run_begin(struct shim *s, struct shim_conn *starter, struct err *e) MUST_USE;
/* SIGCHLD: reap. */
void shim_run_reap(struct shim *s);
/* Ask the run to end within timeout_ns, and then end it. keep_wanted: the machine goes down, the user did not ask. */
int shim_run_stop(struct shim *s, uint64_t timeout_ns, bool keep_wanted, struct err *e) MUST_USE;
int shim_run_restart(struct shim *s, uint64_t timeout_ns, struct err *e) MUST_USE;
int shim_run_kill(struct shim *s, int signal, struct err *e) MUST_USE;
int shim_run_pause(struct shim *s, bool pause, struct err *e) MUST_USE;
void shim_run_stop_due(void *shim); /* timers */
void shim_run_delay_due(void *shim);
void shim_run_record_due(void *shim);
/* SHIM_ENDED: leave the loop once nothing is on its way any more. */
void shim_run_maybe_leave(struct shim *s);

/* ---- conn.c ---- */

void shim_conn_accept(void *shim, uint32_t events);
/* A connection that is there already; takes sock. NULL: out of memory. */
struct shim_conn *shim_conn_new(struct shim *s, int sock);
/* Serve what has been asked so far, without waiting. */
void shim_conn_serve_queued(struct shim_conn *conn);
void shim_conn_close(struct shim_conn *conn);
/* The reply "ok", or the error. */
void shim_conn_tell(struct shim_conn *conn, const struct err *e);
/* Answer those who wait for it: that it is ready; that it runs again (or the error); that it has ended. */
void shim_conn_ready(struct shim *s);
void shim_conn_restarted(struct shim *s, const struct err *e);
void shim_conn_ended(struct shim *s);

/* ---- io.c ---- */

struct shim_attachment;

int shim_io_new(struct shim *s, bool terminal, struct shim_io **ret_io) MUST_USE;
void shim_io_free(struct shim_io *io);
/* A run begins: its descriptors are io's from now on. */
int shim_io_begin(struct shim_io *io, const struct inst_stdio *stdio) MUST_USE;
/* The run has ended: what it wrote is read to the end. */
void shim_io_end(struct shim_io *io);
/* Whether all output has gone to all who are attached. */
bool shim_io_idle(const struct shim_io *io);
bool shim_io_terminal(const struct shim_io *io);
/* ret_fds (at most 3) are the client's ends. -errno. */
int shim_io_attach(struct shim_io *io, bool in, bool replay, struct shim_attachment **ret_attachment, int ret_fds[3],
                   unsigned *ret_n) MUST_USE;
void shim_io_detach(struct shim_attachment *a); /* NULL accepted */
/* What is in its input still counts, then the payload's input ends. */
void shim_io_eof(struct shim_attachment *a);

/* ---- health.c ---- */

int shim_health_new(struct shim *s, struct shim_health **ret_health) MUST_USE;
void shim_health_free(struct shim_health *h);
/* A run begins, ends. */
void shim_health_begin(struct shim_health *h);
void shim_health_end(struct shim_health *h);
/* A child has ended. True: it was a check. */
bool shim_health_reaped(struct shim_health *h, pid_t pid, int status);
const char *shim_health_name(const struct shim_health *h); /* "none", "starting", "healthy", "unhealthy" */
bool shim_health_ready(const struct shim_health *h);

#endif
