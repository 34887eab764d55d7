/* What `docker save` writes: configuration and uncompressed layers, named by their digests, and manifest.json. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/export_priv.h"

/* A layer without its compression, as a file without a name: a tar needs the size first. */
static int docker_plain_layer(struct image_place *p, const char *blob, const char *diff_id, int *ret_fd,
                              uint64_t *ret_size, struct err *e)
{
    AUTO(image_stream) struct image_stream *stream = NULL;
    AUTO_FD int from = image_place_blob(p, blob, NULL, e), to = -1;
    char is_blob[IMAGE_DIGEST_MAX], is_diff[IMAGE_DIGEST_MAX];
    const void *data;
    ssize_t n;
    int r;

    if (from < 0)
        return from;
    if (image_stream_open(from, &stream) < 0)
        return err_set(e, ENOMEM, "out of memory");
    to = open(p->tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (to < 0)
        return err_set(e, errno, "cannot make a file in %s: %s", p->tmp, strerror(errno));
    r = 0;
    while (r == 0 && (n = image_stream_next(stream, &data)) > 0)
        r = fd_write_all(to, data, (size_t)n);
    if (r < 0)
        return err_set(e, -r, "image store %s: cannot write: %s", p->path,
                       r == -ENOSPC ? "no space left; free some ('caisson image prune')" : strerror(-r));
    if (n < 0 || image_stream_end(stream, is_blob, is_diff) < 0)
        return err_set(e, EBADMSG, "layer %s is damaged: %s; get the image again", blob, image_stream_why(stream));
    if (strcmp(is_diff, diff_id) != 0)
        return err_set(e, EBADMSG, "layer %s is damaged; get the image again", blob);
    *ret_size = image_stream_out(stream);
    if (lseek(to, 0, SEEK_SET) < 0)
        return err_set(e, errno, "cannot read from %s: %s", p->tmp, strerror(errno));
    *ret_fd = STEAL_FD(to);
    return 0;
}

static int docker_layer(struct export_out *o, struct image_place *p, const char *blob, const char *diff_id,
                        const char *name, struct err *e)
{
    AUTO_FD int fd = -1;
    uint64_t size = 0;
    int r = export_seen(o, name);

    if (r != 0)
        return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
    r = docker_plain_layer(p, blob, diff_id, &fd, &size, e);
    return r < 0 ? r : export_file(o, name, fd, size, e);
}

static int docker_config(struct export_out *o, struct image_place *p, const char *id, const char *name, struct err *e)
{
    struct buf text;
    int r = export_seen(o, name);

    if (r != 0)
        return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
    r = image_place_document(p, id, &text, e);
    if (r == 0)
        r = export_text(o, name, (char *)text.data, text.len, e);
    buf_done(&text);
    return r;
}

static int docker_image(struct export_out *o, struct image_place *p, const struct image *i, json_object *list,
                        struct err *e)
{
    json_object *entry = json_object_new_object(), *tags = json_object_new_array(), *layers = json_object_new_array();
    struct image_documents d;
    char name[128];
    int r = image_documents_read(p, i->manifest, &d, e);

    snprintf(name, sizeof(name), "%.64s.json", image_hex(i->id));
    if (r == 0)
        r = docker_config(o, p, i->id, name, e);
    json_object_object_add(entry, "Config", json_object_new_string(name));
    for (size_t k = 0; k < i->n_names; k++) {
        if (!strchr(i->names[k], '@'))
            json_object_array_add(tags, json_object_new_string(i->names[k]));
    }
    json_object_object_add(entry, "RepoTags", tags);
    for (size_t k = 0; r == 0 && k < d.manifest.n_layers; k++) {
        snprintf(name, sizeof(name), "%.64s.tar", image_hex(d.config.diff_ids[k]));
        r = docker_layer(o, p, d.manifest.layers[k].digest, d.config.diff_ids[k], name, e);
        json_object_array_add(layers, json_object_new_string(name));
    }
    json_object_object_add(entry, "Layers", layers);
    json_object_array_add(list, entry);
    image_documents_done(&d);
    return r;
}

int export_docker(struct export_out *o, struct image_place *p, const struct image *images, size_t n, struct err *e)
{
    json_object *list = json_object_new_array();
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = docker_image(o, p, &images[i], list, e);
    if (r == 0)
        return export_json(o, "manifest.json", list, e);
    json_object_put(list);
    return r;
}
