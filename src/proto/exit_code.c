#include "proto/exit_code.h"

#include <errno.h>

enum exit_code exit_code_from_errno(int err)
{
    switch (err) {
    case EINVAL:
    case ERANGE:
    case E2BIG:
        return EXIT_CODE_USAGE;
    case ENOENT:
    case ENOTDIR:
        return EXIT_CODE_NOT_FOUND;
    case EBUSY:
    case EADDRINUSE:
    case EEXIST:
    case ENOTCONN: /* it does not run */
    case ENOTUNIQ:
    case EPROTOTYPE: /* an object of another kind: a container where a VM is wanted */
        return EXIT_CODE_CONFLICT;
    case EACCES:
    case EPERM:
    case EROFS:
        return EXIT_CODE_PERMISSION;
    case ETIMEDOUT:
        return EXIT_CODE_TIMEOUT;
    default:
        return EXIT_CODE_FAILED;
    }
}
