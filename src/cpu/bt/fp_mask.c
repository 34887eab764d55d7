/* Instructions that access memory element by element under a mask: MASKMOVQ/DQU, VMASKMOVPS/PD, VPMASKMOVD/Q, and the
 * AVX2 gathers.
 *
 * Elements whose mask bit is clear are not accessed and cannot fault. Masked moves go through their stub where the
 * whole operand lies in one accessible page; otherwise the elements are taken one at a time from and to c->scratch. A
 * gather commits each element (destination, cleared mask) before it loads the next, so that it can be restarted after a
 * fault.
 *
 * Vector registers are read here from the saved image, never by instructions that might change other state. */
#include "cpu/bt/fp_priv.h"

/* Byte n of YMM register reg in the saved image. */
static uint8_t *fp_ymm_byte(struct bt_vcpu *c, unsigned reg, unsigned n)
{
    return c->xsave + (n < 16 ? FP_OFF_XMM : FP_OFF_YMM - 16) + 16 * (reg & 15) + n;
}

/* Byte n of MMX register reg: physical x87 register reg, which the image holds relative to TOP. */
static const uint8_t *fp_mmx_byte(struct bt_vcpu *c, unsigned reg, unsigned n)
{
    unsigned top = (load_le16(c->xsave + FP_OFF_FSW) >> 11) & 7;

    return c->xsave + FP_OFF_ST + 16 * ((reg - top) & 7) + n;
}

/* Set of elements of size bytes that the mask register selects: bit i is the top bit of element i. */
static uint32_t fp_mask_of(struct bt_vcpu *c, unsigned reg, bool mmx, unsigned size, unsigned total)
{
    uint32_t set = 0;

    bt_fp_save(c);
    bt_fp_normalise(c);
    for (unsigned i = 0, n = size - 1; n < total; i++, n += size) {
        uint8_t top = mmx ? *fp_mmx_byte(c, reg, n) : *fp_ymm_byte(c, reg, n);

        set |= (uint32_t)(top >> 7) << i;
    }
    return set;
}

static void fp_ld_element(struct bt_vcpu *c, uint64_t lin, void *to, unsigned size, unsigned seg)
{
    if (size == 8)
        store_le64(to, bt_ld64(c, lin, seg));
    else
        store_le32(to, bt_ld32(c, lin, seg));
}

static void fp_st_element(struct bt_vcpu *c, uint64_t lin, const void *from, unsigned size, unsigned seg)
{
    if (size == 8)
        bt_st64(c, lin, load_le64(from), seg);
    else if (size == 4)
        bt_st32(c, lin, load_le32(from), seg);
    else
        bt_st8(c, lin, *(const uint8_t *)from, seg);
}

/* Linear address of the element at byte n of the operand. */
static uint64_t fp_element_lin(struct bt_vcpu *c, const struct bt_op *op, unsigned n, unsigned size, unsigned acc)
{
    return bt_lin(c, op->flags & BT_OPF_LONG, op->seg, (bt_ea(c, op) + n) & bt_amask(op), size, acc);
}

/* Whole operand in one page that the TLB lets us access: pointer to it, else NULL. 64-bit mode only (no limits there).
 */
static uint8_t *fp_whole(struct bt_vcpu *c, const struct bt_op *op, bool write, uint64_t *ret_lin,
                         struct bt_tlbe **ret_e)
{
    uint64_t lin;
    struct bt_tlbe *e;

    if (!(op->flags & BT_OPF_LONG))
        return NULL;
    lin = c->segbase[op->seg] + bt_ea(c, op);
    e = bt_tlbe(c, c->ctx, lin);
    if (!bt_page_hit(write ? e->tag_w : e->tag_r, lin, op->msize))
        return NULL;
    *ret_lin = lin;
    *ret_e = e;
    return bt_host(e, lin);
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q loads. x[2]: element size, x[3]: mask register. */
enum bt_next bt_fp_vmask_ld(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned size = op->x[2];
    struct bt_tlbe *e;
    uint64_t lin;
    uint32_t set;
    void *p;

    fp_gate(c, FP_KIND_AVX);
    p = fp_whole(c, op, false, &lin, &e);
    if (!p) {
        uint8_t data[32];

        set = fp_mask_of(c, op->x[3], false, size, op->msize);
        for (unsigned i = 0; i < 32; i += 8)
            store_le64(data + i, 0);
        for (unsigned i = 0; i < op->msize / size; i++)
            if (set & BIT(i))
                fp_ld_element(c, fp_element_lin(c, op, i * size, size, BT_ACC_READ), data + i * size, size, op->seg);
        for (unsigned i = 0; i < 32; i += 8)
            store_le64(c->scratch + i, load_le64(data + i));
        p = c->scratch;
    }
    fp_run(c, op->aux, p);
    return BT_NEXT;
}

/* Masked store of the operation's stub. */
static void fp_masked_store(struct bt_vcpu *c, const struct bt_op *op, unsigned size, bool mmx)
{
    struct bt_tlbe *e;
    uint64_t lin;
    uint32_t set;
    uint8_t *p = fp_whole(c, op, true, &lin, &e);

    if (p) {
        fp_run(c, op->aux, p);
        bt_note_write(c, e, lin, op->msize);
        return;
    }
    if (mmx)
        bt_fp_wait(c);
    set = fp_mask_of(c, op->x[3], mmx, size, op->msize);
    for (unsigned i = 0; i < op->msize / size; i++)
        if (set & BIT(i))
            bt_probe_write(c, c->ctx, fp_element_lin(c, op, i * size, size, BT_ACC_WRITE), size, op->seg);
    fp_run(c, op->aux, c->scratch);
    for (unsigned i = 0; i < op->msize / size; i++)
        if (set & BIT(i))
            fp_st_element(c, fp_element_lin(c, op, i * size, size, BT_ACC_WRITE), c->scratch + i * size, size, op->seg);
}

enum bt_next bt_fp_vmask_st(struct bt_vcpu *c, const struct bt_op *op)
{
    fp_gate(c, FP_KIND_AVX);
    fp_masked_store(c, op, op->x[2], false);
    return BT_NEXT;
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU. x[2]: enum fp_kind, x[3]: mask register; base is rDI. */
enum bt_next bt_fp_maskmov(struct bt_vcpu *c, const struct bt_op *op)
{
    bool mmx = op->x[2] == FP_KIND_MMX;

    if (mmx)
        fp_gate(c, FP_KIND_MMX);
    else if (op->x[2] == FP_KIND_SSE)
        fp_gate(c, FP_KIND_SSE);
    else
        fp_gate(c, FP_KIND_AVX);
    fp_masked_store(c, op, 1, mmx);
    return BT_NEXT;
}

/* VGATHER*, VPGATHER*. x[0]: destination, x[1]: index register, x[2]: mask register; imm: bits 7..0 element size, 15..8
 * index size, 23..16 number of elements; op->index is BT_ZERO, op->scale the scale. */
enum bt_next bt_fp_gather(struct bt_vcpu *c, const struct bt_op *op)
{
    unsigned dst = op->x[0], idx = op->x[1], mask = op->x[2];
    unsigned size = op->imm & 0xff, isize = (op->imm >> 8) & 0xff, n = (op->imm >> 16) & 0xff;
    uint32_t set;

    fp_gate(c, FP_KIND_AVX);
    set = fp_mask_of(c, mask, false, size, n * size);
    store_le64(c->xsave + FP_OFF_HEADER, load_le64(c->xsave + FP_OFF_HEADER) | FP_SSE | FP_AVX);
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *ip = fp_ymm_byte(c, idx, i * isize);
        uint64_t index = isize == 8 ? load_le64(ip) : (uint64_t)(int64_t)(int32_t)load_le32(ip);

        if (set & BIT(i)) {
            uint64_t off = (c->r[op->base] + (index << op->scale) + (uint64_t)op->disp) & bt_amask(op);
            uint8_t value[8];

            fp_ld_element(c, bt_lin(c, op->flags & BT_OPF_LONG, op->seg, off, size, BT_ACC_READ), value, size, op->seg);
            for (unsigned k = 0; k < size; k++)
                *fp_ymm_byte(c, dst, i * size + k) = value[k];
        }
        for (unsigned k = 0; k < size; k++)
            *fp_ymm_byte(c, mask, i * size + k) = 0;
    }
    for (unsigned k = n * size; k < 32; k++)
        *fp_ymm_byte(c, dst, k) = *fp_ymm_byte(c, mask, k) = 0;
    return BT_NEXT;
}

/* VZEROUPPER and VZEROALL (x[2]) outside 64-bit mode: registers 8..15 keep their contents. */
enum bt_next bt_fp_vzero(struct bt_vcpu *c, const struct bt_op *op)
{
    fp_gate(c, FP_KIND_AVX);
    bt_fp_save(c);
    bt_fp_normalise(c);
    for (unsigned reg = 0; reg < 8; reg++)
        for (unsigned n = op->x[2] ? 0 : 16; n < 32; n++)
            *fp_ymm_byte(c, reg, n) = 0;
    return BT_NEXT;
}
