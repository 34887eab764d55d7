/* Facts about images as JSON: what `caisson disk info`, `snapshot ls` and `bitmap ls` show. Whatever stands in an image
 * is data of a stranger: it is shown, never followed, unless the caller asks for the chain. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/disk_priv.h"

/* Text out of an image: control characters, also those that UTF-8 has two bytes for, could play with the terminal. */
static json_object *info_text(const char *text)
{
    char clean[BLK_PATH_MAX];
    size_t n = 0;

    if (!text)
        return NULL;
    for (; *text && n + 1 < sizeof(clean); text++) {
        unsigned char c = (unsigned char)*text;

        if (c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0) {
            c = 0x7f;
            text++;
        }
        clean[n++] = c < 0x20 || c == 0x7f ? '?' : *text;
    }
    clean[n] = '\0';
    return json_object_new_string(clean);
}

static void info_u64(json_object *o, const char *key, uint64_t value)
{
    json_object_object_add(o, key, json_object_new_uint64(value));
}

static void info_bool(json_object *o, const char *key, bool value)
{
    json_object_object_add(o, key, json_object_new_boolean(value));
}

static json_object *info_time(uint64_t ns)
{
    time_t seconds = (time_t)(ns / 1000000000u);
    struct tm tm;
    char text[64], whole[96];

    if (!gmtime_r(&seconds, &tm))
        return NULL;
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(whole, sizeof(whole), "%s.%09uZ", text, (unsigned)(ns % 1000000000u));
    return json_object_new_string(whole);
}

json_object *disk_snapshots_json(struct blk_node *n)
{
    json_object *array = json_object_new_array();
    struct blk_snapshot *list = NULL;
    unsigned count = 0;

    if (!n->ops->snapshot_list || n->ops->snapshot_list(n, &list, &count) < 0)
        return array;
    for (unsigned i = 0; i < count; i++) {
        json_object *o = json_object_new_object();

        json_object_object_add(o, "id", info_text(list[i].id));
        json_object_object_add(o, "name", info_text(list[i].name));
        info_u64(o, "disk_size", list[i].disk_size);
        info_u64(o, "vm_state_size", list[i].vm_state_size);
        json_object_object_add(o, "date", info_time(list[i].date_ns));
        info_u64(o, "vm_clock_ns", list[i].vm_clock_ns);
        json_object_array_add(array, o);
    }
    free(list);
    return array;
}

json_object *disk_bitmaps_json(struct blk_node *n)
{
    json_object *array = json_object_new_array();
    struct blk_bitmap *list = NULL;
    unsigned count = 0;

    if (!n->ops->bitmap_list || n->ops->bitmap_list(n, &list, &count) < 0)
        return array;
    for (unsigned i = 0; i < count; i++) {
        json_object *o = json_object_new_object();

        json_object_object_add(o, "name", info_text(list[i].name));
        info_u64(o, "granularity", list[i].granularity);
        info_bool(o, "enabled", list[i].enabled);
        info_bool(o, "in_use", list[i].in_use);
        info_u64(o, "dirty_bytes", list[i].dirty);
        json_object_array_add(array, o);
    }
    free(list);
    return array;
}

static void info_qcow2(json_object *o, const struct blk_info *info)
{
    info_u64(o, "qcow2_version", info->qcow2_version);
    info_u64(o, "refcount_bits", info->refcount_bits);
    info_bool(o, "lazy_refcounts", info->lazy_refcounts);
    info_bool(o, "extended_l2", info->extended_l2);
    info_bool(o, "dirty", info->dirty);
    info_bool(o, "corrupt", info->corrupt);
    if (info->data_file) {
        json_object_object_add(o, "data_file", info_text(info->data_file));
        info_bool(o, "data_file_raw", info->data_file_raw);
    }
}

static int info_backing(json_object *o, const struct blk_node *n, const struct blk_info *info)
{
    json_object *backing;
    AUTO_FREE char *full = NULL;

    if (!info->backing_path)
        return 0;
    if (disk_backing_path(n->path, info->backing_path, &full) < 0)
        return -ENOMEM;
    backing = json_object_new_object();
    json_object_object_add(backing, "path", info_text(info->backing_path));
    json_object_object_add(backing, "format", info_text(info->backing_format));
    json_object_object_add(backing, "full_path", info_text(full));
    json_object_object_add(o, "backing", backing);
    return 0;
}

static int info_node(struct blk_node *n, json_object **ret)
{
    json_object *o = json_object_new_object();
    struct blk_info info;

    if (!o)
        return -ENOMEM;
    blk_node_info(n, &info);
    json_object_object_add(o, "path", info_text(n->path));
    json_object_object_add(o, "format", info_text(info.format));
    info_u64(o, "virtual_size", info.virtual_size);
    info_u64(o, "actual_size", info.actual_size);
    if (info.cluster_size)
        info_u64(o, "cluster_size", info.cluster_size);
    if (info.compression)
        json_object_object_add(o, "compression", info_text(info.compression));
    if (info.encryption)
        json_object_object_add(o, "encryption", info_text(info.encryption));
    if (info.create_type)
        json_object_object_add(o, "create_type", info_text(info.create_type));
    if (info.qcow2_version)
        info_qcow2(o, &info);
    if (info_backing(o, n, &info) < 0) {
        json_object_put(o);
        return -ENOMEM;
    }
    if (n->ops->snapshot_list)
        json_object_object_add(o, "snapshots", disk_snapshots_json(n));
    if (n->ops->bitmap_list)
        json_object_object_add(o, "bitmaps", disk_bitmaps_json(n));
    *ret = o;
    return 0;
}

int disk_info(const struct blk_open_config *config, bool chain, json_object **ret_array, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_open_config c = *config;
    json_object *array;
    int res;

    c.read_only = true;
    c.backing = chain ? BLK_BACKING_OPEN : BLK_BACKING_NONE;
    c.no_data = true;
    res = disk_open(&c, &n, e);
    if (res < 0)
        return res;
    array = json_object_new_array();
    for (struct blk_node *at = n; at && array && res == 0; at = at->backing) {
        json_object *o = NULL;

        res = info_node(at, &o);
        if (res == 0)
            json_object_array_add(array, o);
    }
    if (!array || res < 0) {
        json_object_put(array);
        return err_set(e, ENOMEM, "out of memory");
    }
    *ret_array = array;
    return 0;
}

/* ---- lists ---- */

static int info_list(const struct blk_open_config *config, bool snapshots, json_object **ret_array, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    int res = disk_open_alone(config, true, &n, e);

    if (res < 0)
        return res;
    if (snapshots ? !n->ops->snapshot_list : !n->ops->bitmap_list)
        return err_set(e, ENOTSUP, "disk %s: the format %s has no %s; convert it to qcow2", config->path, n->ops->name,
                       snapshots ? "snapshots" : "bitmaps");
    *ret_array = snapshots ? disk_snapshots_json(n) : disk_bitmaps_json(n);
    return 0;
}

int disk_snapshot_ls(const struct blk_open_config *config, json_object **ret_array, struct err *e)
{
    return info_list(config, true, ret_array, e);
}

int disk_bitmap_ls(const struct blk_open_config *config, json_object **ret_array, struct err *e)
{
    return info_list(config, false, ret_array, e);
}
