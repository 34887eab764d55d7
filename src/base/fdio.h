/* Whole reads and writes of descriptors. */
#ifndef BASE_FDIO_H
#define BASE_FDIO_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

struct buf;

/* Append all that fd gives up to its end. -errno of read; the error of b (-E2BIG: more than it may hold). Any thread.
 */
int fd_read_all(int fd, struct buf *b) MUST_USE;
/* Likewise, with a zero byte behind it, for which b must have room. Any thread. */
int fd_read_text(int fd, struct buf *b) MUST_USE;
/* Write all of len bytes. -errno of write, some of them may have been written then. Any thread. */
int fd_write_all(int fd, const void *data, size_t len) MUST_USE;
/* Read len bytes at off, all of them. -errno of pread, -EBADMSG where the file ends before; some of data may have been
 * filled then. Any thread. */
int fd_pread_all(int fd, void *data, size_t len, uint64_t off) MUST_USE;
/* Write len bytes at off, all of them. -errno of pwrite, some of them may have been written then. Any thread. */
int fd_pwrite_all(int fd, const void *data, size_t len, uint64_t off) MUST_USE;

#endif
