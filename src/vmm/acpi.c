/* The machine's ACPI tables. They are built in one buffer whose first byte stands at LAYOUT_ACPI_BASE, the RSDP in
 * front, so that an offset in the buffer plus the base is the guest-physical address that other tables refer to. */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "hw/acpi_pm.h"
#include "hw/rtc.h"
#include "wire/acpi.h"

#define RSDP_SIZE 36U
#define FACS_SIZE 64U
enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_NO_FIXED_RTC = 1 << 6,
    FADT_TIMER_32 = 1 << 8,
    FADT_RESET_REGISTER = 1 << 10
};
enum { FADT_LEGACY_DEVICES = 1 << 0, FADT_8042 = 1 << 1, FADT_NO_VGA = 1 << 2, FADT_NO_ASPM = 1 << 4 };
enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4, MADT_X2APIC = 9 };
enum { MPS_ACTIVE_HIGH_LEVEL = 0x0d };

static uint64_t acpi_addr(size_t place)
{
    return LAYOUT_ACPI_BASE + place;
}

static void acpi_align(struct buf *out, size_t align)
{
    size_t over = out->len % align;

    if (over)
        buf_extend(out, align - over);
}

/* A device with its resources; res is empty afterwards. */
static void acpi_device(struct aml *a, const char *name, const char *id, uint8_t uid, struct buf *res)
{
    aml_device_open(a, name);
    aml_name(a, "_HID");
    aml_eisa_id(a, id);
    aml_name(a, "_UID");
    aml_integer(a, uid);
    aml_resources(a, res);
    aml_close(a);
    res->len = 0;
}

/* Every pin of every slot: slot s, pin p (0..3) arrives at line (s + p) % 4, as in hw/pci.h. */
static void acpi_pci_routing(struct aml *a)
{
    aml_name(a, "_PRT");
    aml_package_open(a, 128);
    for (unsigned i = 0; i < 128; i++) {
        unsigned slot = i / 4, pin = i % 4;

        aml_package_open(a, 4);
        aml_integer(a, slot << 16 | 0xffff);
        aml_integer(a, pin);
        aml_integer(a, 0); /* no link device: the next number is a GSI */
        aml_integer(a, LAYOUT_PCI_INTX_GSI + (slot + pin) % 4);
        aml_close(a);
    }
    aml_close(a);
}

static void acpi_pci_bridge(struct aml *a, const struct layout *l)
{
    struct buf res;

    buf_init(&res, 4096);
    acpi_res_window(&res, ACPI_SPACE_BUS, 2, 0, 0);
    acpi_res_io(&res, 0xcf8, 8);
    acpi_res_window(&res, ACPI_SPACE_IO, 2, 0, 0xcf7);
    acpi_res_window(&res, ACPI_SPACE_IO, 2, 0xd00, 0xffff);
    acpi_res_window(&res, ACPI_SPACE_MEMORY, 4, LAYOUT_WINDOW32_BASE, LAYOUT_WINDOW32_BASE + LAYOUT_WINDOW32_SIZE - 1);
    acpi_res_window(&res, ACPI_SPACE_MEMORY, 8, l->window64_base, l->window64_base + LAYOUT_WINDOW64_SIZE - 1);
    aml_device_open(a, "PCI0");
    aml_name(a, "_HID");
    aml_eisa_id(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisa_id(a, "PNP0A03");
    aml_name(a, "_SEG");
    aml_integer(a, 0);
    aml_name(a, "_BBN");
    aml_integer(a, 0);
    aml_name(a, "_UID");
    aml_integer(a, 0);
    aml_resources(a, &res);
    acpi_pci_routing(a);
    aml_close(a);
    buf_done(&res);
}

static void acpi_legacy_devices(struct aml *a)
{
    struct buf res;

    buf_init(&res, 4096);
    acpi_res_io(&res, LAYOUT_COM1_PORT, 8);
    acpi_res_irq(&res, LAYOUT_COM1_IRQ);
    acpi_device(a, "COM1", "PNP0501", 1, &res);

    acpi_res_io(&res, 0x70, 2);
    acpi_res_irq(&res, LAYOUT_RTC_IRQ);
    acpi_device(a, "RTC", "PNP0B00", 0, &res);

    /* No mouse is plugged in, so no PNP0F13: drivers would wait for its answers. */
    acpi_res_io(&res, 0x60, 1);
    acpi_res_io(&res, 0x64, 1);
    acpi_res_irq(&res, LAYOUT_KEYBOARD_IRQ);
    acpi_device(a, "KBD", "PNP0303", 0, &res);

    /* Linux uses ECAM only where a motherboard device reserves it. */
    acpi_res_memory(&res, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE);
    acpi_res_io(&res, LAYOUT_PM_PORT, ACPI_PM_SIZE);
    acpi_res_io(&res, 0x80, 1);
    acpi_res_io(&res, 0x92, 1);
    acpi_device(a, "MBRD", "PNP0C02", 0, &res);
    buf_done(&res);
}

/* Microsoft's "Virtual Machine Generation ID": where it is, and an event when it has changed. */
static void acpi_genid_device(struct aml *a)
{
    aml_device_open(a, "VGID");
    aml_name(a, "_HID");
    aml_string(a, "CAIS0001");
    aml_name(a, "_CID");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "_DDN");
    aml_string(a, "VM_Gen_Counter");
    aml_name(a, "ADDR");
    aml_package_open(a, 2);
    aml_integer(a, LAYOUT_GENID & 0xffffffff);
    aml_integer(a, LAYOUT_GENID >> 32);
    aml_close(a);
    aml_close(a);
}

static void acpi_genid_event(struct aml *a)
{
    _Static_assert(LAYOUT_GENID_GPE == 5, "the method's name");

    aml_scope_open(a, "\\_GPE");
    aml_method_open(a, "_E05", 0);
    aml_notify(a, "\\_SB.VGID", 0x80);
    aml_close(a);
    aml_close(a);
}

static size_t acpi_dsdt(struct buf *out, const struct layout *l)
{
    size_t place = acpi_table_begin(out, "DSDT", 2);
    struct aml a = { .out = out };

    aml_scope_open(&a, "\\_SB");
    acpi_pci_bridge(&a, l);
    acpi_legacy_devices(&a);
    acpi_genid_device(&a);
    aml_close(&a);
    acpi_genid_event(&a);
    aml_name(&a, "\\_S5");
    aml_package_open(&a, 4);
    aml_integer(&a, ACPI_PM_SLP_TYP_S5); /* PM1a */
    aml_integer(&a, ACPI_PM_SLP_TYP_S5); /* PM1b, which is not there */
    aml_integer(&a, 0);
    aml_integer(&a, 0);
    aml_close(&a);
    acpi_table_end(out, place);
    return place;
}

/* Section 5.2.9. The fields from 36 on, in order. */
static size_t acpi_fadt(struct buf *out, size_t facs, size_t dsdt)
{
    size_t place = acpi_table_begin(out, "FACP", 6);

    acpi_put(out, acpi_addr(facs), 4);
    acpi_put(out, acpi_addr(dsdt), 4);
    acpi_put(out, 0, 1);
    acpi_put(out, 4, 1); /* profile: enterprise server */
    acpi_put(out, LAYOUT_SCI_IRQ, 2);
    acpi_put(out, 0, 8); /* no SMI command port: ACPI mode is on from the start */
    acpi_put(out, LAYOUT_PM_PORT + ACPI_PM_EVENT, 4);
    acpi_put(out, 0, 4);
    acpi_put(out, LAYOUT_PM_PORT + ACPI_PM_CONTROL, 4);
    acpi_put(out, 0, 8);
    acpi_put(out, LAYOUT_PM_PORT + ACPI_PM_TIMER, 4);
    acpi_put(out, LAYOUT_PM_PORT + ACPI_PM_GPE0, 4);
    acpi_put(out, 0, 4);
    acpi_put(out, 4, 1); /* lengths: PM1 event, PM1 control, PM2, timer, GPE0, GPE1 */
    acpi_put(out, 2, 1);
    acpi_put(out, 0, 1);
    acpi_put(out, 4, 1);
    acpi_put(out, 4, 1);
    acpi_put(out, 0, 3);
    acpi_put(out, 0xfff, 2); /* C2 and C3 do not exist */
    acpi_put(out, 0xfff, 2);
    acpi_put(out, 0, 8); /* cache flush, duty cycle, alarms of day and month */
    acpi_put(out, RTC_CENTURY_REG, 1);
    acpi_put(out, FADT_LEGACY_DEVICES | FADT_8042 | FADT_NO_VGA | FADT_NO_ASPM, 2);
    acpi_put(out, 0, 1);
    /* The power button is the fixed one: its flag is off. */
    acpi_put(
        out,
        FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC | FADT_TIMER_32 | FADT_RESET_REGISTER, 4);
    acpi_put_port(out, LAYOUT_RESET_PORT, 8);
    acpi_put(out, 6, 1); /* value that resets */
    acpi_put(out, 0, 2);
    acpi_put(out, 4, 1); /* minor version */
    acpi_put(out, 0, 8); /* FACS stands in its 32-bit field */
    acpi_put(out, acpi_addr(dsdt), 8);
    acpi_put_port(out, LAYOUT_PM_PORT + ACPI_PM_EVENT, 32);
    acpi_put_port(out, 0, 0);
    acpi_put_port(out, LAYOUT_PM_PORT + ACPI_PM_CONTROL, 16);
    acpi_put_port(out, 0, 0);
    acpi_put_port(out, 0, 0);
    acpi_put_port(out, LAYOUT_PM_PORT + ACPI_PM_TIMER, 32);
    acpi_put_port(out, LAYOUT_PM_PORT + ACPI_PM_GPE0, 32);
    acpi_put_port(out, 0, 0);
    acpi_put_port(out, 0, 0); /* sleep control and status: hardware-reduced ACPI only */
    acpi_put_port(out, 0, 0);
    acpi_put(out, 0, 8); /* hypervisor vendor */
    acpi_table_end(out, place);
    return place;
}

static size_t acpi_facs(struct buf *out)
{
    size_t place;

    acpi_align(out, 64);
    place = out->len;
    buf_append(out, "FACS", 4);
    acpi_put(out, FACS_SIZE, 4);
    buf_extend(out, 24);
    acpi_put(out, 2, 1); /* version */
    buf_extend(out, FACS_SIZE - 33);
    return place;
}

static void acpi_madt_override(struct buf *out, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    acpi_put(out, MADT_OVERRIDE | 10 << 8, 2);
    acpi_put(out, 0, 1); /* ISA */
    acpi_put(out, irq, 1);
    acpi_put(out, gsi, 4);
    acpi_put(out, flags, 2);
}

static size_t acpi_madt(struct buf *out, unsigned n_cpus)
{
    size_t place = acpi_table_begin(out, "APIC", 5);

    acpi_put(out, LAYOUT_LAPIC_BASE, 4);
    acpi_put(out, 1, 4); /* there are 8259s too */
    for (unsigned id = 0; id < n_cpus; id++) {
        if (id < 255) {
            acpi_put(out, MADT_LAPIC | 8 << 8, 2);
            acpi_put(out, id, 1);
            acpi_put(out, id, 1);
            acpi_put(out, 1, 4); /* enabled */
        } else {
            acpi_put(out, MADT_X2APIC | 16 << 8, 4);
            acpi_put(out, id, 4);
            acpi_put(out, 1, 4);
            acpi_put(out, id, 4);
        }
    }
    acpi_put(out, MADT_IOAPIC | 12 << 8, 2);
    acpi_put(out, 0, 2);
    acpi_put(out, LAYOUT_IOAPIC_BASE, 4);
    acpi_put(out, 0, 4);              /* first GSI */
    acpi_madt_override(out, 0, 2, 0); /* the PIT */
    acpi_madt_override(out, LAYOUT_SCI_IRQ, LAYOUT_SCI_IRQ, MPS_ACTIVE_HIGH_LEVEL);
    acpi_put(out, MADT_LAPIC_NMI | 6 << 8, 2);
    acpi_put(out, 0xff, 1); /* all processors */
    acpi_put(out, 0, 2);
    acpi_put(out, 1, 1); /* LINT1 */
    acpi_table_end(out, place);
    return place;
}

static size_t acpi_mcfg(struct buf *out)
{
    size_t place = acpi_table_begin(out, "MCFG", 1);

    acpi_put(out, 0, 8);
    acpi_put(out, LAYOUT_ECAM_BASE, 8);
    acpi_put(out, 0, 2); /* segment */
    acpi_put(out, 0, 1); /* first and last bus */
    acpi_put(out, 0, 1);
    acpi_put(out, 0, 4);
    acpi_table_end(out, place);
    return place;
}

static size_t acpi_root(struct buf *out, const char *signature, unsigned entry_bytes, const size_t *tables, size_t n)
{
    size_t place;

    acpi_align(out, 16);
    place = acpi_table_begin(out, signature, 1);
    for (size_t i = 0; i < n; i++)
        acpi_put(out, acpi_addr(tables[i]), entry_bytes);
    acpi_table_end(out, place);
    return place;
}

static void acpi_rsdp(uint8_t rsdp[RSDP_SIZE], size_t rsdt, size_t xsdt)
{
    memset(rsdp, 0, RSDP_SIZE);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "CAISSN", 6);
    rsdp[15] = 2; /* revision */
    store_le32(rsdp + 16, (uint32_t)acpi_addr(rsdt));
    rsdp[8] = acpi_checksum(rsdp, 20);
    store_le32(rsdp + 20, RSDP_SIZE);
    store_le64(rsdp + 24, acpi_addr(xsdt));
    rsdp[32] = acpi_checksum(rsdp, RSDP_SIZE);
}

int acpi_build(struct mem *m, const struct acpi_config *config, uint64_t *ret_rsdp)
{
    struct buf out;
    size_t tables[3], facs, dsdt, rsdt, xsdt;
    int r;

    buf_init(&out, LAYOUT_ACPI_TABLES_SIZE);
    buf_extend(&out, RSDP_SIZE);
    facs = acpi_facs(&out);
    dsdt = acpi_dsdt(&out, config->layout);
    acpi_align(&out, 16);
    tables[0] = acpi_fadt(&out, facs, dsdt);
    acpi_align(&out, 16);
    tables[1] = acpi_madt(&out, config->n_cpus);
    acpi_align(&out, 16);
    tables[2] = acpi_mcfg(&out);
    rsdt = acpi_root(&out, "RSDT", 4, tables, ARRAY_SIZE(tables));
    xsdt = acpi_root(&out, "XSDT", 8, tables, ARRAY_SIZE(tables));
    r = buf_error(&out);
    if (r == 0) {
        acpi_rsdp(out.data, rsdt, xsdt);
        r = mem_write(m, GPA(LAYOUT_ACPI_BASE), out.data, out.len);
    }
    buf_done(&out);
    if (r < 0)
        return r;
    *ret_rsdp = LAYOUT_ACPI_BASE;
    return 0;
}
