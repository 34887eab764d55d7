/* Dispatch between back ends and receivers, with the checks that hold for all of them and with offloads done in
 * software where the next one cannot. */
#include "net/backend.h"

#include <string.h>

#include "net/offload.h"

/* Where finished frames go. */
struct net_finish {
    struct net_backend *b;
    bool deliver;       /* to the receiver, else to the back end */
    bool first_refused; /* nothing was taken yet: the frame can be offered again */
    unsigned taken;
};

static bool net_offer(struct net_backend *b, bool deliver, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    const struct iovec iov = { .iov_base = (void *)(uintptr_t)frame, .iov_len = len };

    return deliver ? b->receiver.receive(b->receiver.opaque, hdr, frame, len) : b->ops->send(b, hdr, &iov, 1, len);
}

static void net_finish_emit(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_finish *f = opaque;

    if (f->first_refused || len > NET_FRAME_MAX)
        return;
    if (net_offer(f->b, f->deliver, hdr, frame, len))
        f->taken++;
    else if (f->taken == 0)
        f->first_refused = true;
}

/* Finish a frame for one who takes `allowed` offloads, and offer what comes out. A frame that cannot be finished counts
 * as lost. */
static bool net_finish(struct net_backend *b, bool deliver, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_finish f = { .b = b, .deliver = deliver };
    unsigned allowed = deliver ? b->receive_offloads : b->offloads;

    return net_offload_finish(hdr, frame, len, allowed, net_finish_emit, &f) < 0 || !f.first_refused;
}

size_t net_gather(uint8_t *to, const struct iovec *iov, unsigned n_iov, size_t max)
{
    size_t done = 0;

    for (unsigned i = 0; i < n_iov && done < max; i++) {
        size_t part = MIN(iov[i].iov_len, max - done);

        memcpy(to + done, iov[i].iov_base, part);
        done += part;
    }
    return done;
}

/* ---- the side in front ---- */

void net_backend_connect(struct net_backend *b, const struct net_receiver *receiver)
{
    b->receiver = receiver ? *receiver : (struct net_receiver){ 0 };
    net_backend_set_receive_offloads(b, 0);
}

void net_backend_set_receive_offloads(struct net_backend *b, unsigned offloads)
{
    b->receive_offloads = offloads & NET_OFF_CSUM ? offloads : 0;
    if (b->ops->set_receive_offloads)
        b->ops->set_receive_offloads(b, b->receive_offloads);
}

/* Finish a frame of foreign memory in software and send it. */
static bool net_send_finished(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                              size_t len)
{
    const struct net_hdr plain = { 0 };

    if (!b->bounce)
        b->bounce = malloc(NET_FRAME_MAX);
    if (!b->bounce)
        return true;
    /* What was checked may have changed since. */
    if (net_gather(b->bounce, iov, n_iov, len) != len || !net_hdr_check(hdr, b->bounce, len, len))
        return true;
    if (hdr->gso_type != NET_GSO_NONE)
        return net_finish(b, false, hdr, b->bounce, len);
    net_offload_checksum(hdr, b->bounce, len);
    return net_offer(b, false, &plain, b->bounce, len);
}

bool net_backend_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                      size_t len)
{
    static const struct net_hdr plain = { 0 };

    if (len < NET_HEADER || len > NET_FRAME_MAX || n_iov == 0 || n_iov > NET_IOV_MAX)
        return true;
    if (memcmp(hdr, &plain, sizeof(plain)) != 0) {
        uint8_t head[NET_HEAD_BYTES];
        size_t head_len = net_gather(head, iov, n_iov, MIN(len, sizeof(head)));

        if (!net_hdr_check(hdr, head, head_len, len))
            return true;
        if (net_hdr_needs(hdr) & ~b->offloads)
            return net_send_finished(b, hdr, iov, n_iov, len);
    }
    return b->ops->send(b, hdr, iov, n_iov, len);
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
    if (!b)
        return;
    free(b->bounce);
    b->ops->close(b);
}

/* ---- back ends ---- */

bool net_backend_deliver(struct net_backend *b, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct net_hdr seen = *hdr;

    if (!b->receiver.receive || len < NET_HEADER || len > NET_FRAME_MAX || !net_hdr_check(hdr, frame, len, len))
        return true;
    if (b->checksums_good && !(seen.flags & NET_HDR_NEEDS_CSUM))
        seen.flags |= NET_HDR_DATA_VALID;
    if (!(b->receive_offloads & NET_OFF_CSUM))
        seen.flags &= (uint8_t)~NET_HDR_DATA_VALID;
    if (net_hdr_needs(&seen) & ~b->receive_offloads)
        return net_finish(b, true, &seen, frame, len);
    return net_offer(b, true, &seen, frame, len);
}

void net_backend_deliver_done(struct net_backend *b)
{
    if (b->receiver.receive_done)
        b->receiver.receive_done(b->receiver.opaque);
}

void net_backend_send_ready(struct net_backend *b)
{
    if (b->receiver.send_ready)
        b->receiver.send_ready(b->receiver.opaque);
}
