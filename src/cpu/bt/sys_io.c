/* IN, OUT, INS, OUTS with REP, and the permission check by IOPL and the TSS's I/O bitmap. */
#include <errno.h>

#include "cpu/bt/copy.h"
#include "cpu/bt/sys_priv.h"

void bt_io_check(struct bt_vcpu *c, uint16_t port, unsigned len)
{
    uint64_t at;
    uint16_t bits;

    if (!(c->cr0 & BT_CR0_PE) || (c->cpl <= bt_iopl(c) && !bt_v86(c)))
        return;
    if (c->tr.unusable || !(c->tr.type & 8) || c->tr.limit < 103)
        bt_gp(c, 0);
    at = bt_ld16_ctx(c, BT_CTX_KERNEL, bt_table_lin(c, c->tr.base, 102), BT_NOSEG) + (port >> 3);
    if (at + 1 > c->tr.limit)
        bt_gp(c, 0);
    /* Always two bytes, as the hardware reads: an access can touch the bits of both. */
    bits = bt_ld16_ctx(c, BT_CTX_KERNEL, bt_table_lin(c, c->tr.base, at), BT_NOSEG);
    if (bits >> (port & 7) & ((1U << len) - 1))
        bt_gp(c, 0);
}

static void io_set_acc(struct bt_vcpu *c, unsigned len, uint32_t v)
{
    if (len == 4)
        c->r[BT_RAX] = v;
    else if (len == 2)
        c->r[BT_RAX] = (c->r[BT_RAX] & ~0xffffULL) | (uint16_t)v;
    else
        c->r[BT_RAX] = (c->r[BT_RAX] & ~0xffULL) | (uint8_t)v;
}

static void io_break(struct bt_vcpu *c, uint16_t port, unsigned len)
{
    if (UNLIKELY(c->sys.bp_io != 0))
        bt_bp_io(c, port, len);
}

/* x[0]: width; x[1]: port in DX. */
static uint16_t io_port(const struct bt_vcpu *c, const struct bt_op *op)
{
    return (uint16_t)(op->x[1] ? c->r[BT_RDX] : op->imm);
}

static enum bt_next h_in(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t port = io_port(c, op);
    uint32_t v = 0;

    bt_io_check(c, port, op->x[0]);
    bt_pio(c, port, &v, op->x[0], false);
    io_set_acc(c, op->x[0], v);
    io_break(c, port, op->x[0]);
    return BT_END;
}

static enum bt_next h_out(struct bt_vcpu *c, const struct bt_op *op)
{
    uint16_t port = io_port(c, op);
    uint32_t v = (uint32_t)c->r[BT_RAX];

    bt_io_check(c, port, op->x[0]);
    bt_pio(c, port, &v, op->x[0], true);
    io_break(c, port, op->x[0]);
    return BT_END;
}

/* Add to an index or count register in the width of the address size. */
static void io_advance(struct bt_vcpu *c, const struct bt_op *op, unsigned reg, uint64_t by)
{
    uint64_t v = (c->r[reg] + by) & bt_amask(op);

    c->r[reg] = op->asize == 2 ? (c->r[reg] & ~0xffffULL) | v : v;
}

static void io_ins_one(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned len = op->x[0];
    uint16_t port = (uint16_t)c->r[BT_RDX];
    bool wide = op->flags & BT_OPF_LONG;
    uint64_t lin = bt_lin(c, wide, BT_ES, c->r[BT_RDI] & bt_amask(op), len, BT_ACC_WRITE);
    uint32_t v = 0;

    bt_probe_write(c, c->ctx, lin, len, BT_ES);
    bt_pio(c, port, &v, len, false);
    bt_st_bytes(c, lin, &v, len, BT_ES);
    io_break(c, port, len);
}

static void io_outs_one(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned len = op->x[0];
    uint16_t port = (uint16_t)c->r[BT_RDX];
    bool wide = op->flags & BT_OPF_LONG;
    uint64_t lin = bt_lin(c, wide, op->seg, c->r[BT_RSI] & bt_amask(op), len, BT_ACC_READ);
    uint32_t v = 0;

    bt_ld_bytes(c, lin, &v, len, op->seg);
    bt_pio(c, port, &v, len, true);
    io_break(c, port, len);
}

/* Something that the run loop should look at before the next iteration. A masked interrupt is none. */
static bool io_interrupted(const struct bt_vcpu *c)
{
    uint32_t ev = atomic_load_explicit(&c->events, memory_order_relaxed);

    if (!(c->rflags & BT_IF))
        ev &= ~(uint32_t)BT_EV_IRQ;
    return ev != 0;
}

static enum bt_next io_string(struct bt_vcpu *c, const struct bt_op *op, bool in)
{
    bool rep = op->flags & (BT_OPF_REP | BT_OPF_REPNE);
    uint64_t step = c->rflags & BT_DF ? -(uint64_t)op->x[0] : op->x[0];

    if (rep && (c->r[BT_RCX] & bt_amask(op)) == 0)
        return BT_NEXT;
    bt_io_check(c, (uint16_t)c->r[BT_RDX], op->x[0]);
    for (;;) {
        if (in)
            io_ins_one(c, op);
        else
            io_outs_one(c, op);
        io_advance(c, op, in ? BT_RDI : BT_RSI, step);
        if (!rep)
            return BT_END;
        io_advance(c, op, BT_RCX, ~0ULL);
        if ((c->r[BT_RCX] & bt_amask(op)) == 0)
            return BT_END;
        if (io_interrupted(c)) {
            bt_rep_yield(c);
            return BT_JUMP; /* to this same instruction */
        }
    }
}

static enum bt_next h_ins(struct bt_vcpu *c, const struct bt_op *op)
{
    return io_string(c, op, true);
}

static enum bt_next h_outs(struct bt_vcpu *c, const struct bt_op *op)
{
    return io_string(c, op, false);
}

static int io_bind(struct bt_op *op, bt_fn fn, unsigned width)
{
    op->fn = fn;
    op->x[0] = (uint8_t)width;
    op->flags |= BT_OPF_END;
    return 0;
}

/* IN and OUT: bit 0 of the opcode is "not a byte", bit 3 "port in DX". */
static int io_bind_acc(const struct bt_insn *in, struct bt_op *op, bt_fn fn)
{
    unsigned width = in->zi.opcode & 1 ? MIN(bt_sys_osize(in), 4U) : 1;

    op->x[1] = in->zi.opcode >> 3 & 1;
    for (unsigned i = 0; i < in->zi.operand_count; i++) {
        if (in->ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            op->imm = in->ops[i].imm.value.u & 0xff;
    }
    return io_bind(op, fn, width);
}

int bt_bind_sys_io(struct bt_vcpu *c, const struct bt_insn *in, struct bt_op *op)
{
    switch (in->zi.mnemonic) {
    case ZYDIS_MNEMONIC_IN:
        return io_bind_acc(in, op, h_in);
    case ZYDIS_MNEMONIC_OUT:
        return io_bind_acc(in, op, h_out);
    case ZYDIS_MNEMONIC_INSB:
        return io_bind(op, h_ins, 1);
    case ZYDIS_MNEMONIC_INSW:
        return io_bind(op, h_ins, 2);
    case ZYDIS_MNEMONIC_INSD:
        return io_bind(op, h_ins, 4);
    case ZYDIS_MNEMONIC_OUTSB:
        return io_bind(op, h_outs, 1);
    case ZYDIS_MNEMONIC_OUTSW:
        return io_bind(op, h_outs, 2);
    case ZYDIS_MNEMONIC_OUTSD:
        return io_bind(op, h_outs, 4);
    default:
        return -ENOENT;
    }
}
