/* The log of an instance: what its payload wrote, line by line with the time, in STATE/instances/ID/logs/log.json and
 * its older pieces log.json.1 (the newest of them), log.json.2, ... Each line of a file is {"time": RFC 3339 with
 * nanoseconds, "stream": "stdout"|"stderr", "log": text}; the text of a whole line ends with \n, that of a part (a
 * prompt, a line longer than 16 KiB) does not. Bytes that are no UTF-8 become U+FFFD. The writer is the supervisor;
 * readers need nobody's help. A line that was cut off by a crash is skipped. */
#ifndef INSTANCE_LOG_H
#define INSTANCE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"

struct inst_log;

enum inst_log_stream { INST_LOG_OUT, INST_LOG_ERR };

/* dir: where the files are, made where it is missing. max_size: bytes of a file, 0: no limit; files: kept, >= 1. -errno
 * with text. */
int inst_log_open(const char *dir, uint64_t max_size, unsigned files, struct inst_log **ret_log,
                  struct err *e) MUST_USE;
/* Limits from now on. */
void inst_log_limit(struct inst_log *log, uint64_t max_size, unsigned files);
/* Never fails: what cannot be written (full disk) is dropped, and a line says so later. */
void inst_log_write(struct inst_log *log, enum inst_log_stream stream, const uint8_t *data, size_t len);
/* Whether a part of a line waits for its rest; inst_log_flush writes it as it is. */
bool inst_log_waits(const struct inst_log *log);
void inst_log_flush(struct inst_log *log);
/* Flushes. NULL accepted. */
void inst_log_free(struct inst_log *log);
DEFINE_AUTO(inst_log, struct inst_log, inst_log_free)

/* ---- reading ---- */

struct inst_log_entry {
    int64_t time_ns; /* since 1970, UTC */
    enum inst_log_stream stream;
    const char *text;
    size_t len;
};

struct inst_log_query {
    int64_t since_ns, until_ns; /* 0: no limit */
    bool has_tail;
    uint64_t tail; /* the last lines only */
    bool follow;   /* wait for more until `ended` says that there will be none */
};

struct inst_log_reader {
    /* An entry, borrowed. A result other than 0 ends the reading and is returned. */
    int (*entry)(void *opaque, const struct inst_log_entry *entry);
    /* With follow: wait for more, at most some tenths of a second. 1: nobody writes any more. */
    int (*wait)(void *opaque);
    void *opaque;
};
/* Read the log in dir. No log is an empty one. -errno with text (of entry and wait: as they are). */
int inst_log_read(const char *dir, const struct inst_log_query *q, const struct inst_log_reader *r,
                  struct err *e) MUST_USE;

/* RFC 3339 with nanoseconds, UTC: "2026-11-27T14:57:45.123456789Z". */
#define INST_LOG_TIME_MAX 40
void inst_log_time(int64_t ns, char ret_text[INST_LOG_TIME_MAX]);
/* The same back, with any number of digits of the fraction (none too), Z or an offset. -EINVAL. */
int inst_log_parse_time(const char *text, int64_t *ret_ns) MUST_USE;

#endif
