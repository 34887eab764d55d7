#include "cli/vm_option.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "cli/command.h"
#include "cli/net_option.h"
#include "proto/vm_spec.h"

int cli_set_text(char **to, const char *from, struct err *e)
{
    char *copy = from ? strdup(from) : NULL;

    if (!from)
        return 0;
    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    free(*to);
    *to = copy;
    return 0;
}

static int vm_option_numbers(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const char *memory = cli_value(args, "memory"), *cpus = cli_value(args, "cpus"),
               *engine = cli_value(args, "engine");
    uint64_t n;

    if (memory && num_parse_size(memory, &s->memory) < 0)
        return err_set(e, EINVAL, "--memory %s: not a size; use a number with K, M, G or T behind it, e.g. 512M",
                       memory);
    if (cpus) {
        if (num_parse_u64(cpus, 1, VM_CPUS_MAX, &n) < 0)
            return err_set(e, EINVAL, "--cpus %s: not possible; use a number from 1 to %d", cpus, VM_CPUS_MAX);
        s->cpus = (unsigned)n;
    }
    if (engine && vm_engine_parse(engine, &s->engine) < 0)
        return err_set(e, EINVAL, "--engine %s: unknown engine; use auto, kvm, bt or interp", engine);
    return 0;
}

int cli_vm_options(const struct cli_args *args, struct vm_spec *s, struct err *e)
{
    const struct {
        const char *option;
        char **to;
    } texts[] = {
        { "kernel", &s->kernel },
        { "initrd", &s->initrd },
        { "append", &s->append },
        { "cpu", &s->cpu },
    };
    int r = vm_option_numbers(args, s, e);

    for (size_t i = 0; i < ARRAY_SIZE(texts) && r == 0; i++)
        r = cli_set_text(texts[i].to, cli_value(args, texts[i].option), e);
    return r < 0 ? r : cli_net_options(args, s, e);
}
