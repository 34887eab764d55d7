/* The VM generation ID (Microsoft, "Virtual Machine Generation ID"): 16 random bytes in guest memory that change when a
 * guest goes on as somebody else, a copy of a saved VM for example, and an ACPI event that says so. Linux seeds its
 * random numbers anew then. */
#ifndef VMM_GENID_H
#define VMM_GENID_H

#include "base/attr.h"
#include "base/err.h"

struct machine;

/* A VM that starts. -errno with text. */
int vmm_genid_init(struct machine *m, struct err *e) MUST_USE;
/* A VM that becomes another one. Its devices and interrupt controllers are there; vCPUs do not run. */
int vmm_genid_renew(struct machine *m, struct err *e) MUST_USE;

#endif
