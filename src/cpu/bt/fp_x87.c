/* Handlers of x87 instructions: the same as fp_exec.c, plus the instruction and data pointers, the environment in its
 * four layouts, and FWAIT.
 *
 * c->fp holds the pointers as the guest must see them; the host's own name stubs and host memory, and are never shown.
 */
#include "cpu/bt/fp_priv.h"

/* Sizes of the environment, and of the registers that FNSAVE puts behind it. */
enum { FP_ENV16 = 14, FP_ENV32 = 28, FP_ST_BYTES = 80 };

static ALWAYS_INLINE void fp_track(struct bt_vcpu *c, const struct bt_op *op)
{
    if (op->x[0] & FP_F_CONTROL)
        return;
    c->fp.fip = c->r[BT_RIP];
    c->fp.fcs = c->seg[BT_CS].sel;
    c->fp.fop = (uint16_t)(op->x[2] | op->x[3] << 8);
}

static ALWAYS_INLINE void fp_track_data(struct bt_vcpu *c, const struct bt_op *op, uint64_t off)
{
    if (op->x[0] & FP_F_CONTROL)
        return;
    fp_track(c, op);
    c->fp.fdp = off;
    c->fp.fds = op->seg < 6 ? c->seg[op->seg].sel : 0;
}

enum bt_next bt_fp_x87_reg(struct bt_vcpu *c, const struct bt_op *op)
{
    fp_gate(c, FP_KIND_X87);
    fp_run(c, op->aux, c->scratch);
    fp_track(c, op);
    return BT_NEXT;
}

enum bt_next bt_fp_x87_ld(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t off;

    fp_gate(c, FP_KIND_X87);
    off = bt_ea(c, op);
    fp_run(c, op->aux, fp_src(c, op, true));
    fp_track_data(c, op, off);
    return BT_NEXT;
}

enum bt_next bt_fp_x87_st(struct bt_vcpu *c, const struct bt_op *op)
{
    uint64_t off;

    fp_gate(c, FP_KIND_X87);
    off = bt_ea(c, op);
    if (op->x[0] & FP_F_NOWAIT)
        fp_store(c, op, false);
    else
        fp_store(c, op, true);
    fp_track_data(c, op, off);
    return BT_NEXT;
}

/* FCOMI and kin, FCMOVcc, FNSTSW AX. */
enum bt_next bt_fp_x87_gen(struct bt_vcpu *c, const struct bt_op *op)
{
    struct fp_regs r = { .a = c->r[BT_RAX], .flags = (c->rflags & BT_ARITH) | 2 };
    unsigned err;

    fp_gate(c, FP_KIND_X87);
    fp_use(c);
    err = fp_call_gen(op->aux, c->scratch, &r, true, true);
    fp_done(c);
    if (UNLIKELY(err))
        bt_fp_trap(c, err);
    if (op->x[0] & FP_F_GDST)
        c->r[BT_RAX] = r.a;
    if (op->x[0] & FP_F_FLAGS)
        c->rflags = (c->rflags & ~(uint64_t)BT_ARITH) | (r.flags & BT_ARITH);
    fp_track(c, op);
    return BT_NEXT;
}

enum bt_next bt_fp_fwait(struct bt_vcpu *c, const struct bt_op *op)
{
    if (UNLIKELY((c->cr0 & (FP_CR0_MP | FP_CR0_TS)) == (FP_CR0_MP | FP_CR0_TS)))
        bt_raise(c, BT_NM);
    bt_fp_wait(c);
    return BT_NEXT;
}

static void fp_forget_pointers(struct bt_vcpu *c)
{
    c->fp.fip = c->fp.fdp = 0;
    c->fp.fcs = c->fp.fds = c->fp.fop = 0;
}

enum bt_next bt_fp_fninit(struct bt_vcpu *c, const struct bt_op *op)
{
    fp_gate(c, FP_KIND_X87);
    fp_run(c, op->aux, c->scratch);
    fp_forget_pointers(c);
    return BT_NEXT;
}

static bool fp_real(const struct bt_vcpu *c)
{
    return !(c->cr0 & FP_CR0_PE) || (c->rflags & BT_VM) != 0;
}

/* Put the environment that the host stored at env (32-bit protected layout) into the layout of the operation, in place.
 */
static void fp_env_out(struct bt_vcpu *c, const struct bt_op *op, uint8_t *env)
{
    uint32_t cs = c->stubs->zero_fcs ? 0 : c->fp.fcs, ds = c->stubs->zero_fcs ? 0 : c->fp.fds;
    uint32_t ip = (uint32_t)c->fp.fip, dp = (uint32_t)c->fp.fdp, fop = c->fp.fop, ipl, dpl;

    if (!(load_le16(env + 4) & FP_FSW_ES)) {
        if (c->stubs->fdp_excptn_only)
            dp = 0;
        if (c->stubs->fop_excptn_only)
            fop = 0;
    }
    ipl = ip + ((uint32_t)c->fp.fcs << 4);
    dpl = dp + ((uint32_t)c->fp.fds << 4);
    if (op->osize != 2) {
        if (fp_real(c)) {
            store_le32(env + 12, 0xffff0000U | (ipl & 0xffff));
            store_le32(env + 16, (ipl >> 16) << 12 | fop);
            store_le32(env + 20, 0xffff0000U | (dpl & 0xffff));
            store_le32(env + 24, (dpl >> 16) << 12);
        } else {
            store_le32(env + 12, ip);
            store_le32(env + 16, cs | fop << 16);
            store_le32(env + 20, dp);
            store_le32(env + 24, 0xffff0000U | ds);
        }
        return;
    }
    store_le16(env + 2, load_le16(env + 4));
    store_le16(env + 4, load_le16(env + 8));
    if (fp_real(c)) {
        store_le16(env + 6, (uint16_t)ipl);
        store_le16(env + 8, (uint16_t)((ipl >> 16) << 12 | fop));
        store_le16(env + 10, (uint16_t)dpl);
        store_le16(env + 12, (uint16_t)((dpl >> 16) << 12));
    } else {
        store_le16(env + 6, (uint16_t)ip);
        store_le16(env + 8, (uint16_t)cs);
        store_le16(env + 10, (uint16_t)dp);
        store_le16(env + 12, (uint16_t)ds);
    }
}

/* The reverse: from the operation's layout at in to the host's at env, and the pointers to c->fp. */
static void fp_env_in(struct bt_vcpu *c, const struct bt_op *op, const uint8_t *in, uint8_t *env)
{
    bool wide = op->osize != 2;
    uint32_t w[7];

    for (unsigned i = 0; i < 7; i++) {
        w[i] = wide ? load_le32(in + 4 * i) : load_le16(in + 2 * i);
        store_le32(env + 4 * i, i < 3 ? w[i] | 0xffff0000U : 0);
    }
    fp_forget_pointers(c);
    if (fp_real(c)) {
        c->fp.fip = (w[3] & 0xffff) | (w[4] & 0x0ffff000) << 4;
        c->fp.fop = w[4] & 0x7ff;
        c->fp.fdp = (w[5] & 0xffff) | (w[6] & 0x0ffff000) << 4;
    } else {
        c->fp.fip = w[3];
        c->fp.fcs = (uint16_t)w[4];
        c->fp.fop = wide ? (w[4] >> 16) & 0x7ff : 0;
        c->fp.fdp = w[5];
        c->fp.fds = (uint16_t)w[6];
    }
}

/* FNSTENV (x[1] = 0) and FNSAVE (x[1] = 1). They do not wait. */
enum bt_next bt_fp_fnstenv(struct bt_vcpu *c, const struct bt_op *op)
{
    bool save = op->x[1] != 0;
    unsigned n = op->osize == 2 ? FP_ENV16 : FP_ENV32, size = n + (save ? FP_ST_BYTES : 0);
    uint8_t *img = c->scratch;
    uint64_t lin;

    fp_gate(c, FP_KIND_X87);
    lin = bt_op_lin(c, op, size, BT_ACC_WRITE);
    bt_fp_probe_block(c, op, lin, size);
    fp_run(c, op->aux, img);
    fp_env_out(c, op, img);
    if (save) {
        if (n != FP_ENV32) /* the regions overlap, the destination is lower */
            fp_move(img + n, img + FP_ENV32, FP_ST_BYTES);
        fp_forget_pointers(c);
    }
    bt_fp_write_block(c, op, lin, img, size);
    return BT_NEXT;
}

/* FLDENV (x[1] = 0) and FRSTOR (x[1] = 1). They wait. */
enum bt_next bt_fp_fldenv(struct bt_vcpu *c, const struct bt_op *op)
{
    bool restore = op->x[1] != 0;
    unsigned n = op->osize == 2 ? FP_ENV16 : FP_ENV32, size = n + (restore ? FP_ST_BYTES : 0);
    uint8_t in[FP_ENV32 + FP_ST_BYTES];

    fp_gate(c, FP_KIND_X87);
    bt_fp_wait(c);
    bt_fp_read_block(c, op, bt_op_lin(c, op, size, BT_ACC_READ), in, size);
    fp_env_in(c, op, in, c->scratch);
    if (restore)
        fp_move(c->scratch + FP_ENV32, in + n, FP_ST_BYTES);
    fp_run(c, op->aux, c->scratch);
    return BT_NEXT;
}
