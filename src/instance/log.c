#include "instance/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "instance/log_priv.h"
#include "sys/dirs.h"

#define LOG_LINE_MAX (16U << 10)
#define LOG_BATCH_MAX (1U << 20)

struct log_line {
    uint8_t text[LOG_LINE_MAX];
    size_t len;
};

struct inst_log {
    char dir[INST_LOG_DIR_MAX];
    uint64_t max_size, size;
    unsigned files;
    int fd;
    bool half;                /* the file ends in the middle of a line */
    uint64_t dropped;         /* lines that could not be written */
    struct log_line lines[2]; /* by stream */
    struct buf batch;         /* what one call writes */
};

void inst_log_time(int64_t ns, char ret_text[INST_LOG_TIME_MAX])
{
    time_t seconds = (time_t)(ns / 1000000000);
    char date[24];
    struct tm tm;

    if (!gmtime_r(&seconds, &tm) || strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        snprintf(date, sizeof(date), "1970-01-01T00:00:00");
    snprintf(ret_text, INST_LOG_TIME_MAX, "%s.%09uZ", date, (unsigned)(ns % 1000000000));
}

void inst_log_path(const char *dir, unsigned piece, char ret_path[INST_LOG_PATH_MAX])
{
    if (piece == 0)
        snprintf(ret_path, INST_LOG_PATH_MAX, "%s/log.json", dir);
    else
        snprintf(ret_path, INST_LOG_PATH_MAX, "%s/log.json.%u", dir, piece);
}

/* ---- lines ---- */

/* Length of the UTF-8 sequence at s, 0 where it is none, -1 where the rest is missing. */
static int log_utf8(const uint8_t *s, size_t left)
{
    size_t n = s[0] < 0x80 ? 1 : (s[0] & 0xe0) == 0xc0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 ? 4 : 0;

    if (n == 0 || (n == 2 && s[0] < 0xc2) || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n && i < left; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if (left < n)
        return -1;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return (int)n;
}

static void log_escape(struct buf *b, const uint8_t *text, size_t len)
{
    size_t plain = 0, i = 0;

    while (i < len) {
        int n = log_utf8(text + i, len - i);

        if (n > 0 && text[i] >= 0x20 && text[i] != '"' && text[i] != '\\' && text[i] != 0x7f) {
            i += (size_t)n;
            continue;
        }
        buf_append(b, text + plain, i - plain);
        if (n <= 0)
            buf_append_str(b, "\\ufffd");
        else if (text[i] == '\n')
            buf_append_str(b, "\\n");
        else
            buf_printf(b, "\\u%04x", text[i]);
        plain = ++i;
    }
    buf_append(b, text + plain, i - plain);
}

/* One line of the file. */
static void log_put(struct inst_log *log, enum inst_log_stream stream, const uint8_t *text, size_t len)
{
    char time[INST_LOG_TIME_MAX];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    inst_log_time(now.tv_sec * 1000000000LL + now.tv_nsec, time);
    buf_printf(&log->batch, "{\"time\":\"%s\",\"stream\":\"%s\",\"log\":\"", time,
               stream == INST_LOG_ERR ? "stderr" : "stdout");
    log_escape(&log->batch, text, len);
    buf_append_str(&log->batch, "\"}\n");
}

/* A part of a line; an unfinished character stays for the next part, unless all is to go. */
static void log_put_part(struct inst_log *log, enum inst_log_stream stream, bool all)
{
    struct log_line *line = &log->lines[stream];
    size_t keep = 0;

    for (size_t back = 1; back <= 3 && back <= line->len && !all; back++) {
        if (log_utf8(line->text + line->len - back, back) < 0)
            keep = back;
    }
    if (line->len > keep)
        log_put(log, stream, line->text, line->len - keep);
    memmove(line->text, line->text + line->len - keep, keep);
    line->len = keep;
}

/* ---- files ---- */

static int log_open_file(struct inst_log *log)
{
    char path[INST_LOG_PATH_MAX];
    struct stat st;
    char last;

    inst_log_path(log->dir, 0, path);
    base_closep(&log->fd);
    log->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0 || fstat(log->fd, &st) < 0)
        return -errno;
    log->size = (uint64_t)st.st_size;
    /* The writer before us was killed in the middle of a line. */
    log->half = st.st_size > 0 && pread(log->fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
    return 0;
}

/* Older pieces move up by one, the oldest goes. */
static int log_rotate(struct inst_log *log)
{
    char from[INST_LOG_PATH_MAX], to[INST_LOG_PATH_MAX];

    for (unsigned piece = log->files - 1; piece > 0; piece--) {
        inst_log_path(log->dir, piece - 1, from);
        inst_log_path(log->dir, piece, to);
        if (rename(from, to) < 0 && errno != ENOENT)
            return -errno;
    }
    if (log->files == 1) {
        inst_log_path(log->dir, 0, from);
        if (unlink(from) < 0 && errno != ENOENT)
            return -errno;
    }
    return log_open_file(log);
}

/* Remove pieces that are more than what is kept (the limit was lowered). */
static void log_trim(struct inst_log *log)
{
    char path[INST_LOG_PATH_MAX];

    for (unsigned piece = log->files;; piece++) {
        inst_log_path(log->dir, piece, path);
        if (unlink(path) < 0)
            return;
    }
}

/* Write the batch. */
static void log_commit(struct inst_log *log)
{
    int r = buf_error(&log->batch);

    if (r == 0 && log->batch.len > 0) {
        if (log->max_size && log->size > 0 && log->size + log->batch.len > log->max_size)
            r = log_rotate(log);
        if (r == 0 && log->fd < 0)
            r = log_open_file(log);
        if (r == 0 && log->half)
            r = fd_write_all(log->fd, "\n", 1);
        if (r == 0) {
            r = fd_write_all(log->fd, log->batch.data, log->batch.len);
            log->half = r < 0;
        }
        log->size += log->batch.len;
    }
    log->dropped += r < 0;
    buf_done(&log->batch);
    buf_init(&log->batch, LOG_BATCH_MAX);
}

/* Tell of what was dropped, as soon as there is room again. */
static void log_tell_dropped(struct inst_log *log)
{
    char text[96];
    uint64_t dropped = log->dropped;

    if (dropped == 0)
        return;
    snprintf(text, sizeof(text), "caisson: output is missing here, the log could not be written %llu times\n",
             (unsigned long long)dropped);
    log->dropped = 0;
    log_put(log, INST_LOG_ERR, (const uint8_t *)text, strlen(text));
    log_commit(log);
    if (log->dropped)
        log->dropped = dropped;
}

int inst_log_open(const char *dir, uint64_t max_size, unsigned files, struct inst_log **ret_log, struct err *e)
{
    AUTO(inst_log) struct inst_log *log = calloc(1, sizeof(*log));
    int r;

    if (!log)
        return err_set(e, ENOMEM, "out of memory");
    log->fd = -1;
    buf_init(&log->batch, LOG_BATCH_MAX);
    inst_log_limit(log, max_size, files);
    r = snprintf(log->dir, sizeof(log->dir), "%s", dir) >= (int)sizeof(log->dir) ? -ENAMETOOLONG : sys_dirs_make(dir);
    if (r == 0)
        r = log_open_file(log);
    if (r < 0)
        return err_set(e, -r, "cannot write the log in %s: %s; make room, or make it yours and writable", dir,
                       strerror(-r));
    log_trim(log);
    *ret_log = STEAL(log);
    return 0;
}

void inst_log_limit(struct inst_log *log, uint64_t max_size, unsigned files)
{
    log->max_size = max_size;
    log->files = MAX(files, 1U);
}

void inst_log_write(struct inst_log *log, enum inst_log_stream stream, const uint8_t *data, size_t len)
{
    struct log_line *line = &log->lines[stream];

    log_tell_dropped(log);
    while (len > 0) {
        const uint8_t *newline = memchr(data, '\n', len);
        size_t n = MIN(newline ? (size_t)(newline - data) + 1 : len, LOG_LINE_MAX - line->len);

        memcpy(line->text + line->len, data, n);
        line->len += n;
        data += n;
        len -= n;
        if (line->text[line->len - 1] == '\n') {
            log_put(log, stream, line->text, line->len);
            line->len = 0;
        } else if (line->len == LOG_LINE_MAX) {
            log_put_part(log, stream, false);
        }
        if (log->max_size && log->batch.len > log->max_size / 4)
            log_commit(log); /* small files stay small */
    }
    log_commit(log);
}

bool inst_log_waits(const struct inst_log *log)
{
    return log->lines[INST_LOG_OUT].len > 0 || log->lines[INST_LOG_ERR].len > 0;
}

static void log_flush(struct inst_log *log, bool all)
{
    for (int i = INST_LOG_OUT; i <= INST_LOG_ERR; i++) {
        if (log->lines[i].len > 0)
            log_put_part(log, (enum inst_log_stream)i, all);
    }
    log_commit(log);
}

void inst_log_flush(struct inst_log *log)
{
    log_flush(log, false);
}

void inst_log_free(struct inst_log *log)
{
    if (!log)
        return;
    if (log->fd >= 0)
        log_flush(log, true);
    buf_done(&log->batch);
    base_closep(&log->fd);
    free(log);
}
