/* mem/guest: the region table, bounds of every access function, code marks, the dirty log, failing allocations. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "mem/guest.h"

#define PAGE MEM_PAGE_SIZE
#define HIGH_BASE 0x100000000ULL

/* RAM at 0..64K and, directly behind it, 64K..80K; ROM at 1M..1M+8K; RAM at 4G..4G+16K. */
static int setup(void **state)
{
    struct mem *m;

    if (mem_new(&m) || mem_add_ram(m, HIGH_BASE, 4 * PAGE, false, NULL) || mem_add_ram(m, 0, 16 * PAGE, false, NULL) ||
        mem_add_ram(m, 0x100000, 2 * PAGE, true, NULL) || mem_add_ram(m, 16 * PAGE, 4 * PAGE, false, NULL))
        return -1;
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    mem_free(*state);
    return 0;
}

static void test_table(void **state)
{
    struct mem *m = *state;
    static const uint64_t order[] = { 0, 16 * PAGE, 0x100000, HIGH_BASE };

    assert_int_equal(m->n_regions, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(m->regions[i].gpa, order[i]);
    assert_ptr_equal(mem_find(m, 0), &m->regions[0]);
    assert_ptr_equal(mem_find(m, 16 * PAGE - 1), &m->regions[0]);
    assert_ptr_equal(mem_find(m, 16 * PAGE), &m->regions[1]);
    assert_null(mem_find(m, 20 * PAGE));
    assert_null(mem_find(m, HIGH_BASE - 1));
    assert_ptr_equal(mem_find(m, HIGH_BASE + 4 * PAGE - 1), &m->regions[3]);
    assert_null(mem_find(m, HIGH_BASE + 4 * PAGE));
    assert_null(mem_find(m, UINT64_MAX));
}

static void test_bad_regions(void **state)
{
    struct mem *m = *state;
    struct mem_region *r = (void *)m;

    assert_int_equal(mem_add_ram(m, 1, PAGE, false, &r), -EINVAL);
    assert_int_equal(mem_add_ram(m, 0x200000, PAGE + 1, false, &r), -EINVAL);
    assert_int_equal(mem_add_ram(m, 0x200000, 0, false, &r), -EINVAL);
    assert_int_equal(mem_add_ram(m, UINT64_MAX - PAGE + 1, 2 * PAGE, false, &r), -EINVAL);
    assert_int_equal(mem_add_ram(m, 0, 1ULL << 63, false, &r), -EINVAL);
    assert_int_equal(mem_add_ram(m, 0x100000, PAGE, false, &r), -EEXIST);
    assert_int_equal(mem_add_ram(m, 0x100000 - PAGE, 2 * PAGE, false, &r), -EEXIST);
    assert_int_equal(mem_add_ram(m, 0x100000 + PAGE, 8 * PAGE, false, &r), -EEXIST);
    assert_int_equal(mem_add_ram(m, 0x200000, HIGH_BASE, false, &r), -EEXIST);
    assert_ptr_equal(r, m); /* untouched on failure */
    assert_int_equal(m->n_regions, 4);
    for (uint64_t at = 0x200000; m->n_regions < MEM_REGIONS_MAX; at += PAGE)
        assert_int_equal(mem_add_ram(m, at, PAGE, false, &r), 0);
    assert_int_equal(r->gpa, 0x203000);
    assert_int_equal(mem_add_ram(m, 0x300000, PAGE, false, NULL), -ENOSPC);
}

static void test_ptr_bounds(void **state)
{
    struct mem *m = *state;
    uint8_t *base = mem_ptr(m, GPA(0), 16 * PAGE);

    assert_non_null(base);
    assert_ptr_equal(mem_ptr(m, GPA(5), 1), base + 5);
    assert_null(mem_ptr(m, GPA(0), 16 * PAGE + 1)); /* neighbours, but two mappings */
    assert_null(mem_ptr(m, GPA(1), 16 * PAGE));
    assert_null(mem_ptr(m, GPA(1), UINT64_MAX));
    assert_null(mem_ptr(m, GPA(UINT64_MAX), 1));
    assert_null(mem_ptr(m, GPA(UINT64_MAX), 2));
    assert_null(mem_ptr(m, GPA(20 * PAGE), 0));
    assert_non_null(mem_ptr(m, GPA(20 * PAGE - 1), 0));
    assert_non_null(mem_ptr(m, GPA(20 * PAGE - 1), 1));
}

static void test_copy_spans_regions(void **state)
{
    struct mem *m = *state;
    uint8_t out[3000], in[3000];

    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7 + 1);
    assert_int_equal(mem_write(m, GPA(16 * PAGE - 1000), out, sizeof(out)), 0);
    assert_int_equal(mem_read(m, GPA(16 * PAGE - 1000), in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_memory_equal((uint8_t *)mem_ptr(m, GPA(16 * PAGE), 2000), out + 1000, 2000);
}

static void test_copy_bounds(void **state)
{
    struct mem *m = *state;
    uint8_t bytes[64];

    memset(bytes, 0xaa, sizeof(bytes));
    assert_int_equal(mem_write(m, GPA(20 * PAGE - 32), bytes, 64), -EFAULT);
    assert_int_equal(*(uint8_t *)mem_ptr(m, GPA(20 * PAGE - 32), 1), 0); /* nothing was copied */
    assert_int_equal(mem_read(m, GPA(20 * PAGE - 32), bytes, 64), -EFAULT);
    assert_int_equal(bytes[0], 0xaa);
    assert_int_equal(mem_read(m, GPA(UINT64_MAX - 10), bytes, 64), -EFAULT);
    assert_int_equal(mem_write(m, GPA(UINT64_MAX), bytes, 1), -EFAULT);
    assert_int_equal(mem_write(m, GPA(0x100000), bytes, 1), -EFAULT); /* ROM */
    assert_int_equal(mem_read(m, GPA(0x100000), bytes, 1), 0);
    assert_int_equal(mem_read(m, GPA(12345678), bytes, 0), 0);
    assert_int_equal(mem_write(m, GPA(HIGH_BASE + 4 * PAGE - 64), bytes, 64), 0);
}

/* Whether a write of len bytes at off in page 2 of the first region invalidates code whose blocks are those of mask. */
static bool note_hits(struct mem *m, uint64_t mask, unsigned off, unsigned len)
{
    struct mem_region *r = &m->regions[0];
    uint32_t before = atomic_load(&r->code_gen[2]);
    bool hit;

    atomic_store(&r->code_mask[2], mask);
    mem_note_write(m, r, 2, off, len);
    hit = atomic_load(&r->code_gen[2]) != before;
    assert_int_equal(atomic_load(&r->code_gen[2]), before + hit);
    assert_int_equal(atomic_load(&r->code_mask[2]), hit ? 0 : mask); /* stale marks go */
    return hit;
}

static void test_code_marks(void **state)
{
    struct mem *m = *state;

    assert_false(note_hits(m, 1ULL << 1, 63, 1));
    assert_true(note_hits(m, 1ULL << 1, 64, 1));
    assert_true(note_hits(m, 1ULL << 1, 127, 1));
    assert_false(note_hits(m, 1ULL << 1, 128, 1));
    assert_true(note_hits(m, 1ULL << 1, 60, 8)); /* straddles into the mark */
    assert_true(note_hits(m, 1ULL << 1, 0, 4096));
    assert_true(note_hits(m, 1ULL << 63, 4032, 64));
    assert_true(note_hits(m, 1ULL << 63, 4095, 1));
    assert_false(note_hits(m, 1ULL << 63, 0, 4032));
    assert_false(note_hits(m, 0, 0, 4096));
    assert_false(note_hits(m, ~1ULL, 0, 64));
}

static uint32_t gen(struct mem *m, unsigned region, unsigned page)
{
    return atomic_load(&m->regions[region].code_gen[page]);
}

static void mark_all(struct mem *m)
{
    for (unsigned i = 0; i < m->n_regions; i++) {
        for (uint64_t page = 0; page < m->regions[i].size / PAGE; page++)
            atomic_store(&m->regions[i].code_mask[page], ~0ULL);
    }
}

static void test_marking_ranges(void **state)
{
    struct mem *m = *state;
    uint8_t bytes[64] = { 0 };

    /* One mark over several pages and two regions touches each page once. */
    mark_all(m);
    mem_mark_written(m, GPA(2 * PAGE + 4000), 15 * PAGE);
    assert_int_equal(gen(m, 0, 1), 0);
    assert_int_equal(gen(m, 0, 2), 1);
    assert_int_equal(gen(m, 0, 15), 1);
    assert_int_equal(gen(m, 1, 0), 1);
    assert_int_equal(gen(m, 1, 1), 1);
    assert_int_equal(gen(m, 1, 2), 0);

    /* What is outside RAM is ignored, and nothing is marked by an empty range. */
    mark_all(m);
    mem_mark_written(m, GPA(20 * PAGE), 100 * PAGE);
    mem_mark_written(m, GPA(UINT64_MAX - 5), 3);
    mem_mark_written(m, GPA(3 * PAGE), 0);
    assert_int_equal(gen(m, 0, 3), 1);

    mark_all(m);
    assert_int_equal(mem_write(m, GPA(HIGH_BASE + PAGE - 32), bytes, 64), 0);
    assert_int_equal(gen(m, 3, 0), 1);
    assert_int_equal(gen(m, 3, 1), 1);
    assert_int_equal(gen(m, 3, 2), 0);
    assert_int_equal(mem_write(m, GPA(HIGH_BASE + 4 * PAGE - 32), bytes, 64), -EFAULT);
    assert_int_equal(gen(m, 3, 3), 0); /* a refused write marks nothing */
}

static void test_dirty_log(void **state)
{
    struct mem *m = *state;
    struct mem_region *r = &m->regions[0];
    uint64_t bitmap[1] = { 0xdead };
    uint8_t bytes[2 * PAGE];

    memset(bytes, 1, sizeof(bytes));
    assert_int_equal(mem_write(m, GPA(0), bytes, 1), 0);
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 0); /* off: nothing is logged */
    assert_int_equal(bitmap[0], 0);

    mem_log_dirty(m, true);
    assert_int_equal(mem_write(m, GPA(5 * PAGE - 1), bytes, 2), 0);
    assert_int_equal(mem_write(m, GPA(15 * PAGE + 100), bytes, PAGE), 0); /* reaches into the next region */
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 3);
    assert_int_equal(bitmap[0], 1 << 4 | 1 << 5 | 1 << 15);
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 0); /* fetching clears */
    assert_int_equal(mem_fetch_dirty(m, &m->regions[1], bitmap), 1);
    assert_int_equal(bitmap[0], 1);

    assert_int_equal(mem_write(m, GPA(0), bytes, 1), 0);
    mem_log_dirty(m, true); /* starting again clears */
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 0);
    mem_log_dirty(m, false);
    assert_int_equal(mem_write(m, GPA(0), bytes, 1), 0);
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 0);
}

static void test_dirty_log_large(void **state)
{
    struct mem *m;
    struct mem_region *r;
    uint64_t bitmap[3];
    uint8_t byte = 1;

    assert_int_equal(mem_new(&m), 0);
    assert_int_equal(mem_add_ram(m, 0, 130 * PAGE, false, &r), 0);
    mem_log_dirty(m, true);
    assert_int_equal(mem_write(m, GPA(63 * PAGE), &byte, 1), 0);
    assert_int_equal(mem_write(m, GPA(64 * PAGE), &byte, 1), 0);
    assert_int_equal(mem_write(m, GPA(129 * PAGE), &byte, 1), 0);
    memset(bitmap, 0xff, sizeof(bitmap));
    assert_int_equal(mem_fetch_dirty(m, r, bitmap), 3);
    assert_int_equal(bitmap[0], 1ULL << 63);
    assert_int_equal(bitmap[1], 1);
    assert_int_equal(bitmap[2], 2);
    mem_free(m);
}

static int build(struct mem **ret)
{
    struct mem *m;
    int r = mem_new(&m);

    if (r < 0)
        return r;
    r = mem_add_ram(m, 0, 4 * PAGE, false, NULL);
    if (r == 0)
        r = mem_add_ram(m, 0x100000, PAGE, true, NULL);
    if (r < 0) {
        mem_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

static void test_failing_allocations(void **state)
{
    struct mem *m = NULL;
    unsigned failures = 0;
    int r;

    for (unsigned n = 1; fault_begin(n), r = build(&m), fault_end(); n++) {
        assert_int_equal(r, -ENOMEM);
        assert_null(m);
        failures++;
    }
    assert_int_equal(r, 0);
    assert_int_equal(failures, 1 + 2 * 6); /* calloc; memfd, size and four mappings for each region */
    mem_free(m);
    mem_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_table, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_regions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ptr_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_spans_regions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_marks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_marking_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dirty_log, setup, teardown),
        cmocka_unit_test(test_dirty_log_large),
        cmocka_unit_test(test_failing_allocations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
