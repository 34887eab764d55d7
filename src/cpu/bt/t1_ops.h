/* The emitters of t1_move.c, t1_branch.c, t1_bits.c, t1_sys.c and t1_fp.c, for the table in t1_ops.c. Each has the
 * contract of bt_t1_op. */
#ifndef CPU_BT_T1_OPS_H
#define CPU_BT_T1_OPS_H

#include "cpu/bt/t1_priv.h"

#define T1_OP(name) bool name(struct t1 *s, const struct t1_desc *d)
T1_OP(t1_op_nop);
T1_OP(t1_op_mov);
T1_OP(t1_op_movx);
T1_OP(t1_op_lea);
T1_OP(t1_op_cmov);
T1_OP(t1_op_setcc);
T1_OP(t1_op_cbw);
T1_OP(t1_op_bswap);
T1_OP(t1_op_xchg);
T1_OP(t1_op_xchg_m);
T1_OP(t1_op_xadd);
T1_OP(t1_op_cmpxchg);
T1_OP(t1_op_jcc);
T1_OP(t1_op_jmp);
T1_OP(t1_op_call);
T1_OP(t1_op_ret);
T1_OP(t1_op_push);
T1_OP(t1_op_pop);
T1_OP(t1_op_leave);
T1_OP(t1_op_cmpxchg16b);
T1_OP(t1_op_movbe);
T1_OP(t1_op_bmi);
T1_OP(t1_op_crc32);
T1_OP(t1_op_fence);
T1_OP(t1_op_pushf);
T1_OP(t1_op_cli);
T1_OP(t1_op_sti);
T1_OP(t1_op_ac);
T1_OP(t1_op_fp);

#endif
