#include "image/registry_pull.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image_priv.h"
#include "image/import.h"
#include "image/registry_blob.h"
#include "wire/oci_image.h"

#define PULL_ACCEPT                                                                         \
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " \
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

#define PULL_PLATFORM_MAX 32

/* A manifest or an index as it came, verified against its digest. */
struct pull_document {
    struct buf text;
    char digest[IMAGE_DIGEST_MAX];
    struct oci_image parsed;
    bool index;
};

static void pull_document_done(struct pull_document *d)
{
    buf_done(&d->text);
    oci_image_done(&d->parsed);
}

int image_pull_policy_parse(const char *text, enum image_pull_policy *ret)
{
    static const char *const names[] = { "always", "missing", "newer", "never" };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum image_pull_policy)i;
            return 0;
        }
    return -EINVAL;
}

/* ---- platforms ---- */

/* NULL: this machine's. */
static int pull_platform_check(const char *text, struct err *e)
{
    const char *slash = text ? strchr(text, '/') : NULL;

    if (text && (!slash || slash == text || !slash[1] || strlen(text) >= PULL_PLATFORM_MAX))
        return err_set(e, EINVAL, "--platform %.60s: not OS/ARCHITECTURE[/VARIANT], such as linux/amd64", text);
    return 0;
}

/* ---- documents ---- */

/* Whether a document is an index, by its own media type, then the server's, then its members. -EPROTO: neither. */
static int pull_kind(struct pull_document *d, const char *type, const char *what, struct err *e)
{
    json_tokener *tokener = json_tokener_new_ex(32);
    json_object *o = tokener ? json_tokener_parse_ex(tokener, (char *)d->text.data, (int)d->text.len) : NULL, *v;
    int r = 0;

    if (tokener)
        json_tokener_free(tokener);
    if (!json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return err_set(e, EPROTO, "%s: the registry's answer is no JSON object; check the name", what);
    }
    if (json_object_object_get_ex(o, "mediaType", &v) && json_object_is_type(v, json_type_string))
        type = json_object_get_string(v);
    if (strcmp(type, REGISTRY_TYPE_OCI_INDEX) == 0 || strcmp(type, REGISTRY_TYPE_DOCKER_LIST) == 0)
        d->index = true;
    else if (strcmp(type, REGISTRY_TYPE_OCI_MANIFEST) == 0 || strcmp(type, REGISTRY_TYPE_DOCKER_MANIFEST) == 0)
        d->index = false;
    else if (strstr(type, "manifest.v1+"))
        r = err_set(e, EPROTO, "%s: a manifest of Docker's old schema 1, which has no digests; push the image anew",
                    what);
    else if (json_object_object_get_ex(o, "manifests", &v))
        d->index = true;
    else if (!json_object_object_get_ex(o, "layers", &v))
        r = err_set(e, EPROTO, "%s: a document of the type '%.100s', not an image; check the name", what, type);
    json_object_put(o);
    return r;
}

/* Fetch a manifest or index by tag or digest. size: what it must have; UINT64_MAX: any. */
static int pull_document_get(struct registry *r, const char *reference, uint64_t size, struct pull_document *ret,
                             struct err *e)
{
    char path[REGISTRY_REPOSITORY_MAX + 256], what[REGISTRY_REPOSITORY_MAX + 300], type[128] = "",
                                                                                   said[REGISTRY_DIGEST_MAX] = "";
    struct oci_why why = { 0 };
    int rc;

    snprintf(path, sizeof(path), "/v2/%s/manifests/%s", r->repository, reference);
    snprintf(what, sizeof(what), "manifest %.80s of %.140s", reference, r->repository);
    buf_init(&ret->text, REGISTRY_MANIFEST_MAX);
    rc = registry_get(r, path, what, PULL_ACCEPT, &ret->text, type, said, e);
    if (rc == 0)
        rc = image_sum_of(ret->text.data, ret->text.len, ret->digest);
    if (rc < 0)
        return rc == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : rc;
    if (oci_digest_ok(reference) && strcmp(ret->digest, reference) != 0)
        return err_set(e, EBADMSG, "%s: what came has the digest %s; not taken, the registry's copy is damaged", what,
                       ret->digest);
    if (said[0] && strcmp(said, ret->digest) != 0)
        return err_set(e, EBADMSG, "%s: what came has the digest %s, and the server announced %s; not taken", what,
                       ret->digest, said);
    if (size != UINT64_MAX && size != ret->text.len)
        return err_set(e, EBADMSG, "%s: it has %zu bytes, and the index says %llu; not taken", what, ret->text.len,
                       (unsigned long long)size);
    rc = pull_kind(ret, type, what, e);
    if (rc < 0)
        return rc;
    rc = ret->index ? oci_index_parse((char *)ret->text.data, ret->text.len, &ret->parsed, &why)
                    : oci_manifest_parse((char *)ret->text.data, ret->text.len, &ret->parsed, &why);
    if (rc < 0)
        return rc == -ENOMEM ? err_set(e, ENOMEM, "out of memory")
                             : image_bad_document("manifest", ret->digest, &why, e);
    return 0;
}

/* From the reference to the manifest of one platform. */
static int pull_resolve(struct registry *r, const struct registry_ref *ref, const char *platform,
                        struct pull_document *ret, struct err *e)
{
    struct pull_document index = { 0 };
    const struct oci_descriptor *d;
    int chosen;
    int rc = pull_document_get(r, ref->digest[0] ? ref->digest : ref->tag, UINT64_MAX, ret, e);

    if (rc < 0 || !ret->index)
        return rc;
    index = *ret;
    *ret = (struct pull_document){ 0 };
    chosen = image_choose(&index.parsed, platform);
    d = chosen < 0 ? NULL : &index.parsed.manifests[chosen];
    if (!d && platform)
        rc = err_set(e, ENOENT, "%s/%s has no image for %s; choose another with --platform", r->host, r->repository,
                     platform);
    else if (!d)
        rc = err_set(e, ENOENT, "%s/%s has no image for linux/%s; choose another with --platform", r->host,
                     r->repository, image_arch());
    else
        rc = pull_document_get(r, d->digest, d->size, ret, e);
    if (rc == 0 && ret->index)
        rc = err_set(e, EPROTO, "%s/%s: an index within an index, which Caisson does not follow; name the digest",
                     r->host, r->repository);
    pull_document_done(&index);
    return rc;
}

static bool pull_layer_known(enum oci_media media)
{
    return media == OCI_MEDIA_LAYER || media == OCI_MEDIA_VM_DISK || media == OCI_MEDIA_VM_KERNEL ||
           media == OCI_MEDIA_VM_INITRD;
}

/* What can be said before anything is fetched. */
static int pull_check(const struct registry *r, const struct oci_image *m, struct err *e)
{
    if (m->config.media != OCI_MEDIA_CONFIG && m->config.media != OCI_MEDIA_VM_CONFIG)
        return err_set(e, EPROTO, "%s/%s is no image: its configuration has the type '%.100s'; check the name", r->host,
                       r->repository, m->config.media_type);
    if (m->config.size > OCI_DOCUMENT_MAX)
        return err_set(e, EFBIG, "%s/%s: a configuration of more than %u MiB; not taken", r->host, r->repository,
                       OCI_DOCUMENT_MAX >> 20);
    for (size_t i = 0; i < m->n_layers; i++)
        if (!pull_layer_known(m->layers[i].media))
            return err_set(e, EPROTO,
                           "%s/%s: a layer has the unknown type '%.100s'; use a newer Caisson, or another image",
                           r->host, r->repository, m->layers[i].media_type);
    return 0;
}

/* ---- the whole ---- */

static void pull_add_blob(struct registry_blob *blobs, size_t *n, const struct oci_descriptor *d, bool config)
{
    for (size_t i = 0; i < *n; i++)
        if (strcmp(blobs[i].digest, d->digest) == 0)
            return;
    snprintf(blobs[*n].digest, sizeof(blobs[*n].digest), "%s", d->digest);
    blobs[*n].size = d->size;
    blobs[(*n)++].config = config;
}

static int pull_fetch(struct store *s, struct registry *r, struct pull_document *m, const char *name,
                      struct image_pull_result *ret, struct err *e)
{
    AUTO_FREE struct registry_blob *blobs = calloc(m->parsed.n_layers + 1, sizeof(*blobs));
    AUTO(image_add) struct image_add *add = NULL;
    struct image image = { 0 };
    size_t n = 0;
    int rc;

    if (!blobs)
        return err_set(e, ENOMEM, "out of memory");
    rc = image_add_begin(s, &add, e);
    pull_add_blob(blobs, &n, &m->parsed.config, true);
    for (size_t i = 0; i < m->parsed.n_layers; i++)
        pull_add_blob(blobs, &n, &m->parsed.layers[i], false);
    if (rc == 0)
        rc = registry_blobs_fetch(r, blobs, n, add, &ret->bytes, e);
    if (rc == 0)
        rc = image_blob_put(add, m->text.data, m->text.len, m->digest, NULL, e);
    if (rc == 0)
        rc = image_add_commit(add, m->digest, &name, name ? 1 : 0, NULL, &image, e);
    if (rc == 0)
        snprintf(ret->id, sizeof(ret->id), "%s", image.id);
    image_done(&image);
    return rc;
}

/* Whether the store has the image under the name. */
static bool pull_have(struct store *s, const char *name, const char *manifest, struct image_pull_result *ret)
{
    struct image image = { 0 };
    struct err ignored = { 0 };
    bool have = image_get(s, name, &image, &ignored) == 0 && (!manifest || strcmp(image.manifest, manifest) == 0);

    if (have) {
        snprintf(ret->id, sizeof(ret->id), "%s", image.id);
        snprintf(ret->manifest, sizeof(ret->manifest), "%s", image.manifest);
    }
    image_done(&image);
    return have;
}

/* Whether what the store has of an image is what it was. */
static bool pull_is_sound(const struct oci_image *m)
{
    struct err ignored = { 0 };
    struct image_place p;
    bool sound = image_place_open(&p, IMAGE_LOCK_NONE, false, &ignored) == 0 &&
                 image_place_blob_is_sound(&p, m->config.digest, m->config.size);

    for (size_t i = 0; sound && i < m->n_layers; i++)
        sound = image_place_blob_is_sound(&p, m->layers[i].digest, m->layers[i].size);
    image_place_done(&p);
    return sound;
}

static int pull_remote(struct store *s, const struct image_pull_config *config, const struct registry_ref *ref,
                       struct image_pull_result *ret, struct err *e)
{
    AUTO(registry) struct registry *r = NULL;
    struct pull_document m = { 0 };
    int rc = pull_platform_check(config->platform, e);

    if (rc == 0)
        rc = registry_open(ref->host, ref->repository, false, &config->registry, &r, e);
    if (rc == 0)
        rc = pull_resolve(r, ref, config->platform, &m, e);
    if (rc == 0)
        rc = pull_check(r, &m.parsed, e);
    if (rc == 0 && !(pull_have(s, ret->name, m.digest, ret) && pull_is_sound(&m.parsed))) {
        ret->pulled = true;
        snprintf(ret->manifest, sizeof(ret->manifest), "%s", m.digest);
        rc = pull_fetch(s, r, &m, ref->tag[0] ? ret->name : NULL, ret, e);
    }
    pull_document_done(&m);
    return rc;
}

int image_pull(struct store *s, const struct image_pull_config *config, struct image_pull_result *ret_result,
               struct err *e)
{
    struct image_pull_result result = { 0 }, old;
    struct registry_ref ref;
    bool here;
    int rc = registry_ref_parse(config->name, &ref, e);

    if (rc < 0)
        return rc;
    registry_ref_name(&ref, result.name, sizeof(result.name));
    here = pull_have(s, result.name, ref.digest[0] ? ref.digest : NULL, &result);
    if (!here && config->policy == IMAGE_PULL_NEVER)
        return err_set(e, ENOENT, "image %s is not here, and the policy is never to pull; pull it first", result.name);
    if (!here || config->policy == IMAGE_PULL_ALWAYS || config->policy == IMAGE_PULL_NEWER) {
        old = result;
        rc = pull_remote(s, config, &ref, &result, e);
        if (rc < 0 && rc != -ECANCELED && here && config->policy == IMAGE_PULL_NEWER) {
            result = old; /* what is here will do */
            rc = 0;
        }
    }
    if (rc == 0)
        *ret_result = result;
    return rc;
}
