/* The files that every container gets of us: hosts, resolv.conf, hostname. They are written into place, never
 * replaced: the container has them by a bind mount. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "instance/container_priv.h"

#define FILES_MAX (256U << 10)

int container_file_write(const char *path, const char *text, size_t len, struct err *e)
{
    AUTO_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    int r = fd < 0 ? -errno : fd_write_all(fd, text, len);

    return r < 0 ? err_set(e, -r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

static int files_put(const struct inst_run *run, const char *name, struct buf *b, struct err *e)
{
    char path[sizeof(run->rundir) + 32];
    int r = buf_error(b);

    snprintf(path, sizeof(path), "%s/%s", run->rundir, name);
    r = r < 0 ? err_set(e, -r, "%s: too much for its file %s", run->instance->name, name)
              : container_file_write(path, (const char *)b->data, b->len, e);
    buf_done(b);
    return r;
}

static const char *files_hostname(const struct inst_run *run, char ret_short[INST_ID_SHORT + 1])
{
    const char *name = run->instance->spec.container.hostname;

    snprintf(ret_short, INST_ID_SHORT + 1, "%.*s", INST_ID_SHORT, run->instance->id);
    return name ? name : ret_short;
}

/* --add-host HOST:IP; IP "host-gateway": the machine that runs the container. */
static void files_added_host(struct buf *b, const char *text, const struct container_net *net)
{
    const char *ip = strchr(text, ':');
    char gateway[ADDR_IP4_TEXT];

    if (!ip)
        return;
    addr_ip4_format(net->gateway, gateway);
    buf_printf(b, "%s\t%.*s\n", strcmp(ip + 1, "host-gateway") == 0 ? gateway : ip + 1, (int)(ip - text), text);
}

static int files_hosts(const struct inst_run *run, const struct container_net *net, struct err *e)
{
    const struct inst_container *c = &run->instance->spec.container;
    char id[INST_ID_SHORT + 1], ip[ADDR_IP4_TEXT];
    struct buf b;

    buf_init(&b, FILES_MAX);
    buf_append_str(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (size_t i = 0; i < c->hosts.n; i++)
        files_added_host(&b, c->hosts.at[i], net);
    if (net->ip) {
        addr_ip4_format(net->ip, ip);
        buf_printf(&b, "%s\t%s %s\n", ip, files_hostname(run, id), run->instance->name);
    }
    if (net->ip && net->gateway) {
        addr_ip4_format(net->gateway, ip);
        buf_printf(&b, "%s\thost.containers.internal host.caisson.internal\n", ip);
    }
    return files_put(run, "hosts", &b, e);
}

/* The host's own resolvers, where the container sees the host's network (or none). */
static void files_host_resolv(struct buf *b)
{
    AUTO_FD int fd = open("/etc/resolv.conf", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && fd_read_all(fd, b) < 0)
        buf_append_str(b, "\n");
}

static int files_resolv(const struct inst_run *run, const struct container_net *net, struct err *e)
{
    const struct inst_container *c = &run->instance->spec.container;
    char ip[ADDR_IP4_TEXT];
    struct buf b;

    buf_init(&b, FILES_MAX);
    if (c->dns.n == 0 && net->netns >= 0 && net->dns) {
        addr_ip4_format(net->gateway, ip);
        buf_printf(&b, "search %s\nnameserver %s\n", net->domain, ip);
    } else if (c->dns.n == 0) {
        files_host_resolv(&b);
    }
    for (size_t i = 0; i < c->dns.n; i++)
        buf_printf(&b, "nameserver %s\n", c->dns.at[i]);
    return files_put(run, "resolv.conf", &b, e);
}

int container_files_write(const struct inst_run *run, const struct container_net *net, struct err *e)
{
    char id[INST_ID_SHORT + 1];
    struct buf b;
    int r;

    buf_init(&b, FILES_MAX);
    buf_printf(&b, "%s\n", files_hostname(run, id));
    r = files_put(run, "hostname", &b, e);
    if (r == 0)
        r = files_hosts(run, net, e);
    return r == 0 ? files_resolv(run, net, e) : r;
}
