/* The options that say what a VM is made of: those that `vm run`, `vm create` and `vm restore` share. */
#ifndef CLI_VM_OPTION_H
#define CLI_VM_OPTION_H

#include "base/attr.h"
#include "base/err.h"

struct cli_args;
struct vm_spec;

/* Rows of the command table. CLI_NET_FORM and CLI_NET_HELP are in net_option.h. */
#define CLI_VM_OPTION_CPU                                                                       \
    {                                                                                           \
        "cpu", 0, "MODEL[,+FEATURE][,-FEATURE]...",                                             \
            "CPU model, with features added or masked (default x86-64-v3; see caisson cpu ls)", \
            "x86-64-v3 x86-64-v2 x86-64-v1 host", false                                         \
    }
#define CLI_VM_OPTION_ENGINE                                                                        \
    {                                                                                               \
        "engine", 0, "auto|kvm|bt|interp", "CPU engine (default auto)", "auto kvm bt interp", false \
    }
#define CLI_VM_OPTION_CPUS                                                  \
    {                                                                       \
        "cpus", 0, "N", "number of vCPUs, 1 to 64 (default 1)", NULL, false \
    }
#define CLI_VM_OPTION_MEMORY                                                               \
    {                                                                                      \
        "memory", 'm', "SIZE", "guest memory, e.g. 512M or 2G (default 512M)", NULL, false \
    }

/* --memory, --cpus, --engine, --cpu, --kernel, --initrd, --append and --net into s, which has its defaults; what is not
 * given is not touched. Not checked otherwise (vm_spec_check). -EINVAL, -ENOMEM with text. */
int cli_vm_options(const struct cli_args *args, struct vm_spec *s, struct err *e) MUST_USE;

/* Replace an owned string by a copy; NULL leaves it as it is. -ENOMEM with text. */
int cli_set_text(char **to, const char *from, struct err *e) MUST_USE;

#endif
