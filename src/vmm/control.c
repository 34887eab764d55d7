#include "vmm/control.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "proto/msg.h"
#include "proto/vm_msg.h"
#include "sys/loop.h"
#include "sys/place.h"
#include "vmm/backup.h"
#include "vmm/machine.h"
#include "vmm/machine_priv.h"
#include "vmm/save_job.h"

#define CONTROL_CONNS_MAX 16

struct vmm_control {
    struct machine *m;
    struct sys_place place;
    struct loop_fd *src;
    struct list conns;
    unsigned n_conns;
};

/* A client. Its socket does not block: one that does not read its replies is closed. */
struct control_conn {
    struct list link;
    struct vmm_control *control;
    int sock;
    struct loop_fd *src;
};

static void conn_close(struct control_conn *conn)
{
    loop_fd_free(conn->src);
    close(conn->sock);
    list_remove(&conn->link);
    conn->control->n_conns--;
    free(conn);
}

/* fd: a descriptor that came with the request, taken over; -1: none. */
static int control_do(struct machine *m, const struct vm_msg_request *r, int *fd, json_object *reply, struct err *e)
{
    unsigned job = 0;
    int res;

    switch (r->op) {
    case VM_MSG_INFO:
        json_object_object_add(reply, "info", vmm_control_info(m));
        return 0;
    case VM_MSG_BACKUP_START:
        res = vmm_backup_start(m->backup, &r->backup, &job, e);
        json_object_object_add(reply, "job", json_object_new_int64(job));
        return res;
    case VM_MSG_BACKUP_STATUS:
        json_object_object_add(reply, "backup", vmm_backup_status(m->backup));
        return 0;
    case VM_MSG_BACKUP_CANCEL:
        vmm_backup_cancel(m->backup);
        return 0;
    case VM_MSG_SAVE:
        res = vmm_save_job_start(m->save, &r->save, STEAL_FD(*fd), &job, e);
        json_object_object_add(reply, "job", json_object_new_int64(job));
        return res;
    case VM_MSG_SAVE_STATUS:
        json_object_object_add(reply, "save", vmm_save_job_status(m->save));
        return 0;
    case VM_MSG_SAVE_CANCEL:
        vmm_save_job_cancel(m->save);
        return 0;
    case VM_MSG_PAUSE:
    case VM_MSG_RESUME:
        if (vmm_save_job_busy(m->save))
            return err_set(e, EBUSY, "VM %s: it is being saved; wait for that, or cancel it", m->spec->name);
        return machine_pause(m, r->op == VM_MSG_PAUSE, e);
    case VM_MSG_QUIT:
        machine_quit(m);
        return 0;
    }
    return err_set(e, EOPNOTSUPP, "VM %s cannot do this", m->spec->name);
}

/* -errno: the connection is of no use any more. */
static int conn_serve(struct control_conn *conn, const char *text, int *fd)
{
    AUTO_FREE struct vm_msg_request *request = malloc(sizeof(*request));
    json_object *reply = json_object_new_object();
    struct err e = { 0 };
    const char *answer;
    int res = request ? vm_msg_request_from_json(text, request, &e) : err_set(&e, ENOMEM, "out of memory");

    if (res == 0)
        res = control_do(conn->control->m, request, fd, reply, &e);
    json_object_object_add(reply, "ok", json_object_new_boolean(res == 0));
    if (res < 0) {
        json_object_object_add(reply, "code", json_object_new_int(e.code));
        json_object_object_add(reply, "error", json_object_new_string(e.text));
    }
    answer = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN);
    res = answer ? proto_msg_send(conn->sock, answer, NULL, 0) : -ENOMEM;
    json_object_put(reply);
    return res;
}

static void conn_event(void *opaque, uint32_t events)
{
    struct control_conn *conn = opaque;
    AUTO_FREE char *text = NULL;
    int fds[PROTO_MSG_FDS_MAX] = { -1, -1, -1, -1 }, r;
    unsigned n = 0;

    (void)events;
    r = proto_msg_receive(conn->sock, &text, fds, &n);
    if (r == -EAGAIN)
        return;
    if (r == 0)
        r = conn_serve(conn, text, &fds[0]);
    for (unsigned i = 0; i < n; i++) /* those that nobody has taken */
        base_closep(&fds[i]);
    if (r < 0)
        conn_close(conn);
}

static void control_accept(void *opaque, uint32_t events)
{
    struct vmm_control *c = opaque;
    struct control_conn *conn;
    AUTO_FD int sock = sys_place_accept(&c->place);

    (void)events;
    if (sock < 0 || c->n_conns >= CONTROL_CONNS_MAX)
        return;
    conn = calloc(1, sizeof(*conn));
    if (!conn)
        return;
    conn->control = c;
    conn->sock = sock;
    if (loop_fd_add(c->m->loop, sock, EPOLLIN, conn_event, conn, &conn->src) < 0) {
        free(conn);
        return;
    }
    (void)STEAL_FD(sock);
    list_add_before(&c->conns, &conn->link);
    c->n_conns++;
}

static int control_error(const struct machine *m, const struct sys_place *p, enum sys_place_step step, int r,
                         struct err *e)
{
    const char *name = m->spec->name, *dir = m->spec->run_dir;

    switch (step) {
    case SYS_PLACE_NAME:
        return err_set(e, -r,
                       "VM %s: the runtime directory's name is too long for a socket; set CAISSON_RUNTIME_DIR to a "
                       "shorter one",
                       name);
    case SYS_PLACE_DIR:
        return err_set(e, -r, "cannot use the runtime directory %s: %s; remove it or set CAISSON_RUNTIME_DIR", dir,
                       r == -EPERM ? "it belongs to somebody else, or others may write there" : strerror(-r));
    case SYS_PLACE_LOCK:
        if (r == -EBUSY)
            return err_set(e, EEXIST, "VM %s is running already; give another --name", name);
        return err_set(e, -r, "cannot lock %s: %s", p->lock_path, strerror(-r));
    case SYS_PLACE_SOCKET:
        break;
    }
    return err_set(e, -r, "cannot make the socket %s: %s; remove what is there", p->socket_path, strerror(-r));
}

int vmm_control_new(struct machine *m, struct vmm_control **ret_control, struct err *e)
{
    struct vmm_control *c = calloc(1, sizeof(*c));
    enum sys_place_step step;
    int r;

    if (!c)
        return err_set(e, ENOMEM, "out of memory");
    c->m = m;
    list_init(&c->conns);
    r = sys_place_take(m->spec->run_dir, m->spec->name, &c->place, &step);
    if (r < 0)
        (void)control_error(m, &c->place, step, r, e);
    else
        r = loop_fd_add(m->loop, c->place.socket, EPOLLIN, control_accept, c, &c->src);
    if (r < 0 && e->code == 0)
        (void)err_set(e, -r, "VM %s: cannot serve its socket: %s", m->spec->name, strerror(-r));
    if (r < 0) {
        vmm_control_free(c);
        return -e->code;
    }
    *ret_control = c;
    return 0;
}

void vmm_control_free(struct vmm_control *c)
{
    if (!c)
        return;
    loop_fd_free(c->src);
    while (!list_empty(&c->conns))
        conn_close(CONTAINER_OF(c->conns.next, struct control_conn, link));
    sys_place_leave(&c->place);
    free(c);
}
