#include "instance/switch_client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/spawn.h"
#include "proto/json.h"
#include "proto/net_spec.h"
#include "sys/dirs.h"
#include "sys/place.h"

#define SWITCH_LOG_MAX (1 << 20)
#define SWITCH_ANSWER_MAX 2048
#define SWITCH_INFO_MS 3000 /* lists must not hang for one switch that does */

/* ---- places ---- */

static int switch_runtime(char ret_dir[SYS_DIR_MAX], struct err *e)
{
    int r = sys_dirs_runtime(ret_dir);

    return r < 0 ? err_set(e, -r, "the path of the runtime directory is too long; set XDG_RUNTIME_DIR to a shorter one")
                 : 0;
}

static int switch_socket_path(const char *name, char *ret_path, size_t size, struct err *e)
{
    char dir[SYS_DIR_MAX];
    int r = switch_runtime(dir, e);

    if (r == 0 && net_msg_socket_path(dir, name, ret_path, size) < 0)
        return err_set(e, ENAMETOOLONG,
                       "network %s: the path of its socket in %s is too long; use a shorter name or XDG_RUNTIME_DIR",
                       name, dir);
    return r;
}

int inst_network_find(const char *name, struct store_network *ret_network, struct err *e)
{
    AUTO(store) struct store *store = NULL;
    int r = store_open(STORE_READ, &store, e);

    return r < 0 ? r : store_network_get(store, name, ret_network, e);
}

/* Whether the open file is still the one of that name. */
static bool switch_is_current(int fd, const char *path)
{
    struct stat mine, there;

    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

int inst_switch_lock(const char *name, struct err *e)
{
    char dir[SYS_DIR_MAX], path[SYS_DIR_MAX + PROTO_NAME_MAX + 16], net[SYS_DIR_MAX];
    AUTO_FD int fd = -1;
    int r = switch_runtime(dir, e);

    if (r < 0)
        return r;
    if (net_msg_socket_dir(dir, net, sizeof(net)) < 0)
        return err_set(e, ENAMETOOLONG,
                       "the path of the runtime directory is too long; set XDG_RUNTIME_DIR to a shorter one");
    r = sys_dirs_make(dir);
    if (r == 0)
        r = sys_dirs_make(net);
    if (r == -EPERM)
        return err_set(e, EPERM,
                       "runtime directory %s must belong to you and be writable by nobody else; remove it, or set "
                       "XDG_RUNTIME_DIR",
                       dir);
    if (r < 0)
        return err_set(e, -r, "cannot make runtime directory %s: %s; set XDG_RUNTIME_DIR to another place", net,
                       strerror(-r));
    snprintf(path, sizeof(path), "%s/%s.start", net, name);
    do { /* until it is the file of that name: that of a removed network goes */
        base_closep(&fd);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return err_set(e, errno, "network %s: cannot open %s: %s", name, path, strerror(errno));
        while (flock(fd, LOCK_EX) < 0) {
            if (errno != EINTR)
                return err_set(e, errno, "network %s: cannot lock %s: %s", name, path, strerror(errno));
        }
    } while (!switch_is_current(fd, path));
    return STEAL_FD(fd);
}

struct switch_sweep {
    char net[SYS_DIR_MAX];
    int start; /* the lock of who starts the one that is looked at, -1: none yet */
};

static bool switch_is_started(void *opaque, const char *name)
{
    struct switch_sweep *sweep = opaque;
    char path[SYS_DIR_MAX + PROTO_NAME_MAX + 16];

    base_closep(&sweep->start);
    snprintf(path, sizeof(path), "%s/%.*s.start", sweep->net, PROTO_NAME_MAX, name);
    sweep->start = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return sweep->start < 0 || flock(sweep->start, LOCK_EX | LOCK_NB) < 0;
}

/* The locks of starters, where the network is gone. */
static void switch_sweep_starts(struct switch_sweep *sweep, struct store *s)
{
    AUTO_FREE struct store_network *network = malloc(sizeof(*network));
    struct dirent *entry;
    DIR *dir = network ? opendir(sweep->net) : NULL;

    while (dir && (entry = readdir(dir))) {
        char *dot = strrchr(entry->d_name, '.'), path[SYS_DIR_MAX + PROTO_NAME_MAX + 16];
        struct err ignored = { 0 };

        if (!dot || strcmp(dot, ".start") != 0)
            continue;
        *dot = '\0';
        snprintf(path, sizeof(path), "%s/%.*s.start", sweep->net, PROTO_NAME_MAX, entry->d_name);
        if (!switch_is_started(sweep, entry->d_name) &&
            store_network_get(s, entry->d_name, network, &ignored) == -ENOENT)
            (void)!unlink(path);
    }
    if (dir)
        closedir(dir);
}

void inst_switch_sweep(struct store *s)
{
    struct switch_sweep sweep = { .start = -1 };
    struct err ignored = { 0 };
    char dir[SYS_DIR_MAX];

    if (switch_runtime(dir, &ignored) == 0 && net_msg_socket_dir(dir, sweep.net, sizeof(sweep.net)) == 0)
        sys_place_sweep(sweep.net, switch_is_started, &sweep);
    if (sweep.net[0])
        switch_sweep_starts(&sweep, s);
    base_closep(&sweep.start);
}

int inst_switch_connect(const char *name, int *ret_sock, struct err *e)
{
    char path[SYS_DIR_MAX + PROTO_NAME_MAX + 16];
    int sock = -1, r = switch_socket_path(name, path, sizeof(path), e);

    if (r < 0)
        return r;
    r = net_msg_connect(path, &sock);
    if (r < 0 && r != -ENOENT && r != -ECONNREFUSED)
        return err_set(e, -r, "network %s: cannot reach its switch at %s: %s", name, path, strerror(-r));
    *ret_sock = sock;
    return 0;
}

/* ---- asking ---- */

int inst_switch_call(int sock, const char *name, const struct net_msg_request *request, json_object **ret_reply,
                     struct err *e)
{
    return net_msg_call(sock, name, request, NULL, 0, INST_SWITCH_TIMEOUT_MS, ret_reply, NULL, NULL, e);
}

int inst_switch_info(const char *name, json_object **ret_info, struct err *e)
{
    const struct net_msg_request request = { .op = NET_MSG_INFO };
    json_object *reply, *info = NULL;
    AUTO_FD int sock = -1;
    int r = inst_switch_connect(name, &sock, e);

    if (r < 0)
        return r;
    if (sock < 0) {
        *ret_info = NULL;
        return 0;
    }
    r = net_msg_call(sock, name, &request, NULL, 0, SWITCH_INFO_MS, &reply, NULL, NULL, e);
    if (r == -ECONNRESET) { /* it ended just now */
        *ret_info = NULL;
        return 0;
    }
    if (r < 0)
        return r;
    if (!json_object_object_get_ex(reply, "info", &info) || !json_object_is_type(info, json_type_object)) {
        json_object_put(reply);
        return err_set(e, EBADMSG, "network %s: its switch answers nonsense; install all programs from one build",
                       name);
    }
    *ret_info = json_object_get(info);
    json_object_put(reply);
    return 0;
}

int inst_switch_kill(const char *name, struct err *e)
{
    AUTO_FD int sock = -1;
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int r = inst_switch_connect(name, &sock, e);

    if (r < 0 || sock < 0)
        return r;
    /* Who made the socket listen; it lives, or there would be no connection. */
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 1 || kill(peer.pid, SIGKILL) < 0)
        return err_set(e, errno ? errno : ESRCH, "network %s: its switch does not answer and cannot be ended: %s", name,
                       strerror(errno ? errno : ESRCH));
    return 0;
}

/* ---- starting ---- */

static int switch_spec_fd(const struct net_spec *spec, struct err *e)
{
    AUTO_FREE char *text = NULL;
    AUTO_FD int fd = memfd_create("net-spec", MFD_CLOEXEC);
    size_t len;

    if (net_spec_to_json(spec, &text) < 0)
        return err_set(e, ENOMEM, "out of memory");
    len = strlen(text);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) < 0)
        return err_set(e, errno ? errno : EIO, "network %s: cannot hand over its description: %s", spec->name,
                       strerror(errno));
    return STEAL_FD(fd);
}

/* Where the switch writes what it has to say: STATE/net/NAME.log, begun anew when it has grown. Nowhere is good enough
 * where that cannot be had; what matters comes back by the ready pipe. */
static int switch_log_fd(const char *name, char *ret_path, size_t size)
{
    char dir[SYS_DIR_MAX], net[SYS_DIR_MAX + 8];
    struct stat st;
    int fd = -1;

    snprintf(ret_path, size, "/dev/null");
    if (sys_dirs_state(dir) == 0) {
        snprintf(net, sizeof(net), "%s/net", dir);
        if (sys_dirs_make(dir) == 0 && sys_dirs_make(net) == 0) {
            snprintf(ret_path, size, "%s/%s.log", net, name);
            fd = open(ret_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        }
    }
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > SWITCH_LOG_MAX && ftruncate(fd, 0) < 0) {
        close(fd);
        fd = -1;
    }
    return fd >= 0 ? fd : open("/dev/null", O_WRONLY | O_CLOEXEC);
}

/* Read what the switch says when it is ready, or why it is not. The pipe ends with its line. */
static int switch_read_answer(int fd, char ret_text[SWITCH_ANSWER_MAX])
{
    size_t len = 0;

    while (len < SWITCH_ANSWER_MAX - 1) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int n = poll(&p, 1, INST_SWITCH_TIMEOUT_MS);
        ssize_t got;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ETIMEDOUT;
        got = read(fd, ret_text + len, SWITCH_ANSWER_MAX - 1 - len);
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        len += (size_t)got;
        if (memchr(ret_text, '\n', len))
            break;
    }
    ret_text[len] = '\0';
    return 0;
}

/* The answer: {"ok": true}, or "ok": false with "code" and "error". *ret_code, ret_line: of an error, where it says so.
 */
static bool switch_parse_answer(const char *answer, uint64_t *ret_code, char ret_line[ERR_TEXT_MAX])
{
    json_object *o = NULL, *v;
    bool ok = false;

    if (proto_json_object(answer, "answer", &o, NULL) < 0)
        return false;
    if (json_object_object_get_ex(o, "ok", &v))
        ok = json_object_get_boolean(v);
    if (json_object_object_get_ex(o, "error", &v) &&
        proto_json_text(v, "answer", "error", ret_line, ERR_TEXT_MAX, NULL) < 0)
        ret_line[0] = '\0';
    if (json_object_object_get_ex(o, "code", &v) && proto_json_uint(v, "answer", "code", 1, 4095, ret_code, NULL) < 0)
        *ret_code = EIO;
    json_object_put(o);
    return ok;
}

static int switch_wait_ready(int fd, const char *name, const char *log, struct err *e)
{
    char answer[SWITCH_ANSWER_MAX], line[ERR_TEXT_MAX] = "";
    uint64_t code = EIO;
    int r = switch_read_answer(fd, answer);

    if (r == -ETIMEDOUT)
        return err_set(e, ETIMEDOUT, "network %s: its switch is not ready after %d s; see %s", name,
                       INST_SWITCH_TIMEOUT_MS / 1000, log);
    if (r < 0)
        return err_set(e, -r, "network %s: its switch cannot be asked: %s", name, strerror(-r));
    if (switch_parse_answer(answer, &code, line))
        return 0;
    return line[0] ? err_set(e, (int)code, "%s", line)
                   : err_set(e, EIO, "network %s: its switch ended while it started; see %s", name, log);
}

int inst_switch_start(const struct net_spec *spec, int *ret_sock, struct err *e)
{
    char *const argv[] = { (char *)"caisson-switch", (char *)"--spec-fd", (char *)"3",
                           (char *)"--ready-fd",     (char *)"4",         NULL };
    char path[INST_PROGRAM_MAX], log[SYS_DIR_MAX + PROTO_NAME_MAX + 16];
    AUTO_FD int spec_fd = -1, log_fd = -1, ready = -1, theirs = -1;
    int r = inst_find_program("caisson-switch", path, e), pair[2];

    if (r < 0)
        return r;
    spec_fd = switch_spec_fd(spec, e);
    if (spec_fd < 0)
        return spec_fd;
    log_fd = switch_log_fd(spec->name, log, sizeof(log));
    if (log_fd < 0 || pipe2(pair, O_CLOEXEC) < 0)
        return err_set(e, errno, "network %s: cannot start its switch: %s", spec->name, strerror(errno));
    ready = pair[0];
    theirs = pair[1];
    r = inst_spawn_daemon(path, argv, (const int[]){ -1, log_fd, log_fd, spec_fd, theirs }, 5);
    if (r < 0)
        return err_set(e, -r, "cannot start a process for the network: %s", strerror(-r));
    base_closep(&theirs);
    theirs = -1;
    r = switch_wait_ready(ready, spec->name, log, e);
    if (r < 0)
        return r;
    r = inst_switch_connect(spec->name, ret_sock, e);
    if (r == 0 && *ret_sock < 0)
        return err_set(e, EIO, "network %s: its switch ended right after it started; see %s", spec->name, log);
    return r;
}
