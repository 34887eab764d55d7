/* ELF headers of little-endian executables, 32 and 64 bits, from bytes that nobody vouches for. Pure: the caller reads
 * the file. Sizes and offsets are returned as they stand there; whoever uses them checks them against file and memory.
 * Spec: System V ABI, "Object Files". */
#ifndef WIRE_ELF_H
#define WIRE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

#define ELF_HEADER_MAX 64
#define ELF_SEGMENT_MAX 56
enum { ELF_PT_LOAD = 1, ELF_PT_NOTE = 4 };
enum { ELF_MACHINE_386 = 3, ELF_MACHINE_X86_64 = 62 };

struct elf_header {
    bool is_64;
    uint16_t type, machine;
    uint64_t entry;        /* virtual address */
    uint64_t segments_off; /* of the program header table in the file */
    uint16_t segment_size; /* bytes for each entry, at least what elf_segment_parse needs */
    uint16_t n_segments;
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, file_size, mem_size, align;
};

/* data: the first len bytes of the file. -ENOEXEC: no ELF file; -EBADMSG: an ELF file, but truncated, big-endian or
 * with impossible header sizes. */
int elf_header_parse(const void *data, size_t len, struct elf_header *ret_header) MUST_USE;
/* data: the h->segment_size bytes of one program header. */
void elf_segment_parse(const struct elf_header *h, const void *data, struct elf_segment *ret_segment);
/* Find a note by owner name and type in the bytes of a PT_NOTE segment. *ret_desc points into data. -ENOENT: not there,
 * or the notes before it are malformed. */
int elf_note_find(const void *data, size_t len, const char *name, uint32_t type, const void **ret_desc,
                  size_t *ret_desc_len) MUST_USE;

#endif
