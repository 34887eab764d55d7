/* Runs one instruction on the host CPU with given registers and flags. */
#ifndef TESTS_BT_NATIVE_H
#define TESTS_BT_NATIVE_H

#include <stdint.h>

/* What the generated code loads and stores; its layout is part of that code. */
struct bt_native_state {
    uint64_t r[16];  /* in the order of the encoding */
    uint64_t rflags; /* arithmetic flags and DF go in, all come out */
    uint64_t host_rsp;
    uint64_t reached; /* branches: 1 where the target (see bt_native_load) was reached */
    struct {
        uint32_t offset;
        uint16_t sel;
    } far_ptr; /* the generated code's own */
};

struct bt_native;

/* Map executable memory and take SIGFPE, SIGILL, SIGSEGV, SIGBUS until bt_native_free. NULL: the host forbids it. */
struct bt_native *bt_native_new(void);
void bt_native_free(struct bt_native *n);
/* Set the instruction, to be run in a 64-bit or a 32-bit code segment. Returns the distance from its end to the place
 * that sets `reached`, for relative branches (64 bits only). In 32-bit code DS, ES and SS are 0x2b, CS is 0x23. */
int bt_native_load(struct bt_native *n, const uint8_t *bytes, unsigned len, unsigned bits);
/* Run it on *s. Returns 0, or the number of the signal that it caused (then *s has the state at the fault, except RSP).
 */
int bt_native_run(struct bt_native *n, struct bt_native_state *s);

#endif
