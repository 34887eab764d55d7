/* Bringing an image in: blobs first, then the layers, and the rows last. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/image_priv.h"
#include "store/event.h"
#include "store/image.h"

int image_add_begin(struct store *s, struct image_add **ret_add, struct err *e)
{
    AUTO(image_add) struct image_add *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return err_set(e, ENOMEM, "out of memory");
    a->store = s;
    r = image_place_open(&a->place, IMAGE_LOCK_SHARED, true, e);
    if (r == 0)
        *ret_add = STEAL(a);
    return r;
}

void image_add_free(struct image_add *a)
{
    if (!a)
        return;
    image_place_done(&a->place);
    free(a);
}

/* Digests of all that an image needs, as rows have them. */
struct add_parts {
    char text[2 * IMAGE_LAYERS_MAX + 2][IMAGE_DIGEST_MAX + 8];
    const char *at[2 * IMAGE_LAYERS_MAX + 2];
    size_t n;
};

static void add_part(struct add_parts *parts, const char *prefix, const char *text)
{
    snprintf(parts->text[parts->n], sizeof(parts->text[0]), "%s%s", prefix, text);
    parts->at[parts->n] = parts->text[parts->n];
    parts->n++;
}

static int add_collect_parts(const struct image_documents *d, struct add_parts *parts, struct err *e)
{
    AUTO_FREE char(*chain)[IMAGE_DIGEST_MAX] = NULL;

    if (image_documents_chain(d, &chain) < 0)
        return err_set(e, ENOMEM, "out of memory");
    add_part(parts, "", d->digest);
    add_part(parts, "", d->id);
    for (size_t i = 0; i < d->manifest.n_layers; i++)
        add_part(parts, "", d->manifest.layers[i].digest);
    for (size_t i = 0; i < d->config.n_diff_ids; i++)
        add_part(parts, "layer:", image_hex(chain[i]));
    return 0;
}

static int add_rows(struct image_add *a, const struct image_documents *d, const struct add_parts *parts,
                    const char *const *names, size_t n_names, struct err *e)
{
    struct store_image row = { .kind = (int)d->kind, .size = d->size, .created_ns = d->config.created_ns };
    int r = store_begin(a->store, e);

    if (r < 0)
        return r;
    memcpy(row.id, d->id, sizeof(row.id));
    memcpy(row.manifest, d->digest, sizeof(row.manifest));
    r = store_image_put(a->store, &row, parts->at, parts->n, e);
    for (size_t i = 0; r == 0 && i < n_names; i++)
        r = store_image_name_set(a->store, names[i], d->id, e);
    if (r == 0) {
        const struct store_event event = {
            .object = "image", .id = d->id, .name = n_names ? names[0] : "", .action = "add"
        };

        r = store_event_add(a->store, &event, e);
    }
    if (r == 0)
        return store_commit(a->store, e);
    store_rollback(a->store);
    return r;
}

/* The blobs that nobody unpacks: there, and of the right size. Their digests were verified when they came in. */
static int add_check_blobs(struct image_add *a, const struct image_documents *d, struct err *e)
{
    for (size_t i = 0; i < d->manifest.n_layers; i++) {
        const struct oci_descriptor *l = &d->manifest.layers[i];

        if (!image_blob_have(a, l->digest, l->size))
            return err_set(e, EBADMSG, "manifest %s is refused: its blob %s is not there, or not of %llu bytes",
                           d->digest, l->digest, (unsigned long long)l->size);
    }
    return 0;
}

/* The names of blobs and layers; what they name is on the disk already. */
static int add_sync(struct image_add *a, const struct image_documents *d, struct err *e)
{
    static const char *const folders[] = { "blobs/sha256", "layers" };

    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        AUTO_FD int fd = openat(a->place.fd, folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0 || fsync(fd) < 0)
            return err_set(e, errno, "cannot write image %s to the disk: %s", d->id, strerror(errno));
    }
    return 0;
}

int image_add_commit(struct image_add *a, const char *manifest, const char *const *names, size_t n_names,
                     const struct disk_progress *progress, struct image *ret_image, struct err *e)
{
    AUTO_FREE struct add_parts *parts = calloc(1, sizeof(*parts));
    struct image_documents d = { 0 };
    int r = parts ? image_documents_read(&a->place, manifest, &d, e) : err_set(e, ENOMEM, "out of memory");

    if (r == 0)
        r = add_check_blobs(a, &d, e);
    if (r == 0 && d.kind == IMAGE_CONTAINER)
        r = image_layers_unpack(&a->place, &d, progress, e);
    if (r == 0)
        r = add_collect_parts(&d, parts, e);
    if (r == 0)
        r = add_sync(a, &d, e);
    if (r == 0)
        r = add_rows(a, &d, parts, names, n_names, e);
    if (r == 0 && ret_image)
        r = image_get(a->store, d.id, ret_image, e);
    image_documents_done(&d);
    return r;
}
