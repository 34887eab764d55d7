#include "proto/vm_msg.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define WHAT "VM request"

static const char *const vm_msg_ops[] = {
    [VM_MSG_INFO] = "info",
    [VM_MSG_BACKUP_START] = "backup-start",
    [VM_MSG_BACKUP_STATUS] = "backup-status",
    [VM_MSG_BACKUP_CANCEL] = "backup-cancel",
    [VM_MSG_SAVE] = "save",
    [VM_MSG_SAVE_STATUS] = "save-status",
    [VM_MSG_SAVE_CANCEL] = "save-cancel",
    [VM_MSG_PAUSE] = "pause",
    [VM_MSG_RESUME] = "resume",
    [VM_MSG_QUIT] = "quit",
};
static const char *const vm_backup_modes[] = {
    [VM_BACKUP_AUTO] = "auto",
    [VM_BACKUP_FULL] = "full",
    [VM_BACKUP_INCREMENTAL] = "incremental",
};

/* ---- writing ---- */

static void vm_msg_put_backup(json_object *o, const struct vm_msg_backup *b)
{
    json_object *disks = json_object_new_array();

    json_object_object_add(o, "dir", json_object_new_string(b->dir));
    json_object_object_add(o, "chain", json_object_new_string(b->chain));
    for (unsigned i = 0; i < b->n_disks; i++)
        json_object_array_add(disks, json_object_new_string(b->disks[i]));
    json_object_object_add(o, "disks", disks);
    json_object_object_add(o, "mode", json_object_new_string(vm_backup_modes[b->mode]));
    json_object_object_add(o, "compress", json_object_new_boolean(b->compress));
    json_object_object_add(o, "bandwidth", json_object_new_uint64(b->bandwidth));
}

static void vm_msg_put_save(json_object *o, const struct vm_msg_save *s)
{
    if (s->path[0])
        json_object_object_add(o, "path", json_object_new_string(s->path));
    if (s->snapshot[0])
        json_object_object_add(o, "snapshot", json_object_new_string(s->snapshot));
    json_object_object_add(o, "replace", json_object_new_boolean(s->replace));
    json_object_object_add(o, "compress", json_object_new_boolean(s->compress));
    json_object_object_add(o, "stop", json_object_new_boolean(s->stop));
    if (s->disks_only)
        json_object_object_add(o, "disks_only", json_object_new_boolean(true));
}

int vm_msg_request_to_json(const struct vm_msg_request *r, char **ret_text)
{
    json_object *o = json_object_new_object();

    json_object_object_add(o, "op", json_object_new_string(vm_msg_ops[r->op]));
    if (r->op == VM_MSG_BACKUP_START)
        vm_msg_put_backup(o, &r->backup);
    if (r->op == VM_MSG_SAVE)
        vm_msg_put_save(o, &r->save);
    return proto_json_take_text(o, ret_text);
}

/* ---- reading ---- */

static int vm_msg_get_disks(json_object *v, struct vm_msg_backup *b, struct err *e)
{
    size_t n = 0;
    int r = proto_json_array(v, WHAT, "disks", BACKUP_DISKS_MAX, &n, e);

    for (size_t i = 0; i < n && r == 0; i++)
        r = proto_json_text(json_object_array_get_idx(v, i), WHAT, "disks", b->disks[i], sizeof(b->disks[i]), e);
    b->n_disks = (unsigned)n;
    return r;
}

static int vm_msg_get_backup(const char *key, json_object *v, struct vm_msg_backup *b, struct err *e)
{
    unsigned mode = 0;
    int r;

    if (strcmp(key, "dir") == 0)
        return proto_json_text(v, WHAT, key, b->dir, sizeof(b->dir), e);
    if (strcmp(key, "chain") == 0)
        return proto_json_text(v, WHAT, key, b->chain, sizeof(b->chain), e);
    if (strcmp(key, "disks") == 0)
        return vm_msg_get_disks(v, b, e);
    if (strcmp(key, "mode") == 0) {
        r = proto_json_choice(v, WHAT, key, vm_backup_modes, ARRAY_SIZE(vm_backup_modes), &mode, e);
        b->mode = (enum vm_backup_mode)mode;
        return r;
    }
    if (strcmp(key, "compress") == 0)
        return proto_json_bool(v, WHAT, key, &b->compress, e);
    if (strcmp(key, "bandwidth") == 0)
        return proto_json_uint(v, WHAT, key, 0, VM_MSG_BANDWIDTH_MAX, &b->bandwidth, e);
    return proto_json_unknown(WHAT, key, e);
}

static int vm_msg_get_save(const char *key, json_object *v, struct vm_msg_save *s, struct err *e)
{
    if (strcmp(key, "path") == 0)
        return proto_json_text(v, WHAT, key, s->path, sizeof(s->path), e);
    if (strcmp(key, "snapshot") == 0)
        return proto_json_text(v, WHAT, key, s->snapshot, sizeof(s->snapshot), e);
    if (strcmp(key, "replace") == 0)
        return proto_json_bool(v, WHAT, key, &s->replace, e);
    if (strcmp(key, "compress") == 0)
        return proto_json_bool(v, WHAT, key, &s->compress, e);
    if (strcmp(key, "stop") == 0)
        return proto_json_bool(v, WHAT, key, &s->stop, e);
    if (strcmp(key, "disks_only") == 0)
        return proto_json_bool(v, WHAT, key, &s->disks_only, e);
    return proto_json_unknown(WHAT, key, e);
}

static int vm_msg_get(void *request, const char *key, json_object *v, struct err *e)
{
    struct vm_msg_request *r = request;

    if (r->op == VM_MSG_BACKUP_START)
        return vm_msg_get_backup(key, v, &r->backup, e);
    if (r->op == VM_MSG_SAVE)
        return vm_msg_get_save(key, v, &r->save, e);
    return proto_json_unknown(WHAT, key, e);
}

static int vm_msg_check_save(const struct vm_msg_save *s, struct err *e)
{
    if (s->path[0] && s->path[0] != '/')
        return err_set(e, EINVAL, WHAT ": save needs an absolute path");
    if (s->snapshot[0] && !proto_name_ok(s->snapshot))
        return err_set(e, EINVAL,
                       "snapshot '%s' is not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       s->snapshot, PROTO_NAME_MAX);
    if (s->disks_only && (!s->snapshot[0] || s->path[0] || s->stop))
        return err_set(e, EINVAL, WHAT ": save with disks_only needs a snapshot, and no path and no stop");
    return 0;
}

static int vm_msg_check(const struct vm_msg_request *r, struct err *e)
{
    if (r->op == VM_MSG_SAVE)
        return vm_msg_check_save(&r->save, e);
    if (r->op != VM_MSG_BACKUP_START)
        return 0;
    if (r->backup.dir[0] != '/')
        return err_set(e, EINVAL, WHAT ": backup-start needs an absolute dir");
    if (!proto_name_ok(r->backup.chain))
        return err_set(e, EINVAL, "chain '%s' is not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       r->backup.chain, PROTO_NAME_MAX);
    return 0;
}

int vm_msg_request_from_json(const char *text, struct vm_msg_request *r, struct err *e)
{
    json_object *o = NULL;
    unsigned which = 0;
    int res = proto_json_request(text, WHAT, vm_msg_ops, ARRAY_SIZE(vm_msg_ops), &o, &which, e);

    if (res < 0)
        return res;
    *r = (struct vm_msg_request){ .op = (enum vm_msg_op)which, .save.compress = which == VM_MSG_SAVE };
    res = proto_json_request_fields(o, vm_msg_get, r, e);
    return res < 0 ? res : vm_msg_check(r, e);
}

int vm_msg_socket_dir(const char *runtime, char *ret_path, size_t size)
{
    int n = snprintf(ret_path, size, "%s/vm", runtime);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}
