/* A disk node in memory that a test can make fail, wait and map at will. */
#ifndef TESTS_UNIT_FAKE_NODE_H
#define TESTS_UNIT_FAKE_NODE_H

#include <pthread.h>
#include <stdatomic.h>

#include "block/node.h"

struct fake_node {
    struct blk_node node;
    int fd;       /* memfd with the content */
    uint8_t *mem; /* the same, mapped */

    /* Knobs. A call fails with `error` (> 0) while fail_left is not 0 and it touches fail_off (UINT64_MAX: any). */
    atomic_int error;
    atomic_uint fail_left;
    _Atomic uint64_t fail_off;
    atomic_bool fail_flush;
    bool maps; /* even 4 KiB blocks are mapped, those that are all zero as zeroes; the rest of it is for blocking calls
                */
    uint32_t align; /* of pieces */

    /* Calls that are held wait here until released. */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool hold;
    unsigned held;

    atomic_uint calls[BLK_WRITE_ZEROES + 1]; /* blocking ones, by enum blk_op */
    unsigned mapped, unmapped, most_pieces;  /* loop thread */
};

/* size: bytes. Closed as any node. */
struct fake_node *fake_node_new(uint64_t size);
/* Let calls wait from now on, or let all go on. */
void fake_node_hold(struct fake_node *f, bool hold);
unsigned fake_node_held(struct fake_node *f);

#endif
