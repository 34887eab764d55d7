/* Signals as events: blocked, and read from a descriptor. */
#ifndef SYS_SIGNALS_H
#define SYS_SIGNALS_H

#include <stddef.h>

#include "base/attr.h"

/* Block n signals in this thread (and those that it starts) and get them from a signalfd(2) that does not block.
 * Returns the descriptor or -errno. */
int sys_signals_open(const int *signals, size_t n) MUST_USE;
/* From here on, to write to a reader that has gone is an error of the call, and not the end of this process. */
void sys_signals_no_pipe(void);

#endif
