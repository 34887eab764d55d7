/* What the control socket tells about a VM. */
#include <json-c/json.h>
#include <unistd.h>

#include "block/backup.h"
#include "block/image.h"
#include "block/record.h"
#include "cpu/cpu.h"
#include "vmm/control.h"
#include "vmm/devices_disk.h"
#include "vmm/machine_priv.h"
#include "wire/addr.h"

/* Bucket 0: below 1 us; bucket i: 2^(i-1) .. 2^i us. Without the empty ones at the end. */
static json_object *info_histogram(const struct blk_histogram *h)
{
    json_object *o = json_object_new_object(), *counts = json_object_new_array();
    unsigned n = BLK_HISTOGRAM_BUCKETS;

    while (n > 0 && h->count[n - 1] == 0)
        n--;
    for (unsigned i = 0; i < n; i++)
        json_object_array_add(counts, json_object_new_uint64(h->count[i]));
    json_object_object_add(o, "sum_ns", json_object_new_uint64(h->sum_ns));
    json_object_object_add(o, "max_ns", json_object_new_uint64(h->max_ns));
    json_object_object_add(o, "log2_us", counts);
    return o;
}

static json_object *info_stats(const struct blk_stats *s)
{
    static const char *const names[BLK_STATS_KINDS] = { "read", "write", "flush", "discard" };
    json_object *o = json_object_new_object();

    for (unsigned i = 0; i < BLK_STATS_KINDS; i++) {
        const struct blk_op_stats *op = &s->op[i];
        json_object *x = json_object_new_object();

        json_object_object_add(x, "ops", json_object_new_uint64(op->ops));
        json_object_object_add(x, "bytes", json_object_new_uint64(op->bytes));
        json_object_object_add(x, "errors", json_object_new_uint64(op->errors));
        json_object_object_add(x, "merged", json_object_new_uint64(op->merged));
        json_object_object_add(x, "wait", info_histogram(&op->wait));
        json_object_object_add(x, "service", info_histogram(&op->service));
        json_object_object_add(x, "response", info_histogram(&op->response));
        json_object_object_add(o, names[i], x);
    }
    json_object_object_add(o, "fast", json_object_new_uint64(s->fast));
    json_object_object_add(o, "slow", json_object_new_uint64(s->slow));
    json_object_object_add(o, "readahead_hits", json_object_new_uint64(s->readahead_hits));
    json_object_object_add(o, "waited", json_object_new_uint64(s->waited));
    return o;
}

static json_object *info_disk(const struct machine_disk *disk, unsigned index)
{
    json_object *o = json_object_new_object();
    struct blk_info info;

    blk_node_info(blk_image_node(disk->image), &info);
    json_object_object_add(o, "index", json_object_new_int64(index));
    json_object_object_add(o, "path", json_object_new_string(disk->spec->path));
    json_object_object_add(o, "serial", disk->spec->serial ? json_object_new_string(disk->spec->serial) : NULL);
    json_object_object_add(o, "format", json_object_new_string(info.format));
    json_object_object_add(o, "encrypted", json_object_new_boolean(info.encryption != NULL));
    json_object_object_add(o, "size", json_object_new_uint64(disk->image->size));
    json_object_object_add(o, "read_only", json_object_new_boolean(disk->image->read_only));
    json_object_object_add(o, "keeps_records",
                           json_object_new_boolean(blk_records_persistent(blk_watch_records(disk->watch))));
    json_object_object_add(o, "stats", info_stats(blk_image_stats(disk->image)));
    return o;
}

static json_object *info_nic(const struct vm_nic *nic)
{
    json_object *o = json_object_new_object();
    char mac[ADDR_MAC_TEXT];

    addr_mac_format(nic->mac, mac);
    json_object_object_add(o, "name", json_object_new_string(nic->name));
    json_object_object_add(o, "kind", json_object_new_string(vm_nic_kind_name(nic->kind)));
    json_object_object_add(o, "network", nic->network[0] ? json_object_new_string(nic->network) : NULL);
    json_object_object_add(o, "ifname", nic->ifname[0] ? json_object_new_string(nic->ifname) : NULL);
    json_object_object_add(o, "mac", json_object_new_string(mac));
    return o;
}

struct json_object *vmm_control_info(const struct machine *m)
{
    const struct vm_spec *s = m->spec;
    json_object *o = json_object_new_object(), *disks = json_object_new_array(), *nics = json_object_new_array();

    json_object_object_add(o, "name", json_object_new_string(s->name));
    json_object_object_add(o, "pid", json_object_new_int64(getpid()));
    json_object_object_add(o, "engine", json_object_new_string(m->ops->name));
    json_object_object_add(o, "cpus", json_object_new_int64(s->cpus));
    json_object_object_add(o, "memory", json_object_new_uint64(s->memory));
    json_object_object_add(o, "paused", json_object_new_boolean(m->paused));
    for (unsigned i = 0; i < s->n_disks; i++)
        json_object_array_add(disks, info_disk(m->disks[i], i));
    for (unsigned i = 0; i < s->n_nets; i++)
        json_object_array_add(nics, info_nic(&s->nets[i]));
    json_object_object_add(o, "disks", disks);
    json_object_object_add(o, "nics", nics);
    return o;
}
