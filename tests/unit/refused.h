/* Documents that a reader must refuse, each with what its error must say. */
#ifndef TESTS_UNIT_REFUSED_H
#define TESTS_UNIT_REFUSED_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/err.h"

struct refused {
    const char *text, *why;
};

/* read gives back what it made of the text itself. */
static inline void refused_all(const struct refused *rows, size_t n, int (*read)(const char *text, struct err *e))
{
    for (size_t i = 0; i < n; i++) {
        struct err e = { 0 };

        if (read(rows[i].text, &e) != -EINVAL)
            fail_msg("accepted: %s", rows[i].text);
        if (!strstr(e.text, rows[i].why))
            fail_msg("%s: '%s' does not say '%s'", rows[i].text, e.text, rows[i].why);
    }
}

#endif
