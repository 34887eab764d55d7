#include "base/fdio.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "base/buf.h"

int fd_read_all(int fd, struct buf *b)
{
    uint8_t part[4096];

    while (buf_error(b) == 0) {
        ssize_t n = read(fd, part, sizeof(part));

        if (n == 0)
            break;
        if (n > 0)
            buf_append(b, part, (size_t)n);
        else if (errno != EINTR)
            return -errno;
    }
    return buf_error(b);
}

int fd_read_text(int fd, struct buf *b)
{
    int r = fd_read_all(fd, b);

    buf_append(b, "", 1);
    return r < 0 ? r : buf_error(b);
}

int fd_write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_pread_all(int fd, void *data, size_t len, uint64_t off)
{
    uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EBADMSG;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_pwrite_all(int fd, const void *data, size_t len, uint64_t off)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}
