/* Fuzz target: guest memory as the queues of a virtio-vsock device, with a socket that the guest may call at port 77.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz_virtio.h"
#include "virtio/vsock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sockaddr_un addr = { .sun_family = AF_UNIX };
    static struct virtio_vsock_config config = { .guest_cid = 3, .listen_fd = -1, .slot = 1 };
    static struct fuzz_machine f;
    static struct virtio_vsock *vsock;
    static int listener;

    if (!vsock) {
        char prefix[64];

        fuzz_machine_init(&f);
        snprintf(prefix, sizeof(prefix), "/tmp/fuzz_vsock.%d", getpid());
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_77", prefix);
        config.prefix = prefix;
        CHECK(virtio_vsock_new(&f.env, &config, &vsock) == 0);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        CHECK(listener >= 0);
    }
    CHECK(unlink(addr.sun_path) == 0 || access(addr.sun_path, F_OK) != 0);
    close(listener); /* what was called in the last round ends */
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, 16) == 0);
    if (size > 1)
        fuzz_queues(&f, 3, data, size);
    unlink(addr.sun_path);
    return 0;
}
