#include "oci/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "oci/ns.h"

int oci_idmap_userns(const struct oci_mappings *uids, const struct oci_mappings *gids, struct err *e)
{
    const struct oci_spec s = { .uid_mappings = *uids, .gid_mappings = *gids };
    const pid_t parent = getpid(), pid = oci_clone(CLONE_NEWUSER, -1);
    char path[32];
    int r, fd = -1;

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == parent)
            pause();
        _exit(1);
    }
    if (pid < 0)
        return err_set(e, -pid, "a user namespace for mapped mounts: %s", strerrordesc_np(-pid));
    r = oci_ns_map(&s, pid, e);
    if (r == 0) {
        snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            r = err_set(e, errno, "%s: %m", path);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return r < 0 ? r : fd;
}
