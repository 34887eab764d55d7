/* Images: what instances are made from. An image is an OCI manifest with its configuration and layers, kept content-
 * addressed under STATE/images, known by its id (the digest of its configuration, as Podman and Docker have it) and by
 * any number of names. Blobs are verified against their digests whenever they come in; a name appears only when all
 * that it stands for is there.
 *
 *   STATE/images/blobs/sha256/HEX   manifests, configurations, layers as they came (compressed)
 *   STATE/images/layers/CHAINID/    a layer unpacked over its parents: diff/ (overlayfs: whiteouts as 0/0 devices,
 *                                   opaque as xattr), unpacked when it comes in, or when it is first used
 *   STATE/images/tmp/               work in progress, one locked folder for each process at work
 *   STATE/images/lock               shared: somebody adds or uses; exclusive: somebody deletes
 *
 * kind "container": layers are tar, tar+gzip or tar+zstd. kind "vm": an OCI artifact, config type
 * application/vnd.caisson.vm.v1+json (kernel command line, default memory and CPUs), layers with the types
 * application/vnd.caisson.vm.disk.v1+qcow2, ...kernel.v1, ...initrd.v1.
 *
 * Any process of this user may use the store at the same time. It must not know instances, terminals or the command
 * line. */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "store/disk.h"
#include "store/store.h"

struct json_object;

#define IMAGE_DIGEST_MAX 72 /* "sha256:" and 64 digits, with its terminator */
#define IMAGE_NAME_MAX 512  /* "localhost/debian:12", always with a tag, with its terminator */
#define IMAGE_LAYERS_MAX 128
#define IMAGE_SHORT 12 /* digits of an id that people see */

enum image_kind { IMAGE_CONTAINER, IMAGE_VM };
enum image_compress { IMAGE_COMPRESS_GZIP, IMAGE_COMPRESS_ZSTD, IMAGE_COMPRESS_NONE };

struct image {
    char id[IMAGE_DIGEST_MAX];       /* digest of the configuration */
    char manifest[IMAGE_DIGEST_MAX]; /* digest of the manifest */
    enum image_kind kind;
    uint64_t size;                    /* bytes of all blobs */
    int64_t created_ns;               /* 0: the image does not say */
    struct json_object *config;       /* the configuration document; owned */
    struct json_object *manifest_doc; /* owned */
    char (*names)[IMAGE_NAME_MAX];    /* n_names; owned */
    size_t n_names;
};
void image_done(struct image *i);                  /* a zeroed one is accepted */
const char *image_kind_name(enum image_kind kind); /* "container", "vm" */

/* ---- names (name.c) ---- */

/* Full name of what the user typed: "debian" -> "docker.io/library/debian:latest" is what registries mean; but a local
 * image "localhost/debian:latest" or one with exactly that short name wins. ret_name is the normalised name for a
 * registry. -EINVAL with text. */
int image_name_normalize(const char *text, char ret_name[IMAGE_NAME_MAX], struct err *e) MUST_USE;
/* Full name for an image that is made here: as above, but without a registry it gets "localhost/". */
int image_name_local(const char *text, char ret_name[IMAGE_NAME_MAX], struct err *e) MUST_USE;

/* ---- finding (image.c) ---- */

/* By name (with and without registry, tag), id, or unambiguous prefix of the id. -ENOENT with the nearest name and the
 * remedy (pull, build). */
int image_get(struct store *s, const char *name_or_id, struct image *ret_image, struct err *e) MUST_USE;
/* The newest first. fn borrows the image. A result other than 0 ends the walk and is returned. */
int image_each(struct store *s, int (*fn)(void *opaque, const struct image *i), void *opaque, struct err *e) MUST_USE;

/* ---- using (layers.c) ---- */

/* The root file system of a container image, as layers for overlayfs, topmost first: absolute paths of "diff" folders,
 * unpacked here where they were not. Their own root folders have the attributes that "/" has to have, so an upper
 * folder must be made like the first. Owned by the caller: an array of *ret_n malloc'd strings. */
int image_layers(struct store *s, const struct image *i, char ***ret_paths, size_t *ret_n, struct err *e) MUST_USE;
void image_paths_free(char **paths, size_t n);
/* The option that overlayfs needs for these layers besides lowerdir: "userxattr" where this user's opaque folders are
 * marked in user.*, else "". Constant. */
const char *image_overlay_option(void);
/* What a user should know who cannot have files of other owners, in one line; NULL: nothing. Constant. */
const char *image_owner_note(void);
/* The files of a VM image: absolute paths; initrd may become NULL. Owned by the caller. */
int image_vm_files(struct store *s, const struct image *i, char **ret_disk, char **ret_kernel, char **ret_initrd,
                   struct err *e) MUST_USE;

/* ---- adding (add.c, blob.c) ----
 * For import, pull, build and commit: bring in blobs, then the name. What was brought in without a commit is deleted
 * again, at the latest by the next process that adds something. */

struct image_add;
int image_add_begin(struct store *s, struct image_add **ret_add, struct err *e) MUST_USE;
/* NULL accepted; also after a commit. */
void image_add_free(struct image_add *a);
DEFINE_AUTO(image_add, struct image_add, image_add_free)

/* One blob on its way in. Blobs of one image_add may be written by several threads, each by one. */
struct image_blob;
int image_blob_begin(struct image_add *a, struct image_blob **ret_blob, struct err *e) MUST_USE;
int image_blob_write(struct image_blob *b, const void *data, size_t len, struct err *e) MUST_USE;
/* The blob is complete: digest (NULL: whatever it is) and size (UINT64_MAX: likewise) are what it must have, else
 * -EBADMSG with text. Frees b in any case. ret_digest may be NULL. */
int image_blob_end(struct image_blob *b, const char *digest, uint64_t size, char ret_digest[IMAGE_DIGEST_MAX],
                   uint64_t *ret_size, struct err *e) MUST_USE;
/* Give up; NULL accepted. */
void image_blob_free(struct image_blob *b);
DEFINE_AUTO(image_blob, struct image_blob, image_blob_free)
/* A whole document at once. */
int image_blob_put(struct image_add *a, const void *data, size_t len, const char *digest,
                   char ret_digest[IMAGE_DIGEST_MAX], struct err *e) MUST_USE;
/* Whether the blob is there already, with this size, so that it need not come in. */
bool image_blob_have(struct image_add *a, const char *digest, uint64_t size);
/* Open a blob for reading; the size of its file is *ret_size. */
int image_blob_open(struct image_add *a, const char *digest, uint64_t *ret_size, struct err *e) MUST_USE;

/* All blobs of manifest (a digest) are there: check the documents against each other, unpack the layers of a container
 * (which verifies their diff ids), and enter image and names (n_names, normalised) in one transaction. ret_image (may
 * be NULL) is the caller's. */
int image_add_commit(struct image_add *a, const char *manifest, const char *const *names, size_t n_names,
                     const struct disk_progress *progress, struct image *ret_image, struct err *e) MUST_USE;

/* ---- naming and removing (remove.c) ---- */

/* Give an image another name (as typed; taken from another image that had it). *ret_name: in full. */
int image_tag(struct store *s, const char *name_or_id, const char *name, char ret_name[IMAGE_NAME_MAX],
              struct err *e) MUST_USE;

struct image_rm {
    bool force; /* called by its id: also where it has several names */
    /* Whether an instance needs the image: 1, and *ret_user is its name; 0; -errno. NULL: none does. In a transaction.
     */
    int (*user)(void *opaque, struct store *s, const char *id, char ret_user[128], struct err *e);
    void (*told)(void *opaque, const char *what,
                 bool deleted); /* a name that is gone, the id of an image; NULL: nobody */
    void *opaque;
};
/* Take a name away; with the last name, or called by its id, the image goes, and all that only it needed (if others use
 * the store just now, with the next removal). -EBUSY with text: an instance uses it; or it has several names. */
int image_rm(struct store *s, const char *name_or_id, const struct image_rm *rm, struct err *e) MUST_USE;
/* Remove images without names, with all also those that no instance uses, and whatever no image needs. *ret_bytes:
 * freed. -EBUSY: others use the store. */
int image_prune(struct store *s, bool all, const struct image_rm *rm, uint64_t *ret_bytes, struct err *e) MUST_USE;

#endif
