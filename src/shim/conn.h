/* A connection to the supervisor. */
#ifndef SHIM_CONN_H
#define SHIM_CONN_H

#include "shim/shim_priv.h"

struct shim_conn {
    struct list link;
    struct shim *shim;
    int sock;
    struct loop_fd *src;
    struct shim_attachment *attachment; /* NULL: none */
    bool waits, wants_ready, wants_restart;
};

#endif
