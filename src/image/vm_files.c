/* The files of a VM image. Its blobs are used where they are: they never change, so that a disk is a backing file as it
 * came. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "image/image_priv.h"

/* A disk of a stranger must not stand on files of this host: they could be secrets. */
static int vm_check_disk(const char *path, const char *id, struct err *e)
{
    const struct blk_open_config config = { .path = path, .format = "qcow2", .read_only = true, .no_data = true };
    json_object *facts = NULL, *o, *v;
    int r = disk_info(&config, false, &facts, e);

    if (r < 0)
        return err_wrap(e, "image %.*s", IMAGE_SHORT, image_hex(id));
    o = json_object_array_get_idx(facts, 0);
    if (json_object_object_get_ex(o, "backing", &v) || json_object_object_get_ex(o, "data_file", &v))
        r = err_set(e, EBADMSG,
                    "image %.*s is refused: its disk refers to another file; make it whole with 'caisson disk "
                    "convert' before it becomes an image",
                    IMAGE_SHORT, image_hex(id));
    json_object_put(facts);
    return r;
}

static int vm_blob_path(const struct image_place *p, const char *digest, char **ret_path, struct err *e)
{
    char name[96];

    if (*ret_path)
        return err_set(e, EBADMSG, "image: it has two files of one kind, of which a VM can have one only");
    image_blob_name(digest, name);
    if (asprintf(ret_path, "%s/%s", p->path, name) < 0) {
        *ret_path = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    return 0;
}

int image_vm_files(struct store *s, const struct image *i, char **ret_disk, char **ret_kernel, char **ret_initrd,
                   struct err *e)
{
    AUTO_FREE char *disk = NULL, *kernel = NULL, *initrd = NULL;
    struct image_documents d = { 0 };
    struct image_place place;
    int r = image_place_open(&place, IMAGE_LOCK_NONE, false, e);

    (void)s;
    if (r == 0)
        r = image_documents_read(&place, i->manifest, &d, e);
    for (size_t k = 0; k < d.manifest.n_layers && r == 0; k++) {
        const struct oci_descriptor *layer = &d.manifest.layers[k];

        if (layer->media == OCI_MEDIA_VM_DISK)
            r = vm_blob_path(&place, layer->digest, &disk, e);
        else if (layer->media == OCI_MEDIA_VM_KERNEL)
            r = vm_blob_path(&place, layer->digest, &kernel, e);
        else if (layer->media == OCI_MEDIA_VM_INITRD)
            r = vm_blob_path(&place, layer->digest, &initrd, e);
    }
    if (r == 0 && disk)
        r = vm_check_disk(disk, i->id, e);
    image_documents_done(&d);
    image_place_done(&place);
    if (r < 0)
        return r;
    *ret_disk = STEAL(disk);
    *ret_kernel = STEAL(kernel);
    *ret_initrd = STEAL(initrd);
    return 0;
}
