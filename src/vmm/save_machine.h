/* A whole machine to and from the file of a saved VM: which sections there are, in which order they are taken over, and
 * what a restored VM must have in common with the saved one. */
#ifndef VMM_SAVE_MACHINE_H
#define VMM_SAVE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct machine;
struct save_reader;
struct save_writer;
struct vm_spec;

/* What is to become of a saved VM. */
struct save_restore {
    int fd;            /* of the file; borrowed */
    const char *path;  /* for errors; borrowed */
    bool catch_up;     /* the guest's clocks show the present, else they go on from the moment of the save */
    bool new_identity; /* the guest is told that it is a copy: new VM generation ID */
    bool as_saved;     /* memory and CPUs are what the file says (save_machine_adopt); the disks are as they were then
                          already, and do not go back to a snapshot */
};

/* Append all sections: specification, devices, vCPUs. The devices are quiescent (vmm/save.h), vCPUs stand; before
 * memory is saved. snapshot: the disks' internal snapshot that belongs to it, "": none. Loop thread. -errno with text.
 */
int save_machine_save(struct machine *m, struct save_writer *w, const char *snapshot, struct err *e) MUST_USE;

/* Give spec the memory and the CPUs of the saved machine. -errno with text. */
int save_machine_adopt(int fd, const char *path, struct vm_spec *spec, struct err *e) MUST_USE;

/* Is m->spec a machine that can take this state over: memory, CPUs, devices? Before anything is made. -EINVAL: it
 * differs, the text says in what; -EBADMSG. */
int save_machine_check(const struct vm_spec *spec, const struct save_reader *r, const char *path,
                       struct err *e) MUST_USE;
/* *ret_snapshot: malloc'd, the internal snapshot of the disks that belongs to the state; NULL: none. */
int save_machine_snapshot(const struct save_reader *r, const char *path, char **ret_snapshot, struct err *e) MUST_USE;
/* Fill in what is saved: memory, devices, engine; r's chunks may go to m->lazy, which loads them. m is complete and has
 * never run; m is to be freed after an error. Its devices work from then on. */
int save_machine_restore(struct machine *m, struct save_reader *r, const struct save_restore *how,
                         struct err *e) MUST_USE;

/* Print what a saved VM is, as a JSON object on stdout: {"spec": {...}, "engine", "version", "time"}. -errno with text
 */
int save_machine_print(const char *path, struct err *e) MUST_USE;

#endif
