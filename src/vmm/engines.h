/* The one table of CPU engines, and the choice between them. */
#ifndef VMM_ENGINES_H
#define VMM_ENGINES_H

#include "base/attr.h"
#include "base/err.h"
#include "cpu/cpu.h"
#include "proto/vm_spec.h"

struct vmm_probe_result;

/* The engine for what the user asked. AUTO probes KVM and falls back to translation; a named engine is taken as it is.
 */
int vmm_engine_choose(enum vm_engine wanted, const struct cpu_ops **ret_ops, struct err *e) MUST_USE;

/* The text for an error of vm_new: what is wrong with the engine and what to do. Returns -code. */
int vmm_engine_error(const struct cpu_ops *ops, int code, struct err *e);

#endif
