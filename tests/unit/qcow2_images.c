#include "qcow2_images.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "oracle.h"

const struct img_kind img_kinds[] = {
    { .name = "plain" },
    { .name = "v2", .options = "compat=0.10" },
    { .name = "small clusters", .options = "cluster_size=512" },
    { .name = "big clusters", .options = "cluster_size=2M" },
    { .name = "refcount 1", .options = "refcount_bits=1" },
    { .name = "refcount 2", .options = "refcount_bits=2,cluster_size=4k", .compressed = true },
    { .name = "refcount 8", .options = "refcount_bits=8", .snapshots = true },
    { .name = "refcount 32", .options = "refcount_bits=32", .snapshots = true, .compressed = true },
    { .name = "refcount 64", .options = "refcount_bits=64,cluster_size=1k" },
    { .name = "lazy", .options = "lazy_refcounts=on", .snapshots = true },
    { .name = "subclusters", .options = "extended_l2=on", .snapshots = true },
    { .name = "subclusters, small", .options = "extended_l2=on,cluster_size=16k", .compressed = true, .bitmap = true },
    { .name = "snapshots", .snapshots = true, .compressed = true, .bitmap = true },
    { .name = "snapshots v2", .options = "compat=0.10,cluster_size=4k", .snapshots = true },
    { .name = "zstd", .options = "compression_type=zstd,cluster_size=32k", .compressed = true },
    { .name = "bitmaps", .options = "cluster_size=4k", .bitmap = true },
    { .name = "luks",
      .options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
      .luks = true,
      .snapshots = true },
    { .name = "data file", .options = "cluster_size=4k", .data_file = true },
    { .name = "preallocated", .options = "preallocation=metadata" },
};
const unsigned img_n_kinds = ARRAY_SIZE(img_kinds);

#define SECRET_OBJECT "--object secret,id=s,data='" IMG_SECRET "'"

const char *img_target(const char *path, bool luks)
{
    static char text[512];

    snprintf(text, sizeof(text),
             luks ? SECRET_OBJECT " --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=%s" : "%s", path);
    return text;
}

void img_io(const char *path, bool luks, const char *commands)
{
    oracle_must("qemu-io %s %s %s", commands, luks ? "" : "-f qcow2", img_target(path, luks));
}

void img_make(const struct img_kind *kind, const char *path)
{
    unlink(path);
    if (kind->data_file) {
        char data[300];

        snprintf(data, sizeof(data), "%s.data", path);
        unlink(data);
        oracle_must("qemu-img create -q -f qcow2 -o data_file=%s%s%s %s %u", data, kind->options ? "," : "",
                    kind->options ? kind->options : "", path, IMG_SIZE);
    } else {
        oracle_must(ORACLE_AGAIN "qemu-img create -q " SECRET_OBJECT " -f qcow2 %s%s %s %u", kind->options ? "-o " : "",
                    kind->options ? kind->options : "", path, IMG_SIZE);
    }
    img_io(path, kind->luks,
           "-c 'write -P 1 0 300k' -c 'write -P 2 1M 64k' -c 'write -P 3 3M 1000k' -c 'write -z 2M 128k'");
    if (kind->compressed)
        img_io(path, kind->luks, "-c 'write -c -P 4 1536k 64k' -c 'write -c -P 5 1664k 128k'");
    if (kind->bitmap) {
        oracle_must("qemu-img bitmap -f qcow2 --add -g 4096 %s one", path);
        oracle_must("qemu-img bitmap -f qcow2 --add --disable %s two", path);
        img_io(path, kind->luks, "-c 'write -P 6 512k 8k'");
    }
    if (kind->snapshots) {
        oracle_must("qemu-img snapshot -q -c first %s", img_target(path, kind->luks));
        img_io(path, kind->luks, "-c 'write -P 7 64k 128k' -c 'write -P 8 2560k 64k'");
        oracle_must("qemu-img snapshot -q -c second %s", img_target(path, kind->luks));
        img_io(path, kind->luks, "-c 'write -P 9 3M 256k'");
    }
}

struct blk_node *img_open(const char *path, bool read_only, int want)
{
    struct blk_open_config config = { .path = path,
                                      .format = "qcow2",
                                      .read_only = read_only,
                                      .secret = (const uint8_t *)IMG_SECRET,
                                      .secret_len = strlen(IMG_SECRET) };
    struct blk_why why = { 0 };
    struct blk_node *n = NULL;
    int r = blk_open(&config, &n, &why);

    if (r != want)
        print_error("%s: %d, %s\n", path, r, why.text ? why.text : "");
    assert_int_equal(r, want);
    return n;
}

static uint64_t number(const char *json, const char *key)
{
    char quoted[64];
    const char *at;

    snprintf(quoted, sizeof(quoted), "\"%s\": ", key);
    at = strstr(json, quoted);
    return at ? strtoull(at + strlen(quoted), NULL, 10) : 0;
}

int img_qemu_check(const char *path, bool luks, const char *repair, struct blk_check *ret_check)
{
    char out[65536];
    int r = oracle_run(out, sizeof(out), "qemu-img check --output=json %s%s %s %s 2>/dev/null", repair ? "-r " : "",
                       repair ? repair : "", luks ? "" : "-f qcow2", img_target(path, luks));

    *ret_check = (struct blk_check){ .leaks = number(out, "leaks"),
                                     .corruptions = number(out, "corruptions"),
                                     .leaks_fixed = number(out, "leaks-fixed"),
                                     .corruptions_fixed = number(out, "corruptions-fixed"),
                                     .total_clusters = number(out, "total-clusters"),
                                     .allocated_clusters = number(out, "allocated-clusters"),
                                     .fragmented_clusters = number(out, "fragmented-clusters"),
                                     .compressed_clusters = number(out, "compressed-clusters"),
                                     .image_end = number(out, "image-end-offset") };
    return r;
}

uint64_t img_digest(struct blk_node *n)
{
    enum { CHUNK = 1 << 20 };
    uint64_t *buf = malloc(CHUNK), h = 14695981039346656037u;

    for (uint64_t off = 0; off < n->size; off += CHUNK) {
        uint64_t len = MIN(CHUNK, n->size - off);

        memset(buf, 0, CHUNK);
        assert_int_equal(blk_pread(n, off, buf, len), 0);
        for (unsigned i = 0; i < CHUNK / 8; i++)
            h = (h ^ buf[i]) * 1099511628211u;
    }
    free(buf);
    return h;
}

static struct {
    int left;
    int (*pwrite)(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len);
    struct blk_node_ops ops;
} dying;

static int dying_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    return dying.left-- > 0 ? dying.pwrite(n, off, iov, n_iov, len) : -EIO;
}

static int dying_zeroes(struct blk_node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return -ENOTSUP; /* written as data */
}

static int dying_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    return 0;
}

void img_dying(struct blk_node *n, int n_writes)
{
    dying.left = n_writes;
    if (n->file->ops == &dying.ops)
        return;
    dying.ops = *n->file->ops;
    dying.pwrite = dying.ops.pwrite;
    dying.ops.pwrite = dying_pwrite;
    dying.ops.write_zeroes = dying_zeroes;
    dying.ops.discard = dying_discard;
    n->file->ops = &dying.ops;
}

int img_dying_left(void)
{
    return dying.left;
}
