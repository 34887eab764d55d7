/* What a container looks like from within: `report [WORD...]` prints one line for each thing, "key value". Runs as the
 * container's process, linked statically, and uses nothing of the container's file system but itself. Words ask for
 * more: sysctl:NAME   the value of /proc/sys/NAME           look:PATH   what opening, reading and writing PATH does
 *   call:NAME     what a system call does (seccomp)     mknod       whether devices can be made
 *   stdin         what standard input says              tty         the terminal's size and name
 *   shell         (nothing: words that are not known are errors, exit code 3) */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void report_file(const char *key, const char *path)
{
    FILE *f = fopen(path, "re");
    char line[4096];
    if (!f) {
        printf("%s !%s\n", key, strerrorname_np(errno));
        return;
    }
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        printf("%s %s\n", key, line);
    }
    fclose(f);
}

static void report_link(const char *key, const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0) {
        printf("%s !%s\n", key, strerrorname_np(errno));
        return;
    }
    target[n] = 0;
    printf("%s %s\n", key, target);
}

static void report_identity(int argc, char **argv)
{
    uid_t ids[3];
    gid_t gids[3];
    gid_t groups[256];
    getresuid(&ids[0], &ids[1], &ids[2]);
    getresgid(&gids[0], &gids[1], &gids[2]);
    printf("uid %u %u %u\ngid %u %u %u\ngroups", ids[0], ids[1], ids[2], gids[0], gids[1], gids[2]);
    int n = getgroups(256, groups);
    for (int i = 0; i < n; i++)
        printf(" %u", groups[i]);
    mode_t mask = umask(0);
    umask(mask);
    printf("\numask %04o\npid %d\nppid %d\npgid-is-own %d\nsid-is-own %d\n", mask, getpid(), getppid(),
           getpgrp() == getpid(), getsid(0) == getpid());
    for (int i = 0; i < argc; i++)
        printf("arg %d %s\n", i, argv[i]);
    for (char **e = environ; *e; e++)
        printf("env %s\n", *e);
    report_link("cwd", "/proc/self/cwd");
    report_link("exe", "/proc/self/exe");
    report_link("root", "/proc/self/root");
    report_file("comm", "/proc/self/comm");
}

static void report_status(void)
{
    static const char *const wanted[] = { "Cap", "NoNewPrivs",        "Seccomp",           "Sig",
                                          "Shd", "Cpus_allowed_list", "Mems_allowed_list", "Speculation",
                                          "THP", "x86_Thread" };
    FILE *f = fopen("/proc/self/status", "re");
    char line[4096];
    if (!f) {
        printf("status !%s\n", strerrorname_np(errno));
        return;
    }
    while (fgets(line, sizeof line, f))
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
            if (strncmp(line, wanted[i], strlen(wanted[i])) == 0)
                printf("status %s", line);
    fclose(f);
}

static void report_limits(void)
{
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit r;
        if (getrlimit((__rlimit_resource_t)i, &r) == 0)
            printf("rlimit %d %lld %lld\n", i, (long long)r.rlim_cur, (long long)r.rlim_max);
    }
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t util_min, util_max;
    } attr = { 0 };
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0)
        printf("sched policy %u flags %llx nice %d priority %u runtime %llu deadline %llu period %llu\n", attr.policy,
               (unsigned long long)attr.flags, attr.nice, attr.priority, (unsigned long long)attr.runtime,
               (unsigned long long)attr.deadline, (unsigned long long)attr.period);
    printf("ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
    printf("personality %x\n", (unsigned)personality(0xffffffff));
    printf("dumpable %d\npdeathsig ", prctl(PR_GET_DUMPABLE));
    int sig = 0;
    prctl(PR_GET_PDEATHSIG, &sig);
    printf("%d\nsubreaper ", sig);
    prctl(PR_GET_CHILD_SUBREAPER, &sig);
    printf("%d\nsecurebits %x\nkeepcaps %d\n", sig, (unsigned)prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS));
    report_file("oom", "/proc/self/oom_score_adj");
    report_file("label", "/proc/self/attr/current");
    char key[256];
    long n = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, key, sizeof key - 1);
    printf("keyring %.*s\n", n > 0 ? (int)n : 1, n > 0 ? key : "-");
}

static void report_namespaces(void)
{
    static const char *const names[] = { "cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[64], key[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        snprintf(key, sizeof key, "ns %s", names[i]);
        report_link(key, path);
    }
    report_file("uid_map", "/proc/self/uid_map");
    report_file("gid_map", "/proc/self/gid_map");
    report_file("setgroups", "/proc/self/setgroups");
    report_file("timens", "/proc/self/timens_offsets");
    struct utsname u;
    uname(&u);
    printf("hostname %s\ndomainname %s\nmachine %s\n", u.nodename, u.domainname, u.machine);
    struct timespec boot;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    printf("boottime-days %lld\n", (long long)boot.tv_sec / 86400);
    struct if_nameindex *list = if_nameindex();
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (struct if_nameindex *i = list; i && i->if_name; i++) {
        struct ifreq r = { 0 };
        snprintf(r.ifr_name, sizeof r.ifr_name, "%s", i->if_name);
        int failed = ioctl(s, SIOCGIFFLAGS, &r);
        printf("interface %s %s\n", i->if_name, failed ? "?" : r.ifr_flags & IFF_UP ? "up" : "down");
    }
    if (list)
        if_freenameindex(list);
    close(s);
}

static void report_tree(const char *folder, int depth)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        char path[1024], target[256] = "";
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && lstat(path, &st) == 0) {
            ssize_t len = S_ISLNK(st.st_mode) ? readlink(path, target, sizeof target - 1) : 0;
            target[len > 0 ? len : 0] = 0;
            printf("node %s %06o %u:%u %u:%u %s\n", path, st.st_mode, major(st.st_rdev), minor(st.st_rdev), st.st_uid,
                   st.st_gid, target);
            if (S_ISDIR(st.st_mode) && depth > 0)
                report_tree(path, depth - 1);
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

static void report_files(void)
{
    report_file("mount", "/proc/self/mountinfo");
    report_file("cgroup", "/proc/self/cgroup");
    report_tree("/dev", 1);
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], key[64];
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        snprintf(key, sizeof key, "fd %d %s", fd, flags & FD_CLOEXEC ? "cloexec" : "kept");
        report_link(key, path);
    }
}

/* What can be done with a path that may be masked, read-only, or a device. */
static void report_look(const char *path)
{
    struct stat st;
    char data[64];
    if (stat(path, &st) != 0) {
        printf("look %s stat !%s\n", path, strerrorname_np(errno));
        return;
    }
    printf("look %s mode %06o dev %u:%u owner %u:%u\n", path, st.st_mode, major(st.st_rdev), minor(st.st_rdev),
           st.st_uid, st.st_gid);
    if (S_ISDIR(st.st_mode)) {
        struct dirent **entries;
        int n = scandir(path, &entries, NULL, alphasort);
        printf("look %s %s\n", path, n < 0 ? strerrorname_np(errno) : n > 2 ? "full" : "empty");
        char file[1024];
        snprintf(file, sizeof file, "%s/.caisson-probe", path);
        int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        printf("look %s create %s\n", path, fd < 0 ? strerrorname_np(errno) : "ok");
        unlink(file);
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof data);
    printf("look %s read %s\n", path, n < 0 ? strerrorname_np(errno) : n ? "data" : "empty");
    close(fd);
    fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    printf("look %s write-open %s\n", path, fd < 0 ? strerrorname_np(errno) : "ok");
    close(fd);
}

static void report_result(const char *name, long result)
{
    printf("call %s %s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
}

static sigjmp_buf report_back;

static void report_fault(int sig)
{
    siglongjmp(report_back, sig);
}

/* getpid of the 32-bit ABI, which some kernels do not have (ia32_emulation=0, encrypted guests): a fault then. */
static void report_int80(void)
{
    const struct sigaction fault = { .sa_handler = report_fault }, plain = { .sa_handler = SIG_DFL };
    long result = 20;
    sigaction(SIGSEGV, &fault, NULL);
    if (sigsetjmp(report_back, 1) == 0) {
        __asm__ volatile("int $0x80" : "+a"(result)::"memory", "r8", "r9", "r10", "r11");
        printf("call int80 %s\n", result < 0 ? strerrorname_np((int)-result) : "ok");
    } else {
        puts("call int80 not there");
    }
    sigaction(SIGSEGV, &plain, NULL);
}

/* A procfs of one's own, by a user namespace: the kernel allows it only where one is to be seen that nothing covers. */
static void report_fresh_proc(const char *name)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS) < 0) {
        report_result(name, -1);
        return;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        report_result(name, mount("proc", "/tmp", "proc", 0, NULL));
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

static int report_call(const char *name)
{
    if (strcmp(name, "mkdir") == 0)
        report_result(name, mkdir("/tmp/report-dir", 0777));
    else if (strcmp(name, "getcwd") == 0) {
        char here[4096];
        report_result(name, syscall(SYS_getcwd, here, sizeof here));
    } else if (strcmp(name, "personality") == 0)
        report_result(name, personality(0x0008));
    else if (strcmp(name, "personality-query") == 0)
        report_result(name, personality(0xffffffff));
    else if (strcmp(name, "unshare") == 0)
        report_result(name, unshare(CLONE_NEWUTS));
    else if (strcmp(name, "chown") == 0)
        report_result(name, chown("/tmp", 1, 1));
    else if (strcmp(name, "sethostname") == 0)
        report_result(name, sethostname("other", 5));
    else if (strcmp(name, "mount") == 0)
        report_result(name, mount("none", "/tmp", "tmpfs", 0, NULL));
    else if (strcmp(name, "mknod") == 0)
        report_result(name, mknod("/tmp/report-node", S_IFCHR | 0600, makedev(1, 3)));
    else if (strcmp(name, "mknod-loop") == 0)
        report_result(name, mknod("/tmp/report-loop", S_IFBLK | 0600, makedev(7, 0)));
    else if (strcmp(name, "chmod-masked") == 0)
        report_result(name, chmod("/proc/timer_list", 0600));
    else if (strcmp(name, "chown-masked") == 0)
        report_result(name, chown("/proc/timer_list", 1, 1));
    else if (strcmp(name, "keyctl") == 0)
        report_result(name, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
    else if (strcmp(name, "fresh-proc") == 0)
        report_fresh_proc(name);
    else if (strcmp(name, "int80") == 0)
        report_int80();
    else
        return 3;
    return 0;
}

static int report_word(const char *word)
{
    const char *rest = strchr(word, ':');
    rest = rest ? rest + 1 : "";
    if (strncmp(word, "sysctl:", 7) == 0) {
        char path[512], key[512];
        snprintf(path, sizeof path, "/proc/sys/%s", rest);
        snprintf(key, sizeof key, "sysctl %s", rest);
        report_file(key, path);
        return 0;
    }
    if (strncmp(word, "look:", 5) == 0) {
        report_look(rest);
        return 0;
    }
    if (strncmp(word, "tree:", 5) == 0) {
        report_tree(rest, 1);
        return 0;
    }
    if (strncmp(word, "call:", 5) == 0)
        return report_call(rest);
    if (strcmp(word, "stdin") == 0) {
        report_file("stdin", "/proc/self/fd/0");
        return 0;
    }
    if (strcmp(word, "tty") == 0) {
        struct winsize size = { 0 };
        for (int fd = 0; fd < 3; fd++)
            printf("isatty %d %d\n", fd, isatty(fd));
        ioctl(0, TIOCGWINSZ, &size);
        printf("tty %s %ux%u controlling %d\n", ttyname(0), size.ws_row, size.ws_col, tcgetpgrp(0) == getpgrp());
        return 0;
    }
    return 3;
}

int main(int argc, char **argv)
{
    report_identity(argc, argv);
    report_status();
    report_limits();
    report_namespaces();
    report_files();
    for (int i = 1; i < argc; i++) {
        int status = report_word(argv[i]);
        if (status) {
            printf("report: %s is not known\n", argv[i]);
            return status;
        }
    }
    return fflush(stdout) == 0 ? 0 : 4;
}
