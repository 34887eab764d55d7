#include "vmm/devices_vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "virtio/vsock.h"
#include "vmm/machine_priv.h"

#define VSOCK_GUEST_CID 3 /* each VM has sockets of its own, so the number need not differ */
#define VSOCK_BACKLOG 64

/* The lock of the machine's name is held: whatever is at the path belongs to a process that is dead. */
static int vsock_listen(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    AUTO_FD int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (sock < 0)
        return -errno;
    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path) + 1);
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(sock, VSOCK_BACKLOG) < 0)
        return -errno;
    return STEAL_FD(sock);
}

int devices_vsock_new(struct machine *m, const struct virtio_env *env, struct err *e)
{
    struct virtio_vsock_config config = { .guest_cid = VSOCK_GUEST_CID, .listen_fd = -1, .slot = -1 };
    int r;

    if (m->spec->run_dir) {
        if (asprintf(&m->vsock_path, "%s/%s.vsock", m->spec->run_dir, m->spec->name) < 0) {
            m->vsock_path = NULL;
            return err_set(e, ENOMEM, "out of memory");
        }
        config.prefix = m->vsock_path;
        config.listen_fd = vsock_listen(m->vsock_path);
        if (config.listen_fd == -ENAMETOOLONG)
            return err_set(e, ENAMETOOLONG,
                           "VM %s: the runtime directory's name is too long for a socket; set CAISSON_RUNTIME_DIR to a "
                           "shorter one",
                           m->spec->name);
        if (config.listen_fd < 0)
            return err_set(e, -config.listen_fd, "cannot make the socket %s: %s; remove what is there", m->vsock_path,
                           strerror(-config.listen_fd));
    }
    r = virtio_vsock_new(env, &config, &m->vsock);
    if (r == 0)
        return 0;
    base_closep(&config.listen_fd);
    return err_set(e, -r, "cannot make the vsock device: %s", strerror(-r));
}

void devices_vsock_unlink(struct machine *m)
{
    if (m->vsock_path)
        unlink(m->vsock_path);
}

void devices_vsock_free(struct machine *m)
{
    virtio_vsock_free(m->vsock);
    free(m->vsock_path);
}
