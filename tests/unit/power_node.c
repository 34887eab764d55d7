#include "power_node.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "qcow2_rig.h"

struct power_node {
    struct blk_node node;
    pthread_mutex_t lock;
    uint8_t *now, *safe; /* what reads see; what is on stable storage */
    uint8_t *dirty;      /* a byte for each sector */
    uint64_t room, safe_size;
    bool dead, slow;
};

static struct power_node *power_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct power_node, node);
}

/* Once before a request and once behind it. */
static void power_dawdle(const struct power_node *p)
{
    const struct timespec some = { .tv_nsec = 20000 };

    if (p->slow)
        nanosleep(&some, NULL);
}

static int power_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct power_node *p = power_of(n);
    uint64_t part = off < p->room ? MIN(len, p->room - off) : 0;

    power_dawdle(p);
    pthread_mutex_lock(&p->lock);
    if (part)
        blk_iov_from_buf(iov, n_iov, 0, p->now + off, part);
    pthread_mutex_unlock(&p->lock);
    blk_iov_zero(iov, n_iov, part, len - part);
    return 0;
}

static int power_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct power_node *p = power_of(n);
    int res = -EIO;

    power_dawdle(p);
    pthread_mutex_lock(&p->lock);
    if (!p->dead && (off > p->room || len > p->room - off)) {
        res = -ENOSPC;
    } else if (!p->dead) {
        blk_iov_to_buf(iov, n_iov, 0, p->now + off, len);
        for (uint64_t s = off / 512; s <= (off + len - 1) / 512; s++)
            p->dirty[s] = 1;
        __atomic_store_n(&n->size, MAX(n->size, off + len), __ATOMIC_RELAXED);
        res = 0;
    }
    pthread_mutex_unlock(&p->lock);
    power_dawdle(p);
    return res;
}

static int power_flush(struct blk_node *n)
{
    struct power_node *p = power_of(n);
    int res = -EIO;

    pthread_mutex_lock(&p->lock);
    for (uint64_t s = 0; s < p->room / 512 && !p->dead; s++) {
        if (p->dirty[s])
            memcpy(p->safe + s * 512, p->now + s * 512, 512);
        p->dirty[s] = 0;
    }
    if (!p->dead) {
        p->safe_size = n->size;
        res = 0;
    }
    pthread_mutex_unlock(&p->lock);
    return res;
}

static void power_close(struct blk_node *n)
{
    struct power_node *p = power_of(n);

    pthread_mutex_destroy(&p->lock);
    free(p->now);
    free(p->safe);
    free(p->dirty);
    free(p);
}

struct blk_node *power_node_new(uint64_t room, bool slow)
{
    static const struct blk_node_ops ops = {
        .name = "power", .pread = power_pread, .pwrite = power_pwrite, .flush = power_flush, .close = power_close
    };
    struct power_node *p = calloc(1, sizeof(*p));

    CHECK(p);
    p->node = (struct blk_node){
        .ops = &ops, .path = (char *)(uintptr_t) "power", .block_size = 512, .physical_block_size = 512
    };
    pthread_mutex_init(&p->lock, NULL);
    p->room = room;
    p->slow = slow;
    p->now = calloc(1, room);
    p->safe = calloc(1, room);
    p->dirty = calloc(1, room / 512);
    CHECK(p->now && p->safe && p->dirty);
    return &p->node;
}

void power_node_cut(struct blk_node *n, uint64_t *seed, const char *path)
{
    struct power_node *p = power_of(n);
    unsigned odds = (unsigned)(rig_random(seed) % 5); /* 0: nothing of it is left; 4: all */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    uint64_t end;

    pthread_mutex_lock(&p->lock);
    p->dead = true;
    end = p->safe_size;
    for (uint64_t s = 0; s < p->room / 512; s++) {
        if (p->dirty[s] && rig_random(seed) % 4 < odds) {
            memcpy(p->safe + s * 512, p->now + s * 512, 512);
            end = MAX(end, MIN((s + 1) * 512, n->size));
        }
    }
    CHECK(fd >= 0 && pwrite(fd, p->safe, end, 0) == (ssize_t)end);
    close(fd);
    pthread_mutex_unlock(&p->lock);
}
