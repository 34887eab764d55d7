#include "instance/vm_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "proto/msg.h"
#include "sys/dirs.h"

#define VM_TIMEOUT_MS 60000 /* a VM answers at once, but its host may be busy */

int inst_vm_run_dir(char *ret_path, size_t size, struct err *e)
{
    char runtime[SYS_DIR_MAX];
    int r = sys_dirs_runtime(runtime);

    if (r == 0)
        r = vm_msg_socket_dir(runtime, ret_path, size);
    return r < 0
               ? err_set(e, -r,
                         "the runtime directory's name is too long for a socket; set CAISSON_RUNTIME_DIR to a shorter "
                         "one")
               : 0;
}

int inst_vm_connect(const char *name, int *ret_sock, struct err *e)
{
    char dir[SYS_DIR_MAX + 8], path[SYS_DIR_MAX + PROTO_NAME_MAX + 16];
    int r = inst_vm_run_dir(dir, sizeof(dir), e);

    if (r < 0)
        return r;
    if (!proto_name_ok(name))
        return err_set(e, ENOENT, "no VM '%s' is running; VMs are found by the --name that they were started with",
                       name);
    snprintf(path, sizeof(path), "%s/%s.sock", dir, name);
    r = proto_msg_connect(path, ret_sock);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return err_set(e, ENOENT, "no VM '%s' is running; VMs are found by the --name that they were started with",
                       name);
    return r < 0 ? err_set(e, -r, "VM %s: cannot reach it at %s: %s", name, path, strerror(-r)) : 0;
}

int inst_vm_call(int sock, const char *name, const struct vm_msg_request *request, struct json_object **ret_reply,
                 struct err *e)
{
    const struct proto_msg_peer peer = {
        .kind = "VM", .name = name, .process = "process", .remedy = "install all programs from one build"
    };
    AUTO_FREE char *text = NULL;

    if (vm_msg_request_to_json(request, &text) < 0)
        return err_set(e, ENOMEM, "out of memory");
    return proto_msg_call(sock, &peer, text, NULL, 0, VM_TIMEOUT_MS, ret_reply, NULL, NULL, e);
}
