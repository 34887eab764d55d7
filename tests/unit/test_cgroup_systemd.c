/* The systemd driver against a stand-in for systemd that is made with libsystemd: what we send is read by the D-Bus
 * implementation that systemd itself has. The stand-in does to the process what systemd would do. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>
#include <cmocka.h>

#include "cgroup_rig.h"
#include "oci/cgroup_priv.h"
#include "sys/dbus.h"

#define SEEN_MAX 64

/* What one property of a(sv) was, as text. */
struct seen {
    char name[48], value[160];
};

struct world {
    char dir[64], socket[160], unit[128], job_result[32];
    struct sys_cgroup_layout layout;
    int listener, calls, refuse;
    pthread_t thread;
    struct seen seen[SEEN_MAX];
    size_t n_seen;
    char last[64];
};

static void world_see(struct world *w, const char *name, const char *value)
{
    if (w->n_seen == SEEN_MAX)
        return;
    snprintf(w->seen[w->n_seen].name, sizeof(w->seen[0].name), "%s", name);
    snprintf(w->seen[w->n_seen++].value, sizeof(w->seen[0].value), "%s", value);
}

static const char *world_value(struct world *w, const char *name)
{
    for (size_t i = w->n_seen; i-- > 0;) {
        if (strcmp(w->seen[i].name, name) == 0)
            return w->seen[i].value;
    }
    return "";
}

/* The contents of a variant, of the few types that we send. */
static int read_value(sd_bus_message *m, const char *type, char *ret, size_t size, pid_t *ret_pid)
{
    const char *a, *b;
    uint64_t t;
    uint32_t u;
    int flag, r;

    if (strcmp(type, "s") == 0) {
        r = sd_bus_message_read(m, "s", &a);
        snprintf(ret, size, "%s", r < 0 ? "" : a);
    } else if (strcmp(type, "t") == 0) {
        r = sd_bus_message_read(m, "t", &t);
        snprintf(ret, size, "%llu", (unsigned long long)t);
    } else if (strcmp(type, "b") == 0) {
        r = sd_bus_message_read(m, "b", &flag);
        snprintf(ret, size, "%s", flag ? "true" : "false");
    } else if (strcmp(type, "au") == 0) {
        r = sd_bus_message_read(m, "au", 1, &u);
        snprintf(ret, size, "%u", u);
        *ret_pid = (pid_t)u;
    } else if (strcmp(type, "a(ss)") == 0) {
        size_t n = 0;

        r = sd_bus_message_enter_container(m, 'a', "(ss)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(ss)", &a, &b)) > 0) {
            if (n < size)
                n += (size_t)snprintf(ret + n, size - n, "%s %s;", a, b);
        }
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    } else {
        r = -EINVAL;
    }
    return r;
}

static int read_properties(struct world *w, sd_bus_message *m, pid_t *ret_pid)
{
    int r = sd_bus_message_enter_container(m, 'a', "(sv)");

    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sv")) > 0) {
        const char *name, *type;
        char value[160] = "", kind;

        if (sd_bus_message_read(m, "s", &name) < 0 || sd_bus_message_peek_type(m, &kind, &type) < 0 ||
            sd_bus_message_enter_container(m, 'v', type) < 0 ||
            read_value(m, type, value, sizeof(value), ret_pid) < 0 || sd_bus_message_exit_container(m) < 0)
            return -EINVAL;
        world_see(w, name, value);
        r = sd_bus_message_exit_container(m);
    }
    return r < 0 ? r : sd_bus_message_exit_container(m);
}

static void place(struct world *w, pid_t pid)
{
    int i = w->layout.unified >= 0 && w->layout.n == 1 ? 0 : -1;
    char dir[400];

    for (size_t k = 0; k < w->layout.n && i < 0; k++) {
        if (w->layout.h[k].name && strcmp(w->layout.h[k].name, "systemd") == 0)
            i = (int)k;
    }
    if (i < 0)
        return;
    snprintf(dir, sizeof(dir), "%s/%s", w->layout.h[i].mount, w->unit);
    if (sys_cgroup_make(w->layout.h[i].mount, dir) < 0 || sys_cgroup_write_number(dir, "cgroup.procs", pid) < 0)
        w->refuse = EIO;
}

static int on_start(struct world *w, sd_bus *bus, sd_bus_message *m)
{
    const char *name, *mode;
    pid_t pid = 0;
    int r = sd_bus_message_read(m, "ss", &name, &mode);

    if (r >= 0)
        r = read_properties(w, m, &pid);
    if (r >= 0)
        r = sd_bus_message_skip(m, "a(sa(sv))");
    if (r < 0 || sd_bus_message_at_end(m, 1) <= 0)
        return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_INVALID_ARGS, "broken message");
    world_see(w, "unit", name);
    world_see(w, "mode", mode);
    if (w->refuse)
        return sd_bus_reply_method_errorf(m, "org.freedesktop.systemd1.UnitExists", "Unit was already loaded.");
    place(w, pid);
    /* Somebody else's job ends first. */
    sd_bus_emit_signal(bus, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved", "uoss", 6,
                       "/org/freedesktop/systemd1/job/6", "other.service", "failed");
    sd_bus_reply_method_return(m, "o", "/org/freedesktop/systemd1/job/7");
    return sd_bus_emit_signal(bus, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "JobRemoved",
                              "uoss", 7, "/org/freedesktop/systemd1/job/7", name, w->job_result);
}

static int on_message(sd_bus_message *m, void *opaque, sd_bus_error *error)
{
    struct world *w = opaque;
    sd_bus *bus = sd_bus_message_get_bus(m);
    const char *name;
    pid_t pid = 0;
    int runtime;

    (void)error;
    if (!sd_bus_message_is_method_call(m, NULL, NULL))
        return 0; /* libsystemd's own, that the peer has gone */
    w->calls++;
    snprintf(w->last, sizeof(w->last), "%s", sd_bus_message_get_member(m));
    if (sd_bus_message_is_method_call(m, "org.freedesktop.systemd1.Manager", "StartTransientUnit"))
        return on_start(w, bus, m) < 0 ? -EIO : 1;
    if (sd_bus_message_is_method_call(m, "org.freedesktop.systemd1.Manager", "SetUnitProperties")) {
        if (sd_bus_message_read(m, "sb", &name, &runtime) < 0 || read_properties(w, m, &pid) < 0 ||
            sd_bus_message_at_end(m, 1) <= 0)
            return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_INVALID_ARGS, "broken message");
        return sd_bus_reply_method_return(m, "");
    }
    if (sd_bus_message_is_method_call(m, "org.freedesktop.systemd1.Manager", "StopUnit"))
        return sd_bus_reply_method_return(m, "o", "/org/freedesktop/systemd1/job/8");
    return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_UNKNOWN_METHOD, "unknown");
}

static void serve(struct world *w, int fd)
{
    sd_bus *bus = NULL;
    sd_id128_t id = SD_ID128_MAKE(01, 02, 03, 04, 05, 06, 07, 08, 09, 0a, 0b, 0c, 0d, 0e, 0f, 10);

    if (sd_bus_new(&bus) >= 0 && sd_bus_set_fd(bus, fd, fd) >= 0 && sd_bus_set_server(bus, 1, id) >= 0 &&
        sd_bus_add_filter(bus, NULL, on_message, w) >= 0 && sd_bus_start(bus) >= 0) {
        int r = 0;

        while (r >= 0) {
            r = sd_bus_process(bus, NULL);
            if (r == 0)
                r = sd_bus_wait(bus, UINT64_MAX);
        }
    }
    sd_bus_flush_close_unref(bus);
}

static void *server(void *opaque)
{
    struct world *w = opaque;
    int fd;

    while ((fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        serve(w, fd);
    return NULL;
}

static void world_init(struct world *w)
{
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    char path[128];

    *w = (struct world){ .dir = "/tmp/caisson-systemd-XXXXXX", .job_result = "done" };
    assert_non_null(mkdtemp(w->dir));
    snprintf(path, sizeof(path), "%s/systemd", w->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(w->socket, sizeof(w->socket), "%s/private", path);
    memcpy(sun.sun_path, w->socket, strlen(w->socket));
    w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(w->listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
    assert_int_equal(listen(w->listener, 4), 0);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", w->dir, 1), 0);
    assert_int_equal(pthread_create(&w->thread, NULL, server, w), 0);
}

static void world_done(struct world *w)
{
    char path[128];

    shutdown(w->listener, SHUT_RDWR);
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    close(w->listener);
    unlink(w->socket);
    snprintf(path, sizeof(path), "%s/systemd", w->dir);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(w->dir), 0);
}

static void end(pid_t pid)
{
    int status;

    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* A container from its beginning to its end. */
static void test_scope(void **state)
{
    struct world w;
    struct oci_spec *spec = rig_resources("{'memory':{'limit':67108864},'cpu':{'quota':50000,'period':100000},"
                                          "'pids':{'limit':20}}");
    char path[128], slice[64];
    struct oci_cgroup_config c = { .path = path, .id = "x", .systemd = true, .rootless = true, .spec = spec };
    struct oci_cgroup *g = NULL;
    struct err e = { 0 };
    pid_t pid;

    (void)state;
    if (geteuid() != 0)
        skip();
    world_init(&w);
    assert_int_equal(sys_cgroup_layout_read(&w.layout), 0);
    snprintf(slice, sizeof(slice), "caissontest%d", (int)getpid());
    snprintf(path, sizeof(path), "%s.slice:pre:name", slice);
    snprintf(w.unit, sizeof(w.unit), "%s.slice/pre-name.scope", slice);
    assert_int_equal(oci_cgroup_create(&c, &g, &e), 0);
    assert_int_equal(oci_cgroup_clone_fd(g), -1);
    assert_int_equal(w.calls, 0);
    pid = rig_sleeper();
    if (oci_cgroup_enter(g, pid, false, &e) < 0)
        fail_msg("%s", e.text);
    assert_string_equal(world_value(&w, "unit"), "pre-name.scope");
    assert_string_equal(world_value(&w, "mode"), "replace");
    assert_int_equal(strncmp(world_value(&w, "Slice"), slice, strlen(slice)), 0);
    assert_string_equal(world_value(&w, "Delegate"), "true");
    assert_int_equal(atoi(world_value(&w, "PIDs")), pid); /* check: allow(banned:atoi) printed by us */
    if (oci_cgroup_apply(g, &spec->resources, &e) < 0)
        fail_msg("%s", e.text);
    assert_string_equal(world_value(&w, cgroup_pure_v2(g) ? "MemoryMax" : "MemoryLimit"), "67108864");
    assert_string_equal(world_value(&w, "CPUQuotaPerSecUSec"), "500000");
    assert_string_equal(world_value(&w, "TasksMax"), "20");
    assert_string_equal(world_value(&w, "DevicePolicy"), "strict");
    assert_non_null(strstr(world_value(&w, "DeviceAllow"), "char-* m;block-* m;/dev/char/1:3 rwm;"));
    end(pid);
    assert_int_equal(oci_cgroup_remove(g, &e), 0);
    assert_string_equal(w.last, "ResetFailedUnit");
    for (size_t i = 0; i < g->n; i++) {
        char *parent = g->one[i].dir;

        assert_int_equal(access(parent, F_OK), -1);
        *strrchr(parent, '/') = '\0';
        assert_int_equal(rmdir(parent), 0);
    }
    oci_cgroup_free(g);
    oci_spec_free(spec);
    sys_cgroup_layout_done(&w.layout);
    world_done(&w);
}

static struct oci_cgroup *plain(struct rig *r, struct oci_spec *spec)
{
    struct oci_cgroup_config c = {
        .path = "a.slice:p:n", .id = "x", .systemd = true, .rootless = true, .spec = spec, .layout = &r->layout
    };
    struct oci_cgroup *g = NULL;
    struct err e = { 0 };

    assert_int_equal(oci_cgroup_create(&c, &g, &e), 0);
    return g;
}

/* A container's process that waits to be put into a unit. */
struct entry {
    struct rig r;
    struct oci_spec *spec;
    pid_t pid;
};

static void entry_init(struct entry *n)
{
    rig_init(&n->r, RIG_V2);
    n->spec = rig_resources("{}");
    n->pid = rig_sleeper();
}

static void entry_done(struct entry *n)
{
    rig_done(&n->r);
    oci_spec_free(n->spec);
    end(n->pid);
}

static void test_refused(void **state)
{
    struct world w;
    struct entry n;
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    entry_init(&n);
    world_init(&w);
    g = plain(&n.r, n.spec);
    w.refuse = EEXIST;
    assert_int_equal(oci_cgroup_enter(g, n.pid, false, &e), -EREMOTEIO);
    assert_non_null(strstr(e.text, "p-n.scope"));
    assert_non_null(strstr(e.text, "already loaded"));
    w.refuse = 0;
    snprintf(w.job_result, sizeof(w.job_result), "failed");
    assert_int_equal(oci_cgroup_enter(g, n.pid, false, &e), -EIO);
    assert_non_null(strstr(e.text, "did not start: failed"));
    oci_cgroup_free(g);
    world_done(&w);
    /* Nobody there. */
    g = plain(&n.r, n.spec);
    assert_int_equal(oci_cgroup_enter(g, n.pid, false, &e), -ENOENT);
    assert_non_null(strstr(e.text, "--systemd-cgroup"));
    oci_cgroup_free(g);
    entry_done(&n);
}

static void test_annotations(void **state)
{
    static struct oci_key_value good[] = { { "org.systemd.property.CollectMode", "'inactive-or-failed'" },
                                           { "org.systemd.property.TimeoutStopSec", "uint64 5" },
                                           { "org.systemd.property.CPUWeight", "uint64 120" },
                                           { "org.systemd.property.DefaultDependencies", "true" },
                                           { "other", "[[[" } },
                                bad[] = { { "org.systemd.property.X", "[1]" },
                                          { "org.systemd.property.X.Y", "true" },
                                          { "org.systemd.property.XSec", "soon" },
                                          { "org.systemd.property.X", "'a" },
                                          { "org.systemd.property.X", "" } };
    struct world w;
    struct entry n;
    struct oci_cgroup *g;
    struct err e = { 0 };

    (void)state;
    entry_init(&n);
    world_init(&w);
    snprintf(w.job_result, sizeof(w.job_result), "stop");
    n.spec->annotations = good;
    n.spec->n_annotations = ARRAY_SIZE(good);
    g = plain(&n.r, n.spec);
    assert_int_equal(oci_cgroup_enter(g, n.pid, false, &e), -EIO);
    assert_string_equal(world_value(&w, "CollectMode"), "inactive-or-failed");
    assert_string_equal(world_value(&w, "TimeoutStopUSec"), "5000000");
    assert_string_equal(world_value(&w, "CPUWeight"), "120");
    assert_string_equal(world_value(&w, "DefaultDependencies"), "true");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        n.spec->annotations = &bad[i];
        n.spec->n_annotations = 1;
        assert_int_equal(oci_cgroup_enter(g, n.pid, false, &e), -EINVAL);
        assert_non_null(strstr(e.text, "org.systemd.property.X"));
    }
    n.spec->annotations = NULL;
    n.spec->n_annotations = 0;
    oci_cgroup_free(g);
    world_done(&w);
    entry_done(&n);
}

/* A peer that sends rubbish behind a good greeting. */
static void test_broken_peer(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } answers[] = {
        { "OK x\r\n", 6 },
        { "REJECTED EXTERNAL\r\n", 19 },
        { "nonsense\r\n", 10 },
        { "OK x\r\nB\2\0\1\0\0\0\0\1\0\0\0\0\0\0\0", 22 },
        { "OK x\r\nl\2\0\1\377\377\377\377\1\0\0\0\0\0\0\0", 22 },
        { "OK x\r\nl\2\0\1\0\0\0\0\1\0\0\0\10\0\0\0\5\1u\0\0\0\0\0", 30 },
        { "OK x\r\nl\2\0\1\0\0\0\0\1\0\0\0\10\0\0\0\3\1s\0\377\377\0\0", 30 },
        { "OK x\r\nl\2\0\1\0\0\0\0\1\0\0\0\10\0\0\0\3\200s\0\0\0\0\0", 30 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        struct sockaddr_un sun = { .sun_family = AF_UNIX };
        char path[64];
        struct sys_dbus *d = NULL;
        struct sys_dbus_call c = { .path = "/", .interface = "a.b", .member = "c" };
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;
        pid_t pid;

        snprintf(path, sizeof(path), "/tmp/caisson-dbus-%d", (int)getpid());
        unlink(path);
        memcpy(sun.sun_path, path, strlen(path));
        assert_int_equal(bind(listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
        assert_int_equal(listen(listener, 1), 0);
        pid = fork();
        if (pid == 0) {
            int fd = accept(listener, NULL, NULL);
            char text[256];

            if (read(fd, text, sizeof(text)) < 0 || write(fd, answers[i].bytes, answers[i].n) < 0)
                _exit(1); /* check: allow(banned:_exit) a child of the test */
            shutdown(fd, SHUT_WR);
            while (read(fd, text, sizeof(text)) > 0)
                ;
            _exit(0); /* check: allow(banned:_exit) a child of the test */
        }
        close(listener);
        r = sys_dbus_open(path, false, &d);
        if (r == 0)
            r = sys_dbus_call(d, &c, NULL);
        assert_true(r == -EPROTO || r == -ECONNRESET || r == -EACCES || r == -EPIPE);
        sys_dbus_free(d);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scope),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_annotations),
        cmocka_unit_test(test_broken_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
