/* Opening and making disks for tools, and the words for what goes wrong. */
#include "store/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bits.h"
#include "store/disk_priv.h"

/* What an errno means for a disk, with the remedy. NULL: strerror says it. */
static const char *disk_cause(int code)
{
    static const struct {
        int code;
        const char *text;
    } causes[] = {
        { ENOENT, "there is no such file; check the name" },
        { EEXIST, "it exists already; choose another name, or overwrite it with --force" },
        { EBUSY, "it is in use by another process; end that first, or ask the VM that runs it" },
        { EACCES, "permission denied; change the file's mode or owner, or run as its owner" },
        { EPERM, "the host does not allow it; run as the file's owner" },
        { EROFS, "it can only be read; make the file or file system writable" },
        { EISDIR, "it is a folder; name a file in it" },
        { ENOTDIR, "a part of its path is no folder; check the name" },
        { ENOTBLK, "it is neither a regular file nor a block device" },
        { ENOSPC, "no space is left on the file system; make room there" },
        { EDQUOT, "the quota of the file system is used up; make room there" },
        { EFBIG, "it would be larger than the format or the file system can hold" },
        { EMEDIUMTYPE, "it is not an image of that format, or a damaged one; check it with 'caisson disk check'" },
        { ENOMEDIUM, "it is empty; make a disk with 'caisson disk create'" },
        { ELOOP, "its chain of backing files never ends; look at it with 'caisson disk info'" },
        { ENOKEY, "it is encrypted; give its passphrase with --secret file:PATH" },
        { EKEYREJECTED, "the passphrase is wrong; give the right one with --secret file:PATH" },
        { ENOTSUP, "its format has no such thing" },
        { ENOMEM, "out of memory" },
        { ECANCELED, "cancelled" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
        if (causes[i].code == code)
            return causes[i].text;
    }
    return strerror(code);
}

int disk_fail(struct err *e, int res, const char *path, const struct blk_why *why, const char *what)
{
    const char *object = why && why->path[0] ? why->path : path;
    const char *via = strcmp(object, path) != 0 ? path : NULL; /* a backing file, perhaps */

    if (why && why->text)
        return err_set(e, -res, "disk %.200s: %s%s%.120s%s", object, why->text, via ? " (it belongs to " : "",
                       via ? via : "", via ? ")" : "");
    return err_set(e, -res, "disk %.200s: cannot %s: %s%s%.120s%s", object, what, disk_cause(-res),
                   via ? " (it belongs to " : "", via ? via : "", via ? ")" : "");
}

int disk_open(const struct blk_open_config *config, struct blk_node **ret_node, struct err *e)
{
    struct blk_why why = { 0 };
    int res = blk_open(config, ret_node, &why);

    return res < 0 ? disk_fail(e, res, config->path, &why, "open it") : 0;
}

int disk_open_alone(const struct blk_open_config *config, bool read_only, struct blk_node **ret_node, struct err *e)
{
    struct blk_open_config c = *config;

    c.read_only = read_only;
    c.backing = BLK_BACKING_NONE;
    c.no_data = true;
    return disk_open(&c, ret_node, e);
}

int disk_check_replace(const char *path, struct err *e)
{
    const struct blk_open_config open = { .path = path, .format = "raw" };
    AUTO(blk_node) struct blk_node *old = NULL;
    struct blk_why why = { 0 };
    struct stat st;
    int res;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : disk_fail(e, -errno, path, NULL, "make it");
    if (!S_ISREG(st.st_mode))
        return err_set(e, EINVAL, "disk %s: it is neither a regular file nor a block device; choose another name",
                       path);
    res = blk_file_open(&open, &old, &why); /* its lock */
    return res < 0 ? disk_fail(e, res, path, &why, "replace it") : 0;
}

bool disk_same_file(const char *a, const char *b)
{
    struct stat one, other;

    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

int disk_check_loop(struct blk_node *backing, const char *path, struct err *e)
{
    for (const struct blk_node *n = backing; n; n = n->backing) {
        if (disk_same_file(n->path, path))
            return err_set(e, ELOOP, "disk %s: it would be its own backing file; choose another", path);
    }
    return 0;
}

bool disk_path_is_file(const char *path)
{
    size_t scheme = strcspn(path, ":/");

    return path[scheme] != ':' || (strncmp(path + scheme, "://", 3) != 0 && strncmp(path, "rbd:", 4) != 0);
}

int disk_backing_path(const char *image, const char *backing, char **ret_path)
{
    const char *slash = strrchr(image, '/');
    int n;

    if (strncmp(backing, "file:", 5) == 0)
        backing += 5;
    if (backing[0] == '/' || !slash || !disk_path_is_file(backing))
        n = asprintf(ret_path, "%s", backing);
    else
        n = asprintf(ret_path, "%.*s/%s", (int)(slash - image), image, backing);
    return n < 0 ? -ENOMEM : 0;
}

/* The new image's size, where none was given: that of its backing file, which has to be there in any case. */
static int disk_create_backing(struct blk_create_config *config, struct err *e)
{
    AUTO_FREE char *full = NULL;
    AUTO(blk_node) struct blk_node *backing = NULL;
    struct blk_info info;
    int res = disk_backing_path(config->path, config->backing_path, &full);

    if (res < 0)
        return err_set(e, ENOMEM, "out of memory");
    res = disk_open(&(struct blk_open_config){ .path = full,
                                               .format = config->backing_format,
                                               .read_only = true,
                                               .no_data = true,
                                               .sharing = BLK_LOCK_NONE },
                    &backing, e);
    if (res == 0)
        res = disk_check_loop(backing, config->path, e);
    if (res < 0)
        return res;
    blk_node_info(backing, &info);
    if (!config->backing_format) /* the format is written down, so that nobody has to guess it later */
        config->backing_format = info.format;
    if (config->size == 0)
        config->size = backing->size;
    return 0;
}

int disk_create(const struct blk_create_config *config, struct err *e)
{
    struct blk_create_config c = *config;
    struct blk_why why = { 0 };
    struct stat st;
    int res = 0;

    if (c.backing_path && strcmp(c.format, "qcow2") != 0)
        return err_set(e, EINVAL, "disk %s: the format %s has no backing files; use --format qcow2", c.path, c.format);
    if (c.backing_path)
        res = disk_create_backing(&c, e);
    if (res < 0)
        return res;
    if (c.overwrite && !(stat(c.path, &st) == 0 && S_ISBLK(st.st_mode))) /* a device is filled in place */
        res = disk_check_replace(c.path, e);
    if (res < 0)
        return res;
    if (c.size == 0)
        return err_set(e, EINVAL, "disk %s: no size; give one, e.g. 'caisson disk create %s 10G'", c.path, c.path);
    res = blk_create(&c, &why);
    return res < 0 ? disk_fail(e, res, c.path, &why, "make it") : 0;
}

int disk_size(const struct blk_open_config *config, uint64_t *ret_size, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    int res = disk_open_alone(config, true, &n, e);

    if (res == 0)
        *ret_size = n->size;
    return res;
}

int disk_resize(const struct blk_open_config *config, uint64_t size, bool shrink, enum blk_prealloc prealloc,
                struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_why why = { 0 };
    int res;

    if (size == 0 || size % BLK_SECTOR || size > INT64_MAX)
        return err_set(e, EINVAL, "disk %s: %llu bytes are no possible size; use a multiple of 512", config->path,
                       (unsigned long long)size);
    /* With the backing file: what it holds behind the old end must not become visible. */
    res = disk_open(config, &n, e);
    if (res < 0)
        return res;
    if (size < n->size && !shrink)
        return err_set(e, EINVAL,
                       "disk %s: it has %llu bytes, so that %llu would cut off its end; say --shrink if that is meant",
                       config->path, (unsigned long long)n->size, (unsigned long long)size);
    res = blk_resize(n, size, prealloc, &why);
    if (res == 0)
        res = blk_flush(n);
    return res < 0 ? disk_fail(e, res, config->path, &why, "change its size") : 0;
}

int disk_check(const struct blk_open_config *config, unsigned fix, struct blk_check *ret_check, struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_why why = { 0 };
    struct blk_check check = { 0 };
    int res = disk_open_alone(config, fix == 0, &n, e);

    if (res < 0)
        return res;
    if (!n->ops->check)
        return err_set(e, ENOTSUP, "disk %s: the format %s has no structure that could be checked", config->path,
                       n->ops->name);
    res = n->ops->check(n, fix, &check, &why);
    if (res == 0)
        res = blk_flush(n);
    if (res < 0)
        return disk_fail(e, res, config->path, &why, "check it");
    *ret_check = check;
    return 0;
}

static int disk_map_same(const struct blk_extent *a, const struct blk_extent *b)
{
    return a->flags == b->flags && a->depth == b->depth &&
           (!(a->flags & BLK_EXT_HOST) || a->host_off + a->len == b->host_off);
}

static const char *disk_map_path(struct blk_node *n, unsigned depth)
{
    while (depth-- > 0 && n->backing)
        n = n->backing;
    return n->path;
}

int disk_map(const struct blk_open_config *config,
             int (*each)(void *opaque, uint64_t off, const struct blk_extent *x, const char *path), void *opaque,
             struct err *e)
{
    AUTO(blk_node) struct blk_node *n = NULL;
    struct blk_open_config c = *config;
    struct blk_extent whole = { 0 }, x;
    uint64_t start = 0;
    int res;

    c.read_only = true;
    res = disk_open(&c, &n, e);
    if (res < 0)
        return res;
    for (uint64_t at = 0; at < n->size; at += x.len) {
        res = blk_extent(n, at, n->size - at, &x);
        if (res < 0)
            return disk_fail(e, res, c.path, NULL, "find out what it consists of");
        if (whole.len > 0 && disk_map_same(&whole, &x)) {
            whole.len += x.len;
            continue;
        }
        res = whole.len > 0 ? each(opaque, start, &whole, disk_map_path(n, whole.depth)) : 0;
        if (res < 0)
            return err_set(e, -res, "disk %s: cannot print its map: %s", c.path, strerror(-res));
        start = at;
        whole = x;
    }
    res = whole.len > 0 ? each(opaque, start, &whole, disk_map_path(n, whole.depth)) : 0;
    return res < 0 ? err_set(e, -res, "disk %s: cannot print its map: %s", c.path, strerror(-res)) : 0;
}
