/* The engine probe: does this engine run a stock guest, and at a useful speed? It boots a tiny guest (probe_guest.S)
 * from real mode to long mode and user mode and compares what the guest computed. The mere presence of /dev/kvm proves
 * nothing: a KVM without hardware behind it can fail on instructions that every kernel uses. */
#ifndef VMM_PROBE_H
#define VMM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/cpu.h"

#define VMM_PROBE_REASON_MAX 192

struct vmm_probe_result {
    bool ok;
    bool out_of_time;                  /* it lost by being slow, or had no end */
    int error;                         /* -errno where the engine could not even be set up, else 0 */
    char reason[VMM_PROBE_REASON_MAX]; /* why it lost: a phrase without a final stop. Empty where ok. */
    uint64_t elapsed_ns;               /* of the whole probe */
    uint64_t insn_ps;                  /* picoseconds for each instruction of a plain loop; 0: did not get there */
};

/* Probe one engine. Runs the guest on the calling thread for 2 s of wall-clock time at most. Always fills *ret. */
void vmm_probe_engine(const struct cpu_ops *ops, struct vmm_probe_result *ret);

#endif
