/* MC146818 real-time clock with 128 bytes of battery-backed RAM at ports 0x70/0x71. Time is UTC of the VM's time source
 * plus the offset that the guest makes by setting the clock. Own lock; functions on any thread. Spec: Motorola
 * MC146818A; century in byte 0x32 as in IBM PC/AT firmware. */
#ifndef HW_RTC_H
#define HW_RTC_H

#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "hw/bus.h"
#include "hw/irq.h"
#include "hw/time.h"

#define RTC_CENTURY_REG 0x32

struct buf;
struct rtc;
struct unpack;

#define RTC_STATE_VERSION 1

struct rtc_config {
    struct bus *pio;     /* borrowed */
    struct irq_line irq; /* 8 */
    struct hw_time time;
    int64_t offset_s;                    /* the guest's clock minus UTC at the start */
    uint64_t ram_below_4g, ram_above_4g; /* bytes, for the memory size registers that firmware reads */
};

int rtc_new(const struct rtc_config *config, struct rtc **ret_rtc) MUST_USE;
void rtc_free(struct rtc *r); /* NULL accepted; vCPUs and loop are stopped */
DEFINE_AUTO(rtc, struct rtc, rtc_free)

/* The guest's clock minus UTC now, in seconds. */
int64_t rtc_offset(struct rtc *r);

/* Append its state (docs/snapshot-format.md). The vCPUs stand. */
void rtc_save(struct rtc *r, struct buf *b);
/* Take a state over and drive the line accordingly; before the vCPUs run. The clock goes on from the time that it
 * showed when it was saved. -EBADMSG: it makes no sense, the device is to be freed. */
int rtc_restore(struct rtc *r, uint16_t version, struct unpack *in) MUST_USE;
/* After rtc_restore: show the present time instead, as a clock that went on all the while; alarms that were due
 * meanwhile go off. */
void rtc_catch_up(struct rtc *r);

#endif
