/* Running an instance that is a VM: caisson-vmm as a child of the supervisor, which dies with it. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/kind.h"
#include "instance/leftover.h"
#include "instance/place.h"
#include "instance/vm_client.h"
#include "instance/vm_exec.h"
#include "instance/vm_ports.h"
#include "instance/vm_save.h"
#include "instance/vmm.h"
#include "proto/exit_code.h"
#include "sys/loop.h"
#include "sys/tree.h"

#define VM_UP_NS 60000000000ULL /* a kernel is read from a slow disk */
#define VM_UP_NAP_MS 2
#define VM_MESSAGE_MAX 4096

static int vm_run_dir_make(struct inst_run *run, struct err *e)
{
    int r = sys_dirs_make(run->rundir);

    return r < 0
               ? err_set(e, -r, "cannot make %s: %s; make room, or set CAISSON_RUNTIME_DIR", run->rundir, strerror(-r))
               : 0;
}

static int vm_prepare(struct inst_run *run, struct err *e)
{
    return vm_run_dir_make(run, e);
}

/* The stored specification, with what belongs to this run. The caller frees it. */
static int vm_spec_of_run(const struct inst_run *run, struct vm_spec **ret_spec, struct err *e)
{
    const struct store_instance *i = run->instance;
    struct vm_spec *s = malloc(sizeof(*s));
    AUTO_FREE char *text = NULL;
    int r;

    if (!s || vm_spec_to_json(i->spec.vm, &text) < 0) {
        free(s);
        return err_set(e, ENOMEM, "out of memory");
    }
    vm_spec_init(s);
    r = vm_spec_from_json(text, s, e);
    if (r == 0) {
        s->name = strdup(i->name);
        r = s->name ? 0 : err_set(e, ENOMEM, "out of memory");
    }
    *ret_spec = s;
    return r;
}

static void vm_spec_free(struct vm_spec *s)
{
    if (s)
        vm_spec_done(s);
    free(s);
}
DEFINE_AUTO(vm_spec, struct vm_spec, vm_spec_free)

/* What the VMM wrote before it ended: its last line is why. */
static void vm_read_reason(int fd, char *text, size_t size)
{
    size_t len = 0;
    ssize_t n;
    char *line;

    while (len < size - 1 && (n = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    while (len > 0 && text[len - 1] == '\n')
        len--;
    text[len] = '\0';
    line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (strncmp(line, "caisson: ", 9) == 0)
        line += 9;
    memmove(text, line, strlen(line) + 1);
}

static int vm_failed(const struct inst_run *run, int stderr_fd, int status, struct err *e)
{
    char text[VM_MESSAGE_MAX];

    vm_read_reason(stderr_fd, text, sizeof(text));
    if (text[0])
        return err_set(e, WIFEXITED(status) && WEXITSTATUS(status) == 2 ? EINVAL : EIO, "%s", text);
    return err_set(e, EIO, "VM %s: its process ended while it started (status 0x%x)", run->instance->name,
                   (unsigned)status);
}

/* Whether our VM answers. Another one that took its name is not ours. */
static bool vm_answers(const struct inst_run *run, pid_t pid)
{
    const struct vm_msg_request request = { .op = VM_MSG_INFO };
    const char *name = run->instance->name;
    json_object *reply = NULL, *info, *value;
    struct err ignored = { 0 };
    AUTO_FD int sock = -1;
    bool ours;

    if (inst_vm_connect(name, &sock, &ignored) < 0 || inst_vm_call(sock, name, &request, &reply, &ignored) < 0)
        return false;
    ours = json_object_object_get_ex(reply, "info", &info) && json_object_object_get_ex(info, "pid", &value) &&
           json_object_get_int64(value) == pid;
    json_object_put(reply);
    return ours;
}

/* Whether a VM whose process has ended had run: it says why where it could not start, and crashes of guests have a code
 * of their own. It stays a zombie. */
static bool vm_has_run(const struct inst_vmm *vmm, int stderr_fd)
{
    siginfo_t info = { 0 };
    int text = 0;

    if (waitid(P_PID, (id_t)vmm->pid, &info, WEXITED | WNOWAIT) < 0 || info.si_code != CLD_EXITED)
        return false;
    return info.si_status == EXIT_CODE_GUEST_CRASH || (ioctl(stderr_fd, FIONREAD, &text) == 0 && text == 0);
}

/* Wait until the VM runs. Its process may end instead, and says why; or has been short-lived. */
static int vm_wait_up(struct inst_run *run, const struct inst_vmm *vmm, int stderr_fd, struct err *e)
{
    uint64_t end = sys_now_ns() + VM_UP_NS;
    int status = 0;

    while (sys_now_ns() < end) {
        struct pollfd p = { .fd = vmm->pidfd, .events = POLLIN };

        if (poll(&p, 1, VM_UP_NAP_MS) > 0) {
            if (vm_has_run(vmm, stderr_fd))
                return 0;
            while (waitpid(vmm->pid, &status, 0) < 0 && errno == EINTR)
                ;
            return vm_failed(run, stderr_fd, status, e);
        }
        if (vm_answers(run, vmm->pid))
            return 0;
    }
    kill(vmm->pid, SIGKILL);
    while (waitpid(vmm->pid, &status, 0) < 0 && errno == EINTR)
        ;
    return err_set(e, ETIMEDOUT, "VM %s: it does not answer after %d s; is the host overloaded?", run->instance->name,
                   (int)(VM_UP_NS / 1000000000));
}

struct vm_begin {
    const struct inst_run *run;
    int memory; /* -1: it boots */
    bool taken;
};

/* Ports of the host can be taken by others; then it is still saved. */
static int vm_begin(void *opaque, struct err *e)
{
    struct vm_begin *b = opaque;
    int r = inst_vm_ports_add(b->run->instance, e);

    if (r < 0 || b->memory < 0)
        return r;
    r = inst_vm_take_memory(b->run->dir, b->run->instance->name, e);
    b->taken = r == 0;
    return r;
}

/* Start the VMM, from the saved memory where there is one, and wait until it runs. */
static int vm_start_vmm(struct inst_run *run, struct vm_spec *s, int in, int out, struct inst_vmm *ret_vmm,
                        struct err *e)
{
    struct inst_vmm_restore restore = { .fd = -1 };
    struct vm_begin begin = { .run = run };
    const struct inst_vmm_hook hook = { vm_begin, &begin };
    AUTO_FD int memory = -1;
    int r = inst_vm_open_memory(run->dir, run->instance->name, &memory, e);

    if (r < 0) {
        close(in);
        return r;
    }
    begin.memory = restore.fd = memory;
    restore.catch_up = !s->clock_continue;
    restore.as_saved = true;
    r = inst_vmm_start(s, memory >= 0 ? &restore : NULL, &hook, in, ret_vmm, e);
    if (r == 0) {
        close(in); /* so that the VMM's end shows on out */
        r = vm_wait_up(run, ret_vmm, out, e);
        if (r < 0) {
            base_closep(&ret_vmm->console);
            base_closep(&ret_vmm->pidfd);
        }
    } else {
        close(in);
    }
    if (begin.taken && r < 0 && !inst_vmm_has_run(memory)) {
        inst_vm_keep_memory(run->dir);
        err_wrap(e, "cannot go on from its saved memory ('caisson save --discard %s' forgets that)",
                 run->instance->name);
    } else if (begin.taken) {
        inst_vm_drop_memory(run->dir);
    }
    return r;
}

static int vm_start(struct inst_run *run, struct inst_stdio *ret_stdio, struct err *e)
{
    AUTO(vm_spec) struct vm_spec *s = NULL;
    AUTO_FD int out = -1;
    struct inst_vmm vmm;
    int pair[2], r = vm_spec_of_run(run, &s, e);

    if (r < 0)
        return r;
    if (pipe2(pair, O_CLOEXEC) < 0)
        return err_set(e, errno, "VM %s: cannot make a pipe: %s", run->instance->name, strerror(errno));
    out = pair[0];
    r = vm_start_vmm(run, s, pair[1], out, &vmm, e);
    if (r < 0)
        return r;
    run->pid = vmm.pid;
    run->pidfd = vmm.pidfd;
    *ret_stdio = (struct inst_stdio){ .console = vmm.console, .in = -1, .out = -1, .err = STEAL_FD(out) };
    return 0;
}

static int vm_signal(struct inst_run *run, int signal, struct err *e)
{
    if (run->pidfd < 0 || syscall(SYS_pidfd_send_signal, run->pidfd, signal, NULL, 0) < 0)
        return err_set(e, errno == ESRCH || run->pidfd < 0 ? ENOTCONN : errno, "VM %s does not run",
                       run->instance->name);
    return 0;
}

static int vm_stop(struct inst_run *run, struct err *e)
{
    return vm_signal(run, SIGPWR, e);
}

static int vm_kill(struct inst_run *run, int signal, struct err *e)
{
    if (signal != SIGKILL && signal != SIGTERM && signal != SIGINT && signal != SIGPWR)
        return err_set(e, EINVAL,
                       "VM %s: a VM takes no signal %d; use KILL or TERM (ends at once) or PWR (the power button)",
                       run->instance->name, signal);
    return vm_signal(run, signal == SIGINT ? SIGTERM : signal, e);
}

/* One request without parameters to the VM. */
static int vm_request(struct inst_run *run, enum vm_msg_op op, json_object **ret_reply, struct err *e)
{
    const struct vm_msg_request request = { .op = op };
    const char *name = run->instance->name;
    AUTO_FD int sock = -1;
    int r = inst_vm_connect(name, &sock, e);

    return r < 0 ? r : inst_vm_call(sock, name, &request, ret_reply, e);
}

static int vm_pause(struct inst_run *run, bool pause, struct err *e)
{
    json_object *reply = NULL;
    int r = vm_request(run, pause ? VM_MSG_PAUSE : VM_MSG_RESUME, &reply, e);

    json_object_put(reply);
    return r;
}

static int vm_exec(struct inst_run *run, const struct inst_strings *command, pid_t *ret_pid, struct err *e)
{
    return inst_vm_exec(run->instance->name, command, ret_pid, e);
}

/* A serial line has no size. */
static int vm_resize(struct inst_run *run, unsigned columns, unsigned rows)
{
    (void)run;
    (void)columns;
    (void)rows;
    return 0;
}

static int vm_stats(struct inst_run *run, json_object **ret_stats, struct err *e)
{
    json_object *o = json_object_new_object();
    struct inst_process_stats p;
    int r = inst_process_stats(run->pid, &p);

    if (r < 0 || !o) {
        json_object_put(o);
        return err_set(e, r < 0 ? -r : ENOMEM, "VM %s: cannot read its figures: %s", run->instance->name,
                       strerror(r < 0 ? -r : ENOMEM));
    }
    json_object_object_add(o, "cpu_ns", json_object_new_uint64(p.cpu_ns));
    json_object_object_add(o, "memory", json_object_new_uint64(p.resident));
    json_object_object_add(o, "memory_limit", json_object_new_uint64(run->instance->spec.vm->memory));
    json_object_object_add(o, "pids", json_object_new_uint64(p.threads));
    *ret_stats = o;
    return 0;
}

static int vm_ended(struct inst_run *run, int wait_status, bool *ret_oom)
{
    (void)run;
    *ret_oom = false;
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/* A VMM that was killed leaves its sockets and its lock; they may be another one's by now. */
static void vm_forget_place(const char *dir, const char *name)
{
    char vsock[SYS_PLACE_PATH_MAX];
    struct sys_place place;

    if (access(dir, F_OK) < 0 || sys_place_lock(dir, name, &place) < 0)
        return;
    snprintf(place.socket_path, sizeof(place.socket_path), "%s/%s.sock", dir, name);
    unlink(place.socket_path);
    snprintf(vsock, sizeof(vsock), "%s/%s.vsock", dir, name);
    unlink(vsock);
    sys_place_leave(&place);
}

/* Ports of networks and the control socket go with the process. A supervisor that comes here after the end of its own
 * VM has reaped it; one that was killed did not, and its row says so. */
static int vm_cleanup(struct inst_run *run, struct err *e)
{
    char dir[INST_PATH_MAX];
    enum store_inst_status status = run->instance->status;
    bool crashed = run->pid <= 0 && (status == STORE_INST_STARTING || status == STORE_INST_RUNNING);
    int r = crashed ? inst_kill_leftover(run->instance->id, "caisson-vmm") : 0;

    if (r < 0)
        return err_set(e, -r, "VM %s: its process does not end: %s", run->instance->name, strerror(-r));
    if (inst_vm_run_dir(dir, sizeof(dir), e) == 0)
        vm_forget_place(dir, run->instance->name);
    inst_vm_ports_remove(run->instance);
    inst_vm_drop_memory(run->dir); /* it may have run */
    r = sys_tree_remove(run->rundir);
    return r < 0 ? err_set(e, -r, "VM %s: cannot remove %s: %s", run->instance->name, run->rundir, strerror(-r)) : 0;
}

static bool vm_saved(const struct inst_run *run)
{
    return inst_vm_is_saved(run->dir);
}

static void vm_release(struct inst_run *run)
{
    base_closep(&run->pidfd);
    run->pidfd = -1;
}

static int vm_destroy(struct inst_run *run, struct err *e)
{
    (void)run;
    (void)e;
    return 0; /* its disks are in the directory */
}

const struct inst_kind_ops inst_vm_ops = {
    .prepare = vm_prepare,
    .start = vm_start,
    .stop = vm_stop,
    .kill = vm_kill,
    .pause = vm_pause,
    .exec = vm_exec,
    .resize = vm_resize,
    .stats = vm_stats,
    .ended = vm_ended,
    .cleanup = vm_cleanup,
    .saved = vm_saved,
    .release = vm_release,
    .destroy = vm_destroy,
};
