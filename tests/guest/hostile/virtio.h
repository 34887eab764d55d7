/* A small virtio 1.2 driver over PCI for the hostile guest: it follows the specification until a case makes it
 * misbehave, so every step is a function of its own and every ring lies open. One request at a time in each queue,
 * polling, no interrupts. The machine: at least two block devices (0: victim, 1: witness), a network and an entropy
 * device. */
#ifndef TESTS_GUEST_HOSTILE_VIRTIO_H
#define TESTS_GUEST_HOSTILE_VIRTIO_H

#include "long.h"

#define ECAM 0xe0000000ULL
#define MMIO_HOLE 0xd8000000ULL /* in the 32-bit PCI window, behind all BARs */

enum { VIRTIO_NET = 1, VIRTIO_BLK = 2, VIRTIO_RNG = 4, VIRTIO_VSOCK = 19 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_AVAIL = 0x80, DESC_USED = 0x8000 };
enum {
    ST_ACK = 1,
    ST_DRIVER = 2,
    ST_DRIVER_OK = 4,
    ST_FEATURES_OK = 8,
    ST_NEEDS_RESET = 0x40,
    ST_FAILED = 0x80,
};
/* Common configuration, offsets (virtio 1.2 section 4.1.4.3). */
enum {
    C_DEVICE_FEATURE_SELECT = 0,
    C_DEVICE_FEATURE = 4,
    C_DRIVER_FEATURE_SELECT = 8,
    C_DRIVER_FEATURE = 12,
    C_CONFIG_VECTOR = 16,
    C_NUM_QUEUES = 18,
    C_STATUS = 20,
    C_GENERATION = 21,
    C_QUEUE_SELECT = 22,
    C_QUEUE_SIZE = 24,
    C_QUEUE_VECTOR = 26,
    C_QUEUE_ENABLE = 28,
    C_QUEUE_NOTIFY_OFF = 30,
    C_QUEUE_DESC = 32,
    C_QUEUE_DRIVER = 40,
    C_QUEUE_DEVICE = 48,
};
#define F_INDIRECT BIT(28)
#define F_EVENT_IDX BIT(29)
#define F_VERSION_1 BIT(32)
#define F_PACKED BIT(34)

#define QUEUES_MAX 4
#define RING_SIZE 256

/* Split: addr, len, flags, next. Packed: the last two are id, flags. */
struct desc {
    uint64_t addr;
    uint32_t len;
    union {
        struct {
            uint16_t flags, next;
        };
        struct {
            uint16_t id, pflags;
        };
    };
};

struct ring {
    uint16_t size;
    volatile struct desc *desc;
    volatile uint16_t *driver; /* split: flags, idx, ring[], used_event */
    volatile uint16_t *device; /* split: flags, idx, {id, len as 32 bits}[], avail_event */
    uint16_t avail, used;      /* split: indices; packed: slots */
    bool avail_wrap, used_wrap;
    uint32_t used_len; /* of the chain that came back last */
    uint8_t *buf;      /* BUF_BYTES for requests, and a guard page behind */
};
#define BUF_BYTES 65536

struct vdev {
    const char *name;
    unsigned slot, type;
    volatile uint8_t *config; /* in ECAM */
    volatile uint8_t *bar, *common, *isr, *space, *notify, *msix;
    unsigned bar_index, pci_cap, msix_cap;
    uint32_t notify_step;
    unsigned n_queues;
    uint64_t features; /* as given to vdev_start last */
    bool packed;
    struct ring q[QUEUES_MAX];
};

extern struct vdev *disk0, *disk1, *net, *rng;
extern struct vdev devices[8];
extern unsigned n_devices;
extern uint64_t ram_end; /* first address behind low RAM */

/* ---- registers ---- */
#define DEFINE_MMIO(bits)                                           \
    static inline uint##bits##_t rd##bits(volatile const void *p)   \
    {                                                               \
        return *(volatile const uint##bits##_t *)p;                 \
    }                                                               \
    static inline void wr##bits(volatile void *p, uint##bits##_t v) \
    {                                                               \
        *(volatile uint##bits##_t *)p = v;                          \
    }
DEFINE_MMIO(8)
DEFINE_MMIO(16)
DEFINE_MMIO(32)
DEFINE_MMIO(64)

static inline void outw(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t value;

    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* Milliseconds since some moment, by the ACPI timer. */
uint64_t now_ms(void);

/* ---- devices ---- */
void devices_find(void);
/* Write 0 and wait until it reads back. False: it never did. */
bool vdev_reset(struct vdev *d);
/* Reset and go as far as FEATURES_OK; false: refused. VERSION_1 is added. */
bool vdev_begin(struct vdev *d, uint64_t features);
/* Registers of queue i, without enabling it. */
void vdev_set_queue(struct vdev *d, unsigned i, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device);
void vdev_enable_queue(struct vdev *d, unsigned i);
/* Fresh, empty memory for ring i. */
void ring_clear(struct vdev *d, unsigned i);
/* The whole of it: all queues with rings of their own, DRIVER_OK. */
bool vdev_start(struct vdev *d, uint64_t features);
uint8_t vdev_status(struct vdev *d);
void vdev_set_status(struct vdev *d, uint8_t status);
/* Wait for DEVICE_NEEDS_RESET. */
bool vdev_wait_broken(struct vdev *d);
void vdev_kick(struct vdev *d, unsigned i);

/* ---- requests ---- */
struct seg {
    uint64_t addr;
    uint32_t len;
    bool write;
};
/* Write descriptor n of a split ring. */
void desc_set(struct ring *r, unsigned n, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
/* Make a split chain available by its head; no kick. */
void ring_publish(struct ring *r, uint16_t head);
/* Make a chain of n segments available in either format; no kick. */
void ring_add(struct vdev *d, unsigned i, const struct seg *segs, unsigned n);
/* Wait for one chain to come back; false: it does not, or the device needs a reset. */
bool ring_wait(struct vdev *d, unsigned i);
bool ring_poll(struct vdev *d, unsigned i);
bool ring_request(struct vdev *d, unsigned i, const struct seg *segs, unsigned n);
/* A block request; returns the status byte, or 0xff where it did not come back. */
uint8_t blk_request(struct vdev *d, unsigned i, uint32_t type, uint64_t sector, void *data, uint32_t len, bool write);
/* Word n of the disk's known content. */
uint64_t blk_word(const struct vdev *d, uint64_t n);

/* ---- health ---- */
/* A request of every kind that the device is for, with its result compared. */
bool vdev_works(struct vdev *d);
/* The same for all devices but one (or NULL), through their second queues too. */
void others_work(const struct vdev *victim);
/* Reset, start and try the device that a case has broken. */
void revive(struct vdev *d, const char *what);

/* Cases. */
struct hostile_case {
    const char *name;
    void (*run)(void);
};
struct hostile_group {
    const char *name;
    const struct hostile_case *cases; /* ends with a NULL name */
    void (*run)(void);                /* or everything in one */
};
extern const struct hostile_case split_cases[], packed_cases[], register_cases[], pci_cases[], msix_cases[],
    race_cases[];
void split_run(void);
void packed_run(void);
void random_run(void);
void quiet_run(void);
void triple_run(void);
void exec_mmio_run(void);
void exec_end_run(void);
void flood_run(void);
void flood_on_run(void);
void storm_run(void);
void starve_run(void);
void busy_run(void);
#endif
