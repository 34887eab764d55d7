/* Running one instruction natively, with a given register and memory state: the oracle of test_bt_fp.c. */
#ifndef TESTS_UNIT_BT_FP_HOST_H
#define TESTS_UNIT_BT_FP_HOST_H

#include <stdbool.h>
#include <stdint.h>

#define HOST_DATA_PAGES 2U
#define HOST_DATA_SIZE (HOST_DATA_PAGES * 4096U) /* a page that faults lies on each side */

struct host_state {
    uint64_t r[16];
    uint64_t flags;
    uint8_t env[32];                              /* FNSTENV after the instruction */
    uint8_t x[1024] __attribute__((aligned(64))); /* XSAVE image, components 0..2 */
};

struct host_cpu;

int host_cpu_new(struct host_cpu **ret);
void host_cpu_free(struct host_cpu *h);
/* Take the signals of trapping instructions. In each test: cmocka has its own handlers between tests. */
void host_catch_signals(void);
uint8_t *host_data(struct host_cpu *h);
/* Address at which the instruction of the next host_run will stand. */
uint64_t host_insn_address(const struct host_cpu *h);
/* Run n bytes of code (one instruction) from *in. Returns 0, or the vector of the exception. */
unsigned host_run(struct host_cpu *h, const uint8_t *code, unsigned n, const struct host_state *in,
                  struct host_state *out);

#endif
