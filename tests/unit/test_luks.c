/* LUKS volumes against qemu's (and cryptsetup's reading of our header), and hostile headers. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/luks.h"
#include "block/open.h"
#include "oracle.h"

#define SECRET "open sesame"
#define QEMU_SECRET "--object secret,id=s,data='open sesame'"
#define IMAGE "--image-opts driver=luks,key-secret=s,file.filename=%s"

static struct blk_node *open_luks(const char *path, const char *secret, bool read_only, int want)
{
    struct blk_open_config config = { .path = path,
                                      .format = "luks",
                                      .read_only = read_only,
                                      .secret = (const uint8_t *)secret,
                                      .secret_len = secret ? strlen(secret) : 0 };
    struct blk_why why = { 0 };
    struct blk_node *n = NULL;
    int r = blk_open(&config, &n, &why);

    if (r != want)
        print_error("%s: %d, %s\n", path, r, why.text ? why.text : "");
    assert_int_equal(r, want);
    assert_true(r == 0 || (why.text && strcmp(why.path, path) == 0));
    return n;
}

static void check_pattern(struct blk_node *n, uint64_t off, uint64_t len, uint8_t byte)
{
    uint8_t *buf = malloc(len);

    assert_int_equal(blk_pread(n, off, buf, len), 0);
    for (uint64_t i = 0; i < len; i++)
        assert_int_equal(buf[i], byte);
    free(buf);
}

/* What qemu made and wrote, in each cipher and hash that we read; then what we write, read by qemu. */
static void test_qemu_volumes(void **state)
{
    static const struct {
        const char *cipher, *mode, *iv, *hash;
    } kinds[] = {
        { "aes-256", "xts", "ivgen-alg=plain64", "sha256" },
        { "aes-128", "xts", "ivgen-alg=plain64", "sha1" },
        { "aes-256", "xts", "ivgen-alg=plain", "sha512" },
        { "aes-256", "cbc", "ivgen-alg=essiv,ivgen-hash-alg=sha256", "sha256" },
        { "aes-128", "cbc", "ivgen-alg=plain64", "sha256" },
    };
    char out[4096];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        const char *path = oracle_path("kind.luks");
        uint8_t data[3000];
        struct blk_node *n;

        unlink(path);
        oracle_must(ORACLE_AGAIN "qemu-img create -q -f luks " QEMU_SECRET
                                 " -o key-secret=s,iter-time=10,cipher-alg=%s,cipher-mode=%s,%s,hash-alg=%s %s 4M",
                    kinds[i].cipher, kinds[i].mode, kinds[i].iv, kinds[i].hash, path);
        oracle_must("qemu-io " QEMU_SECRET " -c 'write -P 0x5a 1M 1M' -c 'write -P 0x11 3145216 512' " IMAGE, path);
        n = open_luks(path, SECRET, false, 0);
        assert_int_equal(n->size, 4 << 20);
        check_pattern(n, 1 << 20, 1 << 20, 0x5a);
        check_pattern(n, 3145216, 512, 0x11);
        check_pattern(n, (1 << 20) + 100, 1000, 0x5a);
        memset(data, 0x77, sizeof(data));
        assert_int_equal(blk_pwrite(n, 5, data, sizeof(data)), 0);
        assert_int_equal(blk_pwrite(n, (4 << 20) - 700, data, 700), 0);
        blk_node_close(n);
        assert_int_equal(oracle_run(out, sizeof(out),
                                    "qemu-io -r " QEMU_SECRET " -c 'read -P 0x77 5 3000' -c 'read -P 0x77 4193604 700' "
                                    "-c 'read -P 0x5a 1M 1M' " IMAGE,
                                    path),
                         0);
        assert_null(strstr(out, "erification failed"));
    }
}

static void test_ours_in_qemu(void **state)
{
    const char *path = oracle_path("ours.luks");
    struct blk_create_config config = { .path = path,
                                        .format = "luks",
                                        .size = (3 << 20) + 100,
                                        .luks_iter_ms = 10,
                                        .secret = (const uint8_t *)SECRET,
                                        .secret_len = strlen(SECRET) };
    struct blk_why why = { 0 };
    char out[4096];
    struct blk_node *n;
    uint8_t data[4096];

    (void)state;
    assert_int_equal(blk_create(&config, &why), 0);
    n = open_luks(path, SECRET, false, 0);
    assert_int_equal(n->size, (3 << 20) + 512);
    memset(data, 0xc3, sizeof(data));
    assert_int_equal(blk_pwrite(n, 65536, data, sizeof(data)), 0);
    assert_int_equal(blk_resize(n, 5 << 20, BLK_PREALLOC_OFF, &why), 0);
    assert_int_equal(blk_pwrite(n, (5 << 20) - 4096, data, sizeof(data)), 0);
    blk_node_close(n);
    assert_int_equal(
        oracle_run(out, sizeof(out),
                   "qemu-io -r " QEMU_SECRET " -c 'read -P 0xc3 64k 4k' -c 'read -P 0xc3 5238784 4k' " IMAGE, path),
        0);
    assert_null(strstr(out, "erification failed"));
    assert_non_null(strstr(out, "read 4096/4096 bytes at offset 5238784"));
    assert_int_equal(oracle_run(out, sizeof(out), "qemu-img info %s", path), 0);
    assert_non_null(strstr(out, "file format: luks"));
    assert_non_null(strstr(out, "virtual size: 5 MiB"));
    assert_non_null(strstr(out, "active: true"));
    if (oracle_has("cryptsetup")) {
        assert_int_equal(oracle_run(out, sizeof(out), "PATH=$PATH:/usr/sbin cryptsetup luksDump %s", path), 0);
        assert_non_null(strstr(out, "xts-plain64"));
        assert_non_null(strstr(out, "Key Slot 0: ENABLED"));
        assert_non_null(strstr(out, "Key Slot 1: DISABLED"));
        assert_int_equal(oracle_run(out, sizeof(out),
                                    "printf '" SECRET "' | PATH=$PATH:/usr/sbin cryptsetup luksDump --dump-master-key "
                                    "-q --key-file - %s",
                                    path),
                         0);
        assert_non_null(strstr(out, "MK dump:"));
    }
}

/* A second passphrase that qemu added opens the same disk; after qemu erased the first one, that is refused. */
static void test_slots(void **state)
{
    const char *path = oracle_path("slots.luks");
    struct blk_node *n;

    (void)state;
    oracle_must(ORACLE_AGAIN "qemu-img create -q -f luks " QEMU_SECRET " -o key-secret=s,iter-time=10 %s 1M", path);
    oracle_must(ORACLE_AGAIN
                "qemu-img amend -q " QEMU_SECRET
                " --object secret,id=t,data=other -o state=active,new-secret=t,keyslot=5,iter-time=10 " IMAGE,
                path);
    oracle_must("qemu-io " QEMU_SECRET " -c 'write -P 0x21 0 1M' " IMAGE, path);
    for (unsigned i = 0; i < 2; i++) {
        n = open_luks(path, i ? "other" : SECRET, true, 0);
        check_pattern(n, 0, 1 << 20, 0x21);
        blk_node_close(n);
    }
    open_luks(path, "Other", true, -ENOKEY);
    open_luks(path, "", true, -ENOKEY);
    open_luks(path, NULL, true, -ENOKEY);
    oracle_must(ORACLE_AGAIN "qemu-img amend -q " QEMU_SECRET " -o state=inactive,keyslot=0 --force " IMAGE, path);
    open_luks(path, SECRET, true, -ENOKEY);
    n = open_luks(path, "other", true, 0);
    blk_node_close(n);
}

/* Random writes of any alignment, from vectors, compared with a model. */
static void test_parts(void **state)
{
    enum { SIZE = 2 << 20 };
    const char *path = oracle_path("parts.luks");
    struct blk_create_config config = { .path = path,
                                        .format = "luks",
                                        .size = SIZE,
                                        .luks_iter_ms = 10,
                                        .secret = (const uint8_t *)SECRET,
                                        .secret_len = strlen(SECRET) };
    uint8_t *model = calloc(1, SIZE), *data = malloc(SIZE);
    struct blk_node *n;

    (void)state;
    srand(7);
    assert_int_equal(blk_create(&config, NULL), 0);
    n = open_luks(path, SECRET, false, 0);
    assert_int_equal(blk_pwrite(n, 0, model, SIZE), 0);
    for (unsigned i = 0; i < 300; i++) {
        uint64_t off = (uint64_t)rand() % SIZE, len = 1 + (uint64_t)rand() % (i % 10 ? 5000u : 700000u);
        struct iovec iov[3];

        len = len > SIZE - off ? SIZE - off : len;
        for (uint64_t j = 0; j < len; j++)
            data[j] = (uint8_t)(rand() >> 7);
        iov[0] = (struct iovec){ data, len / 3 };
        iov[1] = (struct iovec){ data + len / 3, len / 5 };
        iov[2] = (struct iovec){ data + len / 3 + len / 5, len - len / 3 - len / 5 };
        assert_int_equal(blk_pwritev(n, off, iov, 3, len), 0);
        memcpy(model + off, data, len);
        off = (uint64_t)rand() % SIZE;
        len = 1 + (uint64_t)rand() % (SIZE - off);
        memset(data, 0, len);
        assert_int_equal(blk_preadv(n, off, &(struct iovec){ data, len }, 1, len), 0);
        assert_memory_equal(data, model + off, len);
    }
    assert_int_equal(blk_pwrite(n, SIZE - 1, data, 2), -EINVAL);
    blk_node_close(n);
    free(model);
    free(data);
}

struct part_writer {
    struct blk_node *n;
    uint64_t first;
};

/* Every third byte of a sector each: a lost update of another thread's bytes would show. */
static void *part_write(void *opaque)
{
    struct part_writer *w = opaque;

    for (unsigned round = 0; round < 40; round++) {
        for (uint64_t off = w->first; off < 1536; off += 3) {
            uint8_t byte = (uint8_t)(w->first + 1);

            if (blk_pwrite(w->n, off, &byte, 1) < 0)
                return w;
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    const char *path = oracle_path("threads.luks");
    struct blk_create_config config = { .path = path,
                                        .format = "luks",
                                        .size = 4096,
                                        .luks_iter_ms = 10,
                                        .secret = (const uint8_t *)SECRET,
                                        .secret_len = strlen(SECRET) };
    struct part_writer writers[3];
    pthread_t threads[3];
    uint8_t data[1536];
    struct blk_node *n;

    (void)state;
    assert_int_equal(blk_create(&config, NULL), 0);
    n = open_luks(path, SECRET, false, 0);
    for (unsigned i = 0; i < 3; i++) {
        writers[i] = (struct part_writer){ n, i };
        assert_int_equal(pthread_create(&threads[i], NULL, part_write, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(blk_pread(n, 0, data, sizeof(data)), 0);
    for (unsigned i = 0; i < sizeof(data); i++)
        assert_int_equal(data[i], i % 3 + 1);
    blk_node_close(n);
}

static void poke(const char *path, long off, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY);

    assert_true(fd >= 0 && pwrite(fd, bytes, len, off) == (ssize_t)len);
    close(fd);
}

/* One field at a time is made to lie. The passphrase stays right, so that only the check of that field can refuse. */
static void test_hostile(void **state)
{
    static const struct {
        long off;
        const char *bytes;
        size_t len;
        int want;
    } lies[] = {
        { 0, "LUKT", 4, -EMEDIUMTYPE },
        { 6, "\0\2", 2, -ENOTSUP },                               /* LUKS2 */
        { 8, "twofish", 8, -ENOTSUP },                            /* cipher */
        { 40, "ecb", 4, -ENOTSUP },                               /* mode */
        { 40, "xts-plain64AAAAAAAAAAAAAAAAAAAAA", 32, -ENOTSUP }, /* not terminated */
        { 72, "md5", 4, -ENOTSUP },                               /* hash */
        { 104, "\0\0\0\0", 4, -EMEDIUMTYPE },                     /* payload on the header */
        { 104, "\0\0\0\x10", 4, -EMEDIUMTYPE },                   /* payload on the key material */
        { 104, "\xff\xff\xff\xff", 4, -EMEDIUMTYPE },             /* payload behind the file */
        { 108, "\0\0\0\0", 4, -ENOTSUP },                         /* key length */
        { 108, "\xff\xff\xff\xff", 4, -ENOTSUP },
        { 164, "\0\0\0\0", 4, -EMEDIUMTYPE },     /* no rounds */
        { 164, "\xff\xff\xff\xff", 4, -ENOTSUP }, /* hours of rounds */
        { 208, "\0\0\0\0", 4, -EMEDIUMTYPE },     /* neither active nor not */
        { 212, "\0\0\0\0", 4, -EMEDIUMTYPE },
        { 212, "\x10\0\0\0", 4, -ENOTSUP },
        { 248, "\0\0\0\0", 4, -EMEDIUMTYPE },         /* key material on the header */
        { 248, "\xff\xff\xff\xff", 4, -EMEDIUMTYPE }, /* behind the file */
        { 252, "\0\0\0\1", 4, -EMEDIUMTYPE },         /* stripes */
        { 252, "\xff\xff\xff\xff", 4, -EMEDIUMTYPE },
        { 256, "\0\xac\x71\xf3\0\0\1\0", 8, -EMEDIUMTYPE }, /* slot 1 becomes active: fine by itself ... */
        { 112, "\1\2\3\4", 4, -ENOKEY },                    /* digest */
        { 300, "\0\0\0\0", 4, 0 },                          /* of a slot that is not in use: does not matter */
    };
    const char *good = oracle_path("good.luks"), *path = oracle_path("bad.luks");
    struct blk_create_config config = { .path = good,
                                        .format = "luks",
                                        .size = 4096,
                                        .luks_iter_ms = 10,
                                        .secret = (const uint8_t *)SECRET,
                                        .secret_len = strlen(SECRET) };

    (void)state;
    assert_int_equal(blk_create(&config, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        oracle_must("cp %s %s", good, path);
        poke(path, lies[i].off, lies[i].bytes, lies[i].len);
        if (lies[i].off == 256) /* ... but not where slot 0 is */
            poke(path, 256 + 40, "\0\0\0\x0a", 4);
        blk_node_close(open_luks(path, SECRET, true, lies[i].want));
    }
    oracle_must("cp %s %s && truncate -s 591 %s", good, path, path);
    open_luks(path, SECRET, true, -EMEDIUMTYPE);
    oracle_must("cp %s %s && truncate -s 100000 %s", good, path, path);
    open_luks(path, SECRET, true, -EMEDIUMTYPE);
}

static void test_probe(void **state)
{
    (void)state;
    assert_string_equal(blk_probe((const uint8_t *)"LUKS\xba\xbe\0\1", 8), "luks");
    assert_string_equal(blk_probe((const uint8_t *)"LUKS\xba\xbe\0\1", 7), "raw");
    assert_string_equal(blk_probe((const uint8_t *)"LUKS\xba\xbe\0\3", 8), "raw");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qemu_volumes), cmocka_unit_test(test_ours_in_qemu), cmocka_unit_test(test_slots),
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_threads),      cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_probe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
