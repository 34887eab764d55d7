#include "oci/caps.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAPS_LAST_MAX 63

/* The capabilities that this kernel has, as a mask: it says EINVAL to the number behind the last. */
static uint64_t caps_known(void)
{
    unsigned first = CAP_LAST_CAP + 1;

    if (prctl(PR_CAPBSET_READ, CAP_LAST_CAP, 0, 0, 0) < 0) {
        while (first > 0 && prctl(PR_CAPBSET_READ, first - 1, 0, 0, 0) < 0)
            first--;
    } else {
        while (first <= CAPS_LAST_MAX && prctl(PR_CAPBSET_READ, first, 0, 0, 0) >= 0)
            first++;
    }
    return first > CAPS_LAST_MAX ? UINT64_MAX : (1ULL << first) - 1;
}

int oci_caps_prepare(const struct oci_process *p, struct err *e)
{
    for (unsigned cap = 0; cap <= CAPS_LAST_MAX; cap++) {
        if (p->capabilities[OCI_CAP_BOUNDING] >> cap & 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
            continue;
        if (errno == EINVAL) /* the kernel knows no more */
            break;
        return err_set(e, errno, "process.capabilities.bounding: drop capability %u: %s", cap, strerrordesc_np(errno));
    }
    /* user 0 to user 0 keeps them anyhow */
    if (p->uid != 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return err_set(e, errno, "process.user: keep capabilities: %s", strerrordesc_np(errno));
    return 0;
}

static int caps_set(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    const struct __user_cap_data_struct data[2] = {
        { (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
        { (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32) },
    };

    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int caps_raise_ambient(uint64_t ambient)
{
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return errno == EINVAL && ambient == 0 ? 0 : -errno; /* a kernel without them */
    for (unsigned cap = 0; ambient >> cap != 0; cap++) {
        if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
            return -errno;
        if (cap == CAPS_LAST_MAX)
            break;
    }
    return 0;
}

int oci_caps_apply(const struct oci_process *p, bool keep_admin, struct err *e)
{
    const uint64_t known = caps_known(), admin = keep_admin ? 1ULL << CAP_SYS_ADMIN : 0;
    const uint64_t permitted = p->capabilities[OCI_CAP_PERMITTED] & known;
    const uint64_t inheritable = p->capabilities[OCI_CAP_INHERITABLE] & known;
    int r = caps_set((p->capabilities[OCI_CAP_EFFECTIVE] & known) | admin, permitted | admin, inheritable);

    if (r < 0)
        return err_set(e, -r,
                       "process.capabilities: %s; the sets must lie within what the runtime has, the effective one "
                       "within the permitted one",
                       strerrordesc_np(-r));
    r = caps_raise_ambient(p->capabilities[OCI_CAP_AMBIENT] & permitted & inheritable);
    return r < 0 ? err_set(e, -r, "process.capabilities.ambient: %s", strerrordesc_np(-r)) : 0;
}
