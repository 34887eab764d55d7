#include "qcow2_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "oracle.h"

uint64_t rig_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

void rig_create(const struct blk_create_config *config)
{
    struct blk_why why = { 0 };
    int res = blk_create(config, &why);

    if (res < 0)
        print_error("create %s: %d %s %s\n", config->path, res, why.path, why.text ? why.text : "");
    assert_int_equal(res, 0);
}

struct blk_node *rig_open(const char *path, bool read_only)
{
    /* Nothing here is about power loss: flushes would take most of the time. */
    struct blk_open_config config = {
        .path = path, .format = "qcow2", .read_only = read_only, .cache = BLK_CACHE_UNSAFE
    };
    struct blk_why why = { 0 };
    struct blk_node *n = NULL;
    int res = blk_open(&config, &n, &why);

    if (res < 0)
        print_error("open %s: %d %s %s\n", path, res, why.path, why.text ? why.text : "");
    assert_int_equal(res, 0);
    return n;
}

void rig_begin(struct rig *r, const char *path, uint64_t seed)
{
    struct blk_info info;

    *r = (struct rig){ .path = strdup(path), .seed = seed };
    r->n = rig_open(path, false);
    r->size = r->n->size;
    r->shadow = malloc(r->size);
    assert_non_null(r->shadow);
    assert_int_equal(blk_pread(r->n, 0, r->shadow, r->size), 0);
    blk_node_info(r->n, &info);
    r->cluster = info.cluster_size;
    r->no_compressed = info.data_file || info.encryption;
}

static void rig_fill(struct rig *r, uint8_t *buf, uint64_t len)
{
    uint64_t x = rig_random(&r->seed);
    bool text = x & 64; /* compressible */

    for (uint64_t i = 0; i < len; i++) {
        if (i % 8 == 0 && !text)
            x = rig_random(&r->seed);
        buf[i] = (uint8_t)(text ? x + i / 512 : x >> (i % 8 * 8));
    }
}

static void rig_read(struct rig *r, uint64_t off, uint64_t len)
{
    uint8_t *buf = malloc(len);

    assert_non_null(buf);
    assert_int_equal(blk_pread(r->n, off, buf, len), 0);
    for (uint64_t i = 0; i < len; i++) {
        if (buf[i] != r->shadow[off + i])
            print_error("%s: byte %#llx is %#x, not %#x\n", r->path, (unsigned long long)(off + i), buf[i],
                        r->shadow[off + i]);
        assert_int_equal(buf[i], r->shadow[off + i]);
    }
    free(buf);
}

static void rig_write(struct rig *r, uint64_t off, uint64_t len)
{
    rig_fill(r, r->shadow + off, len);
    assert_int_equal(blk_pwrite(r->n, off, r->shadow + off, len), 0);
}

/* What was discarded reads as before, or as zeroes. */
static void rig_discard(struct rig *r, uint64_t off, uint64_t len)
{
    uint8_t *buf = malloc(len);

    assert_non_null(buf);
    assert_int_equal(blk_discard(r->n, off, len), 0);
    assert_int_equal(blk_pread(r->n, off, buf, len), 0);
    for (uint64_t i = 0; i < len; i++)
        assert_true(buf[i] == 0 || buf[i] == r->shadow[off + i]);
    memcpy(r->shadow + off, buf, len);
    free(buf);
}

static void rig_compressed(struct rig *r, uint64_t off)
{
    uint64_t at = off / r->cluster * r->cluster, len = r->size - at < r->cluster ? r->size - at : r->cluster;

    rig_fill(r, r->shadow + at, len);
    assert_int_equal(r->n->ops->pwrite_compressed(r->n, at, r->shadow + at, len), 0);
}

static void rig_request(struct rig *r)
{
    static const uint64_t shifts[] = { 0, 9, 12, 16 };
    unsigned shift = (unsigned)shifts[rig_random(&r->seed) % 4], kind = (unsigned)(rig_random(&r->seed) % 16);
    uint64_t off = (rig_random(&r->seed) % r->size) >> shift << shift;
    uint64_t max = 1 + (rig_random(&r->seed) % (kind & 1 ? 4ull * r->cluster : 9000));
    uint64_t len = max < r->size - off ? max : r->size - off;

    if (shift && len > (1u << shift))
        len = len >> shift << shift;
    if (kind < 7) {
        rig_write(r, off, len);
    } else if (kind < 9) {
        memset(r->shadow + off, 0, len);
        assert_int_equal(blk_write_zeroes(r->n, off, len, kind == 8 ? BLK_ZERO_UNMAP : 0), 0);
    } else if (kind < 10) {
        rig_discard(r, off, len);
    } else if (kind < 12) {
        if (!r->no_compressed)
            rig_compressed(r, off);
    } else if (kind < 13) {
        assert_int_equal(blk_flush(r->n), 0);
    } else {
        rig_read(r, off, len);
    }
}

void rig_requests(struct rig *r, unsigned n)
{
    while (n-- > 0)
        rig_request(r);
}

void rig_verify(struct rig *r)
{
    for (uint64_t off = 0; off < r->size; off += 1 << 20)
        rig_read(r, off, r->size - off < 1 << 20 ? r->size - off : 1 << 20);
}

void rig_same(struct rig *r, const char *raw)
{
    FILE *f = fopen(raw, "r");
    uint8_t *want = malloc(r->size);

    assert_true(f && want);
    assert_int_equal(fread(want, 1, r->size, f), r->size);
    fclose(f);
    assert_memory_equal(want, r->shadow, r->size);
    free(want);
}

void rig_compare(const char *path, const uint8_t *want, uint64_t size)
{
    const char *raw = oracle_path("shadow.raw");
    int fd = open(raw, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    for (uint64_t done = 0; done < size;) {
        ssize_t n = write(fd, want + done, size - done);

        assert_true(n > 0);
        done += (uint64_t)n;
    }
    close(fd);
    oracle_must("qemu-img compare -f qcow2 -F raw %s %s", path, raw);
}

void rig_judge(struct rig *r)
{
    rig_verify(r);
    blk_node_close(r->n);
    oracle_must("qemu-img check -f qcow2 %s", r->path);
    rig_compare(r->path, r->shadow, r->size);
    r->n = rig_open(r->path, false);
    rig_verify(r);
}

void rig_end(struct rig *r)
{
    rig_judge(r);
    blk_node_close(r->n);
    free(r->shadow);
    free((char *)(uintptr_t)r->path);
}

void rig_raw(const char *path, uint64_t size, uint64_t seed)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    uint8_t buf[4096];

    assert_true(fd >= 0);
    for (uint64_t off = 0; off < size; off += sizeof(buf)) {
        uint64_t kind = rig_random(&seed) % 4, len = size - off < sizeof(buf) ? size - off : sizeof(buf);

        for (size_t i = 0; i < sizeof(buf); i++)
            buf[i] = (uint8_t)(kind == 0 ? 0 : kind == 1 ? off : rig_random(&seed));
        assert_int_equal(pwrite(fd, buf, len, (off_t)off), (ssize_t)len);
    }
    close(fd);
}
