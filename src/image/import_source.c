#include "image/import_source.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"

#define SOURCE_FILES_MAX 8192
#define SOURCE_LINKS_MAX 8

struct source_file {
    char *name;
    char *link; /* the name that it stands for; NULL: a file */
    char digest[IMAGE_DIGEST_MAX];
    uint64_t size;
};

struct import_source {
    struct image_add *add;
    const struct disk_progress *progress;
    const char *path;
    int folder; /* -1: it was a tar */
    struct source_file *files;
    size_t n_files;
};

void import_source_free(struct import_source *s)
{
    if (!s)
        return;
    base_closep(&s->folder);
    for (size_t i = 0; i < s->n_files; i++) {
        free(s->files[i].name);
        free(s->files[i].link);
    }
    free(s->files);
    free(s);
}

static bool source_step(const struct disk_progress *p, uint64_t done, uint64_t total)
{
    return !p || !p->step || p->step(p->opaque, MIN(done, total), total);
}

/* ---- a tar ---- */

struct source_tar {
    struct archive *archive;
    int fd;
    uint64_t read, total;
    uint8_t block[IMAGE_BLOCK];
};

static la_ssize_t source_read(struct archive *a, void *opaque, const void **ret_data)
{
    struct source_tar *t = opaque;
    ssize_t n;

    do
        n = read(t->fd, t->block, sizeof(t->block));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        archive_set_error(a, errno, "%s", strerror(errno));
    else
        t->read += (uint64_t)n;
    *ret_data = t->block;
    return n;
}

/* Without "./" and "/" in front. */
static const char *source_plain(const char *name)
{
    while (name[0] == '/' || (name[0] == '.' && name[1] == '/'))
        name += name[0] == '/' ? 1 : 2;
    return name;
}

/* What a symbolic link at name means, as a name: "a/b" -> "../c" is "c". NULL: it leads out, or no memory. */
static char *source_resolve(const char *name, const char *target)
{
    char path[PATH_MAX], *out = malloc(PATH_MAX);
    size_t used = 0;
    char *rest = path, *part;
    const char *slash = strrchr(name, '/');

    if (!out || snprintf(path, sizeof(path), "%.*s/%s", target[0] == '/' || !slash ? 0 : (int)(slash - name), name,
                         target) >= (int)sizeof(path)) {
        free(out);
        return NULL;
    }
    while ((part = strsep(&rest, "/"))) {
        if (!*part || strcmp(part, ".") == 0)
            continue;
        if (strcmp(part, "..") == 0) {
            char *up = used ? memrchr(out, '/', used) : NULL;

            used = up ? (size_t)(up - out) : 0;
            continue;
        }
        used += (size_t)snprintf(out + used, PATH_MAX - used, "%s%s", used ? "/" : "", part);
    }
    out[used] = '\0';
    return out;
}

static int source_keep(struct import_source *s, struct source_tar *t, struct source_file *f, struct err *e)
{
    AUTO(image_blob) struct image_blob *b = NULL;
    const void *data;
    size_t len;
    la_int64_t at;
    uint64_t written = 0;
    int res, r = image_blob_begin(s->add, &b, e);

    while (r == 0 && (res = archive_read_data_block(t->archive, &data, &len, &at)) == ARCHIVE_OK) {
        if ((uint64_t)at != written) /* a sparse file: no writer of images makes one */
            return err_set(e, EBADMSG, "%s: '%.100s' has holes; make the archive without --sparse", s->path, f->name);
        r = image_blob_write(b, data, len, e);
        written += len;
        if (r == 0 && !source_step(s->progress, t->read, t->total))
            r = err_set(e, ECANCELED, "canceled");
    }
    if (r < 0)
        return r;
    if (res != ARCHIVE_EOF)
        return err_set(e, EBADMSG, "%s is damaged at '%.100s': %s", s->path, f->name, archive_error_string(t->archive));
    return image_blob_end(STEAL(b), NULL, UINT64_MAX, f->digest, &f->size, e);
}

static int source_take(struct import_source *s, struct source_tar *t, struct archive_entry *entry, struct err *e)
{
    const char *name = archive_entry_pathname(entry), *symlink = archive_entry_symlink(entry),
               *hardlink = archive_entry_hardlink(entry);
    struct source_file *f;

    if (!name || (archive_entry_filetype(entry) != AE_IFREG && !symlink && !hardlink))
        return 0;
    if (s->n_files == SOURCE_FILES_MAX)
        return err_set(e, EBADMSG,
                       "%s has more than %d files, as no archive of images has; a root file system is imported with "
                       "--rootfs",
                       s->path, SOURCE_FILES_MAX);
    f = reallocarray(s->files, s->n_files + 1, sizeof(*f));
    if (!f)
        return err_set(e, ENOMEM, "out of memory");
    s->files = f;
    f += s->n_files;
    *f = (struct source_file){ 0 };
    s->n_files++; /* freed from now on */
    f->name = strdup(source_plain(name));
    if (!f->name)
        return err_set(e, ENOMEM, "out of memory");
    if (symlink) {
        f->link = source_resolve(f->name, symlink); /* one that leads out is never found */
    } else if (hardlink) {
        f->link = strdup(source_plain(hardlink));
        if (!f->link)
            return err_set(e, ENOMEM, "out of memory");
    }
    return symlink || hardlink ? 0 : source_keep(s, t, f, e);
}

static int source_read_tar(struct import_source *s, int fd, struct err *e)
{
    struct source_tar *t = calloc(1, sizeof(*t));
    struct archive_entry *entry;
    struct stat st;
    int res = ARCHIVE_FATAL, r = 0;

    if (t)
        t->archive = archive_read_new();
    if (!t || !t->archive) {
        free(t);
        return err_set(e, ENOMEM, "out of memory");
    }
    t->fd = fd;
    t->total = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    archive_read_support_filter_gzip(t->archive);
    archive_read_support_filter_zstd(t->archive);
    archive_read_support_filter_xz(t->archive);
    archive_read_support_filter_bzip2(t->archive);
    archive_read_support_format_tar(t->archive);
    if (archive_read_open(t->archive, t, NULL, source_read, NULL) == ARCHIVE_OK)
        while (r == 0 && ((res = archive_read_next_header(t->archive, &entry)) == ARCHIVE_OK || res == ARCHIVE_WARN))
            r = source_take(s, t, entry, e);
    if (r == 0 && res != ARCHIVE_EOF)
        r = err_set(e, EBADMSG, "%s is no archive of images: %s", s->path, archive_error_string(t->archive));
    archive_read_free(t->archive);
    free(t);
    return r;
}

/* ---- either ---- */

int import_source_open(struct image_add *a, const char *path, const struct disk_progress *progress,
                       struct import_source **ret_source, struct err *e)
{
    AUTO(import_source) struct import_source *s = calloc(1, sizeof(*s));
    bool standard = strcmp(path, "-") == 0;
    AUTO_FD int fd = standard ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;

    if (!s)
        return err_set(e, ENOMEM, "out of memory");
    s->folder = -1;
    s->add = a;
    s->progress = progress;
    s->path = standard ? "standard input" : path;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(e, errno, "cannot open %s: %s", s->path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        s->folder = STEAL_FD(fd);
    } else {
        int r = source_read_tar(s, fd, e);

        if (r < 0)
            return r;
    }
    *ret_source = STEAL(s);
    return 0;
}

static const struct source_file *source_find(const struct import_source *s, const char *name)
{
    for (unsigned links = 0; name && links < SOURCE_LINKS_MAX; links++) {
        const struct source_file *found = NULL;

        for (size_t i = 0; i < s->n_files; i++) /* the last one counts, as unpacking would have it */
            found = strcmp(s->files[i].name, source_plain(name)) == 0 ? &s->files[i] : found;
        if (!found || !found->link)
            return found && found->digest[0] ? found : NULL;
        name = found->link;
    }
    return NULL;
}

static int source_open_file(const struct import_source *s, const char *name)
{
    struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, .resolve = RESOLVE_BENEATH };
    int fd = (int)syscall(SYS_openat2, s->folder, source_plain(name), &how, sizeof(how));
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return -ENOENT;
}

bool import_source_has(struct import_source *s, const char *name)
{
    AUTO_FD int fd = s->folder < 0 ? -1 : source_open_file(s, name);

    return s->folder < 0 ? source_find(s, name) != NULL : fd >= 0;
}

int import_copy(struct image_add *a, int fd, const char *digest, uint64_t size, const struct disk_progress *progress,
                char ret_digest[IMAGE_DIGEST_MAX], uint64_t *ret_size, struct err *e)
{
    AUTO(image_blob) struct image_blob *b = NULL;
    AUTO_FREE uint8_t *data = malloc(IMAGE_BLOCK);
    struct stat st;
    uint64_t total = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0, done = 0;
    int r = data ? image_blob_begin(a, &b, e) : err_set(e, ENOMEM, "out of memory");

    while (r == 0) {
        ssize_t n = read(fd, data, IMAGE_BLOCK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, errno, "cannot read blob %s: %s", digest ? digest : "", strerror(errno));
        if (n == 0)
            break;
        r = image_blob_write(b, data, (size_t)n, e);
        done += (uint64_t)n;
        if (r == 0 && !source_step(progress, done, total))
            r = err_set(e, ECANCELED, "canceled");
    }
    return r < 0 ? r : image_blob_end(STEAL(b), digest, size, ret_digest, ret_size, e);
}

int import_source_blob(struct import_source *s, const char *name, const char *digest, uint64_t size,
                       char ret_digest[IMAGE_DIGEST_MAX], uint64_t *ret_size, struct err *e)
{
    const struct source_file *f;
    AUTO_FD int fd = -1;

    if (s->folder >= 0) {
        fd = source_open_file(s, name);
        if (fd < 0)
            return err_set(e, -fd, "%s is damaged: it has no file '%.100s' (%s)", s->path, name, strerror(-fd));
        return import_copy(s->add, fd, digest, size, s->progress, ret_digest, ret_size, e);
    }
    f = source_find(s, name);
    if (!f)
        return err_set(e, EBADMSG, "%s is damaged: it has no file '%.100s'", s->path, name);
    if (digest && strcmp(digest, f->digest) != 0)
        return err_set(e, EBADMSG, "blob %s is damaged: its content is %s; get the image again", digest, f->digest);
    if (size != UINT64_MAX && size != f->size)
        return err_set(e, EBADMSG, "blob %s has %llu bytes instead of %llu; get the image again", f->digest,
                       (unsigned long long)f->size, (unsigned long long)size);
    memcpy(ret_digest, f->digest, sizeof(f->digest));
    *ret_size = f->size;
    return 0;
}

int import_source_document(struct import_source *s, const char *name, struct buf *ret, struct err *e)
{
    const struct source_file *f = s->folder < 0 ? source_find(s, name) : NULL;
    AUTO_FD int fd = -1;
    int r;

    buf_init(ret, OCI_DOCUMENT_MAX);
    if (s->folder < 0 && !f)
        return err_set(e, EBADMSG, "%s is damaged: it has no file '%.100s'", s->path, name);
    fd = f ? image_blob_open(s->add, f->digest, NULL, e) : source_open_file(s, name);
    if (fd < 0)
        return f ? fd : err_set(e, -fd, "%s is damaged: it has no file '%.100s' (%s)", s->path, name, strerror(-fd));
    r = fd_read_all(fd, ret);
    return r == 0        ? 0
           : r == -E2BIG ? err_set(e, EBADMSG, "%s: '%.100s' is longer than 4 MiB", s->path, name)
                         : err_set(e, -r, "%s: cannot read '%.100s': %s", s->path, name, strerror(-r));
}
