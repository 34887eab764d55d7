/* Private to irqchip/: state of the paravirtual features. */
#ifndef CPU_BT_IRQCHIP_PV_H
#define CPU_BT_IRQCHIP_PV_H

#include "cpu/bt/irqchip/host.h"
#include "cpu/bt/state.h"

/* A few bytes of guest RAM within one page, found once; RAM never moves. */
struct bt_pv_place {
    uint8_t *host; /* NULL: none */
    struct mem_region *region;
    uint32_t page, offset;
};

struct bt_pv_vm {
    struct bt_lock lock;
    struct bt_clock clock;       /* kvm-clock */
    bool published;              /* some vCPU has seen the base */
    _Atomic uint32_t generation; /* counts reasons to renew the time pages */
    _Atomic uint32_t stops;      /* counts set_clock */
};

struct bt_pv {
    uint64_t system_time, wall_clock, steal, eoi; /* the MSRs */
    uint32_t clock_version, generation;
    uint32_t stops; /* of which the guest was told */
    struct bt_pv_place eoi_at, steal_at;
    uint64_t run_delay; /* of the host thread, at the last update */
    uint64_t steal_due_tsc;
    int schedstat_fd, tid;
    _Atomic bool kicked;
};

#endif
