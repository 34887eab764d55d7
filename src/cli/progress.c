#include "cli/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_NS 100000000u
#define PROGRESS_SECOND 1000000000u

static uint64_t progress_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * PROGRESS_SECOND + (uint64_t)ts.tv_nsec;
}

static int progress_mode(const char *text, enum cli_progress_mode *ret)
{
    const char *term = getenv("TERM");

    if (!text || strcmp(text, "auto") == 0)
        *ret = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0) ? CLI_PROGRESS_BAR : CLI_PROGRESS_NONE;
    else if (strcmp(text, "bar") == 0)
        *ret = CLI_PROGRESS_BAR;
    else if (strcmp(text, "json") == 0)
        *ret = CLI_PROGRESS_JSON;
    else if (strcmp(text, "none") == 0)
        *ret = CLI_PROGRESS_NONE;
    else
        return -EINVAL;
    return 0;
}

int cli_progress_begin(struct cli_progress *p, const struct cli_args *args, const char *operation,
                       struct cli_cancel *cancel, struct err *e)
{
    const char *text = cli_value(args, "progress"), *no_color = getenv("NO_COLOR");

    *p = (struct cli_progress){ .operation = operation, .cancel = cancel, .started_ns = progress_now() };
    p->color = !(no_color && no_color[0]);
    if (progress_mode(text, &p->mode) < 0)
        return err_set(e, EINVAL, "--progress %s: unknown; use auto, bar, json or none", text);
    return 0;
}

static void progress_json(struct cli_progress *p, const char *state)
{
    fprintf(stderr, "{\"operation\":\"%s\",\"state\":\"%s\",\"done_bytes\":%llu,\"total_bytes\":%llu}\n", p->operation,
            state, (unsigned long long)p->done, (unsigned long long)p->total);
}

const char *cli_size_text(uint64_t bytes, char out[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double n = (double)bytes;
    unsigned i = 0;

    for (; n >= 1024 && i + 1 < ARRAY_SIZE(units); i++)
        n /= 1024;
    snprintf(out, 32, i == 0 ? "%.0f %s" : "%.1f %s", n, units[i]);
    return out;
}

static int progress_columns(void)
{
    struct winsize ws;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0 ? ws.ws_col : 80;
}

/* "convert  42% [########            ] 1.2 GiB of 2.9 GiB, 512.0 MiB/s, 3 s left" */
static void progress_bar(struct cli_progress *p, uint64_t now)
{
    double part = p->total ? (double)p->done / (double)p->total : 0;
    double seconds = (double)(now - p->started_ns) / PROGRESS_SECOND;
    char done[32], total[32], rate[32], tail[160];
    int room, width, filled;

    snprintf(tail, sizeof(tail), "%s of %s, %s/s, %.0f s left", cli_size_text(p->done, done),
             cli_size_text(p->total, total),
             cli_size_text(seconds > 0 ? (uint64_t)((double)p->done / seconds) : 0, rate),
             part > 0 ? seconds * (1 - part) / part : 0);
    room = progress_columns() - (int)strlen(p->operation) - (int)strlen(tail) - 12;
    width = room < 10 ? 0 : MIN(room, 40);
    filled = (int)(part * width);
    fprintf(stderr, "\r%s %3d%% ", p->operation, (int)(part * 100));
    if (width > 0) {
        fprintf(stderr, "[%s", p->color ? "\033[32m" : "");
        for (int i = 0; i < width; i++)
            fputc(i < filled ? '#' : ' ', stderr);
        fprintf(stderr, "%s] %s", p->color ? "\033[0m" : "", tail);
    }
    fprintf(stderr, "\033[K");
    fflush(stderr);
    p->drawn = true;
}

bool cli_progress_step(void *opaque, uint64_t done, uint64_t total)
{
    struct cli_progress *p = opaque;
    uint64_t now = progress_now();

    p->done = done;
    p->total = total;
    if (now - p->shown_ns >= PROGRESS_NS) {
        p->shown_ns = now;
        if (p->mode == CLI_PROGRESS_BAR)
            progress_bar(p, now);
        else if (p->mode == CLI_PROGRESS_JSON)
            progress_json(p, "running");
    }
    return !p->cancel || cli_cancel_poll(p->cancel) == 0;
}

void cli_progress_end(struct cli_progress *p, bool ok)
{
    if (p->mode == CLI_PROGRESS_JSON) {
        if (ok)
            p->done = p->total;
        progress_json(p, ok ? "done" : "failed");
    }
    if (p->drawn) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
    }
}
