/* The PCI transport as a driver meets it, right and wrong: negotiation, status, registers of a live queue, INTx and
 * MSI-X, the window in configuration space, doorbells; and the small devices: entropy and console. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "virtio/console.h"
#include "virtio/rng.h"
#include "virtio_rig.h"

#define BUF 0x400000ULL

struct doorbell {
    uint64_t gpa;
    int fd;
};

struct fixture {
    struct rig r;
    struct rig_dev d;
    struct virtio_rng *rng;
    struct virtio_console *console;
    struct drv_queue q[2];
    struct doorbell bells[8];
    unsigned n_bells;
    /* The console's host: a pipe with room bytes of space. */
    char out[256];
    _Atomic size_t out_len;
    size_t room;
    unsigned ready;
};

static int bell_add(void *opaque, uint64_t gpa, unsigned len, int fd)
{
    struct fixture *f = opaque;

    assert_int_equal(len, 2);
    f->bells[f->n_bells++] = (struct doorbell){ .gpa = gpa, .fd = fd };
    return 0;
}

static void bell_del(void *opaque, uint64_t gpa, unsigned len, int fd)
{
    struct fixture *f = opaque;

    assert_int_equal(len, 2);
    for (unsigned i = 0; i < f->n_bells; i++) {
        if (f->bells[i].gpa == gpa && f->bells[i].fd == fd) {
            f->bells[i] = f->bells[--f->n_bells];
            return;
        }
    }
    fail_msg("no such doorbell");
}

static void begin_rng(struct fixture *f, bool bells, bool msix)
{
    memset(f, 0, sizeof(*f));
    rig_init(&f->r);
    if (bells)
        f->r.env.doorbell = (struct doorbell_sink){ .add = bell_add, .del = bell_del, .opaque = f };
    assert_int_equal(virtio_rng_new(&f->r.env, -1, &f->rng), 0);
    rig_start(&f->r);
    rig_find(&f->r, 1, msix, &f->d);
}

static void end(struct fixture *f)
{
    rig_stop(&f->r);
    virtio_rng_free(f->rng);
    virtio_console_free(f->console);
    assert_int_equal(f->n_bells, 0);
    rig_done(&f->r);
}

static void start_rng(struct fixture *f)
{
    rig_negotiate(&f->d, RIG_F_VERSION_1);
    drv_queue_init(&f->q[0], f->r.m, 0x10000, 8, false, false);
    rig_queue(&f->d, 0, &f->q[0]);
    rig_driver_ok(&f->d);
}

static void use_rng(struct fixture *f, uint32_t want)
{
    static const uint8_t zeroes[64];
    struct drv_buf b = { .gpa = BUF, .len = want, .in = true };
    uint32_t len;

    memset(mem_ptr(f->r.m, GPA(BUF), 64), 0, 64);
    assert_true(drv_add(&f->q[0], &b, 1, false, f));
    rig_kick(&f->d, 0);
    assert_ptr_equal(rig_complete(&f->q[0], &len), f);
    assert_int_equal(len, MIN(want, 4096));
    assert_memory_not_equal(mem_ptr(f->r.m, GPA(BUF), 64), zeroes, MIN(want, 64));
}

static bool has_msi(void *opaque)
{
    return ((struct fixture *)opaque)->r.msi[1] > 0;
}

static void test_rng(void **state)
{
    static struct fixture f;

    (void)state;
    begin_rng(&f, false, true);
    start_rng(&f);
    use_rng(&f, 64);
    use_rng(&f, 100000);
    rig_wait(has_msi, &f);
    assert_false(f.r.intx[0] || f.r.intx[1] || f.r.intx[2] || f.r.intx[3]);
    end(&f);
}

static bool any_intx(void *opaque)
{
    struct fixture *f = opaque;

    return f->r.intx[0] || f->r.intx[1] || f->r.intx[2] || f->r.intx[3];
}

static void test_intx(void **state)
{
    static struct fixture f;

    (void)state;
    begin_rng(&f, false, false);
    start_rng(&f);
    assert_int_equal(rig_read(&f.r, f.d.isr, 1), 0);
    use_rng(&f, 64);
    rig_wait(any_intx, &f);
    assert_int_equal(rig_read(&f.r, f.d.isr, 1), 1);
    assert_false(any_intx(&f));
    assert_int_equal(rig_read(&f.r, f.d.isr, 1), 0);
    use_rng(&f, 64);
    rig_wait(any_intx, &f);
    rig_reset(&f.d); /* lowers it too */
    assert_false(any_intx(&f));
    end(&f);
}

static void test_negotiation(void **state)
{
    static struct fixture f;
    uint64_t c;

    (void)state;
    begin_rng(&f, false, true);
    c = f.d.common;
    rig_write(&f.r, c + C_STATUS, 3, 1);
    rig_write(&f.r, c + C_STATUS, 11, 1); /* without VERSION_1 */
    assert_int_equal(rig_status(&f.d), 3);
    rig_write(&f.r, c + C_STATUS, 15, 1); /* DRIVER_OK without FEATURES_OK */
    assert_int_equal(rig_status(&f.d), 3);
    rig_write(&f.r, c + C_GF_SEL, 1, 4);
    rig_write(&f.r, c + C_GF, 3, 4); /* VERSION_1 and one that is not offered */
    rig_write(&f.r, c + C_STATUS, 11, 1);
    assert_int_equal(rig_status(&f.d), 3);
    rig_write(&f.r, c + C_GF, 1, 4);
    rig_write(&f.r, c + C_GF_SEL, 7, 4); /* no such half */
    rig_write(&f.r, c + C_GF, 0xffffffff, 4);
    assert_int_equal(rig_read(&f.r, c + C_GF, 4), 0);
    rig_write(&f.r, c + C_STATUS, 11, 1);
    assert_int_equal(rig_status(&f.d), 11);
    rig_write(&f.r, c + C_GF_SEL, 1, 4);
    rig_write(&f.r, c + C_GF, 0, 4); /* too late */
    assert_int_equal(rig_read(&f.r, c + C_GF, 4), 1);
    rig_write(&f.r, c + C_STATUS, 1, 1); /* bits are not taken away */
    assert_int_equal(rig_status(&f.d), 11);
    rig_write(&f.r, c + C_STATUS, 64, 1); /* NEEDS_RESET is the device's */
    assert_int_equal(rig_status(&f.d), 11);
    assert_int_equal(rig_read(&f.r, c + C_NUMQ, 2), 1);
    rig_write(&f.r, c + C_QSEL, 1, 2); /* no such queue */
    assert_int_equal(rig_read(&f.r, c + C_QSIZE, 2), 0);
    rig_write(&f.r, c + C_QSIZE, 8, 2);
    rig_write(&f.r, c + C_QENABLE, 1, 2);
    rig_write(&f.r, c + C_QSEL, 0, 2);
    rig_write(&f.r, c + C_QSIZE, 0, 2); /* neither size */
    rig_write(&f.r, c + C_QSIZE, 128, 2);
    assert_int_equal(rig_read(&f.r, c + C_QSIZE, 2), 64);
    rig_write(&f.r, c + C_QVEC, 2, 2); /* no such vector */
    assert_int_equal(rig_read(&f.r, c + C_QVEC, 2), 0xffff);
    assert_int_equal(rig_read(&f.r, c + C_QDESC + 0x18, 8), 0); /* behind the structure */
    end(&f);
}

static bool needs_reset(void *opaque)
{
    return rig_status(opaque) & 64;
}

/* A queue that cannot be: the driver is told, and a reset heals. */
static void test_bad_queue(void **state)
{
    static struct fixture f;
    const struct {
        uint64_t desc;
        uint16_t size;
    } cases[] = { { 0x10000, 7 }, { 0x10008, 8 }, { RIG_RAM - 16, 8 }, { ~0ULL << 4, 8 } };

    (void)state;
    begin_rng(&f, false, true);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        rig_negotiate(&f.d, RIG_F_VERSION_1);
        drv_queue_init(&f.q[0], f.r.m, 0x10000, 8, false, false);
        f.q[0].desc = cases[i].desc;
        f.q[0].size = cases[i].size;
        rig_queue(&f.d, 0, &f.q[0]);
        rig_driver_ok(&f.d);
        rig_kick(&f.d, 0);
        rig_wait(needs_reset, &f.d);
    }
    start_rng(&f);
    use_rng(&f, 64);
    end(&f);
}

/* Registers of a live queue do not move it. */
static void test_moved_while_live(void **state)
{
    static struct fixture f;

    (void)state;
    begin_rng(&f, false, true);
    start_rng(&f);
    use_rng(&f, 64);
    rig_write(&f.r, f.d.common + C_QSEL, 0, 2);
    rig_write(&f.r, f.d.common + C_QDESC, 0xdead0000, 8);
    rig_write(&f.r, f.d.common + C_QDEVICE, 0xdead0000, 4);
    rig_write(&f.r, f.d.common + C_QSIZE, 1, 2);
    rig_write(&f.r, f.d.common + C_QENABLE, 0, 2);
    assert_int_equal(rig_read(&f.r, f.d.common + C_QDESC, 8), f.q[0].desc);
    assert_int_equal(rig_read(&f.r, f.d.common + C_QSIZE, 2), 8);
    use_rng(&f, 64);
    end(&f);
}

static uint32_t window_read(struct fixture *f, uint32_t off, uint32_t len)
{
    rig_pci_write(&f->r, 1, f->d.cfg_cap + 4, 4, 1);
    rig_pci_write(&f->r, 1, f->d.cfg_cap + 8, off, 4);
    rig_pci_write(&f->r, 1, f->d.cfg_cap + 12, len, 4);
    return rig_pci_read(&f->r, 1, f->d.cfg_cap + 16, len == 3 ? 4 : len);
}

static void test_window(void **state)
{
    static struct fixture f;

    (void)state;
    begin_rng(&f, false, true);
    rig_write(&f.r, f.d.common + C_STATUS, 1, 1);
    assert_int_equal(window_read(&f, C_STATUS, 1), 1);
    rig_pci_write(&f.r, 1, f.d.cfg_cap + 16, 3, 1); /* writes through */
    assert_int_equal(rig_status(&f.d), 3);
    assert_int_equal(window_read(&f, C_NUMQ, 2), 1);
    (void)window_read(&f, 0xfffffffc, 4);
    (void)window_read(&f, 0x4000, 4);
    (void)window_read(&f, 0x3fff, 1);
    (void)window_read(&f, 0, 3);
    rig_pci_write(&f.r, 1, f.d.cfg_cap + 4, 1, 1); /* not our BAR */
    rig_pci_write(&f.r, 1, f.d.cfg_cap + 16, 0, 1);
    assert_int_equal(rig_status(&f.d), 3);
    end(&f);
}

static struct doorbell *find_bell(struct fixture *f, uint64_t gpa)
{
    for (unsigned i = 0; i < f->n_bells; i++) {
        if (f->bells[i].gpa == gpa)
            return &f->bells[i];
    }
    return NULL;
}

static void test_doorbells(void **state)
{
    static struct fixture f;
    struct drv_buf b = { .gpa = BUF, .len = 16, .in = true };
    uint64_t bar;

    (void)state;
    begin_rng(&f, true, true);
    assert_int_equal(f.n_bells, 1);
    assert_non_null(find_bell(&f, f.d.notify));
    start_rng(&f);
    assert_true(drv_add(&f.q[0], &b, 1, false, &f));
    assert_int_equal(eventfd_write(find_bell(&f, f.d.notify)->fd, 1), 0);
    assert_ptr_equal(rig_complete(&f.q[0], NULL), &f);
    bar = rig_pci_read(&f.r, 1, 0x20, 4);
    rig_pci_write(&f.r, 1, 0x20, (uint32_t)bar + 0x100000, 4);
    assert_int_equal(f.n_bells, 1);
    assert_non_null(find_bell(&f, f.d.notify + 0x100000));
    rig_pci_write(&f.r, 1, 4, 0, 2); /* memory decoding off */
    assert_int_equal(f.n_bells, 0);
    rig_pci_write(&f.r, 1, 4, 6, 2);
    assert_int_equal(f.n_bells, 1);
    end(&f);
}

/* ---- console ---- */

static size_t con_write(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *f = opaque;
    size_t n = MIN(len, f->room);

    memcpy(f->out + f->out_len, data, n);
    f->room -= n;
    f->out_len += n;
    return n;
}

static void con_ready(void *opaque)
{
    struct fixture *f = opaque;

    f->ready++;
    assert_int_equal(virtio_console_input(f->console, (const uint8_t *)"world", 5), 5);
}

static void con_give_room(void *opaque)
{
    struct fixture *f = opaque;

    f->room = 200;
    virtio_console_writable(f->console);
}

static void con_type(void *opaque)
{
    struct fixture *f = opaque;

    assert_int_equal(virtio_console_input(f->console, (const uint8_t *)"hello world", 11), 6);
}

static bool has_six(void *opaque)
{
    return ((struct fixture *)opaque)->out_len == 6;
}

static void test_console(void **state)
{
    static struct fixture f;
    struct virtio_console_config c = {
        .host = { .write = con_write, .input_ready = con_ready, .opaque = &f }, .columns = 80, .rows = 25, .slot = -1
    };
    struct drv_buf out[2] = { { .gpa = BUF, .len = 4 }, { .gpa = BUF + 4, .len = 9 } };
    struct drv_buf in[2] = { { .gpa = BUF + 64, .len = 6, .in = true }, { .gpa = BUF + 128, .len = 64, .in = true } };
    uint32_t len;

    (void)state;
    memset(&f, 0, sizeof(f));
    f.room = 6;
    rig_init(&f.r);
    assert_int_equal(virtio_console_new(&f.r.env, &c, &f.console), 0);
    rig_start(&f.r);
    rig_find(&f.r, 1, true, &f.d);
    rig_negotiate(&f.d, RIG_F_VERSION_1 | 1);
    assert_int_equal(rig_read(&f.r, f.d.config, 4), 25 << 16 | 80);
    for (unsigned i = 0; i < 2; i++) {
        drv_queue_init(&f.q[i], f.r.m, 0x10000 + i * 0x10000, 8, false, false);
        rig_queue(&f.d, i, &f.q[i]);
    }
    rig_driver_ok(&f.d);
    memcpy(mem_ptr(f.r.m, GPA(BUF), 13), "Hello, world!", 13);
    assert_true(drv_add(&f.q[1], out, 2, false, &f));
    rig_kick(&f.d, 1);
    rig_wait(has_six, &f); /* the host is full; the buffer is not given back */
    assert_null(drv_get_used(&f.q[1], &len));
    assert_int_equal(loop_post(f.r.loop, con_give_room, &f), 0);
    assert_ptr_equal(rig_complete(&f.q[1], NULL), &f);
    assert_memory_equal(f.out, "Hello, world!", 13);

    assert_true(drv_add(&f.q[0], &in[0], 1, false, &f));
    assert_int_equal(loop_post(f.r.loop, con_type, &f), 0);
    assert_ptr_equal(rig_complete(&f.q[0], &len), &f);
    assert_int_equal(len, 6);
    assert_memory_equal(mem_ptr(f.r.m, GPA(BUF + 64), 6), "hello ", 6);
    assert_true(drv_add(&f.q[0], &in[1], 1, false, &f));
    rig_kick(&f.d, 0);
    assert_ptr_equal(rig_complete(&f.q[0], &len), &f);
    assert_int_equal(len, 5);
    assert_memory_equal(mem_ptr(f.r.m, GPA(BUF + 128), 5), "world", 5);
    end(&f);
    assert_int_equal(f.ready, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng),
        cmocka_unit_test(test_intx),
        cmocka_unit_test(test_negotiation),
        cmocka_unit_test(test_bad_queue),
        cmocka_unit_test(test_moved_while_live),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_doorbells),
        cmocka_unit_test(test_console),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
