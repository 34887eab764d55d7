/* A job goes open -> stop -> (quiet) state -> write -> go on -> commit; one of disks only stop -> (quiet) disks -> go
 * on. What blocks is done by worker threads, which have the job for themselves meanwhile; the steps between are the
 * loop's. Every way leads through end. */
#include "vmm/save_job.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/workers.h"
#include "proto/vm_msg.h"
#include "sys/loop.h"
#include "vmm/machine.h"
#include "vmm/machine_priv.h"
#include "vmm/save.h"
#include "vmm/save_disks.h"
#include "vmm/save_file.h"
#include "vmm/save_lazy.h"
#include "vmm/save_machine.h"
#include "vmm/save_ram.h"
#include "vmm/save_target.h"

#define SAVE_STOP_WAIT_NS 10000000000ULL

enum save_job_state { SAVE_NONE, SAVE_RUNNING, SAVE_DONE, SAVE_FAILED, SAVE_CANCELED };
static const char *const save_states[] = {
    [SAVE_NONE] = "none",     [SAVE_RUNNING] = "running",   [SAVE_DONE] = "done",
    [SAVE_FAILED] = "failed", [SAVE_CANCELED] = "canceled",
};

struct save_share {
    struct vmm_save_job *job;
    struct blk_work work;
};

struct vmm_save_job {
    struct machine *m;
    struct blk_workers *workers;
    struct loop_timer *end_timer; /* a VM that was to stop ends, asked or not */
    enum save_job_state state;
    unsigned number;
    bool cancel;  /* asked for */
    bool stopped; /* the VM stands still because of us; was_paused: it did so before */
    bool was_paused, quiesced;
    bool quitting; /* done, and the VM is to end */
    struct vm_msg_save request;
    int given_fd;
    struct save_target target;
    struct save_writer writer;
    struct save_ram ram;
    uint64_t size, paused_ns;
    unsigned n_snapshots; /* of disks, that were made */
    struct err error;

    unsigned n_shares; /* of writing memory that are not done */
    struct save_share shares[BLK_WORKERS_MAX];
    struct blk_work work;
    void (*work_run)(struct vmm_save_job *j);
    void (*work_done)(struct vmm_save_job *j);
};

static const char *save_vm(const struct vmm_save_job *j)
{
    return j->m->spec->name ? j->m->spec->name : "";
}

/* ---- a step on a worker ---- */

static void save_work_run(struct blk_work *w)
{
    struct vmm_save_job *j = CONTAINER_OF(w, struct vmm_save_job, work);

    j->work_run(j);
}

static void save_work_done(struct blk_work *w, int error)
{
    struct vmm_save_job *j = CONTAINER_OF(w, struct vmm_save_job, work);

    if (error < 0 && j->error.code == 0)
        (void)err_set(&j->error, -error, "VM %s: cannot start a thread to save it: %s", save_vm(j), strerror(-error));
    j->work_done(j);
}

static void save_submit(struct vmm_save_job *j, void (*run)(struct vmm_save_job *j),
                        void (*done)(struct vmm_save_job *j))
{
    j->work_run = run;
    j->work_done = done;
    j->work = (struct blk_work){ .run = save_work_run, .done = save_work_done };
    blk_workers_submit(j->workers, &j->work);
}

/* ---- end ---- */

/* The VM goes on as before. */
static void save_go_on(struct vmm_save_job *j)
{
    struct err e = { 0 };

    if (j->quiesced)
        vmm_unquiesce(j->m);
    j->quiesced = false;
    if (j->stopped && !j->was_paused && machine_pause(j->m, false, &e) < 0) {
        log_warn("%s", e.text);
        machine_quit(j->m);
    }
    if (j->stopped)
        j->paused_ns = sys_now_ns() - j->paused_ns;
    j->stopped = false;
}

static void save_ended(struct vmm_save_job *j)
{
    if (j->error.code == 0 && j->request.stop) {
        j->paused_ns = sys_now_ns() - j->paused_ns;
        j->quitting = true;
        loop_timer_set(j->end_timer, sys_now_ns() + SAVE_STOP_WAIT_NS);
    } else {
        save_go_on(j);
    }
    save_target_close(&j->target);
    save_writer_done(&j->writer);
    save_ram_done(&j->ram);
    j->state = j->error.code == 0 ? SAVE_DONE : j->error.code == ECANCELED ? SAVE_CANCELED : SAVE_FAILED;
}

static void save_run_undo(struct vmm_save_job *j)
{
    save_disks_undo(j->m, j->request.snapshot, j->n_snapshots);
    j->n_snapshots = 0;
}

static void save_end(struct vmm_save_job *j)
{
    if (j->error.code != 0 && j->n_snapshots > 0)
        save_submit(j, save_run_undo, save_ended);
    else
        save_ended(j);
}

static void save_set_canceled(struct vmm_save_job *j)
{
    if (j->error.code == 0)
        (void)err_set(&j->error, ECANCELED, "VM %s: saving was canceled; it goes on", save_vm(j));
}

static void save_end_now(void *opaque)
{
    struct vmm_save_job *j = opaque;

    machine_quit(j->m);
}

/* ---- commit ---- */

static void save_run_commit(struct vmm_save_job *j)
{
    (void)!save_target_commit(&j->target, &j->error);
}

/* Sections, index and trailer are there. */
static void save_finished(struct vmm_save_job *j)
{
    if (j->cancel)
        save_set_canceled(j);
    if (j->error.code != 0) {
        save_end(j);
        return;
    }
    if (!j->request.stop)
        save_go_on(j);
    save_submit(j, save_run_commit, save_end);
}

static void save_run_finish(struct vmm_save_job *j)
{
    int r = save_writer_finish(&j->writer, j->ram.chunks, j->ram.n_chunks, &j->size);

    if (r < 0)
        (void)save_target_error(&j->target, r, &j->error);
}

/* ---- write ---- */

static void save_share_run(struct blk_work *w)
{
    save_ram_work(&CONTAINER_OF(w, struct save_share, work)->job->ram);
}

static void save_share_done(struct blk_work *w, int error)
{
    struct vmm_save_job *j = CONTAINER_OF(w, struct save_share, work)->job;
    int r = error;

    if (--j->n_shares > 0)
        return;
    /* A share whose thread could not be had is done by the others, unless there is none. */
    if (atomic_load(&j->ram.error) < 0)
        r = atomic_load(&j->ram.error);
    else if (atomic_load(&j->ram.next) >= j->ram.n_chunks)
        r = 0;
    if (j->cancel)
        save_set_canceled(j);
    else if (r < 0)
        (void)save_target_error(&j->target, r, &j->error);
    if (j->error.code != 0)
        save_end(j);
    else
        save_submit(j, save_run_finish, save_finished);
}

static void save_write(struct vmm_save_job *j)
{
    unsigned n = save_ram_threads();

    j->n_shares = n;
    for (unsigned i = 0; i < n; i++) {
        j->shares[i] = (struct save_share){ .job = j, .work = { .run = save_share_run, .done = save_share_done } };
        blk_workers_submit(j->workers, &j->shares[i].work);
    }
}

/* ---- disks: nothing is in flight, what was written is to be on stable storage ---- */

static void save_run_disks(struct vmm_save_job *j)
{
    save_lazy_wait(j->m->lazy); /* memory is read from its file, in which what is not loaded yet looks like zeroes */
    (void)!save_disks(j->m, j->request.snapshot, &j->n_snapshots, &j->error);
}

static void save_disks_done(struct vmm_save_job *j)
{
    if (j->cancel)
        save_set_canceled(j);
    if (j->error.code != 0 || j->request.disks_only)
        save_end(j);
    else
        save_write(j);
}

/* ---- stop ---- */

/* vCPUs and devices stand still. */
static void save_quiet(void *opaque)
{
    struct vmm_save_job *j = opaque;
    int r;

    if (j->cancel)
        save_set_canceled(j);
    r = -j->error.code;
    if (r == 0 && !j->request.disks_only)
        r = save_machine_save(j->m, &j->writer, j->request.snapshot, &j->error);
    if (r == 0 && !j->request.disks_only &&
        (r = save_ram_init(&j->ram, j->m->mem, &j->writer, j->request.compress)) < 0)
        (void)err_set(&j->error, -r, "VM %s: out of memory; it was not saved", save_vm(j));
    if (r < 0)
        save_end(j);
    else
        save_submit(j, save_run_disks, save_disks_done);
}

static void save_stop(struct vmm_save_job *j)
{
    int r;

    j->was_paused = j->m->paused;
    j->paused_ns = sys_now_ns();
    j->stopped = true;
    r = machine_pause(j->m, true, &j->error);
    if (r == 0) {
        j->quiesced = true;
        r = vmm_quiesce(j->m, save_quiet, j);
        j->quiesced = r == 0;
        if (r < 0)
            (void)err_set(&j->error, -r, "VM %s: cannot stop its devices: %s", save_vm(j),
                          r == -EBUSY ? "a backup is just beginning; try again" : strerror(-r));
    }
    if (r < 0)
        save_end(j);
}

/* ---- open ---- */

static void save_run_open(struct vmm_save_job *j)
{
    int r;

    if (j->request.disks_only)
        return;
    r = j->given_fd >= 0 ? save_target_take(&j->target, STEAL_FD(j->given_fd), &j->error)
                         : save_target_open(&j->target, j->request.path, j->request.replace, &j->error);
    if (r == 0 && (r = save_writer_init(&j->writer, j->target.fd)) < 0)
        (void)save_target_error(&j->target, r, &j->error);
}

static void save_opened(struct vmm_save_job *j)
{
    if (j->cancel)
        save_set_canceled(j);
    if (j->error.code != 0)
        save_end(j);
    else
        save_stop(j);
}

int vmm_save_job_start(struct vmm_save_job *j, const struct vm_msg_save *request, int fd, unsigned *ret_number,
                       struct err *e)
{
    AUTO_FD int given = fd;

    if (j->state == SAVE_RUNNING || j->quitting)
        return err_set(e, EBUSY, "VM %s: it is being saved already; wait for that, or cancel it", save_vm(j));
    if (request->disks_only ? given >= 0 : (given >= 0) == (request->path[0] != '\0'))
        return err_set(e, EINVAL, "VM request: save needs a path or a descriptor");
    j->request = *request;
    j->given_fd = STEAL_FD(given);
    j->target = (struct save_target){ .fd = -1, .dir_fd = -1 };
    j->writer = (struct save_writer){ .fd = -1 };
    j->ram = (struct save_ram){ 0 };
    j->error = (struct err){ 0 };
    j->cancel = j->stopped = j->was_paused = j->quiesced = false;
    j->size = j->paused_ns = j->n_snapshots = 0;
    j->state = SAVE_RUNNING;
    *ret_number = ++j->number;
    save_submit(j, save_run_open, save_opened);
    return 0;
}

void vmm_save_job_cancel(struct vmm_save_job *j)
{
    int none = 0;

    if (j->state != SAVE_RUNNING)
        return;
    j->cancel = true;
    atomic_compare_exchange_strong(&j->ram.error, &none, -ECANCELED);
}

bool vmm_save_job_busy(const struct vmm_save_job *j)
{
    return j->state == SAVE_RUNNING || j->quitting;
}

struct json_object *vmm_save_job_status(struct vmm_save_job *j)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "state", json_object_new_string(save_states[j->state]));
    json_object_object_add(o, "job", json_object_new_int64(j->number));
    json_object_object_add(o, "done", json_object_new_uint64(atomic_load(&j->ram.done)));
    json_object_object_add(o, "total", json_object_new_uint64(j->ram.total));
    if (j->state == SAVE_DONE) {
        json_object_object_add(o, "size", json_object_new_uint64(j->size));
        json_object_object_add(o, "paused_us", json_object_new_uint64(j->paused_ns / 1000));
    }
    if (j->state == SAVE_FAILED || j->state == SAVE_CANCELED) {
        json_object_object_add(o, "code", json_object_new_int(j->error.code));
        json_object_object_add(o, "error", json_object_new_string(j->error.text));
    }
    /* After the reply has gone out: the loop ends when the present callback has returned. */
    if (j->quitting)
        machine_quit(j->m);
    return o;
}

/* ---- life ---- */

int vmm_save_job_new(struct machine *m, struct vmm_save_job **ret_job, struct err *e)
{
    struct vmm_save_job *j = calloc(1, sizeof(*j));
    int r = j ? loop_timer_new(m->loop, save_end_now, j, &j->end_timer) : -ENOMEM;

    if (r >= 0)
        r = blk_workers_new(m->loop, BLK_WORKERS_MAX, 10000, NULL, NULL, &j->workers);
    if (r < 0) {
        if (j)
            loop_timer_free(j->end_timer);
        free(j);
        return err_set(e, -r, "cannot prepare for saving the VM: %s", strerror(-r));
    }
    j->m = m;
    j->given_fd = j->target.fd = -1;
    *ret_job = j;
    return 0;
}

void vmm_save_job_free(struct vmm_save_job *j)
{
    if (!j)
        return;
    vmm_save_job_cancel(j);
    j->was_paused = true; /* nothing is to run any more */
    while (j->state == SAVE_RUNNING && blk_workers_count(j->workers) > 0)
        blk_workers_wait(j->workers);
    if (j->state == SAVE_RUNNING) { /* the devices were about to become quiet */
        save_set_canceled(j);
        save_end(j);
    }
    base_closep(&j->given_fd);
    loop_timer_free(j->end_timer);
    blk_workers_free(j->workers);
    free(j);
}
