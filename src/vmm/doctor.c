#include "vmm/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "block/aio.h"
#include "cpu/bt/bt.h"
#include "cpu/kvm/kvm.h"
#include "proto/json.h"
#include "sys/loop.h"
#include "vmm/probe.h"

static bool doctor_engine(json_object *list, const char *name, const struct cpu_ops *ops)
{
    struct vmm_probe_result r;

    vmm_probe_engine(ops, &r);
    if (r.ok)
        proto_json_finding(list, name, "ok", "runs stock guests (probe: %.1f ms, %.2f ns an instruction)",
                           (double)r.elapsed_ns / 1e6, (double)r.insn_ps / 1e3);
    else
        proto_json_finding(list, name, "no", "cannot run stock guests: %s", r.reason);
    return r.ok;
}

static void doctor_engines(json_object *list)
{
    bool kvm = doctor_engine(list, "engine kvm", &cpu_kvm_ops);
    bool bt = doctor_engine(list, "engine bt", &cpu_bt_ops);
    bool interp = doctor_engine(list, "engine interp", &cpu_interp_ops);

    if (kvm || bt)
        proto_json_finding(list, "engine auto", "ok", "chooses %s", kvm ? "kvm" : "bt");
    else if (interp)
        proto_json_finding(list, "engine auto", "warn",
                           "chooses bt, which does not work here; use --engine interp, and please report this");
    else
        proto_json_finding(list, "engine auto", "no", "no engine works here; please report this");
}

static void doctor_io(json_object *list)
{
    AUTO(loop) struct loop *loop = NULL;
    struct blk_aio *aio = NULL;
    int r = loop_new(&loop);

    if (r >= 0)
        r = blk_aio_new(loop, BLK_AIO_URING, NULL, NULL, &aio);
    if (r >= 0)
        proto_json_finding(list, "disk I/O", "ok", "io_uring");
    else
        proto_json_finding(list, "disk I/O", "warn",
                           "io_uring: %s; a few threads do the work instead (see /proc/sys/kernel/io_uring_disabled)",
                           strerror(-r));
    blk_aio_free(aio);
}

static void doctor_memory(json_object *list)
{
    struct sysinfo si;

    if (sysinfo(&si) == 0)
        proto_json_finding(list, "memory", "ok", "%" PRIu64 " MiB in all, %" PRIu64 " MiB free",
                           (uint64_t)si.totalram * si.mem_unit >> 20, (uint64_t)si.freeram * si.mem_unit >> 20);
}

int vmm_doctor(void)
{
    json_object *list = json_object_new_array();

    doctor_engines(list);
    doctor_io(list);
    proto_json_finding(list, "network", "ok", "user-mode NAT needs no rights");
    doctor_memory(list);
    puts(json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(list);
    return fflush(stdout) == 0 ? 0 : -errno;
}
