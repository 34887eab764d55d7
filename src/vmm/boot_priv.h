/* Shared by the boot loaders of one kernel format each; see boot.h. */
#ifndef VMM_BOOT_PRIV_H
#define VMM_BOOT_PRIV_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/boot.h"

/* What the loaders put below 1 MiB. */
enum {
    BOOT_GDT = 0x500,
    BOOT_INFO = 0x6000, /* hvm_start_info or Multiboot information, with their tables; one page */
    BOOT_ZERO_PAGE = 0x7000,
    BOOT_STACK = 0x8ff0,
    BOOT_PAGE_TABLES = 0x9000, /* 6 pages */
    BOOT_CMDLINE = 0x20000,
    BOOT_CMDLINE_MAX = 0x10000, /* with its NUL */
};

/* Enough for the setup header, an ELF header and the place where a Multiboot header must be. */
#define BOOT_HEAD_MAX 8192U

struct boot_file {
    int fd;
    const char *what, *path;
    uint64_t size;
};

/* One load in progress. */
struct boot_load {
    struct mem *mem;
    const struct boot_config *config;
    struct err *e;
    struct boot_file kernel, initrd; /* initrd.fd < 0: none */
    uint8_t head[BOOT_HEAD_MAX];     /* the kernel file's first bytes, zero-filled */
    size_t head_len;
    uint64_t kernel_end; /* the first byte behind the kernel in memory, with what it needs to unpack itself */
    uint64_t initrd_addr;
    struct boot_state state;
};

/* Formats: 0, -errno with b->e set, or -ENOEXEC without b->e where the file is not of this format. */
int boot_linux_load(struct boot_load *b);
int boot_pvh_load(struct boot_load *b);
int boot_multiboot_load(struct boot_load *b);

/* Read exactly len bytes of f at off. */
int boot_read(struct boot_load *b, const struct boot_file *f, uint64_t off, void *to, size_t len);
/* The same into guest memory, followed by mem_len - len zero bytes. Fails unless all of it is RAM below 4 GiB and at or
 * above 1 MiB. */
int boot_read_guest(struct boot_load *b, const struct boot_file *f, uint64_t off, uint64_t gpa, uint64_t len,
                    uint64_t mem_len);
/* Store loader data in low memory. */
int boot_put(struct boot_load *b, uint64_t gpa, const void *data, size_t len);
/* Place the initrd (if any) as high as possible below limit and behind kernel_end, and read it. */
int boot_put_initrd(struct boot_load *b, uint64_t limit);
/* Store the command line; max: bytes without NUL that this kernel takes. */
int boot_put_cmdline(struct boot_load *b, uint64_t max);
/* Load the PT_LOAD segments of an ELF kernel and set kernel_end; *entry_virtual (may be NULL) is turned from a virtual
 * into a physical address where it lies in a segment. -ENOEXEC without b->e: no ELF file. */
int boot_put_elf(struct boot_load *b, uint64_t *entry_virtual);

/* Start states: flat 32-bit protected mode without paging, and 64-bit mode with the first 4 GiB mapped one to one. */
int boot_state_protected(struct boot_load *b, uint64_t entry);
int boot_state_long(struct boot_load *b, uint64_t entry);

#endif
