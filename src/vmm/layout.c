/* The address map of a machine with a given amount of RAM. */
#include "vmm/layout.h"

#include <errno.h>

#include "base/bits.h"

static void layout_add(struct layout *l, uint64_t base, uint64_t end, enum layout_type type)
{
    l->ranges[l->n_ranges++] = (struct layout_range){ .base = base, .size = end - base, .type = type };
}

int layout_make(uint64_t ram_bytes, struct layout *ret_layout)
{
    struct layout l = { 0 };

    if (ram_bytes < LAYOUT_RAM_MIN || ram_bytes > LAYOUT_RAM_MAX)
        return -ERANGE;
    if (ram_bytes % 4096 != 0)
        return -EINVAL;
    l.ram_low = MIN(ram_bytes, LAYOUT_LOW_RAM_MAX);
    l.ram_high = ram_bytes - l.ram_low;
    l.window64_base = align_up(MAX(LAYOUT_HIGH_RAM_BASE + l.ram_high, LAYOUT_WINDOW64_SIZE), LAYOUT_WINDOW64_SIZE);
    layout_add(&l, 0, LAYOUT_EBDA, LAYOUT_RAM);
    layout_add(&l, LAYOUT_EBDA, LAYOUT_HIGH_MEM, LAYOUT_RESERVED);
    layout_add(&l, LAYOUT_HIGH_MEM, l.ram_low, LAYOUT_RAM);
    layout_add(&l, LAYOUT_ECAM_BASE, LAYOUT_ECAM_BASE + LAYOUT_ECAM_SIZE, LAYOUT_RESERVED);
    if (l.ram_high)
        layout_add(&l, LAYOUT_HIGH_RAM_BASE, LAYOUT_HIGH_RAM_BASE + l.ram_high, LAYOUT_RAM);
    *ret_layout = l;
    return 0;
}
