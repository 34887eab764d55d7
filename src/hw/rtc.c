/* MC146818. The time registers are computed from the clock when they are read; while the SET bit is on they are plain
 * bytes, and turning it off makes them the new time. One timer stands at the next moment at which an enabled interrupt
 * can come; flags that no interrupt waits for are brought up to date when register C is read.
 *
 * The seconds boundaries are those of UTC, so update-ended interrupts come where the source's second changes. Setting
 * the clock keeps them (real chips restart the divider; kernels that care set the time on a boundary anyway). */
#include "hw/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/pack.h"

#define RTC_PORT_INDEX 0x70
#define RTC_RAM 128U
#define NS_PER_S 1000000000ULL
/* Updates begin this long before the second changes (UIP set, datasheet t_BUC). */
#define RTC_UPDATE_NS 244000U

enum {
    RTC_SECONDS = 0,
    RTC_SECONDS_ALARM = 1,
    RTC_MINUTES = 2,
    RTC_MINUTES_ALARM = 3,
    RTC_HOURS = 4,
    RTC_HOURS_ALARM = 5,
    RTC_WEEKDAY = 6,
    RTC_DAY = 7,
    RTC_MONTH = 8,
    RTC_YEAR = 9,
    RTC_A = 10,
    RTC_B = 11,
    RTC_C = 12,
    RTC_D = 13,
};
enum { RTC_A_UIP = 0x80 };
enum { RTC_B_24H = 0x02, RTC_B_BINARY = 0x04, RTC_B_UIE = 0x10, RTC_B_AIE = 0x20, RTC_B_PIE = 0x40, RTC_B_SET = 0x80 };
enum { RTC_C_UF = 0x10, RTC_C_AF = 0x20, RTC_C_PF = 0x40, RTC_C_IRQF = 0x80 };

struct rtc {
    struct rtc_config config;
    pthread_mutex_t lock;
    struct hw_timer *timer;
    uint8_t index;
    uint8_t ram[RTC_RAM]; /* registers too; the time bytes are only valid while SET is on */
    int64_t offset_s;
    int64_t shift_ns; /* of our time to the source's: minus what passed while the VM lay in files */
    int64_t lag_ns;   /* what rtc_catch_up adds to it */
    uint64_t seen_ns; /* guest time up to which flags in C are accounted for */
    bool level;
};

static uint64_t rtc_base_ns_locked(const struct rtc *r)
{
    return r->config.time.ops->utc_ns(r->config.time.opaque) + (uint64_t)r->shift_ns;
}

static uint64_t rtc_now_ns_locked(const struct rtc *r)
{
    /* An offset that would take the clock before 1970 is refused when it is made, so this does not wrap. */
    return rtc_base_ns_locked(r) + (uint64_t)r->offset_s * NS_PER_S;
}

static uint8_t rtc_encode_locked(const struct rtc *r, unsigned v)
{
    return (uint8_t)(r->ram[RTC_B] & RTC_B_BINARY ? v : v / 10 << 4 | v % 10);
}

/* -1: not a number in the present format. */
static int rtc_decode_locked(const struct rtc *r, uint8_t v)
{
    if (r->ram[RTC_B] & RTC_B_BINARY)
        return v;
    return (v & 0x0f) > 9 || v >> 4 > 9 ? -1 : (v >> 4) * 10 + (v & 0x0f);
}

static uint8_t rtc_encode_hour_locked(const struct rtc *r, unsigned hour)
{
    if (r->ram[RTC_B] & RTC_B_24H)
        return rtc_encode_locked(r, hour);
    return (uint8_t)(rtc_encode_locked(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static int rtc_decode_hour_locked(const struct rtc *r, uint8_t v)
{
    int hour;

    if (r->ram[RTC_B] & RTC_B_24H)
        return rtc_decode_locked(r, v);
    hour = rtc_decode_locked(r, v & 0x7f);
    if (hour < 1 || hour > 12)
        return -1;
    return hour % 12 + (v & 0x80 ? 12 : 0);
}

/* Fill the time bytes from guest time. */
static void rtc_store_time_locked(struct rtc *r, uint64_t now_ns)
{
    time_t seconds = (time_t)(now_ns / NS_PER_S);
    struct tm tm;
    unsigned year;

    if (!gmtime_r(&seconds, &tm))
        return;
    year = (unsigned)(tm.tm_year + 1900);
    r->ram[RTC_SECONDS] = rtc_encode_locked(r, (unsigned)tm.tm_sec);
    r->ram[RTC_MINUTES] = rtc_encode_locked(r, (unsigned)tm.tm_min);
    r->ram[RTC_HOURS] = rtc_encode_hour_locked(r, (unsigned)tm.tm_hour);
    r->ram[RTC_WEEKDAY] = rtc_encode_locked(r, (unsigned)tm.tm_wday + 1);
    r->ram[RTC_DAY] = rtc_encode_locked(r, (unsigned)tm.tm_mday);
    r->ram[RTC_MONTH] = rtc_encode_locked(r, (unsigned)tm.tm_mon + 1);
    r->ram[RTC_YEAR] = rtc_encode_locked(r, year % 100);
    r->ram[RTC_CENTURY_REG] = rtc_encode_locked(r, year / 100 % 100);
}

/* Make the time bytes the present time. Bytes that are no date leave the clock as it was. */
static void rtc_load_time_locked(struct rtc *r)
{
    int second = rtc_decode_locked(r, r->ram[RTC_SECONDS]), minute = rtc_decode_locked(r, r->ram[RTC_MINUTES]);
    int hour = rtc_decode_hour_locked(r, r->ram[RTC_HOURS]), day = rtc_decode_locked(r, r->ram[RTC_DAY]);
    int month = rtc_decode_locked(r, r->ram[RTC_MONTH]), year = rtc_decode_locked(r, r->ram[RTC_YEAR]);
    int century = rtc_decode_locked(r, r->ram[RTC_CENTURY_REG]);
    uint64_t utc_s = rtc_base_ns_locked(r) / NS_PER_S;
    struct tm tm;
    time_t guest_s;

    if (second < 0 || second > 59 || minute < 0 || minute > 59 || hour < 0 || hour > 23 || day < 1 || day > 31 ||
        month < 1 || month > 12 || year < 0 || year > 99 || century < 19 || century > 99)
        return;
    tm = (struct tm){ .tm_sec = second,
                      .tm_min = minute,
                      .tm_hour = hour,
                      .tm_mday = day,
                      .tm_mon = month - 1,
                      .tm_year = century * 100 + year - 1900 };
    guest_s = timegm(&tm);
    /* 2^64 ns end in the year 2554. */
    if (guest_s < 0 || (uint64_t)guest_s > UINT64_MAX / NS_PER_S / 2)
        return;
    r->offset_s = (int64_t)guest_s - (int64_t)utc_s;
    r->seen_ns = rtc_now_ns_locked(r);
}

/* Period of the periodic interrupt, 0: none (datasheet table 5, 32.768 kHz). */
static uint64_t rtc_period_ns_locked(const struct rtc *r)
{
    unsigned rate = r->ram[RTC_A] & 0x0f;

    if (rate == 0)
        return 0;
    if (rate <= 2)
        rate += 7;
    return (NS_PER_S << (rate - 1)) / 32768;
}

enum { RTC_ALARM_ANY = -1, RTC_ALARM_NEVER = -2 };

/* What an alarm register asks for: a number below limit, any, or something that never comes. */
static int rtc_alarm_field_locked(const struct rtc *r, unsigned reg, int limit)
{
    uint8_t v = r->ram[reg];
    int wanted;

    if ((v & 0xc0) == 0xc0)
        return RTC_ALARM_ANY;
    wanted = reg == RTC_HOURS_ALARM ? rtc_decode_hour_locked(r, v) : rtc_decode_locked(r, v);
    return wanted < 0 || wanted >= limit ? RTC_ALARM_NEVER : wanted;
}

/* The first second after `after` and not beyond `last` in which the alarm goes off; 0: none. A day of minutes is
 * searched. */
static uint64_t rtc_alarm_next_locked(const struct rtc *r, uint64_t after, uint64_t last)
{
    int second = rtc_alarm_field_locked(r, RTC_SECONDS_ALARM, 60);
    int minute = rtc_alarm_field_locked(r, RTC_MINUTES_ALARM, 60);
    int hour = rtc_alarm_field_locked(r, RTC_HOURS_ALARM, 24);

    if (second == RTC_ALARM_NEVER || minute == RTC_ALARM_NEVER || hour == RTC_ALARM_NEVER)
        return 0;
    last = MIN(last, after + 86400);
    for (uint64_t at = (after + 1) / 60; at * 60 <= last; at++) {
        uint64_t candidate = second == RTC_ALARM_ANY ? MAX(at * 60, after + 1) : at * 60 + (unsigned)second;

        if ((minute == RTC_ALARM_ANY || (uint64_t)minute == at % 60) &&
            (hour == RTC_ALARM_ANY || (uint64_t)hour == at / 60 % 24) && candidate > after && candidate <= last)
            return candidate;
    }
    return 0;
}

/* Raise the flags of everything that happened since the last call. */
static void rtc_catch_up_locked(struct rtc *r)
{
    uint64_t now = rtc_now_ns_locked(r), period = rtc_period_ns_locked(r);

    if (now < r->seen_ns)
        r->seen_ns = now; /* the host's clock was set back */
    if (period && now / period != r->seen_ns / period)
        r->ram[RTC_C] |= RTC_C_PF;
    if (!(r->ram[RTC_B] & RTC_B_SET) && now / NS_PER_S != r->seen_ns / NS_PER_S) {
        r->ram[RTC_C] |= RTC_C_UF;
        if (rtc_alarm_next_locked(r, r->seen_ns / NS_PER_S, now / NS_PER_S))
            r->ram[RTC_C] |= RTC_C_AF;
    }
    r->seen_ns = now;
}

/* When the next enabled interrupt is due, in guest time; 0: none. */
static uint64_t rtc_next_ns_locked(const struct rtc *r, uint64_t now)
{
    uint8_t b = r->ram[RTC_B];
    uint64_t next = UINT64_MAX, period = rtc_period_ns_locked(r);

    if (b & RTC_B_PIE && period)
        next = (now / period + 1) * period;
    if (b & RTC_B_SET)
        return next == UINT64_MAX ? 0 : next;
    if (b & RTC_B_UIE)
        next = MIN(next, (now / NS_PER_S + 1) * NS_PER_S);
    if (b & RTC_B_AIE) {
        uint64_t second = rtc_alarm_next_locked(r, now / NS_PER_S, UINT64_MAX);

        if (second)
            next = MIN(next, second * NS_PER_S);
    }
    return next == UINT64_MAX ? 0 : next;
}

/* Interrupt line and timer follow the registers. A line that is up already needs no timer: nothing new could show. */
static void rtc_update_locked(struct rtc *r)
{
    const struct hw_time *time = &r->config.time;
    bool level = r->ram[RTC_C] & r->ram[RTC_B] & (RTC_C_UF | RTC_C_AF | RTC_C_PF);
    uint64_t next;

    r->ram[RTC_C] = (uint8_t)((r->ram[RTC_C] & ~RTC_C_IRQF) | (level ? RTC_C_IRQF : 0));
    if (level != r->level) {
        r->level = level;
        irq_set(&r->config.irq, level);
    }
    next = level ? 0 : rtc_next_ns_locked(r, r->seen_ns);
    if (next)
        next = time->ops->mono_ns(time->opaque) + (next - r->seen_ns);
    time->ops->timer_set(r->timer, next);
}

static void rtc_timer_fired(void *opaque)
{
    struct rtc *r = opaque;

    pthread_mutex_lock(&r->lock);
    rtc_catch_up_locked(r);
    rtc_update_locked(r);
    pthread_mutex_unlock(&r->lock);
}

static bool rtc_is_time(unsigned reg)
{
    return reg == RTC_CENTURY_REG ||
           (reg <= RTC_YEAR && reg != RTC_SECONDS_ALARM && reg != RTC_MINUTES_ALARM && reg != RTC_HOURS_ALARM);
}

static uint8_t rtc_read_reg_locked(struct rtc *r, unsigned reg)
{
    uint64_t now = rtc_now_ns_locked(r);
    uint8_t v;

    if (rtc_is_time(reg)) {
        if (!(r->ram[RTC_B] & RTC_B_SET))
            rtc_store_time_locked(r, now);
        return r->ram[reg];
    }
    switch (reg) {
    case RTC_A:
        if (!(r->ram[RTC_B] & RTC_B_SET) && now % NS_PER_S >= NS_PER_S - RTC_UPDATE_NS)
            return r->ram[RTC_A] | RTC_A_UIP;
        return r->ram[RTC_A];
    case RTC_C:
        rtc_catch_up_locked(r);
        rtc_update_locked(r); /* IRQF */
        v = r->ram[RTC_C];
        r->ram[RTC_C] = 0;
        rtc_update_locked(r);
        return v;
    case RTC_D:
        return 0x80; /* valid RAM and time */
    default:
        return r->ram[reg];
    }
}

static void rtc_write_reg_locked(struct rtc *r, unsigned reg, uint8_t value)
{
    bool was_set = r->ram[RTC_B] & RTC_B_SET;

    rtc_catch_up_locked(r);
    if (rtc_is_time(reg)) {
        if (!was_set)
            rtc_store_time_locked(r, rtc_now_ns_locked(r));
        r->ram[reg] = value;
        if (!was_set)
            rtc_load_time_locked(r);
    } else if (reg == RTC_A) {
        r->ram[RTC_A] = value & 0x7f;
    } else if (reg == RTC_B) {
        if (value & RTC_B_SET) {
            if (!was_set)
                rtc_store_time_locked(r, rtc_now_ns_locked(r));
            value &= (uint8_t)~RTC_B_UIE; /* the datasheet: SET clears UIE */
        }
        /* The bytes are in the format that held while they were written; guests set format and SET in either order, and
         * the chip interprets them when the update resumes. */
        r->ram[RTC_B] = value;
        if (was_set && !(value & RTC_B_SET))
            rtc_load_time_locked(r);
    } else if (reg != RTC_C && reg != RTC_D) {
        r->ram[reg] = value;
    }
    rtc_update_locked(r);
}

static void rtc_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct rtc *r = dev;
    uint8_t *bytes = data;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < len; i++)
        bytes[i] = off + i == 0 ? 0xff : rtc_read_reg_locked(r, r->index); /* the index port is write-only */
    pthread_mutex_unlock(&r->lock);
}

static void rtc_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct rtc *r = dev;
    const uint8_t *bytes = data;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < len; i++) {
        if (off + i == 0)
            r->index = bytes[i] & (RTC_RAM - 1); /* bit 7 masks NMI, of which there are none */
        else
            rtc_write_reg_locked(r, r->index, bytes[i]);
    }
    pthread_mutex_unlock(&r->lock);
}

static const struct bus_ops rtc_bus_ops = { .read = rtc_read, .write = rtc_write };

/* Memory sizes where PC firmware keeps them, and no disk or floppy drives. */
static void rtc_init_ram(struct rtc *r)
{
    uint64_t base_kb = MIN(r->config.ram_below_4g / 1024, 640ULL);
    uint64_t extended_kb = r->config.ram_below_4g > 1 << 20 ? r->config.ram_below_4g / 1024 - 1024 : 0;
    uint64_t above_16m = r->config.ram_below_4g > 16 << 20 ? (r->config.ram_below_4g - (16 << 20)) / 65536 : 0;
    uint64_t above_4g = r->config.ram_above_4g / 65536;

    store_le16(&r->ram[0x15], (uint16_t)base_kb);
    store_le16(&r->ram[0x17], (uint16_t)MIN(extended_kb, 0xffffULL));
    store_le16(&r->ram[0x30], (uint16_t)MIN(extended_kb, 0xffffULL));
    store_le16(&r->ram[0x34], (uint16_t)MIN(above_16m, 0xffffULL));
    r->ram[0x5b] = (uint8_t)above_4g;
    r->ram[0x5c] = (uint8_t)(above_4g >> 8);
    r->ram[0x5d] = (uint8_t)(above_4g >> 16);
    r->ram[0x14] = 0x06;  /* equipment: FPU, PS/2 port */
    r->ram[RTC_A] = 0x26; /* 32.768 kHz, 1024 Hz */
    r->ram[RTC_B] = RTC_B_24H;
}

int rtc_new(const struct rtc_config *config, struct rtc **ret_rtc)
{
    struct rtc *r = calloc(1, sizeof(*r));
    int res;

    if (!r)
        return -ENOMEM;
    r->config = *config;
    r->offset_s = config->offset_s;
    rtc_init_ram(r);
    r->seen_ns = rtc_now_ns_locked(r);
    res = -pthread_mutex_init(&r->lock, NULL);
    if (res < 0) {
        free(r);
        return res;
    }
    res = config->time.ops->timer_new(config->time.opaque, rtc_timer_fired, r, &r->timer);
    if (res == 0)
        res = bus_add(config->pio, RTC_PORT_INDEX, 2, &rtc_bus_ops, r);
    if (res < 0) {
        rtc_free(r);
        return res;
    }
    *ret_rtc = r;
    return 0;
}

void rtc_free(struct rtc *r)
{
    if (!r)
        return;
    bus_remove(r->config.pio, RTC_PORT_INDEX, r);
    r->config.time.ops->timer_free(r->timer);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

int64_t rtc_offset(struct rtc *r)
{
    int64_t offset;

    pthread_mutex_lock(&r->lock);
    offset = r->offset_s + r->shift_ns / (int64_t)NS_PER_S;
    pthread_mutex_unlock(&r->lock);
    return offset;
}

void rtc_save(struct rtc *r, struct buf *b)
{
    pthread_mutex_lock(&r->lock);
    rtc_catch_up_locked(r);
    rtc_update_locked(r);
    pack_u8(b, r->index);
    pack_bytes(b, r->ram, sizeof(r->ram));
    pack_u64(b, rtc_base_ns_locked(r));
    pack_u64(b, (uint64_t)r->shift_ns);
    pack_u64(b, (uint64_t)r->offset_s);
    pthread_mutex_unlock(&r->lock);
}

int rtc_restore(struct rtc *r, uint16_t version, struct unpack *in)
{
    const uint64_t max_ns = UINT64_MAX / 2;
    uint8_t ram[RTC_RAM], index = unpack_u8(in);
    uint64_t base_ns, now_ns;
    int64_t shift_ns, offset_s;
    int res;

    (void)version;
    unpack_bytes(in, ram, sizeof(ram));
    base_ns = unpack_u64(in);
    shift_ns = (int64_t)unpack_u64(in);
    offset_s = (int64_t)unpack_u64(in);
    now_ns = base_ns + (uint64_t)offset_s * NS_PER_S;
    res = unpack_end(in);
    if (res < 0)
        return res;
    /* Times between 1970 and 2262, as everywhere here. */
    if (index >= RTC_RAM || base_ns > max_ns || now_ns > max_ns || offset_s > (int64_t)(max_ns / NS_PER_S) ||
        offset_s < -(int64_t)(max_ns / NS_PER_S))
        return -EBADMSG;
    pthread_mutex_lock(&r->lock);
    r->index = index;
    memcpy(r->ram, ram, sizeof(r->ram));
    r->offset_s = offset_s;
    r->shift_ns = (int64_t)(base_ns - r->config.time.ops->utc_ns(r->config.time.opaque));
    r->lag_ns = (int64_t)((uint64_t)shift_ns - (uint64_t)r->shift_ns);
    r->seen_ns = now_ns;
    rtc_update_locked(r);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

void rtc_catch_up(struct rtc *r)
{
    pthread_mutex_lock(&r->lock);
    r->shift_ns = (int64_t)((uint64_t)r->shift_ns + (uint64_t)r->lag_ns);
    r->lag_ns = 0;
    rtc_catch_up_locked(r);
    rtc_update_locked(r);
    pthread_mutex_unlock(&r->lock);
}
