/* The memory of a saved VM, loaded while the VM runs already: what the guest touches first, the rest behind its back.
 * Needs the kernel's userfaultfd for accesses of the kernel too (a device's read into guest memory); where this user
 * may not have that, memory is loaded before (vmm/save_ram.h).
 *
 * The check sums of all chunks have been compared before (check_only of save_ram.h), so that damage is found while the
 * VM can still be refused. A chunk that has changed since then, or that the disk does not give any more, ends the
 * process at once with a message: neither the guest nor a write to a disk may see memory that is not the guest's. */
#ifndef VMM_SAVE_LAZY_H
#define VMM_SAVE_LAZY_H

#include "base/attr.h"
#include "base/cleanup.h"

struct mem;
struct save_lazy;
struct save_reader;

/* Begin to load into mem, which is all zero and which nobody has touched. Takes over r's chunks; its fd is duplicated.
 * path: for the message, copied. -EPERM, -ENOSYS, -EOPNOTSUPP: not possible here, nothing has changed; -EBADMSG: a
 * chunk lies outside guest memory; -errno of threads and memory. */
int save_lazy_new(struct mem *mem, struct save_reader *r, const char *path, struct save_lazy **ret_lazy) MUST_USE;
/* Wait until all of memory is there, e.g. before it is read by its file descriptor. Any thread; NULL accepted. */
void save_lazy_wait(struct save_lazy *l);
/* Stop loading; nobody uses the memory any more. NULL accepted. */
void save_lazy_free(struct save_lazy *l);
DEFINE_AUTO(save_lazy, struct save_lazy, save_lazy_free)

#endif
