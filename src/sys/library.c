#include "sys/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int sys_library_open(const char *name, const struct sys_symbol *symbols, size_t n, void *table, void **ret_library)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return -ENOENT;
    for (size_t i = 0; i < n; i++) {
        void *function = dlsym(library, symbols[i].name);

        if (!function) {
            dlclose(library);
            return -ENOSYS;
        }
        memcpy((char *)table + symbols[i].place, &function, sizeof(function));
    }
    *ret_library = library;
    return 0;
}

void sys_library_close(void *library)
{
    if (library)
        dlclose(library);
}
