/* The file of a saved VM, with check sums and lengths made to fit, so that what is behind them is reached: sections,
 * memory, and the state of a vCPU, which then runs as far as to its kick. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "cpu/bt/bt.h"
#include "vmm/machine_priv.h"
#include "vmm/save_cpu.h"
#include "vmm/save_file.h"
#include "vmm/save_ram.h"
#include "vmm/vcpus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void fuzz_bus(void *opaque, uint64_t addr, void *data, unsigned len, bool write)
{
}

static void fuzz_pio(void *opaque, uint16_t port, void *data, unsigned len, bool write)
{
}

static struct machine fuzz_machine; /* check: allow(globals:fuzz_machine) costs more to make than an input to try */
static struct vm_spec fuzz_spec;    /* check: allow(globals:fuzz_spec) likewise */

/* At exit: a vCPU is not in the heap, so the leak check does not see what it points to. */
static void fuzz_machine_free(void)
{
    vmm_vcpus_free(fuzz_machine.vcpus);
    fuzz_machine.ops->vm_free(fuzz_machine.vm);
    mem_free(fuzz_machine.mem);
    vm_spec_done(&fuzz_spec);
}

/* A machine without devices. */
static void fuzz_machine_init(struct machine *m, struct vm_spec *spec)
{
    static const struct cpu_bus_ops bus = { .pio = fuzz_pio, .mmio = fuzz_bus };
    struct cpu_vm_config config = { .bus = &bus, .max_vcpus = 1 };
    struct vmm_vcpus_config vcpus = { .ops = &cpu_interp_ops, .cpu = &m->cpu, .n = 1 };
    struct err e = { 0 };

    vm_spec_init(spec);
    m->spec = spec;
    m->ops = &cpu_interp_ops;
    CHECK(mem_new(&m->mem) == 0 && mem_add_ram(m->mem, 0, 2 << 20, false, NULL) == 0);
    config.mem = m->mem;
    CHECK(m->ops->vm_new(&config, &m->vm) == 0);
    CHECK(vmm_cpu_resolve("x86-64-v1", m->ops, m->vm, &m->cpu, &e) == 0);
    vcpus.vm = m->vm;
    CHECK(vmm_vcpus_new(&vcpus, &m->vcpus) == 0);
    CHECK(atexit(fuzz_machine_free) == 0);
}

/* Make the frame around the bytes fit them. */
static bool fuzz_repair(uint8_t *d, size_t len)
{
    uint8_t *tail = d + len - 96;
    uint64_t n = len < 512 ? 0 : tail[64] % 3, index = len - 96 - 64 * n, state = 64;

    if (len < 160)
        return false;
    memcpy(d, "CAISSAVE\1\0\0\0", 12);
    memcpy(tail, "CAISSEND", 8);
    memcpy(tail + 8, d + 16, 16);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *entry = d + index + 64 * i;
        uint32_t size = load_le32(entry + 16) % 16384;

        if (state + size > index)
            return false;
        store_le64(entry + 8, state);
        store_le32(entry + 16, size);
        store_le32(entry + 20, crc32c(0, d + state, size));
        store_le32(entry + 28, 0);
        state += size;
    }
    store_le64(tail + 24, len);
    store_le64(tail + 32, state);
    store_le64(tail + 40, index - state);
    store_le32(tail + 48, crc32c(0, d + state, index - state));
    store_le64(tail + 56, index);
    store_le64(tail + 64, n);
    store_le32(tail + 72, crc32c(0, d + index, 64 * n));
    store_le32(d + 60, crc32c(0, d, 60));
    store_le32(tail + 92, crc32c(0, tail, 92));
    return true;
}

static void fuzz_restore(struct machine *m, const struct save_reader *r)
{
    struct save_ram ram;
    struct cpu_exit exit;
    struct err e = { 0 };

    save_ram_init_load(&ram, m->mem, r, false);
    save_ram_load_work(&ram);
    if (save_cpu_restore(m, r, "FILE", true, &e) < 0) {
        CHECK(e.code != 0 && e.text[0] != '\0');
        return;
    }
    m->ops->vcpu_kick(vmm_vcpus_get(m->vcpus, 0));
    (void)!m->ops->vcpu_run(vmm_vcpus_get(m->vcpus, 0), &exit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    AUTO(save_reader) struct save_reader *r = NULL;
    AUTO_FD int fd = memfd_create("saved", MFD_CLOEXEC);
    AUTO_FREE uint8_t *copy = malloc(len + 1);
    struct err e = { 0 };

    if (!fuzz_machine.vm)
        fuzz_machine_init(&fuzz_machine, &fuzz_spec);
    memcpy(copy, data, len);
    if (!fuzz_repair(copy, len) || write(fd, copy, len) != (ssize_t)len)
        return 0;
    if (save_reader_new(fd, "FILE", &r, &e) < 0)
        CHECK(e.code != 0 && e.text[0] != '\0');
    else
        fuzz_restore(&fuzz_machine, r);
    return 0;
}
