/* caisson disk backup: ask a running VM for a new point, and wait for it. The VM does the work, and finishes it when we
 * are killed; Ctrl-C cancels it. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/disk_args.h"
#include "instance/vm_client.h"
#include "proto/exit_code.h"

#define BACKUP_POLL_MS 100

struct backup_args {
    const char *vm;
    struct vm_msg_request request;
    json_object *status; /* the last one */
};

/* ---- what is asked for ---- */

/* The VM does not have our current directory. */
static int backup_args_dir(const char *to, char ret_dir[VM_MSG_DIR_MAX], struct err *e)
{
    AUTO_FREE char *cwd = to[0] == '/' ? strdup("") : getcwd(NULL, 0);
    size_t len;

    if (!cwd)
        return err_set(e, errno, "--to %s: cannot find the current directory: %s", to, strerror(errno));
    if (snprintf(ret_dir, VM_MSG_DIR_MAX, "%s%s%s", cwd, to[0] == '/' ? "" : "/", to) >= VM_MSG_DIR_MAX)
        return err_set(e, EINVAL, "--to %s: too long", to);
    len = strlen(ret_dir);
    while (len > 1 && ret_dir[len - 1] == '/')
        ret_dir[--len] = '\0';
    return 0;
}

static int backup_args_disks(const struct cli_args *args, struct vm_msg_backup *b, struct err *e)
{
    for (size_t i = 0; i < args->n_given; i++) {
        const char *text = args->given[i].value;

        if (strcmp(args->given[i].option->name, "disk") != 0)
            continue;
        if (b->n_disks == BACKUP_DISKS_MAX)
            return err_set(e, EINVAL, "--disk: a VM has at most %d disks", BACKUP_DISKS_MAX);
        if (!text[0] || strlen(text) >= sizeof(b->disks[0]))
            return err_set(e, ENOENT, "--disk %s: no disk can have such a serial or index", text);
        snprintf(b->disks[b->n_disks++], sizeof(b->disks[0]), "%s", text);
    }
    return 0;
}

static int backup_args_parse(const struct cli_args *args, struct backup_args *a, struct err *e)
{
    struct vm_msg_backup *b = &a->request.backup;
    const char *to = cli_value(args, "to"), *chain = cli_value(args, "name");
    const bool full = cli_value(args, "full"), incremental = cli_value(args, "incremental");
    int r = disk_args_operand(args, 0, "VM", &a->vm, e);

    a->request.op = VM_MSG_BACKUP_START;
    if (r < 0)
        return r;
    if (!to || !to[0])
        return err_set(e, EINVAL, "no directory given for the backup; name one with --to DIR");
    if (full && incremental)
        return err_set(e, EINVAL,
                       "--full and --incremental exclude each other; without both, what is possible is done");
    if (chain && !proto_name_ok(chain))
        return err_set(e, EINVAL, "--name %s: not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       chain, PROTO_NAME_MAX);
    snprintf(b->chain, sizeof(b->chain), "%s", chain ? chain : VM_BACKUP_CHAIN_DEFAULT);
    b->mode = full ? VM_BACKUP_FULL : incremental ? VM_BACKUP_INCREMENTAL : VM_BACKUP_AUTO;
    b->compress = cli_value(args, "compress");
    r = backup_args_dir(to, b->dir, e);
    if (r >= 0)
        r = backup_args_disks(args, b, e);
    if (r >= 0)
        r = disk_args_size(args, "bandwidth", &b->bandwidth, e);
    if (r >= 0 && b->bandwidth > VM_MSG_BANDWIDTH_MAX)
        r = err_set(e, EINVAL, "--bandwidth: too large; leave it out for no limit");
    return r;
}

/* ---- the work ---- */

static int backup_ask(int sock, struct backup_args *a, enum vm_msg_op op, json_object **ret_reply, struct err *e)
{
    const struct vm_msg_request request = { .op = op };

    return inst_vm_call(sock, a->vm, op == VM_MSG_BACKUP_START ? &a->request : &request, ret_reply, e);
}

/* The end of job number. False: it runs. *ret_res: how it ended. */
static bool backup_ended(const struct backup_args *a, uint64_t number, int *ret_res, struct err *e)
{
    const char *state = disk_args_text(a->status, "state"), *text = disk_args_text(a->status, "error");
    const uint64_t code = disk_args_u64(a->status, "code");

    if (strcmp(state, "running") == 0 && disk_args_u64(a->status, "job") == number)
        return false;
    if (strcmp(state, "done") == 0 && disk_args_u64(a->status, "job") == number)
        *ret_res = 0;
    else
        *ret_res = err_set(e, code > 0 && code < 4096 ? (int)code : EIO, "%s",
                           text[0] ? text : "the backup's end is not known; see caisson disk backups");
    return true;
}

static int backup_wait(int sock, struct backup_args *a, uint64_t number, const struct disk_progress *progress,
                       struct err *e)
{
    bool canceled = false;
    int r = 0;

    for (;;) {
        json_object *reply = NULL, *status = NULL;

        r = backup_ask(sock, a, VM_MSG_BACKUP_STATUS, &reply, e);
        if (r < 0)
            return err_wrap(e, "the backup was not finished");
        if (json_object_object_get_ex(reply, "backup", &status)) {
            json_object_put(a->status);
            a->status = json_object_get(status);
        }
        json_object_put(reply);
        if (!a->status)
            return err_set(e, EBADMSG, "VM %s: its process answers nonsense; install all programs from one build",
                           a->vm);
        if (backup_ended(a, number, &r, e))
            return r;
        if (!progress->step(progress->opaque, disk_args_u64(a->status, "done"), disk_args_u64(a->status, "total")) &&
            !canceled) {
            canceled = true;
            r = backup_ask(sock, a, VM_MSG_BACKUP_CANCEL, &reply, e);
            if (r < 0)
                return r;
            json_object_put(reply);
        }
        (void)poll(NULL, 0, BACKUP_POLL_MS);
    }
}

static int backup_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct backup_args *a = opaque;
    json_object *reply = NULL;
    AUTO_FD int sock = -1;
    uint64_t number;
    int r = inst_vm_connect(a->vm, &sock, e);

    if (r >= 0)
        r = backup_ask(sock, a, VM_MSG_BACKUP_START, &reply, e);
    if (r < 0)
        return r;
    number = disk_args_u64(reply, "job");
    json_object_put(reply);
    return backup_wait(sock, a, number, progress, e);
}

/* ---- the result ---- */

static void backup_print(const struct cli_args *args, const struct backup_args *a)
{
    const char *note = disk_args_text(a->status, "note");
    json_object *point = NULL, *disks = NULL;

    if (note[0])
        fprintf(stderr, "caisson: %s\n", note);
    if (!json_object_object_get_ex(a->status, "point", &point))
        return;
    if (cli_value(args, "json")) {
        json_object *array = json_object_new_array();

        json_object_array_add(array, json_object_get(point));
        disk_args_print_json(array);
        return;
    }
    if (!json_object_object_get_ex(point, "disks", &disks) || !json_object_is_type(disks, json_type_array))
        return;
    for (size_t i = 0; i < json_object_array_length(disks); i++) {
        json_object *disk = json_object_array_get_idx(disks, i);
        char size[32];

        printf("point %llu: %s %s, %s\n", (unsigned long long)disk_args_u64(point, "point"),
               disk_args_text(disk, "disk"), disk_args_text(disk, "kind"),
               cli_size_text(disk_args_u64(disk, "copied"), size));
    }
}

int cli_cmd_disk_backup(const struct cli_args *args)
{
    AUTO_FREE struct backup_args *a = calloc(1, sizeof(*a));
    struct err e = { 0 };
    int r = a ? backup_args_parse(args, a, &e) : err_set(&e, ENOMEM, "out of memory"), code;

    if (r < 0)
        return cli_fail(&e);
    code = disk_args_long(args, "backup", backup_work, a, &e);
    if (code == EXIT_CODE_OK)
        backup_print(args, a);
    json_object_put(a->status);
    return code;
}
