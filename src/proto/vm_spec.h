/* What a VM is made of, as the CLI (later: the API) hands it to caisson-vmm: a JSON document. Both ends use this
 * header, so that an option cannot exist on one side only. Unknown fields are refused. */
#ifndef PROTO_VM_SPEC_H
#define PROTO_VM_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "proto/vm_disk.h"
#include "proto/vm_nic.h"

#define VM_DISKS_MAX 16
#define VM_CPUS_MAX 64
#define VM_MEMORY_MIN (16ULL << 20)
#define VM_MEMORY_DEFAULT (512ULL << 20)
#define VM_CPU_MAX 4096 /* bytes of the CPU model's text */
#define VM_SPEC_TEXT_MAX (256U << 10)

enum vm_engine { VM_ENGINE_AUTO, VM_ENGINE_KVM, VM_ENGINE_BT, VM_ENGINE_INTERP };
enum vm_console { VM_CONSOLE_STDIO, VM_CONSOLE_NONE, VM_CONSOLE_FILE };
enum vm_console_device { VM_CONSOLE_SERIAL, VM_CONSOLE_VIRTIO };

/* Strings are owned by the spec. Initialise with vm_spec_init. */
struct vm_spec {
    char *name;
    char *run_dir; /* where the control socket of that name is to be (proto/vm_msg.h); NULL: none */
    char *kernel;
    char *initrd; /* NULL: none */
    char *append; /* kernel command line; NULL: empty */
    struct vm_disk disks[VM_DISKS_MAX];
    unsigned n_disks;
    struct vm_nic nets[VM_NICS_MAX]; /* at first one, on a user-mode network */
    unsigned n_nets;
    uint64_t memory; /* bytes, a multiple of 4096 */
    unsigned cpus;
    char *cpu; /* CPU model: MODEL[,+FEATURE|,-FEATURE]...; NULL: the default */
    enum vm_engine engine;
    enum vm_console console;
    enum vm_console_device console_device;
    char *console_file;  /* with VM_CONSOLE_FILE */
    bool debug_exit;     /* port 0xf4 ends the VM with the written code */
    bool no_reboot;      /* a guest reset ends the VM */
    bool clock_continue; /* started from saved memory, its clocks go on from then instead of catching up */
    bool verbose;        /* engine statistics on stderr at the end */
};

void vm_spec_init(struct vm_spec *s);
/* Free the strings. Accepts a half-filled spec. */
void vm_spec_done(struct vm_spec *s);

/* Names used on the command line and in JSON. name: -EINVAL for one that is unknown. */
const char *vm_engine_name(enum vm_engine engine);
int vm_engine_parse(const char *name, enum vm_engine *ret) MUST_USE;

/* Give names and MACs to the network cards that have none (vm_nic_complete). -errno with text. */
int vm_spec_complete(struct vm_spec *s, struct err *e) MUST_USE;

/* Check ranges that both ends rely on; the text names the option and the remedy. -EINVAL. */
int vm_spec_check(const struct vm_spec *s, struct err *e) MUST_USE;

/* *ret_text: malloc'd JSON. -ENOMEM. */
int vm_spec_to_json(const struct vm_spec *s, char **ret_text) MUST_USE;
/* Parse into s (initialised; on failure its content is undefined but vm_spec_done is safe). -EINVAL with text. */
int vm_spec_from_json(const char *text, struct vm_spec *s, struct err *e) MUST_USE;

#endif
