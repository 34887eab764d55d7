/* The VM's control socket: its name in the runtime directory, and what can be asked of it there (proto/vm_msg.h). All
 * functions belong to the loop thread, or to the time before it runs. */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include "base/attr.h"
#include "base/err.h"

struct json_object;
struct machine;
struct vmm_control;

/* Take the name spec->name in spec->run_dir; requests are served once the loop runs. -EEXIST: another VM has it. */
int vmm_control_new(struct machine *m, struct vmm_control **ret_control, struct err *e) MUST_USE;
/* Nobody can ask any more. NULL accepted. */
void vmm_control_free(struct vmm_control *c);

/* control_info.c: what "info" tells. */
struct json_object *vmm_control_info(const struct machine *m);

#endif
