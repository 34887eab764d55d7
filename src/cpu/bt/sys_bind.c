/* The binder of system instructions: asks its parts one after the other. */
#include <errno.h>

#include "cpu/bt/sys_priv.h"

unsigned bt_sys_osize(const struct bt_insn *in)
{
    bool flip = (in->zi.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;

    if (in->mode == BT_MODE_64 && in->zi.raw.rex.W)
        return 8;
    return (in->mode == BT_MODE_16) != flip ? 2 : 4;
}

int bt_bind_sys(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    static int (*const parts[])(struct bt_vcpu *, const struct bt_insn *, struct bt_op *) = {
        bt_bind_sys_misc, bt_bind_sys_io, bt_bind_sys_cr, bt_bind_sys_seg, bt_bind_sys_table, bt_bind_sys_far,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        int r = parts[i](c, in, op);

        if (r != -ENOENT)
            return r;
    }
    return -ENOENT;
}
