/* Sections of our own here: "machine" (what it ran on), "spec" (the specification as JSON, with the CPU's exact name
 * and without what belongs to the process), "cpuid". */
#include "vmm/save_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "base/pack.h"
#include "block/workers.h"
#include "hw/acpi_pm.h"
#include "proto/json.h"
#include "vmm/genid.h"
#include "vmm/machine_priv.h"
#include "vmm/save.h"
#include "vmm/save_cpu.h"
#include "vmm/save_file.h"
#include "vmm/save_lazy.h"
#include "vmm/save_ram.h"

#define MACHINE_VERSION 1U
#define MACHINE_TEXT_MAX 4096U

/* The section "machine". */
struct machine_facts {
    char version[64], engine[32], cpu[VMM_CPU_NAME_MAX], snapshot[PROTO_NAME_MAX + 1];
    uint64_t memory, real_ns;
    uint32_t cpus;
};

static const char *const machine_kinds[] = { "machine", "spec", "cpuid" };

static bool machine_kind(const char *kind)
{
    for (unsigned i = 0; i < ARRAY_SIZE(machine_kinds); i++) {
        if (strcmp(kind, machine_kinds[i]) == 0)
            return true;
    }
    return save_cpu_kind(kind);
}

/* ---- saving ---- */

static int machine_put(struct save_writer *w, const char *kind, struct buf *b, struct err *e)
{
    int r = buf_error(b);

    if (r == 0)
        save_writer_section(w, kind, 0, MACHINE_VERSION, b->data, b->len);
    buf_done(b);
    return r < 0 ? err_set(e, -r, "VM's state: %s", strerror(-r)) : 0;
}

static int machine_save_facts(const struct machine *m, struct save_writer *w, const char *snapshot, struct err *e)
{
    struct timespec now = { 0 };
    struct buf b;

    clock_gettime(CLOCK_REALTIME, &now);
    buf_init(&b, SAVE_SECTION_MAX);
    pack_text(&b, CAISSON_VERSION);
    pack_text(&b, m->ops->name);
    pack_text(&b, m->cpu.name);
    pack_text(&b, snapshot);
    pack_u64(&b, m->spec->memory);
    pack_u64(&b, (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec);
    pack_u32(&b, m->spec->cpus);
    return machine_put(w, "machine", &b, e);
}

static int machine_save_spec(const struct machine *m, struct save_writer *w, struct err *e)
{
    struct vm_spec spec = *m->spec; /* its strings are borrowed */
    AUTO_FREE char *text = NULL;
    struct buf b;
    int r = 0;

    spec.run_dir = NULL;
    spec.cpu = (char *)m->cpu.name;
    for (unsigned i = 0; i < spec.n_nets && r == 0; i++) {
        r = vm_nic_complete(&spec.nets[i], m->spec->name, i);
        spec.nets[i].n_fds = 0;
    }
    if (r == 0)
        r = vm_spec_to_json(&spec, &text);
    if (r < 0)
        return err_set(e, -r, "VM's specification: %s", strerror(-r));
    buf_init(&b, SAVE_SECTION_MAX);
    pack_text(&b, text);
    return machine_put(w, "spec", &b, e);
}

static int machine_save_cpuid(const struct machine *m, struct save_writer *w, struct err *e)
{
    struct buf b;

    buf_init(&b, SAVE_SECTION_MAX);
    pack_u32(&b, m->cpu.n_cpuid);
    for (unsigned i = 0; i < m->cpu.n_cpuid; i++) {
        const struct kvm_cpuid_entry2 *c = &m->cpu.cpuid[i];

        pack_u32(&b, c->function);
        pack_u32(&b, c->index);
        pack_u32(&b, c->eax);
        pack_u32(&b, c->ebx);
        pack_u32(&b, c->ecx);
        pack_u32(&b, c->edx);
    }
    return machine_put(w, "cpuid", &b, e);
}

static int machine_put_device(void *opaque, const char *kind, uint32_t instance, uint16_t version, const void *data,
                              size_t len)
{
    save_writer_section(opaque, kind, instance, version, data, len);
    return 0;
}

int save_machine_save(struct machine *m, struct save_writer *w, const char *snapshot, struct err *e)
{
    int r = machine_save_facts(m, w, snapshot, e);

    if (r == 0)
        r = machine_save_spec(m, w, e);
    if (r == 0)
        r = machine_save_cpuid(m, w, e);
    if (r < 0)
        return r;
    r = vmm_save_devices(m, machine_put_device, w);
    if (r < 0)
        return err_set(e, -r, "VM %s: cannot save its devices: %s", m->spec->name ? m->spec->name : "", strerror(-r));
    return save_cpu_save(m, w, e);
}

/* ---- reading ---- */

static int machine_section(const struct save_reader *r, const char *path, const char *kind, struct unpack *u,
                           struct err *e)
{
    const struct save_section *s = save_reader_find(r, kind, 0);

    if (!s)
        return err_set(e, EBADMSG, "saved VM %s: its section %s is missing; it cannot be used, take another copy", path,
                       kind);
    if (s->version == 0 || s->version > MACHINE_VERSION)
        return err_set(e, ENOTSUP,
                       "saved VM %s: its section %s is of version %u, this program knows up to %u; use the version of "
                       "Caisson that made it",
                       path, kind, s->version, MACHINE_VERSION);
    unpack_init(u, s->data, s->len);
    return 0;
}

static int machine_nonsense(const char *path, const char *kind, struct err *e)
{
    return err_set(e, EBADMSG, "saved VM %s: its section %s makes no sense; it cannot be used, take another copy", path,
                   kind);
}

static void machine_unpack_text(struct unpack *u, char *text, uint32_t size)
{
    uint32_t len = 0;
    const uint8_t *data = unpack_blob(u, size - 1, &len);

    text[len] = '\0';
    if (data)
        memcpy(text, data, len);
    if (data && memchr(data, '\0', len))
        unpack_refuse(u);
}

static int machine_read_facts(const struct save_reader *r, const char *path, struct machine_facts *f, struct err *e)
{
    struct unpack u;
    int res = machine_section(r, path, "machine", &u, e);

    if (res < 0)
        return res;
    machine_unpack_text(&u, f->version, sizeof(f->version));
    machine_unpack_text(&u, f->engine, sizeof(f->engine));
    machine_unpack_text(&u, f->cpu, sizeof(f->cpu));
    machine_unpack_text(&u, f->snapshot, sizeof(f->snapshot));
    f->memory = unpack_u64(&u);
    f->real_ns = unpack_u64(&u);
    f->cpus = unpack_u32(&u);
    return unpack_end(&u) < 0 ? machine_nonsense(path, "machine", e) : 0;
}

/* *spec: vm_spec_done by the caller in any case. */
static int machine_read_spec(const struct save_reader *r, const char *path, struct vm_spec *spec, struct err *e)
{
    AUTO_FREE char *text = NULL;
    struct unpack u;
    uint32_t len = 0;
    const uint8_t *data;
    int res;

    vm_spec_init(spec);
    res = machine_section(r, path, "spec", &u, e);
    if (res < 0)
        return res;
    data = unpack_blob(&u, VM_SPEC_TEXT_MAX, &len);
    if (!data || unpack_end(&u) < 0)
        return machine_nonsense(path, "spec", e);
    text = strndup((const char *)data, len);
    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    return vm_spec_from_json(text, spec, e) < 0 ? err_wrap(e, "saved VM %s", path) : 0;
}

int save_machine_adopt(int fd, const char *path, struct vm_spec *spec, struct err *e)
{
    AUTO(save_reader) struct save_reader *r = NULL;
    AUTO_FREE struct vm_spec *saved = malloc(sizeof(*saved));
    int res = saved ? save_reader_new(fd, path, &r, e) : err_set(e, ENOMEM, "out of memory");

    if (res < 0)
        return res;
    res = machine_read_spec(r, path, saved, e);
    if (res == 0) {
        spec->memory = saved->memory;
        spec->cpus = saved->cpus;
    }
    vm_spec_done(saved);
    return res;
}

/* ---- what must be equal ---- */

static int machine_differs(const char *path, const char *what, const char *remedy, struct err *e)
{
    return err_set(e, EINVAL, "saved VM %s: %s; %s", path, what, remedy);
}

static int machine_compare(const struct vm_spec *spec, const struct vm_spec *saved, const char *path, struct err *e)
{
    char what[128], remedy[128];

    if (spec->memory != saved->memory || spec->cpus != saved->cpus ||
        (spec->cpu && strcmp(spec->cpu, saved->cpu ? saved->cpu : "") != 0)) /* the default: by its features, later */
        return machine_differs(path, "it has other memory or CPUs", "these cannot be changed when it is restored", e);
    if (spec->console_device != saved->console_device || spec->debug_exit != saved->debug_exit)
        return machine_differs(path, "it has another console device or exit port",
                               "these cannot be changed when it is restored", e);
    if (spec->n_disks != saved->n_disks) {
        snprintf(what, sizeof(what), "it has %u disks, not %u", saved->n_disks, spec->n_disks);
        snprintf(remedy, sizeof(remedy), "give as many with --disk and --cdrom, in its order, or none for its own");
        return machine_differs(path, what, remedy, e);
    }
    if (spec->n_nets != saved->n_nets) {
        snprintf(what, sizeof(what), "it has %u network cards, not %u", saved->n_nets, spec->n_nets);
        return machine_differs(path, what, "give as many with --net, in its order, or none for its own", e);
    }
    for (unsigned i = 0; i < spec->n_disks; i++) {
        const struct vm_disk *d = &spec->disks[i], *s = &saved->disks[i];

        if (d->read_only == s->read_only && d->cdrom == s->cdrom)
            continue;
        snprintf(what, sizeof(what), "disk %u of it is %s", i, s->read_only || s->cdrom ? "read-only" : "writable");
        return machine_differs(path, what, "give a disk like that in its place", e);
    }
    return 0;
}

int save_machine_check(const struct vm_spec *spec, const struct save_reader *r, const char *path, struct err *e)
{
    struct vm_spec saved;
    int res = machine_read_spec(r, path, &saved, e);

    if (res == 0)
        res = machine_compare(spec, &saved, path, e);
    vm_spec_done(&saved);
    return res;
}

int save_machine_snapshot(const struct save_reader *r, const char *path, char **ret_snapshot, struct err *e)
{
    AUTO_FREE struct machine_facts *f = calloc(1, sizeof(*f));
    int res = f ? machine_read_facts(r, path, f, e) : err_set(e, ENOMEM, "out of memory");
    char *copy;

    if (res < 0 || !f->snapshot[0])
        return res;
    if (!proto_name_ok(f->snapshot))
        return machine_nonsense(path, "machine", e);
    copy = strdup(f->snapshot);
    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    *ret_snapshot = copy;
    return 0;
}

/* ---- CPU ---- */

/* Words of CPUID whose bits are features: the guest may use each that it has seen. */
static const struct {
    uint32_t function, index;
    unsigned reg; /* 0: EAX .. 3: EDX */
} cpuid_features[] = {
    { 1, 0, 2 },          { 1, 0, 3 },          { 7, 0, 1 },          { 7, 0, 2 },
    { 7, 0, 3 },          { 7, 1, 0 },          { 0xd, 0, 0 },        { 0xd, 1, 0 },
    { 0x80000001, 0, 2 }, { 0x80000001, 0, 3 }, { 0x80000008, 0, 1 }, { 0x40000001, 0, 0 },
};
/* Of leaf 1: OSXSAVE shows CR4, and the hypervisor bit is always there. */
#define CPUID_1C_IGNORED ((1U << 27) | (1U << 31))

static uint32_t cpuid_word(const struct kvm_cpuid_entry2 *c, unsigned reg)
{
    const uint32_t words[] = { c->eax, c->ebx, c->ecx, c->edx };

    return words[reg];
}

static uint32_t cpuid_find(const struct vmm_cpu *cpu, uint32_t function, uint32_t index, unsigned reg)
{
    for (unsigned i = 0; i < cpu->n_cpuid; i++) {
        if (cpu->cpuid[i].function == function && cpu->cpuid[i].index == index)
            return cpuid_word(&cpu->cpuid[i], reg);
    }
    return 0;
}

static int machine_check_entry(const struct machine *m, const char *path, const struct kvm_cpuid_entry2 *c,
                               struct err *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cpuid_features); i++) {
        unsigned reg = cpuid_features[i].reg;
        uint32_t lacks;

        if (cpuid_features[i].function != c->function || cpuid_features[i].index != c->index)
            continue;
        lacks = cpuid_word(c, reg) & ~cpuid_find(&m->cpu, c->function, c->index, reg);
        if (c->function == 1 && reg == 2)
            lacks &= ~CPUID_1C_IGNORED;
        if (lacks)
            return err_set(
                e, ENOTSUP,
                "saved VM %s: its CPU has features that the %s engine lacks here (CPUID 0x%x.%u, register %u, "
                "bits 0x%x); restore it with the engine that saved it",
                path, m->ops->name, c->function, c->index, reg, lacks);
    }
    return 0;
}

static int machine_check_cpuid(const struct machine *m, const struct save_reader *r, const char *path, struct err *e)
{
    struct unpack u;
    uint32_t n;
    int res = machine_section(r, path, "cpuid", &u, e);

    if (res < 0)
        return res;
    n = unpack_max(&u, VMM_CPUID_MAX);
    for (uint32_t i = 0; i < n && res == 0; i++) {
        struct kvm_cpuid_entry2 c = { 0 };

        c.function = unpack_u32(&u);
        c.index = unpack_u32(&u);
        c.eax = unpack_u32(&u);
        c.ebx = unpack_u32(&u);
        c.ecx = unpack_u32(&u);
        c.edx = unpack_u32(&u);
        res = machine_check_entry(m, path, &c, e);
    }
    if (res < 0)
        return res;
    return unpack_end(&u) < 0 ? machine_nonsense(path, "cpuid", e) : 0;
}

/* ---- restoring ---- */

struct machine_loader {
    struct blk_work work;
    struct save_ram *ram;
};

static void machine_load_run(struct blk_work *w)
{
    save_ram_load_work(CONTAINER_OF(w, struct machine_loader, work)->ram);
}

/* Without that thread the others do its share. */
static void machine_load_done(struct blk_work *w, int error)
{
    (void)w;
    (void)error;
}

/* Load all of memory, or look only whether it could be loaded. */
static int machine_load_now(struct machine *m, const struct save_reader *r, bool check_only, const char *path,
                            struct err *e)
{
    const unsigned n = save_ram_threads();
    struct machine_loader loaders[BLK_WORKERS_MAX];
    struct blk_workers *workers = NULL;
    struct save_ram ram;
    int res = blk_workers_new(m->loop, n, 0, NULL, NULL, &workers);

    if (res < 0)
        return err_set(e, -res, "saved VM %s: cannot start threads: %s", path, strerror(-res));
    save_ram_init_load(&ram, m->mem, r, check_only);
    for (unsigned i = 0; i + 1 < n; i++) {
        loaders[i] =
            (struct machine_loader){ .work = { .run = machine_load_run, .done = machine_load_done }, .ram = &ram };
        blk_workers_submit(workers, &loaders[i].work);
    }
    save_ram_load_work(&ram);
    while (blk_workers_count(workers) > 0)
        blk_workers_wait(workers);
    blk_workers_free(workers);
    res = atomic_load(&ram.error);
    if (res == -EBADMSG)
        return err_set(e, EBADMSG, "saved VM %s: damaged (a piece of memory); it cannot be used, take another copy",
                       path);
    return res < 0 ? err_set(e, -res, "saved VM %s: cannot load its memory: %s", path, strerror(-res)) : 0;
}

/* Let memory be loaded while the VM runs; where that is not possible, now. */
static int machine_load(struct machine *m, struct save_reader *r, const char *path, struct err *e)
{
    int res = machine_load_now(m, r, true, path, e);

    if (res < 0)
        return res;
    res = save_lazy_new(m->mem, r, path, &m->lazy);
    if (res < 0)
        log_debug("memory is loaded before the VM runs: %s", strerror(-res));
    return res < 0 ? machine_load_now(m, r, false, path, e) : 0;
}

static int machine_restore_devices(struct machine *m, const struct save_reader *r, const struct save_restore *how,
                                   struct err *e)
{
    for (unsigned i = 0; i < r->n_sections; i++) {
        const struct save_section *s = &r->sections[i];
        int res;

        if (machine_kind(s->kind))
            continue;
        res = vmm_restore_device(m, s->kind, s->instance, s->version, s->data, s->len, e);
        if (res < 0)
            return err_wrap(e, "saved VM %s", how->path);
    }
    return 0;
}

int save_machine_restore(struct machine *m, struct save_reader *r, const struct save_restore *how, struct err *e)
{
    int res = machine_check_cpuid(m, r, how->path, e);

    if (res == 0)
        res = machine_load(m, r, how->path, e);
    if (res == 0)
        res = machine_restore_devices(m, r, how, e);
    if (res == 0)
        res = save_cpu_restore(m, r, how->path, how->catch_up, e);
    if (res == 0 && vmm_restore_end(m, how->catch_up, e) < 0)
        res = err_wrap(e, "saved VM %s", how->path);
    if (res == 0 && how->new_identity)
        res = vmm_genid_renew(m, e);
    if (res == 0)
        vmm_unquiesce(m);
    return res;
}

/* ---- for the CLI ---- */

int save_machine_print(const char *path, struct err *e)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    AUTO(save_reader) struct save_reader *r = NULL;
    AUTO_FREE struct machine_facts *f = calloc(1, sizeof(*f));
    AUTO_FREE char *text = NULL;
    struct vm_spec spec;
    json_object *o;
    int res;

    if (fd < 0)
        return err_set(e, errno, "saved VM %s: %s; name a file that caisson vm save has made", path, strerror(errno));
    if (!f)
        return err_set(e, ENOMEM, "out of memory");
    res = save_reader_new(fd, path, &r, e);
    if (res == 0)
        res = machine_read_facts(r, path, f, e);
    if (res < 0)
        return res;
    res = machine_read_spec(r, path, &spec, e);
    if (res == 0)
        res = vm_spec_to_json(&spec, &text);
    vm_spec_done(&spec);
    if (res < 0)
        return e->code ? res : err_set(e, -res, "out of memory");
    o = json_object_new_object();
    json_object_object_add(o, "spec", json_tokener_parse(text));
    json_object_object_add(o, "engine", json_object_new_string(f->engine));
    json_object_object_add(o, "version", json_object_new_string(f->version));
    json_object_object_add(o, "snapshot", f->snapshot[0] ? json_object_new_string(f->snapshot) : NULL);
    json_object_object_add(o, "time", proto_json_time((int64_t)MIN(f->real_ns, (uint64_t)INT64_MAX)));
    puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
    return 0;
}
