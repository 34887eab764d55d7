#include "instance/place.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "proto/msg.h"
#include "proto/shim_msg.h"
#include "sys/loop.h"

#define PLACE_NAP_NS 10000000L
#define PLACE_ANSWER_MS 60000        /* one that saves its machine answers after that */
#define PLACE_WAIT_NS 60000000000ULL /* unmounting and removing may take their time */

static int place_too_long(struct err *e)
{
    return err_set(e, ENAMETOOLONG,
                   "the path of the state or runtime directory is too long; set CAISSON_STATE_DIR and "
                   "CAISSON_RUNTIME_DIR to shorter ones");
}

int inst_dir(const char *id, char ret_path[INST_PATH_MAX], struct err *e)
{
    char state[SYS_DIR_MAX];
    int r = sys_dirs_state(state);

    if (r == -ENOENT)
        return err_set(e, ENOENT, "no place for the state of instances: HOME is not set; set it, or CAISSON_STATE_DIR");
    if (r < 0 || snprintf(ret_path, INST_PATH_MAX, "%s/instances/%s", state, id) >= INST_PATH_MAX)
        return place_too_long(e);
    return 0;
}

int inst_run_root(char ret_path[INST_PATH_MAX], struct err *e)
{
    char runtime[SYS_DIR_MAX];

    return sys_dirs_runtime(runtime) < 0 || shim_msg_socket_dir(runtime, ret_path, INST_PATH_MAX) < 0
               ? place_too_long(e)
               : 0;
}

int inst_run_dir(const char *id, char ret_path[INST_PATH_MAX], struct err *e)
{
    char root[INST_PATH_MAX];
    int r = inst_run_root(root, e);

    if (r == 0 && snprintf(ret_path, INST_PATH_MAX, "%s/%.*s", root, INST_ID_SHORT, id) >= INST_PATH_MAX)
        return place_too_long(e);
    return r;
}

void inst_short_id(const char *id, char ret_id[INST_ID_SHORT + 1])
{
    snprintf(ret_id, INST_ID_SHORT + 1, "%.*s", INST_ID_SHORT, id);
}

/* Take lock, and socket where as_shim. -EBUSY: somebody has it. */
static int place_try(const char *root, const char *name, bool as_shim, struct sys_place *p, struct err *e)
{
    enum sys_place_step step = SYS_PLACE_LOCK;
    int r = as_shim ? sys_place_take(root, name, p, &step) : sys_place_lock(root, name, p);

    if (r == 0 || r == -EBUSY)
        return r;
    sys_place_leave(p);
    if (r == -ENAMETOOLONG)
        return place_too_long(e);
    if (r == -EPERM)
        return err_set(e, EPERM,
                       "runtime directory %s must belong to you and be writable by nobody else; remove it, or set "
                       "CAISSON_RUNTIME_DIR",
                       root);
    return err_set(e, -r, "cannot use runtime directory %s: %s; make it yours and writable, or set CAISSON_RUNTIME_DIR",
                   root, strerror(-r));
}

/* Whether the supervisor behind sock serves it. One that is leaving resets connections that it never took. */
static bool place_is_served(int sock)
{
    const struct proto_msg_peer peer = { .kind = "instance", .name = "", .process = "supervisor", .remedy = "" };
    AUTO_FREE char *text = NULL;
    json_object *reply = NULL;
    int r = shim_msg_request_to_json(&(struct shim_msg_request){ .op = SHIM_MSG_INFO }, &text);

    if (r == 0)
        r = proto_msg_call(sock, &peer, text, NULL, 0, PLACE_ANSWER_MS, &reply, NULL, NULL, NULL);
    json_object_put(reply);
    return r != -ECONNRESET && r != -EPIPE;
}

/* Wait for whoever has the lock without serving its socket: it will be done soon. */
static int place_wait(const char *id, bool as_shim, struct sys_place *p, struct err *e)
{
    const struct timespec nap = { .tv_nsec = PLACE_NAP_NS };
    uint64_t end = sys_now_ns() + PLACE_WAIT_NS;
    char root[INST_PATH_MAX], name[INST_ID_SHORT + 1];
    int r = inst_run_root(root, e);

    inst_short_id(id, name);
    while (r == 0) {
        int sock = -1;

        r = place_try(root, name, as_shim, p, e);
        if (r != -EBUSY)
            return r;
        r = inst_connect(id, &sock, e);
        if (r == 0 && place_is_served(sock))
            r = -EBUSY;
        base_closep(&sock);
        if (r < 0 && r != -ENOENT)
            return r;
        if (sys_now_ns() > end)
            return err_set(e, ETIMEDOUT,
                           "instance %s is being worked on by another process that does not end; 'fuser %s/%s.lock' "
                           "shows it",
                           name, root, name);
        nanosleep(&nap, NULL);
        r = 0;
    }
    return r;
}

int inst_lock(const char *id, struct sys_place *ret_place, struct err *e)
{
    return place_wait(id, false, ret_place, e);
}

int inst_try_lock(const char *id, struct sys_place *ret_place, struct err *e)
{
    char root[INST_PATH_MAX], name[INST_ID_SHORT + 1];
    int r = inst_run_root(root, e);

    inst_short_id(id, name);
    return r < 0 ? r : place_try(root, name, false, ret_place, e);
}

int inst_lock_spec(const char *id, struct sys_place *ret_place, struct err *e)
{
    const struct timespec nap = { .tv_nsec = PLACE_NAP_NS };
    uint64_t end = sys_now_ns() + PLACE_WAIT_NS;
    char root[INST_PATH_MAX], name[INST_ID_SHORT + 8];
    int r = inst_run_root(root, e);

    if (r < 0)
        return r;
    snprintf(name, sizeof(name), "%.*s-spec", INST_ID_SHORT, id);
    while ((r = place_try(root, name, false, ret_place, e)) == -EBUSY && (!e || e->code == 0)) {
        if (sys_now_ns() > end)
            return err_set(e, ETIMEDOUT, "instance %.*s is being changed by another process that does not end",
                           INST_ID_SHORT, id);
        nanosleep(&nap, NULL);
    }
    return r;
}

int inst_take_place(const char *id, struct sys_place *ret_place, struct err *e)
{
    int r = place_wait(id, true, ret_place, e);

    return r == -EBUSY && (!e || e->code == 0)
               ? err_set(e, EBUSY, "instance %.*s is running already", INST_ID_SHORT, id)
               : r;
}

int inst_connect(const char *id, int *ret_sock, struct err *e)
{
    char root[INST_PATH_MAX], path[INST_PATH_MAX + 32];
    int r = inst_run_root(root, e);

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/%.*s.sock", root, INST_ID_SHORT, id);
    r = proto_msg_connect(path, ret_sock);
    if (r == -ECONNREFUSED || r == -ENOENT || r == -ENOTDIR)
        return -ENOENT;
    return r < 0 ? err_set(e, -r, "instance %.*s: cannot reach its supervisor at %s: %s", INST_ID_SHORT, id, path,
                           strerror(-r))
                 : 0;
}
