/* The far end of the first serial port: a socket to the CLI, a file, or nothing. Output that the other side does not
 * take waits in a bounded buffer; when that is full the UART holds back the guest. */
#ifndef VMM_SERIAL_H
#define VMM_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

struct loop;
struct vmm_serial;

/* The guest's end. Loop thread. */
struct vmm_serial_port {
    /* Input arrives. Returns how many bytes were taken; after fewer than len, vmm_serial_input_wanted follows some
     * time. */
    size_t (*receive)(void *opaque, const uint8_t *data, size_t len);
    /* There is room for output again, after vmm_serial_write took fewer than it was given. */
    void (*output_ready)(void *opaque);
    void *opaque;
};

/* fd: descriptor to take over (non-blocking from now on, closed by free), or -1: output is dropped. input: read it too.
 */
int vmm_serial_new(struct loop *loop, int fd, bool input, struct vmm_serial **ret_serial) MUST_USE;
/* Connect the port (copied); before the loop runs. */
int vmm_serial_attach(struct vmm_serial *s, const struct vmm_serial_port *port) MUST_USE;
/* Write out what waits; a slow reader gets a second. vCPUs are stopped. */
void vmm_serial_drain(struct vmm_serial *s);
/* Drains. */
void vmm_serial_free(struct vmm_serial *s); /* NULL accepted */

/* For the device's ops. Any thread; returns how many bytes were taken. */
size_t vmm_serial_write(void *serial, const uint8_t *data, size_t len);
void vmm_serial_input_wanted(void *serial);

#endif
