#include "vmm/genid.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "hw/acpi_pm.h"
#include "vmm/machine_priv.h"

int vmm_genid_init(struct machine *m, struct err *e)
{
    uint8_t id[16];
    int r = getrandom(id, sizeof(id), 0) == sizeof(id) ? 0 : -EIO;

    if (r == 0)
        r = mem_write(m->mem, GPA(LAYOUT_GENID), id, sizeof(id));
    return r < 0 ? err_set(e, -r, "cannot make the VM generation ID: %s", strerror(-r)) : 0;
}

int vmm_genid_renew(struct machine *m, struct err *e)
{
    int r = vmm_genid_init(m, e);

    if (r == 0)
        acpi_pm_raise_gpe(m->pm, LAYOUT_GENID_GPE);
    return r;
}
