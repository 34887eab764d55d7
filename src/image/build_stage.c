#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "image/build_priv.h"
#include "image/import_priv.h"

void build_stage_done(struct build_stage *stage)
{
    free(stage->name);
    json_object_put(stage->doc);
    json_object_put(stage->layers);
    inst_strings_done(&stage->args);
    if (stage->paths)
        image_paths_free(stage->paths, stage->n_paths);
    *stage = (struct build_stage){ 0 };
}

static int stage_no_memory(struct err *e)
{
    return err_set(e, ENOMEM, "out of memory");
}

/* ---- beginnings ---- */

static int stage_copy(struct build_stage *stage, json_object *doc, json_object *layers, struct err *e)
{
    stage->doc = NULL;
    stage->layers = NULL;
    if (json_object_deep_copy(doc, &stage->doc, NULL) < 0 || json_object_deep_copy(layers, &stage->layers, NULL) < 0)
        return stage_no_memory(e);
    return 0;
}

static int stage_scratch(struct build_stage *stage, struct err *e)
{
    stage->doc = build_doc_new();
    stage->layers = json_object_new_array();
    snprintf(stage->key, sizeof(stage->key), "scratch");
    return stage->doc && stage->layers ? 0 : stage_no_memory(e);
}

static bool stage_has_triggers(json_object *doc)
{
    return json_object_array_length(image_doc_list(build_doc_config(doc), "OnBuild")) > 0;
}

/* From an image of the store. */
static int stage_image(struct build_stage *stage, const struct image *image, struct err *e)
{
    json_object *layers = NULL;
    const char *const texts[] = { "image", image->id, NULL };
    int r;

    if (image->kind != IMAGE_CONTAINER)
        return err_set(e, EPROTOTYPE, "image %.19s is of a VM; containers are built from container images", image->id);
    if (!json_object_object_get_ex(image->manifest_doc, "layers", &layers))
        return err_set(e, EINVAL, "image %.19s has no list of layers", image->id);
    r = stage_copy(stage, image->config, layers, e);
    if (r == 0 && build_key_next(stage->key, texts) < 0)
        r = stage_no_memory(e);
    return r;
}

/* Find an image here, or pull it as the policy says. */
static int stage_base(struct builder *b, const char *name, const char *platform, struct image *ret, struct err *e)
{
    struct image_pull_config pull = {
        .name = name, .policy = b->config->pull, .platform = platform, .registry = b->config->registry
    };
    struct image_pull_result result;
    struct err ignored = { 0 };
    int r = image_get(b->store, name, ret, &ignored);

    if (r == 0 && (b->config->pull == IMAGE_PULL_MISSING || b->config->pull == IMAGE_PULL_NEVER))
        return 0;
    if (r == 0) {
        image_done(ret);
        *ret = (struct image){ 0 };
    }
    r = image_pull(b->store, &pull, &result, e);
    return r < 0 ? r : image_get(b->store, result.id, ret, e);
}

int build_stage_begin(struct builder *b, struct build_stage *stage, const char *from, const char *platform,
                      struct err *e)
{
    struct image image = { 0 };
    int r;

    for (size_t i = b->n_stages; i-- > 0;) {
        struct build_stage *other = &b->stages[i];

        if (other == stage || !other->name || strcasecmp(other->name, from) != 0)
            continue;
        memcpy(stage->key, other->key, sizeof(stage->key));
        return stage_copy(stage, other->doc, other->layers, e);
    }
    if (strcmp(from, "scratch") == 0)
        return stage_scratch(stage, e);
    r = stage_base(b, from, platform ? platform : b->config->platform, &image, e);
    if (r == 0)
        r = stage_image(stage, &image, e);
    if (r == 0 && stage_has_triggers(stage->doc))
        r = err_set(e, EINVAL,
                    "image %s has ONBUILD triggers, which Caisson does not run; write their instructions here", from);
    image_done(&image);
    return r;
}

int build_stage_find(struct builder *b, const struct build_stage *now, const char *name, struct build_stage **ret_stage,
                     struct err *e)
{
    struct build_stage *other;
    struct image image = { 0 };
    uint64_t number;
    int r;

    for (size_t i = b->n_stages; i-- > 0;)
        if (&b->stages[i] != now && b->stages[i].name && strcasecmp(b->stages[i].name, name) == 0) {
            *ret_stage = &b->stages[i];
            return 0;
        }
    if (num_parse_u64(name, 0, BUILD_STAGES_MAX, &number) == 0) {
        if (number >= b->n_stages || &b->stages[number] == now)
            return err_set(e, EINVAL, "there is no stage %s before this one", name);
        *ret_stage = &b->stages[number];
        return 0;
    }
    for (size_t i = 0; i < b->n_others; i++)
        if (strcmp(b->others[i].name, name) == 0) {
            *ret_stage = &b->others[i];
            return 0;
        }
    if (b->n_others == BUILD_STAGES_MAX)
        return err_set(e, EINVAL, "more than %d images in --from", BUILD_STAGES_MAX);
    other = &b->others[b->n_others];
    r = stage_base(b, name, b->config->platform, &image, e);
    if (r == 0)
        r = stage_image(other, &image, e);
    image_done(&image);
    if (r == 0) {
        other->name = strdup(name);
        if (!other->name)
            r = stage_no_memory(e);
    }
    b->n_others++;
    if (r == 0)
        *ret_stage = other;
    return r;
}

/* ---- what came out ---- */

int build_stage_add_layer(struct build_stage *stage, const struct image_layer *layer)
{
    json_object *descriptor;

    if (layer->empty)
        return 0;
    descriptor = import_descriptor(oci_media_name(OCI_MEDIA_LAYER), "+gzip", layer->digest, layer->size);
    if (!descriptor || json_object_array_add(stage->layers, descriptor) < 0)
        return -ENOMEM;
    build_doc_diff_id(stage->doc, layer->diff_id);
    if (stage->paths)
        image_paths_free(stage->paths, stage->n_paths);
    stage->paths = NULL;
    return 0;
}

/* Configuration and manifest into the store. */
static int stage_documents(struct builder *b, struct build_stage *stage, char ret_manifest[IMAGE_DIGEST_MAX],
                           struct err *e)
{
    const char *text =
        json_object_to_json_string_ext(stage->doc, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    char digest[IMAGE_DIGEST_MAX];
    int r = text ? image_blob_put(b->add, text, strlen(text), NULL, digest, e) : stage_no_memory(e);

    return r < 0 ? r
                 : import_write_manifest(b->add, digest, strlen(text), json_object_get(stage->layers), ret_manifest, e);
}

int build_stage_stack(struct builder *b, struct build_stage *stage, struct build_stack *ret_stack, struct err *e)
{
    struct image_documents d = { 0 };
    int r = 0;

    if (!stage->paths && json_object_array_length(stage->layers) > 0) {
        r = stage_documents(b, stage, stage->manifest, e);
        if (r == 0)
            r = image_documents_read(&b->add->place, stage->manifest, &d, e);
        if (r == 0)
            r = image_layers_unpack(&b->add->place, &d, NULL, e);
        if (r == 0)
            r = image_layers_paths(&b->add->place, &d, &stage->paths, &stage->n_paths, e);
        image_documents_done(&d);
    }
    if (r == 0)
        *ret_stack = (struct build_stack){ .paths = stage->paths, .n = stage->paths ? stage->n_paths : 0 };
    return r;
}

int build_stage_commit(struct builder *b, struct build_stage *stage, const char *const *names, size_t n_names,
                       char ret_id[IMAGE_DIGEST_MAX], struct err *e)
{
    char manifest[IMAGE_DIGEST_MAX];
    struct image image = { 0 };
    int r = stage_documents(b, stage, manifest, e);

    if (r == 0)
        r = image_add_commit(b->add, manifest, names, n_names, NULL, &image, e);
    if (r == 0)
        snprintf(ret_id, IMAGE_DIGEST_MAX, "%s", image.id);
    image_done(&image);
    return r;
}
