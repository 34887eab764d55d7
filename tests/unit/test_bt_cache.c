/* The code cache that the vCPUs of a VM share: sharing, eviction under load, code that is changed by the vCPU that runs
 * it and by another one, content-checked pages, and spinning vCPUs. Whole vCPUs in 64-bit mode on threads of their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/bt/block_priv.h"
#include "cpu/bt/bt.h"
#include "cpu/bt/engine_priv.h"

#define CPUS 4U
#define TABLES 0x1000U /* PML4, then the page of 1 GiB entries */
#define CODE 0x100000U /* what the tests run, one MiB of it */
#define DATA 0x200000U
#define PORT_DONE 0xf4U  /* OUT: this vCPU (AL) is done */
#define PORT_BLOCK 0xf5U /* OUT: the access lasts until the test lets it go */

struct rig {
    const struct cpu_ops *ops;
    struct mem *mem;
    struct cpu_vm *vm;
    struct cpu_vcpu *vcpus[CPUS];
    uint8_t *ram;
    sem_t blocked, release;
};

static void rig_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
    struct rig *r = opaque;

    if (port == PORT_DONE)
        r->ops->vcpu_kick(r->vcpus[*(uint8_t *)data % CPUS]);
    if (port == PORT_BLOCK) {
        sem_post(&r->blocked);
        sem_wait(&r->release);
    }
}

static void rig_mmio(void *opaque, uint64_t gpa, void *data, unsigned len, bool write)
{
    memset(data, 0xff, len);
}

static const struct cpu_bus_ops rig_bus = { .pio = rig_pio, .mmio = rig_mmio };

/* vCPU i into 64-bit mode at CODE + offset, with its number in RSI and DATA in RDI. */
static void rig_start_at(struct rig *r, unsigned i, uint64_t offset)
{
    struct kvm_regs regs = {
        .rip = CODE + offset, .rflags = 2, .rsi = i, .rdi = DATA, .rsp = DATA + 0x80000 * (i + 2)
    };
    struct kvm_segment code = { .limit = ~0U, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    struct kvm_segment data = { .limit = ~0U, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    struct kvm_sregs sregs;

    assert_int_equal(r->ops->get_sregs(r->vcpus[i], &sregs), 0);
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.ss = data;
    sregs.cr0 = 0x80010033;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x620;
    sregs.efer = 0x500;
    assert_int_equal(r->ops->set_regs(r->vcpus[i], &regs), 0);
    assert_int_equal(r->ops->set_sregs(r->vcpus[i], &sregs), 0);
    assert_int_equal(r->ops->set_mp_state(r->vcpus[i], &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }), 0);
}

static struct rig *rig_new(const struct cpu_ops *ops)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct kvm_cpuid_entry2 entries[BT_CPUID_MAX];
    unsigned n = BT_CPUID_MAX;
    struct mem_region *region;

    assert_non_null(r);
    r->ops = ops;
    sem_init(&r->blocked, 0, 0);
    sem_init(&r->release, 0, 0);
    assert_int_equal(mem_new(&r->mem), 0);
    assert_int_equal(mem_add_ram(r->mem, 0, 16U << 20, false, &region), 0);
    r->ram = region->host;
    store_le64(r->ram + TABLES, (TABLES + 0x1000) | 7);
    store_le64(r->ram + TABLES + 0x1000, 0x87); /* the first GiB, 1:1 */
    assert_int_equal(
        ops->vm_new(&(struct cpu_vm_config){ .mem = r->mem, .bus = &rig_bus, .bus_opaque = r, .max_vcpus = CPUS },
                    &r->vm),
        0);
    assert_int_equal(ops->supported_cpuid(r->vm, entries, &n), 0);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(ops->vcpu_new(r->vm, i, &r->vcpus[i]), 0);
        assert_int_equal(ops->vcpu_set_cpuid(r->vcpus[i], entries, n), 0);
        rig_start_at(r, i, 0);
    }
    return r;
}

static void rig_free(struct rig *r)
{
    for (unsigned i = 0; i < CPUS; i++)
        r->ops->vcpu_free(r->vcpus[i]);
    r->ops->vm_free(r->vm);
    mem_free(r->mem);
    free(r);
}

/* A vCPU on a thread of its own, until it is kicked: by itself, when it is done. */
struct runner {
    struct rig *rig;
    unsigned id;
    pthread_t thread;
    struct cpu_exit exit;
};

static void *runner_main(void *opaque)
{
    struct runner *r = opaque;

    (void)r->rig->ops->vcpu_run(r->rig->vcpus[r->id], &r->exit);
    return NULL;
}

static void runner_start(struct runner *r, struct rig *rig, unsigned id)
{
    *r = (struct runner){ .rig = rig, .id = id };
    assert_int_equal(pthread_create(&r->thread, NULL, runner_main, r), 0);
}

static void runner_join(struct runner *r)
{
    pthread_join(r->thread, NULL);
    assert_int_equal(r->exit.reason, CPU_EXIT_KICK);
}

static void rig_run(struct rig *r, unsigned first, unsigned n)
{
    struct runner runners[CPUS];

    for (unsigned i = 0; i < n; i++)
        runner_start(&runners[i], r, first + i);
    for (unsigned i = 0; i < n; i++)
        runner_join(&runners[i]);
}

struct stat_query {
    const char *name;
    uint64_t value;
    bool found;
};

static void stat_each(void *opaque, const char *name, uint64_t value)
{
    struct stat_query *q = opaque;

    if (strcmp(name, q->name) == 0) {
        q->value = value;
        q->found = true;
    }
}

static uint64_t rig_stat(struct rig *r, const char *name)
{
    struct stat_query q = { .name = name };

    assert_int_equal(r->ops->stats(r->vm, stat_each, &q), 0);
    assert_true(q.found);
    return q.value;
}

/* ---- guest code ---- */
struct code {
    uint8_t *at;
};

static void put(struct code *c, const char *bytes, size_t n)
{
    memcpy(c->at, bytes, n);
    c->at += n;
}
#define PUT(c, bytes) put((c), (bytes), sizeof(bytes) - 1)

static void put_u32(struct code *c, uint32_t v)
{
    store_le32(c->at, v);
    c->at += 4;
}

/* Store RAX to DATA + 8 * number and say that this vCPU is done. */
static void put_done(struct code *c)
{
    PUT(c, "\x48\x89\x04\xf7" /* mov [rdi + 8 * rsi], rax */
           "\x89\xf0"         /* mov eax, esi */
           "\xe6\xf4"         /* out PORT_DONE, al */
           "\xf4\xeb\xfd");   /* hlt; jmp -3 */
}

#define STEPS 300U
#define STEP_BYTES 64U

/* rounds times: STEPS blocks of rax = rax * 3 + constant, each jumping to the next. */
static uint64_t put_steps(struct rig *r, uint32_t rounds)
{
    struct code c = { r->ram + CODE };
    uint64_t want = 0;

    PUT(&c, "\x31\xc0\xb9"); /* xor eax, eax; mov ecx, rounds */
    put_u32(&c, rounds);
    PUT(&c, "\xe9"); /* jmp */
    put_u32(&c, (uint32_t)(CODE + STEP_BYTES - (CODE + (uint64_t)(c.at - r->ram - CODE) + 4)));
    for (uint32_t i = 0; i < STEPS; i++) {
        c.at = r->ram + CODE + STEP_BYTES * (i + 1);
        PUT(&c, "\x48\x6b\xc0\x03\x48\x05"); /* imul rax, rax, 3; add rax, imm32 */
        put_u32(&c, 12345 * i);
        PUT(&c, "\xe9");
        put_u32(&c, (uint32_t)(r->ram + CODE + STEP_BYTES * (i + 2) - (c.at + 4)));
    }
    c.at = r->ram + CODE + STEP_BYTES * (STEPS + 1);
    PUT(&c, "\xff\xc9\x0f\x85"); /* dec ecx; jnz */
    put_u32(&c, (uint32_t)(r->ram + CODE + STEP_BYTES - (c.at + 4)));
    put_done(&c);
    for (uint32_t i = 0; i < rounds * STEPS; i++)
        want = want * 3 + 12345 * (i % STEPS);
    return want;
}

static uint64_t result(const struct rig *r, unsigned id)
{
    return load_le64(r->ram + DATA + 8 * id);
}

/* What one vCPU has decoded and translated serves the next. */
static void shared(void **state)
{
    struct rig *r = rig_new(&cpu_bt_ops);
    uint64_t want = put_steps(r, 40), decoded, translated;

    rig_run(r, 0, 1);
    assert_int_equal(result(r, 0), want);
    decoded = rig_stat(r, "blocks_decoded");
    translated = rig_stat(r, "translations");
    assert_true(decoded > STEPS && translated >= STEPS);
    rig_run(r, 1, 1);
    assert_int_equal(result(r, 1), want);
    assert_int_equal(rig_stat(r, "blocks_decoded"), decoded);
    assert_in_range(rig_stat(r, "translations"), translated, translated + 4); /* first and last block got hot now */
    assert_int_equal(rig_stat(r, "evictions"), 0);
    rig_free(r);
}

/* The same code on all vCPUs at once, from nothing: each block is made once, whoever comes first. */
static void together(void **state)
{
    const struct cpu_ops *const all[] = { &cpu_interp_ops, &cpu_bt_ops, &cpu_bt_eager_ops };

    for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
        struct rig *r = rig_new(all[k]);
        uint64_t want = put_steps(r, 60);

        rig_run(r, 0, CPUS);
        for (unsigned i = 0; i < CPUS; i++)
            assert_int_equal(result(r, i), want);
        assert_in_range(rig_stat(r, "blocks_decoded"), STEPS, STEPS + 8);
        rig_free(r);
    }
}

/* A cache that holds a fraction of the code. */
static void evicting(void **state)
{
    struct rig *r = rig_new(&cpu_bt_small_ops);
    uint64_t want = put_steps(r, 60);

    for (unsigned n = 1; n <= CPUS; n++) {
        uint64_t before = rig_stat(r, "evictions");

        for (unsigned i = 0; i < n; i++) {
            rig_start_at(r, i, 0);
            store_le64(r->ram + DATA + 8 * i, 0);
        }
        rig_run(r, 0, n);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(result(r, i), want);
        assert_true(rig_stat(r, "evictions") > before + 10);
    }
    assert_true(rig_stat(r, "translations") > 0);
    rig_free(r);
}

/* A vCPU that sits in a device access keeps its pointers, so nothing may be evicted; those that wait for it can be
 * kicked out, and all goes on when it comes back. */
static void kicked_while_waiting(void **state)
{
    struct rig *r = rig_new(&cpu_bt_small_ops);
    uint64_t want = put_steps(r, 60), before;
    struct runner blocker, other;
    struct code c = { r->ram + CODE + 0x80000 };

    PUT(&c, "\xe6\xf5\xb8\x07\x00\x00\x00"); /* out PORT_BLOCK, al; mov eax, 7 */
    put_done(&c);
    rig_start_at(r, 1, 0x80000);
    runner_start(&blocker, r, 1);
    sem_wait(&r->blocked);
    before = rig_stat(r, "evictions");
    runner_start(&other, r, 0);
    while (!atomic_load(&r->vm->vm.cache->evicting) || !atomic_load(&r->vcpus[0]->c.cache_waits))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    r->ops->vcpu_kick(r->vcpus[0]);
    runner_join(&other);
    assert_int_equal(rig_stat(r, "evictions"), before);
    assert_int_equal(atomic_load(&r->vcpus[0]->c.cache_in), 0);
    runner_start(&other, r, 0);
    sem_post(&r->release);
    runner_join(&blocker);
    runner_join(&other);
    assert_int_equal(result(r, 0), want);
    assert_int_equal(result(r, 1), 7);
    assert_true(rig_stat(r, "evictions") > before);
    rig_free(r);
}

/* A loop that counts in the 64 bytes in which it stands: after some invalidations its page is checked by content, and
 * stores there cost nothing. */
static void data_in_code(void **state)
{
    const struct cpu_ops *const all[] = { &cpu_interp_ops, &cpu_bt_ops, &cpu_bt_eager_ops };

    for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
        struct rig *r = rig_new(all[k]);
        struct code c = { r->ram + CODE };

        PUT(&c, "\xb9");
        put_u32(&c, 20000);
        PUT(&c, "\x48\xff\x05\x24\x00\x00\x00" /* inc qword [rip + 36]: at offset 48 */
                "\xff\xc9\x75\xf5"             /* dec ecx; jnz inc */
                "\x48\x8b\x05\x19\x00\x00\x00" /* mov rax, [rip + 25]: at offset 48 */
                "\xeb\x27");                   /* jmp to offset 64 */
        c.at = r->ram + CODE + 64;
        put_done(&c);
        memset(r->ram + CODE + 48, 0, 8);
        rig_run(r, 0, 1);
        assert_int_equal(result(r, 0), 20000);
        assert_int_equal(rig_stat(r, "content_checked_pages"), 1);
        assert_in_range(rig_stat(r, "code_writes"), BLOCK_WRITES_MAX, 2 * BLOCK_WRITES_MAX);
        assert_true(rig_stat(r, "blocks_decoded") < 20 * BLOCK_WRITES_MAX);
        rig_free(r);
    }
}

/* Each turn of a loop stores into the instruction behind the store, which has to see it. */
static void own_block(void **state)
{
    const struct cpu_ops *const all[] = { &cpu_interp_ops, &cpu_bt_ops, &cpu_bt_eager_ops, &cpu_bt_small_ops };
    const uint32_t n = 3000;
    uint64_t want = 0;

    for (uint32_t i = n; i > 0; i--)
        want += i & 0xff;
    for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
        struct rig *r = rig_new(all[k]);
        struct code c = { r->ram + CODE };

        PUT(&c, "\xb9");
        put_u32(&c, n);
        PUT(&c, "\x31\xc0"                 /* xor eax, eax */
                "\x88\x0d\x01\x00\x00\x00" /* mov [rip + 1], cl: into the constant of add */
                "\x05\x00\x00\x00\x00"     /* add eax, imm32 */
                "\xff\xc9\x75\xf1");       /* dec ecx; jnz mov */
        put_done(&c);
        rig_run(r, 0, 1);
        assert_int_equal(result(r, 0), want);
        assert_int_equal(rig_stat(r, "content_checked_pages") > 0, 1);
        rig_free(r);
    }
}

#define FLAG "\x00\x01\x00\x00" /* displacements from RDI */
#define ACK "\x00\x02\x00\x00"

/* jne to a place behind us */
static void put_jne(struct code *c, const uint8_t *to)
{
    PUT(c, "\x0f\x85");
    put_u32(c, (uint32_t)(to - (c->at + 4)));
}

/* for ecx = 1..n: constant = ecx; flag = ecx; wait for ack == ecx */
static void put_writer(struct rig *r, const uint8_t *constant, uint32_t n)
{
    struct code c = { r->ram + CODE };
    const uint8_t *loop, *wait;

    PUT(&c, "\xb9\x01\x00\x00\x00");
    loop = c.at;
    PUT(&c, "\x89\x0d"); /* mov [rip + constant], ecx */
    put_u32(&c, (uint32_t)(constant - (c.at + 4)));
    PUT(&c, "\x89\x8f" FLAG);
    wait = c.at;
    PUT(&c, "\xf3\x90\x39\x8f" ACK); /* pause; cmp [rdi + ACK], ecx */
    put_jne(&c, wait);
    PUT(&c, "\xff\xc1\x81\xf9"); /* inc ecx; cmp ecx, n + 1 */
    put_u32(&c, n + 1);
    put_jne(&c, loop);
    PUT(&c, "\x31\xc0");
    put_done(&c);
}

/* for r12d = 1..n: wait for flag == r12d; serialise; call the function; count in r13d where it is not r12d; ack = r12d
 */
static void put_reader(struct rig *r, const uint8_t *function, uint32_t n)
{
    struct code c = { r->ram + CODE + 0x2000 };
    const uint8_t *loop;

    PUT(&c, "\x41\xbc\x01\x00\x00\x00\x45\x31\xed"); /* mov r12d, 1; xor r13d, r13d */
    loop = c.at;
    PUT(&c, "\xf3\x90\x44\x39\xa7" FLAG); /* pause; cmp [rdi + FLAG], r12d */
    put_jne(&c, loop);
    PUT(&c, "\x31\xc0\x0f\xa2\xe8"); /* xor eax, eax; cpuid; call */
    put_u32(&c, (uint32_t)(function - (c.at + 4)));
    PUT(&c, "\x44\x39\xe0\x74\x03\x41\xff\xc5");            /* cmp eax, r12d; je +3; inc r13d */
    PUT(&c, "\x44\x89\xa7" ACK "\x41\xff\xc4\x41\x81\xfc"); /* mov [rdi + ACK], r12d; inc r12d; cmp r12d, n + 1 */
    put_u32(&c, n + 1);
    put_jne(&c, loop);
    PUT(&c, "\x44\x89\xe8"); /* mov eax, r13d */
    put_done(&c);
}

/* One vCPU changes a function, another one runs it, by the protocol of the SDM (volume 3, 8.1.3). At first the
 * function's page is tracked, later checked by content. */
static void other_vcpu(void **state)
{
    const struct cpu_ops *const all[] = { &cpu_interp_ops, &cpu_bt_ops, &cpu_bt_eager_ops, &cpu_bt_small_ops };
    const uint32_t n = 500;

    for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
        struct rig *r = rig_new(all[k]);
        struct code f = { r->ram + CODE + 0x4000 };

        put_writer(r, f.at + 1, n);
        put_reader(r, f.at, n);
        PUT(&f, "\xb8\x00\x00\x00\x00\xc3"); /* mov eax, imm32; ret */
        rig_start_at(r, 1, 0x2000);
        rig_run(r, 0, 2);
        assert_int_equal(result(r, 1), 0);
        assert_true(load_le32(r->ram + DATA + 0x200) == n);
        assert_true(rig_stat(r, "content_checked_pages") > 0);
        rig_free(r);
    }
}

/* A vCPU that waits with PAUSE gives the CPU away, sees what it waits for, and can be kicked out. */
static void spinning(void **state)
{
    struct rig *r = rig_new(&cpu_bt_ops);
    struct code c = { r->ram + CODE };
    struct runner runner;

    PUT(&c, "\xf3\x90\x83\xbf" FLAG "\x01\x75\xf5"); /* pause; cmp dword [rdi + FLAG], 1; jne */
    PUT(&c, "\xb8\x05\x00\x00\x00");
    put_done(&c);
    runner_start(&runner, r, 0);
    while (rig_stat(r, "pause_yields") < 50)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    r->ops->vcpu_kick(r->vcpus[0]);
    runner_join(&runner);
    runner_start(&runner, r, 0);
    __atomic_store_n((uint32_t *)(void *)(r->ram + DATA + 0x100), 1, __ATOMIC_SEQ_CST);
    runner_join(&runner);
    assert_int_equal(result(r, 0), 5);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared),       cmocka_unit_test(together),
        cmocka_unit_test(evicting),     cmocka_unit_test(kicked_while_waiting),
        cmocka_unit_test(data_in_code), cmocka_unit_test(own_block),
        cmocka_unit_test(other_vcpu),   cmocka_unit_test(spinning),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
