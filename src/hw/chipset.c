/* Small chipset ports, each a line or two of behaviour. */
#include "hw/chipset.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/pack.h"

enum { CF9_SYSTEM_RESET = 0x02, CF9_RESET_CPU = 0x04, CF9_FULL_RESET = 0x08 };
enum { A_FAST_RESET = 0x01, A_GATE_A20 = 0x02 };

struct chipset {
    struct chipset_config config;
    pthread_mutex_t lock;
    uint8_t cf9, control_a, post;
};

static uint8_t chipset_get(struct chipset *c, const uint8_t *reg)
{
    uint8_t v;

    pthread_mutex_lock(&c->lock);
    v = *reg;
    pthread_mutex_unlock(&c->lock);
    return v;
}

/* Store value and return the bits that went from 0 to 1. */
static uint8_t chipset_put(struct chipset *c, uint8_t *reg, uint8_t value)
{
    uint8_t rising;

    pthread_mutex_lock(&c->lock);
    rising = value & (uint8_t) ~*reg;
    *reg = value;
    pthread_mutex_unlock(&c->lock);
    return rising;
}

static void chipset_reset(struct chipset *c)
{
    if (c->config.reset)
        c->config.reset(c->config.opaque);
}

static void chipset_cf9_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct chipset *c = dev;

    memset(data, 0xff, len);
    *(uint8_t *)data = chipset_get(c, &c->cf9);
}

/* A rising RST_CPU resets, whatever the kind. */
static void chipset_cf9_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct chipset *c = dev;
    uint8_t value = *(const uint8_t *)data & (CF9_SYSTEM_RESET | CF9_RESET_CPU | CF9_FULL_RESET);

    if (chipset_put(c, &c->cf9, value) & CF9_RESET_CPU)
        chipset_reset(c);
}

const struct bus_ops chipset_cf9_ops = { .read = chipset_cf9_read, .write = chipset_cf9_write };

static void chipset_a_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct chipset *c = dev;

    *(uint8_t *)data = chipset_get(c, &c->control_a);
}

/* A20 is always open; the bit is only remembered. */
static void chipset_a_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct chipset *c = dev;

    if (chipset_put(c, &c->control_a, *(const uint8_t *)data) & A_FAST_RESET)
        chipset_reset(c);
}

static const struct bus_ops chipset_a_ops = { .read = chipset_a_read, .write = chipset_a_write };

static void chipset_post_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct chipset *c = dev;

    *(uint8_t *)data = chipset_get(c, &c->post);
}

static void chipset_post_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct chipset *c = dev;

    chipset_put(c, &c->post, *(const uint8_t *)data);
}

static const struct bus_ops chipset_post_ops = { .read = chipset_post_read, .write = chipset_post_write };

static void chipset_exit_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memset(data, 0, len);
}

static void chipset_exit_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct chipset *c = dev;
    uint32_t code = 0;

    memcpy(&code, data, MIN(len, sizeof(code)));
    if (off == 0 && c->config.exit)
        c->config.exit(c->config.opaque, code);
}

static const struct bus_ops chipset_exit_ops = { .read = chipset_exit_read, .write = chipset_exit_write };

static void chipset_nothing_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memset(data, 0xff, len);
}

static void chipset_nothing_write(void *dev, uint64_t off, const void *data, unsigned len)
{
}

static const struct bus_ops chipset_nothing_ops = { .read = chipset_nothing_read, .write = chipset_nothing_write };

struct chipset_range {
    uint16_t base, size;
    const struct bus_ops *ops;
};

/* The claims without behaviour keep such accesses out of a trace of unknown ports; they read as an empty bus does. */
static const struct chipset_range chipset_ranges[] = {
    { 0x80, 1, &chipset_post_ops },
    { 0x92, 1, &chipset_a_ops },
    { 0x00, 0x10, &chipset_nothing_ops },              /* DMA controller 1 */
    { 0x81, 0x0f, &chipset_nothing_ops },              /* DMA pages */
    { 0xc0, 0x20, &chipset_nothing_ops },              /* DMA controller 2 */
    { 0xed, 1, &chipset_nothing_ops },                 /* the other I/O delay port */
    { 0xf0, 2, &chipset_nothing_ops },                 /* coprocessor busy latch */
    { CHIPSET_DEBUG_EXIT_PORT, 4, &chipset_exit_ops }, /* last: only where asked for */
};

int chipset_new(const struct chipset_config *config, struct chipset **ret_chipset)
{
    struct chipset *c = calloc(1, sizeof(*c));
    size_t n = ARRAY_SIZE(chipset_ranges) - (config->debug_exit ? 0 : 1);
    int r;

    if (!c)
        return -ENOMEM;
    c->config = *config;
    c->control_a = A_GATE_A20;
    r = -pthread_mutex_init(&c->lock, NULL);
    if (r < 0) {
        free(c);
        return r;
    }
    for (size_t i = 0; r == 0 && i < n; i++)
        r = bus_add(config->pio, chipset_ranges[i].base, chipset_ranges[i].size, chipset_ranges[i].ops, c);
    if (r < 0) {
        chipset_free(c);
        return r;
    }
    *ret_chipset = c;
    return 0;
}

void chipset_free(struct chipset *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(chipset_ranges); i++)
        bus_remove(c->config.pio, chipset_ranges[i].base, c);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void chipset_save(struct chipset *c, struct buf *b)
{
    pthread_mutex_lock(&c->lock);
    pack_u8(b, c->cf9);
    pack_u8(b, c->control_a);
    pack_u8(b, c->post);
    pthread_mutex_unlock(&c->lock);
}

int chipset_restore(struct chipset *c, uint16_t version, struct unpack *in)
{
    uint8_t cf9 = unpack_u8(in), control_a = unpack_u8(in), post = unpack_u8(in);
    int r = unpack_end(in);

    (void)version;
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->lock);
    c->cf9 = cf9;
    c->control_a = control_a;
    c->post = post;
    pthread_mutex_unlock(&c->lock);
    return 0;
}
