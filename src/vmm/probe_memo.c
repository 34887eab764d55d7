#include "vmm/probe_memo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cpu/kvm/kvm.h"
#include "sys/dirs.h"
#include "vmm/probe.h"

#define MEMO_TEXT_MAX 256

/* Everything that the answer depends on, in one line; "": it cannot be told. */
static void memo_key(char ret_key[MEMO_TEXT_MAX])
{
    AUTO_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    char boot[40] = "";
    struct stat st;

    ret_key[0] = '\0';
    if (fd < 0 || read(fd, boot, sizeof(boot) - 1) <= 0 || stat("/dev/kvm", &st) < 0)
        return;
    boot[strcspn(boot, "\n")] = '\0';
    snprintf(ret_key, MEMO_TEXT_MAX, "%s %" PRIu64 " %" PRId64 ".%09ld %s", boot, (uint64_t)st.st_ino,
             (int64_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec, CAISSON_VERSION);
}

/* 1: KVM is good, 0: it is not, -ENOENT: nobody knows. */
static int memo_read(const char *path, const char *key)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char text[MEMO_TEXT_MAX + 8] = "";
    const size_t len = strlen(key);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || strncmp(text, key, len) != 0)
        return -ENOENT;
    return strcmp(text + len, " yes\n") == 0 ? 1 : strcmp(text + len, " no\n") == 0 ? 0 : -ENOENT;
}

static void memo_write(const char *dir, const char *path, const char *key, bool ok)
{
    char temporary[SYS_DIR_MAX + 32], text[MEMO_TEXT_MAX + 8];
    AUTO_FD int fd = -1;
    size_t len;

    snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)getpid());
    if (sys_dirs_make(dir) < 0)
        return;
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    len = (size_t)snprintf(text, sizeof(text), "%s %s\n", key, ok ? "yes" : "no");
    if (write(fd, text, len) != (ssize_t)len || rename(temporary, path) < 0)
        unlink(temporary);
}

bool vmm_probe_memo_kvm(void)
{
    char dir[SYS_DIR_MAX], path[SYS_DIR_MAX + 16] = "", key[MEMO_TEXT_MAX];
    struct vmm_probe_result probe;
    int known = -ENOENT;

    memo_key(key);
    if (key[0] && sys_dirs_runtime(dir) == 0) {
        snprintf(path, sizeof(path), "%s/kvm-probe", dir);
        known = memo_read(path, key);
    }
    if (known >= 0)
        return known == 1;
    vmm_probe_engine(&cpu_kvm_ops, &probe);
    if (!probe.ok)
        log_debug("KVM is not used: %s", probe.reason);
    if (path[0] && !probe.out_of_time &&
        probe.error == 0) /* what cannot be set up costs nothing, and may be had soon */
        memo_write(dir, path, key, probe.ok);
    return probe.ok;
}
