/* Memory of the translator: one memfd, mapped twice (what executes is never writable). Ordinary code; it must not know
 * instructions. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cpu/bt/fp_signal.h"
#include "cpu/bt/t1_priv.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

static int t1_map(struct bt_t1 *t)
{
    AUTO_FD int fd = memfd_create("caisson-code", MFD_CLOEXEC | MFD_EXEC);
    void *p;

    if (fd < 0 && errno == EINVAL) /* kernel before 6.3 */
        fd = memfd_create("caisson-code", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, T1_ARENA) < 0)
        return -errno;
    p = mmap(NULL, T1_ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    t->rw = p;
    p = mmap(NULL, T1_ARENA, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    t->rx = p;
    p = mmap(NULL, T1_TRANS_MAX * sizeof(*t->trans), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -errno;
    t->trans = p;
    p = mmap(NULL, T1_TRAPS_MAX * sizeof(*t->traps), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -errno;
    t->traps = p;
    t->work = malloc(sizeof(*t->work));
    return t->work ? 0 : -ENOMEM;
}

int bt_t1_new(uint32_t code_bytes, struct bt_t1 **ret)
{
    struct bt_t1 *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    r = t1_map(t);
    if (r == 0)
        r = bt_fp_signal_add_code(t);
    if (r < 0) {
        bt_t1_free(t);
        return r;
    }
    t->end = code_bytes;
    t->first = t->used = bt_t1_fixed(t);
    t->bmi2 = __builtin_cpu_supports("bmi2");
    bt_t1_classify(t);
    *ret = t;
    return 0;
}

void bt_t1_free(struct bt_t1 *t)
{
    if (!t)
        return;
    bt_fp_signal_del_code(t);
    if (t->rx)
        (void)munmap((void *)(uintptr_t)t->rx, T1_ARENA);
    if (t->rw)
        (void)munmap(t->rw, T1_ARENA);
    if (t->trans)
        (void)munmap(t->trans, T1_TRANS_MAX * sizeof(*t->trans));
    if (t->traps)
        (void)munmap(t->traps, T1_TRAPS_MAX * sizeof(*t->traps));
    free(t->work);
    free(t);
}
