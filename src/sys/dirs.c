#include "sys/dirs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A relative path in an XDG variable is to be ignored (XDG base directory specification). */
static const char *dirs_env(const char *name)
{
    const char *value = secure_getenv(name);

    return value && value[0] == '/' ? value : NULL;
}

static int dirs_join(char ret_path[SYS_DIR_MAX], const char *dir, const char *below)
{
    char path[SYS_DIR_MAX];

    if (snprintf(path, sizeof(path), "%s%s", dir, below) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    memcpy(ret_path, path, strlen(path) + 1);
    return 0;
}

int sys_dirs_state(char ret_path[SYS_DIR_MAX])
{
    const char *dir = dirs_env("CAISSON_STATE_DIR");

    if (dir)
        return dirs_join(ret_path, dir, "");
    if (geteuid() == 0)
        return dirs_join(ret_path, "/var/lib/caisson", "");
    dir = dirs_env("XDG_STATE_HOME");
    if (dir)
        return dirs_join(ret_path, dir, "/caisson");
    dir = dirs_env("HOME");
    return dir ? dirs_join(ret_path, dir, "/.local/state/caisson") : -ENOENT;
}

int sys_dirs_runtime(char ret_path[SYS_DIR_MAX])
{
    const char *dir = dirs_env("CAISSON_RUNTIME_DIR");
    char tmp[64];

    if (dir)
        return dirs_join(ret_path, dir, "");
    if (geteuid() == 0)
        return dirs_join(ret_path, "/run/caisson", "");
    dir = dirs_env("XDG_RUNTIME_DIR");
    if (dir)
        return dirs_join(ret_path, dir, "/caisson");
    snprintf(tmp, sizeof(tmp), "/tmp/caisson-%u", (unsigned)geteuid());
    return dirs_join(ret_path, tmp, "");
}

int sys_dirs_make(const char *path)
{
    char part[SYS_DIR_MAX];
    size_t len = strlen(path);
    struct stat st;

    if (len == 0 || len >= sizeof(part))
        return len == 0 ? -EINVAL : -ENAMETOOLONG;
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) < 0 && errno != EEXIST) {
            /* A parent may refuse although it has what we need below: a read-only root, an automounter. */
            int r = -errno;

            if (stat(part, &st) < 0)
                return r;
        }
    }
    if (lstat(path, &st) < 0)
        return -errno;
    /* Somebody else's link, in /tmp for example, may lead anywhere; the user's own is how they moved the directory. */
    if (st.st_uid != geteuid())
        return -EPERM;
    if (S_ISLNK(st.st_mode) && stat(path, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    return st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)) ? 0 : -EPERM;
}
