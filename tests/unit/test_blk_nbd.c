/* NBD disks against qemu-nbd and nbdkit, whose data the host's own file shows; servers that vanish and come back. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/attr.h"
#include "block/open.h"
#include "oracle.h"

#define DISK_BYTES (8u << 20)

struct fixture {
    char dir[64], raw[96], socket[96], uri[320];
    pid_t server;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    strcpy(f->dir, "/tmp/caisson-nbd-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->raw, sizeof(f->raw), "%s/raw", f->dir);
    snprintf(f->socket, sizeof(f->socket), "%s/socket", f->dir);
    snprintf(f->uri, sizeof(f->uri), "nbd+unix:///disk?socket=%s", f->socket);
    oracle_must("truncate -s %u %s", DISK_BYTES, f->raw);
    *state = f;
    return 0;
}

static void stop(struct fixture *f)
{
    if (f->server > 0) {
        kill(f->server, SIGKILL);
        waitpid(f->server, NULL, 0);
    }
    f->server = 0;
    unlink(f->socket);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    stop(f);
    oracle_must("rm -rf %s", f->dir);
    free(f);
    return 0;
}

static bool answers(const char *path)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good;

    snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
    good = connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0;
    close(fd);
    return good;
}

/* Run a server until it listens. The last argument is NULL. */
static void start(struct fixture *f, char *const argv[])
{
    f->server = fork();
    assert_true(f->server >= 0);
    if (f->server == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    for (unsigned i = 0; i < 500 && !answers(f->socket); i++)
        usleep(20000);
    assert_true(answers(f->socket));
}

static void start_qemu(struct fixture *f, bool read_only)
{
    char *argv[] = { "qemu-nbd", "-k",  f->socket, "-t",   "-e",   "8",
                     "-f",       "raw", "-x",      "disk", f->raw, read_only ? "-r" : NULL,
                     NULL };

    start(f, argv);
}

static int open_nbd(struct fixture *f, bool read_only, struct blk_node **ret, struct blk_why *why)
{
    const struct blk_open_config config = { .path = f->uri, .format = "raw", .read_only = read_only };

    return blk_open(&config, ret, why);
}

static void check_same(struct fixture *f, const uint8_t *shadow)
{
    uint8_t *file = malloc(DISK_BYTES);
    FILE *in = fopen(f->raw, "rb");

    assert_non_null(file);
    assert_non_null(in);
    assert_int_equal(fread(file, 1, DISK_BYTES, in), DISK_BYTES);
    assert_memory_equal(file, shadow, DISK_BYTES);
    fclose(in);
    free(file);
}

static void random_io(struct blk_node *n, uint8_t *shadow, unsigned seed)
{
    uint8_t *back = malloc(DISK_BYTES);

    assert_non_null(back);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t off = (unsigned)rand_r(&seed) % DISK_BYTES, len = 1 + (unsigned)rand_r(&seed) % (DISK_BYTES - off);
        struct iovec iov[2] = { { shadow + off, len / 2 }, { shadow + off + len / 2, len - len / 2 } };

        memset(shadow + off, (int)i + 1, len);
        assert_int_equal(blk_pwritev(n, off, iov, i % 2 ? 2 : 1, i % 2 ? len : len / 2), 0);
        if (i % 2 == 0)
            assert_int_equal(blk_pwrite(n, off + len / 2, shadow + off + len / 2, len - len / 2), 0);
        if (i % 5 == 0) {
            assert_int_equal(blk_write_zeroes(n, off, len, i % 2 ? BLK_ZERO_UNMAP : 0), 0);
            memset(shadow + off, 0, len);
        }
        off = (unsigned)rand_r(&seed) % DISK_BYTES;
        len = 1 + (unsigned)rand_r(&seed) % (DISK_BYTES - off);
        assert_int_equal(blk_pread(n, off, back, len), 0);
        assert_memory_equal(back, shadow + off, len);
    }
    assert_int_equal(blk_flush(n), 0);
    free(back);
}

static void test_io(void **state)
{
    struct fixture *f = *state;
    uint8_t *shadow = calloc(1, DISK_BYTES);
    struct blk_node *n = NULL;
    struct blk_extent x;

    assert_non_null(shadow);
    start_qemu(f, false);
    assert_int_equal(open_nbd(f, false, &n, NULL), 0);
    assert_int_equal(n->size, DISK_BYTES);
    assert_int_equal(blk_extent(n, 0, DISK_BYTES, &x), 0);
    assert_int_equal(x.flags & (BLK_EXT_ZERO | BLK_EXT_DATA), BLK_EXT_ZERO);
    random_io(n, shadow, 1);
    check_same(f, shadow);
    assert_int_equal(blk_discard(n, 0, 1 << 20), 0);
    assert_int_equal(blk_pwrite(n->file, DISK_BYTES, "x", 1), -ENOSPC);
    blk_node_close(n);
    free(shadow);
}

static void test_large_blocks(void **state)
{
    struct fixture *f = *state;
    char file[128];
    char *argv[] = { "nbdkit",
                     "-f",
                     "-U",
                     f->socket,
                     "--filter=blocksize-policy",
                     "file",
                     file,
                     "blocksize-minimum=4096",
                     "blocksize-preferred=4096",
                     "blocksize-maximum=65536",
                     "blocksize-error-policy=error",
                     NULL };
    uint8_t *shadow = calloc(1, DISK_BYTES);
    struct blk_node *n = NULL;

    assert_non_null(shadow);
    snprintf(file, sizeof(file), "file=%s", f->raw);
    start(f, argv);
    assert_int_equal(open_nbd(f, false, &n, NULL), 0);
    assert_int_equal(n->block_size, 4096);
    random_io(n, shadow, 2);
    check_same(f, shadow);
    blk_node_close(n);
    free(shadow);
}

static void test_lost_server(void **state)
{
    struct fixture *f = *state;
    struct blk_node *n = NULL;
    uint8_t b[512];
    struct blk_why why;

    assert_int_equal(open_nbd(f, false, &n, &why), -ENOENT);
    assert_non_null(why.text);
    start_qemu(f, false);
    assert_int_equal(open_nbd(f, false, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 0, "stays", 5), 0);
    assert_int_equal(blk_flush(n), 0);
    stop(f);
    /* Its socket is gone with it. Whoever waits for a lost server has to see that it is one. */
    assert_int_equal(blk_pread(n, 0, b, sizeof(b)), -ENOTCONN);
    assert_int_equal(blk_pwrite(n, 0, "x", 1), -ENOTCONN);
    assert_int_equal(blk_flush(n), -ENOTCONN);
    oracle_must("touch %s", f->socket);
    assert_int_equal(blk_pread(n, 0, b, sizeof(b)), -ENOTCONN);
    unlink(f->socket);
    /* Back again: the next call works as if nothing had been. */
    start_qemu(f, false);
    assert_int_equal(blk_pread(n, 0, b, sizeof(b)), 0);
    assert_memory_equal(b, "stays", 5);
    /* Another disk in its place is none of ours. */
    stop(f);
    oracle_must("truncate -s 1M %s", f->raw);
    start_qemu(f, false);
    assert_int_equal(blk_pread(n, 0, b, sizeof(b)), -ESTALE);
    blk_node_close(n);
}

static void test_read_only(void **state)
{
    struct fixture *f = *state;
    struct blk_node *n = NULL;
    struct blk_why why;

    start_qemu(f, true);
    assert_int_equal(open_nbd(f, false, &n, &why), -EROFS);
    assert_non_null(why.text);
    assert_int_equal(open_nbd(f, true, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 0, "x", 1), -EROFS);
    blk_node_close(n);
}

static void *reader(void *opaque)
{
    uint8_t *b = malloc(1 << 20);
    intptr_t bad = 0;

    for (unsigned i = 0; b && i < 30; i++) {
        bad += blk_pread(opaque, (i % 8) << 20, b, 1 << 20) != 0;
        bad += b[0] != i % 8 + 1 || b[(1 << 20) - 1] != i % 8 + 1;
    }
    free(b);
    return (void *)(b ? bad : 1);
}

/* More threads than connections. */
static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct blk_node *n = NULL;
    pthread_t threads[7];
    uint8_t *b = malloc(1 << 20);

    assert_non_null(b);
    start_qemu(f, false);
    assert_int_equal(open_nbd(f, false, &n, NULL), 0);
    for (unsigned i = 0; i < 8; i++) {
        memset(b, (int)i + 1, 1 << 20);
        assert_int_equal(blk_pwrite(n, i << 20, b, 1 << 20), 0);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, n), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
        void *bad;

        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
    blk_node_close(n);
    free(b);
}

/* With pre-shared keys; without the key there is no disk. */
static void test_tls(void **state)
{
    struct fixture *f = *state;
    char file[128], psk[128];
    char *argv[] = { "nbdkit", "-f", "-U", f->socket, "--tls=require", psk, "file", file, NULL };
    struct blk_node *n = NULL;
    uint8_t b[512];

    oracle_must("echo user:%064d > %s/keys && echo user:%064d > %s/wrong", 1234, f->dir, 4321, f->dir);
    snprintf(file, sizeof(file), "file=%s", f->raw);
    snprintf(psk, sizeof(psk), "--tls-psk=%s/keys", f->dir);
    start(f, argv);
    snprintf(f->uri, sizeof(f->uri), "nbds+unix://user@/?socket=%s&tls-psk-file=%s/keys", f->socket, f->dir);
    assert_int_equal(open_nbd(f, false, &n, NULL), 0);
    assert_int_equal(blk_pwrite(n, 0, "hello", 5), 0);
    assert_int_equal(blk_pread(n, 0, b, sizeof(b)), 0);
    assert_memory_equal(b, "hello", 5);
    blk_node_close(n);
    snprintf(f->uri, sizeof(f->uri), "nbds+unix://user@/?socket=%s&tls-psk-file=%s/wrong", f->socket, f->dir);
    assert_true(open_nbd(f, false, &n, NULL) < 0);
    snprintf(f->uri, sizeof(f->uri), "nbd+unix:///?socket=%s", f->socket);
    assert_true(open_nbd(f, false, &n, NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_io, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tls, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
