/* Runs one instruction on the host CPU with given registers and flags. */
#ifndef TESTS_BT_NATIVE_H
#define TESTS_BT_NATIVE_H

#include <stdint.h>

/* What the generated code loads and stores; its layout is part of that code. */
struct bt_native_state {
    uint64_t r[16]; /* in the order of the encoding */
    uint64_t rflags; /* arithmetic flags and DF go in, all come out */
    uint64_t host_rsp;
    uint64_t reached; /* branches: 1 where the target (the byte behind the landing pad) was reached */
};

struct bt_native;

/* Map executable memory and take SIGFPE, SIGILL, SIGSEGV, SIGBUS until bt_native_free. NULL: the host forbids it. */
struct bt_native *bt_native_new(void);
void bt_native_free(struct bt_native *n);
/* Set the instruction. Returns the distance from its end to the place that sets `reached`, for relative branches. */
int bt_native_load(struct bt_native *n, const uint8_t *bytes, unsigned len);
/* Run it on *s. Returns 0, or the number of the signal that it caused (then *s has the state at the fault, except RSP). */
int bt_native_run(struct bt_native *n, struct bt_native_state *s);

#endif
