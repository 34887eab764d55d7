/* The client's API of caisson-agent from the command line, for tests:
 *   agent_tool SOCKET TIMEOUT_MS ping | time NS | shutdown | put PATH | get PATH
 *   agent_tool SOCKET TIMEOUT_MS exec [-t] [-i] [-d] [-u USER] [-w DIR] [-e KEY=VALUE] [-T TIMEOUT_MS] PROGRAM...
 * A SOCKET that begins with '+' is that of an agent without a VM. Exit status: the program's; 125 for errors, which are
 * printed with their code. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/num.h"
#include "proto/agent_client.h"

static int number(const char *text)
{
    uint64_t n;

    return num_parse_u64(text, 0, INT32_MAX, &n) < 0 ? -1 : (int)n;
}

/* Without the handshake of a VM's vsock socket. */
static int dial(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static int run_exec(int fd, int argc, char **argv, struct err *e)
{
    struct agent_request q = { .op = AGENT_EXEC, .rows = 40, .cols = 132 };
    struct agent_io io = { .in = 0, .out = 1, .err = 2, .signals = -1, .terminal = -1 };
    char *env[32] = { NULL };
    int c, n_env = 0, timeout = -1, status = 0;
    sigset_t set;

    while ((c = getopt(argc, argv, "+tidu:w:e:T:")) != -1) {
        q.tty |= c == 't';
        q.stdin_open |= c == 'i';
        q.detach |= c == 'd';
        if (c == 'u')
            q.user = optarg;
        if (c == 'w')
            q.cwd = optarg;
        if (c == 'e' && n_env < 31)
            env[n_env++] = optarg;
        if (c == 'T')
            timeout = number(optarg);
    }
    q.argv = argv + optind;
    q.env = env;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    io.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (q.detach)
        return agent_call(fd, &q, timeout, NULL, e);
    c = agent_exec(fd, &q, &io, timeout, &status, e);
    return c < 0 ? c : status;
}

static int run_ping(int fd, struct err *e)
{
    struct json_object *reply;
    int r = agent_call(fd, &(struct agent_request){ .op = AGENT_PING }, 10000, &reply, e);

    if (r < 0)
        return r;
    puts(json_object_to_json_string(reply));
    json_object_put(reply);
    return 0;
}

static int run(int fd, int argc, char **argv, struct err *e)
{
    struct agent_request q = { .op = AGENT_SHUTDOWN };

    if (strcmp(argv[0], "exec") == 0)
        return run_exec(fd, argc, argv, e);
    if (strcmp(argv[0], "ping") == 0)
        return run_ping(fd, e);
    if (strcmp(argv[0], "put") == 0)
        return agent_put(fd, argv[1], NULL, 0, e);
    if (strcmp(argv[0], "get") == 0)
        return agent_get(fd, argv[1], NULL, 1, e);
    if (strcmp(argv[0], "time") == 0)
        q = (struct agent_request){ .op = AGENT_SYNC_TIME, .time_ns = strtoll(argv[1], NULL, 10) };
    return agent_call(fd, &q, 10000, NULL, e);
}

int main(int argc, char **argv)
{
    struct err e = { 0 };
    int fd = -1, r;

    if (argc < 4)
        return 125;
    signal(SIGPIPE, SIG_IGN);
    if (argv[1][0] == '+')
        r = fd = dial(argv[1] + 1);
    else
        r = agent_connect(argv[1], "test", number(argv[2]), &fd, &e);
    if (r >= 0)
        r = run(fd, argc - 3, argv + 3, &e);
    if (r >= 0)
        return r;
    fprintf(stderr, "agent_tool: %s (%s)\n", e.text, strerrorname_np(-r));
    return 125;
}
