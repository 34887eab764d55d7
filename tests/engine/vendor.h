/* In what CPUs of different vendors differ, where no manual decides: for the generators, to leave it out on a host
 * whose behaviour the engine (which follows AMD's there) does not have; for the comparisons, to excuse it. */
#ifndef ENGINE_VENDOR_H
#define ENGINE_VENDOR_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

/* The host is one of Intel's. */
bool vendor_intel(void);

/* ROL and ROR by an immediate count other than 1: Intel's CPUs leave OF as it was, others compute it, as Intel's do for
 * a count in CL. ("Undefined", SDM volume 2.) */
bool vendor_rotates(const ZydisDecodedInstruction *zi);
/* An x87 instruction that stores to memory. With an exception of its own that is not masked, Intel's CPUs store
 * nothing, and so never come to the fault of the access; AMD's check the access first. */
bool vendor_x87_store(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);
/* Stores the addresses of the last x87 instruction and its operand: Intel's CPUs always keep them, AMD's (and the
 * engine) only while an exception is pending. */
bool vendor_x87_pointers(const ZydisDecodedInstruction *zi);
/* An MMX instruction that stores to memory: Intel's CPUs enter MMX mode (tags, top of stack) even where the store
 * faults. */
bool vendor_mmx_store(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);
/* A gather: which elements have arrived before a fault is up to the CPU. */
bool vendor_gather(const ZydisDecodedInstruction *zi);
/* CMPS: which of its two operands is read first. */
bool vendor_compares(const ZydisDecodedInstruction *zi);
/* REP CMPS or SCAS: until they are done, Intel's CPUs show the flags from before the instruction, AMD's those of the
 * last comparison. code: the bytes at the instruction, at least one. */
bool vendor_rep_compare(const uint8_t *code, unsigned len, bool compat);

#endif
