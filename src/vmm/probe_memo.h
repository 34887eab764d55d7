/* What the probe of KVM said is kept in RUNTIME/kvm-probe, because it costs some 40 ms of every start: for this boot of
 * the host, this /dev/kvm (a module that is loaded again makes another one) and this version of Caisson. */
#ifndef VMM_PROBE_MEMO_H
#define VMM_PROBE_MEMO_H

#include <stdbool.h>

/* Whether KVM is to be used: as it was found before, or by a probe now (vmm/probe.h). A probe that lost for want of
 * time is not kept, since the host may have been busy. Where nothing can be kept, each call probes. */
bool vmm_probe_memo_kvm(void);

#endif
