/* virtio-console with a single port: a byte stream in both directions. Spec: virtio 1.2 section 5.3. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct buf;
struct unpack;
struct virtio_console;

#define VIRTIO_CONSOLE_STATE_VERSION 1

/* The host's end of the stream. Loop thread. */
struct virtio_console_host {
    /* Take output of the guest. Returns the bytes taken, fewer than len (0 included) for "no more now": the host then
     * calls virtio_console_writable once there is room. */
    size_t (*write)(void *opaque, const uint8_t *data, size_t len);
    /* The guest has room for input again, after virtio_console_input took less than all. May be NULL. */
    void (*input_ready)(void *opaque);
    void *opaque;
};

struct virtio_console_config {
    struct virtio_console_host host; /* copied */
    uint16_t columns, rows;          /* 0: unknown */
    int slot;                        /* PCI slot, -1: next free */
};

/* Before vCPUs run. -ENOMEM; errors of virtio_pci_new. */
int virtio_console_new(const struct virtio_env *env, const struct virtio_console_config *config,
                       struct virtio_console **ret_console) MUST_USE;
/* vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_console_free(struct virtio_console *c);

/* Loop thread: input for the guest, returns the bytes taken; the host has room for output; the terminal's size changed.
 */
size_t virtio_console_input(struct virtio_console *c, const uint8_t *data, size_t len);
void virtio_console_writable(struct virtio_console *c);
void virtio_console_resize(struct virtio_console *c, uint16_t columns, uint16_t rows);

/* Held, the device serves no queue and takes no input. Released, it goes on. */
void virtio_console_hold(struct virtio_console *c, bool hold);
/* Append its state (docs/snapshot-format.md). Held, the vCPUs stand. */
void virtio_console_save(struct virtio_console *c, struct buf *b);
/* Take a state over; before the vCPUs run. It is held until virtio_console_hold(..., false). -EBADMSG: it makes no
 * sense, the device is to be freed. */
int virtio_console_restore(struct virtio_console *c, uint16_t version, struct unpack *in) MUST_USE;

#endif
