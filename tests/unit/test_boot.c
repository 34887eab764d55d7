/* vmm/boot: generated kernels of every format, good and malformed, and Debian's kernels where they are
 * at hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "vmm/boot.h"

#define MIB (1ULL << 20)

struct fixture {
    struct mem *mem;
    struct layout layout;
    uint8_t file[256 << 10];
    size_t len;
    size_t initrd_len; /* 0: none */
    const char *cmdline;
    struct boot_state state;
    struct err e;
};

static void set_ram(struct fixture *f, uint64_t bytes)
{
    mem_free(f->mem);
    assert_int_equal(layout_make(bytes, &f->layout), 0);
    assert_int_equal(mem_new(&f->mem), 0);
    assert_int_equal(mem_add_ram(f->mem, 0, f->layout.ram_low, false, NULL), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f)
        return -1;
    set_ram(f, 64 * MIB);
    f->cmdline = "console=ttyS0 quiet";
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    mem_free(f->mem);
    free(f);
    return 0;
}

static int file_of(const void *data, size_t len, size_t size)
{
    int fd = memfd_create("boot", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_true(write(fd, data, len) == (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static int load(struct fixture *f)
{
    struct boot_config c = { .kernel_path = "/k",
                             .initrd_fd = -1,
                             .initrd_path = "/i",
                             .cmdline = f->cmdline,
                             .layout = &f->layout,
                             .rsdp = 0xe0000 };
    int r;

    memset(&f->e, 0, sizeof(f->e));
    c.kernel_fd = file_of(f->file, f->len, f->len);
    if (f->initrd_len)
        c.initrd_fd = file_of("initrd!", 7, f->initrd_len);
    r = boot_load(f->mem, &c, &f->state, &f->e);
    close(c.kernel_fd);
    if (c.initrd_fd >= 0)
        close(c.initrd_fd);
    assert_true(r == 0 || (r < 0 && f->e.code == -r && f->e.text[0] && !strchr(f->e.text, '\n')));
    return r;
}

/* The load fails, and the message has all of these words. */
static void refused(struct fixture *f, int code, const char *word, const char *remedy)
{
    assert_int_equal(load(f), -code);
    if (!strstr(f->e.text, word) || !strstr(f->e.text, remedy))
        fail_msg("message \"%s\" lacks \"%s\" or \"%s\"", f->e.text, word, remedy);
}

static uint32_t guest32(struct fixture *f, uint64_t gpa)
{
    uint32_t v = 0;

    assert_int_equal(mem_read(f->mem, GPA(gpa), &v, 4), 0);
    return v;
}

static uint64_t guest64(struct fixture *f, uint64_t gpa)
{
    return guest32(f, gpa) | (uint64_t)guest32(f, gpa + 4) << 32;
}

/* A bzImage of protocol 2.15: 5 sectors of setup, 64 KiB of payload. */
static void make_bzimage(struct fixture *f)
{
    memset(f->file, 0, sizeof(f->file));
    f->len = 5 * 512 + 0x10000;
    memset(f->file + 5 * 512, 0xc3, 0x10000);
    f->file[0x1f1] = 4;
    store_le32(f->file + 0x1f4, 0x1000);
    store_le16(f->file + 0x1fe, 0xaa55);
    f->file[0x200] = 0xeb;
    f->file[0x201] = 0x6a;
    memcpy(f->file + 0x202, "HdrS", 4);
    store_le16(f->file + 0x206, 0x20f);
    f->file[0x211] = 1;
    store_le32(f->file + 0x22c, 0x7fffffff);
    store_le32(f->file + 0x230, 0x200000);
    f->file[0x234] = 1;
    store_le16(f->file + 0x236, 1);
    store_le32(f->file + 0x238, 2047);
    store_le64(f->file + 0x258, 0x1000000);
    store_le32(f->file + 0x260, 0x800000);
}

static void test_linux64(void **state)
{
    struct fixture *f = *state;
    char cmdline[32] = "";

    make_bzimage(f);
    f->initrd_len = 5000;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->state.kind, BOOT_LINUX64);
    assert_true(f->state.regs.rip == 0x1000200);
    assert_true(f->state.sregs.efer == 0x500 && f->state.sregs.cr0 == 0x80000011 && f->state.sregs.cr4 == 0x20);
    assert_true(f->state.sregs.cs.l && !f->state.sregs.cs.db && f->state.sregs.cs.selector == 0x10);
    assert_true(f->state.sregs.apic_base == 0xfee00900);
    assert_int_equal(guest32(f, 0x1000200), 0xc3c3c3c3);
    /* zero page */
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x202), 0x53726448);
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x1ec), 0); /* with the sentinel byte */
    assert_true(guest64(f, f->state.regs.rsi + 0x70) == 0xe0000);
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x21c), 5000);
    assert_true(guest32(f, f->state.regs.rsi + 0x218) == 64 * MIB - 8192);
    assert_int_equal(guest32(f, guest32(f, f->state.regs.rsi + 0x218)), 0x74696e69);
    assert_int_equal(mem_read(f->mem, GPA(guest32(f, f->state.regs.rsi + 0x228)), cmdline, sizeof(cmdline) - 1), 0);
    assert_string_equal(cmdline, f->cmdline);
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x1e8) & 0xff, f->layout.n_ranges);
    assert_true(guest64(f, f->state.regs.rsi + 0x2d0 + 40) == 0x100000);
    assert_true(guest64(f, f->state.regs.rsi + 0x2d0 + 48) == 63 * MIB);
    /* page tables: one to one up to 4 GiB; GDT: 64-bit code */
    assert_true(guest64(f, f->state.sregs.cr3) == f->state.sregs.cr3 + 0x1003);
    assert_true(guest64(f, f->state.sregs.cr3 + 0x1018) == f->state.sregs.cr3 + 0x5003);
    assert_true(guest64(f, f->state.sregs.cr3 + 0x5ff8) == 0xffe00083);
    assert_true(guest64(f, f->state.sregs.gdt.base + 0x10) == 0x00af9b000000ffff);
    assert_true(guest64(f, f->state.sregs.gdt.base + 0x18) == 0x00cf93000000ffff);
}

static void test_linux32(void **state)
{
    struct fixture *f = *state;

    make_bzimage(f);
    store_le16(f->file + 0x236, 0);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->state.kind, BOOT_LINUX32);
    assert_true(f->state.regs.rip == 0x1000000 && f->state.regs.rbx == 0);
    assert_true(f->state.sregs.cr0 == 0x11 && f->state.sregs.efer == 0 && f->state.sregs.cs.db);
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x218), 0);
}

static void test_linux_placement(void **state)
{
    struct fixture *f = *state;

    make_bzimage(f);
    set_ram(f, 16 * MIB); /* does not reach the preferred address */
    assert_int_equal(load(f), 0);
    assert_true(f->state.regs.rip == 0x200200);
    f->initrd_len = 5 * MIB;
    assert_int_equal(load(f), 0);
    f->initrd_len = 6 * MIB + 1;
    refused(f, EFBIG, "16 MiB", "--memory 17M");
    f->file[0x234] = 0; /* not relocatable */
    refused(f, EFBIG, "24 MiB", "--memory");
    make_bzimage(f);
    set_ram(f, 64 * MIB);
    store_le32(f->file + 0x22c, 0x19fffff); /* initrd below 26 MiB only */
    f->initrd_len = 4096;
    assert_int_equal(load(f), 0);
    assert_int_equal(guest32(f, f->state.regs.rsi + 0x218), 0x1a00000 - 4096);
    f->initrd_len = 4 * MIB;
    refused(f, EFBIG, "more than this kernel takes", "smaller");
}

static void test_linux_bad(void **state)
{
    struct fixture *f = *state;

    make_bzimage(f);
    f->len -= 0x100;
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_bzimage(f);
    f->len = 0x300;
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_bzimage(f);
    store_le32(f->file + 0x1f4, 0xffffffff);
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_bzimage(f);
    store_le32(f->file + 0x1f4, 0);
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_bzimage(f);
    store_le32(f->file + 0x260, 0xffffffff);
    refused(f, ENOEXEC, "wants memory", "link it lower");
    make_bzimage(f);
    f->file[0x234] = 0;
    for (uint64_t addr = 0; addr < 3; addr++) {
        store_le64(f->file + 0x258, addr == 0 ? 0x7000 : addr == 1 ? UINT64_MAX - 4 : 0xbfffffff);
        refused(f, ENOEXEC, "wants", "link it");
    }
    make_bzimage(f);
    store_le16(f->file + 0x206, 0x201);
    refused(f, ENOEXEC, "too old", "newer");
    make_bzimage(f);
    store_le32(f->file + 0x238, 10);
    refused(f, EINVAL, "command line has 19 bytes, this kernel takes 10", "--append");
    make_bzimage(f);
    f->len = 0x1000;
    memset(f->file, 'x', f->len);
    refused(f, ENOEXEC, "/k: not a Linux bzImage, PVH ELF or Multiboot image", "--kernel");
    f->len = 0;
    refused(f, ENOEXEC, "empty", "--kernel");
    f->len = 1;
    refused(f, ENOEXEC, "not a Linux bzImage", "--kernel");
}

/* An ELF64 with a PVH note and two segments. */
static void make_pvh(struct fixture *f)
{
    uint8_t *p = f->file;

    memset(f->file, 0, sizeof(f->file));
    f->len = 0x4000;
    memcpy(p, "\177ELF\2\1\1", 7);
    store_le16(p + 16, 2);
    store_le16(p + 18, 62);
    store_le64(p + 24, 0xffffffff81000000);
    store_le64(p + 32, 64);
    store_le16(p + 54, 56);
    store_le16(p + 56, 3);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *s = p + 64 + 56 * i;

        store_le32(s, i == 2 ? 4 : 1);
        store_le64(s + 8, i == 2 ? 0x800 : 0x1000 + 0x1000 * i);
        store_le64(s + 16, 0xffffffff81000000 + 0x10000 * i);
        store_le64(s + 24, 0x1000000 + 0x10000 * i);
        store_le64(s + 32, i == 2 ? 20 : 0x1000);
        store_le64(s + 40, i == 2 ? 20 : 0x2000);
    }
    memset(p + 0x1000, 0x11, 0x1000);
    memset(p + 0x2000, 0x22, 0x1000);
    store_le32(p + 0x800, 4);
    store_le32(p + 0x804, 4);
    store_le32(p + 0x808, 18);
    memcpy(p + 0x80c, "Xen", 4);
    store_le32(p + 0x810, 0x1000040);
}

static void test_pvh(void **state)
{
    struct fixture *f = *state;
    uint64_t info, map;

    make_pvh(f);
    memset(mem_ptr(f->mem, GPA(0x1000000), 0x20000), 0xee, 0x20000); /* so that zeroing shows */
    f->initrd_len = 100;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->state.kind, BOOT_PVH);
    assert_true(f->state.regs.rip == 0x1000040);
    assert_true(f->state.sregs.cr0 == 0x11 && f->state.sregs.cs.limit == 0xffffffff);
    assert_int_equal(guest32(f, 0x1000ffc), 0x11111111);
    assert_int_equal(guest32(f, 0x1001000), 0);
    assert_int_equal(guest32(f, 0x1010000), 0x22222222);
    assert_int_equal(guest32(f, 0x1011ffc), 0);
    info = f->state.regs.rbx;
    assert_int_equal(guest32(f, info), 0x336ec578);
    assert_int_equal(guest32(f, info + 4), 1);
    assert_int_equal(guest32(f, info + 12), 1);
    assert_true(guest64(f, guest64(f, info + 16) + 8) == 100);
    assert_int_equal(guest32(f, guest64(f, guest64(f, info + 16))), 0x74696e69);
    assert_int_equal(guest32(f, guest64(f, info + 24)), 0x736e6f63); /* "cons" */
    assert_true(guest64(f, info + 32) == 0xe0000);
    map = guest64(f, info + 40);
    assert_int_equal(guest32(f, info + 48), f->layout.n_ranges);
    assert_true(guest64(f, map + 48) == 0x100000 && guest32(f, map + 64) == 1);
}

static void test_elf_bad(void **state)
{
    struct fixture *f = *state;

    make_pvh(f);
    f->len = 0x2800;
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_pvh(f);
    f->len = 100;
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_pvh(f);
    f->len = 40;
    refused(f, ENOEXEC, "malformed", "--kernel");
    make_pvh(f);
    store_le64(f->file + 32, UINT64_MAX - 8); /* table at the end of the number line */
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_pvh(f);
    store_le64(f->file + 64 + 24, 0x1010000); /* both segments at one place */
    refused(f, ENOEXEC, "overlap", "--kernel");
    make_pvh(f);
    store_le64(f->file + 64 + 40, 0xfff); /* memory size below file size */
    refused(f, ENOEXEC, "larger in the file", "--kernel");
    make_pvh(f);
    store_le64(f->file + 64 + 40, UINT64_MAX);
    refused(f, ENOEXEC, "wants memory", "lower");
    make_pvh(f);
    store_le64(f->file + 64 + 24, 0x3fff000);
    refused(f, EFBIG, "64 MiB", "--memory");
    make_pvh(f);
    store_le64(f->file + 64 + 24, 0x9000); /* on top of our tables */
    refused(f, ENOEXEC, "below 1 MiB", "higher");
    make_pvh(f);
    store_le64(f->file + 64 + 8, UINT64_MAX);
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_pvh(f);
    store_le16(f->file + 56, 65);
    refused(f, ENOEXEC, "65 segments", "--kernel");
    make_pvh(f);
    store_le16(f->file + 18, 183); /* another machine */
    refused(f, ENOEXEC, "not for x86", "--kernel");
    make_pvh(f);
    store_le32(f->file + 0x810, 0x2000000); /* entry outside */
    refused(f, ENOEXEC, "entry", "valid");
    make_pvh(f);
    store_le32(f->file + 0x804, 0x7fffffff); /* note longer than its segment: no PVH kernel */
    refused(f, ENOEXEC, "not a Linux bzImage", "--kernel");
    make_pvh(f);
    store_le32(f->file + 64, 0); /* nothing to load but the second segment: the entry is before it */
    store_le32(f->file + 64 + 56, 0);
    refused(f, ENOEXEC, "without anything to load", "--kernel");
}

static void put_multiboot(uint8_t *at, uint32_t flags)
{
    store_le32(at, 0x1badb002);
    store_le32(at + 4, flags);
    store_le32(at + 8, 0U - 0x1badb002U - flags);
}

static void test_multiboot_elf(void **state)
{
    struct fixture *f = *state;
    uint64_t info;

    make_pvh(f);
    store_le32(f->file + 0x808, 17); /* not the PVH note */
    put_multiboot(f->file + 0x1004, 3);
    store_le64(f->file + 24, 0xffffffff81000010); /* virtual entry */
    f->initrd_len = 9000;
    assert_int_equal(load(f), 0);
    assert_int_equal(f->state.kind, BOOT_MULTIBOOT);
    assert_true(f->state.regs.rip == 0x1000010);
    assert_int_equal(f->state.regs.rax, 0x2badb002);
    info = f->state.regs.rbx;
    assert_int_equal(guest32(f, info), 0x1 | 0x4 | 0x8 | 0x40 | 0x200);
    assert_int_equal(guest32(f, info + 8), 63 * 1024);
    assert_int_equal(guest32(f, info + 20), 1);
    assert_int_equal(guest32(f, guest32(f, guest32(f, info + 24))), 0x74696e69);
    assert_int_equal(guest32(f, guest32(f, info + 24) + 4) - guest32(f, guest32(f, info + 24)), 9000);
    assert_int_equal(guest32(f, info + 44), 24 * f->layout.n_ranges);
    assert_int_equal(guest32(f, guest32(f, info + 48)), 20);
    assert_true(guest64(f, guest32(f, info + 48) + 48 + 4) == 0x100000);
    assert_int_equal(guest32(f, guest32(f, info + 64)), 0x73696143); /* "Cais" */
    put_multiboot(f->file + 0x1004, 8);
    refused(f, ENOTSUP, "features 0x8", "another kernel");
    put_multiboot(f->file + 0x1004, 3);
    f->file[0x100c] ^= 1; /* checksum */
    refused(f, ENOEXEC, "not a Linux bzImage", "--kernel");
}

static void make_multiboot_raw(struct fixture *f, uint32_t header, uint32_t load_addr, uint32_t load_end,
                               uint32_t bss_end, uint32_t entry)
{
    memset(f->file, 0x77, sizeof(f->file));
    f->len = 0x2000;
    put_multiboot(f->file + 0x40, 0x10003);
    store_le32(f->file + 0x4c, header);
    store_le32(f->file + 0x50, load_addr);
    store_le32(f->file + 0x54, load_end);
    store_le32(f->file + 0x58, bss_end);
    store_le32(f->file + 0x5c, entry);
}

static void test_multiboot_raw(void **state)
{
    struct fixture *f = *state;

    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0x103000, 0x100100);
    memset(mem_ptr(f->mem, GPA(0x100000), 0x10000), 0xee, 0x10000);
    assert_int_equal(load(f), 0);
    assert_true(f->state.regs.rip == 0x100100);
    assert_int_equal(guest32(f, 0x100020), 0x1badb002);
    assert_int_equal(guest32(f, 0x100ffc), 0x77777777);
    assert_int_equal(guest32(f, 0x101000), 0);
    assert_int_equal(guest32(f, 0x103000), 0xeeeeeeee);
    make_multiboot_raw(f, 0x100020, 0x100000, 0, 0, 0x100100); /* all of the file */
    memset(mem_ptr(f->mem, GPA(0x100000), 0x10000), 0xee, 0x10000);
    assert_int_equal(load(f), 0);
    assert_int_equal(guest32(f, 0x100000 + 0x2000 - 0x20 - 4), 0x77777777);
    assert_int_equal(guest32(f, 0x100000 + 0x2000 - 0x20), 0xeeeeeeee);
    make_multiboot_raw(f, 0x100060, 0x100000, 0x101000, 0, 0x100100); /* load lies before the file */
    refused(f, ENOEXEC, "contradict", "--kernel");
    make_multiboot_raw(f, 0x100020, 0x100040, 0x101000, 0, 0x100100);
    refused(f, ENOEXEC, "contradict", "--kernel");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x90000, 0, 0x100100);
    refused(f, ENOEXEC, "contradict", "--kernel");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0x100800, 0x100100);
    refused(f, ENOEXEC, "contradict", "--kernel");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x200000, 0, 0x100100);
    refused(f, ENOEXEC, "truncated", "--kernel");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0xffffffff, 0x100100);
    refused(f, ENOEXEC, "wants memory", "lower");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0, 0x101000);
    refused(f, ENOEXEC, "entry", "valid");
    make_multiboot_raw(f, 0x20, 0, 0x1000, 0, 0x100);
    refused(f, ENOEXEC, "below 1 MiB", "higher");
    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0, 0x100100);
    f->len = 0x50;
    refused(f, ENOEXEC, "truncated Multiboot header", "--kernel");
    put_multiboot(f->file + 0x40, 3);
    f->len = 0x2000;
    refused(f, ENOEXEC, "not ELF", "--kernel");
}

static void test_initrd_and_files(void **state)
{
    struct fixture *f = *state;
    struct boot_config c = { .kernel_path = "/k", .initrd_fd = -1, .layout = &f->layout };
    int pipes[2], fd;

    make_bzimage(f);
    f->cmdline = NULL;
    assert_int_equal(load(f), 0);
    assert_int_equal(guest32(f, 0x20000) & 0xff, 0);
    f->initrd_len = 300 * MIB;
    refused(f, EFBIG, "300 MiB do not fit behind the kernel in 64 MiB", "--memory 324M");
    f->initrd_len = 4096 * MIB;
    refused(f, EFBIG, "/i: 4097 MiB are more than this kernel takes", "smaller");
    assert_int_equal(pipe(pipes), 0);
    c.kernel_fd = pipes[0];
    assert_int_equal(boot_load(f->mem, &c, &f->state, &f->e), -EINVAL);
    assert_non_null(strstr(f->e.text, "not a regular file"));
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(boot_open("/nonexistent/vmlinuz", "kernel", &fd, &f->e), -ENOENT);
    assert_non_null(strstr(f->e.text, "kernel /nonexistent/vmlinuz: No such file or directory; "));
    assert_int_equal(boot_open("/", "initrd", &fd, &f->e), -EINVAL);
    assert_non_null(strstr(f->e.text, "--initrd"));
    assert_int_equal(boot_open("/dev/zero", "kernel", &fd, &f->e), -EINVAL);
    c.kernel_fd = file_of("", 0, 0);
    c.initrd_fd = file_of("", 0, 0);
    assert_int_equal(boot_load(f->mem, &c, &f->state, NULL), -ENOEXEC);
    close(c.kernel_fd);
    c.kernel_fd = file_of(f->file, f->len, f->len);
    assert_int_equal(boot_load(f->mem, &c, &f->state, &f->e), -EINVAL);
    assert_non_null(strstr(f->e.text, "initrd (no name): empty"));
    close(c.kernel_fd);
    close(c.initrd_fd);
}

/* Every byte of a good header, damaged one at a time, is loaded or refused, never anything else (ASan watches). */
static void test_damage(void **state)
{
    struct fixture *f = *state;

    f->initrd_len = 4096;
    for (unsigned kind = 0; kind < 3; kind++) {
        for (unsigned at = 0; at < 0x290; at++) {
            static const uint8_t values[] = { 0, 0x7f, 0xff };

            if (kind == 0 && at < 0x1f0)
                continue;
            for (unsigned v = 0; v < ARRAY_SIZE(values); v++) {
                if (kind == 0)
                    make_bzimage(f);
                else if (kind == 1)
                    make_pvh(f);
                else
                    make_multiboot_raw(f, 0x100020, 0x100000, 0x101000, 0x103000, 0x100100);
                f->file[at] = values[v];
                (void)load(f);
            }
        }
    }
}

/* Debian's own kernels, as tools/guest leaves them in the cache. */
static void test_real_kernels(void **state)
{
    struct fixture *f = *state;
    struct boot_config c = { .initrd_fd = -1, .cmdline = "console=ttyS0", .layout = &f->layout, .rsdp = 0xe0000 };
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    glob_t found = { 0 };
    char pattern[512];

    snprintf(pattern, sizeof(pattern), "%s%s/caisson/guest/linux-image-*/vmlinuz",
             cache  ? cache
             : home ? home
                    : "",
             cache ? "" : "/.cache");
    if (glob(pattern, 0, NULL, &found) != 0) {
        globfree(&found);
        skip();
    }
    set_ram(f, 512 * MIB);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        enum boot_kind kind = strstr(found.gl_pathv[i], "-686") ? BOOT_LINUX32 : BOOT_LINUX64;

        c.kernel_path = found.gl_pathv[i];
        assert_int_equal(boot_open(c.kernel_path, "kernel", &c.kernel_fd, &f->e), 0);
        if (boot_load(f->mem, &c, &f->state, &f->e) < 0)
            fail_msg("%s", f->e.text);
        assert_int_equal(f->state.kind, kind);
        assert_true(guest32(f, f->state.regs.rip) != 0);
        close(c.kernel_fd);
    }
    globfree(&found);
}

static void test_layout(void **state)
{
    struct layout l;

    assert_int_equal(layout_make(0, &l), -ERANGE);
    assert_int_equal(layout_make(LAYOUT_RAM_MIN - 4096, &l), -ERANGE);
    assert_int_equal(layout_make(LAYOUT_RAM_MAX + 4096, &l), -ERANGE);
    assert_int_equal(layout_make(LAYOUT_RAM_MIN + 1, &l), -EINVAL);
    for (uint64_t ram = LAYOUT_RAM_MIN; ram <= LAYOUT_RAM_MAX; ram *= 2) {
        uint64_t sum = 0, end = 0;

        assert_int_equal(layout_make(ram, &l), 0);
        assert_true(l.ram_low + l.ram_high == ram);
        for (unsigned i = 0; i < l.n_ranges; i++) {
            assert_true(l.ranges[i].base >= end && l.ranges[i].size > 0);
            end = l.ranges[i].base + l.ranges[i].size;
            sum += l.ranges[i].type == LAYOUT_RAM ? l.ranges[i].size : 0;
        }
        assert_true(sum == ram - (LAYOUT_HIGH_MEM - LAYOUT_EBDA));
        assert_true(l.window64_base >= end && l.window64_base % LAYOUT_WINDOW64_SIZE == 0);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_linux64), TEST(test_linux32),      TEST(test_linux_placement),  TEST(test_linux_bad),
        TEST(test_pvh),     TEST(test_elf_bad),      TEST(test_multiboot_elf),    TEST(test_multiboot_raw),
        TEST(test_damage),  TEST(test_real_kernels), TEST(test_initrd_and_files), TEST(test_layout),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
