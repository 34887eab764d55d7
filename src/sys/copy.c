#include "sys/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/attr.h"
#include "base/cleanup.h"

#define COPY_PIECE (16U << 20) /* between two calls of step */

/* Where the kernel cannot: across some file systems. */
static ssize_t copy_piece(int from, int to, off_t off, size_t len)
{
    char data[16384];
    ssize_t n = pread(from, data, MIN(len, sizeof(data)), off);

    return n <= 0 ? n : pwrite(to, data, (size_t)n, off);
}

/* The data of one range that has no holes. */
static int copy_range(int from, int to, off_t off, off_t end)
{
    while (off < end) {
        off_t in = off, out = off;
        ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - off), 0);

        if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
            n = copy_piece(from, to, off, (size_t)(end - off));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO; /* it became shorter */
        off += n;
    }
    return 0;
}

static int copy_data(int from, int to, off_t size, bool (*step)(void *opaque, uint64_t done, uint64_t total),
                     void *opaque)
{
    off_t off = 0;

    while (off < size) {
        off_t data = lseek(from, off, SEEK_DATA), hole, end;
        int r;

        if (data < 0 && errno == ENXIO)
            break; /* nothing but a hole up to the end */
        if (data < 0)
            return -errno;
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        end = MIN(MIN(hole, size), data + (off_t)COPY_PIECE);
        r = copy_range(from, to, data, end);
        if (r < 0)
            return r;
        off = end;
        if (step && !step(opaque, (uint64_t)off, (uint64_t)size))
            return -ECANCELED;
    }
    return ftruncate(to, size) < 0 ? -errno : 0;
}

int sys_copy_file(const char *from, const char *to, bool (*step)(void *opaque, uint64_t done, uint64_t total),
                  void *opaque)
{
    AUTO_FD int in = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY), out = -1;
    struct stat st;
    int r = 0;

    if (in < 0 || fstat(in, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    out = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, st.st_mode & 0777);
    if (out < 0)
        return -errno;
    if (ioctl(out, FICLONE, in) < 0)
        r = copy_data(in, out, st.st_size, step, opaque);
    if (r == 0 && fsync(out) < 0)
        r = -errno;
    if (r < 0)
        unlink(to);
    return r;
}
