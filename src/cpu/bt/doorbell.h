/* Doorbells of the translation engine; see struct cpu_doorbell. The table is zeroed memory that the engine provides. */
#ifndef CPU_BT_DOORBELL_H
#define CPU_BT_DOORBELL_H

#include "cpu/bt/state.h"

#define BT_BELLS_MAX 256

struct bt_bell {
    _Atomic uint32_t on; /* 0 free, 1 in use, 2 being filled in */
    struct cpu_doorbell bell;
};

struct bt_bells {
    _Atomic uint32_t n; /* entries in use or once used */
    struct bt_bell bells[BT_BELLS_MAX];
};

/* Any thread. -ENOSPC: table full (the write then reaches the device as a register write). */
int bt_bell_add(struct bt_bells *b, const struct cpu_doorbell *bell);
int bt_bell_del(struct bt_bells *b, const struct cpu_doorbell *bell);

/* Serve a guest write by a doorbell: true where one matched. vCPU threads; safe with live FP state. */
bool bt_bell_ring(struct bt_vm *vm, bool pio, uint64_t addr, const void *data, unsigned len);

#endif
