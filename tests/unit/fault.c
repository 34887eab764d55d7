#include "fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/types.h>

static unsigned fault_left; /* calls until the one that fails; 0 = off */
static bool fault_happened;

void fault_begin(unsigned nth)
{
    fault_left = nth;
    fault_happened = false;
}

bool fault_end(void)
{
    fault_left = 0;
    return fault_happened;
}

static bool fault_now(void)
{
    if (fault_left == 0 || --fault_left > 0)
        return false;
    fault_happened = true;
    errno = ENOMEM;
    return true;
}

/* The linker's --wrap sends calls of f to __wrap_f and offers the original as __real_f. meson compiles with 64-bit file
 * offsets, by which mmap and ftruncate become mmap64 and ftruncate64. */
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_vasprintf(char **text, const char *fmt, va_list ap);
int __real_vasprintf(char **text, const char *fmt, va_list ap);
void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __real_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size);

void *__wrap_malloc(size_t size)
{
    return fault_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fault_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fault_now() ? NULL : __real_realloc(old, size);
}

int __wrap_vasprintf(char **text, const char *fmt, va_list ap)
{
    return fault_now() ? -1 : __real_vasprintf(text, fmt, ap);
}

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    return fault_now() ? MAP_FAILED : __real_mmap64(addr, len, prot, flags, fd, offset);
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
    return fault_now() ? -1 : __real_memfd_create(name, flags);
}

int __wrap_ftruncate64(int fd, off_t size)
{
    return fault_now() ? -1 : __real_ftruncate64(fd, size);
}
