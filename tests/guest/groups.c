/* Stack accesses of hot code behind one whose other operand misses the TLB each time: an engine that looks a page up
 * once for several accesses must have looked it up on that way too. Two stacks alternate, at addresses whose distances
 * from physical memory differ, and two operand pages whose numbers agree in many low bits, so that a direct-mapped TLB
 * of any size that is sensible holds only one. */
#include "long.h"

#define ROUNDS 20000u
#define OPERANDS 0x4000000000ULL
#define STACKS 0x5000000000ULL
#define APART (1ULL << 30)

static uint64_t operand[2][512] __attribute__((aligned(4096)));
static uint64_t stack[3][512] __attribute__((aligned(4096)));

struct sums {
    uint64_t counters, operands;
};

/* In each round: a push from memory (by an index, so that its page is looked up for it alone), the push of a counter,
 * and both come back. */
static struct sums push_memory(uint64_t a, uint64_t b, uint64_t top_a, uint64_t top_b)
{
    struct sums s = { 0 };
    uint64_t count = ROUNDS;

    __asm__ volatile(
        "mov %%rsp, %%r14; mov %[top_a], %%r8; mov %[top_b], %%r9\n"
        "1: mov %%r8, %%rsp; pushq (,%[a],1); push %[count]\n"
        "pop %%r10; pop %%r11; add %%r10, %[counters]; add %%r11, %[operands]\n"
        "xchg %%r8, %%r9; xchg %[a], %[b]; dec %[count]; jnz 1b\n"
        "mov %%r14, %%rsp"
        : [counters] "+&r"(s.counters), [operands] "+&r"(s.operands), [count] "+&r"(count), [a] "+&r"(a), [b] "+&r"(b)
        : [top_a] "r"(top_a), [top_b] "r"(top_b)
        : "r8", "r9", "r10", "r11", "r14", "cc", "memory");
    return s;
}

static void test_push_memory(void)
{
    struct sums s;

    for (unsigned i = 0; i < 2; i++) {
        operand[i][0] = 1000 + i;
        map_page(OPERANDS + i * APART, (uint64_t)operand[i], 3);
        map_page(STACKS + i * 4096, (uint64_t)stack[2 - i], 3); /* the first is the higher in physical memory */
    }
    s = push_memory(OPERANDS, OPERANDS + APART, STACKS + 2048, STACKS + 4096 + 2048);
    CHECK_EQ("counters that came back", s.counters, ROUNDS / 2 * (ROUNDS + 1ULL));
    CHECK_EQ("operands that came back", s.operands, ROUNDS / 2 * 2001ULL);
}

const struct guest_test guest_tests[] = {
    { "push of a memory operand", test_push_memory },
    { 0 },
};
