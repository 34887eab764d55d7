/* The translation engine's face: an engine contract and nothing else. */
#ifndef CPU_BT_BT_H
#define CPU_BT_BT_H

#include "cpu/cpu.h"

/* Tier T0, the interpreter. */
extern const struct cpu_ops cpu_interp_ops;

#endif
