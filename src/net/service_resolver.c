/* DNS questions to the host's resolvers and their answers back. Each attempt has a socket of its own, connected, so
 * that the kernel chooses a random port and lets in only what comes from the resolver's address; with the random ID
 * that is what a forger has to guess, and after a few wrong guesses the attempt is given up. Questions under way are
 * bounded, for all and for each client. Spec: RFC 5452 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "net/service_priv.h"
#include "sys/loop.h"

#define NET_RESOLVER_CONF "/etc/resolv.conf"
#define NET_RESOLVER_QUESTIONS 128
#define NET_RESOLVER_PER_CLIENT 32
#define NET_RESOLVER_SERVERS 3      /* as libc */
#define NET_RESOLVER_QUERY_MAX 1232 /* bytes of a question */
#define NET_RESOLVER_WAIT_NS 1500000000ULL
#define NET_RESOLVER_ROUNDS 2     /* of all resolvers */
#define NET_RESOLVER_WRONG_MAX 16 /* packets that are no answers, for one attempt */
#define NET_RESOLVER_CONF_MAX 65536

union net_resolver_addr {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

struct net_question {
    struct net_resolver *resolver;
    int fd; /* -1: this one is free */
    struct loop_fd *src;
    uint64_t deadline_ns;
    unsigned attempt, wrong;
    struct inet_flow flow;
    uint16_t port, client_id;
    size_t len;
    struct dns_query q; /* as the client asked */
    uint8_t data[NET_RESOLVER_QUERY_MAX];
};

struct net_resolver {
    struct net_service *service;
    struct loop *loop;
    struct loop_timer *timer;
    char *conf;
    struct stat conf_stat;
    uint64_t checked_ns; /* when conf was last looked at; 0: never */
    union net_resolver_addr servers[NET_RESOLVER_SERVERS];
    unsigned n_servers;
    struct net_question questions[NET_RESOLVER_QUESTIONS];
};

/* ---- resolv.conf ---- */

static bool net_resolver_take_server(const char *text, uint16_t port, union net_resolver_addr *ret_addr)
{
    union net_resolver_addr a = { 0 };
    char addr[ADDR_IP6_TEXT + IF_NAMESIZE + 1];
    char *zone;

    if (strlen(text) >= sizeof(addr))
        return false;
    memcpy(addr, text, strlen(text) + 1);
    zone = strchr(addr, '%');
    if (zone)
        *zone++ = '\0';
    if (inet_pton(AF_INET, addr, &a.in.sin_addr) == 1) {
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, addr, &a.in6.sin6_addr) == 1) {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons(port);
        a.in6.sin6_scope_id = zone ? if_nametoindex(zone) : 0;
    } else {
        return false;
    }
    *ret_addr = a;
    return true;
}

/* The resolvers that a resolv.conf(5) names; without any, the one of the host itself, as libc does. Returns how many.
 */
static unsigned net_resolver_read(const char *path, uint16_t port,
                                  union net_resolver_addr servers[NET_RESOLVER_SERVERS])
{
    FILE *f = fopen(path, "re");
    char line[256];
    size_t total = 0;
    unsigned n = 0;

    while (f && n < NET_RESOLVER_SERVERS && fgets(line, sizeof(line), f) &&
           (total += strlen(line)) < NET_RESOLVER_CONF_MAX) {
        char *text = line + strspn(line, " \t");
        size_t len = strcspn(text, " \t\n");

        if (len != strlen("nameserver") || strncmp(text, "nameserver", len) != 0)
            continue;
        text += len;
        text += strspn(text, " \t");
        text[strcspn(text, " \t\n#;")] = '\0';
        n += net_resolver_take_server(text, port, &servers[n]);
    }
    if (f)
        fclose(f);
    if (n == 0)
        n = net_resolver_take_server("127.0.0.1", port, &servers[0]);
    return n;
}

uint32_t net_resolver_first4(const char *resolv_conf)
{
    union net_resolver_addr servers[NET_RESOLVER_SERVERS];
    unsigned n = net_resolver_read(resolv_conf ? resolv_conf : NET_RESOLVER_CONF, DNS_PORT, servers);

    for (unsigned i = 0; i < n; i++) {
        if (servers[i].sa.sa_family == AF_INET)
            return ntohl(servers[i].in.sin_addr.s_addr);
    }
    return 0;
}

/* Read it again where it has changed, which is looked for at most once a second. */
static void net_resolver_refresh(struct net_resolver *r)
{
    uint64_t now = sys_now_ns();
    struct stat st = { 0 };

    if (r->checked_ns && now - r->checked_ns < 1000000000ULL)
        return;
    (void)stat(r->conf, &st); /* where there is none, all zero is as good as any */
    if (!r->checked_ns || st.st_ino != r->conf_stat.st_ino || st.st_size != r->conf_stat.st_size ||
        st.st_mtim.tv_sec != r->conf_stat.st_mtim.tv_sec || st.st_mtim.tv_nsec != r->conf_stat.st_mtim.tv_nsec)
        r->n_servers = net_resolver_read(
            r->conf, r->service->config.resolver_port ? r->service->config.resolver_port : DNS_PORT, r->servers);
    r->conf_stat = st;
    r->checked_ns = now;
}

/* ---- questions ---- */

static void net_question_hang_up(struct net_question *p)
{
    loop_fd_free(p->src);
    p->src = NULL;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

static void net_resolver_arm(struct net_resolver *r)
{
    uint64_t first = 0;

    for (unsigned i = 0; i < NET_RESOLVER_QUESTIONS; i++) {
        const struct net_question *p = &r->questions[i];

        if (p->fd >= 0 && (!first || p->deadline_ns < first))
            first = p->deadline_ns;
    }
    loop_timer_set(r->timer, first);
}

static void net_question_readable(void *opaque, uint32_t events);

/* One attempt. -errno where it could not even begin. */
static int net_question_send(struct net_question *p)
{
    struct net_resolver *r = p->resolver;
    const union net_resolver_addr *to = &r->servers[p->attempt % r->n_servers];
    uint16_t id;
    int res;

    p->wrong = 0;
    p->deadline_ns = sys_now_ns() + NET_RESOLVER_WAIT_NS;
    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        return -EIO;
    store_be16(p->data, id);
    p->fd = socket(to->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->fd < 0)
        return -errno;
    if (connect(p->fd, &to->sa, to->sa.sa_family == AF_INET ? sizeof(to->in) : sizeof(to->in6)) < 0 ||
        send(p->fd, p->data, p->len, 0) < 0)
        res = -errno;
    else
        res = loop_fd_add(r->loop, p->fd, EPOLLIN, net_question_readable, p, &p->src);
    if (res < 0)
        net_question_hang_up(p);
    return res;
}

/* Send it, to the next resolver while that fails at once. False: none is left; the question has ended. */
static bool net_question_try(struct net_question *p)
{
    for (; p->attempt < NET_RESOLVER_ROUNDS * p->resolver->n_servers; p->attempt++) {
        if (net_question_send(p) == 0)
            return true;
    }
    return false;
}

static void net_question_answer(struct net_question *p, const void *data, size_t len)
{
    net_question_hang_up(p);
    net_service_answer(p->resolver->service, &p->flow, p->port, DNS_PORT, data, len);
    net_backend_deliver_done(&p->resolver->service->base);
}

static void net_question_next(struct net_question *p)
{
    uint8_t out[DNS_UDP_MIN];

    net_question_hang_up(p);
    p->attempt++;
    if (net_question_try(p))
        return;
    store_be16(p->data, p->client_id);
    net_question_answer(p, out, dns_answer_empty(out, sizeof(out), p->data, &p->q, DNS_SERVFAIL, false));
}

/* What came from the resolver's address; false: not the answer, wait on. */
static bool net_question_take(struct net_question *p, uint8_t *msg, size_t len)
{
    const struct net_service_config *config = &p->resolver->service->config;
    size_t room = MIN(MIN(p->q.udp_size, NET_SERVICE_UDP_MAX), config->mtu - 48U); /* IPv6 and UDP header */
    unsigned rcode;

    if (!dns_response_matches(msg, len, p->data, p->q.question_end))
        return false;
    rcode = msg[3] & 15;
    /* Perhaps another resolver knows better; the last one's word stands. */
    if ((rcode == DNS_SERVFAIL || rcode == DNS_REFUSED) && p->attempt + 1 < p->resolver->n_servers) {
        net_question_next(p);
        return true;
    }
    store_be16(msg, p->client_id);
    if (len > MAX(room, (size_t)DNS_UDP_MIN)) {
        store_be16(p->data, p->client_id);
        len = dns_answer_empty(msg, DNS_UDP_MIN, p->data, &p->q, DNS_NOERROR, true);
    }
    net_question_answer(p, msg, len);
    return true;
}

static void net_question_readable(void *opaque, uint32_t events)
{
    struct net_question *p = opaque;
    struct net_resolver *r = p->resolver;
    uint8_t msg[NET_SERVICE_UDP_MAX + 1]; /* one byte more: longer ones do not pass for whole */
    ssize_t n;

    (void)events;
    while (p->fd >= 0 && p->wrong < NET_RESOLVER_WRONG_MAX) {
        n = recv(p->fd, msg, sizeof(msg), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0) { /* refused, unreachable */
            net_question_next(p);
            break;
        }
        if (net_question_take(p, msg, (size_t)n))
            break;
        p->wrong++;
    }
    if (p->fd >= 0 && p->wrong >= NET_RESOLVER_WRONG_MAX)
        net_question_next(p);
    net_resolver_arm(r);
}

static void net_resolver_timeout(void *opaque)
{
    struct net_resolver *r = opaque;
    uint64_t now = sys_now_ns();

    for (unsigned i = 0; i < NET_RESOLVER_QUESTIONS; i++) {
        if (r->questions[i].fd >= 0 && r->questions[i].deadline_ns <= now)
            net_question_next(&r->questions[i]);
    }
    net_resolver_arm(r);
}

static bool net_question_is_from(const struct net_question *p, const struct inet_flow *flow)
{
    return p->fd >= 0 && memcmp(p->flow.src_mac, flow->src_mac, 6) == 0;
}

int net_resolver_ask(struct net_resolver *r, const struct inet_flow *flow, uint16_t port, const uint8_t *data,
                     size_t len, const struct dns_query *q)
{
    struct net_question *p = NULL;
    unsigned n = 0;

    if (len > sizeof(p->data))
        return -EMSGSIZE;
    for (unsigned i = 0; i < NET_RESOLVER_QUESTIONS; i++) {
        struct net_question *other = &r->questions[i];

        if (other->fd < 0) {
            p = p ? p : other;
        } else if (net_question_is_from(other, flow)) {
            if (other->port == port && other->client_id == q->id)
                return 0; /* asked again while we wait ourselves */
            n++;
        }
    }
    if (!p || n >= NET_RESOLVER_PER_CLIENT)
        return -EBUSY;
    net_resolver_refresh(r);
    p->attempt = 0;
    p->flow = *flow;
    p->port = port;
    p->client_id = q->id;
    p->q = *q;
    p->len = len;
    memcpy(p->data, data, len);
    if (!net_question_try(p))
        return -ENETUNREACH;
    net_resolver_arm(r);
    return 0;
}

int net_resolver_new(struct net_service *s, const char *resolv_conf, struct loop *loop,
                     struct net_resolver **ret_resolver)
{
    struct net_resolver *r = calloc(1, sizeof(*r));
    int res;

    if (!r)
        return -ENOMEM;
    r->service = s;
    r->loop = loop;
    for (unsigned i = 0; i < NET_RESOLVER_QUESTIONS; i++) {
        r->questions[i].resolver = r;
        r->questions[i].fd = -1;
    }
    r->conf = strdup(resolv_conf ? resolv_conf : NET_RESOLVER_CONF);
    res = r->conf ? loop_timer_new(loop, net_resolver_timeout, r, &r->timer) : -ENOMEM;
    if (res < 0) {
        net_resolver_free(r);
        return res;
    }
    *ret_resolver = r;
    return 0;
}

void net_resolver_free(struct net_resolver *r)
{
    if (!r)
        return;
    for (unsigned i = 0; i < NET_RESOLVER_QUESTIONS; i++)
        net_question_hang_up(&r->questions[i]);
    loop_timer_free(r->timer);
    free(r->conf);
    free(r);
}
