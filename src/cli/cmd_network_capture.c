/* caisson network capture: frames of a network as a pcap file, until Ctrl-C. The switch writes into a pipe and this
 * process into the file, so that a slow disk or reader never holds up the network: the switch ends a capture whose pipe
 * is full. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "cli/command.h"
#include "cli/network.h"
#include "instance/switch_client.h"
#include "proto/exit_code.h"

#define CAPTURE_PIPE (1 << 20)
#define CAPTURE_CHUNK (256U << 10)
#define CAPTURE_END_MS 5000 /* for the switch to hand over what it still has */

struct capture {
    const char *name, *file; /* file: for messages */
    int pipe, sock, signals, out;
    uint8_t *chunk;
    uint64_t bytes;
    bool ending;      /* Ctrl-C was pressed */
    bool reader_gone; /* nobody reads our standard output any more */
};

/* Write out what the pipe has. Returns 1 at its end. */
static int capture_copy(struct capture *c, struct err *e)
{
    ssize_t n = read(c->pipe, c->chunk, CAPTURE_CHUNK);
    int r;

    if (n < 0)
        return errno == EINTR || errno == EAGAIN
                   ? 0
                   : err_set(e, errno, "network %s: cannot read the capture: %s", c->name, strerror(errno));
    r = fd_write_all(c->out, c->chunk, (size_t)n);
    if (r == -EPIPE) {
        c->reader_gone = true;
        return 1;
    }
    if (r < 0)
        return err_set(e, -r, "cannot write the capture to %s: %s; what is there so far can be read", c->file,
                       strerror(-r));
    c->bytes += (uint64_t)n;
    return n == 0;
}

/* Relay until the capture is over. */
static int capture_relay(struct capture *c, struct err *e)
{
    for (;;) {
        struct pollfd p[] = {
            { .fd = c->pipe, .events = POLLIN },
            { .fd = c->ending ? -1 : c->signals, .events = POLLIN },
            { .fd = c->out, .events = 0 }, /* POLLERR: the reader has gone */
        };
        int n = poll(p, ARRAY_SIZE(p), c->ending ? CAPTURE_END_MS : -1), r;

        if (n < 0 && errno != EINTR)
            return err_set(e, errno, "network %s: cannot wait for frames: %s", c->name, strerror(errno));
        if (n == 0 || (n > 0 && (p[2].revents & POLLERR)))
            return 0;
        if (n > 0 && p[1].revents) {
            c->ending = true;
            /* The switch ends the capture with the connection, and the pipe with the capture. */
            close(c->sock);
            c->sock = -1;
        }
        if (n > 0 && p[0].revents) {
            r = capture_copy(c, e);
            if (r != 0)
                return r < 0 ? r : 0;
        }
    }
}

static int capture_ask(struct capture *c, const char *port, int write_end, struct err *e)
{
    struct net_msg_request request = { .op = NET_MSG_CAPTURE };
    json_object *reply = NULL;
    int r = inst_switch_connect(c->name, &c->sock, e), len;

    if (r < 0)
        return r;
    if (c->sock < 0)
        return err_set(e, EBUSY, "network %s is not running, so there is nothing to capture; start a VM on it first",
                       c->name);
    len =
        snprintf(request.port, sizeof(request.port), "%s%s", port ? port : "", port && !strchr(port, '.') ? ".0" : "");
    if (len >= (int)sizeof(request.port))
        return err_set(e, EINVAL, "--port %s: no port has such a name; see 'caisson network inspect %s'", port,
                       c->name);
    r = net_msg_call(c->sock, c->name, &request, &write_end, 1, INST_SWITCH_TIMEOUT_MS, &reply, NULL, NULL, e);
    json_object_put(reply);
    return r;
}

static int capture_open(struct capture *c, const char *file, struct err *e)
{
    if (strcmp(file, "-") == 0) {
        if (isatty(STDOUT_FILENO))
            return err_set(e, EINVAL,
                           "a capture is no text for a terminal; give -w FILE, or pipe it: '| tcpdump -n -r -'");
        c->file = "standard output";
        c->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    } else {
        c->file = file;
        c->out = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
    }
    return c->out < 0 ? err_set(e, errno, "cannot write %s: %s", c->file, strerror(errno)) : 0;
}

static int capture_signals(struct capture *c, struct err *e)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGPIPE); /* a reader that has gone is an error of write */
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    c->signals = signalfd(-1, &set, SFD_CLOEXEC);
    return c->signals < 0 ? err_set(e, errno, "cannot wait for signals: %s", strerror(errno)) : 0;
}

static int capture_run(struct capture *c, const struct cli_args *args, struct err *e)
{
    const char *file = cli_value(args, "write");
    AUTO_FD int write_end = -1;
    int r = capture_signals(c, e), pair[2];

    if (r < 0)
        return r;
    /* Ours blocks not at all, for poll; the switch's neither, so that we cannot hold it up. */
    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
    c->pipe = pair[0];
    write_end = pair[1];
    fcntl(write_end, F_SETPIPE_SZ, CAPTURE_PIPE); /* best effort: users have a limit */
    /* Opened after the switch has agreed, so that a mistyped port destroys no file. */
    r = capture_ask(c, cli_value(args, "port"), write_end, e);
    if (r == 0)
        r = capture_open(c, file ? file : "-", e);
    if (r < 0)
        return r;
    base_closep(&write_end);
    write_end = -1;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "Capturing network %s; Ctrl-C ends.\n", c->name);
    r = capture_relay(c, e);
    if (r == 0 && !c->ending && !c->reader_gone)
        fprintf(stderr,
                "caisson: network %s: the capture has ended after %llu bytes: the network was stopped, or the capture "
                "could not keep up\n",
                c->name, (unsigned long long)c->bytes);
    return r;
}

int cli_cmd_network_capture(const struct cli_args *args)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    struct capture c = { .pipe = -1, .sock = -1, .signals = -1, .out = -1, .chunk = malloc(CAPTURE_CHUNK) };
    struct err e = { 0 };
    int r = network && c.chunk ? 0 : err_set(&e, ENOMEM, "out of memory");

    if (r == 0 && args->n_operands != 1)
        r = err_set(&e, EINVAL, "no network named; give the name of one, see 'caisson network ls'");
    if (r == 0)
        r = inst_network_find(args->operands[0], network, &e);
    if (r == 0) {
        c.name = network->spec.name;
        r = capture_run(&c, args, &e);
    }
    base_closep(&c.pipe);
    base_closep(&c.sock);
    base_closep(&c.signals);
    base_closep(&c.out);
    free(c.chunk);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
