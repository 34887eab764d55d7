#include "vmm/engines.h"

#include <errno.h>
#include <string.h>

#include "cpu/bt/bt.h"
#include "cpu/kvm/kvm.h"
#include "vmm/probe_memo.h"

int vmm_engine_choose(enum vm_engine wanted, const struct cpu_ops **ret_ops, struct err *e)
{
    switch (wanted) {
    case VM_ENGINE_KVM:
        *ret_ops = &cpu_kvm_ops;
        return 0;
    case VM_ENGINE_BT:
        *ret_ops = &cpu_bt_ops;
        return 0;
    case VM_ENGINE_INTERP:
        *ret_ops = &cpu_interp_ops;
        return 0;
    case VM_ENGINE_AUTO:
        *ret_ops = vmm_probe_memo_kvm() ? &cpu_kvm_ops : &cpu_bt_ops;
        return 0;
    }
    return err_set(e, EINVAL, "unknown engine; use --engine auto, kvm, bt or interp");
}

int vmm_engine_error(const struct cpu_ops *ops, int code, struct err *e)
{
    if (strcmp(ops->name, "kvm") != 0)
        return err_set(e, code, "the %s engine cannot start: %s", ops->name, strerror(code));
    if (code == EACCES || code == EPERM)
        return err_set(e, code, "/dev/kvm: %s; join the group that owns it (often kvm), or use --engine auto",
                       strerror(code));
    if (code == ENOENT || code == ENODEV || code == ENXIO)
        return err_set(e, ENOENT, "/dev/kvm: not there; load the kvm module, or use --engine auto");
    return err_set(e, code, "/dev/kvm: %s; use --engine auto ('caisson doctor' tells more)", strerror(code));
}
