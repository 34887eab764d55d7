/* The translation engine's face: an engine contract and nothing else. */
#ifndef CPU_BT_BT_H
#define CPU_BT_BT_H

#include "cpu/cpu.h"

/* Tier T0, the interpreter. */
extern const struct cpu_ops cpu_interp_ops;

/* Tier T1: the translator, with the interpreter behind it for cold code and rare instructions. */
extern const struct cpu_ops cpu_bt_ops;
/* The same, but everything is translated when it first runs. For tests. */
extern const struct cpu_ops cpu_bt_eager_ops;
/* The same as cpu_bt_ops, with a code cache so small that it is evicted all the time, and translating what runs a
 * second time. For tests. */
extern const struct cpu_ops cpu_bt_small_ops;

#endif
