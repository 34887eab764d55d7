/* Arbitrary bytes as a VMDK image: opened, read all over, asked for extents. */
#include "fuzz_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct blk_open_config config = { .path = "memory", .format = "vmdk", .read_only = true };
    struct blk_node *file = fuzz_file_new(data, len, 0), *n;

    if (blk_format_vmdk.open(file, &config, &n, NULL) < 0)
        blk_node_close(file);
    else
        fuzz_read_all_over(n);
    return 0;
}
