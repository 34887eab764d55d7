/* A VHDX image whose structures are made of the input, with the checksums put right: opened, read all over. */
#include "base/bits.h"
#include "base/crc32c.h"
#include "fuzz_block.h"

enum { IMAGE = 4 << 20 };

/* Where parts of the input go: header, region table, metadata table, metadata items, block table. */
static const struct {
    uint32_t at, len, summed;
    const char *signature;
} parts[] = {
    { 64 << 10, 96, 4096, "head" }, { 192 << 10, 112, 64 << 10, "regi" },
    { 1 << 20, 256, 0, NULL },      { (1 << 20) + (64 << 10), 64, 0, NULL },
    { 3 << 20, 128, 0, NULL },
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct blk_open_config config = { .path = "memory", .format = "vhdx", .read_only = true };
    struct blk_node *file = fuzz_file_new((const uint8_t *)"vhdxfile", 8, IMAGE), *n;
    uint8_t *raw = CONTAINER_OF(file, struct fuzz_file, node)->data;

    file->size = IMAGE;
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        size_t part = MIN(len, parts[i].len);

        memcpy(raw + parts[i].at, data, part);
        data += part;
        len -= part;
        if (!parts[i].signature)
            continue;
        memcpy(raw + parts[i].at, parts[i].signature, 4);
        store_le32(raw + parts[i].at + 4, 0);
        store_le32(raw + parts[i].at + 4, crc32c(0, raw + parts[i].at, parts[i].summed));
    }
    if (blk_format_vhdx.open(file, &config, &n, NULL) < 0)
        blk_node_close(file);
    else
        fuzz_read_all_over(n);
    return 0;
}
