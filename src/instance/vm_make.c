#include "instance/vm_make.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "image/image.h"
#include "instance/lifecycle.h"
#include "proto/vm_spec.h"
#include "store/disk.h"

#define VM_MAKE_APPEND "console=ttyS0 root=/dev/vda rw" /* for an image that says nothing */

/* What an image has for a VM. */
struct vm_image {
    char *disk, *kernel, *initrd;
};

static void vm_image_done(struct vm_image *f)
{
    free(f->disk);
    free(f->kernel);
    free(f->initrd);
}

static int vm_make_text(char **to, const char *from, struct err *e)
{
    char *copy = strdup(from);

    if (!copy)
        return err_set(e, ENOMEM, "out of memory");
    free(*to);
    *to = copy;
    return 0;
}

/* ---- the image ---- */

/* Fill what the user left open with what the image's configuration says. */
static int vm_make_defaults(const struct inst_vm_new *n, json_object *config, struct err *e)
{
    struct vm_spec *vm = n->spec->vm;
    json_object *v;

    if (!n->has_memory && json_object_object_get_ex(config, "memory", &v) && json_object_get_uint64(v) > 0)
        vm->memory = json_object_get_uint64(v);
    if (!n->has_cpus && json_object_object_get_ex(config, "cpus", &v) && json_object_get_int(v) > 0)
        vm->cpus = (unsigned)json_object_get_int(v);
    if (vm->append)
        return 0;
    if (json_object_object_get_ex(config, "append", &v) && json_object_is_type(v, json_type_string))
        return vm_make_text(&vm->append, json_object_get_string(v), e);
    return vm_make_text(&vm->append, VM_MAKE_APPEND, e);
}

static int vm_make_files(const struct inst_vm_new *n, const struct vm_image *f, struct err *e)
{
    struct vm_spec *vm = n->spec->vm;
    bool own_kernel = vm->kernel != NULL;
    int r = 0;

    if (!own_kernel && f->kernel)
        r = vm_make_text(&vm->kernel, f->kernel, e);
    if (r == 0 && !own_kernel && !vm->initrd && f->initrd)
        r = vm_make_text(&vm->initrd, f->initrd, e);
    if (r == 0 && !vm->kernel)
        r = err_set(e, EINVAL, "image %s has no kernel; give one with --kernel", n->image);
    return r;
}

/* Look the image up and take over what it gives. */
static int vm_make_image(struct store *s, const struct inst_vm_new *n, struct vm_image *f, struct err *e)
{
    struct image image = { 0 };
    int r = image_get(s, n->image, &image, e);

    if (r < 0)
        return r;
    if (image.kind != IMAGE_VM)
        r = err_set(e, EPROTOTYPE,
                    "image %s is for containers; make one with caisson create, or give the image of a VM", n->image);
    if (r == 0)
        r = image_vm_files(s, &image, &f->disk, &f->kernel, &f->initrd, e);
    if (r == 0)
        r = vm_make_text(&n->spec->image_id, image.id, e);
    if (r == 0)
        r = vm_make_text(&n->spec->image_name, image.n_names > 0 ? image.names[0] : n->image, e);
    if (r == 0)
        r = vm_make_defaults(n, image.config, e);
    if (r == 0)
        r = vm_make_files(n, f, e);
    image_done(&image);
    return r;
}

/* ---- the disks ---- */

/* Add a disk before that at index; those from there on move. */
static int vm_make_insert(struct vm_spec *vm, unsigned index, const char *path, const char *format, struct err *e)
{
    struct vm_disk d = { 0 };
    int r;

    if (vm->n_disks == VM_DISKS_MAX)
        return err_set(e, EINVAL, "too many disks; at most %d are possible, the image's and cloud-init's among them",
                       VM_DISKS_MAX);
    r = vm_make_text(&d.path, path, e);
    if (r == 0)
        r = vm_make_text(&d.format, format, e);
    if (r < 0) {
        vm_disk_done(&d);
        return r;
    }
    memmove(&vm->disks[index + 1], &vm->disks[index], (vm->n_disks - index) * sizeof(d));
    vm->disks[index] = d;
    vm->n_disks++;
    return 0;
}

/* What is made for one VM. */
struct vm_making {
    const struct inst_vm_new *n;
    struct vm_image files;
};

static int vm_make_root(const struct vm_making *m, struct vm_spec *vm, const char *dir, struct err *e)
{
    const struct blk_open_config image = { .path = m->files.disk, .format = "qcow2", .read_only = true };
    uint64_t size, wanted = m->n->root_size;
    AUTO_FREE char *path = NULL;
    int r = disk_size(&image, &size, e);

    if (r < 0)
        return r;
    if (wanted > 0 && wanted < size)
        return err_set(e, EINVAL, "--disk: the disk of image %s has %llu MiB; give at least that much", m->n->image,
                       (unsigned long long)(size >> 20));
    if (asprintf(&path, "%s/" INST_VM_ROOT, dir) < 0) {
        path = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    r = disk_create(&(struct blk_create_config){ .path = path,
                                                 .format = "qcow2",
                                                 .size = wanted > 0 ? wanted : size,
                                                 .backing_path = m->files.disk,
                                                 .backing_format = "qcow2" },
                    e);
    return r < 0 ? r : vm_make_insert(vm, 0, path, "qcow2", e);
}

static int vm_make_disks(const struct vm_making *m, struct vm_spec *vm, const char *dir, struct err *e)
{
    int r = m->files.disk ? vm_make_root(m, vm, dir, e) : 0;

    for (size_t i = 0; i < m->n->n_sizes && r == 0; i++) {
        AUTO_FREE char *path = NULL;

        if (asprintf(&path, "%s/disk%zu.qcow2", dir, i + 1) < 0) {
            path = NULL;
            return err_set(e, ENOMEM, "out of memory");
        }
        r = disk_create(&(struct blk_create_config){ .path = path, .format = "qcow2", .size = m->n->sizes[i] }, e);
        if (r == 0)
            r = vm_make_insert(vm, vm->n_disks, path, "qcow2", e);
    }
    return r;
}

/* The seed is the last disk, so that it changes no other's name in the guest. */
static int vm_make_seed(const struct inst_vm_new *n, struct store_instance *i, const char *dir, struct err *e)
{
    struct vm_spec *vm = i->spec.vm;
    AUTO_FREE char *path = NULL;
    int r;

    if (!n->seed)
        return 0;
    if (asprintf(&path, "%s/" INST_VM_SEED, dir) < 0) {
        path = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    r = inst_seed_write(n->seed, i->id, n->hostname ? n->hostname : i->name, vm, path, e);
    if (r == 0)
        r = vm_make_insert(vm, vm->n_disks, path, "raw", e);
    if (r == 0)
        vm->disks[vm->n_disks - 1].read_only = vm->disks[vm->n_disks - 1].cdrom = true;
    return r;
}

/* ---- all of it ---- */

int inst_vm_cards(struct vm_spec *vm, const char *name, struct err *e)
{
    for (unsigned k = 0; k < vm->n_nets; k++) {
        int r = vm_nic_complete(&vm->nets[k], name, k);

        if (r < 0)
            return err_set(e, -r, "cannot choose the address of a network card: %s", strerror(-r));
    }
    return 0;
}

static int vm_make_fill(void *opaque, struct store_instance *i, const char *dir, struct err *e)
{
    const struct vm_making *m = opaque;
    int r = inst_vm_cards(i->spec.vm, i->name, e);

    if (r == 0)
        r = vm_make_disks(m, i->spec.vm, dir, e);
    return r < 0 ? r : vm_make_seed(m->n, i, dir, e);
}

int inst_vm_make(struct store *s, const struct inst_vm_new *n, struct store_instance *ret_instance, struct err *e)
{
    struct vm_making m = { .n = n };
    int r = n->image ? vm_make_image(s, n, &m.files, e) : 0;

    if (r == 0)
        r = inst_create(s, n->name, n->spec, vm_make_fill, &m, ret_instance, e);
    vm_image_done(&m.files);
    return r;
}
