/* wire/elf: headers of both classes, and what is not one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "wire/elf.h"

static void make64(uint8_t h[64])
{
    memset(h, 0, 64);
    memcpy(h, "\177ELF\2\1\1", 7);
    store_le16(h + 16, 2);
    store_le16(h + 18, ELF_MACHINE_X86_64);
    store_le64(h + 24, 0x1122334455667788);
    store_le64(h + 32, 64);
    store_le16(h + 54, 56);
    store_le16(h + 56, 3);
}

static void test_header(void **state)
{
    struct elf_header p;
    uint8_t h[64];

    make64(h);
    assert_int_equal(elf_header_parse(h, 64, &p), 0);
    assert_true(p.is_64 && p.entry == 0x1122334455667788 && p.segments_off == 64 && p.segment_size == 56 &&
                p.n_segments == 3);
    assert_int_equal(p.machine, ELF_MACHINE_X86_64);
    h[4] = 1;
    store_le32(h + 24, 0x100000);
    store_le32(h + 28, 52);
    store_le16(h + 42, 32);
    store_le16(h + 44, 7);
    assert_int_equal(elf_header_parse(h, 52, &p), 0);
    assert_true(!p.is_64 && p.entry == 0x100000 && p.segments_off == 52 && p.segment_size == 32 && p.n_segments == 7);
}

static void test_bad_header(void **state)
{
    struct elf_header p = { .n_segments = 99 };
    uint8_t h[64];

    make64(h);
    for (size_t len = 0; len < 64; len++)
        assert_int_equal(elf_header_parse(h, len, &p), len < 4 ? -ENOEXEC : -EBADMSG);
    h[0] = 'M';
    assert_int_equal(elf_header_parse(h, 64, &p), -ENOEXEC);
    make64(h);
    h[4] = 3;
    assert_int_equal(elf_header_parse(h, 64, &p), -EBADMSG);
    make64(h);
    h[5] = 2; /* big-endian */
    assert_int_equal(elf_header_parse(h, 64, &p), -EBADMSG);
    make64(h);
    store_le16(h + 54, 55);
    assert_int_equal(elf_header_parse(h, 64, &p), -EBADMSG);
    make64(h);
    store_le16(h + 56, 0xffff);
    assert_int_equal(elf_header_parse(h, 64, &p), -EBADMSG);
    assert_int_equal(p.n_segments, 99); /* untouched on failure */
}

static void test_segment(void **state)
{
    struct elf_header h = { .is_64 = true };
    struct elf_segment s;
    uint8_t b[56];

    for (unsigned i = 0; i < 56; i++)
        b[i] = (uint8_t)i;
    elf_segment_parse(&h, b, &s);
    assert_true(s.type == 0x03020100 && s.offset == 0x0f0e0d0c0b0a0908 && s.vaddr == 0x1716151413121110);
    assert_true(s.paddr == 0x1f1e1d1c1b1a1918 && s.file_size == 0x2726252423222120 && s.mem_size == 0x2f2e2d2c2b2a2928);
    h.is_64 = false;
    elf_segment_parse(&h, b, &s);
    assert_true(s.offset == 0x07060504 && s.vaddr == 0x0b0a0908 && s.paddr == 0x0f0e0d0c);
    assert_true(s.file_size == 0x13121110 && s.mem_size == 0x17161514 && s.align == 0x1f1e1d1c);
}

static size_t put_note(uint8_t *at, const char *name, uint32_t type, uint32_t desc_len)
{
    uint32_t name_len = (uint32_t)strlen(name) + 1;

    store_le32(at, name_len);
    store_le32(at + 4, desc_len);
    store_le32(at + 8, type);
    memcpy(at + 12, name, name_len);
    memset(at + 12 + align_up(name_len, 4), 0x5a, desc_len);
    return 12 + align_up(name_len, 4) + align_up(desc_len, 4);
}

static void test_notes(void **state)
{
    uint8_t b[256] = { 0 };
    const void *desc;
    size_t first = put_note(b, "GNU", 3, 5), len, n = first;

    n += put_note(b + n, "Xen", 18, 8);
    assert_int_equal(elf_note_find(b, n, "Xen", 18, &desc, &len), 0);
    assert_int_equal(len, 8);
    assert_ptr_equal(desc, b + first + 16);
    assert_int_equal(elf_note_find(b, n, "Xen", 17, &desc, &len), -ENOENT);
    assert_int_equal(elf_note_find(b, n, "Xe", 18, &desc, &len), -ENOENT);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(elf_note_find(b, cut, "Xen", 18, &desc, &len), -ENOENT);
    store_le32(b + 4, 0xffffffff); /* sizes that overflow 32 bits when added */
    assert_int_equal(elf_note_find(b, n, "Xen", 18, &desc, &len), -ENOENT);
    store_le32(b, 0xffffffff);
    assert_int_equal(elf_note_find(b, n, "Xen", 18, &desc, &len), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_bad_header),
        cmocka_unit_test(test_segment),
        cmocka_unit_test(test_notes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
