/* What the commands that start a VM have in common. */
#ifndef CLI_VM_RUN_H
#define CLI_VM_RUN_H

#include <stdbool.h>

#include "base/attr.h"
#include "base/err.h"
#include "cli/command.h"
#include "proto/vm_spec.h"

/* --disk and --cdrom: one more disk of s; other options are passed over. -EINVAL with text. */
int cli_vm_parse_disk(const struct cli_given *given, struct vm_spec *s, struct err *e) MUST_USE;
/* --console: stdio|none|file=FILE, each with ,device=serial|virtio behind it if wanted. -EINVAL with text. */
int cli_vm_parse_console(const char *text, struct vm_spec *s, struct err *e) MUST_USE;

#endif
