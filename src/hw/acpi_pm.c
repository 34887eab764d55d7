/* ACPI fixed hardware. Registers are bytes in a small array, so that accesses of every size work; status bits are
 * cleared by writing ones. SCI is a level: the OR of all enabled status bits. */
#include "hw/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/pack.h"

#define PM_TIMER_HZ 3579545ULL
#define NS_PER_S 1000000000ULL

enum { PM1_TIMER = 0x0001, PM1_GLOBAL = 0x0020, PM1_POWER_BUTTON = 0x0100, PM1_RTC = 0x0400, PM1_WAKE = 0x8000 };
/* Longest life of a VM that a saved state may claim: 146 years, with which no sum here overflows. */
#define PM_AGE_MAX_NS (1ULL << 62)

enum { PM1_SCI_EN = 0x0001, PM1_BM_RLD = 0x0002, PM1_SLP_TYP_SHIFT = 10, PM1_SLP_EN = 0x2000 };

struct acpi_pm {
    struct acpi_pm_config config;
    pthread_mutex_t lock;
    struct hw_timer *timer;
    uint64_t start_ns; /* monotonic time at which the PM timer was 0 */
    uint16_t status, enable, control, gpe_status, gpe_enable;
    uint64_t tick_msb; /* timer bits 31 and up when they were last looked at */
    bool level;
};

static uint64_t acpi_pm_now_locked(const struct acpi_pm *p)
{
    return p->config.time.ops->mono_ns(p->config.time.opaque) - p->start_ns;
}

static uint64_t acpi_pm_ticks(uint64_t age_ns)
{
    return (uint64_t)((unsigned __int128)age_ns * PM_TIMER_HZ / NS_PER_S);
}

static uint64_t acpi_pm_ticks_locked(const struct acpi_pm *p)
{
    return acpi_pm_ticks(acpi_pm_now_locked(p));
}

/* TMR_STS is set whenever bit 31 changes (section 4.8.2.1). */
static void acpi_pm_catch_up_locked(struct acpi_pm *p)
{
    uint64_t msb = acpi_pm_ticks_locked(p) >> 31;

    if (msb != p->tick_msb)
        p->status |= PM1_TIMER;
    p->tick_msb = msb;
}

static void acpi_pm_update_locked(struct acpi_pm *p)
{
    bool level;
    uint64_t at_ns = 0;

    acpi_pm_catch_up_locked(p);
    level = (p->status & p->enable & (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC)) ||
            (p->gpe_status & p->gpe_enable);
    if (level != p->level) {
        p->level = level;
        irq_set(&p->config.sci, level);
    }
    /* One more nanosecond than the division gives, so that the tick has been reached when the timer fires. */
    if (p->enable & PM1_TIMER && !(p->status & PM1_TIMER))
        at_ns = p->start_ns + 1 + (uint64_t)((unsigned __int128)((p->tick_msb + 1) << 31) * NS_PER_S / PM_TIMER_HZ);
    p->config.time.ops->timer_set(p->timer, at_ns);
}

static void acpi_pm_timer_fired(void *opaque)
{
    struct acpi_pm *p = opaque;

    pthread_mutex_lock(&p->lock);
    acpi_pm_update_locked(p);
    pthread_mutex_unlock(&p->lock);
}

static void acpi_pm_image_locked(struct acpi_pm *p, uint8_t image[ACPI_PM_SIZE])
{
    memset(image, 0, ACPI_PM_SIZE);
    acpi_pm_catch_up_locked(p);
    store_le16(&image[ACPI_PM_EVENT], p->status);
    store_le16(&image[ACPI_PM_EVENT + 2], p->enable);
    store_le16(&image[ACPI_PM_CONTROL], p->control | PM1_SCI_EN);
    store_le32(&image[ACPI_PM_TIMER], (uint32_t)acpi_pm_ticks_locked(p));
    store_le16(&image[ACPI_PM_GPE0], p->gpe_status);
    store_le16(&image[ACPI_PM_GPE0 + 2], p->gpe_enable);
}

static void acpi_pm_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct acpi_pm *p = dev;
    uint8_t image[ACPI_PM_SIZE];

    pthread_mutex_lock(&p->lock);
    acpi_pm_image_locked(p, image);
    memcpy(data, &image[off], len);
    pthread_mutex_unlock(&p->lock);
}

/* A write of bytes `data` at off, seen by the 16-bit register at reg: the bits it gives, and in *ret_mask which of
 * them. */
static uint16_t acpi_pm_slice(unsigned reg, unsigned off, const uint8_t *data, unsigned len, uint16_t *ret_mask)
{
    uint8_t bits[2] = { 0 }, mask[2] = { 0 };

    for (unsigned i = 0; i < len; i++) {
        if (off + i - reg < 2) {
            bits[off + i - reg] = data[i];
            mask[off + i - reg] = 0xff;
        }
    }
    *ret_mask = load_le16(mask);
    return load_le16(bits);
}

static uint16_t acpi_pm_merge(uint16_t old, uint16_t bits, uint16_t mask)
{
    return (uint16_t)((old & ~mask) | (bits & mask));
}

/* Returns whether the guest enters S5. */
static bool acpi_pm_control_locked(struct acpi_pm *p, uint16_t bits, uint16_t mask)
{
    p->control = acpi_pm_merge(p->control, bits, mask) & (PM1_BM_RLD | 7 << PM1_SLP_TYP_SHIFT);
    return bits & PM1_SLP_EN && p->control >> PM1_SLP_TYP_SHIFT == ACPI_PM_SLP_TYP_S5;
}

static void acpi_pm_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct acpi_pm *p = dev;
    unsigned at = (unsigned)off;
    uint16_t bits, mask;
    bool off_now;

    pthread_mutex_lock(&p->lock);
    acpi_pm_catch_up_locked(p);
    p->status &= (uint16_t)~acpi_pm_slice(ACPI_PM_EVENT, at, data, len, &mask);
    bits = acpi_pm_slice(ACPI_PM_EVENT + 2, at, data, len, &mask);
    p->enable = acpi_pm_merge(p->enable, bits, mask) & (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC);
    bits = acpi_pm_slice(ACPI_PM_CONTROL, at, data, len, &mask);
    off_now = acpi_pm_control_locked(p, bits, mask);
    p->gpe_status &= (uint16_t)~acpi_pm_slice(ACPI_PM_GPE0, at, data, len, &mask);
    bits = acpi_pm_slice(ACPI_PM_GPE0 + 2, at, data, len, &mask);
    p->gpe_enable = acpi_pm_merge(p->gpe_enable, bits, mask);
    acpi_pm_update_locked(p);
    pthread_mutex_unlock(&p->lock);
    if (off_now && p->config.power_off)
        p->config.power_off(p->config.opaque);
}

static const struct bus_ops acpi_pm_bus_ops = { .read = acpi_pm_read, .write = acpi_pm_write };

int acpi_pm_new(const struct acpi_pm_config *config, struct acpi_pm **ret_pm)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    p->config = *config;
    p->start_ns = config->time.ops->mono_ns(config->time.opaque);
    r = -pthread_mutex_init(&p->lock, NULL);
    if (r < 0) {
        free(p);
        return r;
    }
    r = config->time.ops->timer_new(config->time.opaque, acpi_pm_timer_fired, p, &p->timer);
    if (r == 0)
        r = bus_add(config->pio, config->base, ACPI_PM_SIZE, &acpi_pm_bus_ops, p);
    if (r < 0) {
        acpi_pm_free(p);
        return r;
    }
    *ret_pm = p;
    return 0;
}

void acpi_pm_free(struct acpi_pm *p)
{
    if (!p)
        return;
    bus_remove(p->config.pio, p->config.base, p);
    p->config.time.ops->timer_free(p->timer);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void acpi_pm_press_power(struct acpi_pm *p)
{
    pthread_mutex_lock(&p->lock);
    p->status |= PM1_POWER_BUTTON;
    acpi_pm_update_locked(p);
    pthread_mutex_unlock(&p->lock);
}

void acpi_pm_raise_gpe(struct acpi_pm *p, unsigned n)
{
    CHECK(n < 16);
    pthread_mutex_lock(&p->lock);
    p->gpe_status |= (uint16_t)BIT(n);
    acpi_pm_update_locked(p);
    pthread_mutex_unlock(&p->lock);
}

void acpi_pm_save(struct acpi_pm *p, struct buf *b)
{
    pthread_mutex_lock(&p->lock);
    pack_u64(b, acpi_pm_now_locked(p));
    pack_u64(b, p->tick_msb);
    pack_u16(b, p->status);
    pack_u16(b, p->enable);
    pack_u16(b, p->control);
    pack_u16(b, p->gpe_status);
    pack_u16(b, p->gpe_enable);
    pthread_mutex_unlock(&p->lock);
}

int acpi_pm_restore(struct acpi_pm *p, uint16_t version, struct unpack *in)
{
    uint64_t age_ns = unpack_u64(in), tick_msb = unpack_u64(in);
    uint16_t status = unpack_u16(in), enable = unpack_u16(in), control = unpack_u16(in);
    uint16_t gpe_status = unpack_u16(in), gpe_enable = unpack_u16(in);
    int r = unpack_end(in);

    (void)version;
    if (r == 0 && (age_ns > PM_AGE_MAX_NS || tick_msb > acpi_pm_ticks(age_ns) >> 31 ||
                   enable & ~(PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC) ||
                   control & ~(PM1_BM_RLD | 7 << PM1_SLP_TYP_SHIFT)))
        r = -EBADMSG;
    if (r < 0)
        return r;
    pthread_mutex_lock(&p->lock);
    /* May wrap around: only differences to later times count. */
    p->start_ns = p->config.time.ops->mono_ns(p->config.time.opaque) - age_ns;
    p->tick_msb = tick_msb;
    p->status = status;
    p->enable = enable;
    p->control = control;
    p->gpe_status = gpe_status;
    p->gpe_enable = gpe_enable;
    acpi_pm_update_locked(p);
    pthread_mutex_unlock(&p->lock);
    return 0;
}
