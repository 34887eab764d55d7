#include "net/service_file.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "base/log.h"
#include "net/service_lease.h"
#include "sys/loop.h"
#include "wire/dhcp.h"

#define NET_LEASE_FILE_MAX (8U << 20)
#define NET_LEASE_FILE_FIRST_NS 20000000ULL    /* gathers what belongs together */
#define NET_LEASE_FILE_PERIOD_NS 1000000000ULL /* between two saves */
#define NET_LEASE_FILE_RETRY_NS 10000000000ULL /* after one that failed */

struct net_lease_file {
    struct loop *loop;
    struct loop_timer *timer;
    struct net_leases *leases;
    char *path;
    bool armed;
    uint64_t last_ns; /* when the last save began */

    bool running; /* the thread below exists */
    pthread_t thread;
    struct buf text; /* the thread's, while it runs */
    int result;      /* of the thread; valid once done */
    atomic_bool done;
};

/* ---- writing ---- */

static void net_lease_file_print(const struct net_leases *t, struct buf *out)
{
    const char *separator = "";

    buf_append_str(out, "{\"version\":1,\"leases\":[");
    for (unsigned i = 0; i < t->n; i++) {
        const struct net_lease_slot *s = &t->slots[i];
        char mac[ADDR_MAC_TEXT], ip[ADDR_IP4_TEXT];

        if (!addr_mac_is_unicast(s->mac) || s->state == NET_LEASE_DECLINED)
            continue;
        addr_mac_format(s->mac, mac);
        addr_ip4_format(s->addr, ip);
        /* Names have no character that JSON would want quoted. */
        buf_printf(out, "%s\n{\"mac\":\"%s\",\"ip\":\"%s\",\"name\":\"%s\",\"expires\":%lld}", separator, mac, ip,
                   s->host_name, s->state == NET_LEASE_BOUND ? (long long)s->until_s : 0);
        separator = ",";
    }
    buf_append_str(out, "]}\n");
}

static int net_lease_file_sync_folder(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int n = slash ? snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path) : 0;
    AUTO_FD int fd = -1;

    if (n >= (int)sizeof(folder))
        return -ENAMETOOLONG;
    fd = open(n ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* Any thread. */
static int net_lease_file_replace(const char *path, const struct buf *text)
{
    char temp[PATH_MAX];
    AUTO_FD int fd = -1;
    int res;

    if (snprintf(temp, sizeof(temp), "%s.new", path) >= (int)sizeof(temp))
        return -ENAMETOOLONG;
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    res = fd_write_all(fd, text->data, text->len);
    if (res == 0 && fsync(fd) < 0)
        res = -errno;
    if (res == 0 && rename(temp, path) < 0)
        res = -errno;
    if (res < 0) {
        unlink(temp);
        return res;
    }
    return net_lease_file_sync_folder(path);
}

static void *net_lease_file_thread(void *opaque)
{
    struct net_lease_file *f = opaque;

    f->result = net_lease_file_replace(f->path, &f->text);
    atomic_store(&f->done, true);
    return NULL;
}

/* The table as it is now into f->text. */
static int net_lease_file_snapshot(struct net_lease_file *f)
{
    buf_done(&f->text);
    buf_init(&f->text, NET_LEASE_FILE_MAX);
    net_lease_file_print(f->leases, &f->text);
    return buf_error(&f->text);
}

static int net_lease_file_start(struct net_lease_file *f)
{
    sigset_t all, old;
    int res = net_lease_file_snapshot(f);

    if (res < 0)
        return res;
    f->leases->changed = false;
    atomic_store(&f->done, false);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    res = -pthread_create(&f->thread, NULL, net_lease_file_thread, f);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    f->running = res == 0;
    return res;
}

static void net_lease_file_arm(struct net_lease_file *f, uint64_t at_ns)
{
    loop_timer_set(f->timer, at_ns);
    f->armed = true;
}

static void net_lease_file_tick(void *opaque)
{
    struct net_lease_file *f = opaque;
    uint64_t now = sys_now_ns();
    int res = 0;

    f->armed = false;
    if (f->running && !atomic_load(&f->done)) {
        net_lease_file_arm(f, now + NET_LEASE_FILE_PERIOD_NS);
        return;
    }
    if (f->running) {
        pthread_join(f->thread, NULL);
        f->running = false;
        res = f->result;
    }
    if (res == 0 && f->leases->changed) {
        f->last_ns = now;
        res = net_lease_file_start(f);
    }
    if (res < 0) {
        log_debug("net: leases not saved in %s: %s", f->path, strerrordesc_np(-res));
        f->leases->changed = true;
        net_lease_file_arm(f, now + NET_LEASE_FILE_RETRY_NS);
    } else if (f->running) {
        net_lease_file_arm(f, now + NET_LEASE_FILE_PERIOD_NS);
    }
}

void net_lease_file_update(struct net_lease_file *f)
{
    uint64_t first;

    if (!f || !f->leases->changed || f->armed)
        return;
    first = sys_now_ns() + NET_LEASE_FILE_FIRST_NS;
    net_lease_file_arm(f, MAX(first, f->last_ns + NET_LEASE_FILE_PERIOD_NS));
}

void net_lease_file_free(struct net_lease_file *f)
{
    if (!f)
        return;
    loop_timer_free(f->timer);
    if (f->running) {
        pthread_join(f->thread, NULL);
        f->leases->changed |= f->result < 0;
    }
    if (f->leases->changed && net_lease_file_snapshot(f) == 0 && net_lease_file_replace(f->path, &f->text) < 0)
        log_debug("net: leases not saved in %s", f->path);
    buf_done(&f->text);
    free(f->path);
    free(f);
}

/* ---- reading ---- */

static const char *net_lease_file_text(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v)
                                                                                             : "";
}

static void net_lease_file_take(struct net_leases *t, struct json_object *o, int64_t now_s)
{
    struct json_object *expires;
    const char *text;
    char name[DHCP_HOST_MAX + 1] = "";
    uint8_t mac[6];
    uint32_t addr;

    if (!json_object_is_type(o, json_type_object) || addr_mac_parse(net_lease_file_text(o, "mac"), mac) < 0 ||
        addr_ip4_parse(net_lease_file_text(o, "ip"), &addr) < 0 || !json_object_object_get_ex(o, "expires", &expires))
        return;
    text = net_lease_file_text(o, "name");
    if (!dhcp_host_name((const uint8_t *)text, strlen(text), name))
        name[0] = '\0';
    net_leases_restore(t, mac, addr, name, json_object_get_int64(expires), now_s);
}

static int net_lease_file_parse(struct net_leases *t, const struct buf *text, int64_t now_s)
{
    struct json_tokener *tok = json_tokener_new_ex(8);
    struct json_object *root, *list;
    int res = -EBADMSG;

    if (!tok)
        return -ENOMEM;
    root = json_tokener_parse_ex(tok, (const char *)text->data, (int)text->len);
    if (root && json_object_object_get_ex(root, "leases", &list) && json_object_is_type(list, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(list); i++)
            net_lease_file_take(t, json_object_array_get_idx(list, i), now_s);
        res = 0;
    }
    json_object_put(root);
    json_tokener_free(tok);
    return res;
}

/* The whole file; 0 bytes where there is none. */
static int net_lease_file_read(const char *path, struct buf *out)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    return fd_read_all(fd, out);
}

static int net_lease_file_load(const char *path, struct net_leases *t, int64_t now_s)
{
    struct buf text;
    char bad[PATH_MAX];
    int res;

    buf_init(&text, NET_LEASE_FILE_MAX);
    res = net_lease_file_read(path, &text);
    if (res == 0 && text.len > 0)
        res = net_lease_file_parse(t, &text, now_s);
    buf_done(&text);
    if (res == -E2BIG)
        res = -EBADMSG;
    if (res == -EBADMSG && (snprintf(bad, sizeof(bad), "%s.bad", path) >= (int)sizeof(bad) || rename(path, bad) < 0))
        log_debug("net: %s stays where it is", path);
    return res;
}

int net_lease_file_new(const char *path, struct net_leases *t, int64_t now_s, struct loop *loop,
                       struct net_lease_file **ret_file)
{
    struct net_lease_file *f;
    int res = net_lease_file_load(path, t, now_s);

    if (res < 0)
        return res;
    f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->loop = loop;
    f->leases = t;
    f->path = strdup(path);
    res = f->path ? loop_timer_new(loop, net_lease_file_tick, f, &f->timer) : -ENOMEM;
    t->changed = false;
    if (res < 0) {
        net_lease_file_free(f);
        return res;
    }
    *ret_file = f;
    return 0;
}
