/* Several CPUs: start by INIT-SIPI-SIPI, IPIs, locks, atomics, memory ordering, TLB shoot-down, cross-modifying code.
 * Run it with two and more. Ordering rules: Intel SDM volume 3, section 8.2.3; cross-modifying code: 8.1.3. */
#include "long.h"

#define ROUNDS 20000u

static unsigned n_cpus;

/* Run work on all CPUs, this one included. */
static void on_all(cpu_work *work)
{
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_call(i, work);
    work(0);
    for (unsigned i = 1; i < n_cpus; i++)
        cpu_wait(i);
}

/* All CPUs meet. */
static volatile unsigned barrier_in, barrier_turn;

static void barrier(void)
{
    unsigned turn = barrier_turn;

    if (__atomic_add_fetch(&barrier_in, 1, __ATOMIC_SEQ_CST) == n_cpus) {
        barrier_in = 0;
        __atomic_store_n(&barrier_turn, turn + 1, __ATOMIC_SEQ_CST);
    } else {
        while (__atomic_load_n(&barrier_turn, __ATOMIC_SEQ_CST) == turn)
            cpu_relax();
    }
}

static volatile unsigned ids;

static void note_id(unsigned cpu)
{
    uint64_t base = rdmsr(0x1b);

    __atomic_fetch_or(&ids, 1u << cpu_self(), __ATOMIC_SEQ_CST);
    CHECK_EQ("BSP flag", !!(base & BIT(8)), cpu == 0);
}

static void test_start(void)
{
    n_cpus = cpus_start();
    on_all(note_id);
    CHECK_EQ("CPUs", ids, (1u << n_cpus) - 1);
}

static volatile uint64_t counter_xadd, counter_cx8, counter_inc, counter_locked;
static volatile uint8_t split_lines[128] __attribute__((aligned(64)));
static volatile uint64_t counter_cx16[2] __attribute__((aligned(16)));
static volatile unsigned lock_word;

static void count(unsigned cpu)
{
    /* Across a cache line, in one page: LOCK must still be atomic. */
    volatile uint64_t *split = (volatile uint64_t *)(split_lines + 60);

    (void)cpu;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t old = 1;

        __asm__ volatile("lock xaddq %0, %1" : "+r"(old), "+m"(counter_xadd)::"memory", "cc");
        __asm__ volatile("lock incq %0" : "+m"(counter_inc)::"cc");
        old = counter_cx8;
        while (!__atomic_compare_exchange_n(&counter_cx8, &old, old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
        __asm__ volatile(
            "1: movl $1, %%eax; xchgl %%eax, %0; testl %%eax, %%eax; jz 3f; 2: pause; cmpl $0, %0; jne 2b; jmp "
            "1b; 3:"
            : "+m"(lock_word)::"rax", "memory", "cc");
        counter_locked = counter_locked + 1;
        __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
        __asm__ volatile("lock addq $1, %0" : "+m"(*split)::"cc");
    }
}

static void count_cx16(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t lo = counter_cx16[0], hi = counter_cx16[1];
        bool ok;

        do {
            __asm__ volatile("lock cmpxchg16b %1; setz %0"
                             : "=q"(ok), "+m"(*(volatile __int128 *)counter_cx16), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 2)
                             : "cc", "memory");
        } while (!ok);
    }
}

static void test_atomics(void)
{
    uint64_t want = (uint64_t)ROUNDS * n_cpus;

    on_all(count);
    CHECK_EQ("LOCK XADD", counter_xadd, want);
    CHECK_EQ("LOCK INC", counter_inc, want);
    CHECK_EQ("LOCK CMPXCHG", counter_cx8, want);
    CHECK_EQ("LOCK ADD over two cache lines", *(volatile uint64_t *)(split_lines + 60), want);
    CHECK_EQ("spinlock by XCHG", counter_locked, want);
    if (cpuid(1, 0).ecx & BIT(13)) {
        on_all(count_cx16);
        CHECK_EQ("LOCK CMPXCHG16B, low", counter_cx16[0], want);
        CHECK_EQ("LOCK CMPXCHG16B, high", counter_cx16[1], 2 * want);
    }
}

/* LOCK on data that crosses two pages. */
static uint64_t crossing_va = 0x8000000000ULL;

static void count_crossing(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS / 4; i++)
        __asm__ volatile("lock addq $1, (%0)" ::"r"(crossing_va + 0x1000 - 3) : "memory", "cc");
}

static void test_page_crossing_lock(void)
{
    uint64_t a = (uint64_t)page_alloc(), b = (uint64_t)page_alloc(), v = 0;

    map_page(crossing_va, b, PTE_P | PTE_W); /* not neighbours in memory */
    map_page(crossing_va + 0x1000, a, PTE_P | PTE_W);
    on_all(count_crossing);
    memcpy(&v, (void *)(b + 0x1000 - 3), 3);
    memcpy((uint8_t *)&v + 3, (void *)a, 5);
    CHECK_EQ("LOCK ADD over two pages", v, (uint64_t)(ROUNDS / 4) * n_cpus);
}

/* Message passing: data stored before flag is seen before flag (SDM 8.2.3.2), and store-buffering with MFENCE or a
 * locked instruction in between never gives 0, 0 (8.2.3.9). */
/* In cache lines of their own. */
static volatile uint64_t x_word __attribute__((aligned(64))), y_word __attribute__((aligned(64)));
static volatile uint64_t dummy_word __attribute__((aligned(64)));
static volatile uint64_t r0, r1, bad_mp, bad_sb;

static void litmus_mp(unsigned cpu)
{
    for (unsigned i = 1; i <= ROUNDS && cpu < 2; i++) {
        if (cpu == 0) {
            x_word = i;
            y_word = i;
        } else {
            uint64_t y = y_word, x = x_word;

            if (x < y)
                bad_mp = bad_mp + 1;
        }
    }
}

static void litmus_sb(unsigned cpu)
{
    for (unsigned i = 0; i < (n_cpus > 2 ? 100u : 300u); i++) { /* hosts may have fewer CPUs */
        barrier();
        if (cpu == 0) {
            x_word = y_word = 0;
        }
        barrier();
        if (cpu == 0) {
            x_word = 1;
            __asm__ volatile("mfence" ::: "memory");
            r0 = y_word;
        } else if (cpu == 1) {
            uint64_t dummy = 0;

            y_word = 1;
            __asm__ volatile("xchgq %0, %1" : "+r"(dummy), "+m"(dummy_word)::"memory");
            r1 = x_word;
        }
        barrier();
        if (cpu == 0 && r0 == 0 && r1 == 0)
            bad_sb = bad_sb + 1;
    }
}

static void test_ordering(void)
{
    if (n_cpus < 2)
        return;
    x_word = y_word = 0;
    on_all(litmus_mp);
    CHECK_EQ("message passing out of order", bad_mp, 0);
    on_all(litmus_sb);
    CHECK_EQ("store buffering through fences", bad_sb, 0);
}

/* ---- IPIs ---- */

#define VEC_PING 0x70
#define VEC_PONG 0x71
#define VEC_FLUSH 0x72
static volatile unsigned pings, pongs, flushed, ap_stop;

static void on_ping(struct frame *f)
{
    (void)f;
    pings++;
    apic_eoi();
    apic_send(0, 0x4000 | VEC_PONG);
}

static void on_pong(struct frame *f)
{
    (void)f;
    pongs++;
    apic_eoi();
}

static void ap_halt_loop(unsigned cpu)
{
    (void)cpu;
    while (!ap_stop)
        sti_hlt_cli();
}

static void test_ping_pong(void)
{
    if (n_cpus < 2)
        return;
    guest_handlers[VEC_PING] = on_ping;
    guest_handlers[VEC_PONG] = on_pong;
    cpu_call(1, ap_halt_loop);
    for (unsigned i = 1; i <= 500; i++) {
        apic_send(1, 0x4000 | VEC_PING);
        while (pongs < i)
            sti_hlt_cli();
    }
    CHECK_EQ("pings", pings, 500);
    CHECK_EQ("pongs", pongs, 500);
    ap_stop = 1;
    apic_send(1, 0x4000 | VEC_PING);
    cpu_wait(1);
}

static volatile unsigned broadcast_hits[CPUS_MAX];

static void on_broadcast(struct frame *f)
{
    (void)f;
    broadcast_hits[cpu_self()]++;
    apic_eoi();
}

static void wait_broadcast(unsigned cpu)
{
    barrier();
    if (cpu == 0) {
        apic_send(0, 0xc4000 | 0x73); /* all but self */
        sti();
    }
    while (cpu != 0 && broadcast_hits[cpu] < 1)
        sti_hlt_cli();
    barrier();
    if (cpu == 0)
        apic_send(0, 0x84000 | 0x73); /* all */
    while (broadcast_hits[cpu] < (cpu == 0 ? 1u : 2u)) {
        sti();
        cpu_relax();
    }
    cli();
    barrier();
    /* Logical destination, flat model: CPU 0 and the last. */
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 1u << (24 + cpu));
    barrier();
    if (cpu == 0)
        apic_send(1 | 1u << (n_cpus - 1), 0x4800 | 0x73);
    if (cpu == 0 || cpu == n_cpus - 1) {
        while (broadcast_hits[cpu] < (cpu == 0 ? 2u : 3u)) {
            sti();
            cpu_relax();
        }
    }
    cli();
    barrier();
}

static void test_broadcast(void)
{
    if (n_cpus < 2)
        return;
    guest_handlers[0x73] = on_broadcast;
    on_all(wait_broadcast);
    for (unsigned i = 0; i < n_cpus; i++)
        CHECK_EQ("deliveries", broadcast_hits[i], (i == 0 ? 1u : 2u) + (i == 0 || i == n_cpus - 1));
}

/* TLB shoot-down: CPU 1 uses a page while CPU 0 takes it away; behind the acknowledged IPI the old frame must not be
 * reached. */
static volatile uint64_t *shoot_page = (volatile uint64_t *)0x8000010000ULL;
static volatile unsigned shoot_stop;

static void on_flush(struct frame *f)
{
    (void)f;
    invlpg((uint64_t)shoot_page);
    flushed++;
    apic_eoi();
}

static void shoot_user(unsigned cpu)
{
    (void)cpu;
    sti();
    while (!shoot_stop)
        *shoot_page = *shoot_page + 1;
    cli();
}

static void test_shoot_down(void)
{
    uint64_t frames[2] = { (uint64_t)page_alloc(), (uint64_t)page_alloc() };

    if (n_cpus < 2)
        return;
    guest_handlers[VEC_FLUSH] = on_flush;
    map_page((uint64_t)shoot_page, frames[0], PTE_P | PTE_W);
    cpu_call(1, shoot_user);
    for (unsigned i = 1; i <= 200; i++) {
        uint64_t *old = (uint64_t *)frames[(i - 1) & 1], was;

        *pt_entry(boot_pml4, (uint64_t)shoot_page, 1) = frames[i & 1] | PTE_P | PTE_W;
        invlpg((uint64_t)shoot_page);
        apic_send(1, 0x4000 | VEC_FLUSH);
        while (flushed < i)
            cpu_relax();
        was = __atomic_load_n(old, __ATOMIC_SEQ_CST);
        for (volatile int k = 0; k < 300; k++) {
        }
        if (__atomic_load_n(old, __ATOMIC_SEQ_CST) != was) {
            CHECK(false, "old frame written after the shoot-down (round %u)", i);
            break;
        }
    }
    CHECK_EQ("acknowledged", flushed, 200);
    shoot_stop = 1;
    cpu_wait(1);
}

/* Cross-modifying code: CPU 0 writes a new immediate, tells CPU 1, which serialises (CPUID) and must run the new code.
 */
static uint8_t *code_page;
static volatile unsigned code_gen, code_ack;
static volatile unsigned code_bad;

static void run_code(unsigned cpu)
{
    unsigned (*fn)(void) = (unsigned (*)(void))(uint64_t)code_page;

    (void)cpu;
    for (unsigned i = 1; i <= 1000; i++) {
        while (__atomic_load_n(&code_gen, __ATOMIC_ACQUIRE) < i)
            cpu_relax();
        cpuid(0, 0);
        if (fn() != i)
            code_bad++;
        __atomic_store_n(&code_ack, i, __ATOMIC_RELEASE);
    }
}

static void test_cross_modifying(void)
{
    if (n_cpus < 2)
        return;
    code_page = page_alloc();
    code_page[0] = 0xb8; /* mov $imm32, %eax; ret */
    code_page[5] = 0xc3;
    cpu_call(1, run_code);
    for (unsigned i = 1; i <= 1000; i++) {
        *(volatile uint32_t *)(code_page + 1) = i;
        __atomic_store_n(&code_gen, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(&code_ack, __ATOMIC_ACQUIRE) < i)
            cpu_relax();
    }
    cpu_wait(1);
    CHECK_EQ("stale code", code_bad, 0);
}

/* Single-byte patching of a NOP to INT3 and back while the other CPU runs it: it sees one or the other, never anything
 * else. */
static volatile unsigned patch_stop, int3_seen, patch_runs;

static void on_int3(struct frame *f)
{
    (void)f;
    int3_seen++;
}

static void run_patched(unsigned cpu)
{
    unsigned (*fn)(void) = (unsigned (*)(void))(uint64_t)(code_page + 64);

    (void)cpu;
    while (!patch_stop) {
        if (fn() != 0x1234567)
            code_bad++;
        patch_runs++;
    }
}

static void test_int3_patching(void)
{
    static const uint8_t code[] = { 0x90, 0xb8, 0x67, 0x45, 0x23, 0x01, 0xc3 };

    if (n_cpus < 2)
        return;
    memcpy(code_page + 64, code, sizeof(code));
    guest_handlers[BP] = on_int3;
    code_bad = 0;
    cpu_call(1, run_patched);
    while (patch_runs < 1000 || int3_seen < 20) {
        *(volatile uint8_t *)(code_page + 64) = 0xcc;
        for (volatile int k = 0; k < 100; k++) {
        }
        *(volatile uint8_t *)(code_page + 64) = 0x90;
        for (volatile int k = 0; k < 100; k++) {
        }
    }
    patch_stop = 1;
    cpu_wait(1);
    guest_handlers[BP] = NULL;
    CHECK_EQ("wrong results", code_bad, 0);
}

/* INIT stops a CPU at any point, SIPI starts it anew. */
static volatile unsigned spins;

static void spin_for_ever(unsigned cpu)
{
    (void)cpu;
    for (;;)
        spins++;
}

static void test_init(void)
{
    unsigned before, still = 0;

    if (n_cpus < 2)
        return;
    cpu_call(1, spin_for_ever);
    while (spins < 100)
        cpu_relax();
    apic_send(1, 0x4500);
    /* The INIT takes effect when the host next runs that CPU, which may be a while on a busy one: wait for it to be
     * still. */
    for (int i = 0; i < 2000 && still < 3; i++) {
        before = spins;
        for (volatile int j = 0; j < 100000; j++) {
        }
        still = spins == before ? still + 1 : 0;
    }
    CHECK_EQ("INIT stops it", still, 3);
    cpu_restart(1);
    ids = 0;
    cpu_call(1, note_id);
    cpu_wait(1);
    CHECK_EQ("runs again", ids, 2);
}

const struct guest_test guest_tests[] = {
    { "start", test_start },
    { "atomics", test_atomics },
    { "LOCK across pages", test_page_crossing_lock },
    { "ordering", test_ordering },
    { "IPI ping-pong", test_ping_pong },
    { "broadcast", test_broadcast },
    { "TLB shoot-down", test_shoot_down },
    { "cross-modifying code", test_cross_modifying },
    { "INT3 patching", test_int3_patching },
    { "INIT", test_init },
    { 0 },
};
