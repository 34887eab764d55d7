#include "oci/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "oci/json.h"

#define LOG_LINE_MAX 4096

static void oci_log_line(struct buf *b, bool json, const char *level, const char *text)
{
    char stamp[32] = "";
    time_t now = time(NULL);
    struct tm tm;

    if (gmtime_r(&now, &tm))
        strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (json) {
        buf_printf(b, "{\"level\":\"%s\",\"msg\":", level);
        oci_json_string(b, text);
        buf_printf(b, ",\"time\":\"%s\"}\n", stamp);
    } else {
        buf_printf(b, "time=\"%s\" level=%s msg=", stamp, level);
        oci_json_string(b, text);
        buf_append_str(b, "\n");
    }
}

static void oci_log(const struct oci_args *a, const char *level, const char *text, bool also_stderr)
{
    const char *format = a->value[OCI_OPT_LOG_FORMAT];
    const char *path = a->value[OCI_OPT_LOG];
    const bool json = format && strcmp(format, "json") == 0;
    AUTO_FD int fd = path && path[0] ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    struct buf b;
    ssize_t n = 0;

    buf_init(&b, LOG_LINE_MAX);
    oci_log_line(&b, fd >= 0 && json, level, text);
    if (fd >= 0 && b.len > 0)
        n = write(fd, b.data, b.len);
    buf_done(&b);
    if (fd < 0 || also_stderr || n < 0) {
        buf_init(&b, LOG_LINE_MAX);
        oci_log_line(&b, fd < 0 && json, level, text);
        if (b.len > 0)
            n = write(STDERR_FILENO, b.data, b.len);
        buf_done(&b);
    }
}

void oci_log_error(const struct oci_args *a, const char *text)
{
    /* Who reads the log (instance/container_oci.c) does not want the text among the payload's output as well. */
    oci_log(a, "error", text, !getenv("CAISSON_OCI_QUIET"));
}

void oci_log_warn(const struct oci_args *a, const char *text)
{
    oci_log(a, "warning", text, false);
}
