/* Many CPUs, more than the host has: all start, compute, answer IPIs, agree about memory and code that one of them
 * changes. Waiting is by HLT or PAUSE, as a guest with more CPUs than its host must. Intel SDM volume 3: 8.1.3
 * (cross-modifying code), 8.2.3 (ordering), 4.10.5 (propagation of paging-structure changes). */
#include "long.h"

#define VEC_ALL 0x61
#define VEC_RING 0x62
#define VEC_SYNC 0x63

static unsigned n_cpus, n_users; /* users: CPUs that are busy all the time while CPU 0 changes things */

static void on_all(cpu_work *work)
{
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_call(i, work);
    work(0);
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_wait(i);
}

/* ---- start and work ---- */

static volatile uint64_t seen_low, results[CPUS_MAX];
static volatile uint64_t total;

/* The same on all CPUs: a generator of numbers, a division, calls, a table in memory of its own. */
static uint64_t work_result(void)
{
    uint64_t x = 88172645463325252ULL, table[32] = { 0 };

    for (unsigned i = 0; i < 3000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        table[x & 31] += x / (i + 1);
    }
    for (unsigned i = 0; i < 32; i++)
        x = x * 31 + table[i];
    return x;
}

static void work(unsigned cpu)
{
    __atomic_fetch_or(&seen_low, BIT(cpu), __ATOMIC_SEQ_CST);
    results[cpu] = work_result();
    for (unsigned i = 0; i < 500; i++) {
        uint64_t one = 1;

        __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(total)::"cc", "memory");
    }
}

static void test_start(void)
{
    uint64_t want;

    cpus_sleep = true;
    n_cpus = cpus_start();
    n_users = n_cpus < 8 ? n_cpus - 1 : 7;
    CHECK_EQ("CPUs that run", n_cpus, guest_option("cpus", 1));
    want = work_result();
    on_all(work);
    CHECK_EQ("CPUs", seen_low, n_cpus == 64 ? ~0ULL : BIT(n_cpus) - 1);
    CHECK_EQ("LOCK XADD by all", total, 500ULL * n_cpus);
    for (unsigned i = 0; i < n_cpus; i++)
        CHECK_EQ("result of a CPU", results[i], want);
}

/* ---- IPIs ---- */

static volatile unsigned all_hits, ring_hits[CPUS_MAX], ring_laps, stop;

static void on_ipi_all(struct frame *f)
{
    (void)f;
    __atomic_fetch_add(&all_hits, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

/* Passes the token on to the next CPU. */
static void on_ring(struct frame *f)
{
    unsigned self = cpu_self();

    (void)f;
    ring_hits[self]++;
    apic_eoi();
    if (self == 0 && ++ring_laps == 3)
        return;
    apic_send((self + 1) % n_cpus, 0x4000 | VEC_RING);
}

static void sleep_loop(unsigned cpu)
{
    (void)cpu;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
        sti_hlt_cli();
}

static void end_sleep(void)
{
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    apic_send(0, 0xc4000 | VEC_ALL);
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_wait(i);
    stop = 0;
}

static void test_ipis(void)
{
    guest_handlers[VEC_ALL] = on_ipi_all;
    guest_handlers[VEC_RING] = on_ring;
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_call(i, sleep_loop);
    for (unsigned i = 1; i <= 20; i++) {
        apic_send(0, 0xc4000 | VEC_ALL); /* all but self */
        while (__atomic_load_n(&all_hits, __ATOMIC_SEQ_CST) < i * (n_cpus - 1))
            cpu_relax();
    }
    CHECK_EQ("broadcasts", all_hits, 20 * (n_cpus - 1));
    apic_send(1, 0x4000 | VEC_RING);
    while (ring_laps < 3)
        sti_hlt_cli();
    for (unsigned i = 0; i < n_cpus; i++)
        CHECK_EQ("tokens", ring_hits[i], 3);
    end_sleep();
}

/* ---- shoot-down of data and of code ---- */

#define SHOOT_DATA 0x8000000000ULL
#define SHOOT_CODE 0x8000001000ULL

static volatile unsigned users_ready, sync_acks, sync_round;
static volatile uint64_t stale_data, stale_code, wrong_code;

typedef uint64_t code_fn(void);

static void on_sync(struct frame *f)
{
    (void)f;
    invlpg(SHOOT_DATA);
    invlpg(SHOOT_CODE);
    __atomic_fetch_add(&sync_acks, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

/* The users work, the other CPUs sleep and answer interrupts. */
static void call_users(cpu_work *user)
{
    users_ready = 0;
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_call(i, i <= n_users ? user : sleep_loop);
    while (users_ready < n_users)
        cpu_relax();
}

/* Interrupt all others; back when they have acknowledged. */
static void sync_all(void)
{
    __atomic_store_n(&sync_acks, 0, __ATOMIC_SEQ_CST);
    apic_send(0, 0xc4000 | VEC_SYNC);
    while (__atomic_load_n(&sync_acks, __ATOMIC_SEQ_CST) < n_cpus - 1)
        cpu_relax();
}

/* Read and run what is mapped there; a value from before the round that was acknowledged last is stale. */
static void shoot_user(unsigned cpu)
{
    (void)cpu;
    __atomic_fetch_add(&users_ready, 1, __ATOMIC_SEQ_CST);
    sti();
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        uint64_t round = __atomic_load_n(&sync_round, __ATOMIC_SEQ_CST);
        uint64_t data = *(volatile uint64_t *)SHOOT_DATA, code = ((code_fn *)SHOOT_CODE)();

        if (data < round)
            stale_data++;
        if (code < round)
            stale_code++;
        if (data > round + 2 && data > sync_round + 1u)
            wrong_code++;
        for (unsigned i = 0; i < 20; i++)
            ((code_fn *)SHOOT_CODE)();
        cpu_relax();
    }
    cli();
}

static void put_code(uint8_t *at, uint32_t v)
{
    at[0] = 0xb8; /* mov $v, %eax; ret */
    memcpy(at + 1, &v, 4);
    at[5] = 0xc3;
}

static void test_shoot_down(void)
{
    uint8_t *data[2] = { page_alloc(), page_alloc() }, *code[2] = { page_alloc(), page_alloc() };
    unsigned rounds = n_cpus > 8 ? 30 : 200;

    guest_handlers[VEC_SYNC] = on_sync;
    put_code(code[0], 0);
    map_page(SHOOT_DATA, (uint64_t)data[0], PTE_P | PTE_W);
    map_page(SHOOT_CODE, (uint64_t)code[0], PTE_P | PTE_W);
    call_users(shoot_user);
    for (unsigned i = 1; i <= rounds; i++) {
        *(volatile uint64_t *)data[i & 1] = i;
        put_code(code[i & 1], i);
        *pt_entry(boot_pml4, SHOOT_DATA, 1) = (uint64_t)data[i & 1] | PTE_P | PTE_W;
        *pt_entry(boot_pml4, SHOOT_CODE, 1) = (uint64_t)code[i & 1] | PTE_P | PTE_W;
        invlpg(SHOOT_DATA);
        invlpg(SHOOT_CODE);
        sync_all();
        __atomic_store_n(&sync_round, i, __ATOMIC_SEQ_CST);
        for (volatile unsigned k = 0; k < 2000; k++) {
        }
    }
    end_sleep();
    CHECK_EQ("data behind an acknowledged shoot-down", stale_data, 0);
    CHECK_EQ("code behind an acknowledged shoot-down", stale_code, 0);
    CHECK_EQ("data from the future", wrong_code, 0);
}

/* ---- code that all run is changed as operating systems do it ---- */

/* INT3 over the first byte, all CPUs synchronised, then the tail, synchronised again, then the first byte: the others
 * see the old function, the breakpoint, or the new function, never a mixture (SDM 8.1.3; a single byte is atomic). */
static uint8_t *poke_page;
static volatile uint64_t poke_mixed, poke_stale, poke_traps;
static volatile unsigned poke_done;

static void on_poke_trap(struct frame *f)
{
    /* Behave like a function that was not there: its caller is on the stack. */
    poke_traps++;
    f->rax = ~0ULL;
    f->rip = *(uint64_t *)f->rsp;
    f->rsp += 8;
}

/* The immediate is 64 bits: its halves are equal, or we saw a mixture. */
static void put_wide(uint8_t *at, uint32_t v, bool first)
{
    uint64_t wide = (uint64_t)v << 32 | v;

    at[1] = 0xb8; /* 48 b8: movabs */
    memcpy(at + 2, &wide, 8);
    at[10] = 0xc3;
    if (first)
        at[0] = 0x48;
}

static void poke_user(unsigned cpu)
{
    code_fn *fn = (code_fn *)(uint64_t)(poke_page + 61); /* the immediate straddles cache lines */

    (void)cpu;
    __atomic_fetch_add(&users_ready, 1, __ATOMIC_SEQ_CST);
    sti();
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        uint64_t least = __atomic_load_n(&poke_done, __ATOMIC_SEQ_CST), v;

        v = fn();
        if (v == ~0ULL)
            continue;
        if (v >> 32 != (uint32_t)v)
            poke_mixed++;
        else if ((uint32_t)v < least)
            poke_stale++;
        cpu_relax();
    }
    cli();
}

static void test_poke(void)
{
    unsigned rounds = n_cpus > 8 ? 20 : 200;
    volatile uint8_t *at;

    poke_page = page_alloc();
    at = poke_page + 61;
    put_wide((uint8_t *)at, 0, true);
    guest_handlers[BP] = on_poke_trap;
    call_users(poke_user);
    for (unsigned i = 1; i <= rounds; i++) {
        at[0] = 0xcc;
        sync_all();
        put_wide((uint8_t *)at, i, false);
        sync_all();
        at[0] = 0x48;
        sync_all();
        __atomic_store_n(&poke_done, i, __ATOMIC_SEQ_CST);
        for (volatile unsigned k = 0; k < 2000; k++) {
        }
    }
    end_sleep();
    guest_handlers[BP] = NULL;
    CHECK_EQ("mixtures of old and new", poke_mixed, 0);
    CHECK_EQ("old code behind a synchronisation", poke_stale, 0);
}

/* ---- ordering between two CPUs, one pair at a time ---- */

static volatile uint64_t x_word __attribute__((aligned(64))), y_word __attribute__((aligned(64)));
static volatile uint64_t bad_order, bad_coherence;

#define ORDER_ROUNDS 30000u

/* Stores of one CPU are seen in order (8.2.3.2), and loads are not reordered with older loads; the counter also never
 * goes backward (coherence). */
static void order_reader(unsigned cpu)
{
    uint64_t last = 0;

    (void)cpu;
    while (last < ORDER_ROUNDS) {
        uint64_t y = y_word, x = x_word, again = x_word;

        if (x < y)
            bad_order++;
        if (again < x || y < last)
            bad_coherence++;
        if (y == last)
            cpu_relax();
        last = y;
    }
}

/* Load buffering (8.2.3.3): each CPU loads the other's word, then stores its own; not both can see the other's store.
 */
static volatile uint64_t lb[2][2048], lb_seen[2][2048], lb_at[2];

static void lb_run(unsigned cpu)
{
    unsigned self = cpu & 1;

    for (unsigned i = 0; i < 2048; i++) {
        __atomic_store_n(&lb_at[self], i, __ATOMIC_SEQ_CST);
        /* Not farther apart than a few rounds, so that they meet at times. */
        while (__atomic_load_n(&lb_at[!self], __ATOMIC_SEQ_CST) + 64 < i)
            cpu_relax();
        lb_seen[self][i] = lb[!self][i];
        lb[self][i] = 1;
    }
    __atomic_store_n(&lb_at[self], 1u << 20, __ATOMIC_SEQ_CST);
}

static void test_ordering(void)
{
    unsigned bad = 0;

    cpu_call(1, order_reader);
    for (unsigned i = 1; i <= ORDER_ROUNDS; i++) {
        x_word = i;
        y_word = i;
    }
    cpu_wait(1);
    CHECK_EQ("stores out of order", bad_order, 0);
    CHECK_EQ("a word went backward", bad_coherence, 0);
    cpu_call(1, lb_run);
    lb_run(0);
    cpu_wait(1);
    for (unsigned i = 0; i < 2048; i++)
        bad += lb_seen[0][i] && lb_seen[1][i];
    CHECK_EQ("both loads saw the other's later store", bad, 0);
}

const struct guest_test guest_tests[] = {
    { "start", test_start }, { "IPIs", test_ipis },         { "shoot-down", test_shoot_down },
    { "poke", test_poke },   { "ordering", test_ordering }, { 0 },
};
