/* Values that the verbs of instances take: durations, points in time, signals. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/num.h"
#include "cli/instance.h"
#include "instance/log.h"
#include "proto/exit_code.h"

#define VALUE_SECOND_NS 1e9

/* A number of digits with a point, nothing else: strtod would take more. */
static int value_number(const char *text, size_t len, double *ret)
{
    char copy[40];
    char *end;

    if (len == 0 || len >= sizeof(copy) || strspn(text, "0123456789.") < len)
        return -EINVAL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    *ret = strtod(copy, &end);
    return *end ? -EINVAL : 0;
}

int cli_parse_duration(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {
        { "", 1e9 }, { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 }, { "d", 86400e9 },
    };
    double sum = 0;

    if (!text[0])
        return -EINVAL;
    /* Parts may follow each other: 1m30s. */
    for (const char *p = text; *p;) {
        size_t digits = strspn(p, "0123456789."), letters = strspn(p + digits, "abcdefghijklmnopqrstuvwxyz"), i;
        double number;

        if (value_number(p, digits, &number) < 0)
            return -EINVAL;
        for (i = 0; i < ARRAY_SIZE(units); i++) {
            if (strlen(units[i].unit) == letters && memcmp(units[i].unit, p + digits, letters) == 0)
                break;
        }
        if (i == ARRAY_SIZE(units) || (letters == 0 && (p != text || p[digits])))
            return -EINVAL;
        sum += number * units[i].ns;
        p += digits + letters;
    }
    if (sum > (double)(INT64_MAX / 2))
        return -EINVAL;
    *ret_ns = (uint64_t)sum;
    return 0;
}

int cli_parse_when(const char *text, int64_t *ret_ns)
{
    struct timespec now;
    struct tm tm = { .tm_isdst = -1 };
    double seconds;
    uint64_t ago;
    const char *end;
    char whole[INST_LOG_TIME_MAX + 8];

    if (inst_log_parse_time(text, ret_ns) == 0)
        return 0;
    /* Without a zone it is local time; without a time midnight. */
    end = strptime(text, "%Y-%m-%d", &tm);
    if (end && (*end == 'T' || *end == ' ')) {
        snprintf(whole, sizeof(whole), "%s", end + 1);
        end = strptime(whole, "%H:%M:%S", &tm);
        if (!end)
            end = strptime(whole, "%H:%M", &tm);
    }
    if (end && !*end) {
        *ret_ns = mktime(&tm) * 1000000000LL;
        return 0;
    }
    if (strlen(text) >= 9 && value_number(text, strlen(text), &seconds) == 0) {
        *ret_ns = (int64_t)(seconds * VALUE_SECOND_NS);
        return 0;
    }
    if (cli_parse_duration(text, &ago) < 0)
        return -EINVAL;
    clock_gettime(CLOCK_REALTIME, &now);
    *ret_ns = now.tv_sec * 1000000000LL + now.tv_nsec - (int64_t)ago;
    return 0;
}

bool cli_is_past(int64_t when_ns)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return when_ns && now.tv_sec * 1000000000LL + now.tv_nsec > when_ns;
}

int cli_output_end(int error)
{
    struct err e = { 0 };

    if (!error && fflush(stdout) < 0)
        error = errno;
    if (!error || error == EPIPE)
        return EXIT_CODE_OK;
    err_set(&e, error, "cannot write the output: %s", strerror(error));
    return cli_fail(&e);
}

int cli_duration_option(const struct cli_args *args, const char *option, uint64_t *ret_ns, bool *ret_given,
                        struct err *e)
{
    const char *text = cli_value(args, option);

    if (ret_given)
        *ret_given = text != NULL;
    if (text && cli_parse_duration(text, ret_ns) < 0)
        return err_set(e, EINVAL, "--%s %s: not a time; give a number with ms, s, m, h or d behind it, e.g. 30s",
                       option, text);
    return 0;
}

int cli_parse_signal(const char *text, int *ret_signal)
{
    uint64_t n;

    if (num_parse_u64(text, 1, (uint64_t)SIGRTMAX, &n) == 0) {
        *ret_signal = (int)n;
        return 0;
    }
    if (strncasecmp(text, "SIG", 3) == 0)
        text += 3;
    for (int i = 1; i < SIGRTMIN; i++) {
        const char *name = sigabbrev_np(i);

        if (name && strcasecmp(name, text) == 0) {
            *ret_signal = i;
            return 0;
        }
    }
    if (strncasecmp(text, "RTMIN+", 6) == 0 && num_parse_u64(text + 6, 0, (uint64_t)(SIGRTMAX - SIGRTMIN), &n) == 0) {
        *ret_signal = SIGRTMIN + (int)n;
        return 0;
    }
    return -EINVAL;
}
