/* Where unit tests put files of which each is written and flushed many times: in memory if there is enough of it, else
 * on disk. */
#ifndef TESTS_FAST_DIR_H
#define TESTS_FAST_DIR_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Memory file systems take O_DIRECT since Linux 6.6 only, and containers often have a tiny one. */
static inline bool fast_dir_suits(const char *folder)
{
    struct statvfs s;
    char path[64];
    int fd;

    if (statvfs(folder, &s) != 0 || (unsigned long long)s.f_bavail * s.f_frsize < 2ull << 30)
        return false;
    snprintf(path, sizeof(path), "%s/caisson-probe-XXXXXX", folder);
    fd = mkostemp(path, O_DIRECT);
    if (fd < 0)
        return false;
    close(fd);
    unlink(path);
    return true;
}

/* Make a fresh folder; path: room for 64 bytes. False: cannot. */
static inline bool fast_dir_make(char path[64], const char *name)
{
    snprintf(path, 64, "%s/caisson-%s-XXXXXX", fast_dir_suits("/dev/shm") ? "/dev/shm" : "/tmp", name);
    return mkdtemp(path) != NULL;
}

#endif
