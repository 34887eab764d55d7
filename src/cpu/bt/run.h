/* The run loop. */
#ifndef CPU_BT_RUN_H
#define CPU_BT_RUN_H

#include "cpu/bt/state.h"

/* Run the vCPU on the calling thread until a kick (CPU_EXIT_KICK) or a triple fault (CPU_EXIT_SHUTDOWN). The guest's FP
 * state is in c->xsave when it returns. */
void bt_vcpu_loop(struct bt_vcpu *c, struct cpu_exit *ret_exit);

#endif
