/* A manifest and the configuration that it names, read from the store and checked against each other. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "image/image_priv.h"

int image_bad_document(const char *what, const char *digest, const struct oci_why *why, struct err *e)
{
    return err_set(e, EBADMSG, "%s %s is refused: %s%s%s", what, digest, why->where, why->where[0] ? " " : "",
                   why->what ? why->what : "is not valid");
}

static int documents_check(const struct image_documents *d, struct err *e)
{
    size_t disks = 0;

    for (size_t i = 0; i < d->manifest.n_layers; i++) {
        enum oci_media m = d->manifest.layers[i].media;

        if (d->kind == IMAGE_CONTAINER && m != OCI_MEDIA_LAYER)
            return err_set(e, EBADMSG, "manifest %s is refused: a layer is of type '%.100s', which is no tar of files",
                           d->digest, d->manifest.layers[i].media_type ? d->manifest.layers[i].media_type : "");
        disks += m == OCI_MEDIA_VM_DISK;
    }
    if (d->kind == IMAGE_VM)
        return disks <= 1 ? 0 : err_set(e, EBADMSG, "manifest %s is refused: it has %zu disks", d->digest, disks);
    if (d->config.n_diff_ids != d->manifest.n_layers)
        return err_set(e, EBADMSG, "manifest %s is refused: it has %zu layers, and its configuration %zu", d->digest,
                       d->manifest.n_layers, d->config.n_diff_ids);
    return 0;
}

static int documents_read_config(const struct image_place *p, struct image_documents *d, struct err *e)
{
    struct oci_why why;
    struct buf text;
    int r = image_place_document(p, d->id, &text, e);

    if (r == 0 && d->kind == IMAGE_VM) { /* what is in it is for whoever runs VMs */
        struct oci_image any = { 0 };

        r = oci_config_parse((char *)text.data, text.len, &any, &why);
        if (r == 0)
            d->config_doc = json_object_get(any.memory->document);
        d->config.created_ns = any.created_ns;
        oci_image_done(&any);
    } else if (r == 0) {
        r = oci_config_parse((char *)text.data, text.len, &d->config, &why);
        if (r == 0)
            d->config_doc = json_object_get(d->config.memory->document);
    } else {
        buf_done(&text);
        return r;
    }
    buf_done(&text);
    return r == -EINVAL ? image_bad_document("configuration", d->id, &why, e)
           : r < 0      ? err_set(e, -r, "out of memory")
                        : 0;
}

int image_documents_read(const struct image_place *p, const char *manifest, struct image_documents *ret, struct err *e)
{
    struct oci_why why;
    struct buf text;
    int r;

    *ret = (struct image_documents){ 0 };
    r = image_place_document(p, manifest, &text, e);
    if (r < 0) {
        buf_done(&text);
        return r;
    }
    snprintf(ret->digest, sizeof(ret->digest), "%s", manifest);
    ret->size = text.len;
    r = oci_manifest_parse((char *)text.data, text.len, &ret->manifest, &why);
    buf_done(&text);
    if (r < 0)
        return r == -EINVAL ? image_bad_document("manifest", manifest, &why, e) : err_set(e, -r, "out of memory");
    ret->manifest_doc = json_object_get(ret->manifest.memory->document);
    ret->kind = ret->manifest.config.media == OCI_MEDIA_VM_CONFIG ? IMAGE_VM : IMAGE_CONTAINER;
    memcpy(ret->id, ret->manifest.config.digest, sizeof(ret->id));
    ret->size += ret->manifest.config.size;
    for (size_t i = 0; i < ret->manifest.n_layers; i++)
        ret->size += ret->manifest.layers[i].size;
    r = documents_read_config(p, ret, e);
    return r < 0 ? r : documents_check(ret, e);
}

void image_documents_done(struct image_documents *d)
{
    json_object_put(d->manifest_doc);
    json_object_put(d->config_doc);
    oci_image_done(&d->manifest);
    oci_image_done(&d->config);
    *d = (struct image_documents){ 0 };
}

int image_documents_chain(const struct image_documents *d, char (**ret_chain)[IMAGE_DIGEST_MAX])
{
    char pair[2 * IMAGE_DIGEST_MAX], (*chain)[IMAGE_DIGEST_MAX];

    chain = calloc(d->config.n_diff_ids + 1, sizeof(*chain));
    if (!chain)
        return -ENOMEM;

    for (size_t i = 0; i < d->config.n_diff_ids; i++) {
        int r = 0;

        if (i == 0) {
            snprintf(chain[0], IMAGE_DIGEST_MAX, "%s", d->config.diff_ids[0]);
        } else {
            int n = snprintf(pair, sizeof(pair), "%s %s", chain[i - 1], d->config.diff_ids[i]);

            r = image_sum_of(pair, (size_t)n, chain[i]);
        }
        if (r < 0) {
            free(chain);
            return r;
        }
    }
    *ret_chain = chain;
    return 0;
}
