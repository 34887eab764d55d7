/* Arbitrary bytes as a qcow2 image: checked, repaired, its snapshots and bitmaps used. */
#include "fuzz_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void use(struct blk_node *n)
{
    struct blk_snapshot *snaps, s = { .name = "new" };
    struct blk_bitmap *bitmaps;
    struct blk_check check;
    uint64_t off, size;
    unsigned count;

    (void)!n->ops->check(n, 0, &check, NULL);
    if (n->ops->bitmap_list(n, &bitmaps, &count) == 0) {
        if (count && n->ops->bitmap_next(n, bitmaps[0].name, 0, &off, &size) == 1)
            CHECK(size > 0 && off + size <= n->size);
        free(bitmaps);
    }
    (void)!blk_pwrite(n, 0, "x", MIN(n->size, 1));
    (void)!n->ops->bitmap_add(n, "new", 512, true, NULL);
    (void)!n->ops->snapshot_create(n, &s, NULL);
    (void)!blk_pwrite(n, 0, "y", MIN(n->size, 1));
    if (n->ops->snapshot_list(n, &snaps, &count) == 0) {
        if (count && n->ops->snapshot_apply(n, snaps[0].id, NULL) == 0)
            (void)!n->ops->snapshot_delete(n, snaps[0].id, NULL);
        free(snaps);
    }
    if (n->ops->check(n, BLK_CHECK_FIX_ALL, &check, NULL) == 0 && check.corruptions == 0)
        CHECK(n->ops->check(n, 0, &check, NULL) == 0 && check.corruptions == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct blk_open_config config = { .path = "memory",
                                            .format = "qcow2",
                                            .allowed_dirs = (const char *[]){ NULL } };
    struct blk_node *file = fuzz_file_new(data, len, 1 << 20), *n;

    if (blk_format_qcow2.open(file, &config, &n, NULL) < 0) {
        blk_node_close(file);
        return 0;
    }
    use(n);
    blk_node_close(n);
    return 0;
}
