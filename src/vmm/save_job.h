/* Saving a running VM to a file: one job at a time, from the request to the complete file. The VM stands still while
 * its memory is written, by a few threads; the loop goes on meanwhile. All functions belong to the loop thread. */
#ifndef VMM_SAVE_JOB_H
#define VMM_SAVE_JOB_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;
struct machine;
struct vm_msg_save;
struct vmm_save_job;

/* m: borrowed until free, complete. -errno with text. */
int vmm_save_job_new(struct machine *m, struct vmm_save_job **ret_job, struct err *e) MUST_USE;
/* Cancel what is running and wait until it is undone. Before devices and vCPUs are freed. NULL accepted. */
void vmm_save_job_free(struct vmm_save_job *j);

/* fd: where the request has no path, the descriptor to write to; taken over in any case, -1: none. -EBUSY: one is
 * running. What goes wrong later is told by the status. *ret_number: of the job. */
int vmm_save_job_start(struct vmm_save_job *j, const struct vm_msg_save *request, int fd, unsigned *ret_number,
                       struct err *e) MUST_USE;
/* No effect where none is running, or where it is complete but for its name. */
void vmm_save_job_cancel(struct vmm_save_job *j);
/* The VM stands still because of a job. */
bool vmm_save_job_busy(const struct vmm_save_job *j);
/* As in proto/vm_msg.h; a VM that was to stop ends after this has told that it is done. NULL: no memory. */
struct json_object *vmm_save_job_status(struct vmm_save_job *j);

#endif
