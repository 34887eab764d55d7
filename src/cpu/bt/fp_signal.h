/* Stub memories and translated code that the process's handler of traps knows. */
#ifndef CPU_BT_FP_SIGNAL_H
#define CPU_BT_FP_SIGNAL_H

#include <stdint.h>

#include "base/attr.h"

/* Register or forget the executable view of a stub memory of size bytes (all have the same). -ENOSPC: table full. Any
 * thread; no stub of base may be running when it is forgotten. */
int bt_fp_signal_add(uintptr_t base, uintptr_t size) MUST_USE;
void bt_fp_signal_del(uintptr_t base);

/* The same for code memory of the translator, whose list of traps says where execution goes on. -ENOSPC. */
struct bt_t1;
int bt_fp_signal_add_code(struct bt_t1 *t) MUST_USE;
void bt_fp_signal_del_code(struct bt_t1 *t);

#endif
