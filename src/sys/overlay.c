#include "sys/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"

#define OVERLAY_MAGIC 0x794c7630 /* linux/magic.h */
#define OVERLAY_FUSE_MAGIC 0x65735546
#define OVERLAY_OPTIONS_MAX (128U << 10) /* of one argument */
#define OVERLAY_POLL_MS 5
#define OVERLAY_START_POLLS 6000 /* half a minute */
#define OVERLAY_END_MS 10000

bool sys_overlay_below(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == OVERLAY_MAGIC;
}

bool sys_overlay_refused(int error)
{
    return error == EINVAL || error == EPERM || error == EOPNOTSUPP || error == ENODEV;
}

int sys_overlay_program(char ret_path[PATH_MAX])
{
    const char *path = getenv("PATH");
    AUTO_FD int fuse = -1;
    int r = -ENOENT;

    for (path = path ? path : "/usr/bin:/bin"; r == -ENOENT && *path; path += *path == ':') {
        const size_t len = strcspn(path, ":");

        if (len > 0 && snprintf(ret_path, PATH_MAX, "%.*s/fuse-overlayfs", (int)len, path) < PATH_MAX &&
            access(ret_path, X_OK) == 0)
            r = 0;
        path += len;
    }
    if (r < 0)
        return r;
    fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    return fuse >= 0 ? 0 : errno == ENOENT ? -ENODEV : -errno;
}

/* ---- the process ---- */

static int overlay_options(const struct sys_overlay *o, struct buf *b)
{
    /* Without the kernel's cache of writes: whoever kills the process or reads the upper folder beside it misses none.
     */
    buf_append_str(b, "writeback=0,lowerdir=");
    for (size_t i = 0; i < o->n; i++)
        buf_printf(b, "%s/proc/self/fd/%d", i ? ":" : "", o->lower[i]);
    if (o->upper >= 0)
        buf_printf(b, ",upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d%s", o->upper, o->work,
                   o->volatile_ ? ",volatile" : "");
    else
        buf_append_str(b, ",ro");
    buf_append(b, "", 1);
    return buf_error(b);
}

/* In the child: nothing of the caller's but the folders. */
static _Noreturn void overlay_become(const struct sys_overlay *o, const char *program, const char *options, int errors,
                                     pid_t parent)
{
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const struct sigaction ignore = { .sa_handler = SIG_IGN };
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it has died before */
        _exit(127);
    (void)!setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    sigaction(SIGPIPE, &ignore, NULL); /* nobody reads what it says later */
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(errors, 2) < 0 || chdir("/") < 0)
        _exit(127);
    (void)!close_range(3, ~0U, CLOSE_RANGE_CLOEXEC); /* a kernel without it: ours have the flag anyway */
    for (size_t i = 0; i < o->n; i++)
        fcntl(o->lower[i], F_SETFD, 0);
    if (o->upper >= 0) {
        fcntl(o->upper, F_SETFD, 0);
        fcntl(o->work, F_SETFD, 0);
    }
    execl(program, "fuse-overlayfs", "-f", "-o", options, o->place, (char *)NULL);
    dprintf(2, "%s: %s\n", program, strerror(errno));
    _exit(127);
}

/* The last line of what it said. */
static void overlay_said(char *text, size_t len, char ret_why[SYS_OVERLAY_WHY_MAX])
{
    char *line;

    text[len] = '\0';
    while (len > 0 && text[len - 1] == '\n')
        text[--len] = '\0';
    line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    snprintf(ret_why, SYS_OVERLAY_WHY_MAX, "%.200s", *line ? line : "fuse-overlayfs ended and said nothing");
}

/* Until the mount is there. errors: the end of its stderr is the end of the process. */
static int overlay_wait(const char *place, int errors, char ret_why[SYS_OVERLAY_WHY_MAX])
{
    char text[1024];
    size_t used = 0;

    for (int i = 0; i < OVERLAY_START_POLLS; i++) {
        struct pollfd p = { .fd = errors, .events = POLLIN };
        struct statfs fs;

        if (poll(&p, 1, OVERLAY_POLL_MS) > 0) {
            ssize_t n = read(errors, text + used, sizeof(text) - 1 - used);

            if (n <= 0) {
                overlay_said(text, used, ret_why);
                return -EIO;
            }
            used = MIN(used + (size_t)n, sizeof(text) / 2); /* of a flood the beginning */
        }
        if (statfs(place, &fs) == 0 && fs.f_type == OVERLAY_FUSE_MAGIC)
            return 0;
    }
    snprintf(ret_why, SYS_OVERLAY_WHY_MAX, "fuse-overlayfs does not mount");
    return -ETIMEDOUT;
}

static int overlay_start(const struct sys_overlay *o, const char *program, const char *options, int *ret_pidfd,
                         char ret_why[SYS_OVERLAY_WHY_MAX])
{
    const pid_t parent = getpid();
    int errors[2], r, pidfd;
    pid_t pid;

    if (pipe2(errors, O_CLOEXEC) < 0)
        return -errno;
    pid = fork();
    if (pid == 0)
        overlay_become(o, program, options, errors[1], parent);
    r = pid < 0 ? -errno : 0;
    close(errors[1]);
    if (r == 0)
        r = overlay_wait(o->place, errors[0], ret_why);
    close(errors[0]);
    if (pid < 0)
        return r;
    pidfd = pidfd_open(pid, 0); /* our child, not reaped yet */
    if (r == 0 && pidfd < 0)
        r = -errno;
    if (r == 0) {
        *ret_pidfd = pidfd;
        return 0;
    }
    kill(pid, SIGKILL);
    umount2(o->place, MNT_DETACH);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    base_closep(&pidfd);
    return r;
}

int sys_overlay_fuse(const struct sys_overlay *o, int *ret_pidfd, char ret_why[SYS_OVERLAY_WHY_MAX])
{
    char program[PATH_MAX];
    struct buf options;
    int r = sys_overlay_program(program);

    if (r == -ENOENT)
        snprintf(ret_why, SYS_OVERLAY_WHY_MAX,
                 "the kernel's overlayfs refuses this place and fuse-overlayfs is missing; apt-get install "
                 "fuse-overlayfs, or put CAISSON_STATE_DIR on ext4, xfs or btrfs");
    else if (r < 0)
        snprintf(ret_why, SYS_OVERLAY_WHY_MAX,
                 "the kernel's overlayfs refuses this place and fuse-overlayfs cannot open /dev/fuse: %s; give this "
                 "machine the device, or put CAISSON_STATE_DIR on ext4, xfs or btrfs",
                 strerror(-r));
    if (r < 0)
        return r;
    buf_init(&options, OVERLAY_OPTIONS_MAX - 1);
    r = overlay_options(o, &options);
    snprintf(ret_why, SYS_OVERLAY_WHY_MAX, "fuse-overlayfs cannot be started: %s", r < 0 ? strerror(-r) : "");
    if (r == 0)
        r = overlay_start(o, program, (const char *)options.data, ret_pidfd, ret_why);
    buf_done(&options);
    return r;
}

void sys_overlay_fuse_end(int pidfd)
{
    struct pollfd p = { .fd = pidfd, .events = POLLIN };
    siginfo_t info;

    if (pidfd < 0)
        return;
    if (poll(&p, 1, OVERLAY_END_MS) <= 0)
        (void)!pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
    (void)!waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED); /* whoever reaps all children may have been here before */
    close(pidfd);
}

/* ---- marks ---- */

static bool overlay_is_mark(const struct stat *st)
{
    return S_ISREG(st->st_mode) && st->st_size == 0 && (st->st_mode & 07777) == SYS_OVERLAY_MARK_MODE;
}

bool sys_overlay_is_opaque(int fd)
{
    static const char *const names[] = { "trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque" };
    struct stat st;
    char value[2];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (fgetxattr(fd, names[i], value, sizeof(value)) == 1 && value[0] == 'y')
            return true;
    return fstatat(fd, SYS_OVERLAY_OPAQUE, &st, AT_SYMLINK_NOFOLLOW) == 0 && overlay_is_mark(&st);
}

const char *sys_overlay_mark(const char *name, const struct stat *st)
{
    /* fuse-overlayfs leaves a whiteout of the mark itself beside it. */
    if (strcmp(name, ".wh..opq") == 0 && S_ISCHR(st->st_mode) && st->st_rdev == 0)
        return "";
    if (strncmp(name, SYS_OVERLAY_WHITEOUT, strlen(SYS_OVERLAY_WHITEOUT)) != 0 || !overlay_is_mark(st))
        return NULL;
    name += strlen(SYS_OVERLAY_WHITEOUT);
    return strncmp(name, SYS_OVERLAY_WHITEOUT, strlen(SYS_OVERLAY_WHITEOUT)) == 0 ? "" : name;
}

bool sys_overlay_marked(int dir, const char *name)
{
    char mark[NAME_MAX + sizeof(SYS_OVERLAY_WHITEOUT)];
    struct stat st;

    snprintf(mark, sizeof(mark), SYS_OVERLAY_WHITEOUT "%s", name);
    return fstatat(dir, mark, &st, AT_SYMLINK_NOFOLLOW) == 0 && overlay_is_mark(&st);
}
