/* Mirroring to capture files. */
#include "net/switch_priv.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "net/pcap.h"

static void net_capture_end(struct net_switch *sw, struct net_capture *c)
{
    net_pcap_free(c->pcap);
    *c = (struct net_capture){ 0 };
    sw->n_captures--;
}

static void net_capture_write(struct net_switch *sw, struct net_capture *c, const struct net_hdr *hdr,
                              const uint8_t *frame, size_t len)
{
    int res = net_pcap_write(c->pcap, hdr, frame, len);

    if (res < 0) {
        log_debug("net: capture %d ends: %s", c->number, strerror(-res));
        net_capture_end(sw, c);
    }
}

void net_capture_in(struct net_port *port, const struct net_frame *f)
{
    struct net_switch *sw = port->sw;

    for (unsigned i = 0; i < NET_CAPTURES_MAX && sw->n_captures > 0; i++) {
        struct net_capture *c = &sw->captures[i];

        if (c->number && (!c->port || c->port == port))
            net_capture_write(sw, c, f->hdr, f->data, f->len);
    }
}

void net_capture_out(struct net_port *port, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                     size_t len)
{
    struct net_switch *sw = port->sw;
    uint8_t frame[NET_FRAME_MAX];
    size_t done = 0;

    for (unsigned i = 0; i < NET_CAPTURES_MAX && sw->n_captures > 0; i++) {
        struct net_capture *c = &sw->captures[i];

        if (!c->number || c->port != port)
            continue;
        for (unsigned k = 0; k < n_iov && done < len; k++) {
            memcpy(frame + done, iov[k].iov_base, iov[k].iov_len);
            done += iov[k].iov_len;
        }
        net_capture_write(sw, c, hdr, frame, len);
    }
}

void net_capture_forget_port(struct net_port *port)
{
    for (unsigned i = 0; i < NET_CAPTURES_MAX; i++) {
        struct net_capture *c = &port->sw->captures[i];

        if (c->number && c->port == port)
            net_capture_end(port->sw, c);
    }
}

void net_capture_flush(struct net_switch *sw)
{
    for (unsigned i = 0; i < NET_CAPTURES_MAX; i++) {
        struct net_capture *c = &sw->captures[i];

        if (c->number && net_pcap_flush(c->pcap) < 0)
            net_capture_end(sw, c);
    }
}

int net_switch_capture(struct net_switch *sw, struct net_port *port, struct net_pcap *pcap)
{
    for (unsigned i = 0; i < NET_CAPTURES_MAX; i++) {
        struct net_capture *c = &sw->captures[i];

        if (c->number)
            continue;
        sw->last_capture = sw->last_capture == INT32_MAX ? 1 : sw->last_capture + 1;
        *c = (struct net_capture){ .number = sw->last_capture, .port = port, .pcap = pcap };
        sw->n_captures++;
        net_switch_arm(sw);
        return c->number;
    }
    return -ENOSPC;
}

bool net_switch_capture_stop(struct net_switch *sw, int number)
{
    for (unsigned i = 0; i < NET_CAPTURES_MAX; i++) {
        struct net_capture *c = &sw->captures[i];

        if (number > 0 && c->number == number) {
            net_capture_end(sw, c);
            return true;
        }
    }
    return false;
}
