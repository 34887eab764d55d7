/* Saved state of virtio devices. A machine with a disk, a network card, a console and an entropy source is stopped in
 * the middle of its work, its memory copied, and its devices' states restored into a second one, where the same driver
 * goes on: nothing that it had asked for is lost, done twice or answered wrongly. Damaged states are refused, or break
 * nothing but themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/pack.h"
#include "disk.h"
#include "net/backend.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio_rig.h"

enum { BLK, NET, CONSOLE, RNG, DEVICES };
#define QUEUES_MAX 5
#define DISK (1U << 20)
#define REQS 40
#define AREA(dev) (0x100000ULL * ((dev) + 1)) /* the rings of a device */
#define DATA 0x800000ULL
#define RX_AT 0xa00000ULL
#define TX_AT 0xb00000ULL

static const unsigned n_queues[DEVICES] = { 2, 5, 2, 1 };

/* What does not move: the guest's driver. */
struct guest {
    uint64_t features;
    bool msix;
    struct rig_dev d[DEVICES];
    struct drv_queue q[DEVICES][QUEUES_MAX];
};

/* One machine, old or new. */
struct side {
    struct rig r;
    struct blk_image *img;
    struct virtio_blk *blk;
    struct net_backend net; /* keeps what it was sent */
    unsigned n_sent;
    uint8_t sent[8][2048];
    struct virtio_net *vnet;
    struct virtio_rng *rng;
    struct virtio_console *console;
    bool console_full;
    unsigned n_out;
    uint8_t out[8192];
    _Atomic unsigned input_ready;
};

static char path[64];

static bool net_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                     size_t len)
{
    struct side *s = CONTAINER_OF(b, struct side, net);

    if (s->n_sent < ARRAY_SIZE(s->sent))
        (void)net_gather(s->sent[s->n_sent++], iov, n_iov, sizeof(s->sent[0]));
    return true;
}

static void net_nothing(struct net_backend *b)
{
}

static const struct net_backend_ops net_ops = {
    .name = "kept", .send = net_send, .send_done = net_nothing, .receive_ready = net_nothing, .close = net_nothing
};

static size_t console_write(void *opaque, const uint8_t *data, size_t len)
{
    struct side *s = opaque;
    size_t take = s->console_full ? MIN(len, (size_t)1000) : len;

    take = MIN(take, sizeof(s->out) - s->n_out);
    memcpy(s->out + s->n_out, data, take);
    s->n_out += (unsigned)take;
    return s->console_full && s->n_out > 1000 ? 0 : take;
}

static void console_input_ready(void *opaque)
{
    ((struct side *)opaque)->input_ready++;
}

static void side_new(struct side *s, bool slow_disk)
{
    struct blk_image_config image = { .aio = BLK_AIO_THREADS };
    struct virtio_console_config console = { .host = { console_write, console_input_ready, s }, .slot = 3 };
    struct virtio_net_config net = { .mac = { 2, 0, 0, 0, 0, 1 }, .pairs = 2, .slot = 2 };

    memset(s, 0, sizeof(*s));
    rig_init(&s->r);
    if (slow_disk)
        image.limits.iops = (struct blk_limit){ .rate = 1, .burst = 3 };
    assert_int_equal(disk_open(&(struct blk_open_config){ .path = path }, &image, s->r.loop, &s->img), 0);
    assert_int_equal(
        virtio_blk_new(&s->r.env, &(struct virtio_blk_config){ .image = s->img, .n_queues = 2, .slot = 1 }, &s->blk),
        0);
    s->net = (struct net_backend){ .ops = &net_ops, .mtu = 1500, .offloads = 31 };
    net.backend = &s->net;
    assert_int_equal(virtio_net_new(&s->r.env, &net, &s->vnet), 0);
    assert_int_equal(virtio_console_new(&s->r.env, &console, &s->console), 0);
    assert_int_equal(virtio_rng_new(&s->r.env, 4, &s->rng), 0);
}

static void side_free(struct side *s)
{
    rig_stop(&s->r);
    virtio_rng_free(s->rng);
    virtio_console_free(s->console);
    virtio_net_free(s->vnet);
    net_backend_close(&s->net);
    virtio_blk_free(s->blk);
    blk_image_close(s->img);
    rig_done(&s->r);
}

static void guest_start(struct guest *g, struct side *s)
{
    for (unsigned dev = 0; dev < DEVICES; dev++) {
        uint64_t at = AREA(dev), features;

        rig_find(&s->r, dev + 1, g->msix, &g->d[dev]);
        features = rig_negotiate(&g->d[dev], g->features | RIG_F_VERSION_1);
        for (unsigned i = 0; i < n_queues[dev]; i++) {
            at = align_up(
                drv_queue_init(&g->q[dev][i], s->r.m, at, 64, features & RIG_F_PACKED, features & RIG_F_EVENT_IDX),
                4096);
            rig_queue(&g->d[dev], i, &g->q[dev][i]);
            (void)drv_enable_interrupt(&g->q[dev][i]);
        }
    }
}

/* The guest finds itself in another machine. */
static void guest_move(struct guest *g, struct side *to)
{
    for (unsigned dev = 0; dev < DEVICES; dev++) {
        g->d[dev].r = &to->r;
        for (unsigned i = 0; i < n_queues[dev]; i++)
            g->q[dev][i].m = to->r.m;
    }
}

/* ---- doing things on the loop ---- */

struct post {
    void (*fn)(struct side *s);
    struct side *s;
    _Atomic bool done;
};

static void posted(void *opaque)
{
    struct post *p = opaque;

    p->fn(p->s);
    p->done = true;
}

static bool post_done(void *opaque)
{
    return ((struct post *)opaque)->done;
}

static void on_loop(struct side *s, void (*fn)(struct side *s))
{
    struct post p = { .fn = fn, .s = s };

    assert_int_equal(loop_post(s->r.loop, posted, &p), 0);
    rig_wait(post_done, &p);
}

static void nothing(struct side *s)
{
}

static _Atomic bool quiet;

static void set_quiet(void *opaque)
{
    quiet = true;
}

static bool is_quiet(void *opaque)
{
    return quiet;
}

static void hold(struct side *s)
{
    virtio_blk_hold(s->blk, true);
    virtio_net_hold(s->vnet, true);
    virtio_console_hold(s->console, true);
    virtio_rng_hold(s->rng, true);
    quiet = false;
    assert_int_equal(blk_image_quiesce(s->img, set_quiet, NULL), 0);
}

static void release(struct side *s)
{
    virtio_rng_hold(s->rng, false);
    virtio_console_hold(s->console, false);
    virtio_net_hold(s->vnet, false);
    virtio_blk_hold(s->blk, false);
}

/* ---- the state ---- */

static void save(struct side *s, unsigned i, struct buf *out)
{
    buf_init(out, 4 << 20);
    if (i < DEVICES)
        pci_dev_save(pci_host_dev(s->r.pci, i + 1), out);
    else if (i == DEVICES + BLK)
        virtio_blk_save(s->blk, out);
    else if (i == DEVICES + NET)
        virtio_net_save(s->vnet, out);
    else if (i == DEVICES + CONSOLE)
        virtio_console_save(s->console, out);
    else
        virtio_rng_save(s->rng, out);
    assert_int_equal(buf_error(out), 0);
}

static int restore(struct side *s, unsigned i, const uint8_t *data, size_t len)
{
    struct unpack in;

    unpack_init(&in, data, len);
    if (i < DEVICES)
        return pci_dev_restore(pci_host_dev(s->r.pci, i + 1), 1, &in);
    if (i == DEVICES + BLK)
        return virtio_blk_restore(s->blk, 1, &in);
    if (i == DEVICES + NET)
        return virtio_net_restore(s->vnet, 1, &in);
    if (i == DEVICES + CONSOLE)
        return virtio_console_restore(s->console, 1, &in);
    return virtio_rng_restore(s->rng, 1, &in);
}

static void stop(struct side *s)
{
    on_loop(s, hold);
    rig_wait(is_quiet, NULL);
    rig_stop(&s->r);
}

/* Begin a new machine where the old one stands; that one is gone then. */
static void move(struct guest *g, struct side *from, struct side *to)
{
    struct buf state[2 * DEVICES];
    uint8_t *ram = malloc(RIG_RAM);

    for (unsigned i = 0; i < 2 * DEVICES; i++)
        save(from, i, &state[i]);
    memcpy(ram, mem_ptr(from->r.m, GPA(0), RIG_RAM), RIG_RAM);
    blk_image_cancel(from->img); /* so that the old disk does nothing more */
    side_free(from);

    side_new(to, false);
    memcpy(mem_ptr(to->r.m, GPA(0), RIG_RAM), ram, RIG_RAM);
    free(ram);
    for (unsigned i = 0; i < 2 * DEVICES; i++)
        assert_int_equal(restore(to, i, state[i].data, state[i].len), 0);
    for (unsigned i = 0; i < 2 * DEVICES; i++) {
        struct buf again;

        save(to, i, &again);
        assert_int_equal(again.len, state[i].len);
        assert_memory_equal(again.data, state[i].data, again.len);
        buf_done(&again);
        buf_done(&state[i]);
    }
    guest_move(g, to);
    release(to);
    rig_start(&to->r);
}

/* ---- the disk ---- */

static uint8_t *disk_slot(struct guest *g, unsigned i)
{
    return mem_ptr(g->q[BLK][0].m, GPA(DATA + i * 0x2000ULL), 0x2000);
}

/* Write request i: its own 4 KiB of the disk. */
static void disk_write(struct guest *g, unsigned i, uint32_t *token)
{
    uint64_t at = DATA + i * 0x2000ULL;
    uint8_t *p = disk_slot(g, i);
    struct drv_buf bufs[] = { { .gpa = at, .len = 16 },
                              { .gpa = at + 0x1000, .len = 1000 },
                              { .gpa = at + 0x1000 + 1000, .len = 3096 },
                              { .gpa = at + 0x800, .len = 1, .in = true } };

    *token = i;
    memset(p, 0, 16);
    store_le32(p, 1);
    store_le64(p + 8, i * 8ULL);
    p[0x800] = 0xee;
    for (unsigned k = 0; k < 4096; k++)
        p[0x1000 + k] = (uint8_t)(i + k * 7 + k / 256);
    assert_true(drv_add(&g->q[BLK][i % 2], bufs, ARRAY_SIZE(bufs), i % 3 == 0, token));
    rig_kick(&g->d[BLK], i % 2);
}

/* ---- tests ---- */

static void check_interrupts(struct guest *g, struct side *s)
{
    if (g->msix) {
        assert_true(s->r.msi[1] + s->r.msi[2] > 0);
        return;
    }
    assert_true(s->r.intx[g->d[BLK].slot % 4]);
    assert_int_equal(rig_read(&s->r, g->d[BLK].isr, 1) & 1, 1);
    assert_false(s->r.intx[g->d[BLK].slot % 4]);
}

static void console_begin(struct guest *g, struct side *s)
{
    struct drv_buf out = { .gpa = TX_AT + 0x10000, .len = 3000 };
    uint8_t *p = mem_ptr(s->r.m, GPA(out.gpa), out.len);

    for (unsigned i = 0; i < out.len; i++)
        p[i] = (uint8_t)(i * 5 + i / 256);
    s->console_full = true;
    assert_true(drv_add(&g->q[CONSOLE][1], &out, 1, false, p));
    rig_kick(&g->d[CONSOLE], 1);
}

static void console_end(struct guest *g, struct side *s, unsigned was_out)
{
    (void)rig_complete(&g->q[CONSOLE][1], NULL);
    on_loop(s, nothing);
    assert_int_equal(s->n_out + was_out, 3000);
    for (unsigned i = 0; i < s->n_out; i++)
        assert_int_equal(s->out[i], (uint8_t)((was_out + i) * 5 + (was_out + i) / 256));
}

static void net_control(struct guest *g, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    unsigned index = g->features & (1ULL << 22) ? 4 : 2;
    struct drv_queue *q = &g->q[NET][index];
    struct drv_buf bufs[2] = { { .gpa = TX_AT, .len = 2 + len }, { .gpa = TX_AT + 0x1000, .len = 1, .in = true } };
    uint8_t *p = mem_ptr(q->m, GPA(TX_AT), 0x1001);

    p[0] = class;
    p[1] = cmd;
    memcpy(p + 2, data, len);
    assert_true(drv_add(q, bufs, 2, false, p));
    rig_kick(&g->d[NET], index);
    (void)rig_complete(q, NULL);
    assert_int_equal(p[0x1000], 0);
}

static void deliver(struct side *s)
{
    static const uint8_t frames[2][64] = { { 2, 0, 0, 0, 0, 1, 2, 9 }, { 2, 0, 0, 0, 0, 7, 2, 9 } };

    for (unsigned i = 0; i < 2; i++)
        assert_true(net_backend_deliver(&s->net, &(struct net_hdr){ 0 }, frames[i], 64));
    net_backend_deliver_done(&s->net);
}

/* Not in promiscuous mode, and a buffer for one frame. */
static void net_begin(struct guest *g)
{
    struct drv_buf rx = { .gpa = RX_AT, .len = 2048, .in = true };

    net_control(g, 0, 0, "\0", 1);
    assert_true(drv_add(&g->q[NET][0], &rx, 1, false, g));
    rig_kick(&g->d[NET], 0);
}

static void net_end(struct guest *g, struct side *s)
{
    struct drv_buf tx = { .gpa = TX_AT, .len = 12 + 60 };
    uint32_t len;

    on_loop(s, deliver); /* the second one is not for us, and there would be no buffer */
    assert_ptr_equal(rig_complete(&g->q[NET][0], &len), g);
    assert_int_equal(len, 12 + 64);
    assert_memory_equal(mem_ptr(s->r.m, GPA(RX_AT + 12), 8), "\2\0\0\0\0\1\2\x09", 8);
    memset(mem_ptr(s->r.m, GPA(TX_AT), 72), 0, 12);
    memset(mem_ptr(s->r.m, GPA(TX_AT + 12), 60), 0x42, 60);
    assert_true(drv_add(&g->q[NET][1], &tx, 1, false, g));
    rig_kick(&g->d[NET], 1);
    (void)rig_complete(&g->q[NET][1], NULL);
    on_loop(s, nothing);
    assert_int_equal(s->n_sent, 1);
    assert_int_equal(s->sent[0][59], 0x42);
}

static void disk_end(struct guest *g, bool *done, uint32_t *tokens)
{
    for (unsigned i = 0; i < REQS; i++) {
        for (unsigned k = i % 2; !done[i]; k = i % 2) {
            uint32_t *token = rig_complete(&g->q[BLK][k], NULL);

            assert_false(done[*token]);
            assert_int_equal(disk_slot(g, *token)[0x800], 0);
            done[*token] = true;
        }
    }
    (void)tokens;
}

static void one_move(uint64_t features, bool msix)
{
    static struct side a, b;
    static struct guest g;
    uint32_t tokens[REQS], *token;
    bool done[REQS] = { false };
    unsigned was_out, n_done = 0;
    uint32_t len;
    struct drv_buf rng = { .gpa = RX_AT + 0x8000, .len = 64, .in = true };

    g = (struct guest){ .features = features, .msix = msix };
    side_new(&a, true);
    rig_start(&a.r);
    guest_start(&g, &a);
    for (unsigned dev = 0; dev < DEVICES; dev++)
        rig_driver_ok(&g.d[dev]);
    net_begin(&g);
    console_begin(&g, &a);
    for (unsigned i = 0; i < REQS; i++)
        disk_write(&g, i, &tokens[i]);
    on_loop(&a, nothing);
    for (unsigned k = 0; k < 2; k++) { /* what the slow disk did at once */
        while ((token = drv_get_used(&g.q[BLK][k], &len))) {
            done[*token] = true;
            n_done++;
        }
    }
    assert_true(n_done < REQS / 2);
    stop(&a);
    move(&g, &a, &b);
    was_out = a.n_out;
    assert_true(was_out > 0 && was_out < 3000);
    disk_end(&g, done, tokens);
    console_end(&g, &b, was_out);
    net_end(&g, &b);
    check_interrupts(&g, &b);
    assert_true(drv_add(&g.q[RNG][0], &rng, 1, false, &g));
    rig_kick(&g.d[RNG], 0);
    assert_ptr_equal(rig_complete(&g.q[RNG][0], NULL), &g);
    for (unsigned i = 0; i < REQS; i++) {
        uint8_t disk[4096];

        assert_int_equal(blk_pread(blk_image_node(b.img), i * 4096ULL, disk, sizeof(disk)), 0);
        assert_memory_equal(disk, disk_slot(&g, i) + 0x1000, sizeof(disk));
    }
    for (unsigned dev = 0; dev < DEVICES; dev++)
        assert_int_equal(rig_status(&g.d[dev]), 15);
    rig_reset(&g.d[BLK]); /* and it can be begun anew */
    side_free(&b);
}

static int make_disk(void **state)
{
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "test_virtio_save.%d.img", getpid());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, DISK) < 0)
        return -1;
    return close(fd);
}

static int remove_disk(void **state)
{
    (void)state;
    return unlink(path);
}

#define ALL (~0ULL & ~RIG_F_PACKED & ~RIG_F_EVENT_IDX)

static void test_move_split(void **state)
{
    one_move(ALL, true);
}

static void test_move_split_events(void **state)
{
    one_move(ALL | RIG_F_EVENT_IDX, true);
}

static void test_move_intx(void **state)
{
    one_move(ALL, false);
}

static void test_move_packed(void **state)
{
    one_move(ALL | RIG_F_PACKED | RIG_F_EVENT_IDX, true);
}

/* Stopped between DRIVER_OK and what the loop makes of it, and in the middle of negotiation. */
static void test_move_idle(void **state)
{
    static struct side a, b;
    static struct guest g;
    struct drv_buf rng = { .gpa = RX_AT, .len = 64, .in = true };

    g = (struct guest){ .features = ALL, .msix = true };
    side_new(&a, false);
    rig_start(&a.r);
    guest_start(&g, &a);
    stop(&a);
    rig_driver_ok(&g.d[RNG]); /* nobody is there to see it */
    move(&g, &a, &b);
    assert_int_equal(rig_status(&g.d[BLK]), 11);
    rig_driver_ok(&g.d[BLK]);
    assert_int_equal(rig_status(&g.d[RNG]), 15);
    assert_true(drv_add(&g.q[RNG][0], &rng, 1, false, &g));
    rig_kick(&g.d[RNG], 0);
    assert_ptr_equal(rig_complete(&g.q[RNG][0], NULL), &g);
    side_free(&b);
}

static void test_smaller_disk(void **state)
{
    static struct side a, b;
    struct buf out;

    side_new(&a, false);
    save(&a, DEVICES + BLK, &out);
    side_free(&a);
    assert_int_equal(truncate(path, DISK / 2), 0);
    side_new(&b, false);
    assert_int_equal(restore(&b, DEVICES + BLK, out.data, out.len), -ENOSPC);
    side_free(&b);
    assert_int_equal(truncate(path, DISK * 2), 0);
    side_new(&b, false);
    assert_int_equal(restore(&b, DEVICES + BLK, out.data, out.len), 0);
    side_free(&b);
    buf_done(&out);
}

#define RAM_USED 0xc00000ULL

/* A machine in the middle of its work: its states, and the part of memory that it uses. */
static void prepare_states(struct guest *g, struct buf *state, uint8_t *ram)
{
    static struct side a;
    uint32_t tokens[REQS];

    side_new(&a, true);
    rig_start(&a.r);
    guest_start(g, &a);
    for (unsigned dev = 0; dev < DEVICES; dev++)
        rig_driver_ok(&g->d[dev]);
    net_begin(g);
    console_begin(g, &a);
    for (unsigned i = 0; i < 10; i++)
        disk_write(g, i, &tokens[i]);
    stop(&a);
    for (unsigned i = 0; i < 2 * DEVICES; i++)
        save(&a, i, &state[i]);
    memcpy(ram, mem_ptr(a.r.m, GPA(0), RAM_USED), RAM_USED);
    blk_image_cancel(a.img);
    side_free(&a);
}

/* Returns whether the machine took its states; then it works for a moment. */
static bool try_states(struct guest *g, const struct buf *state, const uint8_t *ram)
{
    static struct side b;
    int r = 0;

    side_new(&b, false);
    memcpy(mem_ptr(b.r.m, GPA(0), RAM_USED), ram, RAM_USED);
    guest_move(g, &b);
    for (unsigned i = 0; i < 2 * DEVICES && r == 0; i++)
        r = restore(&b, i, state[i].data, state[i].len);
    assert_true(r == 0 || r == -EBADMSG || r == -ENOSPC);
    if (r == 0) {
        release(&b);
        rig_start(&b.r);
        for (unsigned i = 0; i < 3; i++)
            on_loop(&b, nothing);
    }
    side_free(&b);
    return r == 0;
}

static void test_bad_states(void **state)
{
    static struct guest g;
    struct buf states[2 * DEVICES];
    uint8_t *ram = malloc(RAM_USED);
    uint64_t seed = 5;
    unsigned taken = 0;

    g = (struct guest){ .features = ALL, .msix = true };
    prepare_states(&g, states, ram);
    for (unsigned n = 0; n < 100; n++) {
        struct buf *victim = &states[DEVICES + n % DEVICES];
        size_t at, len = victim->len;
        uint8_t was;

        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        at = (size_t)(seed >> 33) % len;
        was = victim->data[at];
        if (n % 4 == 3) {
            victim->len = at;
            assert_false(try_states(&g, states, ram));
        } else {
            victim->data[at] ^= (uint8_t)(1U << (seed >> 60) % 8);
            taken += try_states(&g, states, ram);
        }
        victim->data[at] = was;
        victim->len = len;
    }
    assert_true(taken > 0);
    assert_true(try_states(&g, states, ram));
    for (unsigned i = 0; i < 2 * DEVICES; i++)
        buf_done(&states[i]);
    free(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_move_split, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_move_split_events, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_move_packed, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_move_intx, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_move_idle, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_smaller_disk, make_disk, remove_disk),
        cmocka_unit_test_setup_teardown(test_bad_states, make_disk, remove_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
