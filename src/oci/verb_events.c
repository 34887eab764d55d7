/* `events`: statistics, once or at intervals, and out-of-memory events, one JSON object on a line each. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/main.h"
#include "oci/state.h"

#define EVENTS_LINE_MAX (4u << 20)
#define NS_PER_MS 1000000u

/* One line in one write, so that readers of a pipe see whole ones. Returns 0 or -errno with a text. */
static int events_write(struct buf *b, struct err *e)
{
    buf_append_str(b, "\n");
    return oci_print(b, e);
}

static int events_stats(const struct oci_state *s, struct oci_cgroup *g, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, EVENTS_LINE_MAX);
    buf_printf(&b, "{\"type\":\"stats\",\"id\":\"%s\",\"data\":", s->id); /* an id has no characters to be escaped */
    r = oci_cgroup_stats(g, &b, e);
    buf_append_str(&b, "}");
    if (r == 0)
        r = events_write(&b, e);
    buf_done(&b);
    return r;
}

static int events_oom(const struct oci_state *s, struct err *e)
{
    struct buf b;
    int r;

    buf_init(&b, EVENTS_LINE_MAX);
    buf_printf(&b, "{\"type\":\"oom\",\"id\":\"%s\"}", s->id);
    r = events_write(&b, e);
    buf_done(&b);
    return r;
}

/* "5s", "100ms", "1m30s", as Go writes durations; whole numbers. -EINVAL. */
static int events_interval(const char *text, uint64_t *ret_ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
    uint64_t sum = 0;

    if (!text[0])
        return -EINVAL;
    while (*text) {
        size_t len = strspn(text, "0123456789"), unit_len, i = 0;
        char digits[16];
        uint64_t n;

        if (len == 0 || len >= sizeof(digits))
            return -EINVAL;
        memcpy(digits, text, len);
        digits[len] = '\0';
        text += len;
        unit_len = strcspn(text, "0123456789");
        while (i < ARRAY_SIZE(units) &&
               (strlen(units[i].name) != unit_len || memcmp(units[i].name, text, unit_len) != 0))
            i++;
        if (i == ARRAY_SIZE(units) || num_parse_u64(digits, 0, 1000000000, &n) < 0)
            return -EINVAL;
        sum += n * units[i].ms;
        text += unit_len;
    }
    *ret_ms = sum;
    return sum > 0 ? 0 : -EINVAL;
}

static uint64_t events_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / NS_PER_MS;
}

/* Until the container's first process ends. */
static int events_follow(const struct oci_state *s, struct oci_cgroup *g, uint64_t interval_ms, struct err *e)
{
    AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
    AUTO_FD int oom = oci_cgroup_oom_watch(g, NULL); /* without it, there are statistics only */
    uint64_t next = events_now_ms() + interval_ms, state = 0;
    int r = oom >= 0 ? oci_cgroup_oom_check(g, oom, &state) : 0; /* what was before us is no event */

    while (r >= 0) {
        struct pollfd fds[] = { { .fd = pidfd, .events = POLLIN }, { .fd = oom, .events = POLLIN } };
        uint64_t now = events_now_ms();
        int n = poll(fds, ARRAY_SIZE(fds), next > now ? (int)MIN(next - now, 3600000u) : 0);

        if (n < 0 && errno != EINTR)
            return err_set(e, errno, "events: %s", strerror(errno));
        if (n > 0 && fds[1].revents) {
            r = oci_cgroup_oom_check(g, oom, &state);
            if (r == -ENOENT)
                return 0;
            r = r > 0 ? events_oom(s, e) : MIN(r, 0);
        }
        if (r == 0 && (pidfd < 0 || fds[0].revents) && oci_state_status(s) == OCI_STOPPED)
            return 0;
        if (r == 0 && events_now_ms() >= next) {
            r = events_stats(s, g, e);
            next += interval_ms;
        }
    }
    return r;
}

int oci_verb_events(const struct oci_args *a, struct err *e)
{
    const char *interval = a->value[OCI_OPT_INTERVAL] ? a->value[OCI_OPT_INTERVAL] : "5s";
    AUTO(oci_state) struct oci_state *s = NULL;
    AUTO(oci_cgroup) struct oci_cgroup *g = NULL;
    uint64_t interval_ms;
    int r;

    if (events_interval(interval, &interval_ms) < 0)
        return err_set(e, EINVAL, "--interval %s: is no time above 0; write it like 5s or 500ms", interval);
    r = oci_state_open(a, a->argv[0], &s, e);
    if (r == 0)
        r = oci_container_cgroup(s, "so nobody counts what it uses", &g, e);
    if (r < 0)
        return r;
    return oci_flag(a, OCI_OPT_STATS) ? events_stats(s, g, e) : events_follow(s, g, interval_ms, e);
}
