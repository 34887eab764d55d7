/* A small D-Bus client: method calls on a message bus or straight on a peer's socket, as systemd's, and waiting for a
 * signal. Own, since the container runtime is linked statically and libsystemd is not to be had that way (and dlopen
 * does not work there); one message at a time, little-endian, no descriptors. Not thread-safe; nothing waits longer
 * than DBUS_TIMEOUT_MS. Spec: D-Bus Specification 0.36+. */
#ifndef SYS_DBUS_H
#define SYS_DBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/cleanup.h"

#define DBUS_TIMEOUT_MS 30000
#define DBUS_NAME_MAX 256

struct sys_dbus;

/* Connect to the socket at path and authenticate as this process's user. bus: it is a message bus, to be greeted, not
 * the service itself. -errno of connect; -EPROTO: it does not talk D-Bus; -EACCES: refused; -ETIMEDOUT. */
int sys_dbus_open(const char *path, bool bus, struct sys_dbus **ret) MUST_USE;
void sys_dbus_free(struct sys_dbus *d); /* NULL accepted */
DEFINE_AUTO(sys_dbus, struct sys_dbus, sys_dbus_free)

/* The body of a message, built by the functions below; buf_error tells at its end. */
void sys_dbus_put_u32(struct buf *b, uint32_t v);
void sys_dbus_put_u64(struct buf *b, uint64_t v);
void sys_dbus_put_bool(struct buf *b, bool v);
void sys_dbus_put_string(struct buf *b, const char *s); /* and object paths */
void sys_dbus_put_signature(struct buf *b, const char *s);
/* An array of elements aligned to align (8: structs): its length is filled in at the end. */
struct sys_dbus_array {
    size_t length_at, start;
};
struct sys_dbus_array sys_dbus_begin_array(struct buf *b, size_t align);
void sys_dbus_end_array(struct buf *b, struct sys_dbus_array a);
void sys_dbus_align(struct buf *b, size_t align); /* 8 before each struct */

struct sys_dbus_call {
    const char *destination, *path, *interface, *member;
    const char *signature; /* NULL: no arguments */
    const struct buf *body;
};

/* Call and wait for the answer. ret_text, where not NULL, takes the answer's first string (or object path), "" where
 * there is none. -EREMOTEIO: the answer is an error, and ret_text has its message; -ECONNRESET, -ETIMEDOUT, -EPROTO. */
int sys_dbus_call(struct sys_dbus *d, const struct sys_dbus_call *c, char ret_text[DBUS_NAME_MAX]) MUST_USE;
/* Wait for a signal of that name whose second argument is the object path object and whose arguments are (u o s s), as
 * systemd's JobRemoved; ret_result takes the fourth. Errors as above. */
int sys_dbus_wait_job(struct sys_dbus *d, const char *member, const char *object,
                      char ret_result[DBUS_NAME_MAX]) MUST_USE;

#endif
