/* Direct kernel boot: files, format choice, placement of initrd and command line. */
#include "vmm/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "vmm/boot_priv.h"

#define MIB (1ULL << 20)

int boot_open(const char *path, const char *what, int *ret_fd, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return err_set(e, errno, "%s %s: %s; give a readable file with --%s", what, path, strerror(errno), what);
    if (fstat(fd, &st) < 0)
        return err_set(e, errno, "%s %s: %s", what, path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(e, EINVAL, "%s %s: not a regular file; give a file with --%s", what, path, what);
    *ret_fd = STEAL_FD(fd);
    return 0;
}

int boot_read(struct boot_load *b, const struct boot_file *f, uint64_t off, void *to, size_t len)
{
    int r;

    if (off > f->size || len > f->size - off)
        return err_set(b->e, ENOEXEC, "%s %s: truncated: %zu bytes are missing; give the complete file with --%s",
                       f->what, f->path, (size_t)(len - (off > f->size ? 0 : f->size - off)), f->what);
    r = fd_pread_all(f->fd, to, len, off);
    if (r == -EBADMSG)
        return err_set(b->e, EIO, "%s %s: the file shrank while it was read; start again", f->what, f->path);
    return r == 0 ? 0 : err_set(b->e, -r, "%s %s: cannot read: %s", f->what, f->path, strerror(-r));
}

int boot_read_guest(struct boot_load *b, const struct boot_file *f, uint64_t off, uint64_t gpa, uint64_t len,
                    uint64_t mem_len)
{
    uint64_t ram = b->config->layout->ram_low;
    uint8_t *host;
    int r;

    if (len > mem_len)
        return err_set(b->e, ENOEXEC,
                       "%s %s: malformed: a part is larger in the file than in memory; give a valid one with --%s",
                       f->what, f->path, f->what);
    if (gpa < LAYOUT_HIGH_MEM)
        return err_set(b->e, ENOEXEC, "%s %s: wants to be at 0x%llx, but memory below 1 MiB is taken; link it higher",
                       f->what, f->path, (unsigned long long)gpa);
    if (gpa > LAYOUT_LOW_RAM_MAX || mem_len > LAYOUT_LOW_RAM_MAX - gpa)
        return err_set(b->e, ENOEXEC,
                       "%s %s: wants memory at 0x%llx (%llu bytes), above what a kernel may use; link it lower",
                       f->what, f->path, (unsigned long long)gpa, (unsigned long long)mem_len);
    host = gpa + mem_len <= ram ? mem_ptr(b->mem, GPA(gpa), mem_len) : NULL;
    if (!host)
        return err_set(
            b->e, EFBIG, "%s %s: needs memory up to %llu MiB, but the guest has %llu MiB; give more with --memory",
            f->what, f->path, (unsigned long long)((gpa + mem_len + MIB - 1) / MIB), (unsigned long long)(ram / MIB));
    r = boot_read(b, f, off, host, len);
    if (r < 0)
        return r;
    memset(host + len, 0, mem_len - len);
    mem_mark_written(b->mem, GPA(gpa), mem_len);
    return 0;
}

int boot_put(struct boot_load *b, uint64_t gpa, const void *data, size_t len)
{
    int r = mem_write(b->mem, GPA(gpa), data, len);

    if (r < 0)
        return err_set(b->e, -r, "guest memory: no RAM at 0x%llx for the kernel's parameters; give more with --memory",
                       (unsigned long long)gpa);
    return 0;
}

int boot_put_initrd(struct boot_load *b, uint64_t limit)
{
    const struct boot_file *f = &b->initrd;
    uint64_t ram = b->config->layout->ram_low, top = MIN(limit, ram), need, low;

    if (f->fd < 0)
        return 0;
    if (f->size == 0)
        return err_set(b->e, EINVAL, "initrd %s: empty; give another with --initrd or none", f->path);
    low = align_up(b->kernel_end, 4096);
    if (f->size <= top && align_down(top - f->size, 4096) >= low) {
        b->initrd_addr = align_down(top - f->size, 4096);
        return boot_read_guest(b, f, 0, b->initrd_addr, f->size, f->size);
    }
    if (f->size > UINT32_MAX || f->size + low > MIN(limit, LAYOUT_LOW_RAM_MAX))
        return err_set(
            b->e, EFBIG, "initrd %s: %llu MiB are more than this kernel takes (%llu MiB); give a smaller one", f->path,
            (unsigned long long)(f->size / MIB + 1),
            (unsigned long long)((MIN(limit, LAYOUT_LOW_RAM_MAX) - MIN(low, MIN(limit, LAYOUT_LOW_RAM_MAX))) / MIB));
    need = (align_up(f->size, 4096) + low + MIB - 1) / MIB;
    return err_set(
        b->e, EFBIG,
        "initrd %s: its %llu MiB do not fit behind the kernel in %llu MiB of guest memory; give --memory %lluM or more",
        f->path, (unsigned long long)((f->size + MIB - 1) / MIB), (unsigned long long)(ram / MIB),
        (unsigned long long)need);
}

int boot_put_cmdline(struct boot_load *b, uint64_t max)
{
    const char *cmdline = b->config->cmdline ? b->config->cmdline : "";
    size_t len = strlen(cmdline);

    max = MIN(max, (uint64_t)BOOT_CMDLINE_MAX - 1);
    if (len > max)
        return err_set(b->e, EINVAL,
                       "kernel %s: the command line has %zu bytes, this kernel takes %llu; shorten --append",
                       b->kernel.path, len, (unsigned long long)max);
    return boot_put(b, BOOT_CMDLINE, cmdline, len + 1);
}

static int boot_file_init(struct boot_load *b, struct boot_file *f, int fd, const char *what, const char *path)
{
    struct stat st;

    *f = (struct boot_file){ .fd = fd, .what = what, .path = path ? path : "(no name)" };
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return err_set(b->e, errno, "%s %s: %s", what, f->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(b->e, EINVAL, "%s %s: not a regular file; give a file with --%s", what, f->path, what);
    f->size = (uint64_t)st.st_size;
    return 0;
}

static int boot_load_any(struct boot_load *b)
{
    static int (*const formats[])(struct boot_load * b) = { boot_linux_load, boot_pvh_load, boot_multiboot_load };
    int r = boot_file_init(b, &b->kernel, b->config->kernel_fd, "kernel", b->config->kernel_path);

    if (r == 0)
        r = boot_file_init(b, &b->initrd, b->config->initrd_fd, "initrd", b->config->initrd_path);
    if (r < 0)
        return r;
    if (b->kernel.size == 0)
        return err_set(b->e, ENOEXEC, "kernel %s: empty; give a kernel with --kernel", b->kernel.path);
    b->head_len = MIN(b->kernel.size, sizeof(b->head));
    r = boot_read(b, &b->kernel, 0, b->head, b->head_len);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        struct err none = { 0 };

        *b->e = none;
        r = formats[i](b);
        if (r != -ENOEXEC || b->e->code)
            return r;
    }
    return err_set(
        b->e, ENOEXEC,
        "kernel %s: not a Linux bzImage, PVH ELF or Multiboot image; give an uncompressed or bz kernel with --kernel",
        b->kernel.path);
}

int boot_load(struct mem *m, const struct boot_config *config, struct boot_state *ret, struct err *e)
{
    struct err scratch = { 0 };
    AUTO_FREE struct boot_load *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return err_set(e, ENOMEM, "boot loader: out of memory");
    b->mem = m;
    b->config = config;
    b->e = &scratch;
    r = boot_load_any(b);
    if (r < 0) {
        if (e)
            *e = scratch;
        return r;
    }
    *ret = b->state;
    return 0;
}
