/* vCPUs, interrupt controllers, PIT and clocks as sections of a saved VM, in the structures of the KVM API, through the
 * engine contract only: what one engine saved another takes over. vCPUs do not run. Loop thread. */
#ifndef VMM_SAVE_CPU_H
#define VMM_SAVE_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct machine;
struct save_reader;
struct save_writer;

/* Append the sections "irqchip", "pit", "clock", "vcpu". Takes back offers of paravirtual EOI, which changes guest
 * memory: before that is saved. -errno with text. */
int save_cpu_save(struct machine *m, struct save_writer *w, struct err *e) MUST_USE;
/* Take them over, when memory and devices are restored. catch_up: the guest's clocks show the present, else they go on
 * from the moment of the save. -EBADMSG: a section is missing, superfluous or makes no sense; -ENOTSUP: the engine
 * refuses something, or a section is of a later version; with text. */
int save_cpu_restore(struct machine *m, const struct save_reader *r, const char *path, bool catch_up,
                     struct err *e) MUST_USE;
/* Is this kind of section one of those? */
bool save_cpu_kind(const char *kind);

#endif
