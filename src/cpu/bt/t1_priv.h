/* What the t1_*.c files share: the translator's memory, the register assignment, the state of one translation.
 *
 * Registers of translated code. Eleven of the guest's are in host registers (t1_host[]), the other five stay in c->r.
 *   gs   base of struct bt_vcpu                     rsp  the host's stack, 16-byte aligned
 *   rax  the image of the guest's arithmetic flags as LAHF and SETO AL make it, or scratch (enum t1_fl)
 *   r11  linear address of a memory operand, then its offset in the page or its host pointer
 *   r10  offset of its TLB entry in the context's entries, or host address of its page
 *   r15  scratch                                    the rest: guest registers
 * At every entrance and every way out the image is in rax. All other flags are in c->rflags always. */
#ifndef CPU_BT_T1_PRIV_H
#define CPU_BT_T1_PRIV_H

#include "cpu/bt/block_priv.h"
#include "cpu/bt/emit.h"
#include "cpu/bt/t1.h"

#define T1_ARENA (16U << 20)
#define T1_TRANS_MAX (96U << 10)
/* Of what has been filled, the writable view is unmapped in pieces of this size: its pages stay in memory through the
 * executable view, and come back for the odd jump that is connected later. Otherwise the resident size would show them
 * twice. */
#define T1_UNMAP (1U << 20)
/* More than one translation needs. */
#define T1_RESERVE (256U << 10)
#define T1_TRAPS_MAX (128U << 10)

enum { T1_A = 0, T1_I = 10, T1_P = 11, T1_T = 15, T1_HSP = 4 };

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
    T1_DIV,
    T1_IMUL2,
    T1_IMUL3,
    T1_BSWAP,
    T1_XCHG,
    T1_XCHG_M,
    T1_XADD,
    T1_CMPXCHG,
    T1_CMPXCHG16B,
    T1_BT,
    T1_SCAN,
    T1_BMI,
    T1_CRC32,
    T1_MOVBE,
    T1_FLAG,
    T1_FENCE,
    T1_JCC,
    T1_JMP,
    T1_CALL,
    T1_RET,
    T1_PUSH,
    T1_POP,
    T1_LEAVE,
    T1_PUSHF,
    T1_CLI,
    T1_STI,
    T1_AC, /* STAC, CLAC */
    T1_FP, /* SSE and AVX (t1_fp.c) */
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

/* Operand forms of T1_FP. */
enum { T1_FP_REG, T1_FP_LD, T1_FP_ST, T1_FP_GEN, T1_FP_GEN_LD };

#define T1_DESCS 4096U

/* An instruction of translated code that may trap, and where it goes on then. Offsets in the arena; ascending. */
struct t1_trap {
    uint32_t at, to;
};

/* What an id stands for; its number is the place in the table + 1. */
struct t1_xid {
    uint64_t lin, gpa;
    uint32_t gen;
    bool used;
};
#define T1_XIDS (16U << 10)

struct t1;

struct bt_t1 {
    const uint8_t *rx;         /* executable view of the arena */
    uint8_t *rw;               /* the same pages, writable */
    uint32_t used, first, end; /* bytes in use; by the fixed parts alone; to be used */
    /* Offsets of the fixed parts (t1_fixed.c). */
    uint32_t enter, leave, leave_saved, leave_rip, leave_link, leave_stale, resume, event, note, fp,
        callout[BT_CTX_FETCH];
    uint32_t unmapped; /* so far; multiple of T1_UNMAP */
    uint32_t n_trans;
    _Atomic uint32_t n_traps;
    struct bt_trans *trans; /* T1_TRANS_MAX */
    struct t1_trap *traps;  /* T1_TRAPS_MAX */
    struct t1_xid *xids;    /* T1_XIDS, a hash table */
    uint32_t n_xids;
    struct t1 *work;                /* the translation being made */
    bool bmi2;                      /* of the host */
    struct t1_desc descs[T1_DESCS]; /* hash table by fn */
};

/* Where the guest's arithmetic flags are; at least one bit is set. */
enum t1_fl { T1_FL_HOST = 1 /* in the host's */, T1_FL_IMG = 2 /* in rax */ };

/* Accesses that share one look-up (t1_group.c). lo, hi: their range, relative to the base where the group begins. */
struct t1_group {
    int32_t lo, hi;
    uint8_t base; /* guest register */
    int8_t slot;  /* in c->t1_group; -1: not worth one */
    bool write, open;
    unsigned count, first, last, last_store; /* operations of the node */
};

/* Groups with stores that were not noted yet, and how far their bases have moved. */
struct t1_pending {
    unsigned n;
    struct t1_group group[BT_T1_GROUPS];
    int32_t moved[BT_T1_GROUPS];
};

/* The way to a plain translation, at an operation. */
struct t1_alt {
    uint32_t jump;
    uint64_t rip;
    struct t1_pending pending;
};

/* A way out of the straight line to the operation's handler, and back. */
struct t1_slow {
    const struct bt_op *op;
    uint64_t rip;
    uint32_t jumps[4]; /* displacements that lead there */
    unsigned n_jumps;
    uint32_t at;        /* where it was emitted */
    uint32_t back;      /* where it goes on; 0: the handler ends the block */
    bool from_host;     /* the image is not in rax yet, but the flags are in the host's */
    bool from_mem;      /* the image is in c->t1_flags, rax was used otherwise */
    bool host_flags;    /* at `back` the flags are in the host's */
    uint8_t back_fp_ok; /* at `back` this must be ready */
    int8_t back_slot;   /* at `back` r10 is this group's distance; -1: no matter */
    struct t1_pending pending;
};

/* The way out of a store that may have hit code. */
struct t1_note {
    uint32_t jumps[2], back;
    uint64_t next_rip; /* where to leave to if the block became stale */
    bool dynamic;      /* that is in c->t1_target[0] */
    int32_t offset;    /* of the store from r11 */
    uint8_t size;
    int8_t back_slot;
    bool grouped; /* all stores of the group */
    struct t1_group group;
    int32_t moved;
};

/* The way out of a check that vector instructions may run. */
struct t1_fp_exit {
    uint32_t jump, back;
    struct t1_slow *slow;
    uint8_t want;
};

/* A direct jump out of the region. */
struct t1_exit {
    uint32_t jump;
    bool from_host; /* the image is not in rax yet */
    bool near;      /* the target is in the same page */
    uint64_t target;
};

/* One block of a region: code between two labels. */
struct t1_node {
    struct bt_block *b;
    struct bt_trans *t;
    uint64_t rip;
    unsigned n_ops;  /* up to the start of the next node */
    unsigned n_from; /* jumps and fall-throughs that lead here from inside */
    uint32_t pos;    /* of the label; 0: not emitted */
    uint8_t fl;      /* enum t1_fl there */
    bool loop;       /* target of a backward jump: looks at c->events */
    bool dead;       /* overwrites all flags before anything can see them */
    bool headless;   /* relies on what was checked before it: not entered from outside */
    uint32_t page2_jump, bytes_jump, event_jump, event_back, loop_jump, loop_back;
};

/* A forward jump to a node that is not emitted yet. */
struct t1_fix {
    uint32_t jump;
    struct t1_node *node;
    bool from_host; /* the image is not in rax yet, and the node wants it */
};

#define T1_NODES_MAX 24
#define T1_REGION_OPS 384
#define T1_SLOW_MAX (3 * T1_REGION_OPS)
#define T1_GROUPS_MAX 24
#define T1_ALTS_MAX (2 * T1_REGION_OPS / 4)

struct t1 {
    struct bt_emit e;
    struct bt_vcpu *c;
    struct bt_t1 *t;
    const struct bt_op *op; /* present operation */
    uint64_t rip;           /* its address */
    uint64_t page;          /* linear page address of the region */
    uint8_t ctx;
    uint8_t fl;            /* enum t1_fl */
    uint8_t fp_ok;         /* BT_FP_READY_* that were checked on the way here */
    bool sealed;           /* one node, and its jumps to itself leave it like all others */
    bool done;             /* control has left the straight line */
    struct bt_x x;         /* memory operand of the last probe */
    struct bt_x entry;     /* its TLB entry, valid until r10 changes */
    struct t1_slow *slow;  /* of the present operation, NULL: none yet */
    bool plain;            /* without groups */
    uint8_t pending;       /* slots with stores that were not noted yet */
    int r10_group;         /* the group whose distance is in r10, -1: none */
    int store_group;       /* of the last store, -1: none */
    unsigned i_node, i_op; /* the present ones */
    unsigned n_groups, n_alts;
    unsigned n_nodes, n_slow, n_notes, n_exits, n_fixes, n_fps, n_traps;
    struct t1_node nodes[T1_NODES_MAX];
    struct t1_group groups[T1_GROUPS_MAX];
    int8_t mem_group[BT_BLOCK_OPS_MAX], stack_group[BT_BLOCK_OPS_MAX]; /* by operation of the node; -1: none */
    int32_t moved[BT_BLOCK_OPS_MAX];                                   /* ... how far the base has moved there */
    struct t1_alt alts[T1_ALTS_MAX];
    struct t1_slow slows[T1_SLOW_MAX];
    struct t1_note notes[T1_SLOW_MAX];
    struct t1_fp_exit fps[2 * T1_REGION_OPS];
    struct t1_exit exits[6 * T1_NODES_MAX];
    struct t1_fix fixes[4 * T1_NODES_MAX];
    struct {
        uint32_t at;
        struct t1_slow *slow;
    } traps[T1_SLOW_MAX];
};

/* t1_class.c */
void bt_t1_classify(struct bt_t1 *t);
const struct t1_desc *bt_t1_desc(const struct bt_t1 *t, bt_fn fn);

/* t1_fixed.c: emit the fixed parts at the start of the code memory; returns where free memory begins. */
uint32_t bt_t1_fixed(struct bt_t1 *t);
/* Guest register index to host register, -1: in memory. */
extern const int8_t t1_host[16];

/* t1_gen.c: emit the translation of s->nodes into s->e and fill in the entrances; false: no room. */
bool bt_t1_generate(struct t1 *s);

/* t1_cache.c: the part of the head of content-checked code that leaves where it is not what it was; uses r11, r15 and
 * the host's flags. Returns the displacement of the jump that is taken then. */
uint32_t bt_t1_check_bytes(struct t1 *s, const struct bt_block *b);

/* t1_region.c: the blocks around the one at c's rip that are translated together, into s->nodes in ascending order. */
void bt_t1_region(struct t1 *s, struct bt_block *b);
/* The node that starts at a linear address, or NULL. */
struct t1_node *bt_t1_node_at(struct t1 *s, uint64_t rip);

/* t1_ops.c: emit the present operation; false: not possible (then nothing was emitted). */
bool bt_t1_op(struct t1 *s, const struct t1_desc *d);

/* t1_gen.c: operands. Offsets are those of operations: bytes into c->r. */
#define T1_OFF(member) ((int32_t)offsetof(struct bt_vcpu, member))
struct bt_x t1_state(int32_t off);                      /* memory operand in *c */
struct bt_x t1_guest(unsigned off);                     /* a guest register as r/m operand; AH.. as AL.. */
struct bt_x t1_rm(struct t1 *s, unsigned off, int tmp); /* the same to read, AH.. through tmp */
int t1_src(struct t1 *s, unsigned off, int tmp); /* host register with the guest's value; tmp where it is in memory */
int t1_dst(unsigned off, int tmp);               /* where a result goes; t1_dst_done stores it */
int t1_dst_load(struct t1 *s, unsigned off, int tmp); /* the same with the present value */
void t1_dst_done(struct t1 *s, unsigned off, int reg);

/* t1_gen.c: flags. */
void t1_fl_host(struct t1 *s);    /* into the host's */
void t1_fl_img(struct t1 *s);     /* into rax; the host's stay as they are */
void t1_fl_clobber(struct t1 *s); /* the host's are about to be destroyed */
void t1_fl_set(struct t1 *s);     /* an instruction has just defined all of them in the host's */

/* t1_gen.c: ways out. */
struct t1_slow *t1_slow_get(struct t1 *s);           /* of the present operation */
void t1_slow_jump(struct t1 *s, int cc);             /* a jump to the present operation's handler */
void t1_trap_here(struct t1 *s);                     /* the instruction that comes next may trap: to the handler */
void t1_goto(struct t1 *s, int cc, uint64_t target); /* jump to a guest address, inside or outside the region */
void t1_exit_to(struct t1 *s, uint64_t target);      /* ... for which a translation is looked up anew */
void t1_leave_at(struct t1 *s, uint64_t rip);        /* to the run loop */
void t1_callout(struct t1 *s, const struct bt_op *op, uint64_t rip);

/* Add n, below 128, to a counter in the vCPU; destroys the host's flags. */
void t1_count(struct t1 *s, int32_t counter, unsigned n);

/* t1_probe.c: check the rights of an access and find its host address: s->x. The flags' image is in rax then, the
 * host's are destroyed, r15 is free. A load may use r10 and r11 as soon as it has used s->x. false: not possible,
 * nothing emitted. */
bool t1_mem(struct t1 *s, unsigned size, bool write);
/* The same for [base + disp], 8 bytes. base: host register. */
void t1_stack(struct t1 *s, int base, int32_t disp, bool write);
/* The same for the linear address in r11. */
void t1_probe(struct t1 *s, unsigned size, bool write);
/* Linear address of the operation's memory operand into r11. false: not possible, nothing emitted. */
bool t1_lin(struct t1 *s);
/* After a store through the last probe: was it code? Uses r15, keeps the flags' image. */
void t1_note_store(struct t1 *s, unsigned size);
/* The place of r11's entry in the context's entries, into r10. Destroys the host's flags. */
void t1_tlb_index(struct t1 *s);

/* t1_group.c */
void bt_t1_groups(struct t1 *s, const struct t1_node *n);
/* Make s->x of an access through its group; false: it has none that may be used here, nothing emitted. */
bool t1_group_use(struct t1 *s, int group, int32_t disp, bool write);
/* true: a later store of the group notes this one too. false: r15 is the mask's address. */
bool t1_group_note(struct t1 *s, struct t1_note *n);
void t1_group_note_out(struct t1 *s, const struct t1_note *n);
int8_t t1_group_slot(const struct t1 *s); /* of the group in r10, or -1 */
void t1_group_reload(struct t1 *s, int8_t slot);
void t1_pending_save(const struct t1 *s, struct t1_pending *ret);
/* Note them; rip: where to leave to if that was code. Uses r10, r11, r15 and the host's flags. */
void t1_out_pending(struct t1 *s, const struct t1_pending *p, uint64_t rip);
void t1_alt_jump(struct t1 *s, int cc); /* t1_gen.c: to a plain translation from the present operation on */

/* t1_probe.c: out of line. */
void t1_out_note(struct t1 *s, const struct t1_note *n);

/* t1_fp.c: out of line. */
void t1_out_fp(struct t1 *s, const struct t1_fp_exit *x);

/* t1_trap.c: where code at arena offset `at` goes on after a trap; 0: nowhere. Async-signal-safe. */
uint32_t bt_t1_trap(const struct bt_t1 *t, uint32_t at);

#endif
