/* The memory of a VM as a file: saving a running one, through its supervisor, and what a saved VM is. The file
 * STATE/instances/ID/memory.vm is there whole or not at all (caisson-vmm renames it into place); a VM that has it and
 * does not run is saved, and its next start goes on with it. What has begun to run again must never be run from the
 * same file once more, because its disks go on: the file is called memory.run from just before that until the VM
 * answers, and whoever finds it under that name after a crash throws it away. */
#ifndef INSTANCE_VM_SAVE_H
#define INSTANCE_VM_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "store/disk.h"
#include "store/instance.h"

#define INST_VM_MEMORY "memory.vm"
#define INST_VM_MEMORY_RUN "memory.run"

struct inst_vm_save {
    const char *path;     /* absolute; appears when it is complete. One that is there is replaced. NULL: disks only */
    const char *snapshot; /* its qcow2 disks get internal snapshots of this name at that moment; NULL: none */
    bool stop;            /* the VM ends when the file is complete */
    const struct disk_progress *progress;
    bool *ret_undone; /* of a failure: the VM said itself that it failed, so that it has taken back what it had begun.
                         NULL accepted */
};

/* Save a running VM, and wait for it. *ret_size: bytes of the file. -ENOTCONN: it does not run; -ECANCELED: progress
 * said so, and the VM goes on; others are the VM's own. */
int inst_vm_save_to(const struct store_instance *i, const struct inst_vm_save *how, uint64_t *ret_size,
                    struct err *e) MUST_USE;

/* Save a running VM and end it: it is in status saved then. */
int inst_vm_save(const struct store_instance *i, const struct disk_progress *progress, uint64_t *ret_size,
                 struct err *e) MUST_USE;
/* Forget the memory of a saved VM, as if its power had failed: its next start boots. -EINVAL: it is not saved. */
int inst_vm_discard(struct store *s, const struct store_instance *i, struct err *e) MUST_USE;

/* For the supervisor. dir: STATE/instances/ID. */
bool inst_vm_is_saved(const char *dir);
/* The memory for a start: *ret_fd is the open file, -1 where there is none and the VM is to boot. */
int inst_vm_open_memory(const char *dir, const char *name, int *ret_fd, struct err *e) MUST_USE;
/* The VM is about to run from it. */
int inst_vm_take_memory(const char *dir, const char *name, struct err *e) MUST_USE;
/* It runs (or may have run: of a dead supervisor): the file is no longer of use. */
void inst_vm_drop_memory(const char *dir);
/* It never ran: it is saved as before. */
void inst_vm_keep_memory(const char *dir);

#endif
