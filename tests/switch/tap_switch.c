/* A switch between taps that it makes, for the kernel's network stacks to talk through:
 *
 *     tap_switch IF[,plain]...
 *
 * Says "ready" on stdout, prints the counters of all ports as a line of JSON for each byte on stdin, and once more when
 * stdin ends. plain: that port takes no offloads, so that the switch has to finish checksums and segments in software.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "net/backend.h"
#include "net/switch.h"
#include "net/tap.h"
#include "sys/loop.h"

struct tap_switch {
    struct loop *loop;
    struct net_switch *sw;
};

static void print_counters(struct net_switch *sw)
{
    const char *comma = "";

    putchar('{');
    for (struct net_port *p = net_switch_port_next(sw, NULL); p; p = net_switch_port_next(sw, p)) {
        struct net_port_counters c = net_port_get_counters(p);

        printf("%s\"%s\": {\"in_frames\": %" PRIu64 ", \"in_bytes\": %" PRIu64 ", \"out_frames\": %" PRIu64
               ", \"out_bytes\": %" PRIu64 ", \"out_full\": %" PRIu64 ", \"in_malformed\": %" PRIu64 "}",
               comma, net_port_get_config(p)->name, c.in_frames, c.in_bytes, c.out_frames, c.out_bytes, c.out_full,
               c.in_malformed);
        comma = ", ";
    }
    puts("}");
    fflush(stdout);
}

static void on_stdin(void *opaque, uint32_t events)
{
    struct tap_switch *t = opaque;
    char c;

    if (read(STDIN_FILENO, &c, 1) <= 0)
        loop_stop(t->loop, 0);
    else
        print_counters(t->sw);
}

int main(int argc, char **argv)
{
    struct tap_switch t;
    struct loop_fd *src;

    CHECK(loop_new(&t.loop) == 0 && net_switch_new(t.loop, &t.sw) == 0);
    CHECK(loop_fd_add(t.loop, STDIN_FILENO, EPOLLIN, on_stdin, &t, &src) == 0);
    for (int i = 1; i < argc; i++) {
        struct net_port_config config = { 0 };
        struct net_tap_config tap = { .name = strsep(&argv[i], ","), .create = true };
        struct net_backend *backend = NULL;
        struct net_port *port;
        enum net_tap_step step;
        int r = net_tap_new(&tap, t.loop, &step, &backend);

        if (r < 0) {
            fprintf(stderr, "tap_switch: %s: step %d: %s\n", tap.name, step, strerror(-r));
            return 1;
        }
        if (argv[i])
            backend->offloads = 0;
        snprintf(config.name, sizeof(config.name), "%s", tap.name);
        CHECK(net_switch_port_add(t.sw, &config, backend, &port) == 0);
    }
    puts("ready");
    fflush(stdout);
    CHECK(loop_run(t.loop) == 0);
    print_counters(t.sw);
    net_switch_free(t.sw);
    loop_fd_free(src);
    loop_free(t.loop);
    return 0;
}
