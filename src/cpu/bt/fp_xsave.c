/* FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR, in software, between c->xsave and guest memory.
 *
 * The host's own instructions made the image and will load it, so the image's XSTATE_BV is the host's XINUSE, and x87
 * words keep the host's conventions. Saving checks all of the destination before it writes; restoring reads and checks
 * all of the source before it changes anything. Outside 64-bit mode registers 8..15 are neither saved nor restored. */
#include "cpu/bt/fp_priv.h"

/* A piece of the guest's area that is copied. */
struct fp_piece {
    uint16_t off, len;
};

static unsigned fp_nregs(const struct bt_op *op)
{
    return op->bits == 64 ? 16 : 8;
}

static uint64_t fp_area_lin(struct bt_vcpu *c, const struct bt_op *op, unsigned size, unsigned align, unsigned acc)
{
    uint64_t lin = bt_op_lin(c, op, size, acc);

    if (lin & (align - 1))
        bt_gp(c, 0);
    return lin;
}

static void fp_copy(uint8_t *to, const uint8_t *from, unsigned off, unsigned len)
{
    for (unsigned i = off; i < off + len; i += 8)
        store_le64(to + i, load_le64(from + i));
}

/* Write pieces of the area. Like the CPU, demand that all of its size bytes can be written. */
static void fp_put_pieces(struct bt_vcpu *c, const struct bt_op *op, uint64_t lin, unsigned size, const uint8_t *img,
                          const struct fp_piece *pieces, unsigned n)
{
    bt_fp_probe_block(c, op, lin, size);
    for (unsigned i = 0; i < n; i++)
        bt_fp_write_block(c, op, lin + pieces[i].off, img + pieces[i].off, pieces[i].len);
}

/* FXSAVE and FXRSTOR: CR0.EM and TS give #NM. EFER.FFXSR leaves out the XMM registers at CPL 0 in 64-bit mode. */
static bool fp_fast(const struct bt_vcpu *c, const struct bt_op *op)
{
    return (c->efer & FP_EFER_FFXSR) != 0 && c->cpl == 0 && op->bits == 64;
}

enum bt_next bt_fp_fxsave(struct bt_vcpu *c, const struct bt_op *op)
{
    uint8_t img[FP_OFF_HEADER] ALIGNED(16);
    struct fp_piece piece = { 0, FP_OFF_XMM };
    uint64_t lin;

    fp_gate(c, FP_KIND_X87);
    lin = fp_area_lin(c, op, 512, 16, BT_ACC_WRITE);
    bt_fp_save(c);
    bt_fp_normalise(c);
    fp_copy(img, c->xsave, 0, FP_OFF_XMM_END);
    store_le32(img + FP_OFF_MXCSR_MASK, c->stubs->mxcsr_mask);
    bt_fp_put_pointers(c, img, op->x[1] != 0);
    if (!fp_fast(c, op))
        piece.len = (uint16_t)(FP_OFF_XMM + 16 * fp_nregs(op));
    fp_put_pieces(c, op, lin, 512, img, &piece, 1);
    return BT_NEXT;
}

/* Put the image's x87 component into the state. */
static void fp_set_x87(struct bt_vcpu *c, const uint8_t *img, bool wide)
{
    fp_copy(c->xsave, img, 0, 24);
    fp_copy(c->xsave, img, FP_OFF_ST, FP_OFF_XMM - FP_OFF_ST);
    bt_fp_take_pointers(c, img, wide);
}

static void fp_or_bv(struct bt_vcpu *c, uint64_t bits)
{
    store_le64(c->xsave + FP_OFF_HEADER, load_le64(c->xsave + FP_OFF_HEADER) | bits);
}

enum bt_next bt_fp_fxrstor(struct bt_vcpu *c, const struct bt_op *op)
{
    uint8_t img[FP_OFF_HEADER] ALIGNED(16);
    uint64_t lin;

    fp_gate(c, FP_KIND_X87);
    lin = fp_area_lin(c, op, 512, 16, BT_ACC_READ);
    bt_fp_read_block(c, op, lin, img, FP_OFF_HEADER);
    if (load_le32(img + FP_OFF_MXCSR) & ~c->stubs->mxcsr_mask)
        bt_gp(c, 0);
    bt_fp_save(c);
    bt_fp_normalise(c);
    fp_set_x87(c, img, op->x[1] != 0);
    store_le32(c->xsave + FP_OFF_MXCSR, load_le32(img + FP_OFF_MXCSR));
    if (!fp_fast(c, op))
        fp_copy(c->xsave, img, FP_OFF_XMM, 16 * fp_nregs(op));
    fp_or_bv(c, FP_X87 | FP_SSE);
    bt_fp_load(c); /* brings reserved bits into their fixed values */
    fp_done(c);
    return BT_NEXT;
}

static void fp_gate_xsave(struct bt_vcpu *c)
{
    if (!(c->cr4 & FP_CR4_OSXSAVE))
        bt_ud(c);
    if (c->cr0 & FP_CR0_TS)
        bt_raise(c, BT_NM);
}

static uint64_t fp_rfbm(const struct bt_vcpu *c)
{
    return c->xcr0 & ((uint32_t)c->r[BT_RAX] | c->r[BT_RDX] << 32) & (FP_X87 | FP_SSE | FP_AVX);
}

static unsigned fp_area_size(uint64_t components)
{
    return components & FP_AVX ? FP_OFF_YMM_END : FP_OFF_YMM;
}

/* x[1]: 64-bit pointers (REX.W); x[2]: FP_XSAVE, FP_XSAVEOPT or FP_XSAVEC. */
enum bt_next bt_fp_xsave(struct bt_vcpu *c, const struct bt_op *op)
{
    uint8_t img[FP_OFF_YMM_END] ALIGNED(16);
    uint64_t rfbm, in_use, bv, write, lin;
    struct fp_piece pieces[6];
    unsigned n = 0, regs = fp_nregs(op);

    fp_gate_xsave(c);
    rfbm = fp_rfbm(c);
    lin = fp_area_lin(c, op, fp_area_size(rfbm), 64, BT_ACC_WRITE);
    bt_fp_save(c);
    in_use = (c->stubs->xmask ? load_le64(c->xsave + FP_OFF_HEADER) : FP_X87 | FP_SSE) & rfbm;
    bt_fp_normalise(c);
    fp_copy(img, c->xsave, 0, FP_OFF_XMM_END);
    fp_copy(img, c->xsave, FP_OFF_YMM, FP_OFF_YMM_END - FP_OFF_YMM);
    store_le32(img + FP_OFF_MXCSR_MASK, c->stubs->mxcsr_mask);
    bt_fp_put_pointers(c, img, op->x[1] != 0);
    if (op->x[2] == FP_XSAVEC) {
        if ((rfbm & FP_SSE) && load_le32(img + FP_OFF_MXCSR) != FP_MXCSR_INIT)
            in_use |= FP_SSE;
        bv = in_use;
        store_le64(img + FP_OFF_HEADER + 8, rfbm | BIT64(63));
    } else {
        bv = bt_ld64(c, lin + FP_OFF_HEADER, op->seg);
        bv = (bv & ~rfbm) | in_use;
    }
    write = op->x[2] == FP_XSAVE ? rfbm : in_use;
    store_le64(img + FP_OFF_HEADER, bv);
    if (write & FP_X87) {
        pieces[n++] = (struct fp_piece){ 0, 24 };
        pieces[n++] = (struct fp_piece){ FP_OFF_ST, FP_OFF_XMM - FP_OFF_ST };
    }
    if (op->x[2] == FP_XSAVEC ? write & FP_SSE : rfbm & (FP_SSE | FP_AVX))
        pieces[n++] = (struct fp_piece){ FP_OFF_MXCSR, 8 };
    if (write & FP_SSE)
        pieces[n++] = (struct fp_piece){ FP_OFF_XMM, (uint16_t)(16 * regs) };
    if (write & FP_AVX)
        pieces[n++] = (struct fp_piece){ FP_OFF_YMM, (uint16_t)(16 * regs) };
    pieces[n++] = (struct fp_piece){ FP_OFF_HEADER, op->x[2] == FP_XSAVEC ? 16 : 8 };
    fp_put_pieces(c, op, lin, fp_area_size(rfbm), img, pieces, n);
    return BT_NEXT;
}

/* Check the header of an XRSTOR image: #GP(0). Returns whether it is compacted. */
static bool fp_check_header(struct bt_vcpu *c, const uint8_t *img)
{
    uint64_t bv = load_le64(img + FP_OFF_HEADER), comp = load_le64(img + FP_OFF_HEADER + 8);
    bool compact = (comp >> 63) != 0;
    uint64_t rest = load_le64(img + FP_OFF_HEADER + 16);

    if (compact) {
        for (unsigned i = 24; i < 64; i += 8)
            rest |= load_le64(img + FP_OFF_HEADER + i);
        if ((comp & ~BIT64(63) & ~c->xcr0) != 0 || (bv & ~comp) != 0 || (bv >> 63) != 0 || rest != 0)
            bt_gp(c, 0);
    } else if ((bv & ~c->xcr0) != 0 || comp != 0 || rest != 0) {
        bt_gp(c, 0);
    }
    return compact;
}

/* Restore or initialise registers 0..regs-1 of a vector component at off. */
static void fp_set_vectors(struct bt_vcpu *c, const uint8_t *img, unsigned off, unsigned regs, bool load)
{
    for (unsigned i = off; i < off + 16 * regs; i += 8)
        store_le64(c->xsave + i, load ? load_le64(img + i) : 0);
}

static void fp_init_x87(struct bt_vcpu *c)
{
    store_le64(c->xsave + FP_OFF_HEADER, load_le64(c->xsave + FP_OFF_HEADER) & ~(uint64_t)FP_X87);
    c->fp.fip = c->fp.fdp = 0;
    c->fp.fcs = c->fp.fds = c->fp.fop = 0;
    if (!c->stubs->xmask) {
        for (unsigned i = 0; i < 24; i += 8)
            store_le64(c->xsave + i, 0);
        for (unsigned i = FP_OFF_ST; i < FP_OFF_XMM; i += 8)
            store_le64(c->xsave + i, 0);
        store_le16(c->xsave + FP_OFF_FCW, FP_FCW_INIT);
    }
}

enum bt_next bt_fp_xrstor(struct bt_vcpu *c, const struct bt_op *op)
{
    uint8_t img[FP_OFF_YMM_END] ALIGNED(16);
    uint64_t rfbm, bv, lin, clear = 0;
    uint32_t mxcsr = FP_MXCSR_INIT;
    bool compact, set_mxcsr;
    unsigned regs = fp_nregs(op);

    fp_gate_xsave(c);
    rfbm = fp_rfbm(c);
    lin = fp_area_lin(c, op, FP_OFF_YMM, 64, BT_ACC_READ);
    bt_fp_read_block(c, op, lin + FP_OFF_HEADER, img + FP_OFF_HEADER, 64);
    compact = fp_check_header(c, img);
    bv = load_le64(img + FP_OFF_HEADER) & rfbm;
    /* A compacted area ends with the last component that it holds. */
    bt_fp_read_block(c, op, lin, img, fp_area_size(compact ? bv : rfbm));
    set_mxcsr = compact ? rfbm & FP_SSE : rfbm & (FP_SSE | FP_AVX);
    if (!compact || (bv & FP_SSE))
        mxcsr = load_le32(img + FP_OFF_MXCSR);
    if (set_mxcsr && (mxcsr & ~c->stubs->mxcsr_mask))
        bt_gp(c, 0);

    bt_fp_save(c);
    bt_fp_normalise(c);
    if (bv & FP_X87)
        fp_set_x87(c, img, op->x[1] != 0);
    else if (rfbm & FP_X87)
        fp_init_x87(c);
    if (set_mxcsr)
        store_le32(c->xsave + FP_OFF_MXCSR, mxcsr);
    if (rfbm & FP_SSE)
        fp_set_vectors(c, img, FP_OFF_XMM, regs, bv & FP_SSE);
    if (rfbm & FP_AVX)
        fp_set_vectors(c, img, FP_OFF_YMM, regs, bv & FP_AVX);
    /* A component that became initial as a whole is no longer in use. */
    if (regs == 16)
        clear = rfbm & ~bv & (FP_SSE | FP_AVX);
    store_le64(c->xsave + FP_OFF_HEADER, (load_le64(c->xsave + FP_OFF_HEADER) & ~clear) | bv);
    bt_fp_load(c);
    fp_done(c);
    return BT_NEXT;
}
