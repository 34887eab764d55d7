/* --disk and --cdrom. */
#ifndef CLI_DISK_OPTION_H
#define CLI_DISK_OPTION_H

#include "base/attr.h"
#include "base/err.h"

struct vm_disk;

/* FILE[,OPTION]... into a zeroed d, of which the caller frees what is in it whatever the result. A comma in the file
 * name is written twice. -EINVAL, -ENOMEM with text. */
int cli_parse_disk(const char *text, struct vm_disk *d, struct err *e) MUST_USE;
/* The same for a CD-ROM: read-only. */
int cli_parse_cdrom(const char *text, struct vm_disk *d, struct err *e) MUST_USE;

#endif
