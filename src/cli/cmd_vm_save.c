/* caisson vm save: ask a running VM to write itself to a file, and wait for that. The VM does the work; Ctrl-C cancels
 * it, and the VM goes on. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/disk_args.h"
#include "instance/vm_client.h"
#include "proto/exit_code.h"

#define SAVE_POLL_MS 20

struct save_args {
    const char *vm, *file;
    struct vm_msg_request request;
    json_object *status; /* the last one */
};

/* The VM does not have our current directory. */
static int save_args_path(const char *file, char ret_path[VM_MSG_DIR_MAX], struct err *e)
{
    AUTO_FREE char *cwd = file[0] == '/' ? strdup("") : getcwd(NULL, 0);

    if (!cwd)
        return err_set(e, errno, "%s: cannot find the current directory: %s", file, strerror(errno));
    if (!file[0] || file[strlen(file) - 1] == '/')
        return err_set(e, EINVAL, "'%s' is no name of a file; name the file to make", file);
    if (snprintf(ret_path, VM_MSG_DIR_MAX, "%s%s%s", cwd, file[0] == '/' ? "" : "/", file) >= VM_MSG_DIR_MAX)
        return err_set(e, EINVAL, "%s: too long", file);
    return 0;
}

static int save_args_parse(const struct cli_args *args, struct save_args *a, struct err *e)
{
    struct vm_msg_save *s = &a->request.save;
    const char *snapshot = cli_value(args, "snapshot");
    int r = disk_args_operand(args, 0, "VM", &a->vm, e);

    if (r >= 0)
        r = disk_args_operand(args, 1, "FILE", &a->file, e);
    if (r >= 0)
        r = save_args_path(a->file, s->path, e);
    if (r < 0)
        return r;
    if (snapshot && !proto_name_ok(snapshot))
        return err_set(e, EINVAL, "--snapshot %s: not allowed; use 1 to %d of a-z, 0-9 and '-', not starting with '-'",
                       snapshot, PROTO_NAME_MAX);
    a->request.op = VM_MSG_SAVE;
    snprintf(s->snapshot, sizeof(s->snapshot), "%s", snapshot ? snapshot : "");
    s->replace = cli_value(args, "replace");
    s->compress = !cli_value(args, "no-compress");
    s->stop = !cli_value(args, "keep-running");
    return 0;
}

static int save_ask(int sock, struct save_args *a, enum vm_msg_op op, json_object **ret_reply, struct err *e)
{
    const struct vm_msg_request request = { .op = op };

    return inst_vm_call(sock, a->vm, op == VM_MSG_SAVE ? &a->request : &request, ret_reply, e);
}

static int save_look(int sock, struct save_args *a, struct err *e)
{
    json_object *reply = NULL, *status = NULL;
    int r = save_ask(sock, a, VM_MSG_SAVE_STATUS, &reply, e);

    if (r < 0)
        return r;
    json_object_put(a->status);
    a->status = json_object_object_get_ex(reply, "save", &status) ? json_object_get(status) : NULL;
    json_object_put(reply);
    return a->status
               ? 0
               : err_set(e, EBADMSG, "VM %s: its process answers nonsense; install all programs from one build", a->vm);
}

/* The end of job number. False: it runs. *ret_res: how it ended. */
static bool save_ended(const struct save_args *a, uint64_t number, int *ret_res, struct err *e)
{
    const char *state = disk_args_text(a->status, "state"), *text = disk_args_text(a->status, "error");
    const uint64_t code = disk_args_u64(a->status, "code");
    const bool ours = disk_args_u64(a->status, "job") == number;

    if (strcmp(state, "running") == 0 && ours)
        return false;
    if (strcmp(state, "done") == 0 && ours)
        *ret_res = 0;
    else
        *ret_res = err_set(e, code > 0 && code < 4096 ? (int)code : EIO, "%s",
                           text[0] ? text : "how saving ended is not known; look whether the file is there");
    return true;
}

static int save_wait(int sock, struct save_args *a, uint64_t number, const struct disk_progress *progress,
                     struct err *e)
{
    bool canceled = false;
    int res = 0;

    for (;;) {
        json_object *reply = NULL;
        int r = save_look(sock, a, e);

        if (r < 0 || save_ended(a, number, &res, e))
            return r < 0 ? r : res;
        if (!progress->step(progress->opaque, disk_args_u64(a->status, "done"), disk_args_u64(a->status, "total")) &&
            !canceled) {
            canceled = true;
            r = save_ask(sock, a, VM_MSG_SAVE_CANCEL, &reply, e);
            if (r < 0)
                return r;
            json_object_put(reply);
        }
        (void)poll(NULL, 0, SAVE_POLL_MS);
    }
}

static int save_work(void *opaque, const struct disk_progress *progress, struct err *e)
{
    struct save_args *a = opaque;
    json_object *reply = NULL;
    AUTO_FD int sock = -1;
    uint64_t number;
    int r = inst_vm_connect(a->vm, &sock, e);

    if (r >= 0)
        r = save_ask(sock, a, VM_MSG_SAVE, &reply, e);
    if (r < 0)
        return r;
    number = disk_args_u64(reply, "job");
    json_object_put(reply);
    return save_wait(sock, a, number, progress, e);
}

static void save_print(const struct cli_args *args, const struct save_args *a)
{
    char size[32];

    if (cli_value(args, "json")) {
        json_object *array = json_object_new_array();

        json_object_object_add(a->status, "file", json_object_new_string(a->request.save.path));
        json_object_array_add(array, json_object_get(a->status));
        disk_args_print_json(array);
        return;
    }
    printf("%s: %s, the VM stood still for %llu ms\n", a->file, cli_size_text(disk_args_u64(a->status, "size"), size),
           (unsigned long long)disk_args_u64(a->status, "paused_us") / 1000);
}

int cli_cmd_vm_save(const struct cli_args *args)
{
    AUTO_FREE struct save_args *a = calloc(1, sizeof(*a));
    struct err e = { 0 };
    int r = a ? save_args_parse(args, a, &e) : err_set(&e, ENOMEM, "out of memory"), code;

    if (r < 0)
        return cli_fail(&e);
    code = disk_args_long(args, "save", save_work, a, &e);
    if (code == EXIT_CODE_OK)
        save_print(args, a);
    json_object_put(a->status);
    return code;
}
