/* Construction of images, back ends and virtio devices with every allocation in turn failing: each gives -ENOMEM,
 * leaves nothing behind (LeakSanitizer watches) and leaves the machine fit for the next attempt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk.h"
#include "fault.h"
#include "net/user.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio_rig.h"

#define PATH "test_virtio_fault.img"

struct parts {
    struct blk_image *img;
    struct net_backend *net;
    struct virtio_blk *blk;
    struct virtio_net *vnet;
    struct virtio_rng *rng;
    struct virtio_console *console;
};

static int build(struct rig *r, struct parts *p, enum blk_aio_kind aio)
{
    struct virtio_console_config console = { .slot = -1 };
    struct net_user_config user = { 0 };
    int forward, res;

    *p = (struct parts){ 0 };
    res = disk_open(&(struct blk_open_config){ .path = PATH },
                    &(struct blk_image_config){ .aio = aio, .readahead = 1U << 20 }, r->loop, &p->img);
    if (res == 0)
        res =
            virtio_blk_new(&r->env, &(struct virtio_blk_config){ .image = p->img, .n_queues = 2, .slot = -1 }, &p->blk);
    if (res == 0)
        res = net_user_new(&user, r->loop, &forward, &p->net);
    if (res == 0)
        res = virtio_net_new(&r->env, &(struct virtio_net_config){ .backend = p->net, .slot = -1 }, &p->vnet);
    if (res == 0)
        res = virtio_rng_new(&r->env, -1, &p->rng);
    if (res == 0)
        res = virtio_console_new(&r->env, &console, &p->console);
    return res;
}

static void unbuild(struct parts *p)
{
    virtio_console_free(p->console);
    virtio_rng_free(p->rng);
    virtio_net_free(p->vnet);
    net_backend_close(p->net);
    virtio_blk_free(p->blk);
    blk_image_close(p->img);
}

static void test_allocations(void **state)
{
    enum blk_aio_kind aio = (enum blk_aio_kind)(intptr_t)*state;
    struct rig r;
    struct parts p;
    unsigned n;
    int fd = open(PATH, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), res;

    assert_int_equal(ftruncate(fd, 4096), 0);
    close(fd);
    rig_init(&r);
    for (n = 1; fault_begin(n), res = build(&r, &p, aio), fault_end(); n++) {
        /* Threads stand in where the memory for io_uring is refused; libslirp does without a timer. */
        assert_true(res == -ENOMEM || res == 0);
        unbuild(&p);
    }
    assert_int_equal(res, 0);
    assert_true(n > 300); /* the requests and chains of the devices alone */
    unbuild(&p);
    rig_done(&r);
    unlink(PATH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        { "uring", test_allocations, NULL, NULL, (void *)(intptr_t)BLK_AIO_AUTO },
        { "threads", test_allocations, NULL, NULL, (void *)(intptr_t)BLK_AIO_THREADS },
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
