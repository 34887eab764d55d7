/* Backups of the disks of a running VM: one job at a time, from the request to the point in the manifest. Copying is
 * block/backup.h's, what has changed since the last point block/record.h's, the directory vmm/backup_files.h's. All
 * functions belong to the loop thread. */
#ifndef VMM_BACKUP_H
#define VMM_BACKUP_H

#include "base/attr.h"
#include "base/err.h"

struct json_object;
struct machine;
struct vm_msg_backup;
struct vmm_backup;

/* m: borrowed until free, with its disks open. -errno with text. */
int vmm_backup_new(struct machine *m, struct vmm_backup **ret_backup, struct err *e) MUST_USE;
/* Cancel what is running and wait until it is undone. Before the disks are closed. NULL accepted. */
void vmm_backup_free(struct vmm_backup *b);

/* -EBUSY: one is running; -ENOENT: no such disk. What goes wrong later is told by the status. *ret_job: its number. */
int vmm_backup_start(struct vmm_backup *b, const struct vm_msg_backup *request, unsigned *ret_job,
                     struct err *e) MUST_USE;
/* No effect where none is running. */
void vmm_backup_cancel(struct vmm_backup *b);
/* As in proto/vm_msg.h. NULL: no memory. */
struct json_object *vmm_backup_status(const struct vmm_backup *b);

#endif
