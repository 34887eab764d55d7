/* Scope-bound cleanup (systemd's idiom): AUTO_FREE, AUTO_FD, AUTO(type) and STEAL.
 * AUTO(type) calls type_freep, which DEFINE_AUTO makes from a destructor that accepts NULL. */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#include "base/attr.h"

static inline void base_freep(void *p)
{
    free(*(void **)p);
}

static inline void base_closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* free() at the end of the scope. */
#define AUTO_FREE __attribute__((cleanup(base_freep)))
/* close() at the end of the scope where >= 0; initialise with -1. */
#define AUTO_FD __attribute__((cleanup(base_closep)))
/* name##_free() at the end of the scope, e.g. AUTO(mem) struct mem *m = NULL. To be there for its end only is a use. */
#define AUTO(name) __attribute__((cleanup(name##_freep), unused))
/* Defines name##_freep for AUTO(name) from void free_fn(type *), which must accept NULL. */
#define DEFINE_AUTO(name, type, free_fn)      \
    static inline void name##_freep(type **p) \
    {                                         \
        free_fn(*p);                          \
    }

/* Take the pointer out of a variable that would clean it up. */
#define STEAL(p)                     \
    ({                               \
        __typeof__(p) stolen_ = (p); \
        (p) = NULL;                  \
        stolen_;                     \
    })
/* Likewise for a file descriptor. */
#define STEAL_FD(fd)           \
    ({                         \
        int stolen_fd_ = (fd); \
        (fd) = -1;             \
        stolen_fd_;            \
    })

#endif
