#include "cli/cell.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/attr.h"
#include "cli/progress.h"

#define CELL_SECOND_NS 1000000000LL
#define CELL_ID_DIGITS 12

bool cli_color_wanted(FILE *out)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    int fd = fileno(out);

    return fd >= 0 && isatty(fd) && !(no && no[0]) && !(term && strcmp(term, "dumb") == 0);
}

const char *cli_cell_color(const char *status)
{
    static const struct {
        const char *word, *color;
    } colors[] = {
        { "running", "\033[32m" },  { "ready", "\033[32m" },   { "healthy", "\033[32m" },    { "ok", "\033[32m" },
        { "starting", "\033[33m" }, { "paused", "\033[33m" },  { "restarting", "\033[33m" }, { "saved", "\033[36m" },
        { "removing", "\033[33m" }, { "warn", "\033[33m" },    { "unhealthy", "\033[31m" },  { "failed", "\033[31m" },
        { "no", "\033[31m" },       { "unknown", "\033[31m" }, { "created", "\033[2m" },     { "exited", "\033[2m" },
        { "stopped", "\033[2m" },
    };
    size_t len = strcspn(status, " (");

    if (strncmp(status, "exited (", 8) == 0 && strcmp(status, "exited (0)") != 0)
        return "\033[31m";
    for (size_t i = 0; i < ARRAY_SIZE(colors); i++) {
        if (strlen(colors[i].word) == len && strncmp(colors[i].word, status, len) == 0)
            return colors[i].color;
    }
    return "";
}

const char *cli_duration_text(uint64_t ns, char out[32])
{
    unsigned long long s = ns / CELL_SECOND_NS;

    if (ns < CELL_SECOND_NS)
        snprintf(out, 32, "%llums", (unsigned long long)(ns / 1000000));
    else if (s < 60)
        snprintf(out, 32, "%llu.%llus", s, (unsigned long long)(ns % CELL_SECOND_NS / (CELL_SECOND_NS / 10)));
    else if (s < 3600)
        snprintf(out, 32, "%llum %llus", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, 32, "%lluh %llum", s / 3600, s % 3600 / 60);
    else
        snprintf(out, 32, "%llud %lluh", s / 86400, s % 86400 / 3600);
    return out;
}

const char *cli_ago_text(int64_t when_ns, int64_t now_ns, char out[48])
{
    static const struct {
        int64_t seconds; /* of one */
        const char *name;
    } units[] = { { 365 * 86400, "year" }, { 30 * 86400, "month" }, { 7 * 86400, "week" }, { 86400, "day" },
                  { 3600, "hour" },        { 60, "minute" },        { 1, "second" } };
    bool future = when_ns > now_ns;
    int64_t s = (future ? when_ns - now_ns : now_ns - when_ns) / CELL_SECOND_NS;
    size_t i = 0;

    /* two of a unit at least: "90 minutes" says more than "1 hour" */
    while (i + 1 < ARRAY_SIZE(units) && s < 2 * units[i].seconds)
        i++;
    s /= units[i].seconds;
    if (s == 0)
        snprintf(out, 48, "now");
    else
        snprintf(out, 48, "%s%lld %s%s%s", future ? "in " : "", (long long)s, units[i].name, s == 1 ? "" : "s",
                 future ? "" : " ago");
    return out;
}

/* RFC 3339 in UTC, as proto_json_time writes it; fractions of a second are skipped. */
static bool cell_parse_time(json_object *v, time_t *ret)
{
    struct tm tm = { 0 };
    const char *end;

    if (!json_object_is_type(v, json_type_string))
        return false;
    end = strptime(json_object_get_string(v), "%Y-%m-%dT%H:%M:%S", &tm);
    if (!end || (*end != 'Z' && *end != '.'))
        return false;
    *ret = timegm(&tm);
    return true;
}

static bool cell_time_text(enum cli_cell cell, json_object *v, char *out, size_t size)
{
    struct timespec now;
    char text[48];
    struct tm tm;
    time_t t;

    if (!cell_parse_time(v, &t))
        return false;
    if (cell == CLI_CELL_TIME)
        return localtime_r(&t, &tm) && strftime(out, size, "%Y-%m-%d %H:%M", &tm) > 0;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(out, size, "%s", cli_ago_text((int64_t)t * CELL_SECOND_NS, (int64_t)now.tv_sec * CELL_SECOND_NS, text));
    return true;
}

bool cli_cell_text(enum cli_cell cell, json_object *v, char *out, size_t size)
{
    char text[32];

    switch (cell) {
    case CLI_CELL_BYTES:
        if (json_object_is_type(v, json_type_int))
            snprintf(out, size, "%s", cli_size_text(json_object_get_uint64(v), text));
        return json_object_is_type(v, json_type_int);
    case CLI_CELL_DURATION:
        if (json_object_is_type(v, json_type_int))
            snprintf(out, size, "%s", cli_duration_text(json_object_get_uint64(v), text));
        return json_object_is_type(v, json_type_int);
    case CLI_CELL_TIME:
    case CLI_CELL_AGO:
        return cell_time_text(cell, v, out, size);
    case CLI_CELL_ID: {
        const char *id = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";

        if (strncmp(id, "sha256:", 7) == 0)
            id += 7;
        if (strlen(id) <= CELL_ID_DIGITS || strspn(id, "0123456789abcdef") != strlen(id))
            return false;
        snprintf(out, size, "%.*s", CELL_ID_DIGITS, id);
        return true;
    }
    case CLI_CELL_PLAIN:
    case CLI_CELL_STATUS:
        break;
    }
    return false;
}
