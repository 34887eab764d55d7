/* A disk in the specification of a VM: how it is named on the command line and in JSON. */
#ifndef PROTO_VM_DISK_H
#define PROTO_VM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct json_object;

#define VM_SERIAL_MAX 20 /* bytes, virtio-blk's limit */
#define VM_DISK_QUEUES_MAX 16
#define VM_DISK_WEIGHT_MAX 10000
#define VM_READAHEAD_MAX (16U << 20)

enum vm_cache { VM_CACHE_WRITEBACK, VM_CACHE_NONE, VM_CACHE_WRITETHROUGH, VM_CACHE_UNSAFE };
enum vm_aio { VM_AIO_AUTO, VM_AIO_URING, VM_AIO_THREADS };

enum vm_disk_limit {
    VM_IOPS,
    VM_IOPS_READ,
    VM_IOPS_WRITE,
    VM_BPS, /* bytes a second */
    VM_BPS_READ,
    VM_BPS_WRITE,
    VM_LIMITS,
};

/* rate 0: no limit; burst 0: a tenth of a second's worth. */
struct vm_limit {
    uint64_t rate, burst;
};

/* Strings are owned by the spec. All zero is a disk with the defaults. */
struct vm_disk {
    char *path;
    char *serial;      /* NULL: none */
    char *format;      /* NULL: what the first bytes say */
    char *secret_file; /* with the passphrase of an encrypted image; NULL: none */
    bool read_only;
    bool cdrom;          /* read-only, and the guest is not to write to it whatever it is */
    bool ignore_discard; /* what the guest discards stays allocated on the host */
    bool wait_on_error;  /* the guest waits until the host recovers */
    bool no_readahead;
    enum vm_cache cache;
    enum vm_aio aio;
    struct vm_limit limits[VM_LIMITS];
    uint32_t readahead; /* bytes, ..VM_READAHEAD_MAX; 0: default */
    unsigned weight;    /* 1..VM_DISK_WEIGHT_MAX; 0: default */
    unsigned queues;    /* 1..VM_DISK_QUEUES_MAX; 0: default */
};

/* Free the strings. */
void vm_disk_done(struct vm_disk *d);
/* Ranges and combinations; the text names the disk and the remedy. number counts from 1. -EINVAL. */
int vm_disk_check(const struct vm_disk *d, unsigned number, struct err *e) MUST_USE;

/* Names as on the command line and in JSON. name: -EINVAL for one that is unknown. */
const char *vm_disk_limit_name(enum vm_disk_limit limit);
int vm_cache_parse(const char *name, enum vm_cache *ret) MUST_USE;
int vm_aio_parse(const char *name, enum vm_aio *ret) MUST_USE;

/* For proto/vm_spec.c. The object is the caller's to put away; NULL: no memory. */
struct json_object *vm_disk_to_json(const struct vm_disk *d);
int vm_disk_from_json(struct json_object *o, struct vm_disk *d, struct err *e) MUST_USE;

#endif
