/* ELF header parser; see elf.h. Fields are picked by offset, so that no struct needs to be aligned over foreign bytes.
 */
#include "wire/elf.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

enum {
    ELF_CLASS = 4,
    ELF_DATA = 5,
    ELF_IDENT_VERSION = 6,
    ELF_HEADER32 = 52,
    ELF_HEADER64 = 64,
    ELF_SEGMENT32 = 32,
    ELF_SEGMENT64 = 56
};

int elf_header_parse(const void *data, size_t len, struct elf_header *ret_header)
{
    const uint8_t *p = data;
    struct elf_header h = { 0 };

    if (len < 4 || memcmp(p, "\177ELF", 4) != 0)
        return -ENOEXEC;
    if (len < ELF_HEADER32 || (p[ELF_CLASS] != 1 && p[ELF_CLASS] != 2) || p[ELF_DATA] != 1 || p[ELF_IDENT_VERSION] != 1)
        return -EBADMSG;
    h.is_64 = p[ELF_CLASS] == 2;
    if (h.is_64 && len < ELF_HEADER64)
        return -EBADMSG;
    h.type = load_le16(p + 16);
    h.machine = load_le16(p + 18);
    if (h.is_64) {
        h.entry = load_le64(p + 24);
        h.segments_off = load_le64(p + 32);
        h.segment_size = load_le16(p + 54);
        h.n_segments = load_le16(p + 56);
    } else {
        h.entry = load_le32(p + 24);
        h.segments_off = load_le32(p + 28);
        h.segment_size = load_le16(p + 42);
        h.n_segments = load_le16(p + 44);
    }
    /* 0xffff means that the number stands elsewhere; no kernel has so many. */
    if (h.n_segments == 0xffff || (h.n_segments > 0 && h.segment_size < (h.is_64 ? ELF_SEGMENT64 : ELF_SEGMENT32)))
        return -EBADMSG;
    *ret_header = h;
    return 0;
}

void elf_segment_parse(const struct elf_header *h, const void *data, struct elf_segment *ret_segment)
{
    const uint8_t *p = data;

    if (h->is_64) {
        *ret_segment = (struct elf_segment){ .type = load_le32(p),
                                             .offset = load_le64(p + 8),
                                             .vaddr = load_le64(p + 16),
                                             .paddr = load_le64(p + 24),
                                             .file_size = load_le64(p + 32),
                                             .mem_size = load_le64(p + 40),
                                             .align = load_le64(p + 48) };
    } else {
        *ret_segment = (struct elf_segment){ .type = load_le32(p),
                                             .offset = load_le32(p + 4),
                                             .vaddr = load_le32(p + 8),
                                             .paddr = load_le32(p + 12),
                                             .file_size = load_le32(p + 16),
                                             .mem_size = load_le32(p + 20),
                                             .align = load_le32(p + 28) };
    }
}

int elf_note_find(const void *data, size_t len, const char *name, uint32_t type, const void **ret_desc,
                  size_t *ret_desc_len)
{
    const uint8_t *p = data;
    size_t name_size = strlen(name) + 1;

    while (len >= 12) {
        uint64_t name_len = load_le32(p), desc_len = load_le32(p + 4);
        uint64_t desc_at = 12 + align_up(name_len, 4), next = desc_at + align_up(desc_len, 4);

        if (desc_at + desc_len > len)
            return -ENOENT;
        if (load_le32(p + 8) == type && name_len == name_size && memcmp(p + 12, name, name_size) == 0) {
            *ret_desc = p + desc_at;
            *ret_desc_len = desc_len;
            return 0;
        }
        if (next > len)
            return -ENOENT; /* the last one, without its padding */
        p += next;
        len -= next;
    }
    return -ENOENT;
}
