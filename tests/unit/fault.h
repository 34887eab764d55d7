/* Failing the Nth call of what allocates or maps, for all N: list fault.c in the
 * test's row of meson.build and write
 *
 *     for (unsigned n = 1; fault_begin(n), r = function_under_test(), fault_end(); n++)
 *         assert_int_equal(r, -ENOMEM);
 *
 * so that the loop ends with the first run in which no call was left to fail. Only calls from our own objects count
 * (they are redirected by the linker's --wrap); those inside libc do not. Not thread-safe. */
#ifndef TESTS_UNIT_FAULT_H
#define TESTS_UNIT_FAULT_H

#include <stdbool.h>

/* From now on, let the nth call fail (1 = the next one; 0 = none). */
void fault_begin(unsigned nth);
/* Stop failing. Returns whether a call did fail since fault_begin. */
bool fault_end(void);

#endif
