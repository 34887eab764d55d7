/* Constants of the MSR profile that reset and CPUID share. */
#ifndef CPU_BT_MSR_H
#define CPU_BT_MSR_H

#include "base/bits.h"

#define BT_MTRR_VARS 8
#define BT_PAT_RESET 0x0007040600070406ULL

/* IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO,
 * FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. Guest code does not speculate as itself here, and each
 * of these saves the guest a mitigation. */
#define BT_ARCH_CAP                                                                                                   \
    (BIT64(0) | BIT64(1) | BIT64(3) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(8) | BIT64(13) | BIT64(14) | BIT64(15) | \
     BIT64(20) | BIT64(24) | BIT64(26) | BIT64(27) | BIT64(62))

#endif
