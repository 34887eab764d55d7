/* Linux bzImage. The file is a real-mode part, which is skipped but for its setup header, and a payload, which unpacks
 * itself. Spec: Linux Documentation/arch/x86/boot.rst, zero-page.rst. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "vmm/boot_priv.h"

/* Offsets in the file, which are also those in the zero page ("boot_params"). */
enum {
    ZP_RSDP = 0x070,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_HEADER = 0x1f1, /* setup_sects */
    ZP_SYSSIZE = 0x1f4,
    ZP_VID_MODE = 0x1fa,
    ZP_BOOT_FLAG = 0x1fe,
    ZP_JUMP = 0x200,
    ZP_MAGIC = 0x202,
    ZP_VERSION = 0x206,
    ZP_LOADER_TYPE = 0x210,
    ZP_LOADFLAGS = 0x211,
    ZP_RAMDISK_IMAGE = 0x218,
    ZP_RAMDISK_SIZE = 0x21c,
    ZP_CMD_LINE_PTR = 0x228,
    ZP_INITRD_ADDR_MAX = 0x22c,
    ZP_KERNEL_ALIGNMENT = 0x230,
    ZP_RELOCATABLE = 0x234,
    ZP_XLOADFLAGS = 0x236,
    ZP_CMDLINE_SIZE = 0x238,
    ZP_PREF_ADDRESS = 0x258,
    ZP_INIT_SIZE = 0x260,
    ZP_HEADER_END = 0x290, /* where the zero page needs the space for other things */
    ZP_E820_TABLE = 0x2d0,
    ZP_SIZE = 0x1000,
};
#define LINUX_MAGIC 0x53726448 /* "HdrS" */
#define LINUX_LOADED_HIGH 0x01
#define LINUX_XLF_KERNEL_64 0x01
#define LINUX_ENTRY64 0x200

struct linux_header {
    unsigned version;
    uint64_t setup_bytes, payload_bytes;
    uint64_t load_addr, memory_bytes; /* memory_bytes: from load_addr, with the room to unpack */
    uint64_t initrd_limit, cmdline_max;
    bool entry64;
};

/* Where to put the kernel: its preferred address where RAM reaches that far, else the lowest that it can stand. */
static void linux_place(const struct boot_load *b, struct linux_header *h)
{
    const uint8_t *head = b->head;
    uint64_t preferred = LAYOUT_HIGH_MEM, align = 0;
    bool relocatable = h->version >= 0x205 && head[ZP_RELOCATABLE];

    h->memory_bytes = h->payload_bytes;
    if (h->version >= 0x20a) {
        preferred = load_le64(&head[ZP_PREF_ADDRESS]);
        h->memory_bytes = MAX(h->payload_bytes, (uint64_t)load_le32(&head[ZP_INIT_SIZE]));
    }
    if (relocatable)
        align = load_le32(&head[ZP_KERNEL_ALIGNMENT]);
    h->load_addr = preferred;
    if (relocatable && is_pow2(align) &&
        (preferred < LAYOUT_HIGH_MEM || preferred > b->config->layout->ram_low ||
         h->memory_bytes > b->config->layout->ram_low - preferred))
        h->load_addr = align_up(LAYOUT_HIGH_MEM, align);
}

static int linux_parse(struct boot_load *b, struct linux_header *ret)
{
    const uint8_t *head = b->head;
    struct linux_header h = { 0 };
    unsigned sectors = head[ZP_HEADER] ? head[ZP_HEADER] : 4;

    if (b->head_len < ZP_HEADER_END || load_le32(&head[ZP_MAGIC]) != LINUX_MAGIC ||
        load_le16(&head[ZP_BOOT_FLAG]) != 0xaa55)
        return -ENOEXEC;
    h.version = load_le16(&head[ZP_VERSION]);
    if (h.version < 0x202 || !(head[ZP_LOADFLAGS] & LINUX_LOADED_HIGH))
        return err_set(b->e, ENOEXEC,
                       "kernel %s: Linux boot protocol %u.%02u without high loading is too old; give a newer kernel",
                       b->kernel.path, h.version >> 8, h.version & 0xff);
    h.setup_bytes = (sectors + 1) * 512ULL;
    h.payload_bytes = load_le32(&head[ZP_SYSSIZE]) * 16ULL;
    if (h.version < 0x204)
        h.payload_bytes &= 0xffff0; /* the field has 16 bits there */
    /* syssize counts whole paragraphs; the last may be cut. */
    if (h.payload_bytes == 0 || h.setup_bytes >= b->kernel.size ||
        h.payload_bytes > b->kernel.size - h.setup_bytes + 15)
        return err_set(b->e, ENOEXEC,
                       "kernel %s: truncated: the header promises %llu bytes, the file has %llu; give the complete "
                       "file with --kernel",
                       b->kernel.path, (unsigned long long)(h.setup_bytes + h.payload_bytes),
                       (unsigned long long)b->kernel.size);
    h.payload_bytes = MIN(h.payload_bytes, b->kernel.size - h.setup_bytes);
    h.initrd_limit = h.version >= 0x203 ? load_le32(&head[ZP_INITRD_ADDR_MAX]) + 1ULL : 0x38000000;
    h.cmdline_max = h.version >= 0x206 ? load_le32(&head[ZP_CMDLINE_SIZE]) : 255;
    h.entry64 = h.version >= 0x20c && load_le16(&head[ZP_XLOADFLAGS]) & LINUX_XLF_KERNEL_64;
    linux_place(b, &h);
    *ret = h;
    return 0;
}

static int linux_put_zero_page(struct boot_load *b, const struct linux_header *h)
{
    uint8_t page[ZP_SIZE] = { 0 };
    const struct layout *l = b->config->layout;
    /* The jump's displacement tells where the header ends. */
    size_t end = MIN((size_t)ZP_MAGIC + b->head[ZP_JUMP + 1], (size_t)ZP_HEADER_END);

    memcpy(&page[ZP_HEADER], &b->head[ZP_HEADER], MAX(end, (size_t)ZP_MAGIC) - ZP_HEADER);
    page[ZP_LOADER_TYPE] = 0xff;            /* a loader without a number of its own */
    store_le16(&page[ZP_VID_MODE], 0xffff); /* "normal" */
    store_le32(&page[ZP_CMD_LINE_PTR], BOOT_CMDLINE);
    if (b->initrd.fd >= 0) {
        store_le32(&page[ZP_RAMDISK_IMAGE], (uint32_t)b->initrd_addr);
        store_le32(&page[ZP_RAMDISK_SIZE], (uint32_t)b->initrd.size);
    }
    if (h->version >= 0x20e)
        store_le64(&page[ZP_RSDP], b->config->rsdp);
    page[ZP_E820_ENTRIES] = (uint8_t)l->n_ranges;
    for (unsigned i = 0; i < l->n_ranges; i++) {
        uint8_t *entry = &page[ZP_E820_TABLE + 20 * i];

        store_le64(entry, l->ranges[i].base);
        store_le64(entry + 8, l->ranges[i].size);
        store_le32(entry + 16, l->ranges[i].type);
    }
    return boot_put(b, BOOT_ZERO_PAGE, page, sizeof(page));
}

int boot_linux_load(struct boot_load *b)
{
    struct linux_header h = { 0 };
    int r = linux_parse(b, &h);

    if (r < 0)
        return r;
    r = boot_read_guest(b, &b->kernel, h.setup_bytes, h.load_addr, h.payload_bytes, h.memory_bytes);
    if (r < 0)
        return r;
    b->kernel_end = h.load_addr + h.memory_bytes;
    r = boot_put_initrd(b, h.initrd_limit);
    if (r == 0)
        r = boot_put_cmdline(b, h.cmdline_max);
    if (r == 0)
        r = linux_put_zero_page(b, &h);
    if (r == 0)
        r = h.entry64 ? boot_state_long(b, h.load_addr + LINUX_ENTRY64) : boot_state_protected(b, h.load_addr);
    if (r < 0)
        return r;
    b->state.kind = h.entry64 ? BOOT_LINUX64 : BOOT_LINUX32;
    b->state.regs.rsi = BOOT_ZERO_PAGE;
    return 0;
}
