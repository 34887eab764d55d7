/* Layouts of control groups: /proc/self/mountinfo, a zero byte, /proc/self/cgroup. What comes out is consistent. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "sys/cgroup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 2);
    struct sys_cgroup_layout l;

    if (!text)
        return 0;
    memcpy(text, data, len);
    text[len] = text[len + 1] = '\0';
    if (sys_cgroup_layout_parse(text, text + strlen(text) + (strlen(text) < len), &l) == 0) {
        CHECK(l.n > 0 && l.n <= SYS_CGROUP_MAX && l.unified < (int)l.n);
        for (size_t i = 0; i < l.n; i++)
            CHECK(l.h[i].mount && l.h[i].v2 == ((int)i == l.unified));
        sys_cgroup_layout_done(&l);
    }
    free(text);
    return 0;
}
