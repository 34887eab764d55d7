/* The control socket. Its directory is the user's own, so whoever connects is the user, or root. A connection may hold
 * one capture, which ends with it. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "net/pcap.h"
#include "netd/netd_priv.h"
#include "sys/loop.h"

#define NETD_CONNS_MAX 64

struct netd_conn {
    struct list link; /* in netd.conns */
    struct netd *netd;
    int sock;
    struct loop_fd *src;
    int capture; /* its number; 0: none */
};

/* Descriptors with a reply; all are closed after sending. */
struct netd_answer {
    json_object *o;
    int fds[NET_MSG_FDS_MAX];
    unsigned n_fds;
    bool stop; /* the process ends */
};

static void conn_close(struct netd_conn *c)
{
    struct netd *d = c->netd;

    if (c->capture)
        (void)net_switch_capture_stop(d->sw, c->capture);
    loop_fd_free(c->src);
    close(c->sock);
    list_remove(&c->link);
    d->n_conns--;
    free(c);
    netd_control_idle(d);
}

/* ---- requests ---- */

/* Descriptors that came with a request; those that are kept become -1. */
struct netd_request_fds {
    int at[NET_MSG_FDS_MAX];
    unsigned n;
};

static int control_attach(struct netd *d, const struct net_msg_request *r, struct netd_request_fds *fds,
                          struct netd_answer *a, struct err *e)
{
    struct net_port *port = NULL;
    char ip[ADDR_IP6_TEXT];
    int res;

    if (r->attach.tap && fds->n != NET_MSG_TAP_FDS)
        return err_set(e, EINVAL, "network %s: a tap comes as %d descriptors", d->spec.name, NET_MSG_TAP_FDS);
    res = r->attach.tap ? netd_vm_attach_tap(d, &r->attach, fds->at, &port, e)
                        : netd_vm_attach(d, &r->attach, a->fds, &port, e);
    if (res < 0)
        return res;
    a->n_fds = r->attach.tap ? 0 : NET_MSG_RING_FDS;
    netd_services_address(d, r->attach.mac, ip);
    json_object_object_add(a->o, "port", json_object_new_string(net_port_get_config(port)->name));
    json_object_object_add(a->o, "mtu", json_object_new_int((int)d->spec.mtu));
    json_object_object_add(a->o, "ip", ip[0] ? json_object_new_string(ip) : NULL);
    return 0;
}

static int control_capture(struct netd_conn *c, const struct net_msg_request *r, int *fd, struct err *e)
{
    struct netd *d = c->netd;
    struct net_port *port = r->port[0] ? net_switch_port_by_name(d->sw, r->port) : NULL;
    AUTO(net_pcap) struct net_pcap *pcap = NULL;
    int res;

    if (r->port[0] && !port)
        return err_set(e, ENOENT, "network %s has no port '%s'; 'caisson network inspect %s' lists them", d->spec.name,
                       r->port, d->spec.name);
    if (*fd < 0 || c->capture)
        return err_set(e, EINVAL, "network %s: a capture needs one descriptor and a connection of its own",
                       d->spec.name);
    /* A reader who sleeps must not stop the network. */
    res = fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK) < 0 ? -errno : net_pcap_new(*fd, r->max_bytes, &pcap);
    if (res < 0)
        return err_set(e, -res, "cannot write the capture: %s", strerror(-res));
    *fd = -1;
    res = net_switch_capture(d->sw, port, pcap);
    if (res < 0)
        return err_set(e, -res, "network %s: too many captures; end one", d->spec.name);
    pcap = NULL;
    c->capture = res;
    return 0;
}

static int control_do(struct netd_conn *c, const struct net_msg_request *r, struct netd_request_fds *fds,
                      struct netd_answer *a, struct err *e)
{
    struct netd *d = c->netd;

    switch (r->op) {
    case NET_MSG_ATTACH:
        return control_attach(d, r, fds, a, e);
    case NET_MSG_DETACH:
        return netd_vm_detach(d, r->port, e);
    case NET_MSG_INFO:
        json_object_object_add(a->o, "info", netd_info(d));
        return 0;
    case NET_MSG_CAPTURE:
        return control_capture(c, r, &fds->at[0], e);
    case NET_MSG_LEASES:
        json_object_object_add(a->o, "leases", netd_services_leases(d));
        return 0;
    case NET_MSG_FORWARD_ADD:
    case NET_MSG_FORWARD_RM:
        return netd_services_forward(d, &r->forward, r->op == NET_MSG_FORWARD_ADD, e);
    case NET_MSG_STOP:
        a->stop = true;
        return 0;
    default:
        return err_set(e, EOPNOTSUPP, "network %s cannot do this", d->spec.name);
    }
}

/* ---- connections ---- */

/* Send what a request led to. -errno: the connection is of no use any more. */
static int conn_answer(struct netd_conn *c, struct netd_answer *a, int res, const struct err *e)
{
    const char *text;

    json_object_object_add(a->o, "ok", json_object_new_boolean(res == 0));
    if (res < 0) {
        json_object_object_add(a->o, "code", json_object_new_int(e->code));
        json_object_object_add(a->o, "error", json_object_new_string(e->text));
    }
    text = json_object_to_json_string_ext(a->o, JSON_C_TO_STRING_PLAIN);
    return text ? net_msg_send(c->sock, text, a->fds, a->n_fds) : -ENOMEM;
}

static void conn_serve(struct netd_conn *c, const char *text, struct netd_request_fds *fds)
{
    struct netd_answer a = { .o = json_object_new_object() };
    struct net_msg_request request;
    struct netd *d = c->netd;
    struct err e = { 0 };
    int res;

    res = net_msg_request_from_json(text, &request, &e);
    if (res == 0)
        res = control_do(c, &request, fds, &a, &e);
    res = conn_answer(c, &a, res, &e);
    json_object_put(a.o);
    /* Of a port that nobody heard of the descriptors are closed, and so it goes. */
    for (unsigned i = 0; i < a.n_fds; i++)
        close(a.fds[i]);
    if (a.stop)
        loop_stop(d->loop, 0);
    if (res < 0)
        conn_close(c);
}

static void conn_event(void *opaque, uint32_t events)
{
    struct netd_conn *c = opaque;
    AUTO_FREE char *text = NULL;
    struct netd_request_fds fds = { .at = { -1, -1, -1, -1 } };
    int r = net_msg_receive(c->sock, &text, fds.at, &fds.n);

    if (r == -EAGAIN)
        return;
    if (r < 0) {
        conn_close(c);
        return;
    }
    conn_serve(c, text, &fds);
    for (unsigned i = 0; i < fds.n; i++)
        base_closep(&fds.at[i]);
}

static void control_accept(void *opaque, uint32_t events)
{
    struct netd *d = opaque;
    struct netd_conn *c;
    AUTO_FD int sock = sys_place_accept(&d->place);

    if (sock < 0 || d->n_conns >= NETD_CONNS_MAX)
        return;
    c = calloc(1, sizeof(*c));
    if (!c)
        return;
    c->netd = d;
    c->sock = sock;
    if (loop_fd_add(d->loop, sock, EPOLLIN, conn_event, c, &c->src) < 0) {
        free(c);
        return;
    }
    sock = -1;
    list_add_before(&d->conns, &c->link);
    d->n_conns++;
    netd_control_idle(d);
}

void netd_control_idle(struct netd *d)
{
    bool busy = d->n_vms > 0 || d->n_conns > 0 || d->idle_ns == 0;

    if (d->idle)
        loop_timer_set(d->idle, busy ? 0 : d->idle_at_ns);
}

static void control_idle(void *opaque)
{
    struct netd *d = opaque;

    log_debug("network %s: nobody uses it, ending", d->spec.name);
    loop_stop(d->loop, 0);
}

int netd_control_start(struct netd *d, struct err *e)
{
    int r = loop_timer_new(d->loop, control_idle, d, &d->idle);

    if (r == 0)
        r = loop_fd_add(d->loop, d->place.socket, EPOLLIN, control_accept, d, &d->listen_src);
    if (r < 0)
        return err_set(e, -r, "network %s: cannot serve its socket: %s", d->spec.name, strerror(-r));
    d->idle_at_ns = sys_now_ns() + d->idle_ns;
    netd_control_idle(d);
    return 0;
}

void netd_control_stop(struct netd *d)
{
    loop_fd_free(d->listen_src);
    d->listen_src = NULL;
    loop_timer_free(d->idle);
    d->idle = NULL;
    while (!list_empty(&d->conns))
        conn_close(CONTAINER_OF(d->conns.next, struct netd_conn, link));
}
