/* A copy of a VM with an identity of its own: id, name, addresses of its cards, cloud-init's seed. Its disks are copies
 * of the source's own files, so that what both have from an image stays shared. */
#ifndef INSTANCE_VM_CLONE_H
#define INSTANCE_VM_CLONE_H

#include "base/attr.h"
#include "base/err.h"
#include "store/disk.h"
#include "store/instance.h"

struct inst_vm_clone {
    const char *name;     /* of the new one; "": one is generated */
    const char *hostname; /* NULL: the name */
    const struct disk_progress *progress;
};

/* Running or not: of one that runs, as its disks are at one moment. -EINVAL with text: a container, or a VM with a disk
 * of its own outside its folder. ret_instance is the caller's. */
int inst_vm_clone(struct store *s, const struct store_instance *source, const struct inst_vm_clone *how,
                  struct store_instance *ret_instance, struct err *e) MUST_USE;

#endif
