/* linux.seccomp to BPF. The order of things: architectures first (libseccomp gives a rule to those that are there),
 * then the rules, then the program through a memfd, which is all that libseccomp 2.5 can write to. */
#include "oci/seccomp.h"

#include <ctype.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/seccomp_priv.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#define SECCOMP_ARCHES_MAX 32

static const struct {
    const char *name;
    unsigned long flag;
} seccomp_flags[] = {
    { "SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC },
    { "SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG },
    { "SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW },
    { "SECCOMP_FILTER_FLAG_NEW_LISTENER", SECCOMP_FILTER_FLAG_NEW_LISTENER },
    { "SECCOMP_FILTER_FLAG_TSYNC_ESRCH", SECCOMP_FILTER_FLAG_TSYNC_ESRCH },
    { "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV },
};

static const enum scmp_compare seccomp_ops[] = {
    [OCI_CMP_NE] = SCMP_CMP_NE,
    [OCI_CMP_LT] = SCMP_CMP_LT,
    [OCI_CMP_LE] = SCMP_CMP_LE,
    [OCI_CMP_EQ] = SCMP_CMP_EQ,
    [OCI_CMP_GE] = SCMP_CMP_GE,
    [OCI_CMP_GT] = SCMP_CMP_GT,
    [OCI_CMP_MASKED_EQ] = SCMP_CMP_MASKED_EQ,
};

/* The state of one compilation. */
struct seccomp_build {
    scmp_filter_ctx ctx;
    const struct oci_seccomp *s;
    uint32_t default_action;
    uint32_t arches[SECCOMP_ARCHES_MAX];
    int newest[SECCOMP_ARCHES_MAX]; /* number of the newest call that a rule names */
    size_t n_arches;
    bool stub, notify;
};

static uint32_t seccomp_action(enum oci_seccomp_action action, int64_t errno_ret)
{
    const uint16_t data = (uint16_t)(errno_ret == OCI_UNSET ? EPERM : errno_ret);

    switch (action) {
    case OCI_ACT_KILL_THREAD:
        return SCMP_ACT_KILL_THREAD;
    case OCI_ACT_KILL_PROCESS:
        return SCMP_ACT_KILL_PROCESS;
    case OCI_ACT_TRAP:
        return SCMP_ACT_TRAP;
    case OCI_ACT_ERRNO:
        return SCMP_ACT_ERRNO(data);
    case OCI_ACT_TRACE:
        return SCMP_ACT_TRACE(data);
    case OCI_ACT_ALLOW:
        return SCMP_ACT_ALLOW;
    case OCI_ACT_LOG:
        return SCMP_ACT_LOG;
    case OCI_ACT_NOTIFY:
        return SCMP_ACT_NOTIFY;
    }
    return SCMP_ACT_KILL_PROCESS;
}

/* Flags that the configuration names. None named at all: SPEC_ALLOW, runc's default; an empty array: none. */
static int seccomp_read_flags(const struct oci_seccomp *s, unsigned long *ret, struct err *e)
{
    unsigned long flags = s->flags_present ? 0 : SECCOMP_FILTER_FLAG_SPEC_ALLOW;

    for (size_t i = 0; i < s->flags.n; i++) {
        size_t k = 0;

        while (k < ARRAY_SIZE(seccomp_flags) && strcmp(seccomp_flags[k].name, s->flags.v[i]) != 0)
            k++;
        if (k == ARRAY_SIZE(seccomp_flags))
            return err_set(e, EINVAL, "linux.seccomp.flags: %s is not known; take it out", s->flags.v[i]);
        flags |= seccomp_flags[k].flag;
    }
    *ret = flags;
    return 0;
}

/* What is about a listener goes only where there is one; and TSYNC means nothing to the payload, whose one thread loads
 * the filter before execve, but would be about the thread that hands the listener over. */
static unsigned long seccomp_fit_flags(unsigned long flags, bool notify)
{
    flags &= ~(unsigned long)(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
                              SECCOMP_FILTER_FLAG_NEW_LISTENER);
    return notify ? flags | SECCOMP_FILTER_FLAG_NEW_LISTENER : flags & ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
}

static int seccomp_add_arches(struct seccomp_build *b, struct err *e)
{
    char name[32];

    b->arches[b->n_arches++] = seccomp_arch_native();
    for (size_t i = 0; i < b->s->architectures.n; i++) {
        const char *word = b->s->architectures.v[i];
        const char *given = strncmp(word, "SCMP_ARCH_", 10) == 0 ? word + 10 : word;
        uint32_t arch;
        size_t k = 0;
        int r;

        for (; given[k] && k < sizeof(name) - 1; k++)
            name[k] = (char)tolower((unsigned char)given[k]);
        name[k] = '\0';
        arch = strcmp(name, "native") == 0 ? b->arches[0] : seccomp_arch_resolve_name(name);
        if (arch == 0)
            return err_set(e, EINVAL, "linux.seccomp.architectures: %s is not known; take it out", word);
        r = seccomp_arch_add(b->ctx, arch);
        if (r == -EEXIST)
            continue;
        if (r < 0 || b->n_arches == SECCOMP_ARCHES_MAX)
            return err_set(e, r < 0 ? -r : E2BIG, "linux.seccomp.architectures: %s does not go with this machine's",
                           word);
        b->arches[b->n_arches++] = arch;
    }
    return 0;
}

/* Which number the call has on each architecture: only the ENOSYS stub wants to know. */
static void seccomp_note_newest(struct seccomp_build *b, const char *name)
{
    for (size_t i = 0; b->stub && i < b->n_arches; i++) {
        int nr = seccomp_syscall_resolve_name_arch(b->arches[i], name);

        if (nr > b->newest[i])
            b->newest[i] = nr;
    }
}

/* Conditions of a rule hold all together; but where two are about one argument each is a rule of its own, as runc and
 * the profiles that are written for it have it (libseccomp takes one condition for an argument). */
static int seccomp_add_rule(struct seccomp_build *b, uint32_t action, int nr, const struct oci_seccomp_rule *rule)
{
    struct scmp_arg_cmp cmp[6];
    unsigned seen = 0;
    bool twice = false;
    int r = 0;

    for (size_t i = 0; i < rule->n_args; i++) {
        const struct oci_seccomp_arg *a = &rule->args[i];

        twice |= seen >> a->index & 1;
        seen |= 1u << a->index;
    }
    for (size_t i = 0; i < rule->n_args; i++) {
        const struct oci_seccomp_arg *a = &rule->args[i];
        struct scmp_arg_cmp *c = &cmp[twice ? 0 : i];

        *c = (struct scmp_arg_cmp){
            .arg = a->index, .op = seccomp_ops[a->op], .datum_a = a->value, .datum_b = a->value_two
        };
        if (twice)
            r = seccomp_rule_add_array(b->ctx, action, nr, 1, cmp);
        if (r < 0)
            return r;
    }
    return twice ? 0 : seccomp_rule_add_array(b->ctx, action, nr, (unsigned)rule->n_args, cmp);
}

static int seccomp_add_rules(struct seccomp_build *b, struct err *e)
{
    for (size_t i = 0; i < b->s->n_rules; i++) {
        const struct oci_seccomp_rule *rule = &b->s->rules[i];
        const uint32_t action = seccomp_action(rule->action, rule->errno_ret);

        for (size_t k = 0; k < rule->names.n; k++) {
            const char *name = rule->names.v[k];
            const int nr = seccomp_syscall_resolve_name(name);
            int r;

            if (nr == __NR_SCMP_ERROR)
                continue; /* newer than this libseccomp */
            seccomp_note_newest(b, name);
            if (action == b->default_action)
                continue;
            if (rule->action == OCI_ACT_NOTIFY && strcmp(name, "write") == 0)
                return err_set(e, EINVAL,
                               "linux.seccomp.syscalls[%zu]: write must not be SCMP_ACT_NOTIFY: the runtime "
                               "needs it to hand the listener over",
                               i);
            r = seccomp_add_rule(b, action, nr, rule);
            if (r < 0)
                return err_set(e, -r, "linux.seccomp.syscalls[%zu]: %s: %s", i, name, strerrordesc_np(-r));
            b->notify |= rule->action == OCI_ACT_NOTIFY;
        }
    }
    return 0;
}

static int seccomp_export(scmp_filter_ctx ctx, struct oci_bpf *ret)
{
    AUTO_FD int fd = memfd_create("caisson-seccomp", MFD_CLOEXEC);
    AUTO_FREE void *program = NULL;
    struct stat st;
    int r;

    if (fd < 0)
        return -errno;
    r = seccomp_export_bpf(ctx, fd);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size <= 0 || st.st_size % (off_t)sizeof(struct sock_filter) != 0)
        return -EIO;
    if (st.st_size > (off_t)(OCI_BPF_MAX * sizeof(struct sock_filter)))
        return -E2BIG;
    program = malloc((size_t)st.st_size);
    if (!program)
        return -ENOMEM;
    if (pread(fd, program, (size_t)st.st_size, 0) != st.st_size)
        return -EIO;
    ret->n = (size_t)st.st_size / sizeof(struct sock_filter);
    ret->program = STEAL(program);
    return 0;
}

static int seccomp_build(struct seccomp_build *b, struct oci_bpf *ret, struct err *e)
{
    int r;

    b->ctx = seccomp_init(b->default_action);
    if (!b->ctx)
        return err_set(e, EINVAL, "linux.seccomp.defaultAction: this kernel does not know it");
    /* no_new_privs is the process' own setting; a tree of comparisons instead of a list makes calls and, as the kernel
     * runs the filter for every call number, the loading cheaper. */
    r = seccomp_attr_set(b->ctx, SCMP_FLTATR_CTL_NNP, 0);
    if (r == 0)
        r = seccomp_attr_set(b->ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (r < 0)
        return err_set(e, -r, "linux.seccomp: libseccomp is too old");
    r = seccomp_add_arches(b, e);
    if (r == 0)
        r = seccomp_add_rules(b, e);
    if (r < 0)
        return r;
    r = seccomp_export(b->ctx, ret);
    if (r == 0 && b->stub)
        r = oci_bpf_stub(ret, b->arches, b->newest, b->n_arches);
    return r < 0 ? err_set(e, -r, "linux.seccomp: the filter's program: %s", strerrordesc_np(-r)) : 0;
}

int oci_seccomp_compile(const struct oci_seccomp *s, struct oci_bpf *ret, struct err *e)
{
    const enum oci_seccomp_action dflt = s->default_action;
    struct seccomp_build b = { .s = s, .default_action = seccomp_action(dflt, s->default_errno_ret) };
    struct oci_bpf bpf = { 0 };
    int r = seccomp_read_flags(s, &bpf.flags, e);

    if (r < 0)
        return r;
    memset(b.newest, 0xff, sizeof(b.newest));
    b.stub = s->default_errno_ret != ENOSYS && (dflt == OCI_ACT_ERRNO || dflt == OCI_ACT_KILL_THREAD ||
                                                dflt == OCI_ACT_KILL_PROCESS || dflt == OCI_ACT_TRAP);
    r = seccomp_build(&b, &bpf, e);
    if (b.ctx)
        seccomp_release(b.ctx);
    if (r == 0 && b.notify && !s->listener_path)
        r = err_set(e, EINVAL, "linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath");
    if (r == 0 && s->listener_metadata && !s->listener_path)
        r = err_set(e, EINVAL, "linux.seccomp: listenerMetadata stands there without a listenerPath");
    if (r < 0) {
        oci_bpf_done(&bpf);
        return r;
    }
    bpf.notify = b.notify;
    bpf.flags = seccomp_fit_flags(bpf.flags, b.notify);
    *ret = bpf;
    return 0;
}

const char *oci_seccomp_flag_word(size_t i)
{
    return i < ARRAY_SIZE(seccomp_flags) ? seccomp_flags[i].name : NULL;
}

bool oci_seccomp_flag_supported(size_t i)
{
    const unsigned long flag = seccomp_flags[i].flag;
    /* This one is for listeners only. */
    const unsigned long with = flag == SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;

    /* A filter that is not there is noticed after the flags. */
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag | with, NULL) < 0 && errno == EFAULT;
}

void oci_bpf_done(struct oci_bpf *b)
{
    free(b->program);
    *b = (struct oci_bpf){ 0 };
}

int oci_seccomp_load(const struct oci_bpf *b, int *ret_listener, struct err *e)
{
    const struct sock_fprog program = { .len = (unsigned short)b->n, .filter = b->program };
    long r = 0;

    if (b->program)
        r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, b->flags, &program);
    if (r < 0 && errno == EACCES)
        return err_set(e, EACCES, "seccomp: the kernel wants CAP_SYS_ADMIN or process.noNewPrivileges for a filter");
    if (r < 0)
        return err_set(e, errno, "seccomp: load the filter (%zu instructions, flags %#lx): %s", b->n, b->flags,
                       strerrordesc_np(errno));
    *ret_listener = b->program && b->notify ? (int)r : -1;
    return 0;
}
