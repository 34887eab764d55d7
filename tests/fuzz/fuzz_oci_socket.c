/* What the other side of the runtime's sockets may send, and what an agent of seccomp gets: the container's first
 * process (sync), a console's sender (any number of descriptors), a state made out of any config.json. */
#include <json-c/json.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "oci/console.h"
#include "oci/seccomp_priv.h"
#include "oci/state.h"
#include "oci/sync.h"

static void from_peer(const uint8_t *data, size_t size, int type, unsigned n_fds)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec iov = { (void *)data, size };
    struct msghdr m = { .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = n_fds ? &control : NULL,
                        .msg_controllen = n_fds ? CMSG_SPACE(n_fds * sizeof(int)) : 0 };
    struct err e = { 0 };
    int pair[2], fd;

    memset(&control, 0, sizeof(control)); /* descriptor 0, n_fds times */
    control.head = (struct cmsghdr){ CMSG_LEN(n_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
    CHECK(socketpair(AF_UNIX, type, 0, pair) == 0 && sendmsg(pair[0], &m, 0) == (ssize_t)size);
    close(pair[0]);
    if (type == SOCK_STREAM && oci_receive_fd(pair[1], &fd) == 0)
        close(fd);
    else if (type == SOCK_SEQPACKET && oci_sync_wait_two(pair[1], OCI_SYNC_READY, OCI_SYNC_HOOKS, &e) < 0)
        CHECK(e.code != 0);
    close(pair[1]);
}

static void to_agent(const struct oci_spec *s)
{
    const struct oci_record r = {
        .id = "id", .bundle = s->root_path, .rootfs = "/", .created = "", .spec = s, .pid = 1
    };
    struct buf state, message;
    struct json_object *o;

    buf_init(&state, OCI_STATE_MAX);
    buf_init(&message, OCI_STATE_MAX);
    oci_record_json(&r, OCI_CREATED, &state);
    if (buf_error(&state) == 0)
        oci_seccomp_notify_message(&s->seccomp, 1, (const char *)state.data, state.len, &message);
    buf_append(&message, "", 1);
    o = message.error ? NULL : json_tokener_parse((const char *)message.data);
    CHECK(buf_error(&state) < 0 || message.error || json_object_object_get_ex(o, "state", NULL));
    json_object_put(o);
    buf_done(&state);
    buf_done(&message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int before = dup(0);
    struct oci_spec *s = NULL;

    close(before);
    if (size > 1 && size < 65536) {
        from_peer(data + 1, size - 1, SOCK_STREAM, data[0] % 9);
        from_peer(data + 1, size - 1, SOCK_SEQPACKET, data[0] % 2);
    }
    if (oci_spec_parse((const char *)data, size, &s, NULL) == 0)
        to_agent(s);
    oci_spec_free(s);
    CHECK(dup(0) == before); /* no descriptor stays */
    close(before);
    return 0;
}
