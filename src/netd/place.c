/* Lock and socket of a network's process: why they cannot be had. */
#include <errno.h>
#include <string.h>

#include "netd/netd_priv.h"

int netd_place_take(const char *network, struct sys_place *p, struct err *e)
{
    char runtime[SYS_DIR_MAX], dir[SYS_DIR_MAX] = "";
    enum sys_place_step step = SYS_PLACE_NAME;
    int r = sys_dirs_runtime(runtime);

    if (r == 0)
        r = net_msg_socket_dir(runtime, dir, sizeof(dir));
    if (r == 0)
        r = sys_place_take(dir, network, p, &step);
    if (r == 0)
        return 0;
    switch (step) {
    case SYS_PLACE_NAME:
        return err_set(e, -r,
                       "network %s: the runtime directory's name is too long for a socket; set "
                       "CAISSON_RUNTIME_DIR to a shorter one",
                       network);
    case SYS_PLACE_DIR:
        return err_set(e, -r, "cannot use the runtime directory %s: %s; remove it or set CAISSON_RUNTIME_DIR", dir,
                       r == -EPERM ? "it belongs to somebody else, or others may write there" : strerror(-r));
    case SYS_PLACE_LOCK:
        if (r == -EBUSY)
            return err_set(e, EBUSY, "network %s is running already", network);
        return err_set(e, -r, "cannot lock %s: %s", p->lock_path, strerror(-r));
    case SYS_PLACE_SOCKET:
        break;
    }
    return err_set(e, -r, "cannot make the socket %s: %s; remove what is there", p->socket_path, strerror(-r));
}
