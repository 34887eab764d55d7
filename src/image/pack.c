#include "image/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/tree.h"

#define PACK_XATTR_MAX (64u << 10)
#define PACK_BUCKETS 4096u

/* A file that has several names: the first of them. */
struct pack_link {
    struct pack_link *next;
    size_t layer;
    ino_t ino;
    dev_t dev;
    char path[];
};

struct pack {
    const struct image_pack *config;
    struct archive *tar;
    struct pack_link *links[PACK_BUCKETS];
    uint64_t entries, bytes;
    int error; /* of write */
    char names[PACK_XATTR_MAX], value[PACK_XATTR_MAX];
    uint8_t block[IMAGE_BLOCK];
};

static la_ssize_t pack_write(struct archive *a, void *opaque, const void *data, size_t len)
{
    struct pack *p = opaque;

    if (p->error == 0)
        p->error = p->config->write(p->config->opaque, data, len);
    if (p->error == 0)
        return (la_ssize_t)len;
    archive_set_error(a, -p->error, "%s", strerror(-p->error));
    return -1;
}

/* A call of libarchive; names that are not in the locale's character set are no failure. */
static int pack_check(struct pack *p, int res)
{
    if (res == ARCHIVE_OK || res == ARCHIVE_WARN)
        return 0;
    return p->error ? p->error : archive_errno(p->tar) > 0 ? -archive_errno(p->tar) : -EIO;
}

/* ---- parts of an entry ---- */

/* The first name of a file that has several, NULL: this one is it. */
static int pack_link(struct pack *p, const struct image_tree_entry *entry, const char **ret_first)
{
    size_t bucket = (size_t)(entry->st->st_ino * 31 + entry->layer) % PACK_BUCKETS, len = strlen(entry->path) + 1;
    struct pack_link *l = p->links[bucket];

    while (l && (l->ino != entry->st->st_ino || l->dev != entry->st->st_dev || l->layer != entry->layer))
        l = l->next;
    *ret_first = l ? l->path : NULL;
    if (l)
        return 0;
    l = malloc(sizeof(*l) + len);
    if (!l)
        return -ENOMEM;
    *l = (struct pack_link){
        .next = p->links[bucket], .layer = entry->layer, .ino = entry->st->st_ino, .dev = entry->st->st_dev
    };
    memcpy(l->path, entry->path, len);
    p->links[bucket] = l;
    return 0;
}

static bool pack_wants_xattr(const char *name)
{
    return (strncmp(name, "user.", 5) == 0 && strncmp(name, "user.overlay.", 13) != 0 &&
            strncmp(name, "user.fuseoverlayfs.", 19) != 0) ||
           strcmp(name, "security.capability") == 0 || strcmp(name, "system.posix_acl_access") == 0 ||
           strcmp(name, "system.posix_acl_default") == 0 ||
           (strncmp(name, "trusted.", 8) == 0 && strncmp(name, "trusted.overlay.", 16) != 0);
}

static int pack_xattrs(struct pack *p, int fd, struct archive_entry *e)
{
    ssize_t n = flistxattr(fd, p->names, sizeof(p->names));

    if (n < 0)
        return errno == EOPNOTSUPP ? 0 : -errno;
    for (ssize_t i = 0; i < n; i += (ssize_t)strlen(p->names + i) + 1) {
        ssize_t size = pack_wants_xattr(p->names + i) ? fgetxattr(fd, p->names + i, p->value, sizeof(p->value)) : -1;

        if (size >= 0)
            archive_entry_xattr_add_entry(e, p->names + i, p->value, (size_t)size);
    }
    return 0;
}

/* An empty file that says something about its folder. */
static int pack_marker(struct pack *p, const char *folder, const char *mark, const char *name)
{
    struct archive_entry *e = archive_entry_new();
    char path[PATH_MAX + 32];
    int r;

    if (!e)
        return -ENOMEM;
    snprintf(path, sizeof(path), "%s%s%s%s", folder, *folder ? "/" : "", mark, name);
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0);
    archive_entry_set_size(e, 0);
    archive_entry_set_mtime(e, 0, 0);
    r = pack_check(p, archive_write_header(p->tar, e));
    archive_entry_free(e);
    return r;
}

static int pack_data(struct pack *p, int fd, uint64_t size)
{
    while (size > 0) {
        ssize_t n = read(fd, p->block, (size_t)MIN(size, (uint64_t)sizeof(p->block)));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ESTALE; /* it became shorter meanwhile */
        if (archive_write_data(p->tar, p->block, (size_t)n) != n)
            return pack_check(p, ARCHIVE_FATAL);
        size -= (uint64_t)n;
        p->bytes += (uint64_t)n;
        if (p->config->progress && p->config->progress->step &&
            !p->config->progress->step(p->config->progress->opaque, p->bytes, 0))
            return -ECANCELED;
    }
    return 0;
}

static void pack_attributes(struct archive_entry *e, const struct stat *st, const char *path)
{
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, st->st_mode & S_IFMT);
    archive_entry_set_perm(e, st->st_mode & 07777);
    archive_entry_set_uid(e, st->st_uid);
    archive_entry_set_gid(e, st->st_gid);
    archive_entry_set_mtime(e, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    archive_entry_set_size(e, S_ISREG(st->st_mode) ? st->st_size : 0);
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        archive_entry_set_rdevmajor(e, major(st->st_rdev));
        archive_entry_set_rdevminor(e, minor(st->st_rdev));
    }
}

/* fd: open file or folder, -1 for the others. */
static int pack_entry(struct pack *p, const struct image_tree_entry *entry, int fd, struct archive_entry *e)
{
    const struct stat *st = entry->st;
    const char *first = NULL;
    ssize_t n;
    int r = 0;

    pack_attributes(e, st, entry->path);
    if (S_ISLNK(st->st_mode)) {
        n = readlinkat(entry->dir, entry->name, p->value, sizeof(p->value) - 1);
        if (n < 0)
            return -errno;
        p->value[n] = '\0';
        archive_entry_set_symlink(e, p->value);
    }
    if (!S_ISDIR(st->st_mode) && st->st_nlink > 1)
        r = pack_link(p, entry, &first);
    if (r == 0 && first) {
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_hardlink(e, first);
        archive_entry_set_size(e, 0);
    } else if (r == 0 && fd >= 0) {
        r = pack_xattrs(p, fd, e);
    }
    if (r == 0)
        r = pack_check(p, archive_write_header(p->tar, e));
    return r == 0 && !first && S_ISREG(st->st_mode) ? pack_data(p, fd, (uint64_t)st->st_size) : r;
}

static int pack_one(void *opaque, const struct image_tree_entry *entry)
{
    struct pack *p = opaque;
    const struct stat *st = entry->st;
    struct archive_entry *e;
    AUTO_FD int fd = -1;
    int r;

    if (S_ISSOCK(st->st_mode)) /* no tar has a kind for it, and it dies with its process */
        return 0;
    p->entries++;
    if (S_ISCHR(st->st_mode) && st->st_rdev == 0) {
        size_t folder = strlen(entry->path) - strlen(entry->name);
        char path[PATH_MAX];

        snprintf(path, sizeof(path), "%.*s", folder ? (int)folder - 1 : 0, entry->path);
        return pack_marker(p, path, ".wh.", entry->name);
    }
    if (S_ISDIR(st->st_mode) || S_ISREG(st->st_mode)) {
        fd = openat(entry->dir, entry->name,
                    O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (S_ISDIR(st->st_mode) ? O_DIRECTORY : 0));
        if (fd < 0)
            return -errno;
    }
    e = archive_entry_new();
    if (!e)
        return -ENOMEM;
    r = pack_entry(p, entry, fd, e);
    archive_entry_free(e);
    return r == 0 && entry->opaque && p->config->changes ? pack_marker(p, entry->path, ".wh..wh.", ".opq") : r;
}

/* The root folder itself; a layer without another change is empty all the same. */
static int pack_root(struct pack *p)
{
    struct archive_entry *e = archive_entry_new();
    struct stat st;
    int r;

    if (!e)
        return -ENOMEM;
    if (fstat(p->config->layers[0], &st) < 0) {
        r = -errno;
    } else {
        pack_attributes(e, &st, ".");
        r = pack_check(p, archive_write_header(p->tar, e));
    }
    archive_entry_free(e);
    return r;
}

static int pack_open(struct pack *p)
{
    p->tar = archive_write_new();
    if (!p->tar)
        return -ENOMEM;
    /* Full pax for times below seconds. */
    if (archive_write_set_format_pax(p->tar) != ARCHIVE_OK ||
        archive_write_set_format_option(p->tar, "pax", "xattrheader", "SCHILY") < ARCHIVE_WARN ||
        archive_write_set_bytes_per_block(p->tar, 10240) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(p->tar, 1) != ARCHIVE_OK ||
        archive_write_open(p->tar, p, NULL, pack_write, NULL) != ARCHIVE_OK)
        return -EIO;
    return 0;
}

int image_pack(const struct image_pack *config, uint64_t *ret_entries, struct err *e)
{
    struct pack *p = calloc(1, sizeof(*p));
    struct image_tree walk = {
        .layers = config->layers, .n = config->n, .whiteouts = config->changes, .fn = pack_one, .opaque = p
    };
    char path[PATH_MAX] = "";
    /* Names are bytes: in "C", libarchive writes those that are not ASCII as they are, and does not compose them. */
    locale_t plain = newlocale(LC_CTYPE_MASK, "C", NULL), before = plain ? uselocale(plain) : NULL;
    int r = p && plain ? 0 : -ENOMEM;

    if (r == 0) {
        p->config = config;
        r = pack_open(p);
    }
    if (r == 0)
        r = pack_root(p);
    if (r == 0)
        r = image_tree_walk(&walk, path);
    if (r == 0)
        r = pack_check(p, archive_write_close(p->tar));
    if (r == 0 && ret_entries)
        *ret_entries = p->entries;
    for (size_t i = 0; p && i < PACK_BUCKETS; i++) {
        for (struct pack_link *next, *l = p->links[i]; l; l = next) {
            next = l->next;
            free(l);
        }
    }
    if (p && r < 0 && !p->error)
        p->error = r; /* freeing an archive closes it, and nobody wants to have that */
    if (p)
        archive_write_free(p->tar);
    free(p);
    if (plain) {
        uselocale(before);
        freelocale(plain);
    }
    if (r == 0)
        return 0;
    if (r == -ECANCELED)
        return err_set(e, ECANCELED, "canceled");
    if (r == -ELOOP)
        return err_set(e, ELOOP, "cannot pack '%.100s...': more than %d folders in each other, which no layer may have",
                       path, IMAGE_DEPTH_MAX);
    return err_set(e, -r, "cannot pack '%.200s': %s", path[0] ? path : "/",
                   r == -ESTALE ? "it changes while it is read" : strerror(-r));
}

/* ---- a layer ---- */

struct layer_pack {
    struct image_blob *blob;
    struct image_sum sum;   /* of the tar */
    struct archive *filter; /* NULL: uncompressed */
    struct err *e;
};

static int layer_to_blob(void *opaque, const void *data, size_t len)
{
    struct layer_pack *l = opaque;

    return image_blob_write(l->blob, data, len, l->e);
}

static la_ssize_t layer_from_filter(struct archive *a, void *opaque, const void *data, size_t len)
{
    if (layer_to_blob(opaque, data, len) == 0)
        return (la_ssize_t)len;
    archive_set_error(a, EIO, "cannot write");
    return -1;
}

static int layer_write(void *opaque, const void *data, size_t len)
{
    struct layer_pack *l = opaque;

    image_sum_add(&l->sum, data, len);
    if (!l->filter)
        return layer_to_blob(l, data, len);
    if (archive_write_data(l->filter, data, len) == (la_ssize_t)len)
        return 0;
    return l->e->code ? -l->e->code : -EIO;
}

static int layer_filter_open(struct layer_pack *l, enum image_compress compress)
{
    struct archive_entry *e;
    int r = -ENOMEM;

    if (compress == IMAGE_COMPRESS_NONE)
        return 0;
    l->filter = archive_write_new();
    e = archive_entry_new();
    if (l->filter && e) {
        archive_entry_set_pathname(e, "layer.tar");
        archive_entry_set_filetype(e, AE_IFREG);
        if (compress == IMAGE_COMPRESS_GZIP) { /* the same bytes give the same blob: no time */
            archive_write_add_filter_gzip(l->filter);
            archive_write_set_filter_option(l->filter, "gzip", "timestamp", NULL);
        } else {
            archive_write_add_filter_zstd(l->filter);
        }
        archive_write_set_bytes_per_block(l->filter, 0);
        r = archive_write_set_format_raw(l->filter) == ARCHIVE_OK &&
                    archive_write_open(l->filter, l, NULL, layer_from_filter, NULL) == ARCHIVE_OK &&
                    archive_write_header(l->filter, e) == ARCHIVE_OK
                ? 0
                : -EIO;
    }
    archive_entry_free(e);
    return r;
}

int image_layer_pack(struct image_add *a, int folder, bool changes, enum image_compress compress,
                     const struct disk_progress *progress, struct image_layer *ret_layer, struct err *e)
{
    struct image_layer layer = { .compress = compress };
    struct err own = { 0 };
    struct layer_pack l = { .e = &own };
    const struct image_pack pack = {
        .layers = &folder, .n = 1, .changes = changes, .write = layer_write, .opaque = &l, .progress = progress
    };
    uint64_t entries = 0;
    int r;

    image_sum_begin(&l.sum);
    r = image_blob_begin(a, &l.blob, &own);
    if (r == 0 && layer_filter_open(&l, compress) < 0)
        r = err_set(&own, ENOMEM, "out of memory");
    if (r == 0) {
        struct err packing = { 0 };

        r = image_pack(&pack, &entries, &packing);
        if (r < 0 && !own.code) /* else the blob says it better */
            own = packing;
    }
    if (r == 0 && l.filter && archive_write_close(l.filter) != ARCHIVE_OK)
        r = own.code ? -own.code : err_set(&own, EIO, "cannot compress a layer");
    if (r == 0 && image_sum_end(&l.sum, layer.diff_id) < 0)
        r = err_set(&own, ENOMEM, "out of memory");
    layer.empty = entries == 0 && changes;
    if (r == 0 && !layer.empty)
        r = image_blob_end(STEAL(l.blob), NULL, UINT64_MAX, layer.digest, &layer.size, &own);
    archive_write_free(l.filter);
    image_sum_done(&l.sum);
    image_blob_free(l.blob);
    if (r == 0)
        *ret_layer = layer;
    else if (e)
        *e = own;
    return r;
}
