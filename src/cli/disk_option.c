#include "cli/disk_option.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "proto/vm_disk.h"

#define DISK_WORDS                                                                                      \
    "use FILE[,ro][,serial=S][,format=F][,cache=C][,discard=unmap|ignore][,iops=N][,bps=SIZE]... (see " \
    "caisson(1)), a comma in FILE as ',,'"

/* One option of a disk; value is NULL for words without '='. */
struct disk_word {
    const char *key, *value;
};

static int disk_set_text(char **to, const struct disk_word *w, struct err *e)
{
    if (!w->value[0])
        return err_set(e, EINVAL, "%s= needs a value", w->key);
    if (*to)
        return err_set(e, EINVAL, "%s= is given twice; give it once", w->key);
    *to = strdup(w->value);
    return *to ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* A number, or a size where bytes is true, from 1 on. */
static int disk_number(const char *text, bool bytes, uint64_t *ret)
{
    int r = bytes ? num_parse_size(text, ret) : num_parse_u64(text, 1, INT64_MAX, ret);

    return r < 0 || *ret == 0 || *ret > INT64_MAX ? -EINVAL : 0;
}

/* RATE[:BURST] */
static int disk_set_limit(struct vm_limit *limit, bool bytes, const struct disk_word *w, struct err *e)
{
    const char *colon = strchr(w->value, ':');
    AUTO_FREE char *rate = strndup(w->value, colon ? (size_t)(colon - w->value) : strlen(w->value));

    if (!rate)
        return err_set(e, ENOMEM, "out of memory");
    if (disk_number(rate, bytes, &limit->rate) < 0 || (colon && disk_number(colon + 1, bytes, &limit->burst) < 0))
        return err_set(e, EINVAL, "%s=%s: not a limit; use %s=%s[:BURST], each above 0", w->key, w->value, w->key,
                       bytes ? "SIZE" : "N");
    return 0;
}

/* One of two words; the second one sets the flag. */
static int disk_set_flag(bool *flag, const struct disk_word *w, const char *no, const char *yes, struct err *e)
{
    if (strcmp(w->value, no) != 0 && strcmp(w->value, yes) != 0)
        return err_set(e, EINVAL, "%s=%s: unknown; use %s=%s or %s=%s", w->key, w->value, w->key, no, w->key, yes);
    *flag = strcmp(w->value, yes) == 0;
    return 0;
}

static int disk_set_count(unsigned *to, unsigned max, const struct disk_word *w, struct err *e)
{
    uint64_t n;

    if (num_parse_u64(w->value, 1, max, &n) < 0)
        return err_set(e, EINVAL, "%s=%s: not possible; use a number from 1 to %u", w->key, w->value, max);
    *to = (unsigned)n;
    return 0;
}

static int disk_set_readahead(struct vm_disk *d, const struct disk_word *w, struct err *e)
{
    uint64_t bytes;

    if (strcmp(w->value, "off") == 0) {
        d->no_readahead = true;
        return 0;
    }
    if (num_parse_size(w->value, &bytes) < 0 || bytes == 0 || bytes > VM_READAHEAD_MAX)
        return err_set(e, EINVAL, "readahead=%s: not possible; use readahead=off or a size up to 16M", w->value);
    d->readahead = (uint32_t)bytes;
    return 0;
}

static int disk_set_secret(struct vm_disk *d, const struct disk_word *w, struct err *e)
{
    const struct disk_word file = { .key = "secret", .value = w->value + strlen("file:") };

    if (strncmp(w->value, "file:", strlen("file:")) != 0)
        return err_set(e, EINVAL, "secret=: unknown kind; use secret=file:PATH");
    return disk_set_text(&d->secret_file, &file, e);
}

/* A word with a value. 1: it is unknown. */
static int disk_set(struct vm_disk *d, const struct disk_word *w, struct err *e)
{
    for (unsigned i = 0; i < VM_LIMITS; i++) {
        if (strcmp(w->key, vm_disk_limit_name(i)) == 0)
            return disk_set_limit(&d->limits[i], i >= VM_BPS, w, e);
    }
    if (strcmp(w->key, "serial") == 0)
        return disk_set_text(&d->serial, w, e);
    if (strcmp(w->key, "format") == 0)
        return disk_set_text(&d->format, w, e);
    if (strcmp(w->key, "secret") == 0)
        return disk_set_secret(d, w, e);
    if (strcmp(w->key, "cache") == 0)
        return vm_cache_parse(w->value, &d->cache) == 0
                   ? 0
                   : err_set(e, EINVAL, "cache=%s: unknown; use writeback, none, writethrough or unsafe", w->value);
    if (strcmp(w->key, "aio") == 0)
        return vm_aio_parse(w->value, &d->aio) == 0
                   ? 0
                   : err_set(e, EINVAL, "aio=%s: unknown; use auto, io_uring or threads", w->value);
    if (strcmp(w->key, "discard") == 0)
        return disk_set_flag(&d->ignore_discard, w, "unmap", "ignore", e);
    if (strcmp(w->key, "on-error") == 0)
        return disk_set_flag(&d->wait_on_error, w, "report", "wait", e);
    if (strcmp(w->key, "readahead") == 0)
        return disk_set_readahead(d, w, e);
    if (strcmp(w->key, "weight") == 0)
        return disk_set_count(&d->weight, VM_DISK_WEIGHT_MAX, w, e);
    if (strcmp(w->key, "queues") == 0)
        return disk_set_count(&d->queues, VM_DISK_QUEUES_MAX, w, e);
    return 1;
}

/* Cut the next word off: up to a comma that is not doubled. *at is moved behind it. malloc'd; NULL: no memory. */
static char *disk_next_word(const char **at)
{
    char *word = calloc(1, strlen(*at) + 1);
    size_t n = 0;

    if (!word)
        return NULL;
    for (; **at; (*at)++) {
        if (**at == ',') {
            if ((*at)[1] != ',')
                break;
            (*at)++;
        }
        word[n++] = **at;
    }
    *at += **at == ',';
    return word;
}

static int disk_parse_word(char *text, struct vm_disk *d, struct err *e)
{
    char *equals = strchr(text, '=');
    struct disk_word w = { .key = text, .value = equals ? equals + 1 : NULL };

    if (strcmp(text, "ro") == 0) {
        d->read_only = true;
        return 0;
    }
    if (!equals)
        return 1;
    *equals = '\0';
    return disk_set(d, &w, e);
}

static int disk_parse(const char *option, const char *text, struct vm_disk *d, struct err *e)
{
    const char *at = text;
    int r = 0;

    d->path = disk_next_word(&at);
    if (!d->path)
        return err_set(e, ENOMEM, "out of memory");
    while (*at && r == 0) {
        const char *begin = at;
        AUTO_FREE char *word = disk_next_word(&at);

        if (!word)
            return err_set(e, ENOMEM, "out of memory");
        r = disk_parse_word(word, d, e);
        if (r == 1)
            return err_set(e, EINVAL, "%s %s: unknown part '%.*s'; " DISK_WORDS, option, text, (int)strcspn(begin, ","),
                           begin);
        if (r == -EINVAL)
            return err_wrap(e, "%s %s", option, d->path);
    }
    return r;
}

int cli_parse_disk(const char *text, struct vm_disk *d, struct err *e)
{
    return disk_parse("--disk", text, d, e);
}

int cli_parse_cdrom(const char *text, struct vm_disk *d, struct err *e)
{
    int r = disk_parse("--cdrom", text, d, e);

    d->cdrom = d->read_only = true;
    return r;
}
