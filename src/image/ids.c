/* The right to make files that belong to others. Root has it. Other users have it over their subordinate ids
 * (/etc/subuid), in a child process inside a user namespace with these mapped; without such ids the child can still
 * create what it likes, but all of it is this user's. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/image_priv.h"
#include "sys/userns.h"

#define IDS_LINE_MAX 512

/* ---- what this process may ---- */

/* How many ids the namespace of this process has. */
static uint64_t ids_mapped(void)
{
    FILE *f = fopen("/proc/self/uid_map", "re");
    unsigned long long inside, outside, n = 0;
    uint64_t sum = 0;

    while (f && fscanf(f, "%llu %llu %llu", &inside, &outside, &n) == 3)
        sum += n;
    if (f)
        fclose(f);
    return sum;
}

bool image_ids_userxattr(void)
{
    return geteuid() != 0 || ids_mapped() < UINT32_MAX;
}

const char *image_overlay_option(void)
{
    return image_ids_userxattr() ? "userxattr" : "";
}

const char *image_owner_note(void)
{
    static const char *const files[] = { "/etc/subuid", "/etc/subgid" };
    const struct passwd *pw = getpwuid(getuid());
    char number[24], line[IDS_LINE_MAX];

    snprintf(number, sizeof(number), "%u", getuid());
    for (size_t i = 0; geteuid() != 0 && i < ARRAY_SIZE(files); i++) {
        FILE *f = fopen(files[i], "re");
        bool found = false;

        while (f && !found && fgets(line, sizeof(line), f)) {
            line[strcspn(line, ":")] = '\0';
            found = strcmp(line, number) == 0 || (pw && strcmp(line, pw->pw_name) == 0);
        }
        if (f)
            fclose(f);
        if (!found)
            return "all files of images belong to this user, who has no subordinate ids; as root: usermod "
                   "--add-subuids "
                   "100000-165535 --add-subgids 100000-165535 USER, then import again";
    }
    return NULL;
}

/* ---- the child ---- */

/* From child to parent: a number of these; the last one has done. */
struct ids_message {
    bool done;
    int result;
    uint64_t step, total;
    struct err e;
};

static bool ids_tell_step(void *opaque, uint64_t done, uint64_t total)
{
    const struct ids_message m = { .step = done, .total = total };

    return fd_write_all(*(int *)opaque, &m, sizeof(m)) == 0; /* cancelled by a signal */
}

static _Noreturn void ids_child(int (*fn)(void *opaque, const struct image_work *work, struct err *e), void *opaque,
                                int out)
{
    const struct disk_progress progress = { .step = ids_tell_step, .opaque = &out };
    struct image_work work = { .progress = &progress };
    struct ids_message m = { .done = true };
    int r;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    r = sys_userns_enter();
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of ids takes it away */
    work.ids = ids_mapped() == 1 ? IMAGE_IDS_FLAT : IMAGE_IDS_MAPPED;
    if (r == -ENOENT)
        m.result = err_set(&m.e, ENOENT, "newuidmap is missing; install the package uidmap");
    else if (r < 0)
        m.result = err_set(&m.e, -r, "cannot make a user namespace: %s; as root: sysctl user.max_user_namespaces=15000",
                           strerror(-r));
    else
        m.result = fn(opaque, &work, &m.e);
    _exit(fd_write_all(out, &m, sizeof(m)) < 0);
}

static int ids_read(int fd, struct ids_message *m)
{
    size_t got = 0;

    while (got < sizeof(*m)) {
        ssize_t n = read(fd, (uint8_t *)m + got, sizeof(*m) - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        got += (size_t)n;
    }
    return 0;
}

/* Until it has ended, or is to. */
static int ids_follow(int in, const struct disk_progress *progress, struct err *e)
{
    struct ids_message m = { 0 };
    int r = 0;

    while (r == 0 && !m.done && (r = ids_read(in, &m)) == 0) {
        if (!m.done && progress && progress->step && !progress->step(progress->opaque, m.step, m.total))
            return err_set(e, ECANCELED, "canceled");
    }
    if (r < 0)
        return err_set(e, EIO, "the process that unpacks images ended without a word; try again");
    if (m.result < 0 && e) {
        m.e.text[sizeof(m.e.text) - 1] = '\0';
        *e = m.e;
    }
    return m.result;
}

int image_ids_run(int (*fn)(void *opaque, const struct image_work *work, struct err *e), void *opaque,
                  const struct disk_progress *progress, struct err *e)
{
    const struct image_work here = { .ids = ids_mapped() == 1 ? IMAGE_IDS_FLAT : IMAGE_IDS_ALL, .progress = progress };
    int out[2], status, r;
    pid_t child;

    if (geteuid() == 0)
        return fn(opaque, &here, e);
    if (pipe2(out, O_CLOEXEC) < 0)
        return err_set(e, errno, "cannot make a pipe: %s", strerror(errno));
    child = fork();
    if (child == 0) {
        close(out[0]);
        ids_child(fn, opaque, out[1]);
    }
    r = child < 0 ? err_set(e, errno, "cannot start a process: %s", strerror(errno)) : 0;
    close(out[1]);
    if (child > 0) {
        r = ids_follow(out[0], progress, e);
        if (r < 0)
            kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close(out[0]);
    return r;
}

/* ---- deleting with it ---- */

struct ids_remove {
    int dir;
    const char *name;
};

static int ids_remove(void *opaque, const struct image_work *work, struct err *e)
{
    const struct ids_remove *remove = opaque;
    int r = image_tree_remove(remove->dir, remove->name);

    (void)work;
    return r < 0 ? err_set(e, -r, "cannot delete %s: %s", remove->name, strerror(-r)) : 0;
}

int image_tree_remove_owned(int dir, const char *name, struct err *e)
{
    struct ids_remove remove = { .dir = dir, .name = name };
    struct stat st;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return 0;
    return image_ids_run(ids_remove, &remove, NULL, e);
}
