/* ELF kernels: loading of segments for all ELF formats, and the PVH entry. A PVH kernel names its 32-bit physical entry
 * point in a note; it gets a pointer to a start info structure in EBX. Spec: Xen docs/misc/pvh.pandoc,
 * xen/include/public/arch-x86/hvm/start_info.h. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "vmm/boot_priv.h"
#include "wire/elf.h"

#define ELF_SEGMENTS_MAX 64U
#define ELF_NOTES_MAX 65536U
#define PVH_NOTE_PHYS32_ENTRY 18
#define PVH_MAGIC 0x336ec578
enum { PVH_INFO_SIZE = 56, PVH_MODULE_SIZE = 32, PVH_RANGE_SIZE = 24 };

struct elf_table {
    struct elf_header header;
    unsigned n;
    struct elf_segment segments[ELF_SEGMENTS_MAX];
};

static int boot_elf_table(struct boot_load *b, struct elf_table *ret)
{
    struct elf_table t = { 0 };
    int r = elf_header_parse(b->head, b->head_len, &t.header);

    if (r == -ENOEXEC)
        return r;
    if (r < 0 || (t.header.machine != ELF_MACHINE_386 && t.header.machine != ELF_MACHINE_X86_64))
        return err_set(b->e, ENOEXEC, "kernel %s: ELF, but malformed or not for x86; give an x86 kernel with --kernel",
                       b->kernel.path);
    if (t.header.n_segments == 0 || t.header.n_segments > ELF_SEGMENTS_MAX)
        return err_set(b->e, ENOEXEC,
                       "kernel %s: ELF with %u segments, 1 to %u can be loaded; give an executable with --kernel",
                       b->kernel.path, t.header.n_segments, ELF_SEGMENTS_MAX);
    for (; t.n < t.header.n_segments; t.n++) {
        uint8_t bytes[ELF_SEGMENT_MAX];
        uint64_t at;

        if (__builtin_add_overflow(t.header.segments_off, (uint64_t)t.n * t.header.segment_size, &at))
            at = UINT64_MAX;
        r = boot_read(b, &b->kernel, at, bytes, t.header.is_64 ? 56 : 32);
        if (r < 0)
            return r;
        elf_segment_parse(&t.header, bytes, &t.segments[t.n]);
    }
    *ret = t;
    return 0;
}

static bool boot_elf_overlap(const struct elf_table *t, unsigned i)
{
    const struct elf_segment *s = &t->segments[i];

    for (unsigned j = 0; j < i; j++) {
        const struct elf_segment *o = &t->segments[j];

        /* Both passed the range check of boot_read_guest, or it will refuse the later one: no overflow that matters. */
        if (o->type == ELF_PT_LOAD && s->paddr < o->paddr + o->mem_size && o->paddr < s->paddr + s->mem_size)
            return true;
    }
    return false;
}

int boot_put_elf(struct boot_load *b, uint64_t *entry_virtual)
{
    struct elf_table t;
    bool translated = false;
    int r = boot_elf_table(b, &t);

    if (r < 0)
        return r;
    for (unsigned i = 0; i < t.n; i++) {
        const struct elf_segment *s = &t.segments[i];

        if (s->type != ELF_PT_LOAD || s->mem_size == 0)
            continue;
        if (boot_elf_overlap(&t, i))
            return err_set(b->e, ENOEXEC,
                           "kernel %s: malformed: its segments overlap in memory; give a valid ELF with --kernel",
                           b->kernel.path);
        r = boot_read_guest(b, &b->kernel, s->offset, s->paddr, s->file_size, s->mem_size);
        if (r < 0)
            return r;
        b->kernel_end = MAX(b->kernel_end, s->paddr + s->mem_size);
        if (entry_virtual && !translated && *entry_virtual - s->vaddr < s->mem_size) {
            *entry_virtual = *entry_virtual - s->vaddr + s->paddr;
            translated = true;
        }
    }
    if (b->kernel_end == 0)
        return err_set(b->e, ENOEXEC, "kernel %s: ELF without anything to load; give an executable with --kernel",
                       b->kernel.path);
    return 0;
}

/* The entry point that a PVH note names. -ENOEXEC without b->e: there is none. */
static int pvh_find_entry(struct boot_load *b, uint64_t *ret_entry)
{
    struct elf_table t;
    int r = boot_elf_table(b, &t);

    if (r < 0)
        return r;
    for (unsigned i = 0; i < t.n; i++) {
        const struct elf_segment *s = &t.segments[i];
        AUTO_FREE uint8_t *notes = NULL;
        const void *desc;
        size_t len;

        if (s->type != ELF_PT_NOTE || s->file_size == 0 || s->file_size > ELF_NOTES_MAX)
            continue;
        notes = malloc(s->file_size);
        if (!notes)
            return err_set(b->e, ENOMEM, "kernel %s: out of memory", b->kernel.path);
        r = boot_read(b, &b->kernel, s->offset, notes, s->file_size);
        if (r < 0)
            return r;
        if (elf_note_find(notes, s->file_size, "Xen", PVH_NOTE_PHYS32_ENTRY, &desc, &len) < 0)
            continue;
        if (len != 4 && len != 8)
            return err_set(b->e, ENOEXEC,
                           "kernel %s: malformed: its PVH entry note has %zu bytes; give a valid kernel with --kernel",
                           b->kernel.path, len);
        *ret_entry = len == 4 ? load_le32(desc) : load_le64(desc);
        return 0;
    }
    return -ENOEXEC;
}

static int pvh_put_info(struct boot_load *b)
{
    const struct layout *l = b->config->layout;
    uint8_t page[PVH_INFO_SIZE + PVH_MODULE_SIZE + PVH_RANGE_SIZE * ARRAY_SIZE(l->ranges)] = { 0 };
    uint8_t *module = page + PVH_INFO_SIZE, *range = module + PVH_MODULE_SIZE;

    store_le32(page, PVH_MAGIC);
    store_le32(page + 4, 1); /* version: with a memory map */
    if (b->initrd.fd >= 0) {
        store_le32(page + 12, 1);
        store_le64(page + 16, BOOT_INFO + PVH_INFO_SIZE);
        store_le64(module, b->initrd_addr);
        store_le64(module + 8, b->initrd.size);
    }
    store_le64(page + 24, BOOT_CMDLINE);
    store_le64(page + 32, b->config->rsdp);
    store_le64(page + 40, BOOT_INFO + PVH_INFO_SIZE + PVH_MODULE_SIZE);
    store_le32(page + 48, l->n_ranges);
    for (unsigned i = 0; i < l->n_ranges; i++, range += PVH_RANGE_SIZE) {
        store_le64(range, l->ranges[i].base);
        store_le64(range + 8, l->ranges[i].size);
        store_le32(range + 16, l->ranges[i].type);
    }
    return boot_put(b, BOOT_INFO, page, sizeof(page));
}

int boot_pvh_load(struct boot_load *b)
{
    uint64_t entry = 0;
    int r = pvh_find_entry(b, &entry);

    if (r < 0)
        return r;
    r = boot_put_elf(b, NULL);
    if (r < 0)
        return r;
    if (entry < LAYOUT_HIGH_MEM || entry >= b->kernel_end)
        return err_set(b->e, ENOEXEC,
                       "kernel %s: malformed: its PVH entry 0x%llx is not in what it loads; give a valid one",
                       b->kernel.path, (unsigned long long)entry);
    r = boot_put_initrd(b, LAYOUT_LOW_RAM_MAX);
    if (r == 0)
        r = boot_put_cmdline(b, BOOT_CMDLINE_MAX);
    if (r == 0)
        r = pvh_put_info(b);
    if (r == 0)
        r = boot_state_protected(b, entry);
    if (r < 0)
        return r;
    b->state.kind = BOOT_PVH;
    b->state.regs.rbx = BOOT_INFO;
    return 0;
}
