#include "image/commit.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/import.h"
#include "image/import_priv.h"
#include "image/pack.h"
#include "proto/json.h"

/* ---- the layer ---- */

/* In memory that a child shares, because that may be the one that packs. */
struct commit_work {
    struct image_add *add;
    const char *folder;
    bool changes;
    enum image_compress compress;
    struct image_layer layer;
};

static int commit_pack(void *opaque, const struct image_work *work, struct err *e)
{
    struct commit_work *w = opaque;
    AUTO_FD int fd = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_set(e, errno, "cannot open %s: %s", w->folder, strerror(errno));
    return image_layer_pack(w->add, fd, w->changes, w->compress, work->progress, &w->layer, e);
}

static int commit_layer(struct image_add *a, const struct image_commit *c, struct image_layer *ret, struct err *e)
{
    struct commit_work *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int r;

    if (w == MAP_FAILED)
        return err_set(e, ENOMEM, "out of memory");
    *w = (struct commit_work){ .add = a, .folder = c->folder, .changes = c->base != NULL, .compress = c->compress };
    r = image_ids_run(commit_pack, w, c->progress, e);
    if (r == 0)
        *ret = w->layer;
    munmap(w, sizeof(*w));
    return r;
}

/* ---- the documents ---- */

static json_object *commit_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return proto_json_time(now.tv_sec * 1000000000LL);
}

/* Each layer has to have its step, or none may: what an image below does not tell gets steps that say nothing. */
static void commit_fill_history(json_object *history, size_t n_layers)
{
    size_t told = 0;

    for (size_t i = 0; i < json_object_array_length(history); i++) {
        json_object *empty = NULL;

        told += !json_object_object_get_ex(json_object_array_get_idx(history, i), "empty_layer", &empty) ||
                !json_object_get_boolean(empty);
    }
    for (; told < n_layers; told++)
        json_object_array_add(history, json_object_new_object());
}

static void commit_history(json_object *config, const struct image_commit *c, bool empty, size_t n_below)
{
    json_object *step = json_object_new_object();

    commit_fill_history(image_doc_list(config, "history"), n_below);

    json_object_object_add(step, "created", commit_now());
    json_object_object_add(step, "created_by",
                           json_object_new_string(c->created_by ? c->created_by : "caisson commit"));
    if (c->author)
        json_object_object_add(step, "author", json_object_new_string(c->author));
    if (c->message)
        json_object_object_add(step, "comment", json_object_new_string(c->message));
    if (empty)
        json_object_object_add(step, "empty_layer", json_object_new_boolean(true));
    json_object_array_add(image_doc_list(config, "history"), step);
}

static void commit_members(json_object *config, json_object *members)
{
    json_object *inner = image_doc_object(config, "config");

    if (members) {
        json_object_object_foreach(members, key, value) json_object_object_add(inner, key, json_object_get(value));
    }
}

/* The configuration of the new image; base: the old one's, or NULL. */
static int commit_config(const struct image_commit *c, json_object *base, const struct image_layer *layer,
                         json_object **ret, struct err *e)
{
    json_object *o = NULL, *rootfs = NULL;
    int r = 0;

    if (base && json_object_deep_copy(base, &o, NULL) < 0)
        return err_set(e, ENOMEM, "out of memory");
    if (!o) {
        o = json_object_new_object();
        json_object_object_add(o, "architecture", json_object_new_string(image_arch()));
        json_object_object_add(o, "os", json_object_new_string("linux"));
    }
    json_object_object_add(o, "created", commit_now());
    if (c->author)
        json_object_object_add(o, "author", json_object_new_string(c->author));
    if (!json_object_object_get_ex(o, "rootfs", &rootfs) || !json_object_is_type(rootfs, json_type_object)) {
        rootfs = json_object_new_object();
        json_object_object_add(rootfs, "type", json_object_new_string("layers"));
        json_object_object_add(o, "rootfs", rootfs);
    }
    commit_history(o, c, layer->empty, json_object_array_length(image_doc_list(rootfs, "diff_ids")));
    if (!layer->empty)
        json_object_array_add(image_doc_list(rootfs, "diff_ids"), json_object_new_string(layer->diff_id));
    commit_members(o, c->config);
    for (size_t i = 0; r == 0 && i < c->n_changes; i++)
        r = image_config_change(o, c->changes[i], e);
    if (r < 0)
        json_object_put(o);
    else
        *ret = o;
    return r;
}

static const char *commit_suffix(enum image_compress compress)
{
    return compress == IMAGE_COMPRESS_GZIP ? "+gzip" : compress == IMAGE_COMPRESS_ZSTD ? "+zstd" : "";
}

static int commit_documents(struct image_add *a, const struct image_commit *c, const struct image *base,
                            const struct image_layer *layer, char ret_manifest[IMAGE_DIGEST_MAX], struct err *e)
{
    json_object *config = NULL, *layers = json_object_new_array(), *old = NULL;
    char digest[IMAGE_DIGEST_MAX];
    const char *text;
    int r = commit_config(c, base ? base->config : NULL, layer, &config, e);

    if (r < 0) {
        json_object_put(layers);
        return r;
    }
    if (base && json_object_object_get_ex(base->manifest_doc, "layers", &old)) {
        for (size_t i = 0; i < json_object_array_length(old); i++)
            json_object_array_add(layers, json_object_get(json_object_array_get_idx(old, i)));
    }
    if (!layer->empty)
        json_object_array_add(layers, import_descriptor(oci_media_name(OCI_MEDIA_LAYER), commit_suffix(layer->compress),
                                                        layer->digest, layer->size));
    text = json_object_to_json_string_ext(config, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    r = text ? image_blob_put(a, text, strlen(text), NULL, digest, e) : err_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = import_write_manifest(a, digest, strlen(text), layers, ret_manifest, e);
    else
        json_object_put(layers);
    json_object_put(config);
    return r;
}

int image_commit(struct store *s, const struct image_commit *c, struct image *ret_image, struct err *e)
{
    AUTO(image_add) struct image_add *a = NULL;
    char name[IMAGE_NAME_MAX], manifest[IMAGE_DIGEST_MAX];
    const char *names[] = { name };
    struct image base = { 0 };
    struct image_layer layer = { 0 };
    int r = c->name ? image_name_local(c->name, name, e) : 0;

    if (r == 0)
        r = image_add_begin(s, &a, e);
    if (r == 0 && c->base)
        r = image_get(s, c->base, &base, e);
    if (r == 0)
        r = commit_layer(a, c, &layer, e);
    if (r == 0)
        r = commit_documents(a, c, c->base ? &base : NULL, &layer, manifest, e);
    if (r == 0)
        r = image_add_commit(a, manifest, names, c->name != NULL, c->progress, ret_image, e);
    image_done(&base);
    return r;
}

/* ---- layers by themselves ---- */

struct upper_work {
    const char *folder, *path;
    char *const *lower;
    size_t n_lower;
    int fd;
};

static int upper_write(void *opaque, const void *data, size_t len)
{
    return fd_write_all(*(int *)opaque, data, len);
}

static int upper_pack(void *opaque, const struct image_work *work, struct err *e)
{
    struct upper_work *w = opaque;
    AUTO_FD int folder = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct image_pack pack = {
        .layers = &folder, .n = 1, .changes = true, .write = upper_write, .opaque = &w->fd, .progress = work->progress
    };

    if (folder < 0)
        return err_set(e, errno, "cannot open %s: %s", w->folder, strerror(errno));
    return image_pack(&pack, NULL, e);
}

int image_layer_from_upper(const char *folder, const char *path, const struct disk_progress *progress,
                           uint64_t *ret_size, struct err *e)
{
    struct upper_work w = { .folder = folder, .path = path };
    struct stat st = { 0 };
    int r;

    w.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (w.fd < 0)
        return err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
    r = image_ids_run(upper_pack, &w, progress, e);
    if (r == 0 && (fdatasync(w.fd) < 0 || fstat(w.fd, &st) < 0))
        r = err_set(e, errno, "cannot write %s: %s", path, strerror(errno));
    close(w.fd);
    if (r < 0)
        unlink(path);
    else if (ret_size)
        *ret_size = (uint64_t)st.st_size;
    return r;
}

static int upper_unpack(void *opaque, const struct image_work *work, struct err *e)
{
    struct upper_work *w = opaque;
    AUTO(image_stream) struct image_stream *stream = NULL;
    AUTO_FD int root = open(w->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int lower[IMAGE_LAYERS_MAX];
    struct image_unpack u = {
        .what = w->path, .root = root, .ids = work->ids, .userxattr = image_ids_userxattr(), .lower = lower
    };
    int r = root < 0 ? err_set(e, errno, "cannot open %s: %s", w->folder, strerror(errno)) : 0;

    for (; r == 0 && u.n_lower < w->n_lower && u.n_lower < IMAGE_LAYERS_MAX; u.n_lower++) {
        lower[u.n_lower] = open(w->lower[u.n_lower], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (lower[u.n_lower] < 0) {
            r = err_set(e, errno, "cannot open layer %s: %s", w->lower[u.n_lower], strerror(errno));
            break;
        }
    }
    if (r == 0 && image_stream_open(w->fd, &stream) < 0)
        r = err_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = image_unpack(&u, stream, e);
    for (size_t i = 0; i < u.n_lower; i++)
        close(lower[i]);
    return r;
}

int image_layer_to_upper(const char *path, const char *folder, char *const *lower, size_t n_lower,
                         const struct disk_progress *progress, struct err *e)
{
    struct upper_work w = { .folder = folder, .path = path, .lower = lower, .n_lower = n_lower };
    int r;

    w.fd = open(path, O_RDONLY | O_CLOEXEC);
    if (w.fd < 0)
        return err_set(e, errno, "cannot open %s: %s", path, strerror(errno));
    r = image_ids_run(upper_unpack, &w, progress, e);
    close(w.fd);
    return r;
}
