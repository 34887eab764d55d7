#include "vmm/serial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/loop.h"

#define SERIAL_BUFFER 65536

struct vmm_serial {
    struct loop *loop;
    struct vmm_serial_port port;
    int fd;
    bool input;
    struct loop_fd *src;
    uint8_t typed[256]; /* read, not yet taken by the guest; loop thread */
    size_t n_typed;
    pthread_mutex_t lock; /* guards what follows; taken inside the device's lock */
    bool posted;          /* serial_update is on its way */
    bool starved;         /* the device was refused bytes */
    size_t head, len;     /* ring */
    uint8_t ring[SERIAL_BUFFER];
};

static void serial_on_ready(void *opaque, uint32_t events);

/* Write from the ring until it is empty or the other side is full. Lock held. false: the other side is gone. */
static bool serial_flush_locked(struct vmm_serial *s)
{
    while (s->len > 0) {
        size_t part = MIN(s->len, SERIAL_BUFFER - s->head);
        ssize_t n = write(s->fd, s->ring + s->head, part);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            s->len = 0; /* nobody listens any more: drop, so that the guest goes on */
            return errno != EPIPE && errno != ECONNRESET;
        }
        s->head = (s->head + (size_t)n) % SERIAL_BUFFER;
        s->len -= (size_t)n;
    }
    return true;
}

/* Give the guest what was typed, as far as it takes it. */
static void serial_feed(struct vmm_serial *s)
{
    size_t taken = s->n_typed ? s->port.receive(s->port.opaque, s->typed, s->n_typed) : 0;

    memmove(s->typed, s->typed + taken, s->n_typed - taken);
    s->n_typed -= taken;
}

/* Flush, and set what the loop watches to what is wanted now. Loop thread. */
static void serial_update(struct vmm_serial *s)
{
    uint32_t want = 0;
    bool feed, gone;

    pthread_mutex_lock(&s->lock);
    gone = !serial_flush_locked(s);
    feed = s->starved && s->len < SERIAL_BUFFER / 2;
    if (feed)
        s->starved = false;
    if (s->len > 0)
        want |= EPOLLOUT;
    pthread_mutex_unlock(&s->lock);
    serial_feed(s);
    if (s->input && s->n_typed == 0)
        want |= EPOLLIN;
    if (gone || (s->src && loop_fd_set(s->src, want) < 0)) {
        loop_fd_free(s->src);
        s->src = NULL;
    }
    if (feed)
        s->port.output_ready(s->port.opaque);
}

static void serial_posted(void *opaque)
{
    struct vmm_serial *s = opaque;

    pthread_mutex_lock(&s->lock);
    s->posted = false;
    pthread_mutex_unlock(&s->lock);
    serial_update(s);
}

static void serial_on_ready(void *opaque, uint32_t events)
{
    struct vmm_serial *s = opaque;

    if (s->input && events & EPOLLIN) {
        ssize_t n = s->n_typed == 0 ? read(s->fd, s->typed, sizeof(s->typed)) : -1;

        if (n > 0)
            s->n_typed = (size_t)n;
        else if (n == 0)
            s->input = false; /* no more input; output may still be wanted */
    }
    if (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN)) {
        loop_fd_free(s->src);
        s->src = NULL;
        pthread_mutex_lock(&s->lock);
        s->len = 0;
        pthread_mutex_unlock(&s->lock);
    }
    serial_update(s);
}

int vmm_serial_new(struct loop *loop, int fd, bool input, struct vmm_serial **ret_serial)
{
    struct vmm_serial *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->fd = fd;
    s->input = input && fd >= 0;
    pthread_mutex_init(&s->lock, NULL);
    if (fd >= 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        int r = -errno;

        s->fd = -1;
        vmm_serial_free(s);
        return r;
    }
    *ret_serial = s;
    return 0;
}

int vmm_serial_attach(struct vmm_serial *s, const struct vmm_serial_port *port)
{
    int r;

    s->port = *port;
    if (s->fd < 0)
        return 0;
    r = loop_fd_add(s->loop, s->fd, s->input ? EPOLLIN : 0, serial_on_ready, s, &s->src);
    /* A regular file cannot be watched and never blocks: writes go through at once. */
    return r == -EPERM ? 0 : r;
}

void vmm_serial_drain(struct vmm_serial *s)
{
    for (int i = 0; i < 10 && s->fd >= 0 && serial_flush_locked(s) && s->len > 0; i++) {
        struct pollfd room = { .fd = s->fd, .events = POLLOUT };

        poll(&room, 1, 100);
    }
    /* What a socket's other end has not read yet would come after our own messages on the same terminal. */
    for (int i = 0, unread; i < 500 && s->fd >= 0 && ioctl(s->fd, SIOCOUTQ, &unread) == 0 && unread > 0; i++)
        poll(NULL, 0, 2);
}

void vmm_serial_free(struct vmm_serial *s)
{
    if (!s)
        return;
    vmm_serial_drain(s);
    loop_fd_free(s->src);
    base_closep(&s->fd);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

size_t vmm_serial_write(void *serial, const uint8_t *data, size_t len)
{
    struct vmm_serial *s = serial;
    size_t taken = 0;
    bool post = false;

    if (s->fd < 0)
        return len;
    pthread_mutex_lock(&s->lock);
    while (taken < len && s->len < SERIAL_BUFFER) {
        size_t at = (s->head + s->len) % SERIAL_BUFFER;
        size_t part = MIN(MIN(len - taken, SERIAL_BUFFER - s->len), SERIAL_BUFFER - at);

        memcpy(s->ring + at, data + taken, part);
        s->len += part;
        taken += part;
    }
    s->starved |= taken < len;
    if (!s->posted)
        post = s->posted = true;
    pthread_mutex_unlock(&s->lock);
    if (post && loop_post(s->loop, serial_posted, s) < 0) {
        /* Out of memory: the next byte tries again. */
        pthread_mutex_lock(&s->lock);
        s->posted = false;
        pthread_mutex_unlock(&s->lock);
    }
    return taken;
}

void vmm_serial_input_wanted(void *serial)
{
    struct vmm_serial *s = serial;

    /* From a vCPU's thread: the loop does the rest. */
    vmm_serial_write(s, NULL, 0);
}
