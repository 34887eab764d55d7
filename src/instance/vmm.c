#include "instance/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/net_attach.h"
#include "instance/vm_client.h"
#include "sys/dirs.h"

/* Take the descriptors of all cards; in the specification the numbers that they get in the VMM stand for them. */
static unsigned vmm_take_fds(struct vm_spec *s, int fds[INST_VMM_FDS_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < s->n_nets; i++) {
        struct vm_nic *nic = &s->nets[i];

        for (unsigned j = 0; j < nic->n_fds; j++) {
            fds[n] = nic->fds[j];
            nic->fds[j] = INST_VMM_FD_FIRST + (int)n++;
        }
    }
    return n;
}
_Static_assert(VM_NICS_MAX *VM_NIC_FDS_MAX < INST_VMM_FDS_MAX, "the descriptors of all cards can be passed");

/* A VM that has a name can be asked by it (proto/vm_msg.h). */
static int vmm_place(struct vm_spec *s, struct err *e)
{
    char dir[SYS_DIR_MAX + 8];
    int r = s->name ? inst_vm_run_dir(dir, sizeof(dir), e) : 0;

    if (r < 0 || !s->name)
        return r;
    s->run_dir = strdup(dir);
    return s->run_dir ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* The arguments for a restore; its descriptor goes behind those of the cards. */
static void vmm_restore_args(const struct inst_vmm_restore *restore, int fd, char number[16],
                             const char *ret_args[INST_VMM_ARGS_MAX + 1])
{
    unsigned n = 0;

    snprintf(number, 16, "%d", fd);
    ret_args[n++] = "--restore-fd"; /* first of them: the VMM cuts there when the guest resets */
    ret_args[n++] = number;
    if (restore->catch_up)
        ret_args[n++] = "--catch-up";
    if (restore->new_identity)
        ret_args[n++] = "--new-identity";
    if (restore->as_saved)
        ret_args[n++] = "--as-saved";
}

bool inst_vmm_has_run(int fd)
{
    return lseek(fd, 0, SEEK_CUR) > 0;
}

int inst_vmm_start(struct vm_spec *s, const struct inst_vmm_restore *restore, const struct inst_vmm_hook *hook,
                   int stderr_fd, struct inst_vmm *ret_vmm, struct err *e)
{
    const char *args[INST_VMM_ARGS_MAX + 1] = { NULL };
    char number[16];
    AUTO_FREE char *text = NULL;
    int fds[INST_VMM_FDS_MAX], r = vm_spec_complete(s, e);
    unsigned n_fds, n_own;

    if (r >= 0)
        r = inst_net_attach(s, e);
    if (r >= 0)
        r = vmm_place(s, e);
    n_own = n_fds = vmm_take_fds(s, fds);
    if (restore) {
        vmm_restore_args(restore, INST_VMM_FD_FIRST + (int)n_fds, number, args);
        fds[n_fds++] = restore->fd;
    }
    if (r >= 0 && vm_spec_to_json(s, &text) < 0)
        r = err_set(e, ENOMEM, "out of memory");
    if (r >= 0 && hook)
        r = hook->fn(hook->opaque, e);
    if (r >= 0)
        r = inst_vmm_spawn(text, s->console == VM_CONSOLE_STDIO, fds, n_fds, args, stderr_fd, ret_vmm, e);
    for (unsigned i = 0; i < n_own; i++)
        close(fds[i]);
    return r;
}
