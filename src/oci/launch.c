#include "oci/launch.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

void oci_launch_init(struct oci_launch *l)
{
    *l = (struct oci_launch){ .sync_fd = { -1, -1 },
                              .state_fd = { -1, -1 },
                              .listen_fd = -1,
                              .console_fd = -1,
                              .terminal_fd = -1,
                              .notify_fd = -1,
                              .proc_fd = -1,
                              .root_mount = -1 };
    for (unsigned i = 0; i < OCI_NS_KINDS; i++)
        l->join_fd[i] = -1;
}

void oci_launch_done(struct oci_launch *l)
{
    int *const fds[] = { &l->sync_fd[0],  &l->sync_fd[1], &l->listen_fd, &l->console_fd,
                         &l->terminal_fd, &l->notify_fd,  &l->proc_fd,   &l->root_mount };

    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    for (unsigned i = 0; i < OCI_NS_KINDS; i++) {
        if (l->join_fd[i] >= 0)
            close(l->join_fd[i]);
        l->join_fd[i] = -1;
    }
    for (size_t i = 0; l->mount_fds && i < l->spec->n_mounts; i++) {
        if (l->mount_fds[i] >= 0)
            close(l->mount_fds[i]);
    }
    free(l->mount_fds);
    l->mount_fds = NULL;
    oci_bpf_done(&l->bpf);
    oci_cgroup_free(l->cgroup);
    l->cgroup = NULL;
}
