/* A job goes open -> freeze -> switch -> copy -> finish. open, switch and finish are done by a worker, which has the
 * job for itself meanwhile; the steps between are the loop's. Every way leads through finish. */
#include "vmm/backup.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/num.h"
#include "block/backup.h"
#include "block/dirty.h"
#include "block/image.h"
#include "block/node.h"
#include "block/record.h"
#include "block/workers.h"
#include "sys/loop.h"
#include "vmm/backup_files.h"
#include "vmm/devices_disk.h"
#include "vmm/machine_priv.h"

enum backup_job_state { JOB_NONE, JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELED };
static const char *const backup_states[] = {
    [JOB_NONE] = "none",     [JOB_RUNNING] = "running",   [JOB_DONE] = "done",
    [JOB_FAILED] = "failed", [JOB_CANCELED] = "canceled",
};

struct vmm_backup {
    struct machine *m;
    struct blk_workers *workers; /* one thread */
    enum backup_job_state state;
    unsigned number; /* of the job */
    bool cancel;     /* asked for */
    struct vm_msg_backup request;
    struct backup_files files;
    struct blk_backup *copy;
    unsigned n_switched; /* disks whose records were */
    uint64_t done, total;
    uint64_t frozen_ns; /* when the disks were asked to stand still; then how long they did */
    struct err error;
    char note[sizeof(((struct backup_files *)NULL)->note)];
    struct backup_point point; /* JOB_DONE */

    struct blk_work work;
    void (*work_run)(struct vmm_backup *b);
    void (*work_done)(struct vmm_backup *b);
};

/* ---- a step on the worker ---- */

static void backup_work_run(struct blk_work *w)
{
    struct vmm_backup *b = CONTAINER_OF(w, struct vmm_backup, work);

    b->work_run(b);
}

static void backup_work_done(struct blk_work *w, int error)
{
    struct vmm_backup *b = CONTAINER_OF(w, struct vmm_backup, work);

    if (error < 0 && b->error.code == 0)
        (void)err_set(&b->error, -error, "backup: cannot start a thread: %s", strerror(-error));
    b->work_done(b);
}

static void backup_submit(struct vmm_backup *b, void (*run)(struct vmm_backup *b), void (*done)(struct vmm_backup *b))
{
    b->work_run = run;
    b->work_done = done;
    b->work.run = backup_work_run;
    b->work.done = backup_work_done;
    blk_workers_submit(b->workers, &b->work);
}

/* ---- finish ---- */

static void backup_undo(struct vmm_backup *b)
{
    struct backup_files *f = &b->files;

    for (unsigned i = 0; i < b->n_switched; i++) {
        const char *from = f->disks[i].prev_id[0] ? f->disks[i].prev_id : NULL;

        if (blk_records_undo(blk_watch_records(f->disks[i].watch), b->request.chain, from, f->point.id) < 0)
            log_warn("disk %s: what it has changed since the last backup is not known any more; the next backup has to "
                     "be a full one",
                     f->disks[i].path);
    }
}

static void backup_run_finish(struct vmm_backup *b)
{
    struct backup_files *f = &b->files;
    bool complete = b->error.code == 0 && backup_files_commit(f, &b->error) == 0;

    if (!complete)
        backup_undo(b);
    for (unsigned i = 0; i < b->n_switched && complete; i++) {
        if (blk_records_commit(blk_watch_records(f->disks[i].watch), b->request.chain, f->point.id) < 0)
            log_warn("disk %s: cannot remove the dirty bitmap of an earlier backup", f->disks[i].path);
    }
    b->point = f->point;
    backup_files_close(f, complete);
}

static void backup_finished(struct vmm_backup *b)
{
    blk_backup_free(b->copy);
    b->copy = NULL;
    b->state = b->error.code == 0 ? JOB_DONE : b->error.code == ECANCELED ? JOB_CANCELED : JOB_FAILED;
}

static void backup_finish(struct vmm_backup *b)
{
    backup_submit(b, backup_run_finish, backup_finished);
}

static void backup_set_canceled(struct vmm_backup *b)
{
    if (b->error.code == 0)
        (void)err_set(&b->error, ECANCELED, "backup of VM %s: canceled; nothing was changed", b->m->spec->name);
}

/* ---- copy ---- */

static void backup_copied(void *opaque, int error, unsigned disk, bool target_failed)
{
    struct vmm_backup *b = opaque;
    char path[BLK_PATH_MAX];

    blk_backup_progress(b->copy, &b->done, &b->total);
    if (error == -ECANCELED) {
        backup_set_canceled(b);
    } else if (error < 0 && target_failed) {
        backup_files_path(&b->files, disk, path, sizeof(path));
        (void)err_set(&b->error, -error, "backup file %s: %s; nothing was changed%s", path, strerror(-error),
                      error == -ENOSPC ? ", make room or name another directory" : "");
    } else if (error < 0) {
        (void)err_set(&b->error, -error, "disk %s: cannot be read for the backup: %s", b->files.disks[disk].path,
                      strerror(-error));
    }
    backup_finish(b);
}

/* ---- switch: the disks stand still ---- */

static void backup_run_switch(struct vmm_backup *b)
{
    struct backup_files *f = &b->files;

    backup_files_stamp(f);
    for (unsigned i = 0; i < f->n_disks; i++) {
        struct backup_files_disk *d = &f->disks[i];
        struct blk_dirty *pending = blk_backup_pending(b->copy, i);
        int r = blk_records_switch(blk_watch_records(d->watch), b->request.chain, d->prev_id[0] ? d->prev_id : NULL,
                                   f->point.id, pending);

        if (r < 0) {
            (void)err_set(&b->error, -r, "disk %s: cannot begin to record changes: %s", d->path, strerror(-r));
            return;
        }
        b->n_switched = i + 1;
        if (f->point.disks[i].full)
            blk_dirty_set(pending, 0, UINT64_MAX);
        f->point.disks[i].copied = MIN(blk_dirty_bytes(pending), f->point.disks[i].size);
    }
}

static void backup_switched(struct vmm_backup *b)
{
    if (b->cancel)
        backup_set_canceled(b);
    b->frozen_ns = sys_now_ns() - b->frozen_ns;
    if (b->error.code != 0)
        blk_backup_cancel(b->copy);
    else
        blk_backup_run(b->copy);
}

static void backup_frozen(void *opaque)
{
    backup_submit(opaque, backup_run_switch, backup_switched);
}

/* ---- open ---- */

static void backup_run_open(struct vmm_backup *b)
{
    (void)!backup_files_open(&b->files, &b->error);
}

static int backup_freeze(struct vmm_backup *b)
{
    struct blk_backup_config config = { .n_disks = b->files.n_disks,
                                        .bandwidth = b->request.bandwidth,
                                        .frozen = backup_frozen,
                                        .done = backup_copied,
                                        .opaque = b };
    int r;

    for (unsigned i = 0; i < b->files.n_disks; i++)
        config.disks[i] = (struct blk_backup_disk){ .watch = b->files.disks[i].watch,
                                                    .target = b->files.disks[i].target,
                                                    .zeroed = b->files.point.disks[i].full,
                                                    .compress = b->request.compress };
    r = blk_backup_new(&config, b->m->loop, &b->copy);
    b->frozen_ns = sys_now_ns();
    return r < 0 ? r : blk_backup_begin(b->copy);
}

static void backup_opened(struct vmm_backup *b)
{
    int r;

    memcpy(b->note, b->files.note, sizeof(b->note));
    if (b->cancel)
        backup_set_canceled(b);
    r = b->error.code == 0 ? backup_freeze(b) : 0;
    if (r < 0)
        (void)err_set(&b->error, -r, "backup of VM %s: cannot stop its disks: %s", b->m->spec->name, strerror(-r));
    if (b->error.code != 0)
        backup_finish(b);
}

/* ---- which disks ---- */

/* Its serial, where that is unique and can be part of a file name, else "disk" and its index. */
static void backup_disk_name(const struct vm_spec *s, unsigned index, char ret_name[BACKUP_DISK_MAX])
{
    const char *serial = s->disks[index].serial ? s->disks[index].serial : "";
    bool good = serial[0] && serial[0] != '-' && serial[0] != '.' && strncmp(serial, "disk", 4) != 0 &&
                !serial[strspn(serial, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")];

    for (unsigned i = 0; i < s->n_disks && good; i++)
        good = i == index || !s->disks[i].serial || strcmp(s->disks[i].serial, serial) != 0;
    if (good)
        snprintf(ret_name, BACKUP_DISK_MAX, "%s", serial);
    else
        snprintf(ret_name, BACKUP_DISK_MAX, "disk%u", index);
}

/* By serial, name or index. */
static int backup_find_disk(const struct vm_spec *s, const char *text)
{
    uint64_t n;

    for (unsigned i = 0; i < s->n_disks; i++) {
        char name[BACKUP_DISK_MAX];

        backup_disk_name(s, i, name);
        if (strcmp(name, text) == 0 || (s->disks[i].serial && strcmp(s->disks[i].serial, text) == 0))
            return (int)i;
    }
    return num_parse_u64(text, 0, s->n_disks ? s->n_disks - 1 : 0, &n) == 0 && s->n_disks > 0 ? (int)n : -ENOENT;
}

static int backup_choose(struct vmm_backup *b, struct err *e)
{
    const struct vm_spec *s = b->m->spec;
    bool chosen[VM_DISKS_MAX] = { false };

    for (unsigned i = 0; i < b->request.n_disks; i++) {
        int k = backup_find_disk(s, b->request.disks[i]);

        if (k < 0)
            return err_set(e, ENOENT, "VM %s has no disk '%s'; give the serial or the index, from 0, of one of its %u",
                           s->name, b->request.disks[i], s->n_disks);
        chosen[k] = true;
    }
    for (unsigned i = 0; i < s->n_disks; i++) {
        struct backup_files_disk *d = &b->files.disks[b->files.n_disks];

        /* What cannot change has to be asked for. */
        if (!chosen[i] && (b->request.n_disks > 0 || s->disks[i].read_only || s->disks[i].cdrom))
            continue;
        *d = (struct backup_files_disk){ .watch = b->m->disks[i]->watch, .path = s->disks[i].path, .index = i };
        backup_disk_name(s, i, d->name);
        b->files.n_disks++;
    }
    if (b->files.n_disks == 0)
        return err_set(e, ENOENT, "VM %s has no disk that could change; name one with --disk", s->name);
    return 0;
}
_Static_assert(VM_DISKS_MAX <= BACKUP_DISKS_MAX && VM_DISKS_MAX <= BLK_BACKUP_DISKS_MAX, "all disks of a VM at once");
_Static_assert(PROTO_NAME_MAX < BLK_RECORD_CHAIN_MAX && BACKUP_ID_MAX <= BLK_RECORD_ID_MAX, "names fit the records");

int vmm_backup_start(struct vmm_backup *b, const struct vm_msg_backup *request, unsigned *ret_job, struct err *e)
{
    int r;

    if (b->state == JOB_RUNNING)
        return err_set(e, EBUSY, "VM %s: a backup is running already; wait for it, or cancel it", b->m->spec->name);
    b->request = *request;
    b->files = (struct backup_files){ .request = &b->request, .vm = b->m->spec->name, .dir_fd = -1 };
    r = backup_choose(b, e);
    if (r < 0)
        return r;
    b->error = (struct err){ 0 };
    b->note[0] = '\0';
    b->cancel = false;
    b->n_switched = 0;
    b->done = b->total = 0;
    b->state = JOB_RUNNING;
    *ret_job = ++b->number;
    backup_submit(b, backup_run_open, backup_opened);
    return 0;
}

void vmm_backup_cancel(struct vmm_backup *b)
{
    if (b->state != JOB_RUNNING)
        return;
    b->cancel = true;
    /* While the worker has the job it is looked at afterwards. */
    if (b->copy && blk_workers_count(b->workers) == 0)
        blk_backup_cancel(b->copy);
}

struct json_object *vmm_backup_status(const struct vmm_backup *b)
{
    json_object *o = json_object_new_object();
    uint64_t done = b->done, total = b->total;

    if (b->copy)
        blk_backup_progress(b->copy, &done, &total);
    json_object_object_add(o, "state", json_object_new_string(backup_states[b->state]));
    json_object_object_add(o, "job", json_object_new_int64(b->number));
    json_object_object_add(o, "done", json_object_new_uint64(done));
    json_object_object_add(o, "total", json_object_new_uint64(total));
    if (b->note[0])
        json_object_object_add(o, "note", json_object_new_string(b->note));
    if (b->state == JOB_DONE) {
        json_object_object_add(o, "frozen_us", json_object_new_uint64(b->frozen_ns / 1000));
        json_object_object_add(o, "point", backup_point_to_json(&b->point));
    }
    if (b->state == JOB_FAILED || b->state == JOB_CANCELED) {
        json_object_object_add(o, "code", json_object_new_int(b->error.code));
        json_object_object_add(o, "error", json_object_new_string(b->error.text));
    }
    return o;
}

/* ---- life ---- */

int vmm_backup_new(struct machine *m, struct vmm_backup **ret_backup, struct err *e)
{
    struct vmm_backup *b = calloc(1, sizeof(*b));
    int r = b ? blk_workers_new(m->loop, 1, 10000, NULL, NULL, &b->workers) : -ENOMEM;

    if (r < 0) {
        free(b);
        return err_set(e, -r, "cannot prepare for backups: %s", strerror(-r));
    }
    b->m = m;
    *ret_backup = b;
    return 0;
}

void vmm_backup_free(struct vmm_backup *b)
{
    if (!b)
        return;
    b->cancel = true;
    while (b->state == JOB_RUNNING) {
        if (blk_workers_count(b->workers) > 0) {
            blk_workers_wait(b->workers);
            continue;
        }
        /* The loop does not run any more: what it would do on a cancellation is done here. */
        blk_backup_free(b->copy);
        b->copy = NULL;
        backup_set_canceled(b);
        backup_finish(b);
    }
    blk_workers_free(b->workers);
    free(b);
}
