#include "sys/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PLACE_BACKLOG 16

/* Whether the file that is locked is still the one of that name. */
static bool place_is_current(const struct sys_place *p)
{
    struct stat mine, there;

    return fstat(p->lock, &mine) == 0 && stat(p->lock_path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

static int place_lock(struct sys_place *p)
{
    /* Whoever leaves removes the file while it has the lock; who got the lock of a removed file tries again. */
    for (;;) {
        p->lock = open(p->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (p->lock < 0)
            return -errno;
        if (flock(p->lock, LOCK_EX | LOCK_NB) < 0) {
            int r = errno == EWOULDBLOCK ? -EBUSY : -errno;

            base_closep(&p->lock);
            p->lock = -1;
            return r;
        }
        if (place_is_current(p))
            return 0;
        base_closep(&p->lock);
    }
}

static int place_listen(struct sys_place *p)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    AUTO_FD int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (sock < 0)
        return -errno;
    memcpy(addr.sun_path, p->socket_path, strlen(p->socket_path) + 1);
    /* We hold the lock: whatever is there belongs to a process that is dead. */
    if (unlink(p->socket_path) < 0 && errno != ENOENT)
        return -errno;
    if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(sock, PLACE_BACKLOG) < 0)
        return -errno;
    p->socket = STEAL_FD(sock);
    return 0;
}

/* The name of the lock, and the lock. */
static int place_take_lock(const char *dir, const char *name, struct sys_place *p, enum sys_place_step *ret_step)
{
    int r;

    *ret_step = SYS_PLACE_NAME;
    if (snprintf(p->lock_path, sizeof(p->lock_path), "%s/%s.lock", dir, name) >= (int)sizeof(p->lock_path))
        return -ENAMETOOLONG;
    *ret_step = SYS_PLACE_DIR;
    r = sys_dirs_make(dir);
    if (r < 0)
        return r;
    *ret_step = SYS_PLACE_LOCK;
    return place_lock(p);
}

int sys_place_take(const char *dir, const char *name, struct sys_place *p, enum sys_place_step *ret_step)
{
    int r;

    p->lock = p->socket = -1;
    *ret_step = SYS_PLACE_NAME;
    if (snprintf(p->socket_path, sizeof(p->socket_path), "%s/%s.sock", dir, name) >=
        (int)sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return -ENAMETOOLONG;
    r = place_take_lock(dir, name, p, ret_step);
    if (r == 0) {
        *ret_step = SYS_PLACE_SOCKET;
        r = place_listen(p);
    }
    return r;
}

int sys_place_lock(const char *dir, const char *name, struct sys_place *p)
{
    enum sys_place_step step;

    p->lock = p->socket = -1;
    p->socket_path[0] = '\0';
    return place_take_lock(dir, name, p, &step);
}

void sys_place_leave(struct sys_place *p)
{
    if (p->socket >= 0)
        unlink(p->socket_path);
    if (p->lock >= 0)
        unlink(p->lock_path);
    base_closep(&p->socket);
    base_closep(&p->lock);
    p->socket = p->lock = -1;
}

void sys_place_sweep(const char *dir, bool (*keep)(void *opaque, const char *name), void *opaque)
{
    struct dirent *entry;
    DIR *d = opendir(dir);

    while (d && (entry = readdir(d))) {
        char *dot = strrchr(entry->d_name, '.'), socket_path[SYS_PLACE_PATH_MAX];
        struct sys_place p;

        if (!dot || strcmp(dot, ".lock") != 0)
            continue;
        *dot = '\0';
        if ((keep && keep(opaque, entry->d_name)) || sys_place_lock(dir, entry->d_name, &p) < 0)
            continue;
        if (snprintf(socket_path, sizeof(socket_path), "%s/%s.sock", dir, entry->d_name) < (int)sizeof(socket_path))
            (void)!unlink(socket_path);
        sys_place_leave(&p);
    }
    if (d)
        closedir(d);
}

int sys_place_accept(const struct sys_place *p)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    AUTO_FD int sock = accept4(p->socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -errno;
    if (peer.uid != geteuid() && peer.uid != 0)
        return -EPERM;
    return STEAL_FD(sock);
}
