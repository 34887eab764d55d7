/* Device rules for cgroup v2: a BPF program that the kernel asks at each open and mknod.
 *
 * The program has one block for each rule, from the last to the first, since the last that matches counts. r6 holds the
 * accesses that no rule has decided yet, so that "allow r" and "allow w" together allow an open for both:
 *
 *     r2 = type, r6 = access, r4 = major, r5 = minor      (of struct bpf_cgroup_dev_ctx at r1)
 *     rule "deny c 1:* w":  if r2 != CHAR goto next; if r4 != 1 goto next; r1 = r6 & WRITE; if r1 != 0 return 0; next:
 *     rule "allow c 1:3 r": if r2 != CHAR goto next; if r4 != 1 goto next; if r5 != 3 goto next; r6 &= ~READ;
 *                           if r6 != 0 goto next; return 1; next:
 *     return 0
 *
 * Spec: linux/bpf.h; Documentation/bpf/standardization/instruction-set.rst. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "oci/cgroup_priv.h"

#define BPF_RULES_MAX 4096 /* a rule is at most 7 instructions */
#define BPF_RULE_INSNS 8
#define BPF_ATTACHED_MAX 64

struct bpf_out {
    struct bpf_insn *v;
    size_t n;
};

static void bpf_emit(struct bpf_out *o, uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm)
{
    struct bpf_insn *i = &o->v[o->n++];

    *i = (struct bpf_insn){ .code = code, .off = off, .imm = imm };
    /* dst_reg and src_reg, which are bit-fields of the second byte. */
    ((uint8_t *)i)[1] = (uint8_t)(dst | src << 4);
}

static void bpf_prologue(struct bpf_out *o)
{
    bpf_emit(o, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, access_type), 0);
    bpf_emit(o, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_6, BPF_REG_2, 0, 0);
    bpf_emit(o, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff);
    bpf_emit(o, BPF_ALU | BPF_RSH | BPF_K, BPF_REG_6, 0, 0, 16);
    bpf_emit(o, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_4, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, major), 0);
    bpf_emit(o, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_5, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, minor), 0);
}

static void bpf_return(struct bpf_out *o, int32_t value)
{
    bpf_emit(o, BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, value);
    bpf_emit(o, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* 32 bits: a major or minor above INT32_MAX is to compare equal too. */
static void bpf_skip_unless(struct bpf_out *o, uint8_t reg, int64_t value)
{
    bpf_emit(o, BPF_JMP32 | BPF_JNE | BPF_K, reg, 0, 0, (int32_t)(uint32_t)value);
}

static void bpf_rule(struct bpf_out *o, const struct oci_device_rule *d)
{
    int32_t access = (d->read ? BPF_DEVCG_ACC_READ : 0) | (d->write ? BPF_DEVCG_ACC_WRITE : 0) |
                     (d->mknod ? BPF_DEVCG_ACC_MKNOD : 0);
    size_t start = o->n;

    if (access == 0)
        return;
    if (d->type != 'a')
        bpf_skip_unless(o, BPF_REG_2, d->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
    if (d->major >= 0)
        bpf_skip_unless(o, BPF_REG_4, d->major);
    if (d->minor >= 0)
        bpf_skip_unless(o, BPF_REG_5, d->minor);
    if (d->allow) {
        bpf_emit(o, BPF_ALU | BPF_AND | BPF_K, BPF_REG_6, 0, 0, ~access);
        bpf_emit(o, BPF_JMP32 | BPF_JNE | BPF_K, BPF_REG_6, 0, 0, 0);
        bpf_return(o, 1);
    } else {
        bpf_emit(o, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_6, 0, 0);
        bpf_emit(o, BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, access);
        bpf_emit(o, BPF_JMP32 | BPF_JEQ | BPF_K, BPF_REG_1, 0, 0, 0);
        bpf_return(o, 0);
    }
    for (size_t i = start; i < o->n; i++) { /* all jumps lead behind the rule */
        if (BPF_CLASS(o->v[i].code) == BPF_JMP32)
            o->v[i].off = (int16_t)(o->n - i - 1);
    }
}

/* "a" without numbers and with all accesses decides whatever is left: rules before it are dead code, which the kernel's
 * verifier refuses. */
static bool bpf_decides_all(const struct oci_device_rule *d)
{
    return d->type == 'a' && d->major < 0 && d->minor < 0 && d->read && d->write && d->mknod;
}

int cgroup_bpf_compile(const struct oci_device_rule *rules, size_t n, struct bpf_insn **ret, size_t *ret_n)
{
    struct bpf_out o = { 0 };
    int32_t rest = 0;

    if (n > BPF_RULES_MAX)
        return -E2BIG;
    o.v = calloc(n * BPF_RULE_INSNS + 16, sizeof(*o.v));
    if (!o.v)
        return -ENOMEM;
    bpf_prologue(&o);
    for (size_t i = n; i-- > 0;) {
        if (bpf_decides_all(&rules[i])) {
            rest = rules[i].allow;
            break;
        }
        bpf_rule(&o, &rules[i]);
    }
    bpf_return(&o, rest);
    *ret = o.v;
    *ret_n = o.n;
    return 0;
}

static int bpf_call(int command, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

    return r < 0 ? -errno : (int)r;
}

static int bpf_load(const struct bpf_insn *program, size_t n)
{
    static const char license[] = "GPL";
    union bpf_attr attr;
    int r;

    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insn_cnt = (uint32_t)n;
    attr.insns = (uint64_t)(uintptr_t)program;
    attr.license = (uint64_t)(uintptr_t)license;
    memcpy(attr.prog_name, "caisson_devices", sizeof("caisson_devices"));
    do
        r = bpf_call(BPF_PROG_LOAD, &attr);
    while (r == -EAGAIN); /* the verifier was interrupted by a signal */
    return r;
}

/* The programs that are attached to the group itself, as ids. Returns how many, or -errno. */
static int bpf_attached(int group, uint32_t ids[BPF_ATTACHED_MAX])
{
    union bpf_attr attr;
    int r;

    memset(&attr, 0, sizeof(attr));
    attr.query.target_fd = (uint32_t)group;
    attr.query.attach_type = BPF_CGROUP_DEVICE;
    attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
    attr.query.prog_cnt = BPF_ATTACHED_MAX;
    r = bpf_call(BPF_PROG_QUERY, &attr);
    return r < 0 ? r : (int)attr.query.prog_cnt;
}

static int bpf_open(uint32_t id)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_id = id;
    return bpf_call(BPF_PROG_GET_FD_BY_ID, &attr);
}

static int bpf_attach(int group, int program, uint32_t flags, int replaced)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)group;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = flags;
    attr.replace_bpf_fd = replaced < 0 ? 0 : (uint32_t)replaced;
    return bpf_call(BPF_PROG_ATTACH, &attr);
}

static void bpf_detach(int group, int program)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)group;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_DEVICE;
    (void)bpf_call(BPF_PROG_DETACH, &attr);
}

/* In the place of one program at once; with several (systemd's, an earlier runtime's), ours is added first, so that
 * there is no moment without: all must allow. */
static int bpf_replace(int group, int program)
{
    uint32_t ids[BPF_ATTACHED_MAX];
    int n = bpf_attached(group, ids), r;
    AUTO_FD int old = n == 1 ? bpf_open(ids[0]) : -1;

    if (old >= 0 && bpf_attach(group, program, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, old) == 0)
        return 0;
    r = bpf_attach(group, program, BPF_F_ALLOW_MULTI, -1);
    for (int i = 0; i < n && r == 0; i++) {
        AUTO_FD int fd = bpf_open(ids[i]);

        if (fd >= 0)
            bpf_detach(group, fd);
    }
    return r;
}

int cgroup_bpf_attach(const char *dir, const struct bpf_insn *program, size_t n)
{
    AUTO_FD int group = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_FD int fd = group < 0 ? -1 : bpf_load(program, n);

    if (group < 0)
        return -errno;
    return fd < 0 ? fd : bpf_replace(group, fd);
}
