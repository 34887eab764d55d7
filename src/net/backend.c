/* Dispatch to network back ends, with the checks that hold for all of them. */
#include "net/backend.h"

void net_backend_connect(struct net_backend *b, const struct net_receiver *receiver)
{
    b->receiver = receiver ? *receiver : (struct net_receiver){ 0 };
}

void net_backend_send(struct net_backend *b, const uint8_t *frame, size_t len)
{
    if (len >= NET_HEADER && len <= NET_FRAME_MAX)
        b->ops->send(b, frame, len);
}

void net_backend_send_done(struct net_backend *b)
{
    b->ops->send_done(b);
}

void net_backend_receive_ready(struct net_backend *b)
{
    b->ops->receive_ready(b);
}

void net_backend_close(struct net_backend *b)
{
    if (b)
        b->ops->close(b);
}
