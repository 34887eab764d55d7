/* -p and -P: ports of the host that lead to the container. */
#include <errno.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "cli/container_options.h"
#include "image/image.h"
#include "proto/inst_spec.h"
#include "wire/addr.h"

#define PORTS_FORM "[[HOSTADDR:]HOSTPORT:]PORT[/tcp|udp]"

struct ports_range {
    uint16_t first, n;
};

/* "80" or "8000-8010". */
static int ports_range_parse(const char *text, struct ports_range *ret)
{
    char first[16], *dash;
    uint64_t a, b;

    if (snprintf(first, sizeof(first), "%s", text) >= (int)sizeof(first))
        return -EINVAL;
    dash = strchr(first, '-');
    if (dash)
        *dash++ = '\0';
    if (num_parse_u64(first, 1, UINT16_MAX, &a) < 0 || num_parse_u64(dash ? dash : first, a, UINT16_MAX, &b) < 0)
        return -EINVAL;
    *ret = (struct ports_range){ (uint16_t)a, (uint16_t)(b - a + 1) };
    return 0;
}

static int ports_add(struct inst_container *c, const struct inst_port *port)
{
    struct inst_port *grown = reallocarray(c->ports, c->n_ports + 1, sizeof(*grown));

    if (!grown)
        return -ENOMEM;
    c->ports = grown;
    grown[c->n_ports++] = *port;
    return 0;
}

/* A port of the host that nobody uses now. 0: none. */
static uint16_t ports_free(bool udp, const char *host_addr)
{
    AUTO_FD int sock = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = { .sin_family = AF_INET };
    socklen_t len = sizeof(sa);
    uint32_t addr = 0;

    if (host_addr[0] && addr_ip4_parse(host_addr, &addr) < 0)
        addr = 0;
    sa.sin_addr.s_addr = htonl(addr);
    if (sock < 0 || bind(sock, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
        getsockname(sock, (struct sockaddr *)&sa, &len) < 0)
        return 0;
    return ntohs(sa.sin_port);
}

static int ports_add_range(struct inst_container *c, const struct inst_port *like, const struct ports_range *host,
                           const struct ports_range *inside, struct err *e)
{
    int r = 0;

    for (unsigned i = 0; i < inside->n && r == 0; i++) {
        struct inst_port p = *like;

        p.port = (uint16_t)(inside->first + i);
        p.host_port = host->n ? (uint16_t)(host->first + i) : ports_free(p.udp, p.host_addr);
        r = p.host_port ? ports_add(c, &p)
                        : err_set(e, EADDRINUSE, "no port of this host is free for port %u of the container", p.port);
    }
    return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : r;
}

static int ports_parse(struct inst_container *c, const char *option, struct err *e)
{
    AUTO_FREE char *text = strdup(option);
    struct ports_range host = { 0 }, inside;
    struct inst_port p = { 0 };
    char *proto, *colon, *addr = NULL, *first = NULL, *last = text;
    uint32_t ip;

    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    proto = strchr(text, '/');
    if (proto)
        *proto++ = '\0';
    p.udp = proto && strcmp(proto, "udp") == 0;
    colon = strrchr(text, ':');
    if (colon) {
        *colon = '\0';
        last = colon + 1;
        first = text;
        colon = strrchr(text, ':');
        if (colon) {
            *colon = '\0';
            addr = text;
            first = colon + 1;
        }
    }
    if (proto && strcmp(proto, "tcp") != 0 && !p.udp)
        return err_set(e, EINVAL, "--publish %s: '%s' is no protocol; give tcp or udp", option, proto);
    if (ports_range_parse(last, &inside) < 0 || (first && first[0] && ports_range_parse(first, &host) < 0) ||
        (host.n && host.n != inside.n))
        return err_set(e, EINVAL, "--publish %s: no ports; give " PORTS_FORM ", e.g. 8080:80", option);
    if (addr && addr[0] && addr_ip4_parse(addr, &ip) < 0)
        return err_set(e, EINVAL, "--publish %s: '%s' is no IPv4 address of this host", option, addr);
    snprintf(p.host_addr, sizeof(p.host_addr), "%s", addr ? addr : "");
    return ports_add_range(c, &p, &host, &inside, e);
}

/* What the image says that it serves, each at a free port. */
static int ports_exposed(struct inst_container *c, const struct image *image, struct err *e)
{
    json_object *config = NULL, *ports = NULL;
    int r = 0;

    if (!image || !json_object_object_get_ex(image->config, "config", &config) ||
        !json_object_object_get_ex(config, "ExposedPorts", &ports) || !json_object_is_type(ports, json_type_object))
        return 0;
    json_object_object_foreach(ports, key, value)
    {
        (void)value;
        if (r == 0)
            r = ports_parse(c, key, e);
    }
    return r;
}

int cli_container_ports(const struct cli_args *args, const struct image *image, struct inst_spec *spec, struct err *e)
{
    const char *network = spec->container.network;
    int r = cli_value(args, "publish-all") ? ports_exposed(&spec->container, image, e) : 0;

    for (size_t i = 0; i < args->n_given && r == 0; i++) {
        if (strcmp(args->given[i].option->name, "publish") == 0)
            r = ports_parse(&spec->container, args->given[i].value, e);
    }
    if (r == 0 && spec->container.n_ports > 0 && (strcmp(network, "none") == 0 || strcmp(network, "host") == 0))
        return err_set(e, EINVAL, "--publish has no meaning with --network %s; leave one of them out", network);
    return r;
}
