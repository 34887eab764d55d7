/* Making images: the new file grows under another name and appears, whole, under its own at the end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/open.h"

/* An empty file beside path, for its owner alone; *ret_name is its name (malloc'd). */
static int blk_create_temp(const char *path, char **ret_name)
{
    AUTO_FREE char *name = NULL;
    int fd;

    if (asprintf(&name, "%s.new-XXXXXX", path) < 0) {
        name = NULL;
        return -ENOMEM;
    }
    fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(fd);
    *ret_name = STEAL(name);
    return 0;
}

static int blk_create_fill(const char *name, const struct blk_format *format, const struct blk_create_config *config,
                           struct blk_why *why)
{
    const struct blk_open_config open = { .path = name,
                                          .cache = config->no_sync ? BLK_CACHE_UNSAFE : BLK_CACHE_WRITEBACK };
    AUTO(blk_node) struct blk_node *file = NULL;
    int res = blk_file_open(&open, &file, why);

    if (res == 0)
        res = format->create(file, config, why);
    return res < 0 ? res : blk_flush(file);
}

/* A block device is filled in place. */
static bool blk_create_in_place(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

int blk_name(const char *temp, const char *path, bool replace)
{
    int res = renameat2(AT_FDCWD, temp, AT_FDCWD, path, replace ? 0 : RENAME_NOREPLACE) < 0 ? -errno : 0;

    if (replace || (res != -EINVAL && res != -ENOSYS))
        return res;
    /* A file system that does not know the flag, such as NFS. */
    if (link(temp, path) < 0)
        return -errno;
    (void)unlink(temp);
    return 0;
}

int blk_create(const struct blk_create_config *config, struct blk_why *why)
{
    const struct blk_format *format = blk_format_find(config->format);
    struct blk_create_config rounded = *config;
    AUTO_FREE char *temp = NULL;
    int res;

    if (why)
        *why = (struct blk_why){ 0 };
    if (!format || !format->create)
        return blk_why_set(why, ENOTSUP, config->path, "cannot be made in this format");
    if (config->size == 0 || config->size > INT64_MAX - BLK_SECTOR)
        return blk_why_set(why, EINVAL, config->path, "needs a size from 512 bytes to 8 EiB");
    rounded.size = align_up(config->size, BLK_SECTOR);
    if (blk_create_in_place(config->path))
        return config->overwrite ? blk_create_fill(config->path, format, &rounded, why) : -EEXIST;
    if (!config->overwrite && faccessat(AT_FDCWD, config->path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    res = blk_create_temp(config->path, &temp);
    if (res < 0)
        return res;
    res = blk_create_fill(temp, format, &rounded, why);
    if (res == 0)
        res = blk_name(temp, config->path, config->overwrite);
    if (res < 0)
        unlink(temp);
    if (res < 0 && why && strcmp(why->path, temp) == 0)
        snprintf(why->path, sizeof(why->path), "%s", config->path);
    return res;
}
