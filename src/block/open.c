/* Opening: protocol by the form of the name, format by the caller's word or, where there is none, by the first bytes;
 * then the backing chain, one file after the other, each read-only. */
#include "block/open.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"

#define BLK_PROBE_BYTES 4096

/* In the order of names. */
static const struct blk_format *const blk_formats[] = {
    &blk_format_luks, &blk_format_qcow2, &blk_format_raw, &blk_format_vhdx, &blk_format_vmdk,
};

const struct blk_format *blk_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(blk_formats); i++) {
        if (strcmp(blk_formats[i]->name, name) == 0)
            return blk_formats[i];
    }
    return NULL;
}

const char *blk_probe(const uint8_t *head, size_t len)
{
    const char *best = "raw";
    int best_score = 0;

    for (size_t i = 0; i < ARRAY_SIZE(blk_formats); i++) {
        int score = blk_formats[i]->probe ? blk_formats[i]->probe(head, len) : 0;

        if (score > best_score) {
            best_score = score;
            best = blk_formats[i]->name;
        }
    }
    return best;
}

/* ---- protocols ---- */

static bool blk_starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool blk_is_nbd(const char *path)
{
    return blk_starts(path, "nbd:") || blk_starts(path, "nbds:") || blk_starts(path, "nbd+unix:") ||
           blk_starts(path, "nbds+unix:");
}

static bool blk_is_remote(const char *path)
{
    return blk_is_nbd(path) || blk_starts(path, "rbd:");
}

static int blk_protocol_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    if (blk_is_nbd(config->path))
        return blk_nbd_open(config, ret_node, why);
    if (blk_starts(config->path, "rbd:"))
        return blk_rbd_open(config, ret_node, why);
    return blk_file_open(config, ret_node, why);
}

/* ---- files that an image names ---- */

/* Relative names start at the folder of the image. QEMU's "file:" prefix is understood, its "json:" is not. *ret:
 * malloc'd. */
static int blk_child_path(const char *image_path, const char *path, char **ret, struct blk_why *why)
{
    const char *slash = strrchr(image_path, '/');
    int n;

    if (blk_starts(path, "json:"))
        return blk_why_set(why, ENOTSUP, image_path, "names another file as json:{...}, which is not supported");
    if (blk_starts(path, "file:"))
        path += strlen("file:");
    if (path[0] == '\0')
        return blk_why_set(why, EMEDIUMTYPE, image_path, "names a file without a name");
    if (path[0] == '/' || blk_is_remote(path) || !slash || blk_is_remote(image_path))
        n = asprintf(ret, "%s", path);
    else
        n = asprintf(ret, "%.*s/%s", (int)(slash - image_path), image_path, path);
    return n < 0 ? -ENOMEM : 0;
}

static bool blk_is_below(const char *path, const char *dir)
{
    AUTO_FREE char *real = realpath(dir, NULL);
    size_t len = real ? strlen(real) : 0;

    return real && strncmp(path, real, len) == 0 && (path[len] == '/' || len == 1);
}

/* The name without links, if it lies where files may lie. */
static int blk_child_allowed(const struct blk_open_config *config, const char *image_path, char **path,
                             struct blk_why *why)
{
    char *real;

    if (!config->allowed_dirs)
        return 0;
    if (blk_is_remote(*path))
        return blk_why_set(why, EPERM, image_path, "names a disk of another machine, which is not allowed here");
    real = realpath(*path, NULL);
    if (!real) {
        int code = errno;

        (void)blk_why_set(why, code, *path, NULL);
        return -code;
    }
    free(*path);
    *path = real;
    for (const char *const *dir = config->allowed_dirs; *dir; dir++) {
        if (blk_is_below(real, *dir))
            return 0;
    }
    return blk_why_set(why, EPERM, image_path, "names a file outside the folders that are allowed");
}

static int blk_child_resolve(const struct blk_open_config *config, const char *image_path, const char *path, char **ret,
                             struct blk_why *why)
{
    int res = blk_child_path(image_path, path, ret, why);

    return res < 0 ? res : blk_child_allowed(config, image_path, ret, why);
}

int blk_open_child(const struct blk_open_config *config, const char *image_path, const char *path, bool read_only,
                   struct blk_node **ret_node, struct blk_why *why)
{
    AUTO_FREE char *full = NULL;
    struct blk_open_config child = *config;
    int res = blk_child_resolve(config, image_path, path, &full, why);

    if (res < 0)
        return res;
    child.path = full;
    child.read_only = read_only;
    return blk_protocol_open(&child, ret_node, why);
}

/* ---- one image ---- */

static int blk_find_format(struct blk_node *file, const struct blk_open_config *config, const struct blk_format **ret,
                           struct blk_why *why)
{
    AUTO_FREE uint8_t *head = NULL;
    int res;

    if (config->format) {
        *ret = blk_format_find(config->format);
        return *ret ? 0 : blk_why_set(why, ENOTSUP, config->path, "is said to have a format that is not known");
    }
    head = calloc(1, BLK_PROBE_BYTES);
    if (!head)
        return -ENOMEM;
    res = blk_pread(file, 0, head, MIN(file->size, BLK_PROBE_BYTES));
    if (res == 0)
        *ret = blk_format_find(blk_probe(head, MIN(file->size, BLK_PROBE_BYTES)));
    return res;
}

static int blk_open_one(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    AUTO(blk_node) struct blk_node *file = NULL;
    AUTO(blk_node) struct blk_node *n = NULL;
    const struct blk_format *format = NULL;
    int res = blk_protocol_open(config, &file, why);

    if (res == 0)
        res = blk_find_format(file, config, &format, why);
    if (res < 0)
        return res;
    if (!config->read_only && !format->can_write)
        return blk_why_set(why, EROFS, config->path, "has a format that can only be read");
    if (config->snapshot && (!config->read_only || strcmp(format->name, "qcow2") != 0))
        return blk_why_set(why, ENOTSUP, config->path, "has a format without snapshots");
    res = format->open(file, config, &n, why);
    if (res < 0)
        return res;
    (void)STEAL(file);
    if (!n->path)
        n->path = strdup(config->path);
    if (!n->path)
        return -ENOMEM;
    *ret_node = STEAL(n);
    return 0;
}

/* ---- the chain ---- */

struct blk_chain {
    dev_t dev[BLK_CHAIN_MAX];
    ino_t ino[BLK_CHAIN_MAX];
    unsigned n;
};

/* -ELOOP where the file is in the chain already, or the chain is too long. */
static int blk_chain_add(struct blk_chain *c, const char *path, struct blk_why *why)
{
    struct stat st = { 0 };
    bool known = stat(path, &st) == 0;

    if (c->n == BLK_CHAIN_MAX)
        return blk_why_set(why, ELOOP, path, "ends a chain of more than 64 backing files");
    for (unsigned i = 0; known && i < c->n; i++) {
        if (c->dev[i] == st.st_dev && c->ino[i] == st.st_ino)
            return blk_why_set(why, ELOOP, path, "is its own backing file, directly or by way of others");
    }
    c->dev[c->n] = st.st_dev;
    c->ino[c->n++] = st.st_ino;
    return 0;
}

/* Open what lies below n; stated: its format was given, not probed. */
static int blk_chain_open(const struct blk_open_config *config, struct blk_node *n, bool stated, struct blk_why *why)
{
    struct blk_chain chain = { 0 };
    int res = blk_chain_add(&chain, config->path, why);

    while (res == 0) {
        AUTO_FREE char *full = NULL;
        struct blk_open_config lower = *config;
        struct blk_info info;

        blk_node_info(n, &info);
        if (!info.backing_path)
            return 0;
        /* A disk that was raw when a guest wrote to it may have been made to look like an image that names the host's
         * files. */
        if (!stated)
            return blk_why_set(why, EPERM, n->path,
                               "is a backing file whose format is not stated, and names a backing file itself");
        res = blk_child_resolve(config, n->path, info.backing_path, &full, why);
        if (res == 0)
            res = blk_chain_add(&chain, full, why);
        if (res < 0)
            return res;
        lower.path = full;
        lower.format = info.backing_format;
        lower.read_only = true;
        lower.guessed = !lower.format;
        lower.snapshot = NULL;
        res = blk_open_one(&lower, &n->backing, why);
        stated = lower.format != NULL;
        n = n->backing;
    }
    return res;
}

int blk_open(const struct blk_open_config *config, struct blk_node **ret_node, struct blk_why *why)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    int res;

    if (why)
        *why = (struct blk_why){ 0 };
    res = blk_open_one(config, &n, why);
    if (res == 0 && config->backing == BLK_BACKING_OPEN)
        res = blk_chain_open(config, n, true, why);
    if (res < 0) {
        if (why && !why->path[0])
            (void)blk_why_set(why, -res, config->path, why->text);
        return res;
    }
    *ret_node = STEAL(n);
    return 0;
}
