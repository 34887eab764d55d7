/* Fuzz target: a hostile kernel file through every boot loader, and the ELF note parser. */
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot.h"
#include "wire/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(mem) struct mem *m = NULL;
    AUTO_FD int fd = memfd_create("fuzz", MFD_CLOEXEC);
    struct layout layout;
    struct boot_config c = { .kernel_fd = fd, .kernel_path = "k", .initrd_fd = fd, .cmdline = "a", .layout = &layout };
    struct boot_state state;
    const void *desc;
    size_t len;

    (void)!elf_note_find(data, size, "Xen", 18, &desc, &len);
    if (fd >= 0 && write(fd, data, size) == (ssize_t)size && layout_make(32 << 20, &layout) == 0 && mem_new(&m) == 0 &&
        mem_add_ram(m, 0, layout.ram_low, false, NULL) == 0)
        (void)!boot_load(m, &c, &state, NULL);
    return 0;
}
