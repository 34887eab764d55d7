/* A VM: from a specification to a running machine and back to nothing. One machine per process; all functions belong to
 * the main thread, which becomes the loop thread in machine_run. */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/vm_spec.h"

struct machine;
struct save_restore;

/* How a run ended. */
enum machine_end {
    MACHINE_OFF,     /* the guest powered off */
    MACHINE_RESET,   /* the guest asked for a reset */
    MACHINE_STOPPED, /* SIGTERM */
    MACHINE_EXIT,    /* the guest wrote to the debug exit port */
    MACHINE_CRASHED, /* a vCPU shut down, or its engine gave up; err tells */
};

/* Build everything, and load the kernel, or the saved state that restore names (vmm/save_machine.h; NULL: the kernel).
 * spec is borrowed until machine_free. console_fd: the serial console's descriptor with VM_CONSOLE_STDIO (duplicated),
 * else -1. The text of an error names object, cause and remedy. */
int machine_new(const struct vm_spec *spec, int console_fd, const struct save_restore *restore,
                struct machine **ret_machine, struct err *e) MUST_USE;
/* Run until the end. *ret_code: what the guest wrote (MACHINE_EXIT). Returns enum machine_end or -errno with text. */
int machine_run(struct machine *m, unsigned *ret_code, struct err *e) MUST_USE;
/* Stop the vCPUs (devices go on), or let them run again. Loop thread. -errno with text. */
int machine_pause(struct machine *m, bool pause, struct err *e) MUST_USE;
/* End the run with MACHINE_STOPPED. */
void machine_quit(struct machine *m);
/* Stop vCPUs, finish disk requests, release everything. NULL accepted. */
void machine_free(struct machine *m);
DEFINE_AUTO(machine, struct machine, machine_free)

#endif
