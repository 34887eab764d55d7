#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

/* check: allow(globals:log_max) set once before threads exist; passing it everywhere would buy nothing */
static enum log_level log_max = LOG_WARN;

void log_set_level(enum log_level level)
{
    log_max = level;
}

bool log_enabled(enum log_level level)
{
    return level <= log_max;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    static const char *const prefix[] = { "caisson: error: ", "caisson: warning: ", "caisson: ", "caisson: debug: " };
    char line[1024];
    va_list ap;
    int head, body;
    size_t len;

    if (level > log_max)
        return;
    head = snprintf(line, sizeof(line), "%s", prefix[level]);
    va_start(ap, fmt);
    body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
    va_end(ap);
    if (body < 0)
        return;
    len = (size_t)head + (size_t)body;
    len = MIN(len, sizeof(line) - 2);
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere left to say it */
}
