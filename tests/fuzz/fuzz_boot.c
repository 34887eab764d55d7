/* The boot loaders with an arbitrary kernel file: it is loaded or refused with a text, never more. Input: one byte of
 * options, then the file. */
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "vmm/boot.h"

#define RAM_SIZE (64ULL << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct layout layout;
    struct boot_state state;
    struct boot_config config = {
        .kernel_path = "kernel", .initrd_path = "initrd", .initrd_fd = -1, .layout = &layout
    };
    struct mem *m = NULL;
    struct err e = { 0 };
    AUTO_FD int kernel = memfd_create("kernel", MFD_CLOEXEC);

    if (len < 1 || kernel < 0 || write(kernel, data + 1, len - 1) != (ssize_t)(len - 1))
        return 0;
    CHECK(layout_make(RAM_SIZE, &layout) == 0);
    CHECK(mem_new(&m) == 0);
    CHECK(mem_add_ram(m, 0, RAM_SIZE, false, NULL) == 0);
    config.kernel_fd = kernel;
    config.cmdline = data[0] & 1 ? "console=ttyS0" : NULL;
    if (data[0] & 2)
        config.initrd_fd = kernel;
    if (boot_load(m, &config, &state, &e) < 0)
        CHECK(e.code != 0 && e.text[0] != '\0');
    mem_free(m);
    return 0;
}
