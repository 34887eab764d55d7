#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void base_check_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "caisson: internal error: %s:%d: %s\n", file, line, expr);
    abort(); /* check: allow(banned:abort) a programmer error ends the process here, and only here */
}
