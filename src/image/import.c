#include "image/import.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "image/import_priv.h"
#include "image/import_source.h"
#include "proto/json.h"

#define IMPORT_NESTING_MAX 4 /* indexes in indexes */

struct import {
    struct image_add *add;
    const struct image_import *config;
    struct import_source *source;
    void (*told)(void *opaque, const struct image *i);
    void *opaque;
    bool docker;             /* names without a registry are docker.io's */
    unsigned images, others; /* imported; of other platforms */
    char other[64];          /* one of those */
};

/* ---- platforms ---- */

const char *image_arch(void)
{
    static const struct {
        const char *machine, *arch;
    } names[] = { { "x86_64", "amd64" }, { "aarch64", "arm64" }, { "i686", "386" } };
    struct utsname u;

    for (size_t i = 0; uname(&u) == 0 && i < ARRAY_SIZE(names); i++) {
        if (strcmp(u.machine, names[i].machine) == 0)
            return names[i].arch;
    }
    return "unknown";
}

#define PLATFORM_PART_MAX 32
enum { PLATFORM_OS, PLATFORM_ARCH, PLATFORM_VARIANT, PLATFORM_PARTS };

/* "linux/arm64/v8" in its parts, "" where there is none; NULL: this machine's. */
static void import_platform(const char *text, char ret_parts[PLATFORM_PARTS][PLATFORM_PART_MAX])
{
    char own[PLATFORM_PART_MAX];

    snprintf(own, sizeof(own), "linux/%s", image_arch());
    text = text ? text : own;
    for (int i = 0; i < PLATFORM_PARTS; i++) {
        size_t len = strcspn(text, "/");

        snprintf(ret_parts[i], PLATFORM_PART_MAX, "%.*s", (int)len, text);
        text += len + (text[len] == '/');
    }
}

/* A platform against what a document says; NULL there fits all. */
static bool import_fits(const char *platform, const char *os, const char *arch, const char *variant)
{
    char want[PLATFORM_PARTS][PLATFORM_PART_MAX];

    import_platform(platform, want);
    return (!os || strcmp(os, want[PLATFORM_OS]) == 0) && (!arch || strcmp(arch, want[PLATFORM_ARCH]) == 0) &&
           (!want[PLATFORM_VARIANT][0] || !variant || strcmp(variant, want[PLATFORM_VARIANT]) == 0);
}

int image_choose(const struct oci_image *index, const char *platform)
{
    int unsaid = -1;

    for (size_t i = 0; i < index->n_manifests; i++) {
        const struct oci_descriptor *d = &index->manifests[i];

        if (d->media != OCI_MEDIA_MANIFEST && d->media != OCI_MEDIA_INDEX)
            continue;
        if (d->os && d->arch && import_fits(platform, d->os, d->arch, d->variant))
            return (int)i;
        if (!d->os && !d->arch && unsaid < 0)
            unsaid = (int)i;
    }
    return unsaid;
}

/* ---- names ---- */

/* The name of the file that is imported, as a part of a name: "/tmp/app-1.0.tar.gz" is "app-1.0". */
static void import_file_name(const char *path, char ret_name[IMAGE_NAME_MAX])
{
    static const char *const endings[] = { ".gz", ".zst", ".xz", ".bz2", ".tar", ".tgz" };
    size_t len = strlen(path);
    const char *base;

    while (len > 1 && path[len - 1] == '/')
        len--;
    base = memrchr(path, '/', len);
    base = base ? base + 1 : path;
    snprintf(ret_name, IMAGE_NAME_MAX, "%.*s", (int)(len - (size_t)(base - path)), base);
    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        size_t all = strlen(ret_name), end = strlen(endings[i]);

        if (all > end && strcmp(ret_name + all - end, endings[i]) == 0)
            ret_name[all - end] = '\0';
    }
}

/* The full name for what an archive calls an image; a mere tag gets the name of the file in front. False: there is no
 * name in it. */
static bool import_name(const struct import *m, const char *given, char ret_name[IMAGE_NAME_MAX])
{
    char text[2 * IMAGE_NAME_MAX], file[IMAGE_NAME_MAX];
    struct err ignored = { 0 };

    if (!given)
        return false;
    if (m->docker)
        return image_name_normalize(given, ret_name, &ignored) == 0;
    if (strchr(given, '/') || strchr(given, ':'))
        return image_name_local(given, ret_name, &ignored) == 0;
    import_file_name(m->config->path, file);
    snprintf(text, sizeof(text), "%s:%s", file, given);
    return image_name_local(text, ret_name, &ignored) == 0;
}

/* ---- one image whose blobs are there ---- */

static int import_commit(struct import *m, const char *manifest, const char *const *given, size_t n_given,
                         struct err *e)
{
    AUTO_FREE char(*names)[IMAGE_NAME_MAX] = NULL;
    AUTO_FREE const char **at = calloc(n_given + 1, sizeof(*at));
    struct image i = { 0 };
    size_t n = 0;
    int r;

    names = calloc(n_given + 1, sizeof(*names));
    if (!names || !at)
        return err_set(e, ENOMEM, "out of memory");
    if (m->config->name) {
        r = image_name_local(m->config->name, names[0], e);
        if (r < 0)
            return r;
        if (m->images > 0)
            return err_set(e, EINVAL, "%s has several images, and --name is for one; leave it away", m->config->path);
        n = 1;
    } else {
        for (size_t k = 0; k < n_given; k++)
            n += import_name(m, given[k], names[n]);
    }
    for (size_t k = 0; k < n; k++)
        at[k] = names[k];
    r = image_add_commit(m->add, manifest, at, n, m->config->progress, &i, e);
    if (r < 0)
        return r;
    m->images++;
    if (m->told)
        m->told(m->opaque, &i);
    image_done(&i);
    return 0;
}

/* ---- OCI layout ---- */

static int import_blob_of(struct import *m, const struct oci_descriptor *d, struct err *e)
{
    char name[96], digest[IMAGE_DIGEST_MAX];
    uint64_t size;

    image_blob_name(d->digest, name);
    return import_source_blob(m->source, name, d->digest, d->size, digest, &size, e);
}

static void import_note_other(struct import *m, const char *os, const char *arch)
{
    m->others++;
    snprintf(m->other, sizeof(m->other), "%.30s/%.30s", os ? os : "?", arch ? arch : "?");
}

static int import_manifest(struct import *m, const struct oci_descriptor *d, const char *name, struct err *e)
{
    struct image_documents documents = { 0 };
    struct oci_image manifest = { 0 };
    struct oci_why why = { 0 };
    struct buf text;
    int r = import_blob_of(m, d, e);

    if (r < 0)
        return r;
    r = image_place_document(&m->add->place, d->digest, &text, e);
    if (r == 0) {
        r = oci_manifest_parse((char *)text.data, text.len, &manifest, &why);
        if (r < 0)
            r = r == -EINVAL ? image_bad_document("manifest", d->digest, &why, e) : err_set(e, -r, "out of memory");
    }
    buf_done(&text);
    if (r == 0)
        r = import_blob_of(m, &manifest.config, e);
    if (r == 0)
        r = image_documents_read(&m->add->place, d->digest, &documents, e);
    if (r == 0 && documents.kind == IMAGE_CONTAINER &&
        !import_fits(m->config->platform, documents.config.os, documents.config.arch, documents.config.variant)) {
        import_note_other(m, documents.config.os, documents.config.arch);
    } else {
        for (size_t i = 0; r == 0 && i < manifest.n_layers; i++)
            r = import_blob_of(m, &manifest.layers[i], e);
        if (r == 0)
            r = import_commit(m, d->digest, &name, name != NULL, e);
    }
    image_documents_done(&documents);
    oci_image_done(&manifest);
    return r;
}

static int import_entry(struct import *m, const struct oci_descriptor *d, const char *name, unsigned depth,
                        struct err *e);

/* An index below the first one is one image for several platforms. */
static int import_nested(struct import *m, const struct oci_descriptor *d, const char *name, unsigned depth,
                         struct err *e)
{
    struct oci_image index = { 0 };
    struct oci_why why = { 0 };
    struct buf text;
    int chosen = -1, r = depth >= IMPORT_NESTING_MAX ? err_set(e, EBADMSG, "index %s is nested too deep", d->digest)
                                                     : import_blob_of(m, d, e);

    if (r < 0)
        return r;
    r = image_place_document(&m->add->place, d->digest, &text, e);
    if (r == 0) {
        r = oci_index_parse((char *)text.data, text.len, &index, &why);
        if (r < 0)
            r = r == -EINVAL ? image_bad_document("index", d->digest, &why, e) : err_set(e, -r, "out of memory");
    }
    buf_done(&text);
    if (r == 0)
        chosen = image_choose(&index, m->config->platform);
    if (r == 0 && chosen < 0)
        import_note_other(m, index.n_manifests ? index.manifests[0].os : NULL,
                          index.n_manifests ? index.manifests[0].arch : NULL);
    if (r == 0 && chosen >= 0)
        r = import_entry(m, &index.manifests[chosen], name, depth + 1, e);
    oci_image_done(&index);
    return r;
}

static int import_entry(struct import *m, const struct oci_descriptor *d, const char *name, unsigned depth,
                        struct err *e)
{
    if (d->media == OCI_MEDIA_INDEX)
        return import_nested(m, d, name, depth, e);
    return import_manifest(m, d, name, e);
}

static int import_oci(struct import *m, struct err *e)
{
    struct oci_image index = { 0 };
    struct oci_why why = { 0 };
    struct buf text;
    int r = import_source_document(m->source, "index.json", &text, e);

    if (r == 0) {
        r = oci_index_parse((char *)text.data, text.len, &index, &why);
        if (r < 0)
            r = r == -EINVAL ? image_bad_document("index", "index.json", &why, e) : err_set(e, -r, "out of memory");
    }
    buf_done(&text);
    for (size_t i = 0; r == 0 && i < index.n_manifests; i++) {
        const struct oci_descriptor *d = &index.manifests[i];

        if (d->media != OCI_MEDIA_MANIFEST && d->media != OCI_MEDIA_INDEX && d->media_type)
            continue;
        if (d->os && d->arch && !import_fits(m->config->platform, d->os, d->arch, d->variant)) {
            import_note_other(m, d->os, d->arch);
            continue;
        }
        r = import_entry(m, d, d->ref_name, 0, e);
    }
    oci_image_done(&index);
    return r;
}

/* ---- docker save ---- */

/* How a layer is compressed, by its first bytes. */
static int import_layer_type(struct import *m, const char *digest, const char **ret_suffix, struct err *e)
{
    uint8_t magic[4] = { 0 };
    AUTO_FD int fd = image_blob_open(m->add, digest, NULL, e);

    if (fd < 0)
        return fd;
    if (read(fd, magic, sizeof(magic)) < 0)
        return err_set(e, errno, "cannot read blob %s: %s", digest, strerror(errno));
    *ret_suffix = magic[0] == 0x1f && magic[1] == 0x8b                                           ? "+gzip"
                  : magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd ? "+zstd"
                                                                                                 : "";
    return 0;
}

json_object *import_descriptor(const char *media, const char *suffix, const char *digest, uint64_t size)
{
    json_object *o = json_object_new_object();
    char type[128];

    snprintf(type, sizeof(type), "%s%s", media, suffix);
    json_object_object_add(o, "mediaType", json_object_new_string(type));
    json_object_object_add(o, "digest", json_object_new_string(digest));
    json_object_object_add(o, "size", json_object_new_uint64(size));
    return o;
}

int import_write_manifest(struct image_add *a, const char *config, uint64_t config_size, json_object *layers,
                          char ret_digest[IMAGE_DIGEST_MAX], struct err *e)
{
    json_object *o = json_object_new_object();
    const char *text;
    int r;

    json_object_object_add(o, "schemaVersion", json_object_new_int(2));
    json_object_object_add(o, "mediaType", json_object_new_string(oci_media_name(OCI_MEDIA_MANIFEST)));
    json_object_object_add(o, "config", import_descriptor(oci_media_name(OCI_MEDIA_CONFIG), "", config, config_size));
    json_object_object_add(o, "layers", layers);
    text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    r = text ? image_blob_put(a, text, strlen(text), NULL, ret_digest, e) : err_set(e, ENOMEM, "out of memory");
    json_object_put(o);
    return r;
}

/* Docker names the configuration by its digest: then it must have it. */
static const char *import_docker_digest(const char *name, char ret_digest[IMAGE_DIGEST_MAX])
{
    const char *base = strrchr(name, '/');
    char digits[IMAGE_DIGEST_MAX];

    base = base ? base + 1 : name;
    snprintf(digits, sizeof(digits), "%.*s", (int)strcspn(base, "."), base);
    snprintf(ret_digest, IMAGE_DIGEST_MAX, "sha256:%.64s", digits);
    return oci_digest_ok(ret_digest) ? ret_digest : NULL;
}

static int import_docker_layers(struct import *m, const struct oci_docker_entry *d, json_object *layers, struct err *e)
{
    for (size_t i = 0; i < d->layers.n; i++) {
        char digest[IMAGE_DIGEST_MAX];
        const char *suffix = "";
        uint64_t size;
        int r = import_source_blob(m->source, d->layers.v[i], NULL, UINT64_MAX, digest, &size, e);

        if (r == 0)
            r = import_layer_type(m, digest, &suffix, e);
        if (r < 0)
            return r;
        json_object_array_add(layers, import_descriptor(oci_media_name(OCI_MEDIA_LAYER), suffix, digest, size));
    }
    return 0;
}

static int import_docker_entry(struct import *m, const struct oci_docker_entry *d, struct err *e)
{
    char want[IMAGE_DIGEST_MAX], config[IMAGE_DIGEST_MAX], manifest[IMAGE_DIGEST_MAX];
    json_object *layers = json_object_new_array();
    struct image_documents documents = { 0 };
    uint64_t size = 0;
    int r =
        import_source_blob(m->source, d->config, import_docker_digest(d->config, want), UINT64_MAX, config, &size, e);

    if (r == 0)
        r = import_docker_layers(m, d, layers, e);
    if (r == 0)
        r = import_write_manifest(m->add, config, size, json_object_get(layers), manifest, e);
    json_object_put(layers);
    if (r == 0)
        r = image_documents_read(&m->add->place, manifest, &documents, e);
    if (r == 0 &&
        !import_fits(m->config->platform, documents.config.os, documents.config.arch, documents.config.variant))
        import_note_other(m, documents.config.os, documents.config.arch);
    else if (r == 0)
        r = import_commit(m, manifest, d->names.v, d->names.n, e);
    image_documents_done(&documents);
    return r;
}

static int import_docker(struct import *m, struct err *e)
{
    struct oci_image list = { 0 };
    struct oci_why why = { 0 };
    struct buf text;
    int r = import_source_document(m->source, "manifest.json", &text, e);

    m->docker = true;
    if (r == 0) {
        r = oci_docker_parse((char *)text.data, text.len, &list, &why);
        if (r < 0)
            r = r == -EINVAL ? image_bad_document("list", "manifest.json", &why, e) : err_set(e, -r, "out of memory");
    }
    buf_done(&text);
    for (size_t i = 0; r == 0 && i < list.n_docker; i++)
        r = import_docker_entry(m, &list.docker[i], e);
    oci_image_done(&list);
    return r;
}

/* ---- a root file system ---- */

static json_object *import_strings(const char *only)
{
    json_object *a = json_object_new_array();

    json_object_array_add(a, json_object_new_string(only));
    return a;
}

static json_object *import_rootfs_config(const struct import *m, const char *diff)
{
    json_object *o = json_object_new_object(), *rootfs = json_object_new_object(), *config = json_object_new_object(),
                *history = json_object_new_array(), *step = json_object_new_object();
    char platform[PLATFORM_PARTS][PLATFORM_PART_MAX];
    struct timespec now;
    json_object *created;

    import_platform(m->config->platform, platform);
    clock_gettime(CLOCK_REALTIME, &now);
    created = proto_json_time(now.tv_sec * 1000000000LL);
    json_object_object_add(o, "created", json_object_get(created));
    json_object_object_add(o, "architecture", json_object_new_string(platform[PLATFORM_ARCH]));
    json_object_object_add(o, "os", json_object_new_string(platform[PLATFORM_OS]));
    json_object_object_add(config, "Env",
                           import_strings("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    json_object_object_add(config, "Cmd", import_strings("/bin/sh"));
    json_object_object_add(o, "config", config);
    json_object_object_add(rootfs, "type", json_object_new_string("layers"));
    json_object_object_add(rootfs, "diff_ids", import_strings(diff));
    json_object_object_add(o, "rootfs", rootfs);
    json_object_object_add(step, "created", created);
    json_object_object_add(step, "created_by", json_object_new_string("caisson image import --rootfs"));
    json_object_array_add(history, step);
    json_object_object_add(o, "history", history);
    return o;
}

/* What the tar is when its compression is off; it has to be read for that once more. */
static int import_diff_id(struct import *m, const char *digest, char ret_diff[IMAGE_DIGEST_MAX], struct err *e)
{
    AUTO(image_stream) struct image_stream *stream = NULL;
    AUTO_FD int fd = image_blob_open(m->add, digest, NULL, e);
    char blob[IMAGE_DIGEST_MAX];
    int r = fd < 0 ? fd : image_stream_open(fd, &stream);

    if (fd < 0)
        return r;
    if (r == 0)
        r = image_stream_end(stream, blob, ret_diff);
    if (r == -EBADMSG)
        return err_set(e, EBADMSG, "%s is damaged: %s", m->config->path, image_stream_why(stream));
    return r < 0 ? err_set(e, -r, "%s: %s", m->config->path, strerror(-r)) : 0;
}

static int import_rootfs(struct import *m, struct err *e)
{
    bool standard = strcmp(m->config->path, "-") == 0;
    AUTO_FD int fd = standard ? dup(STDIN_FILENO) : open(m->config->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char layer[IMAGE_DIGEST_MAX], diff[IMAGE_DIGEST_MAX], config[IMAGE_DIGEST_MAX], manifest[IMAGE_DIGEST_MAX];
    json_object *o = NULL, *layers;
    const char *suffix = "", *text;
    uint64_t size = 0;
    int r;

    if (fd < 0)
        return err_set(e, errno, "cannot open %s: %s", m->config->path, strerror(errno));
    r = import_copy(m->add, fd, NULL, UINT64_MAX, m->config->progress, layer, &size, e);
    if (r == 0)
        r = import_layer_type(m, layer, &suffix, e);
    if (r == 0)
        r = import_diff_id(m, layer, diff, e);
    if (r < 0)
        return r;
    o = import_rootfs_config(m, diff);
    text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    r = text ? image_blob_put(m->add, text, strlen(text), NULL, config, e) : err_set(e, ENOMEM, "out of memory");
    if (r == 0) {
        layers = json_object_new_array();
        json_object_array_add(layers, import_descriptor(oci_media_name(OCI_MEDIA_LAYER), suffix, layer, size));
        r = import_write_manifest(m->add, config, strlen(text), layers, manifest, e);
    }
    json_object_put(o);
    return r < 0 ? r : import_commit(m, manifest, NULL, 0, e);
}

/* ---- all ---- */

static int import_archive(struct import *m, struct err *e)
{
    int r = import_source_open(m->add, m->config->path, m->config->progress, &m->source, e);

    if (r < 0)
        return r;
    if (import_source_has(m->source, "index.json"))
        r = import_oci(m, e);
    else if (import_source_has(m->source, "manifest.json"))
        r = import_docker(m, e);
    else
        r = err_set(e, EBADMSG,
                    "%s has neither index.json nor manifest.json and is no image; a root file system is imported with "
                    "--rootfs",
                    m->config->path);
    if (r == 0 && m->images == 0 && m->others > 0)
        r = err_set(e, ENOENT, "%s has no image for linux/%s, only for %s; give --platform to have it all the same",
                    m->config->path, image_arch(), m->other);
    else if (r == 0 && m->images == 0)
        r = err_set(e, ENOENT, "%s has no images", m->config->path);
    import_source_free(m->source);
    return r;
}

int image_import(struct store *s, const struct image_import *import, void (*told)(void *opaque, const struct image *i),
                 void *opaque, struct err *e)
{
    AUTO(image_add) struct image_add *a = NULL;
    struct import m = { .config = import, .told = told, .opaque = opaque };
    char name[IMAGE_NAME_MAX];
    int r = import->name ? image_name_local(import->name, name, e) : 0; /* before the work */

    if (r == 0)
        r = image_add_begin(s, &a, e);
    if (r < 0)
        return r;
    m.add = a;
    return import->rootfs ? import_rootfs(&m, e) : import_archive(&m, e);
}
