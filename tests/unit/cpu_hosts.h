/* Machines that never were, for tests of CPU models: CPUID functions of hosts, and offers of engines on them. */
#ifndef TESTS_CPU_HOSTS_H
#define TESTS_CPU_HOSTS_H

#include "cpu/bt/sys.h"
#include "cpu/model.h"

#define HOSTS_CPUID_MAX 96

/* What bt offers on: a machine of Intel's and one of AMD's that have AVX2, AES and more, with all else different; the
 * same as Intel's without AES and RDRAND; one without AVX; one without SSE4.2. */
bt_cpuid_fn hosts_intel, hosts_amd, hosts_no_aes, hosts_no_avx, hosts_no_sse42;

struct hosts_offer {
    struct kvm_cpuid_entry2 entries[HOSTS_CPUID_MAX];
    unsigned n;
    struct cpu_offer offer;
};

/* Fails the test where bt cannot offer anything. */
void hosts_bt_offer(bt_cpuid_fn *host, struct hosts_offer *ret);
/* An offer as KVM makes it on a machine of AMD's with AVX-512, protection keys and things that no table of ours names.
 */
void hosts_kvm_offer(struct hosts_offer *ret);

#endif
