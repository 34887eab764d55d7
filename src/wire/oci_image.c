#include "wire/oci_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "wire/oci_read.h"

#define DIGEST_PREFIX "sha256:"
#define DIGEST_DIGITS 64
#define NS_PER_S 1000000000LL

/* The first name of each kind is the one that we write. */
static const struct oci_word image_media[] = {
    { "application/vnd.oci.image.index.v1+json", OCI_MEDIA_INDEX },
    { "application/vnd.docker.distribution.manifest.list.v2+json", OCI_MEDIA_INDEX },
    { "application/vnd.oci.image.manifest.v1+json", OCI_MEDIA_MANIFEST },
    { "application/vnd.docker.distribution.manifest.v2+json", OCI_MEDIA_MANIFEST },
    { "application/vnd.oci.image.config.v1+json", OCI_MEDIA_CONFIG },
    { "application/vnd.docker.container.image.v1+json", OCI_MEDIA_CONFIG },
    { "application/vnd.oci.image.layer.v1.tar", OCI_MEDIA_LAYER },
    { "application/vnd.oci.image.layer.v1.tar+gzip", OCI_MEDIA_LAYER },
    { "application/vnd.oci.image.layer.v1.tar+zstd", OCI_MEDIA_LAYER },
    { "application/vnd.oci.image.layer.nondistributable.v1.tar", OCI_MEDIA_LAYER },
    { "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", OCI_MEDIA_LAYER },
    { "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", OCI_MEDIA_LAYER },
    { "application/vnd.docker.image.rootfs.diff.tar", OCI_MEDIA_LAYER },
    { "application/vnd.docker.image.rootfs.diff.tar.gzip", OCI_MEDIA_LAYER },
    { "application/vnd.docker.image.rootfs.diff.tar.zstd", OCI_MEDIA_LAYER },
    { "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", OCI_MEDIA_LAYER },
    { "application/vnd.caisson.vm.v1+json", OCI_MEDIA_VM_CONFIG },
    { "application/vnd.caisson.vm.disk.v1+qcow2", OCI_MEDIA_VM_DISK },
    { "application/vnd.caisson.vm.kernel.v1", OCI_MEDIA_VM_KERNEL },
    { "application/vnd.caisson.vm.initrd.v1", OCI_MEDIA_VM_INITRD },
    { NULL, 0 },
};

const char *oci_media_name(enum oci_media media)
{
    for (const struct oci_word *w = image_media; w->name; w++) {
        if (w->value == (int64_t)media)
            return w->name;
    }
    return "application/octet-stream";
}

bool oci_digest_ok(const char *text)
{
    static const char digits[] = "0123456789abcdef";
    size_t prefix = sizeof(DIGEST_PREFIX) - 1;

    return strncmp(text, DIGEST_PREFIX, prefix) == 0 && strspn(text + prefix, digits) == DIGEST_DIGITS &&
           text[prefix + DIGEST_DIGITS] == '\0';
}

/* Two digits; -1: they are none. */
static int time_parse_digits(const char *text)
{
    for (int i = 0; i < 2; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
    }
    return (text[0] - '0') * 10 + text[1] - '0';
}

/* The fraction of a second and the zone, behind the seconds. */
static int time_parse_rest(const char *text, int64_t *ret_ns, int64_t *ret_offset)
{
    int64_t ns = 0, unit = NS_PER_S / 10;
    int hours, minutes;

    if (*text == '.') {
        if (text[1] < '0' || text[1] > '9')
            return -EINVAL;
        for (text++; *text >= '0' && *text <= '9'; text++, unit /= 10)
            ns += (*text - '0') * unit;
    }
    *ret_ns = ns;
    *ret_offset = 0;
    if (strcmp(text, "Z") == 0 || strcmp(text, "z") == 0)
        return 0;
    if (strlen(text) != 6 || (*text != '+' && *text != '-') || text[3] != ':')
        return -EINVAL;
    hours = time_parse_digits(text + 1);
    minutes = time_parse_digits(text + 4);
    if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
        return -EINVAL;
    *ret_offset = (hours * 60 + minutes) * 60 * (*text == '-' ? -1 : 1);
    return 0;
}

int oci_time_parse(const char *text, int64_t *ret_ns)
{
    struct tm tm = { 0 };
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t ns, offset, seconds;

    if (!rest || tm.tm_year > 350 || tm.tm_year < -250 || time_parse_rest(rest, &ns, &offset) < 0)
        return -EINVAL;
    seconds = timegm(&tm) - offset;
    if (seconds > INT64_MAX / NS_PER_S - 1 || seconds < INT64_MIN / NS_PER_S + 1)
        return -EINVAL;
    *ret_ns = seconds * NS_PER_S + ns;
    return 0;
}

/* ---- parts ---- */

/* Reproducible builds write times like the year 1: what cannot be told counts as not said. */
static int64_t image_get_time(struct oci_reader *r, struct json_object *o, const char *key)
{
    const char *text = oci_get_string(r, o, key, OCI_OPTIONAL);
    int64_t ns = 0;

    return text && oci_time_parse(text, &ns) == 0 ? ns : 0;
}

static void image_get_digest(struct oci_reader *r, struct json_object *o, const char *key,
                             char ret_digest[OCI_DIGEST_MAX])
{
    const char *text = oci_get_string(r, o, key, OCI_REQUIRED);

    if (text && oci_digest_ok(text))
        memcpy(ret_digest, text, strlen(text) + 1);
    else if (text)
        oci_bad_member(r, key, "must be sha256: and 64 digits (other digests are not supported)");
}

/* Names that an index gives: containerd's is complete, the standard's may be a tag only. */
static const char *image_get_ref_name(struct oci_reader *r, struct json_object *descriptor)
{
    struct json_object *a = oci_get(r, descriptor, "annotations", json_type_object, OCI_OPTIONAL);
    const char *name;

    if (!a)
        return NULL;
    name = oci_get_string(r, a, "io.containerd.image.name", OCI_OPTIONAL);
    return name ? name : oci_get_string(r, a, "org.opencontainers.image.ref.name", OCI_OPTIONAL);
}

static void image_get_descriptor(struct oci_reader *r, struct json_object *o, struct oci_descriptor *ret)
{
    struct json_object *platform = oci_get(r, o, "platform", json_type_object, OCI_OPTIONAL);
    int64_t size = 0, media = OCI_MEDIA_OTHER;

    ret->media_type = oci_get_string(r, o, "mediaType", OCI_OPTIONAL);
    if (ret->media_type)
        (void)oci_find_word(image_media, ret->media_type, &media);
    ret->media = (enum oci_media)media;
    image_get_digest(r, o, "digest", ret->digest);
    if (!oci_get_int(r, o, "size", 0, OCI_BLOB_MAX, &size))
        oci_bad_member(r, "size", "is missing");
    ret->size = (uint64_t)size;
    if (platform) {
        ret->os = oci_get_string(r, platform, "os", OCI_OPTIONAL);
        ret->arch = oci_get_string(r, platform, "architecture", OCI_OPTIONAL);
        ret->variant = oci_get_string(r, platform, "variant", OCI_OPTIONAL);
    }
    ret->ref_name = image_get_ref_name(r, o);
}

static struct oci_descriptor *image_get_descriptors(struct oci_reader *r, struct json_object *root, const char *key,
                                                    size_t max, size_t *ret_n)
{
    struct oci_list l = { 0 };

    if (!oci_get(r, root, key, json_type_array, OCI_REQUIRED))
        return NULL;
    l = oci_list_begin(r, root, key, sizeof(struct oci_descriptor));
    if (l.n > max) {
        oci_bad(r, "has too many entries");
        return NULL;
    }
    for (size_t i = 0; i < l.n; i++) {
        image_get_descriptor(r, oci_list_next(r, &l, i), (struct oci_descriptor *)l.v + i);
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
    *ret_n = l.n;
    return l.v;
}

static void image_check_schema(struct oci_reader *r, struct json_object *root)
{
    int64_t version = 2;

    oci_get_int(r, root, "schemaVersion", 0, INT32_MAX, &version);
    if (version != 2)
        oci_bad_member(r, "schemaVersion", "must be 2 (Docker's first format is not supported)");
}

/* ---- documents ---- */

static void image_read_index(struct oci_reader *r, struct json_object *root)
{
    struct oci_image *i = r->into;

    image_check_schema(r, root);
    i->media_type = oci_get_string(r, root, "mediaType", OCI_OPTIONAL);
    i->manifests = image_get_descriptors(r, root, "manifests", OCI_IMAGE_INDEX_MAX, &i->n_manifests);
}

static void image_read_manifest(struct oci_reader *r, struct json_object *root)
{
    struct oci_image *i = r->into;
    struct json_object *config = oci_get(r, root, "config", json_type_object, OCI_REQUIRED);
    size_t at = oci_down(r, "config");

    if (config)
        image_get_descriptor(r, config, &i->config);
    oci_up(r, at);
    image_check_schema(r, root);
    i->media_type = oci_get_string(r, root, "mediaType", OCI_OPTIONAL);
    i->layers = image_get_descriptors(r, root, "layers", OCI_IMAGE_LAYERS_MAX, &i->n_layers);
}

static void image_read_diff_ids(struct oci_reader *r, struct json_object *root, struct oci_image *i)
{
    struct json_object *rootfs = oci_get(r, root, "rootfs", json_type_object, OCI_OPTIONAL);
    struct oci_strings ids = { 0 };
    size_t at = oci_down(r, "rootfs");

    if (rootfs)
        oci_get_strings(r, rootfs, "diff_ids", &ids);
    if (ids.n > OCI_IMAGE_LAYERS_MAX)
        oci_bad_member(r, "diff_ids", "has too many entries");
    for (size_t n = 0; n < ids.n && !r->error; n++) {
        if (!oci_digest_ok(ids.v[n]))
            oci_bad_member(r, "diff_ids", "must be sha256: and 64 digits each");
    }
    oci_up(r, at);
    i->diff_ids = ids.v;
    i->n_diff_ids = ids.n;
}

static void image_read_config(struct oci_reader *r, struct json_object *root)
{
    struct oci_image *i = r->into;
    struct oci_list l;

    i->os = oci_get_string(r, root, "os", OCI_OPTIONAL);
    i->arch = oci_get_string(r, root, "architecture", OCI_OPTIONAL);
    i->variant = oci_get_string(r, root, "variant", OCI_OPTIONAL);
    i->created_ns = image_get_time(r, root, "created");
    image_read_diff_ids(r, root, i);
    l = oci_list_begin(r, root, "history", sizeof(*i->history));
    i->history = l.v;
    i->n_history = l.n;
    for (size_t n = 0; n < l.n; n++) {
        struct json_object *o = oci_list_next(r, &l, n);

        if (o) {
            i->history[n].created_ns = image_get_time(r, o, "created");
            i->history[n].created_by = oci_get_string(r, o, "created_by", OCI_OPTIONAL);
            i->history[n].comment = oci_get_string(r, o, "comment", OCI_OPTIONAL);
            i->history[n].empty_layer = oci_get_bool(r, o, "empty_layer", NULL);
        }
        oci_up(r, l.inner);
    }
    oci_list_end(r, &l);
}

static void image_read_docker(struct oci_reader *r, struct json_object *root)
{
    struct oci_image *i = r->into;
    size_t n = json_object_array_length(root);

    if (n > OCI_IMAGE_INDEX_MAX)
        oci_bad(r, "has too many entries");
    i->docker = oci_alloc(r, n, sizeof(*i->docker));
    for (size_t k = 0; i->docker && k < n; k++) {
        size_t at = oci_down_index(r, k);
        struct json_object *o = oci_element(r, root, k, json_type_object);

        if (o) {
            i->docker[k].config = oci_get_string(r, o, "Config", OCI_REQUIRED);
            oci_get_strings(r, o, "RepoTags", &i->docker[k].names);
            oci_get_strings(r, o, "Layers", &i->docker[k].layers);
            if (i->docker[k].layers.n > OCI_IMAGE_LAYERS_MAX)
                oci_bad_member(r, "Layers", "has too many entries");
        }
        oci_up(r, at);
    }
    i->n_docker = n;
}

static int image_parse(const char *text, size_t len, json_type type,
                       void (*read)(struct oci_reader *r, struct json_object *root), struct oci_image *ret_image,
                       struct oci_why *why)
{
    struct oci_image i = { 0 };
    int r;

    if (len > OCI_DOCUMENT_MAX) {
        if (why)
            *why = (struct oci_why){ .what = "is longer than 4 MiB" };
        return -EINVAL;
    }
    r = oci_read_document(text, len, type, read, &i, &i.memory, why);
    if (r == 0)
        *ret_image = i;
    return r;
}

int oci_index_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why)
{
    return image_parse(text, len, json_type_object, image_read_index, ret_image, why);
}

int oci_manifest_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why)
{
    return image_parse(text, len, json_type_object, image_read_manifest, ret_image, why);
}

int oci_config_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why)
{
    return image_parse(text, len, json_type_object, image_read_config, ret_image, why);
}

int oci_docker_parse(const char *text, size_t len, struct oci_image *ret_image, struct oci_why *why)
{
    return image_parse(text, len, json_type_array, image_read_docker, ret_image, why);
}

void oci_image_done(struct oci_image *i)
{
    oci_spec_free(i->memory);
    *i = (struct oci_image){ 0 };
}
