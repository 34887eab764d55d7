/* Handing the listener of SCMP_ACT_NOTIFY to its agent. The agent is not trusted: nothing is read from it, and it can
 * keep the runtime for a bounded time only. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "oci/json.h"
#include "oci/seccomp_priv.h"

#define NOTIFY_TIMEOUT_S 10
#define NOTIFY_STATE_MAX (1u << 20)

/* SO_SNDTIMEO is for connect as well. */
static int notify_set_timeout(int fd)
{
    const struct timeval timeout = { .tv_sec = NOTIFY_TIMEOUT_S };

    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ? -errno : 0;
}

/* A path that is too long for a socket's address goes by way of a descriptor of it. */
static int notify_address(const char *path, struct sockaddr_un *a, int *ret_path_fd)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) < sizeof(a->sun_path)) {
        memcpy(a->sun_path, path, strlen(path) + 1);
        return 0;
    }
    *ret_path_fd = open(path, O_PATH | O_CLOEXEC);
    if (*ret_path_fd < 0)
        return -errno;
    snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d", *ret_path_fd);
    return 0;
}

int oci_seccomp_notify_connect(const struct oci_seccomp *s, struct err *e)
{
    AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    AUTO_FD int path_fd = -1;
    struct sockaddr_un address;
    int r = fd < 0 ? -errno : notify_set_timeout(fd);

    if (r == 0)
        r = notify_address(s->listener_path, &address, &path_fd);
    if (r == 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        r = errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (r < 0)
        return err_set(e, -r, "linux.seccomp.listenerPath: %s: %s; is the seccomp agent running?", s->listener_path,
                       strerrordesc_np(-r));
    return STEAL_FD(fd);
}

void oci_seccomp_notify_message(const struct oci_seccomp *s, pid_t pid, const char *state_json, size_t len,
                                struct buf *b)
{
    buf_append_str(b, "{\"ociVersion\":\"" OCI_VERSION "\",\"fds\":[\"seccompFd\"]");
    buf_printf(b, ",\"pid\":%d", pid);
    if (s->listener_metadata)
        oci_json_member(b, 1, "metadata", s->listener_metadata);
    buf_append_str(b, ",\"state\":");
    buf_append(b, state_json, len);
    buf_append_str(b, "}");
}

/* The descriptor goes with the first bytes; the rest follows as the other side takes it. */
static int notify_write(int fd, const struct buf *b, int listener)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    const time_t end = time(NULL) + NOTIFY_TIMEOUT_S;
    size_t at = 0;

    while (at < b->len) {
        struct iovec iov = { .iov_base = b->data + at, .iov_len = b->len - at };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        if (at == 0) {
            m.msg_control = control.bytes;
            m.msg_controllen = sizeof(control.bytes);
            CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
            CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
            CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &listener, sizeof(int));
        }
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
        at += (size_t)n;
        if (time(NULL) > end)
            return -ETIMEDOUT;
    }
    return 0;
}

/* What the two threads share. */
struct notify_job {
    int fd;
    struct buf message;
    atomic_int listener; /* NOTIFY_NOT_YET; -1: the filter was not loaded */
    atomic_int result;   /* NOTIFY_NOT_YET, then 0 or -errno */
};

#define NOTIFY_NOT_YET INT_MAX

static void notify_finish(struct notify_job *job, int listener)
{
    int r = 0;

    if (listener >= 0) {
        r = notify_write(job->fd, &job->message, listener);
        close(listener);
        /* The agent may wait for the end, the runtime may have a copy, and execve may be what the agent is to allow. */
        shutdown(job->fd, SHUT_WR);
    }
    atomic_store(&job->result, r);
}

static void *notify_thread(void *opaque)
{
    const struct timespec pause = { .tv_nsec = 50000 };
    struct notify_job *job = opaque;
    int listener;

    /* The other thread can tell us by memory only: any system call may be the filter's. */
    while ((listener = atomic_load(&job->listener)) == NOTIFY_NOT_YET)
        nanosleep(&pause, NULL);
    notify_finish(job, listener);
    return NULL;
}

/* job outlives the thread: this returns after the thread has written its result, or has been joined. */
static int notify_load(const struct oci_bpf *b, struct notify_job *job, struct err *e)
{
    pthread_t thread;
    int listener = -1, r = pthread_create(&thread, NULL, notify_thread, job);
    const bool alone = r == EAGAIN; /* no room for a thread in the container's limits: hope that the filter lets us */

    if (r != 0 && !alone)
        return err_set(e, r, "seccomp: a thread for the listener: %s", strerrordesc_np(r));
    r = oci_seccomp_load(b, &listener, e);
    if (r < 0) {
        atomic_store(&job->listener, -1);
        if (!alone)
            pthread_join(thread, NULL);
        return r;
    }
    atomic_store(&job->listener, listener);
    if (alone)
        notify_finish(job, listener);
    while ((r = atomic_load(&job->result)) == NOTIFY_NOT_YET)
        atomic_signal_fence(memory_order_seq_cst);
    return r < 0 ? err_set(e, -r, "linux.seccomp.listenerPath: hand the listener over: %s", strerrordesc_np(-r)) : 0;
}

int oci_seccomp_load_notify(const struct oci_bpf *b, int fd, const struct oci_seccomp *s, pid_t pid,
                            const char *state_json, size_t len, struct err *e)
{
    struct notify_job job = { .fd = fd, .listener = NOTIFY_NOT_YET, .result = NOTIFY_NOT_YET };
    int r;

    buf_init(&job.message, NOTIFY_STATE_MAX);
    oci_seccomp_notify_message(s, pid, state_json, len, &job.message);
    r = buf_error(&job.message);
    r = r < 0 ? err_set(e, -r, "linux.seccomp: the state for the agent: %s", strerrordesc_np(-r))
              : notify_load(b, &job, e);
    /* The message is not freed: free may be a system call, and execve does it. */
    return r;
}
