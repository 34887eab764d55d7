/* vmm/acpi and wire/acpi: every table is found from the RSDP, sums up, and survives Debian's ACPI compiler
 * (acpica-tools) in both directions without an error; AML lengths at their limits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "vmm/acpi.h"
#include "wire/acpi.h"

struct machine {
    struct mem *mem;
    struct layout layout;
    uint64_t rsdp;
};

static void machine_make(struct machine *m, uint64_t ram, unsigned n_cpus)
{
    struct acpi_config c = { .layout = &m->layout, .n_cpus = n_cpus };

    assert_int_equal(layout_make(ram, &m->layout), 0);
    assert_int_equal(mem_new(&m->mem), 0);
    assert_int_equal(mem_add_ram(m->mem, 0, 1 << 20, false, NULL), 0);
    assert_int_equal(acpi_build(m->mem, &c, &m->rsdp), 0);
}

/* The table at gpa, whose length and sum are right. */
static const uint8_t *table_at(struct machine *m, uint64_t gpa, const char *signature)
{
    const uint8_t *t = mem_ptr(m->mem, GPA(gpa), ACPI_HEADER_SIZE);

    assert_non_null(t);
    if (signature)
        assert_memory_equal(t, signature, 4);
    assert_true(gpa >= LAYOUT_ACPI_BASE && gpa + load_le32(t + 4) <= LAYOUT_ACPI_BASE + LAYOUT_ACPI_SIZE);
    if (memcmp(t, "FACS", 4) != 0)
        assert_int_equal(acpi_checksum(t, load_le32(t + 4)), 0);
    return t;
}

/* Table number n of the XSDT, or NULL. */
static const uint8_t *table_number(struct machine *m, unsigned n)
{
    const uint8_t *rsdp = mem_ptr(m->mem, GPA(m->rsdp), 36), *xsdt;

    assert_non_null(rsdp);
    xsdt = table_at(m, load_le64(rsdp + 24), "XSDT");
    if (ACPI_HEADER_SIZE + 8 * n >= load_le32(xsdt + 4))
        return NULL;
    return table_at(m, load_le64(xsdt + ACPI_HEADER_SIZE + 8 * n), NULL);
}

static const uint8_t *table_named(struct machine *m, const char *signature)
{
    const uint8_t *t;

    for (unsigned n = 0; (t = table_number(m, n)); n++) {
        if (memcmp(t, signature, 4) == 0)
            return t;
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void test_tables(void **state)
{
    struct machine m = { 0 };
    const uint8_t *rsdp, *fadt, *madt, *mcfg, *rsdt;
    unsigned cpus = 0, ioapics = 0, overrides = 0, nmis = 0;

    machine_make(&m, 5ULL << 30, 3);
    assert_int_equal(m.rsdp % 16, 0);
    rsdp = mem_ptr(m.mem, GPA(m.rsdp), 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(acpi_checksum(rsdp, 20), 0);
    assert_int_equal(acpi_checksum(rsdp, 36), 0);
    rsdt = table_at(&m, load_le32(rsdp + 16), "RSDT");
    for (unsigned n = 0; n < 3; n++)
        assert_ptr_equal(table_at(&m, load_le32(rsdt + 36 + 4 * n), NULL), table_number(&m, n));

    fadt = table_named(&m, "FACP");
    assert_int_equal(load_le32(fadt + 4), 276);
    assert_int_equal(fadt[8], 6);
    assert_int_equal(load_le32(fadt + 36) % 64, 0);
    table_at(&m, load_le32(fadt + 36), "FACS");
    table_at(&m, load_le32(fadt + 40), "DSDT");
    assert_true(load_le64(fadt + 140) == load_le32(fadt + 40));
    assert_int_equal(load_le16(fadt + 46), 9);
    assert_int_equal(load_le32(fadt + 56), LAYOUT_PM_PORT);
    assert_int_equal(load_le32(fadt + 76), LAYOUT_PM_PORT + 8);
    assert_int_equal(fadt[108], 0x32);
    assert_true(load_le32(fadt + 112) & 1 << 10);
    assert_false(load_le32(fadt + 112) & 1 << 20); /* not hardware-reduced */
    assert_int_equal(load_le64(fadt + 120), 0xcf9);
    assert_int_equal(fadt[128], 6);
    assert_int_equal(load_le64(fadt + 212), LAYOUT_PM_PORT + 8);

    madt = table_named(&m, "APIC");
    for (uint32_t at = 44; at < load_le32(madt + 4); at += madt[at + 1]) {
        assert_true(madt[at + 1] >= 2);
        cpus += madt[at] == 0 && madt[at + 3] == cpus;
        ioapics += madt[at] == 1 && load_le32(madt + at + 4) == LAYOUT_IOAPIC_BASE;
        overrides += madt[at] == 2;
        nmis += madt[at] == 4;
    }
    assert_true(cpus == 3 && ioapics == 1 && overrides == 2 && nmis == 1);
    mcfg = table_named(&m, "MCFG");
    assert_true(load_le64(mcfg + 44) == LAYOUT_ECAM_BASE && mcfg[54] == 0 && mcfg[55] == 0);
    mem_free(m.mem);
}

static void test_most_cpus(void **state)
{
    struct machine m = { 0 };
    const uint8_t *madt;

    machine_make(&m, 2 << 20, 300); /* more than the engines have: x2APIC entries */
    madt = table_named(&m, "APIC");
    assert_int_equal(madt[44 + 255 * 8], 9);
    assert_int_equal(load_le32(madt + 44 + 255 * 8 + 4), 255);
    mem_free(m.mem);
}

/* Run a shell command in dir and return whether it succeeded and said what it should. */
static bool tool(const char *dir, const char *command, const char *expected)
{
    char line[512], text[65536];
    FILE *pipe;
    size_t len;

    snprintf(line, sizeof(line), "cd %s && %s 2>&1", dir, command);
    pipe = popen(line, "r");
    assert_non_null(pipe);
    len = fread(text, 1, sizeof(text) - 1, pipe);
    text[len] = '\0';
    if (pclose(pipe) == 0 && strstr(text, expected))
        return true;
    print_error("%s: %s\n", command, text);
    return false;
}

static void dump(const char *dir, const char *name, const uint8_t *t)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fwrite(t, 1, load_le32(t + 4), f) == load_le32(t + 4));
    assert_int_equal(fclose(f), 0);
}

static void test_compiler_round_trip(void **state)
{
    static const char *const names[] = { "dsdt", "facp", "apic", "mcfg", "facs" };
    char dir[] = "/tmp/caisson-acpi-XXXXXX", command[128];
    struct machine m = { 0 };
    const uint8_t *fadt;
    bool good = true;

    if (access("/usr/bin/iasl", X_OK) != 0)
        skip();
    machine_make(&m, 300ULL << 30, 2);
    assert_non_null(mkdtemp(dir));
    fadt = table_named(&m, "FACP");
    dump(dir, "facp", fadt);
    dump(dir, "dsdt", table_at(&m, load_le32(fadt + 40), "DSDT"));
    dump(dir, "facs", table_at(&m, load_le32(fadt + 36), "FACS"));
    dump(dir, "apic", table_named(&m, "APIC"));
    dump(dir, "mcfg", table_named(&m, "MCFG"));
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(command, sizeof(command), "iasl -d %s.aml", names[i]);
        good &= tool(dir, command, "utput:");
        snprintf(command, sizeof(command), "! grep -n -i -e error -e 'invalid' -e 'unknown' %s.dsl", names[i]);
        good &= tool(dir, command, "");
        snprintf(command, sizeof(command), "iasl -oa -ve -tc -p new-%s %s.dsl", names[i], names[i]);
        good &= tool(dir, command, i == 0 ? "0 Errors, 0 Warnings" : "Compilation successful. 0 Errors");
    }
    /* The compiler's own encoding of what it read is ours, bit by bit, but for the compiler's id in the header. */
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(command, sizeof(command), "cmp -i 36 %s.aml new-%s.aml", names[i], names[i]);
        good &= tool(dir, command, "");
    }
    good &= tool(dir, "grep -c -e PNP0A08 -e PNP0501 -e PNP0303 -e PNP0C02 -e PNP0B00 -e _S5, dsdt.dsl", "6");
    good &= tool(dir, "grep -A 3 'Method (_E05, 0, NotSerialized)' dsdt.dsl", "Notify (\\_SB.VGID, 0x80)");
    if (good) {
        snprintf(command, sizeof(command), "rm -r %s", dir);
        assert_int_equal(system(command), 0);
    }
    assert_true(good);
    mem_free(m.mem);
}

/* Package lengths on both sides of every size of their encoding, decoded again. */
static void test_package_lengths(void **state)
{
    static const size_t sizes[] = { 0,    1,    60,   61,   62,    63,      64,      4090,   4091,
                                    4092, 4093, 4094, 4096, 65536, 1048566, 1048570, 1048576 };
    static uint8_t zeros[1048576];

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct buf b;
        struct aml a = { .out = &b };
        size_t len, extra;

        buf_init(&b, 4 << 20);
        aml_package_open(&a, 0);
        buf_append(&b, zeros, sizes[i]);
        aml_close(&a);
        assert_int_equal(buf_error(&b), 0);
        extra = b.data[1] >> 6;
        len = extra ? b.data[1] & 0xf : b.data[1];
        for (size_t k = 0; k < extra; k++)
            len |= (size_t)b.data[2 + k] << (4 + 8 * k);
        assert_int_equal(len, b.len - 1);
        assert_int_equal(len, sizes[i] + 1 + 1 + extra);
        if (extra == 1)
            assert_true(len > 63); /* the shorter form would not have done */
        buf_done(&b);
    }
}

static void test_encoding(void **state)
{
    static const uint8_t expected[] = { 0x08, '\\', '_',  'S',  '5',  '_',  0x0b, 0x34, 0x12, /* Name (\_S5, 0x1234) */
                                        0x08, 0x2e, 'A',  '_',  '_',  '_',  'B',  'C',  '_',  '_',  0x0c, 0x41, 0xd0,
                                        0x0a, 0x08, 0x08, '^',  0x2f, 3,    'A',  '_',  '_',  '_',  'B',  '_',  '_',
                                        '_',  'C',  '_',  '_',  '_',  0x0d, 'x',  0,    0x00, 0x01, 0x0a, 0xff, 0x0c,
                                        0xff, 0xff, 0xff, 0xff, 0x0e, 0,    0,    0,    0,    1,    0,    0,    0 };
    struct buf b;
    struct aml a = { .out = &b };

    buf_init(&b, 4096);
    aml_name(&a, "\\_S5");
    aml_integer(&a, 0x1234);
    aml_name(&a, "A.BC");
    aml_eisa_id(&a, "PNP0A08");
    aml_name(&a, "^A.B.C");
    aml_string(&a, "x");
    aml_integer(&a, 0);
    aml_integer(&a, 1);
    aml_integer(&a, 255);
    aml_integer(&a, UINT32_MAX);
    aml_integer(&a, UINT32_MAX + 1ULL);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.len, sizeof(expected));
    assert_memory_equal(b.data, expected, sizeof(expected));
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_most_cpus),
        cmocka_unit_test(test_compiler_round_trip),
        cmocka_unit_test(test_package_lengths),
        cmocka_unit_test(test_encoding),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
