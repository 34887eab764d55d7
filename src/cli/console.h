/* The user's terminal as a VM's serial console. */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include "base/attr.h"
#include "base/err.h"
#include "instance/spawn.h"

/* Relay between stdin/stdout and the VM until its process ends; the terminal is in raw mode meanwhile and restored on
 * every way out. Ctrl-] x asks the VM to stop at once; Ctrl-] Ctrl-] sends one Ctrl-]. SIGINT, SIGTERM and SIGHUP stop
 * the VM too. Reaps the process. Returns the exit code of the program. */
int cli_console_run(struct inst_vmm *vmm, struct err *e);

#endif
