/* Libraries that few disks or commands need, opened at run time where one does: so nobody else carries their memory or
 * waits for them to be linked, and a machine without them runs all the rest. */
#ifndef SYS_LIBRARY_H
#define SYS_LIBRARY_H

#include <stddef.h>

#include "base/attr.h"

struct sys_symbol {
    const char *name;
    size_t place; /* of the function pointer, in bytes from the start of the table */
};

/* Fill the function pointers of table. -ENOENT: no such library; -ENOSYS: it lacks one of the functions (too old). The
 * library stays open until sys_library_close. Any thread. */
int sys_library_open(const char *name, const struct sys_symbol *symbols, size_t n, void *table,
                     void **ret_library) MUST_USE;
void sys_library_close(void *library); /* NULL accepted */

#endif
