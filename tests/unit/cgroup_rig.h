/* Hierarchies of control groups made of ordinary files in a temporary directory. */
#ifndef CGROUP_RIG_H
#define CGROUP_RIG_H

#include <sys/types.h>

#include "sys/cgroup.h"
#include "wire/oci_spec.h"

struct rig {
    char dir[64];
    struct sys_cgroup_layout layout;
};

enum rig_kind { RIG_V1, RIG_V2, RIG_HYBRID };

void rig_init(struct rig *r, enum rig_kind kind);
void rig_done(struct rig *r); /* all files go */
/* Make the group at path ("/a/b") with empty files, in all hierarchies. */
void rig_group(struct rig *r, const char *path);
void rig_write(struct rig *r, const char *path, const char *text); /* path: below dir; the file is made */
/* What a file holds, at most 255 bytes, in a buffer that the next call reuses; NULL: not there. */
const char *rig_read(struct rig *r, const char *path);
void rig_check(struct rig *r, const char *path, const char *text);
/* A process that only waits to be killed. */
pid_t rig_sleeper(void);
/* linux.resources out of JSON, with ' for ". The caller frees it. */
struct oci_spec *rig_resources(const char *json);

#endif
