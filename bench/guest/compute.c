/* Rows of plain computing: integers, sorting, pointers, calls. Built without vectorisation, so that each measures what
 * its name says. */
#include "bench.h"

#include <stdlib.h>

/* Hash mixing, and Collatz sequences for short dependent branches. */
bool row_alu(struct bench *b, uint64_t *ret_sum)
{
    uint64_t state = 88172645463325252, sum = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        uint64_t h = bench_random(&state);
        h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
        h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
        h ^= h >> 33;
        uint32_t n = (uint32_t)h & 0xffff;
        for (int step = 0; step < 8; step++) {
            n = n & 1 ? 3 * n + 1 : n / 2;
        }
        sum += h ^ n;
    }
    bench_end(b);
    *ret_sum = sum;
    return true;
}

enum { SORT_N = 1 << 16 };

static void sort_insert(uint32_t *v, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint32_t x = v[i];
        size_t j = i;
        for (; j && v[j - 1] > x; j--) {
            v[j] = v[j - 1];
        }
        v[j] = x;
    }
}

/* Quicksort by the middle of three; the shorter part by recursion. */
static void sort_quick(uint32_t *v, size_t n)
{
    while (n > 16) {
        uint32_t x = v[0], y = v[n / 2], z = v[n - 1];
        uint32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        size_t i = 0, j = n - 1;
        for (;; i++, j--) {
            while (v[i] < pivot) {
                i++;
            }
            while (v[j] > pivot) {
                j--;
            }
            if (i >= j) {
                break;
            }
            uint32_t swap = v[i];
            v[i] = v[j];
            v[j] = swap;
        }
        size_t left = i ? i : 1;
        if (left < n - left) {
            sort_quick(v, left);
            v += left;
            n -= left;
        } else {
            sort_quick(v + left, n - left);
            n = left;
        }
    }
    sort_insert(v, n);
}

bool row_sort(struct bench *b, uint64_t *ret_sum)
{
    uint32_t *v = malloc(SORT_N * sizeof *v);
    if (!v) {
        return bench_fail_call(b, "malloc");
    }
    uint64_t state = 20261127, before = 0, after = 0, sum = 0;
    bool sorted = true;
    bench_begin(b);
    for (uint64_t round = 0; round < b->count; round++) {
        for (size_t i = 0; i < SORT_N; i++) {
            v[i] = (uint32_t)bench_random(&state);
            before += v[i];
        }
        sort_quick(v, SORT_N);
        for (size_t i = 0; i < SORT_N; i++) {
            sorted &= !i || v[i - 1] <= v[i];
            after += v[i];
        }
        sum = bench_fold(sum, v[round % SORT_N]);
    }
    bench_end(b);
    free(v);
    *ret_sum = bench_fold(sum, after);
    return (sorted && before == after) || bench_fail(b, "the numbers are not sorted");
}

struct chase_node {
    struct chase_node *next;
    uint64_t value;
    char pad[48];
};
enum { CHASE_N = 1 << 16 }; /* 4 MiB: beyond the second cache */

/* One cycle through all nodes in random order, followed count times. */
bool row_chase(struct bench *b, uint64_t *ret_sum)
{
    struct chase_node *nodes = malloc(CHASE_N * sizeof *nodes);
    uint32_t *order = malloc(CHASE_N * sizeof *order);
    if (!nodes || !order) {
        free(nodes);
        free(order);
        return bench_fail_call(b, "malloc");
    }
    uint64_t state = 4711, sum = 0;
    for (uint32_t i = 0; i < CHASE_N; i++) {
        order[i] = i;
        nodes[i].value = i * UINT64_C(0x9e3779b97f4a7c15);
    }
    for (uint32_t i = CHASE_N - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(bench_random(&state) % i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (uint32_t i = 0; i < CHASE_N; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % CHASE_N]];
    }
    struct chase_node *at = nodes;
    uint64_t steps = b->count * (CHASE_N / 4);
    bench_begin(b);
    for (uint64_t i = 0; i < steps; i++) {
        sum = sum * 3 + at->value;
        at = at->next;
    }
    bench_end(b);
    uint64_t where = (uint64_t)(at - nodes);
    bool home = steps % CHASE_N != 0 || where == 0;
    free(nodes);
    free(order);
    *ret_sum = bench_fold(sum, where);
    return home || bench_fail(b, "the cycle ended at node %llu", (unsigned long long)where);
}

#define PLAIN_CALLS __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))

PLAIN_CALLS static uint64_t recursion_fib(unsigned n)
{
    return n < 2 ? n : recursion_fib(n - 1) + recursion_fib(n - 2);
}

PLAIN_CALLS static int recursion_tak(int x, int y, int z)
{
    return y < x ? recursion_tak(recursion_tak(x - 1, y, z), recursion_tak(y - 1, z, x), recursion_tak(z - 1, x, y))
                 : z;
}

bool row_recursion(struct bench *b, uint64_t *ret_sum)
{
    uint64_t fib = 0;
    int tak = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        fib += recursion_fib(28);
        tak += recursion_tak(18, 12, 6);
    }
    bench_end(b);
    *ret_sum = fib << 8 ^ (uint64_t)tak;
    return (fib == 317811 * b->count && (uint64_t)tak == 7 * b->count) ||
           bench_fail(b, "fib %llu, tak %d", (unsigned long long)fib, tak);
}

/* A small stack machine whose instructions are called through a table. */
struct machine {
    uint64_t stack[16];
    unsigned depth;
    uint64_t counter, seed;
};
typedef const uint8_t *machine_op(struct machine *m, const uint8_t *pc);

static const uint8_t *op_seed(struct machine *m, const uint8_t *pc)
{
    m->stack[m->depth++ & 15] = m->seed;
    return pc + 1;
}

static const uint8_t *op_push(struct machine *m, const uint8_t *pc)
{
    m->stack[m->depth++ & 15] = pc[1];
    return pc + 2;
}

static const uint8_t *op_dup(struct machine *m, const uint8_t *pc)
{
    uint64_t top = m->stack[(m->depth - 1) & 15];
    m->stack[m->depth++ & 15] = top;
    return pc + 1;
}

static const uint8_t *op_add(struct machine *m, const uint8_t *pc)
{
    m->depth--;
    m->stack[(m->depth - 1) & 15] += m->stack[m->depth & 15];
    return pc + 1;
}

static const uint8_t *op_mul(struct machine *m, const uint8_t *pc)
{
    m->depth--;
    m->stack[(m->depth - 1) & 15] *= m->stack[m->depth & 15] | 1;
    return pc + 1;
}

static const uint8_t *op_xor(struct machine *m, const uint8_t *pc)
{
    m->depth--;
    m->stack[(m->depth - 1) & 15] ^= m->stack[m->depth & 15];
    return pc + 1;
}

static const uint8_t *op_shift(struct machine *m, const uint8_t *pc)
{
    m->stack[(m->depth - 1) & 15] >>= pc[1] & 63;
    return pc + 2;
}

static const uint8_t *op_store(struct machine *m, const uint8_t *pc)
{
    m->seed = m->stack[--m->depth & 15];
    return pc + 1;
}

static const uint8_t *op_not(struct machine *m, const uint8_t *pc)
{
    m->stack[(m->depth - 1) & 15] = ~m->stack[(m->depth - 1) & 15];
    return pc + 1;
}

/* Skip the next instruction, of one byte, if the top of the stack is odd. */
static const uint8_t *op_odd(struct machine *m, const uint8_t *pc)
{
    return pc + 1 + (m->stack[(m->depth - 1) & 15] & 1);
}

static const uint8_t *op_loop(struct machine *m, const uint8_t *pc)
{
    return --m->counter ? pc - pc[1] : NULL;
}

enum { SEED, PUSH, DUP, ADD, MUL, XOR, NOT, SHIFT, STORE, ODD, LOOP };
static machine_op *const machine_table[] = {
    [SEED] = op_seed, [PUSH] = op_push,   [DUP] = op_dup,     [ADD] = op_add, [MUL] = op_mul,   [XOR] = op_xor,
    [NOT] = op_not,   [SHIFT] = op_shift, [STORE] = op_store, [ODD] = op_odd, [LOOP] = op_loop,
};

bool row_indirect(struct bench *b, uint64_t *ret_sum)
{
    static const uint8_t program[] = { SEED, DUP,  SHIFT, 29,   XOR, PUSH, 157,   MUL,  ODD,
                                       NOT,  SEED, XOR,   PUSH, 77,  ADD,  STORE, LOOP, 16 };
    struct machine m = { .counter = b->count, .seed = 1 };
    const uint8_t *pc = program;
    bench_begin(b);
    while (pc) {
        pc = machine_table[*pc](&m, pc);
    }
    bench_end(b);
    *ret_sum = bench_fold(m.seed, m.depth);
    return (!m.counter && !m.depth) ||
           bench_fail(b, "the machine stopped with %llu rounds to go", (unsigned long long)m.counter);
}
