#include "oci/protect.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PROTECT_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#define PROTECT_PARTS_MAX 32
#define PROTECT_SIZE_MAX (64 << 20)

/* fd: our own file. Both questions are asked of what we really run from, so that an environment cannot lie. */
static bool protect_is_safe(int fd)
{
    struct statvfs st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals >= 0 && (seals & PROTECT_SEALS) == PROTECT_SEALS)
        return true;
    return fstatvfs(fd, &st) == 0 && st.f_flag & ST_RDONLY;
}

/* The same file through a mount of its own that is read-only and attached nowhere: costs no copy. Needs CAP_SYS_ADMIN.
 */
static int protect_by_mount(int fd)
{
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
    AUTO_FD int mnt = open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

    if (mnt < 0)
        return -errno;
    if (mount_setattr(mnt, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return -errno;
    return STEAL_FD(mnt);
}

/* As much of the file as execve needs: what is loaded, without symbols and debugging data. whole: the file's size,
 * where it cannot tell. */
static off_t protect_size(int fd, off_t whole)
{
    Elf64_Ehdr head;
    Elf64_Phdr part[PROTECT_PARTS_MAX];
    size_t n;
    off_t end = sizeof(head);

    if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || head.e_phnum > PROTECT_PARTS_MAX ||
        head.e_phentsize != sizeof(part[0]))
        return whole;
    n = head.e_phnum * sizeof(part[0]);
    if (pread(fd, part, n, (off_t)head.e_phoff) != (ssize_t)n)
        return whole;
    end = MAX(end, (off_t)(head.e_phoff + n));
    for (unsigned i = 0; i < head.e_phnum; i++)
        end = MAX(end, (off_t)(part[i].p_offset + part[i].p_filesz));
    return MIN(end, whole);
}

static int protect_by_copy(int fd)
{
    AUTO_FD int copy = memfd_create("caisson-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    struct stat st;

    if (copy < 0 && errno == EINVAL) /* before Linux 6.3 */
        copy = memfd_create("caisson-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (copy < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size > PROTECT_SIZE_MAX)
        return -EFBIG;
    st.st_size = protect_size(fd, st.st_size);
    for (off_t at = 0; at < st.st_size;) {
        ssize_t n = sendfile(copy, fd, &at, (size_t)(st.st_size - at));

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
    }
    if (fchmod(copy, 0500) < 0 || fcntl(copy, F_ADD_SEALS, PROTECT_SEALS) < 0)
        return -errno;
    return STEAL_FD(copy);
}

int oci_protect_self(char **argv, struct err *e)
{
    AUTO_FD int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    AUTO_FD int safe = -1;

    if (self < 0)
        return err_set(e, errno, "/proc/self/exe: %m: the runtime needs /proc");
    if (protect_is_safe(self))
        return 0;
    /* The mount would be a little cheaper, but shares the file: who keeps trying to open it for writing, in vain, makes
     * the host's execve of it fail with ETXTBSY now and then. Some hosts forbid to execute memory files, though. */
    safe = protect_by_copy(self);
    if (safe < 0)
        safe = protect_by_mount(self);
    if (safe < 0)
        return err_set(e, -safe, "/proc/self/exe: cannot make a copy that the container cannot write to: %s",
                       strerrordesc_np(-safe));
    execveat(safe, "", argv, environ, AT_EMPTY_PATH);
    return err_set(e, errno, "cannot run the protected copy of the runtime: %m");
}

int oci_protect_hide(struct err *e)
{
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? err_set(e, errno, "cannot hide the runtime from the container: %m")
                                                  : 0;
}
