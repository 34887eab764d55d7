/* Diagnostics on stderr, one line a message. Libraries below vmm log at debug only; whoever runs on a guest's behalf
 * must not log once per guest action at a level above debug (a guest could fill a log). The level is the only mutable
 * global. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

#include "base/attr.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Set once at start, before threads exist. */
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/* Any thread; the line is written by one write(2). */
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                         \
    do {                                       \
        if (UNLIKELY(log_enabled(LOG_DEBUG)))  \
            log_write(LOG_DEBUG, __VA_ARGS__); \
    } while (0)

#endif
