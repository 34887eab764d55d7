/* A process that is killed at each of its system calls in turn: what it leaves must be the old or the new state.
 *
 *     for (unsigned n = 1; killed; n++) {
 *         ... the old state ...
 *         killed = killed_at(n, child, opaque);
 *         ... is it the old or the new one? ...
 *     } */
#ifndef TESTS_UNIT_KILLED_H
#define TESTS_UNIT_KILLED_H

#include <stdbool.h>

/* Whether this machine lets us trace our children. */
bool killed_possible(void);
/* Run child (which must _exit(0) or return) in a process of its own up to the nth entrance or exit of a system call,
 * and kill it there. Returns whether it was killed before its end. */
bool killed_at(unsigned n, void (*child)(const void *opaque), const void *opaque);

#endif
