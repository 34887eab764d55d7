#include "instance/kind.h"

const struct inst_kind_ops *inst_kind_ops(enum inst_kind kind)
{
    static const struct inst_kind_ops *const kinds[] = {
        [INST_VM] = &inst_vm_ops,
        [INST_CONTAINER] = &inst_container_ops,
    };

    return kinds[kind];
}
