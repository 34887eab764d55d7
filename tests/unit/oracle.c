#include "oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fast_dir.h"

static char oracle_dir[64];

static void oracle_clean(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", oracle_dir);
    if (system(command) != 0)
        perror(oracle_dir);
}

const char *oracle_path(const char *name)
{
    static char paths[8][256];
    static unsigned next;

    if (!oracle_dir[0]) {
        assert_true(fast_dir_make(oracle_dir, "test"));
        atexit(oracle_clean);
    }
    next = (next + 1) % ARRAY_SIZE(paths);
    snprintf(paths[next], sizeof(paths[next]), "%s/%s", oracle_dir, name);
    return paths[next];
}

static int oracle_vrun(char *out, size_t size, const char *fmt, va_list ap)
{
    char text[4096], command[4200], discard[4096];
    size_t len = 0, n;
    int status;
    FILE *f;

    vsnprintf(text, sizeof(text), fmt, ap);
    snprintf(command, sizeof(command), "{ %s\n} 2>&1", text);
    f = popen(command, "r");
    if (!f)
        return 127;
    while ((n = fread(discard, 1, sizeof(discard), f)) > 0) {
        if (out && len + 1 < size) {
            n = MIN(n, size - 1 - len);
            memcpy(out + len, discard, n);
            len += n;
        }
    }
    if (out && size)
        out[len] = '\0';
    status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 127;
}

int oracle_run(char *out, size_t size, const char *fmt, ...)
{
    va_list ap;
    int r;

    va_start(ap, fmt);
    r = oracle_vrun(out, size, fmt, ap);
    va_end(ap);
    return r;
}

void oracle_must(const char *fmt, ...)
{
    char out[4096];
    va_list ap;
    int r;

    va_start(ap, fmt);
    r = oracle_vrun(out, sizeof(out), fmt, ap);
    va_end(ap);
    if (r != 0)
        print_error("%s: exit status %d: %s\n", fmt, r, out);
    assert_int_equal(r, 0);
}

bool oracle_has(const char *program)
{
    return oracle_run(NULL, 0, "PATH=$PATH:/usr/sbin command -v %s", program) == 0;
}
