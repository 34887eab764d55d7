/* Arbitrary bytes as a LUKS header. One whose key derivation would take long is parsed only. */
#include "block/luks_priv.h"

#include "fuzz_block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    uint8_t head[LUKS_HEADER_LEN] = { 0 };
    struct blk_node *file;
    struct luks_header h;
    struct blk_luks *luks;
    uint64_t rounds = 0;
    const char *why;

    memcpy(head, data, MIN(len, sizeof(head)));
    if (luks_header_parse(head, 1 << 20, &h, &why) < 0) {
        CHECK(why);
        return 0;
    }
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        rounds += h.slots[i].active ? h.slots[i].rounds + (uint64_t)h.digest_rounds : 0;
    if (rounds > 100)
        return 0;
    file = fuzz_file_new(data, len, 1 << 20);
    file->size = 1 << 20;
    if (blk_luks_unlock(file, 0, file->size, (const uint8_t *)"x", 1, &luks, NULL) == 0)
        blk_luks_free(luks);
    blk_node_close(file);
    return 0;
}
