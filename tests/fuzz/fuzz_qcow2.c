/* Arbitrary bytes as a qcow2 image, opened for writing, and a few requests to it. */
#include "fuzz_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct blk_open_config config = { .path = "memory",
                                            .format = "qcow2",
                                            .allowed_dirs = (const char *[]){ NULL } };
    struct blk_node *file = fuzz_file_new(data, len, 1 << 20), *n;
    static uint8_t buf[80000];

    if (blk_format_qcow2.open(file, &config, &n, NULL) < 0) {
        blk_node_close(file);
        return 0;
    }
    for (unsigned i = 0; i < 12; i++) {
        uint64_t off = i & 1 ? (n->size / 7 * i) : i * 9000u, room = n->size - MIN(off, n->size);
        struct blk_piece pieces[BLK_PIECES_MAX];
        struct blk_extent x;

        (void)!(i % 3 == 0 ? blk_pwrite(n, off, data, MIN(MIN(len, room), sizeof(buf))) : 0);
        (void)!(i % 5 == 1 ? blk_discard(n, off, MIN(room, 100000u)) : 0);
        (void)!(i % 5 == 2 ? blk_write_zeroes(n, off, MIN(room, 70000u), i & 1) : 0);
        (void)!blk_pread(n, off, buf, MIN(room, sizeof(buf)));
        if (room && blk_extent_here(n, off, room, &x) == 0)
            CHECK(x.len > 0 && x.len <= room);
        if (blk_map(n, BLK_READ, off, MIN(room, 4096u), pieces) > 0)
            blk_unmap(n);
        (void)!(i % 4 == 3 ? blk_flush(n) : 0);
    }
    blk_node_close(n);
    return 0;
}
