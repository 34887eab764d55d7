/* Ports of the host that lead to a VM on a network: its switch forwards them as long as the VM runs. (Those of a
 * user-mode network are the VM's own.) */
#ifndef INSTANCE_VM_PORTS_H
#define INSTANCE_VM_PORTS_H

#include "base/attr.h"
#include "base/err.h"
#include "store/instance.h"

/* After the VM's cards joined their networks. All or, after an error, some. -EADDRINUSE and others with text. */
int inst_vm_ports_add(const struct store_instance *i, struct err *e) MUST_USE;
/* Any number of times; a switch that is gone has taken them along. */
void inst_vm_ports_remove(const struct store_instance *i);

#endif
