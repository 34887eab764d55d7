/* Native code for BMI1, BMI2, ADX, CRC32 and the fences. The contract is t1_ops.h's. */
#include "cpu/bt/int_priv.h"
#include "cpu/bt/t1_ops.h"

/* VEX encodings by BT_BMI_*. Map 0: legacy encoding with that opcode. */
static const struct {
    uint32_t opcode;
    uint8_t map, pp;
    int8_t field; /* ModRM.reg is this, and vvvv the destination; -1: reg is the destination */
    bool flags;
} bmi[BT_BMI_N] = {
    [BT_BMI_ANDN] = { 0xf2, 2, 0, -1, true },
    [BT_BMI_BEXTR] = { 0xf7, 2, 0, -1, true },
    [BT_BMI_BLSI] = { 0xf3, 2, 0, 3, true },
    [BT_BMI_BLSMSK] = { 0xf3, 2, 0, 2, true },
    [BT_BMI_BLSR] = { 0xf3, 2, 0, 1, true },
    [BT_BMI_BZHI] = { 0xf5, 2, 0, -1, true },
    [BT_BMI_PDEP] = { 0xf5, 2, 3, -1, false },
    [BT_BMI_PEXT] = { 0xf5, 2, 2, -1, false },
    [BT_BMI_RORX] = { 0xf0, 3, 3, -1, false },
    [BT_BMI_SARX] = { 0xf7, 2, 2, -1, false },
    [BT_BMI_SHLX] = { 0xf7, 2, 1, -1, false },
    [BT_BMI_SHRX] = { 0xf7, 2, 3, -1, false },
    [BT_BMI_MULX] = { 0xf6, 2, 3, -1, false },
    [BT_BMI_ADCX] = { 0x0f38f6, 0, 1, -1, true },
    [BT_BMI_ADOX] = { 0x0f38f6 | BT_OPC_F3, 0, 2, -1, true },
};

/* ADCX and ADOX: one flag in and out. */
static void bmi_adx(struct t1 *s, const struct t1_desc *d, struct bt_x x)
{
    int reg = t1_dst_load(s, s->op->dst, T1_T);

    if (d->sub == BT_BMI_ADCX)
        bt_emit_u8(&s->e, 0x66);
    bt_emit_ins(&s->e, d->size, bmi[d->sub].opcode, reg, x);
    t1_dst_done(s, s->op->dst, reg);
}

static void bmi_vex(struct t1 *s, const struct t1_desc *d, struct bt_x x)
{
    const struct bt_op *op = s->op;
    unsigned map = bmi[d->sub].map, pp = bmi[d->sub].pp;
    uint8_t opcode = (uint8_t)bmi[d->sub].opcode;
    int dst = t1_dst(op->dst, T1_T), other = 0;

    if (bmi[d->sub].field >= 0) {
        bt_emit_vex(&s->e, d->size, map, pp, opcode, bmi[d->sub].field, dst, x);
    } else if (d->sub == BT_BMI_RORX) {
        bt_emit_vex(&s->e, d->size, map, pp, opcode, dst, 0, x);
        bt_emit_u8(&s->e, (uint8_t)op->imm);
    } else if (d->sub == BT_BMI_MULX) { /* both are results; the high half wins where they are one register */
        other = t1_dst(op->x[0], T1_I);
        bt_emit_vex(&s->e, d->size, map, pp, opcode, dst, other, x);
        t1_dst_done(s, op->x[0], other);
        s->r10_group = -1;
    } else {
        other = t1_src(s, op->x[0], T1_T);
        bt_emit_vex(&s->e, d->size, map, pp, opcode, dst, other, x);
    }
    t1_dst_done(s, op->dst, dst);
}

bool t1_op_bmi(struct t1 *s, const struct t1_desc *d)
{
    struct bt_x x = t1_guest(s->op->src);

    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        x = s->x;
    }
    if (bmi[d->sub].flags)
        t1_fl_host(s);
    if (bmi[d->sub].map == 0)
        bmi_adx(s, d, x);
    else
        bmi_vex(s, d, x);
    if (bmi[d->sub].flags)
        t1_fl_set(s);
    return true;
}

bool t1_op_crc32(struct t1 *s, const struct t1_desc *d)
{
    struct bt_x x = t1_guest(s->op->src);
    int reg;

    if (d->kind) {
        if (!t1_mem(s, d->size, false))
            return false;
        x = s->x;
    }
    reg = t1_dst_load(s, s->op->dst, T1_T);
    bt_emit_ins(&s->e, d->size == 1 ? 4 : d->size, BT_OPC_F2 | (d->size == 1 ? 0x0f38f0U | BT_OPC_RM8 : 0x0f38f1U), reg,
                x);
    t1_dst_done(s, s->op->dst, reg);
    return true;
}

bool t1_op_fence(struct t1 *s, const struct t1_desc *d)
{
    static const uint8_t modrm[BT_FENCE_N] = { 0xe8, 0xf8, 0xf0 }; /* LFENCE SFENCE MFENCE */

    bt_emit_u8(&s->e, 0x0f);
    bt_emit_u8(&s->e, 0xae);
    bt_emit_u8(&s->e, modrm[d->sub]);
    return true;
}
