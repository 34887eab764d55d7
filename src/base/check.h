/* Assertions for programmer errors. They stay in release builds, so the expression must be free of side effects and
 * cheap. Nothing that comes from a guest, a user, a file or a peer may ever be able to fail one. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include "base/attr.h"

/* Print the place and abort. Any thread; never returns. */
_Noreturn COLD void base_check_failed(const char *expr, const char *file, int line);

#define CHECK(expr)                                       \
    do {                                                  \
        if (UNLIKELY(!(expr)))                            \
            base_check_failed(#expr, __FILE__, __LINE__); \
    } while (0)

#endif
