/* Messages between a running VM (caisson-vmm) and who manages it, as in proto/msg.h. The socket of VM NAME is
 * RUNTIME/vm/NAME.sock. Unknown fields are refused.
 *
 *   {"op": "info"}            -> {"ok": true, "info": {"name", "pid", "engine", "cpus", "memory", "paused",
 *                                 "disks": [...], "nics": [...]}}
 *   {"op": "backup-start", "dir": "/abs", "chain": "default", "disks": ["SERIAL"|"INDEX", ...] ([]: all),
 *    "mode": "auto"|"full"|"incremental", "compress": false, "bandwidth": bytes/s (0: no limit)}
 *                             -> {"ok": true, "job": 1}
 *   {"op": "backup-status"}   -> {"ok": true, "backup": {"state": "none"|"running"|"done"|"failed"|"canceled", "job",
 *                                 "done", "total", "note", "point": {...}, "frozen_us" (done), "code", "error" (failed,
 *                                 canceled)}}
 *   {"op": "backup-cancel"}   -> {"ok": true}; the state tells when it is over
 *   {"op": "save", "path": "/abs" (or without, and one descriptor of an empty regular file with it), "replace": false,
 *    "compress": true, "stop": false, "snapshot": "NAME" ("": none), "disks_only": false}
 *                             -> {"ok": true, "job": 1}. The VM stands still until its memory is in the file; then it
 *                                goes on, or (stop) ends once the state "done" was told, at the latest after ten
 *                                seconds. snapshot: its qcow2 disks get internal snapshots of that name and moment;
 *                                disks_only: nothing but that, without a file
 *   {"op": "save-status"}     -> {"ok": true, "save": {"state": "none"|"running"|"done"|"failed"|"canceled", "job",
 *                                 "done", "total", "size", "paused_us" (done), "code", "error" (failed, canceled)}}
 *   {"op": "save-cancel"}     -> {"ok": true}; the state tells when it is over; nothing was changed then
 *   {"op": "pause"|"resume"}  -> {"ok": true}: vCPUs stand still, or run
 *   {"op": "quit"}            -> {"ok": true}, and the VM ends at once
 *
 * Any thread. It must not know what a VMM does with all this. */
#ifndef PROTO_VM_MSG_H
#define PROTO_VM_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/backup.h"
#include "proto/vm_disk.h"

#define VM_MSG_DIR_MAX 3072
#define VM_MSG_BANDWIDTH_MAX ((uint64_t)1 << 50)
#define VM_BACKUP_CHAIN_DEFAULT "default"

enum vm_msg_op {
    VM_MSG_INFO,
    VM_MSG_BACKUP_START,
    VM_MSG_BACKUP_STATUS,
    VM_MSG_BACKUP_CANCEL,
    VM_MSG_SAVE,
    VM_MSG_SAVE_STATUS,
    VM_MSG_SAVE_CANCEL,
    VM_MSG_PAUSE,
    VM_MSG_RESUME,
    VM_MSG_QUIT,
};

enum vm_backup_mode { VM_BACKUP_AUTO, VM_BACKUP_FULL, VM_BACKUP_INCREMENTAL };

struct vm_msg_backup {
    char dir[VM_MSG_DIR_MAX];       /* absolute */
    char chain[PROTO_NAME_MAX + 1]; /* a name */
    char disks[BACKUP_DISKS_MAX][VM_SERIAL_MAX + 1];
    unsigned n_disks; /* 0: all */
    enum vm_backup_mode mode;
    bool compress;
    uint64_t bandwidth;
};

struct vm_msg_save {
    char path[VM_MSG_DIR_MAX];         /* absolute; "": a descriptor comes with it */
    char snapshot[PROTO_NAME_MAX + 1]; /* a name; "": none */
    bool replace, compress, stop;
    bool disks_only; /* the snapshot of the disks; no path, no stop */
};

struct vm_msg_request {
    enum vm_msg_op op;
    struct vm_msg_backup backup; /* BACKUP_START */
    struct vm_msg_save save;     /* SAVE */
};

/* *ret_text: malloc'd, one line. -ENOMEM. */
int vm_msg_request_to_json(const struct vm_msg_request *r, char **ret_text) MUST_USE;
/* -EINVAL with text. *r is undefined on failure. */
int vm_msg_request_from_json(const char *text, struct vm_msg_request *r, struct err *e) MUST_USE;

/* "RUNTIME/vm". -ENAMETOOLONG. */
int vm_msg_socket_dir(const char *runtime, char *ret_path, size_t size) MUST_USE;

#endif
