/* Messages of the switch over the socket (proto/msg.h), and where the socket is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "proto/msg.h"
#include "proto/net_msg.h"

_Static_assert(NET_MSG_FDS_MAX == PROTO_MSG_FDS_MAX, "one number of descriptors");

int net_msg_send(int sock, const char *text, const int *fds, unsigned n_fds)
{
    return proto_msg_send(sock, text, fds, n_fds);
}

int net_msg_receive(int sock, char **ret_text, int ret_fds[NET_MSG_FDS_MAX], unsigned *ret_n)
{
    return proto_msg_receive(sock, ret_text, ret_fds, ret_n);
}

int net_msg_call(int sock, const char *network, const struct net_msg_request *r, const int *fds, unsigned n_fds,
                 int timeout_ms, struct json_object **ret_reply, int ret_fds[NET_MSG_FDS_MAX], unsigned *ret_n,
                 struct err *e)
{
    const struct proto_msg_peer peer = {
        .kind = "network", .name = network, .process = "switch", .remedy = "stop it with 'caisson network rm'"
    };
    AUTO_FREE char *text = NULL;
    int res = net_msg_request_to_json(r, &text);

    if (res < 0)
        return err_set(e, -res, "network %s: its switch cannot be asked: %s", network, strerror(-res));
    return proto_msg_call(sock, &peer, text, fds, n_fds, timeout_ms, ret_reply, ret_fds, ret_n, e);
}

int net_msg_connect(const char *path, int *ret_sock)
{
    return proto_msg_connect(path, ret_sock);
}

/* ---- places ---- */

int net_msg_socket_dir(const char *runtime, char *ret_path, size_t size)
{
    int n = snprintf(ret_path, size, "%s/net", runtime);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int net_msg_socket_path(const char *runtime, const char *name, char *ret_path, size_t size)
{
    int n = snprintf(ret_path, size, "%s/net/%s.sock", runtime, name);

    return n < 0 || (size_t)n >= MIN(size, sizeof(((struct sockaddr_un *)NULL)->sun_path)) ? -ENAMETOOLONG : 0;
}
