/* What the t1_*.c files share: the translator's memory, the register assignment, the state of one translation.
 *
 * Registers of translated code. Eleven of the guest's are in host registers (t1_host[]), the other five stay in c->r.
 *   rsp  the host's stack, 16-byte aligned          r15  struct bt_vcpu
 *   rax  scratch, and the image of the flags        r11  linear address, then host pointer, of a memory operand
 *   r10  offset of its TLB entry                    the rest: guest registers
 * The guest's arithmetic flags are in the host's flags, in c->t1_flags, or both (enum t1_fl); all others in c->rflags.
 * At the entrance and at every way out they are in c->t1_flags. */
#ifndef CPU_BT_T1_PRIV_H
#define CPU_BT_T1_PRIV_H

#include "cpu/bt/block_priv.h"
#include "cpu/bt/emit.h"
#include "cpu/bt/t1.h"

#define T1_ARENA (18U << 20)
#define T1_TRANS_MAX (48U << 10)
/* Of what has been filled, the writable view is unmapped in pieces of this size: its pages stay in memory through the
 * executable view, and come back for the odd jump that is connected later. Otherwise the resident size would show them
 * twice. */
#define T1_UNMAP (1U << 20)
/* More than the translation of one block needs. */
#define T1_RESERVE (64U << 10)

enum { T1_A = 0, T1_I = 10, T1_P = 11, T1_C = 15, T1_HSP = 4 };

/* What a handler does, for the translator: T1_NONE is "not translated, and may do anything". */
enum t1_class {
    T1_NONE,
    T1_CALLOUT /* harmless, but not translated */,
    T1_NOP,
    T1_ALU,
    T1_TEST,
    T1_UNARY,
    T1_SHIFT,
    T1_SHIFTD,
    T1_MOV,
    T1_MOVX,
    T1_LEA,
    T1_CMOV,
    T1_SETCC,
    T1_CBW,
    T1_MUL,
    T1_IMUL2,
    T1_IMUL3,
    T1_BSWAP,
    T1_XCHG,
    T1_XCHG_M,
    T1_XADD,
    T1_CMPXCHG,
    T1_BT,
    T1_SCAN,
    T1_FLAG,
    T1_JCC,
    T1_JMP,
    T1_CALL,
    T1_RET,
    T1_PUSH,
    T1_POP,
    T1_LEAVE,
    T1_NCLASSES
};

struct t1_desc {
    bt_fn fn;
    uint8_t class; /* enum t1_class */
    uint8_t sub;   /* operation or condition */
    uint8_t kind;  /* operand kind of the table that fn is in; or 1: memory operand */
    uint8_t size;  /* bytes; MOVX: of the destination */
    uint8_t from;  /* MOVX: bytes of the source */
};

#define T1_DESCS 4096U

struct bt_t1 {
    const uint8_t *rx;                                         /* executable view of the arena */
    uint8_t *rw;                                               /* the same pages, writable */
    uint32_t used, first, end;                                 /* bytes in use; by the fixed parts alone; to be used */
    uint32_t enter, leave, event, note, callout[BT_CTX_FETCH]; /* offsets of the fixed parts */
    uint32_t unmapped;                                         /* so far; multiple of T1_UNMAP */
    uint32_t n_trans;
    struct bt_trans *trans;         /* T1_TRANS_MAX */
    struct t1_desc descs[T1_DESCS]; /* hash table by fn */
};

/* Where the guest's arithmetic flags are. */
enum t1_fl { T1_FL_MEM, T1_FL_HOST, T1_FL_BOTH };

/* A way out of the straight line to the operation's handler, and back. */
struct t1_slow {
    const struct bt_op *op;
    uint64_t rip;
    uint32_t jumps[4]; /* displacements that lead there */
    unsigned n_jumps;
    uint32_t back;   /* where it goes on; 0: the handler ends the block */
    bool host_flags; /* there the flags are in the host's */
};

/* The way out of a store that may have hit code. */
struct t1_note {
    uint32_t jumps[2], back;
    uint64_t next_rip; /* where to leave to if the block became stale */
    bool dynamic;      /* that is in c->t1_target[0] */
    struct bt_x entry; /* the TLB entry, as LEA operand */
    uint8_t size;
};

/* A direct jump out of the block. */
struct t1_exit {
    uint32_t jump;
    uint64_t target;
};

#define T1_SLOW_MAX (2 * BT_BLOCK_OPS_MAX)

struct t1 {
    struct bt_emit e;
    struct bt_vcpu *c;
    struct bt_t1 *t;
    const struct bt_op *op; /* present operation */
    uint64_t rip;           /* its address */
    uint8_t ctx;
    enum t1_fl fl;
    bool done;            /* the block has left */
    struct bt_x entry;    /* TLB entry of the last probe */
    struct t1_slow *slow; /* of the present operation, NULL: none yet */
    struct t1_slow slows[T1_SLOW_MAX];
    struct t1_note notes[T1_SLOW_MAX];
    struct t1_exit exits[4];
    unsigned n_slow, n_notes, n_exits;
    uint32_t map_jumps[2], event_jump, event_back;
};

/* t1_class.c */
void bt_t1_classify(struct bt_t1 *t);
const struct t1_desc *bt_t1_desc(const struct bt_t1 *t, bt_fn fn);

/* t1_fixed.c: emit the fixed parts at the start of the code memory; returns where free memory begins. */
uint32_t bt_t1_fixed(struct bt_t1 *t);
/* Guest register index to host register, -1: in memory. */
extern const int8_t t1_host[16];

/* t1_gen.c: emit the translation of b for s->rip and s->ctx into s->e and fill in the entrances of t; false: no room.
 */
bool bt_t1_generate(struct t1 *s, const struct bt_block *b, struct bt_trans *t);

/* t1_cache.c: the part of the head that leaves (t->stale) where the code is not what it was; uses rax, r11 and the
 * host's flags. And where it goes then: out, with t in c->t1_stale, until there is a newer translation to go on in. */
void bt_t1_check(struct t1 *s, const struct bt_block *b, struct bt_trans *t);
void bt_t1_out_check(struct t1 *s, const struct bt_block *b, struct bt_trans *t);
void t1_leave_at(struct t1 *s, uint64_t rip); /* t1_gen.c: leave to the run loop, at rip; uses rax */

/* t1_ops.c: emit the present operation; false: not possible (then nothing was emitted). */
bool bt_t1_op(struct t1 *s, const struct t1_desc *d);

/* t1_ops_mem.c, what the operations are made of */
#define T1_OFF(member) ((int32_t)offsetof(struct bt_vcpu, member))
struct bt_x t1_state(int32_t off);               /* memory operand in *c */
struct bt_x t1_guest(unsigned off);              /* a guest register as r/m operand, by byte offset */
int t1_src(struct t1 *s, unsigned off, int tmp); /* host register with the guest's value; tmp where it is in memory */
int t1_dst(unsigned off, int tmp);               /* where a result goes; t1_dst_done stores it */
int t1_dst_load(struct t1 *s, unsigned off, int tmp); /* the same with the present value */
void t1_dst_done(struct t1 *s, unsigned off, int reg);
void t1_fl_host(struct t1 *s); /* flags into the host's; uses rax */
void t1_fl_mem(struct t1 *s);  /* flags into c->t1_flags; uses rax */
/* Host pointer to the memory operand (or to the stack slot at rSP + disp) in r11, with the rights of the access
 * checked; the flags are in memory then. false: not possible, nothing emitted. */
bool t1_mem(struct t1 *s, unsigned size, bool write);
void t1_stack(struct t1 *s, int base, int32_t disp, bool write);
/* After a store through the last probe: was it code? Leaves flags in memory. */
void t1_note_store(struct t1 *s, unsigned size);
void t1_slow_jump(struct t1 *s, int cc); /* a jump to the present operation's handler */
void t1_exit_to(struct t1 *s, int cc, uint64_t target);

#endif
