/* The kernel's share of a container's life: `ocifloor` does by plain system calls what create, start and delete of a
 * container with the usual namespaces, mounts and cgroups cannot do without, in one process and its child, checks
 * nothing that is not needed, and prints the microseconds of one such life. `ocifloor ROOTFS GROUP ROUNDS`: /true in
 * ROOTFS is the process; GROUP is the name of a cgroup to be made and removed in each hierarchy, of v1 and v2. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FLOOR_GROUPS 16

static char floor_group[FLOOR_GROUPS][256];
static int floor_groups;

static void floor_check(int r, const char *what)
{
    if (r < 0) {
        perror(what);
        exit(1);
    }
}

/* The hierarchies of this machine, once: /sys/fs/cgroup itself, or its folders. */
static void floor_find_groups(const char *name)
{
    static const char *const names[] = { "cpu",  "cpuacct", "cpuset",  "memory",  "devices",    "freezer", "blkio",
                                         "pids", "systemd", "unified", "hugetlb", "perf_event", "net_cls", "rdma" };
    struct stat st;
    if (stat("/sys/fs/cgroup/cgroup.procs", &st) == 0)
        snprintf(floor_group[floor_groups++], sizeof floor_group[0], "/sys/fs/cgroup/%s", name);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cgroup.procs", names[i]);
        if (stat(path, &st) == 0)
            snprintf(floor_group[floor_groups++], sizeof floor_group[0], "/sys/fs/cgroup/%s/%s", names[i], name);
    }
}

static void floor_write(const char *folder, const char *file, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    floor_check(fd, path);
    floor_check((int)write(fd, text, strlen(text)), path);
    close(fd);
}

static void floor_enter(pid_t pid)
{
    char text[16];
    snprintf(text, sizeof text, "%d", pid);
    for (int i = 0; i < floor_groups; i++) {
        floor_check(mkdir(floor_group[i], 0755), floor_group[i]);
        if (strstr(floor_group[i], "/cpuset/")) {
            floor_write(floor_group[i], "cpuset.cpus", "0");
            floor_write(floor_group[i], "cpuset.mems", "0");
        }
        if (strstr(floor_group[i], "/devices/")) {
            floor_write(floor_group[i], "devices.deny", "a");
            floor_write(floor_group[i], "devices.allow", "c *:* m");
        }
        floor_write(floor_group[i], "cgroup.procs", text);
    }
}

static void floor_mount(const char *type, const char *target, unsigned long flags, const char *data)
{
    mkdir(target, 0755);
    floor_check(mount(type, target, type, flags, data), target);
}

/* The child, in its namespaces: mounts, devices, the new root, the program. */
static _Noreturn void floor_child(const char *rootfs, int go)
{
    char c;
    floor_check((int)read(go, &c, 1), "go");
    floor_check(unshare(CLONE_NEWCGROUP), "unshare");
    floor_check(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "/");
    floor_check(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), rootfs);
    floor_check(chdir(rootfs), rootfs);
    floor_mount("proc", "proc", 0, NULL);
    floor_mount("tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    floor_mount("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    floor_mount("tmpfs", "dev/shm", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
    floor_mount("mqueue", "dev/mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    floor_mount("sysfs", "sys", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
    for (unsigned i = 0; i < 6; i++) {
        static const char *const names[] = {
            "dev/null", "dev/zero", "dev/full", "dev/tty", "dev/random", "dev/urandom"
        };
        static const unsigned numbers[][2] = { { 1, 3 }, { 1, 5 }, { 1, 7 }, { 5, 0 }, { 1, 8 }, { 1, 9 } };
        floor_check(mknod(names[i], S_IFCHR | 0666, makedev(numbers[i][0], numbers[i][1])), names[i]);
    }
    floor_check(sethostname("floor", 5), "sethostname");
    floor_check((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
    floor_check(umount2(".", MNT_DETACH), "umount");
    execl("/true", "/true", NULL);
    _exit(1);
}

static void floor_life(const char *rootfs)
{
    int go[2], status;
    floor_check(pipe2(go, O_CLOEXEC), "pipe");
    pid_t pid = (pid_t)syscall(
        SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);
    floor_check(pid, "clone");
    if (pid == 0)
        floor_child(rootfs, go[0]);
    floor_enter(pid);
    floor_check((int)write(go[1], "x", 1), "go");
    floor_check(waitpid(pid, &status, 0), "wait");
    if (status != 0) {
        fprintf(stderr, "ocifloor: the process ended with %x\n", status);
        exit(1);
    }
    for (int i = 0; i < floor_groups; i++)
        floor_check(rmdir(floor_group[i]), floor_group[i]);
    close(go[0]);
    close(go[1]);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    floor_find_groups(argv[2]);
    for (int n = atoi(argv[3]); n > 0; n--) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        floor_life(argv[1]);
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("%ld\n", (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
    }
    return 0;
}
