/* Making a VM from an image: its disks (an overlay over the image's, so that a VM costs what it writes), what
 * cloud-init is told, and its record. All of it lies in STATE/instances/ID. Killed at any instant, either the VM is
 * there with all its files, or the next command removes what was begun (instance/repair). */
#ifndef INSTANCE_VM_MAKE_H
#define INSTANCE_VM_MAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "instance/seed.h"
#include "store/instance.h"

struct vm_spec;

#define INST_VM_ROOT "root.qcow2" /* in the VM's folder */
#define INST_VM_SEED "seed.iso"

/* What is wanted; borrowed but for spec, which is changed. */
struct inst_vm_new {
    const char *name;       /* "": one is generated */
    const char *image;      /* name or id; NULL: none, then spec has a kernel */
    struct inst_spec *spec; /* kind INST_VM: CPUs, memory, cards, disks by file. What the image says fills the gaps */
    bool has_memory, has_cpus;
    uint64_t root_size;    /* bytes; 0: as the image has it */
    const uint64_t *sizes; /* of new, empty disks */
    size_t n_sizes;
    const char *hostname;         /* NULL: the name */
    const struct inst_seed *seed; /* NULL: cloud-init is told nothing */
};

/* -ENOENT: no such image; -EINVAL: a container's, no kernel, a root disk smaller than the image's; -EEXIST: the name is
 * taken. ret_instance is the caller's. */
int inst_vm_make(struct store *s, const struct inst_vm_new *n, struct store_instance *ret_instance,
                 struct err *e) MUST_USE;

/* Give the cards that have none an address, which stays the VM's for its whole life, whatever it is called later. */
int inst_vm_cards(struct vm_spec *vm, const char *name, struct err *e) MUST_USE;

#endif
