/* A clock that tests set: list clock.c in the test's row of meson.build, and sys_now_ns, called from other objects than
 * sys/loop.c, is what clock_set said. Timers of the loop go by the real clock, which is far ahead of a test's, so they
 * are due at once. */
#ifndef TESTS_UNIT_CLOCK_H
#define TESTS_UNIT_CLOCK_H

#include <stdint.h>

void clock_set(uint64_t now_ns);
void clock_advance(uint64_t ns);

#endif
