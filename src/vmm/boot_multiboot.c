/* Multiboot 1 kernels: a header somewhere in the first 8 KiB of an ELF file or, with load addresses in the header
 * itself, of anything. The initrd becomes module 0. Spec: Multiboot 0.6.96, section 3. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "vmm/boot_priv.h"
#include "wire/elf.h"

#define MB_HEADER_MAGIC 0x1badb002U
#define MB_LOADER_MAGIC 0x2badb002U
#define MB_LOADER_NAME "Caisson"
enum { MB_WANT_PAGES = 0x1, MB_WANT_MEMORY = 0x2, MB_WANT_VIDEO = 0x4, MB_MANDATORY = 0xffff, MB_ADDRESSES = 0x10000 };
enum { MB_INFO_MEMORY = 0x1, MB_INFO_CMDLINE = 0x4, MB_INFO_MODULES = 0x8, MB_INFO_MAP = 0x40, MB_INFO_LOADER = 0x200 };
/* Places in the page at BOOT_INFO. */
enum { MB_INFO_SIZE = 120, MB_AT_MODULE = 128, MB_AT_NAME = 160, MB_AT_MAP = 192, MB_MAP_ENTRY = 24 };

/* Offset of the header in the file, or -ENOEXEC. */
static int multiboot_find(const struct boot_load *b)
{
    for (size_t at = 0; at + 12 <= b->head_len; at += 4) {
        uint32_t magic = load_le32(&b->head[at]), flags = load_le32(&b->head[at + 4]);

        if (magic == MB_HEADER_MAGIC && magic + flags + load_le32(&b->head[at + 8]) == 0)
            return (int)at;
    }
    return -ENOEXEC;
}

/* Load by the addresses in the header (the "a.out kludge"). */
static int multiboot_put_raw(struct boot_load *b, unsigned at, uint64_t *ret_entry)
{
    const uint8_t *h = &b->head[at];
    uint64_t header, load, load_end, bss_end, off, len, mem_len;
    int r;

    if (at + 32 > b->head_len)
        return err_set(b->e, ENOEXEC, "kernel %s: truncated Multiboot header; give the complete file with --kernel",
                       b->kernel.path);
    header = load_le32(h + 12);
    load = load_le32(h + 16);
    load_end = load_le32(h + 20);
    bss_end = load_le32(h + 24);
    /* The file position of load: the header's minus the distance of the addresses. */
    if (load > header || header - load > at)
        goto malformed;
    off = at - (header - load);
    if (load_end == 0)
        load_end = load + (b->kernel.size - off);
    if (load_end <= load)
        goto malformed;
    len = load_end - load;
    if (bss_end != 0 && bss_end < load_end)
        goto malformed;
    mem_len = bss_end ? bss_end - load : len;
    r = boot_read_guest(b, &b->kernel, off, load, len, mem_len);
    if (r < 0)
        return r;
    b->kernel_end = load + mem_len;
    *ret_entry = load_le32(h + 28);
    return 0;
malformed:
    return err_set(b->e, ENOEXEC,
                   "kernel %s: malformed: the load addresses of its Multiboot header contradict each other; give a "
                   "valid kernel with --kernel",
                   b->kernel.path);
}

static int multiboot_put(struct boot_load *b, unsigned at, uint64_t *ret_entry)
{
    struct elf_header elf;
    int r;

    if (load_le32(&b->head[at + 4]) & MB_ADDRESSES)
        return multiboot_put_raw(b, at, ret_entry);
    r = elf_header_parse(b->head, b->head_len, &elf);
    if (r == 0) {
        *ret_entry = elf.entry;
        return boot_put_elf(b, ret_entry);
    }
    return err_set(b->e, ENOEXEC,
                   "kernel %s: Multiboot header without load addresses in a file that is not ELF; give a valid "
                   "kernel with --kernel",
                   b->kernel.path);
}

static int multiboot_put_info(struct boot_load *b)
{
    const struct layout *l = b->config->layout;
    uint8_t page[MB_AT_MAP + MB_MAP_ENTRY * ARRAY_SIZE(l->ranges)] = { 0 };
    uint32_t flags = MB_INFO_MEMORY | MB_INFO_CMDLINE | MB_INFO_MAP | MB_INFO_LOADER;

    store_le32(page + 4, LAYOUT_EBDA / 1024);
    store_le32(page + 8, (uint32_t)((l->ram_low - LAYOUT_HIGH_MEM) / 1024));
    store_le32(page + 16, BOOT_CMDLINE);
    if (b->initrd.fd >= 0) {
        flags |= MB_INFO_MODULES;
        store_le32(page + 20, 1);
        store_le32(page + 24, BOOT_INFO + MB_AT_MODULE);
        store_le32(page + MB_AT_MODULE, (uint32_t)b->initrd_addr);
        store_le32(page + MB_AT_MODULE + 4, (uint32_t)(b->initrd_addr + b->initrd.size));
        store_le32(page + MB_AT_MODULE + 8, BOOT_INFO + MB_AT_NAME); /* its string: there is nothing better */
    }
    store_le32(page + 44, MB_MAP_ENTRY * l->n_ranges);
    store_le32(page + 48, BOOT_INFO + MB_AT_MAP);
    store_le32(page + 64, BOOT_INFO + MB_AT_NAME);
    memcpy(page + MB_AT_NAME, MB_LOADER_NAME, sizeof(MB_LOADER_NAME));
    for (unsigned i = 0; i < MIN(l->n_ranges, ARRAY_SIZE(l->ranges)); i++) {
        uint8_t *entry = page + MB_AT_MAP + MB_MAP_ENTRY * i;

        store_le32(entry, MB_MAP_ENTRY - 4); /* counts from behind itself */
        store_le64(entry + 4, l->ranges[i].base);
        store_le64(entry + 12, l->ranges[i].size);
        store_le32(entry + 20, l->ranges[i].type);
    }
    store_le32(page, flags);
    return boot_put(b, BOOT_INFO, page, sizeof(page));
}

int boot_multiboot_load(struct boot_load *b)
{
    int at = multiboot_find(b);
    uint64_t entry = 0;
    uint32_t unknown;
    int r;

    if (at < 0)
        return at;
    unknown = load_le32(&b->head[at + 4]) & MB_MANDATORY & ~(uint32_t)(MB_WANT_PAGES | MB_WANT_MEMORY | MB_WANT_VIDEO);
    if (unknown)
        return err_set(b->e, ENOTSUP,
                       "kernel %s: wants Multiboot features 0x%x, which do not exist here; give another kernel",
                       b->kernel.path, unknown);
    r = multiboot_put(b, (unsigned)at, &entry);
    if (r < 0)
        return r;
    if (entry < LAYOUT_HIGH_MEM || entry >= b->kernel_end)
        return err_set(b->e, ENOEXEC,
                       "kernel %s: malformed: its entry 0x%llx is not in what it loads; give a valid one",
                       b->kernel.path, (unsigned long long)entry);
    r = boot_put_initrd(b, LAYOUT_LOW_RAM_MAX);
    if (r == 0)
        r = boot_put_cmdline(b, BOOT_CMDLINE_MAX);
    if (r == 0)
        r = multiboot_put_info(b);
    if (r == 0)
        r = boot_state_protected(b, entry);
    if (r < 0)
        return r;
    b->state.kind = BOOT_MULTIBOOT;
    b->state.regs.rax = MB_LOADER_MAGIC;
    b->state.regs.rbx = BOOT_INFO;
    return 0;
}
