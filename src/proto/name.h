/* Names of objects: VMs, networks and what else users name. */
#ifndef PROTO_NAME_H
#define PROTO_NAME_H

#include <stdbool.h>

#include "base/attr.h"

#define PROTO_NAME_MAX 63

/* Whether name is [a-z0-9][a-z0-9-]{0,62}: also a DNS label. Any thread. */
bool proto_name_ok(const char *name);

#define PROTO_HOST_NAME_MAX 253
/* Whether name can be a host's: letters, digits, '-', '_' and '.', of which '-' and '.' are not at its beginning. */
bool proto_host_name_ok(const char *name);

#endif
