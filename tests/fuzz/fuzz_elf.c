/* ELF headers, program headers and notes from arbitrary bytes. */
#include "base/check.h"
#include "wire/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct elf_header h;
    struct elf_segment s;
    const void *desc;
    size_t desc_len;

    if (elf_header_parse(data, len, &h) == 0) {
        CHECK(h.segment_size > 0 || h.n_segments == 0);
        for (unsigned i = 0; i < h.n_segments && i < 64; i++) {
            uint64_t at = h.segments_off + (uint64_t)i * h.segment_size;

            if (at < h.segments_off || at > len || h.segment_size > len - at)
                break;
            elf_segment_parse(&h, data + at, &s);
        }
    }
    if (elf_note_find(data, len, "Xen", 18, &desc, &desc_len) == 0)
        CHECK((const uint8_t *)desc >= data && desc_len <= len && (const uint8_t *)desc + desc_len <= data + len);
    return 0;
}
