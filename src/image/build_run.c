/* RUN: a container of caisson-oci over the mounted tree, with the network and the names of the host, as a process that
 * takes all of it along when it is killed (it is the first one of a pid namespace). */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fdio.h"
#include "image/build_priv.h"
#include "image/user.h"
#include "wire/oci_seccomp.h"
#include "wire/oci_spec.h"

#define RUN_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define RUN_NOEXEC "nosuid", "noexec", "nodev"

/* ---- config.json ---- */

static json_object *run_list(const char *const *texts, size_t n)
{
    json_object *a = json_object_new_array();

    for (size_t i = 0; i < n; i++)
        json_object_array_add(a, json_object_new_string(texts[i]));
    return a;
}
#define RUN_LIST(...) \
    run_list((const char *const[]){ __VA_ARGS__ }, sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static void run_mount(json_object *mounts, const char *to, const char *type, const char *source, json_object *options)
{
    json_object *m = json_object_new_object();

    json_object_object_add(m, "destination", json_object_new_string(to));
    json_object_object_add(m, "type", json_object_new_string(type));
    json_object_object_add(m, "source", json_object_new_string(source));
    json_object_object_add(m, "options", options);
    json_object_array_add(mounts, m);
}

static json_object *run_mounts(const struct build_run *run)
{
    json_object *m = json_object_new_array();

    run_mount(m, "/proc", "proc", "proc", RUN_LIST(RUN_NOEXEC));
    run_mount(m, "/dev", "tmpfs", "tmpfs", RUN_LIST("nosuid", "strictatime", "mode=755", "size=65536k"));
    run_mount(m, "/dev/pts", "devpts", "devpts",
              RUN_LIST("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"));
    run_mount(m, "/dev/shm", "tmpfs", "shm", RUN_LIST(RUN_NOEXEC, "mode=1777", "size=65536k"));
    run_mount(m, "/dev/mqueue", "mqueue", "mqueue", RUN_LIST(RUN_NOEXEC));
    if (image_ids_userxattr() && !run->network_none) /* the network namespace is not ours: nor is its sysfs */
        run_mount(m, "/sys", "bind", "/sys", RUN_LIST("rbind", "ro", RUN_NOEXEC));
    else
        run_mount(m, "/sys", "sysfs", "sysfs", RUN_LIST(RUN_NOEXEC, "ro"));
    if (!run->network_none && access("/etc/resolv.conf", R_OK) == 0)
        run_mount(m, "/etc/resolv.conf", "bind", "/etc/resolv.conf", RUN_LIST("bind", "ro", RUN_NOEXEC));
    if (!run->network_none && access("/etc/hosts", R_OK) == 0)
        run_mount(m, "/etc/hosts", "bind", "/etc/hosts", RUN_LIST("bind", "ro", RUN_NOEXEC));
    return m;
}

static const char *const run_caps[] = { "CAP_CHOWN",      "CAP_DAC_OVERRIDE", "CAP_FOWNER",           "CAP_FSETID",
                                        "CAP_KILL",       "CAP_MKNOD",        "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",
                                        "CAP_SETGID",     "CAP_SETPCAP",      "CAP_SETUID",           "CAP_SYS_CHROOT",
                                        "CAP_AUDIT_WRITE" };

static json_object *run_seccomp(void)
{
    uint64_t caps = 0;

    for (size_t i = 0; i < ARRAY_SIZE(run_caps); i++)
        caps |= BIT64(oci_cap_number(run_caps[i]));
    return oci_seccomp_default(caps);
}

static json_object *run_linux(const struct build_run *run)
{
    static const char *const kinds[] = { "pid", "ipc", "uts", "mount", "network" };
    json_object *o = json_object_new_object(), *namespaces = json_object_new_array();

    for (size_t i = 0; i < ARRAY_SIZE(kinds) - !run->network_none; i++) {
        json_object *one = json_object_new_object();

        json_object_object_add(one, "type", json_object_new_string(kinds[i]));
        json_object_array_add(namespaces, one);
    }
    json_object_object_add(o, "namespaces", namespaces);
    json_object_object_add(o, "seccomp", run_seccomp());
    json_object_object_add(o, "maskedPaths",
                           RUN_LIST("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                                    "/proc/timer_list", "/proc/scsi", "/sys/firmware"));
    json_object_object_add(
        o, "readonlyPaths",
        RUN_LIST("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"));
    return o;
}

static json_object *run_capabilities(void)
{
    static const char *const sets[] = { "bounding", "effective", "permitted" };
    json_object *o = json_object_new_object();

    for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
        json_object_object_add(o, sets[i], run_list(run_caps, ARRAY_SIZE(run_caps)));
    return o;
}

static json_object *run_env(const struct build_run *run, const struct image_user *user)
{
    json_object *env = json_object_new_array();
    char home[300];
    bool path = false, has_home = false;

    for (size_t i = 0; i < run->env->n; i++) {
        path = path || strncmp(run->env->at[i], "PATH=", 5) == 0;
        has_home = has_home || strncmp(run->env->at[i], "HOME=", 5) == 0;
        json_object_array_add(env, json_object_new_string(run->env->at[i]));
    }
    snprintf(home, sizeof(home), "HOME=%s", user->home);
    if (!path)
        json_object_array_add(env, json_object_new_string(RUN_PATH));
    if (!has_home)
        json_object_array_add(env, json_object_new_string(home));
    return env;
}

static json_object *run_process(const struct build_run *run, const struct image_user *user)
{
    json_object *o = json_object_new_object(), *who = json_object_new_object(), *groups = json_object_new_array();

    json_object_object_add(who, "uid", json_object_new_int64(user->uid));
    json_object_object_add(who, "gid", json_object_new_int64(user->gid));
    for (size_t i = 0; i < user->n_groups; i++)
        json_object_array_add(groups, json_object_new_int64(user->groups[i]));
    json_object_object_add(who, "additionalGids", groups);
    json_object_object_add(o, "user", who);
    json_object_object_add(o, "args", run_list((const char *const *)run->args->at, run->args->n));
    json_object_object_add(o, "env", run_env(run, user));
    json_object_object_add(o, "cwd", json_object_new_string(run->cwd[0] ? run->cwd : "/"));
    json_object_object_add(o, "capabilities", run_capabilities());
    return o;
}

static int run_write_config(const struct build_run *run, const char *root, const struct image_user *user, struct err *e)
{
    json_object *o = json_object_new_object(), *r = json_object_new_object();
    char path[IMAGE_PATH_MAX + 64];
    const char *text;
    AUTO_FD int fd = -1;
    int rc;

    json_object_object_add(o, "ociVersion", json_object_new_string("1.0.2"));
    json_object_object_add(r, "path", json_object_new_string(root));
    json_object_object_add(o, "root", r);
    json_object_object_add(o, "process", run_process(run, user));
    json_object_object_add(o, "mounts", run_mounts(run));
    json_object_object_add(o, "linux", run_linux(run));
    text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    snprintf(path, sizeof(path), "%s/config.json", run->bundle);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    rc = fd < 0 ? -errno : text ? fd_write_all(fd, text, strlen(text)) : -ENOMEM;
    json_object_put(o);
    return rc < 0 ? err_set(e, -rc, "cannot write %s: %s", path, strerror(-rc)) : 0;
}

/* ---- what the mounts leave ---- */

/* Made by the runtime to mount something there, where the image had nothing. Folders after what is in them. */
static const struct run_point {
    const char *folder, *name;
} run_points[] = { { "etc", "resolv.conf" }, { "etc", "hosts" }, { ".", "etc" },
                   { ".", "dev" },           { ".", "proc" },    { ".", "sys" } };

/* The folder of a point, as it is in the root: a link, which the command may have put there, is none. */
static int run_point_folder(int root, const struct run_point *point)
{
    return openat(root, point->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void run_note_points(int root, bool ret_had[ARRAY_SIZE(run_points)])
{
    struct stat st;

    for (size_t i = 0; i < ARRAY_SIZE(run_points); i++) {
        AUTO_FD int folder = run_point_folder(root, &run_points[i]);

        ret_had[i] = folder >= 0 && fstatat(folder, run_points[i].name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
}

static void run_remove_points(int root, const bool had[ARRAY_SIZE(run_points)])
{
    for (size_t i = 0; i < ARRAY_SIZE(run_points); i++) {
        AUTO_FD int folder = had[i] ? -1 : run_point_folder(root, &run_points[i]);
        const char *name = run_points[i].name;
        struct stat st;

        if (folder < 0 || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISDIR(st.st_mode) ? unlinkat(folder, name, AT_REMOVEDIR) < 0
                                : st.st_size == 0 && S_ISREG(st.st_mode) && unlinkat(folder, name, 0) < 0)
            continue; /* it is in use now: the image's */
    }
}

/* ---- the container ---- */

static void run_exec(const struct build_run *run, const char *id)
{
    char state[IMAGE_PATH_MAX + 64];
    int null = open("/dev/null", O_RDWR);
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Not in the namespace of who serves the layers: fuse-overlayfs needs the /proc that it is in. */
    if (unshare(CLONE_NEWNS) < 0 || mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        dprintf(STDERR_FILENO, "caisson: cannot mount /proc for RUN: %s\n", strerror(errno));
    dup2(null, STDIN_FILENO);
    dup2(run->b->config->quiet ? null : STDERR_FILENO, STDOUT_FILENO);
    snprintf(state, sizeof(state), "%s/state", run->bundle);
    execl(run->b->config->runtime, "caisson-oci", "--root", state, "run", "--bundle", run->bundle, id, (char *)NULL);
    dprintf(STDERR_FILENO, "caisson: cannot start %s: %s\n", run->b->config->runtime, strerror(errno));
    _exit(127);
}

/* One id for all of a build's runs in their bundles: they are alone in their state folders. */
static void run_id(const struct build_run *run, char ret[64])
{
    snprintf(ret, 64, "caisson-build-%s", strrchr(run->b->add->place.tmp, '/') + 1);
}

static int run_container(const struct build_run *run, struct err *e)
{
    char id[64];
    int status;
    pid_t child;

    run_id(run, id);
    if (unshare(CLONE_NEWPID) < 0)
        return err_set(e, errno, "cannot make a pid namespace: %s", strerror(errno));
    child = fork();
    if (child == 0)
        run_exec(run, id);
    if (child < 0)
        return err_set(e, errno, "cannot start a process: %s", strerror(errno));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return err_set(e, errno, "cannot wait for a container: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status))
        return err_set(e, ECHILD, "the command was killed by signal %d", WTERMSIG(status));
    return err_set(e, ECHILD, "the command ended with exit code %d", WEXITSTATUS(status));
}

int build_run(void *opaque, const char *path, int root, int from, struct err *e)
{
    const struct build_run *run = opaque;
    struct image_user user = { 0 };
    bool had[ARRAY_SIZE(run_points)];
    int r, folder;

    (void)from;
    r = image_user_find(root, run->user, &user, e);
    if (r == 0 && run->cwd[0]) {
        folder = build_make_folder(root, run->cwd, 0, 0);
        if (folder < 0)
            r = err_set(e, -folder, "cannot make the working directory %s: %s", run->cwd, strerror(-folder));
        else
            close(folder);
    }
    if (r == 0)
        r = run_write_config(run, path, &user, e);
    free(user.groups);
    run_note_points(root, had);
    if (r == 0)
        r = run_container(run, e);
    run_remove_points(root, had);
    return r;
}

void build_run_clean(const struct build_run *run)
{
    char state[IMAGE_PATH_MAX + 64], id[64];
    pid_t child;

    run_id(run, id);
    snprintf(state, sizeof(state), "%s/state", run->bundle);
    child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, STDERR_FILENO);
        execl(run->b->config->runtime, "caisson-oci", "--root", state, "delete", "--force", id, (char *)NULL);
        _exit(127);
    }
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
}
