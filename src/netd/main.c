/* caisson-switch: one process, one network. It is started by the other programs, not by people:
 *   caisson-switch --spec-fd N [--ready-fd N] [--idle SECONDS]
 * Descriptor --spec-fd holds the network's description (proto/net_spec.h). To --ready-fd, a pipe, it writes
 * {"ok": true} when its socket listens, or why it cannot, as in a reply (proto/net_msg.h), and a new line; without it
 * errors go to stderr. It ends on SIGTERM and SIGINT, by a "stop" on its socket, and when there has been neither port
 * nor connection for --idle seconds (0: never).
 */
#include "netd/main.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/num.h"
#include "netd/netd_priv.h"
#include "proto/exit_code.h"
#include "sys/loop.h"
#include "sys/signals.h"

#define NETD_IDLE_S 10
#define NETD_IDLE_MAX_S 86400

struct netd_options {
    int spec_fd, ready_fd;
    uint64_t idle_s;
};

static int main_parse(int argc, char **argv, struct netd_options *o)
{
    static const struct option options[] = {
        { "spec-fd", required_argument, NULL, 's' },
        { "ready-fd", required_argument, NULL, 'r' },
        { "idle", required_argument, NULL, 'i' },
        { 0 },
    };
    uint64_t n;
    int c;

    *o = (struct netd_options){ .spec_fd = -1, .ready_fd = -1, .idle_s = NETD_IDLE_S };
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == '?' || num_parse_u64(optarg, c == 'i' ? 0 : 3, c == 'i' ? NETD_IDLE_MAX_S : INT32_MAX, &n) < 0)
            return -EINVAL;
        if (c == 'i')
            o->idle_s = n;
        else
            *(c == 's' ? &o->spec_fd : &o->ready_fd) = (int)n;
    }
    return optind == argc && o->spec_fd >= 0 ? 0 : -EINVAL;
}

static int main_read_spec(int fd, struct net_spec *spec, struct err *e)
{
    struct buf text;
    int r;

    buf_init(&text, NET_SPEC_TEXT_MAX + 1);
    r = fd_read_text(fd, &text);
    if (r < 0)
        err_set(e, -r, "network description: %s", strerror(-r));
    else
        r = net_spec_from_json((char *)text.data, spec, e);
    buf_done(&text);
    return r;
}

static void main_signal(void *opaque, uint32_t events)
{
    struct netd *d = opaque;
    struct signalfd_siginfo info;

    /* SIGHUP is of the terminal it was started from: not our business. */
    if (read(d->signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGHUP)
        loop_stop(d->loop, 0);
}

static int main_catch_signals(struct netd *d)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };

    d->signals = sys_signals_open(signals, ARRAY_SIZE(signals));
    return d->signals < 0 ? d->signals : loop_fd_add(d->loop, d->signals, EPOLLIN, main_signal, d, &d->signal_src);
}

/* Everything up to where requests are served. */
static int main_start(struct netd *d, struct err *e)
{
    int r = loop_new(&d->loop);

    if (r == 0)
        r = main_catch_signals(d);
    if (r == 0)
        r = net_switch_new(d->loop, &d->sw);
    if (r < 0)
        return err_set(e, -r, "network %s: cannot start: %s", d->spec.name, strerror(-r));
    /* The lock first, so that no second process touches the outside. */
    r = netd_place_take(d->spec.name, &d->place, e);
    if (r == 0)
        r = netd_uplink_open(d, e);
    if (r == 0)
        r = netd_uplink_reserve(d, e);
    if (r < 0)
        return r;
    r = netd_confine();
    if (r < 0)
        return err_set(e, -r, "network %s: cannot give up privileges: %s", d->spec.name, strerror(-r));
    return netd_control_start(d, e);
}

static void main_end(struct netd *d)
{
    sys_place_leave(&d->place); /* first, so that nobody asks any more */
    if (d->loop)
        netd_control_stop(d);
    netd_vm_detach_all(d);
    netd_services_close(d);
    net_switch_free(d->sw);
    loop_fd_free(d->signal_src);
    base_closep(&d->signals);
    loop_free(d->loop);
}

/* Say how the start went. */
static void main_tell(int fd, const struct err *e)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "ok", json_object_new_boolean(!e));
    if (e) {
        json_object_object_add(o, "code", json_object_new_int(e->code));
        json_object_object_add(o, "error", json_object_new_string(e->text));
    }
    dprintf(fd, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
    close(fd);
}

static int main_fail(int ready_fd, const struct err *e)
{
    if (ready_fd < 0)
        fprintf(stderr, "caisson: %s\n", e->text);
    else
        main_tell(ready_fd, e);
    return (int)exit_code_from_errno(e->code);
}

int netd_main(int argc, char **argv)
{
    struct netd d = { .place = { .lock = -1, .socket = -1 }, .signals = -1 };
    struct netd_options options;
    struct err e = { 0 };
    int r;

    if (main_parse(argc, argv, &options) < 0) {
        fprintf(stderr, "caisson: caisson-switch is started by caisson; see caisson(1)\n");
        return EXIT_CODE_USAGE;
    }
    sys_signals_no_pipe();
    if (getenv("CAISSON_DEBUG"))
        log_set_level(LOG_DEBUG);
    (void)setsid(); /* fails only where it is done already */
    list_init(&d.conns);
    list_init(&d.vms);
    d.idle_ns = options.idle_s * 1000000000ULL;
    r = main_read_spec(options.spec_fd, &d.spec, &e);
    close(options.spec_fd);
    if (r == 0)
        r = main_start(&d, &e);
    if (r < 0) {
        main_end(&d);
        return main_fail(options.ready_fd, &e);
    }
    if (options.ready_fd >= 0)
        main_tell(options.ready_fd, NULL);
    r = loop_run(d.loop);
    main_end(&d);
    return r < 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
