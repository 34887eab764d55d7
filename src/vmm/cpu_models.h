/* The list of CPU models, and which of them an engine can run on this machine. */
#ifndef VMM_CPU_MODELS_H
#define VMM_CPU_MODELS_H

#include "base/attr.h"
#include "base/err.h"

/* Print the models on stdout as a JSON array of {name, summary, default, runs, lacks, features}, for the engine of that
 * name ("auto": the one that a VM would get). 0 or -errno with text. */
int vmm_cpu_models(const char *engine, struct err *e) MUST_USE;

#endif
