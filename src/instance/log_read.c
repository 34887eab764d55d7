/* Reading logs, also while the supervisor writes and rotates them: a piece is known by its inode, so that the reader
 * finds the one that follows wherever it has been moved to. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "instance/log.h"
#include "instance/log_priv.h"

#define LOG_PIECES_MAX 1001
#define LOG_TEXT_MAX (256U << 10) /* of one line of a file, longer ones are not ours */

/* Z, +HH:MM or -HH:MM, and nothing behind it. */
static int log_parse_zone(const char *p, int64_t *ret_seconds)
{
    static const char form[] = "00:00";
    int64_t seconds;

    if (strcmp(p, "Z") == 0) {
        *ret_seconds = 0;
        return 0;
    }
    if ((p[0] != '+' && p[0] != '-') || strlen(p + 1) != strlen(form))
        return -EINVAL;
    for (size_t i = 0; i < strlen(form); i++) {
        if (form[i] == ':' ? p[1 + i] != ':' : p[1 + i] < '0' || p[1 + i] > '9')
            return -EINVAL;
    }
    seconds = ((p[1] - '0') * 10 + p[2] - '0') * 3600 + ((p[4] - '0') * 10 + p[5] - '0') * 60;
    *ret_seconds = p[0] == '+' ? seconds : -seconds;
    return 0;
}

int inst_log_parse_time(const char *text, int64_t *ret_ns)
{
    struct tm tm = { 0 };
    const char *p = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t ns = 0, unit = 100000000, offset = 0;

    if (!p)
        return -EINVAL;
    if (*p == '.') {
        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
            ns += (*p - '0') * unit;
    }
    if (log_parse_zone(p, &offset) < 0)
        return -EINVAL;
    *ret_ns = (timegm(&tm) - offset) * 1000000000LL + ns;
    return 0;
}

struct log_reading {
    const char *dir;
    const struct inst_log_query *q;
    const struct inst_log_reader *r;
    uint64_t skip; /* lines before those that tail wants */
    uint64_t lines;
    bool counting;
    bool past; /* a line after until was met */
    json_tokener *tokener;
    char *line; /* of getline */
    size_t size;
};

/* An entry out of a line of the file. False: it is none. Borrows the object. */
static bool log_parse(struct log_reading *l, size_t len, json_object **ret_object, struct inst_log_entry *ret)
{
    json_object *time, *stream, *text, *o;

    json_tokener_reset(l->tokener);
    o = json_tokener_parse_ex(l->tokener, l->line, (int)len);
    if (json_tokener_get_error(l->tokener) != json_tokener_success || !json_object_is_type(o, json_type_object) ||
        !json_object_object_get_ex(o, "time", &time) || !json_object_object_get_ex(o, "stream", &stream) ||
        !json_object_object_get_ex(o, "log", &text) || !json_object_is_type(time, json_type_string) ||
        !json_object_is_type(stream, json_type_string) || !json_object_is_type(text, json_type_string) ||
        inst_log_parse_time(json_object_get_string(time), &ret->time_ns) < 0) {
        json_object_put(o);
        return false;
    }
    ret->stream = strcmp(json_object_get_string(stream), "stderr") == 0 ? INST_LOG_ERR : INST_LOG_OUT;
    ret->text = json_object_get_string(text);
    ret->len = (size_t)json_object_get_string_len(text);
    *ret_object = o;
    return true;
}

static int log_line(struct log_reading *l, size_t len)
{
    struct inst_log_entry entry;
    json_object *o = NULL;
    bool whole;
    int r = 0;

    if (len > LOG_TEXT_MAX || !log_parse(l, len, &o, &entry))
        return 0;
    whole = entry.len > 0 && entry.text[entry.len - 1] == '\n';
    l->past = l->q->until_ns && entry.time_ns > l->q->until_ns;
    if (!l->past && entry.time_ns >= l->q->since_ns) {
        if (!l->counting && l->lines >= l->skip)
            r = l->r->entry(l->r->opaque, &entry);
        l->lines += whole;
    }
    json_object_put(o);
    return r;
}

/* All whole lines from where f stands. */
static int log_piece(struct log_reading *l, FILE *f)
{
    int r = 0;

    while (r == 0 && !l->past) {
        long at = ftell(f);
        ssize_t n = getline(&l->line, &l->size, f);

        if (n <= 0 || l->line[n - 1] != '\n') { /* the rest of it is still being written */
            clearerr(f);
            return fseek(f, at, SEEK_SET) < 0 ? -errno : 0;
        }
        r = log_line(l, (size_t)n);
    }
    return r;
}

static FILE *log_open(const char *dir, unsigned piece)
{
    char path[INST_LOG_PATH_MAX];
    int fd;
    FILE *f;

    inst_log_path(dir, piece, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    f = fd < 0 ? NULL : fdopen(fd, "r");
    if (!f && fd >= 0)
        close(fd);
    return f;
}

static ino_t log_inode(FILE *f)
{
    struct stat st;

    return f && fstat(fileno(f), &st) == 0 ? st.st_ino : 0;
}

/* The oldest piece that is newer than f, of all where that is NULL or has been removed; NULL: f is the newest. In the
 * middle of a rotation, where a writer may have been killed, one piece is missing between others. */
static FILE *log_newer(const char *dir, FILE *f)
{
    FILE *newer = NULL;
    unsigned missing = 0;

    for (unsigned piece = 0; piece < LOG_PIECES_MAX && missing < 2; piece++) {
        FILE *next = log_open(dir, piece);

        missing = next ? 0 : missing + 1;
        if (next && f && log_inode(next) == log_inode(f)) {
            fclose(next);
            break;
        }
        if (next && newer)
            fclose(newer);
        newer = next ? next : newer;
    }
    return newer;
}

/* All pieces, from the oldest on; *ret_last: the newest, open, at its end. */
static int log_all(struct log_reading *l, FILE **ret_last)
{
    FILE *f = log_newer(l->dir, NULL);
    int r = 0;

    while (f && r == 0) {
        FILE *newer;

        r = log_piece(l, f);
        newer = r == 0 && !l->past ? log_newer(l->dir, f) : NULL;
        if (!newer)
            break;
        r = log_piece(l, f); /* it got its last lines before it was rotated */
        fclose(f);
        f = newer;
    }
    *ret_last = f;
    return r;
}

static int log_follow(struct log_reading *l, FILE **f)
{
    int r = 0;

    while (r == 0 && !l->past) {
        bool last = false;
        FILE *newer;

        r = l->r->wait(l->r->opaque);
        if (r < 0)
            break;
        last = r > 0;
        r = 0;
        if (!*f)
            *f = log_open(l->dir, 0);
        if (*f)
            r = log_piece(l, *f);
        while (*f && r == 0 && (newer = log_newer(l->dir, *f))) {
            r = log_piece(l, *f);
            fclose(*f);
            *f = newer;
            if (r == 0)
                r = log_piece(l, *f);
        }
        if (last)
            break;
    }
    return r;
}

/* How many lines there are before those that tail wants. */
static int log_count(struct log_reading *l)
{
    FILE *f = NULL;
    int r;

    if (!l->q->has_tail)
        return 0;
    l->counting = true;
    r = log_all(l, &f);
    if (f)
        fclose(f);
    l->skip = l->lines > l->q->tail ? l->lines - l->q->tail : 0;
    l->counting = l->past = false;
    l->lines = 0;
    return r;
}

int inst_log_read(const char *dir, const struct inst_log_query *q, const struct inst_log_reader *r, struct err *e)
{
    struct log_reading l = { .dir = dir, .q = q, .r = r, .tokener = json_tokener_new() };
    FILE *f = NULL;
    int res = l.tokener ? log_count(&l) : -ENOMEM;

    if (res == 0)
        res = log_all(&l, &f);
    if (res == 0 && q->follow && !l.past)
        res = log_follow(&l, &f);
    if (f)
        fclose(f);
    if (l.tokener)
        json_tokener_free(l.tokener);
    free(l.line);
    if (res < 0 && e && e->code == 0)
        err_set(e, -res, "cannot read the log in %s: %s", dir, strerror(-res));
    return res;
}
