#include "image/export.h"

#include "image/export_priv.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"

int image_format_parse(const char *text, enum image_format *ret_format)
{
    static const char *const names[] = { "oci", "oci-dir", "docker", "rootfs" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_format = (enum image_format)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* ---- files ---- */

static int export_fail(const struct export_out *o, int r, struct err *e)
{
    if (r == -ENOSPC || r == -EDQUOT)
        return err_set(e, ENOSPC, "cannot write %s: no space left; free some, or export to another place", o->path);
    return err_set(e, -r, "cannot write %s: %s", o->path, strerror(-r));
}

int export_seen(struct export_out *o, const char *name)
{
    for (size_t i = 0; i < o->n_names; i++) {
        if (strcmp(o->names[i], name) == 0)
            return 1;
    }
    if (o->n_names == o->cap_names) {
        size_t cap = o->cap_names ? 2 * o->cap_names : 32;
        void *grown = reallocarray(o->names, cap, sizeof(*o->names));

        if (!grown)
            return -ENOMEM;
        o->names = grown;
        o->cap_names = cap;
    }
    snprintf(o->names[o->n_names++], sizeof(*o->names), "%s", name);
    return 0;
}

static int export_tar_error(const struct export_out *o)
{
    int code = archive_errno(o->tar);

    return code > 0 ? -code : -EIO;
}

static int export_begin(struct export_out *o, const char *name, uint64_t size, int *ret_fd, struct err *e)
{
    struct archive_entry *entry;
    int res;

    if (o->folder >= 0) {
        *ret_fd = openat(o->folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        return *ret_fd < 0 ? export_fail(o, -errno, e) : 0;
    }
    entry = archive_entry_new();
    if (!entry)
        return err_set(e, ENOMEM, "out of memory");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (la_int64_t)size);
    archive_entry_set_mtime(entry, 0, 0); /* the same image gives the same bytes */
    res = archive_write_header(o->tar, entry);
    archive_entry_free(entry);
    return res >= ARCHIVE_WARN ? 0 : export_fail(o, export_tar_error(o), e);
}

static int export_piece(struct export_out *o, int fd, const void *data, size_t len, struct err *e)
{
    int r = 0;

    if (o->folder >= 0)
        r = fd_write_all(fd, data, len);
    else if (archive_write_data(o->tar, data, len) != (la_ssize_t)len)
        r = export_tar_error(o);
    if (r < 0)
        return export_fail(o, r, e);
    o->done += len;
    if (o->progress && o->progress->step && !o->progress->step(o->progress->opaque, MIN(o->done, o->total), o->total))
        return err_set(e, ECANCELED, "canceled");
    return 0;
}

int export_text(struct export_out *o, const char *name, const char *text, size_t len, struct err *e)
{
    AUTO_FD int fd = -1;
    int r = export_begin(o, name, len, &fd, e);

    return r < 0 ? r : export_piece(o, fd, text, len, e);
}

int export_file(struct export_out *o, const char *name, int from, uint64_t size, struct err *e)
{
    AUTO_FREE uint8_t *data = malloc(IMAGE_BLOCK);
    AUTO_FD int fd = -1;
    int r = data ? export_begin(o, name, size, &fd, e) : err_set(e, ENOMEM, "out of memory");

    while (r == 0 && size > 0) {
        ssize_t n = read(from, data, (size_t)MIN(size, (uint64_t)IMAGE_BLOCK));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(e, n < 0 ? errno : EBADMSG, "cannot read %s from the image store: %s", name,
                           n < 0 ? strerror(errno) : "it is too short; get the image again");
        r = export_piece(o, fd, data, (size_t)n, e);
        size -= (uint64_t)n;
    }
    return r;
}

int export_json(struct export_out *o, const char *name, json_object *value, struct err *e)
{
    const char *text = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    int r = text ? export_text(o, name, text, strlen(text), e) : err_set(e, ENOMEM, "out of memory");

    json_object_put(value);
    return r;
}

/* ---- OCI ---- */

static int export_blob(struct export_out *o, struct image_place *p, const char *digest, struct err *e)
{
    char name[96];
    uint64_t size;
    AUTO_FD int fd = -1;
    int r;

    image_blob_name(digest, name);
    r = export_seen(o, name);
    if (r != 0)
        return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
    fd = image_place_blob(p, digest, &size, e);
    return fd < 0 ? fd : export_file(o, name, fd, size, e);
}

static json_object *export_oci_entry(const struct image *i, uint64_t size, const char *name)
{
    json_object *o = json_object_new_object(), *a = json_object_new_object(), *platform, *value;
    const char *tag = name ? strrchr(name, ':') : NULL;

    json_object_object_get_ex(i->manifest_doc, "mediaType", &value);
    json_object_object_add(o, "mediaType",
                           value ? json_object_get(value) : json_object_new_string(oci_media_name(OCI_MEDIA_MANIFEST)));
    json_object_object_add(o, "digest", json_object_new_string(i->manifest));
    json_object_object_add(o, "size", json_object_new_uint64(size));
    if (json_object_object_get_ex(i->config, "os", &value)) {
        platform = json_object_new_object();
        json_object_object_add(platform, "os", json_object_get(value));
        if (json_object_object_get_ex(i->config, "architecture", &value))
            json_object_object_add(platform, "architecture", json_object_get(value));
        if (json_object_object_get_ex(i->config, "variant", &value))
            json_object_object_add(platform, "variant", json_object_get(value));
        json_object_object_add(o, "platform", platform);
    }
    if (name) { /* as containerd writes it: the standard has room for a tag only */
        json_object_object_add(a, "io.containerd.image.name", json_object_new_string(name));
        json_object_object_add(a, "org.opencontainers.image.ref.name",
                               json_object_new_string(tag && !strchr(tag, '/') ? tag + 1 : "latest"));
        json_object_object_add(o, "annotations", json_object_get(a));
    }
    json_object_put(a);
    return o;
}

static int export_oci_image(struct export_out *o, struct image_place *p, const struct image *i, json_object *manifests,
                            struct err *e)
{
    struct image_documents d;
    uint64_t size = 0;
    int fd, r = image_documents_read(p, i->manifest, &d, e);

    if (r == 0)
        r = export_blob(o, p, i->manifest, e);
    if (r == 0)
        r = export_blob(o, p, i->id, e);
    for (size_t k = 0; r == 0 && k < d.manifest.n_layers; k++)
        r = export_blob(o, p, d.manifest.layers[k].digest, e);
    image_documents_done(&d);
    if (r < 0)
        return r;
    fd = image_place_blob(p, i->manifest, &size, e);
    if (fd < 0)
        return fd;
    close(fd);
    for (size_t k = 0; k < MAX(i->n_names, (size_t)1); k++)
        json_object_array_add(manifests, export_oci_entry(i, size, i->n_names ? i->names[k] : NULL));
    return 0;
}

static int export_oci(struct export_out *o, struct image_place *p, const struct image *images, size_t n, struct err *e)
{
    static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
    json_object *index = json_object_new_object(), *manifests = json_object_new_array();
    int r = export_text(o, "oci-layout", layout, strlen(layout), e);

    json_object_object_add(index, "schemaVersion", json_object_new_int(2));
    json_object_object_add(index, "mediaType", json_object_new_string(oci_media_name(OCI_MEDIA_INDEX)));
    json_object_object_add(index, "manifests", manifests);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = export_oci_image(o, p, &images[i], manifests, e);
    if (r == 0)
        return export_json(o, "index.json", index, e);
    json_object_put(index);
    return r;
}

/* ---- where to ---- */

static la_ssize_t export_write(struct archive *a, void *opaque, const void *data, size_t len)
{
    struct export_out *o = opaque;
    int r = fd_write_all(o->fd, data, len);

    if (r == 0)
        return (la_ssize_t)len;
    archive_set_error(a, -r, "%s", strerror(-r));
    return -1;
}

static int export_tar(struct export_out *o, struct image_place *p, const struct image_export *x,
                      const struct image *images, struct err *e)
{
    int r;

    o->tar = archive_write_new();
    if (!o->tar || archive_write_set_format_pax_restricted(o->tar) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(o->tar, 1) != ARCHIVE_OK ||
        archive_write_open(o->tar, o, NULL, export_write, NULL) != ARCHIVE_OK) {
        archive_write_free(o->tar);
        return err_set(e, ENOMEM, "out of memory");
    }
    r = x->format == IMAGE_FORMAT_DOCKER ? export_docker(o, p, images, x->n, e) : export_oci(o, p, images, x->n, e);
    if (r == 0 && archive_write_close(o->tar) != ARCHIVE_OK)
        r = export_fail(o, export_tar_error(o), e);
    archive_write_free(o->tar);
    return r;
}

static int export_to_folder(struct export_out *o, struct image_place *p, const struct image_export *x,
                            const struct image *images, struct err *e)
{
    AUTO_FREE char *tmp = NULL;
    int r;

    if (rmdir(x->path) < 0 && errno != ENOENT)
        return err_set(e, errno == ENOTEMPTY ? EEXIST : errno,
                       "cannot export to %s: %s; name a folder that is not there yet", x->path, strerror(errno));
    if (asprintf(&tmp, "%s.XXXXXX", x->path) < 0) {
        tmp = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    if (!mkdtemp(tmp))
        return export_fail(o, -errno, e);
    o->folder = open(tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (o->folder < 0 || mkdirat(o->folder, "blobs", 0755) < 0 || mkdirat(o->folder, "blobs/sha256", 0755) < 0 ||
        fchmod(o->folder, 0755) < 0)
        r = export_fail(o, -errno, e);
    else
        r = export_oci(o, p, images, x->n, e);
    if (r == 0 && (syncfs(o->folder) < 0 || rename(tmp, x->path) < 0))
        r = export_fail(o, -errno, e);
    if (r < 0 && image_tree_remove(AT_FDCWD, tmp) < 0)
        err_wrap(e, "%s is left", tmp);
    base_closep(&o->folder);
    return r;
}

static int export_to_fd(struct export_out *o, struct store *s, struct image_place *p, const struct image_export *x,
                        const struct image *images, struct err *e)
{
    if (x->format == IMAGE_FORMAT_ROOTFS)
        return export_rootfs(s, &images[0], o->fd, x->progress, e);
    return export_tar(o, p, x, images, e);
}

/* A regular file gets its name at the end; what else is there (a pipe, a device) is written in place. */
static int export_to_file(struct export_out *o, struct store *s, struct image_place *p, const struct image_export *x,
                          const struct image *images, struct err *e)
{
    AUTO_FREE char *tmp = NULL;
    AUTO_FD int fd = -1;
    struct stat st;
    mode_t mask = umask(0);
    int r;

    umask(mask);
    if (stat(x->path, &st) == 0 && !S_ISREG(st.st_mode)) {
        fd = o->fd = open(x->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
        return fd < 0 ? export_fail(o, -errno, e) : export_to_fd(o, s, p, x, images, e);
    }
    if (asprintf(&tmp, "%s.XXXXXX", x->path) < 0) {
        tmp = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    fd = o->fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0)
        return export_fail(o, -errno, e);
    r = export_to_fd(o, s, p, x, images, e);
    if (r == 0 && (fchmod(fd, 0666 & ~mask) < 0 || fdatasync(fd) < 0 || rename(tmp, x->path) < 0))
        r = export_fail(o, -errno, e);
    if (r < 0)
        unlink(tmp);
    return r;
}

static int export_images(struct store *s, const struct image_export *x, struct image *images, struct err *e)
{
    struct export_out o = { .path = x->path, .folder = -1, .fd = STDOUT_FILENO, .progress = x->progress };
    struct image_place p;
    int r = image_place_open(&p, IMAGE_LOCK_SHARED, true, e);

    for (size_t i = 0; r == 0 && i < x->n; i++) {
        r = image_get(s, x->images[i], &images[i], e);
        o.total += r == 0 ? images[i].size : 0;
        if (r == 0 && images[i].kind != IMAGE_CONTAINER && x->format >= IMAGE_FORMAT_DOCKER)
            r = err_set(e, EPROTOTYPE, "image %s is of a VM, which only --format oci and oci-dir can hold",
                        x->images[i]);
    }
    if (r == 0 && x->format == IMAGE_FORMAT_OCI_DIR)
        r = export_to_folder(&o, &p, x, images, e);
    else if (r == 0 && strcmp(x->path, "-") == 0)
        r = export_to_fd(&o, s, &p, x, images, e);
    else if (r == 0)
        r = export_to_file(&o, s, &p, x, images, e);
    image_place_done(&p);
    free(o.names);
    return r;
}

int image_export(struct store *s, const struct image_export *x, struct err *e)
{
    struct image *images = calloc(x->n + 1, sizeof(*images));
    int r = images ? export_images(s, x, images, e) : err_set(e, ENOMEM, "out of memory");

    for (size_t i = 0; images && i < x->n; i++)
        image_done(&images[i]);
    free(images);
    return r;
}
