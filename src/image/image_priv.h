/* Shared by the files of image/. */
#ifndef IMAGE_IMAGE_PRIV_H
#define IMAGE_IMAGE_PRIV_H

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "image/image.h"
#include "sys/dirs.h"
#include "wire/oci_image.h"

struct archive;
struct buf;
struct store_image;

#define IMAGE_PATH_MAX (SYS_DIR_MAX + 256)
#define IMAGE_DEPTH_MAX 256 /* folders in folders, in a layer */
#define IMAGE_BLOCK (128u << 10)

/* ---- sum.c: SHA-256 ---- */

struct image_sum {
    void *context; /* EVP_MD_CTX */
    bool failed;
};
void image_sum_begin(struct image_sum *s);
void image_sum_add(struct image_sum *s, const void *data, size_t len);
/* "sha256:..."; -ENOMEM: it failed somewhere. Frees what begin made. */
int image_sum_end(struct image_sum *s, char ret_digest[IMAGE_DIGEST_MAX]) MUST_USE;
void image_sum_done(struct image_sum *s); /* without a result; also after end */
/* Of one piece. */
int image_sum_of(const void *data, size_t len, char ret_digest[IMAGE_DIGEST_MAX]) MUST_USE;
/* The digits of a digest. */
const char *image_hex(const char *digest);

/* ---- place.c: the folders ---- */

struct image_place {
    char path[SYS_DIR_MAX + 16]; /* STATE/images */
    int fd;                      /* the folder; -1: not open */
    int lock;                    /* of STATE/images/lock; -1: none */
    char tmp[IMAGE_PATH_MAX];    /* this process's folder below tmp/; "": none */
    int tmp_fd;
};
enum image_lock { IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED, IMAGE_LOCK_EXCLUSIVE };
/* Open the folders, made where they are missing, and take the lock; tmp: with a folder for temporary files, what dead
 * processes left there is deleted first. IMAGE_LOCK_EXCLUSIVE does not wait: -EBUSY. Ended by image_place_done in any
 * case. IMAGE_LOCK_NONE makes nothing: -ENOENT where there is no store. */
int image_place_open(struct image_place *p, enum image_lock lock, bool tmp, struct err *e) MUST_USE;
/* Deletes the temporary files; a zeroed struct is not accepted, one that failed to open is. */
void image_place_done(struct image_place *p);
/* Path of a blob below place: "blobs/sha256/HEX". */
void image_blob_name(const char *digest, char ret_name[96]);
/* Delete a whole tree, name in dir, without leaving it by links. Not there is 0. -errno. */
int image_tree_remove(int dir, const char *name) MUST_USE;
/* What a tree takes on the disk, as far as this user can read it. */
uint64_t image_tree_size(int dir, const char *name);

/* Whether the store has a blob of that size and, by its content, that digest. Reads all of it. */
bool image_place_blob_is_sound(const struct image_place *p, const char *digest, uint64_t size);
/* ---- blob.c ---- */

int image_place_blob(const struct image_place *p, const char *digest, uint64_t *ret_size, struct err *e) MUST_USE;
/* A document whole and verified; caller ends buf. */
int image_place_document(const struct image_place *p, const char *digest, struct buf *ret, struct err *e) MUST_USE;

struct image_add {
    struct store *store; /* borrowed */
    struct image_place place;
    _Atomic unsigned serial; /* of temporary names */
};

/* ---- image.c ---- */

/* The row of what the user named, and the full name by which it was found ("": by its id). */
int image_find_row(struct store *s, const char *text, struct store_image *ret, char ret_name[IMAGE_NAME_MAX],
                   struct err *e) MUST_USE;

/* ---- doc.c: members of an image's configuration ---- */

/* A member of o, made where it is missing or something else; belongs to o. */
struct json_object *image_doc_list(struct json_object *o, const char *member);
struct json_object *image_doc_object(struct json_object *o, const char *member);
/* "K=V" into the list env, in place of an older one. */
void image_doc_env(struct json_object *env, const char *pair);

/* ---- documents.c: a manifest and its configuration ---- */

struct image_documents {
    struct oci_image manifest, config; /* config: of containers only */
    struct json_object *manifest_doc, *config_doc;
    char id[IMAGE_DIGEST_MAX], digest[IMAGE_DIGEST_MAX];
    enum image_kind kind;
    uint64_t size; /* of all blobs */
};
/* Read and check against each other. Ended by image_documents_done in any case. */
int image_documents_read(const struct image_place *p, const char *manifest, struct image_documents *ret,
                         struct err *e) MUST_USE;
void image_documents_done(struct image_documents *d);
/* Chain ids of the layers (n_diff_ids digests), lowest first; freed by the caller. -ENOMEM. */
int image_documents_chain(const struct image_documents *d, char (**ret_chain)[IMAGE_DIGEST_MAX]) MUST_USE;
/* Why a document was refused, as an error: -EBADMSG. */
int image_bad_document(const char *what, const char *digest, const struct oci_why *why, struct err *e);

/* ---- ids.c: the right to make files of others ---- */

enum image_ids {
    IMAGE_IDS_ALL,    /* root: owners as they are */
    IMAGE_IDS_MAPPED, /* subordinate ids */
    IMAGE_IDS_FLAT,   /* this user only: all files are his */
};
struct image_work {
    enum image_ids ids;
    const struct disk_progress *progress; /* to be told from this one's thread */
};
/* Call fn with the right to make files of other owners: here (root), or in a child in a user namespace, of which only
 * result and text come back. Cancelled by progress: -ECANCELED, the child is killed. */
int image_ids_run(int (*fn)(void *opaque, const struct image_work *work, struct err *e), void *opaque,
                  const struct disk_progress *progress, struct err *e) MUST_USE;
/* Whether xattrs of overlayfs must be in user.*. */
bool image_ids_userxattr(void);
/* image_tree_remove with that right. */
int image_tree_remove_owned(int dir, const char *name, struct err *e) MUST_USE;

/* ---- stream.c: the bytes of a layer, decompressed and summed on both sides ---- */

struct image_stream;
/* fd is borrowed. The end is not reached before image_stream_end. */
int image_stream_open(int fd, struct image_stream **ret_stream) MUST_USE;
void image_stream_free(struct image_stream *s);
DEFINE_AUTO(image_stream, struct image_stream, image_stream_free)
/* The next piece, valid until the next call; 0: the end; -EIO, -EBADMSG (not what it seems; see image_stream_why). */
ssize_t image_stream_next(struct image_stream *s, const void **ret_data) MUST_USE;
const char *image_stream_why(struct image_stream *s);
/* Read on to the end. ret_diff: digest of what came out, ret_blob: of what was read. */
int image_stream_end(struct image_stream *s, char ret_blob[IMAGE_DIGEST_MAX], char ret_diff[IMAGE_DIGEST_MAX]) MUST_USE;
uint64_t image_stream_in(const struct image_stream *s);  /* bytes read so far */
uint64_t image_stream_out(const struct image_stream *s); /* bytes that came out */
/* A libarchive reader of the tar in it; freed by the caller before the stream. NULL: out of memory. */
struct archive *image_stream_tar(struct image_stream *s);

/* ---- unpack.c ---- */

struct image_unpack {
    const char *what; /* for messages: "layer sha256:..." */
    int root;         /* the folder "diff", empty */
    enum image_ids ids;
    bool userxattr;
    /* The folders "diff" of the parents, topmost first, as descriptors. They may be used after wait (NULL: at once)
     * returned 0. */
    const int *lower;
    size_t n_lower;
    int (*wait)(void *opaque);
    void (*step)(struct image_stream *s, void *opaque); /* after each entry; NULL: nobody wants to know */
    const _Atomic bool *stop;                           /* NULL: never */
    void *opaque;
};
/* Unpack the tar in stream. -EBADMSG with text: it is no tar, or has entries that no layer may have; -ECANCELED:
 * stopped; errors of the file system. */
int image_unpack(const struct image_unpack *u, struct image_stream *stream, struct err *e) MUST_USE;

/* ---- layers.c ---- */

/* Unpack what is missing. paths (may be NULL): as image_layers. place has a temporary folder. */
int image_layers_unpack(struct image_place *p, const struct image_documents *d, const struct disk_progress *progress,
                        struct err *e) MUST_USE;

/* Where they are, topmost first, as image_layers. */
int image_layers_paths(const struct image_place *p, const struct image_documents *d, char ***ret_paths, size_t *ret_n,
                       struct err *e) MUST_USE;

/* ---- remove.c ---- */

/* Delete blobs and layers that no image has; place has the exclusive lock. *ret_bytes: of files deleted. */
int image_sweep(struct store *s, struct image_place *p, uint64_t *ret_bytes, struct err *e) MUST_USE;

#endif
