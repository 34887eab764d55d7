/* What cloud-init in a VM is told at its first boot: a small ISO 9660 image labelled cidata with user-data, meta-data
 * and network-config (cloud-init's NoCloud source). The files are JSON, which is YAML. The image lies beside the VM's
 * disks and is attached to every boot. It must not know command lines or how VMs run. */
#ifndef INSTANCE_SEED_H
#define INSTANCE_SEED_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/inst_spec.h"

struct vm_spec;

#define INST_SEED_USER_DATA_MAX (1U << 20)

/* What the user wants; all borrowed. Everything NULL or empty: names and network only. */
struct inst_seed {
    const char *user_data;        /* a whole document of the user's ("#cloud-config", a script, ...) */
    const char *user;             /* account to make or to set up; NULL: the image's default user */
    const char *password_hash;    /* as in /etc/shadow */
    struct inst_strings ssh_keys; /* lines of authorized_keys */
};

/* Read a user-data document. -EINVAL with text: not text, too long; errors of open and read. *ret_text: malloc'd. */
int inst_seed_read_user_data(const char *path, char **ret_text, struct err *e) MUST_USE;
/* Add the public keys of a file; path "auto": those of this user's ~/.ssh. -EINVAL with text: not public keys. */
int inst_seed_read_keys(const char *path, struct inst_strings *keys, struct err *e) MUST_USE;
/* user: a name that Linux takes; hash: of crypt(3). -EINVAL with text. */
int inst_seed_check(const struct inst_seed *s, struct err *e) MUST_USE;

/* The documents, malloc'd; NULL: out of memory. instance_id: cloud-init does its first-boot work when it changes. */
char *inst_seed_meta_data(const struct inst_seed *s, const char *instance_id, const char *hostname);
/* The user's own document, or one made from the rest of s. */
char *inst_seed_user_data(const struct inst_seed *s);
/* What stands aside where the user has an own document; may be "". */
char *inst_seed_vendor_data(const struct inst_seed *s);
/* DHCP on each card of vm, known by its MAC (vm_spec_complete). */
char *inst_seed_network_config(const struct vm_spec *vm);

/* Write the image to path, which must not exist or is replaced when the new one is complete. */
int inst_seed_write(const struct inst_seed *s, const char *instance_id, const char *hostname, const struct vm_spec *vm,
                    const char *path, struct err *e) MUST_USE;
/* The image of another VM as a new one for this: the user's documents and keys as they were, identity and network new.
 * -EINVAL with text: from is no such image. */
int inst_seed_copy(const char *from, const char *instance_id, const char *hostname, const struct vm_spec *vm,
                   const char *path, struct err *e) MUST_USE;

#endif
