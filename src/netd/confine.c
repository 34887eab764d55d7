/* Less power: once its ports to the outside are open, the process needs sockets and memory, no privileges. */
#include <errno.h>
#include <seccomp.h>
#include <sys/capability.h>
#include <sys/prctl.h>

#include "netd/netd_priv.h"

/* System calls that attack kernels and neighbours, and that nothing here ever makes. */
static const int confine_denied[] = {
    SCMP_SYS(acct),
    SCMP_SYS(add_key),
    SCMP_SYS(bpf),
    SCMP_SYS(chroot),
    SCMP_SYS(delete_module),
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(finit_module),
    SCMP_SYS(fsmount),
    SCMP_SYS(fsopen),
    SCMP_SYS(init_module),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(ioperm),
    SCMP_SYS(iopl),
    SCMP_SYS(kcmp),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(kexec_load),
    SCMP_SYS(keyctl),
    SCMP_SYS(mount),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(personality),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(pivot_root),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(quotactl),
    SCMP_SYS(reboot),
    SCMP_SYS(request_key),
    SCMP_SYS(setns),
    SCMP_SYS(swapoff),
    SCMP_SYS(swapon),
    SCMP_SYS(umount2),
    SCMP_SYS(unshare),
    SCMP_SYS(userfaultfd),
#ifndef __SANITIZE_ADDRESS__ /* which looks for leaks that way */
    SCMP_SYS(ptrace),
#endif
};

/* All capabilities but the one that lets port forwards be below 1024, where it is ours. */
static int confine_drop_capabilities(void)
{
    const cap_value_t kept = CAP_NET_BIND_SERVICE;
    cap_t now = cap_get_proc(), less = cap_init(); /* the latter: all sets empty */
    cap_flag_value_t have = CAP_CLEAR;
    int r = now && less ? 0 : -ENOMEM;

    if (r == 0 && cap_get_flag(now, kept, CAP_PERMITTED, &have) == 0 && have == CAP_SET) {
        if (cap_set_flag(less, CAP_PERMITTED, 1, &kept, CAP_SET) < 0 ||
            cap_set_flag(less, CAP_EFFECTIVE, 1, &kept, CAP_SET) < 0)
            r = -errno;
    }
    if (r == 0 && cap_set_proc(less) < 0)
        r = -errno;
    cap_free(now);
    cap_free(less);
    return r;
}

static int confine_seccomp(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = filter ? 0 : -ENOMEM;

    for (size_t i = 0; i < ARRAY_SIZE(confine_denied) && r == 0; i++) {
        /* Negative numbers: calls that this architecture does not have. */
        if (confine_denied[i] >= 0)
            r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), confine_denied[i], 0);
    }
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}

int netd_confine(void)
{
    int r;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    r = confine_drop_capabilities();
    return r < 0 ? r : confine_seccomp();
}
