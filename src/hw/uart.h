/* 16550A serial port without a baud rate: characters move at once, as fast as the two ends can take them. Output goes
 * to a sink that may refuse (the transmitter then stays busy, no thread waits); input is pushed by its source as far as
 * there is room. Own lock; all functions on any thread. Spec: National Semiconductor PC16550D. */
#ifndef HW_UART_H
#define HW_UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "hw/bus.h"
#include "hw/irq.h"

struct buf;
struct uart;
struct unpack;

#define UART_STATE_VERSION 1

/* The far end. write is called with the port's lock held, on a vCPU's thread or that of uart_output_ready: it must not
 * block and must not call uart_* functions. */
struct uart_ops {
    /* Take up to len bytes; returns how many. When it takes fewer, the sink calls uart_output_ready once there is room.
     */
    size_t (*write)(void *opaque, const uint8_t *data, size_t len);
    /* There is room for input again, after uart_receive took less than it was given or uart_can_receive said 0. No lock
     * is held. NULL: not wanted. */
    void (*input_wanted)(void *opaque);
};

struct uart_config {
    struct bus *pio; /* borrowed */
    uint16_t base;   /* first of 8 ports */
    struct irq_line irq;
    const struct uart_ops *ops; /* NULL: output is dropped */
    void *opaque;
};

int uart_new(const struct uart_config *config, struct uart **ret_uart) MUST_USE;
void uart_free(struct uart *u); /* NULL accepted; vCPUs are stopped */
DEFINE_AUTO(uart, struct uart, uart_free)

/* How many bytes uart_receive would take now. */
size_t uart_can_receive(struct uart *u);
/* Characters arrive. Returns how many were taken; never overruns the guest. */
size_t uart_receive(struct uart *u, const uint8_t *data, size_t len);
/* A break condition on the line. */
void uart_receive_break(struct uart *u);
/* The sink has room again. */
void uart_output_ready(struct uart *u);
/* Held, it takes no input, though uart_can_receive and uart_receive remember that some was refused. */
void uart_hold(struct uart *u, bool hold);

/* Append its state (docs/snapshot-format.md). The vCPUs stand. */
void uart_save(struct uart *u, struct buf *b);
/* Take a state over and drive the line accordingly; before the vCPUs run. Output that was not taken yet waits for
 * uart_output_ready. -EBADMSG: it makes no sense, the device is to be freed. */
int uart_restore(struct uart *u, uint16_t version, struct unpack *in) MUST_USE;

#endif
