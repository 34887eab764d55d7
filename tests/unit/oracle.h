/* Programs that we did not write, asked what they think of a file. Each test program gets a folder of its own, which
 * goes when it ends. */
#ifndef TESTS_UNIT_ORACLE_H
#define TESTS_UNIT_ORACLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

/* Path of a file in the program's folder; one of 8 buffers that are used in turn. */
const char *oracle_path(const char *name);
/* Run a shell command; returns its exit status, 127 where it cannot run. What it wrote to both outputs goes to out
 * (terminated, cut), where out is not NULL. */
int oracle_run(char *out, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Likewise, and it must succeed: else what it wrote is printed and the test fails. */
void oracle_must(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Before a qemu-img that makes a LUKS header: its measurement of the CPU fails now and then, "Unable to get accurate
 * CPU usage". */
#define ORACLE_AGAIN \
    "again() { for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \"$@\" && return; done; return 1; }; again "
/* Is the program there? */
bool oracle_has(const char *program);

#endif
