/* How a device asks the engine to turn a guest write into an eventfd signal without a device access (KVM: ioeventfd).
 */
#ifndef HW_DOORBELL_H
#define HW_DOORBELL_H

#include <stdint.h>

/* add: a guest write of len bytes (2 or 4) at guest-physical address gpa signals eventfd fd and goes no further, until
 * del with the same arguments. Returns 0 or -errno; where it fails the device still gets the write through its register
 * handler and must serve it there. Both on any thread. add == NULL: no doorbells. */
struct doorbell_sink {
    int (*add)(void *opaque, uint64_t gpa, unsigned len, int fd);
    void (*del)(void *opaque, uint64_t gpa, unsigned len, int fd);
    void *opaque;
};

#endif
