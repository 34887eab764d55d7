#include "net_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

const struct net_hdr plain;

static bool fake_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                      size_t len)
{
    struct fake *f = (struct fake *)b;
    size_t answer_len = f->answer_len;

    if (f->full)
        return false;
    assert_int_equal(net_gather(f->frame, iov, n_iov, sizeof(f->frame)), len);
    f->len = len;
    f->hdr = *hdr;
    f->frames++;
    f->total += len;
    f->answer_len = 0;
    if (answer_len) {
        assert_true(net_backend_deliver(b, &plain, f->answer, answer_len));
        net_backend_deliver_done(b);
    }
    return true;
}

static void fake_send_done(struct net_backend *b)
{
    ((struct fake *)b)->dones++;
}

static void fake_receive_ready(struct net_backend *b)
{
    ((struct fake *)b)->ready++;
}

static void fake_close(struct net_backend *b)
{
    ++*((struct fake *)b)->closed;
    free(b);
}

static const struct net_backend_ops fake_ops = {
    .name = "fake",
    .send = fake_send,
    .send_done = fake_send_done,
    .receive_ready = fake_receive_ready,
    .close = fake_close,
};

struct fake *fake_new(struct world *w)
{
    struct fake *f = NULL;

    assert_int_equal(posix_memalign((void **)&f, 64, sizeof(*f)), 0); /* which never fails by fault.h */
    memset(f, 0, sizeof(*f));
    f->base = (struct net_backend){ .ops = &fake_ops, .mtu = 1500, .offloads = ALL };
    f->closed = &w->closed;
    return f;
}

void mac_of(unsigned i, uint8_t mac[6])
{
    memcpy(mac, (uint8_t[]){ 0x52, 0x54, 0, 0, 0, (uint8_t)(i + 1) }, 6);
}

struct net_port_config config_of(unsigned i)
{
    struct net_port_config c = { 0 };

    snprintf(c.name, sizeof(c.name), "p%u", i);
    mac_of(i, c.mac);
    return c;
}

void add(struct world *w, unsigned i, const struct net_port_config *c)
{
    w->p[i] = fake_new(w);
    assert_int_equal(net_switch_port_add(w->sw, c, &w->p[i]->base, &w->p[i]->port), 0);
}

void begin_empty(struct world *w)
{
    memset(w, 0, sizeof(*w));
    clock_set(SECOND);
    assert_int_equal(loop_new(&w->loop), 0);
    assert_int_equal(net_switch_new(w->loop, &w->sw), 0);
}

void begin(struct world *w, unsigned n)
{
    begin_empty(w);
    for (unsigned i = 0; i < n; i++) {
        struct net_port_config c = config_of(i);

        add(w, i, &c);
    }
}

void end(struct world *w)
{
    unsigned n = net_switch_n_ports(w->sw) + w->closed;

    net_switch_free(w->sw);
    assert_int_equal(w->closed, n);
    for (int i = 0; i < 4; i++)
        assert_true(loop_run_once(w->loop) >= 0);
    loop_free(w->loop);
}

/* ---- frames ---- */

const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

size_t ethernet(uint8_t *f, const uint8_t dst[6], const uint8_t src[6], int tci, uint16_t type)
{
    size_t at = 12;

    memcpy(f, dst, 6);
    memcpy(f + 6, src, 6);
    if (tci >= 0) {
        store_be16(f + 12, 0x8100);
        store_be16(f + 14, (uint16_t)tci);
        at = 16;
    }
    store_be16(f + at, type);
    for (unsigned i = 0; i < 46; i++)
        f[at + 2 + i] = (uint8_t)(i * 3);
    return at + 2 + 46;
}

bool inject(struct world *w, unsigned from, const struct net_hdr *hdr, const uint8_t *f, size_t len)
{
    bool taken = net_backend_deliver(&w->p[from]->base, hdr, f, len);

    net_backend_deliver_done(&w->p[from]->base);
    return taken;
}

unsigned reach(struct world *w, unsigned from, const uint8_t *frame, size_t len)
{
    unsigned before[PORTS] = { 0 }, got = 0;

    for (unsigned i = 0; i < PORTS; i++)
        before[i] = w->p[i] ? w->p[i]->frames : 0;
    assert_true(inject(w, from, &plain, frame, len));
    for (unsigned i = 0; i < PORTS; i++) {
        if (w->p[i] && w->p[i]->frames != before[i]) {
            assert_int_equal(w->p[i]->frames, before[i] + 1);
            got |= 1U << i;
        }
    }
    return got;
}

unsigned say(struct world *w, unsigned from, const uint8_t dst[6], int tci)
{
    uint8_t f[80], src[6];

    mac_of(from, src);
    return reach(w, from, f, ethernet(f, dst, src, tci, 0x88b5));
}

unsigned say_to(struct world *w, unsigned from, unsigned to)
{
    uint8_t dst[6];

    mac_of(to, dst);
    return say(w, from, dst, -1);
}
