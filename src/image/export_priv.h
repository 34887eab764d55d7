/* Shared by the files that export images. */
#ifndef IMAGE_EXPORT_PRIV_H
#define IMAGE_EXPORT_PRIV_H

#include <json-c/json.h>

#include "image/export.h"
#include "image/image_priv.h"

/* Where files go to: a folder or a tar. */
struct export_out {
    const char *path; /* for messages */
    int folder;       /* -1: a tar */
    struct archive *tar;
    int fd; /* of the tar */
    const struct disk_progress *progress;
    uint64_t done, total;
    char (*names)[128];
    size_t n_names, cap_names;
};
/* Whether a file of that name is out already; notes it. -ENOMEM. */
int export_seen(struct export_out *o, const char *name) MUST_USE;
/* One file, size bytes of fd. */
int export_file(struct export_out *o, const char *name, int fd, uint64_t size, struct err *e) MUST_USE;
int export_text(struct export_out *o, const char *name, const char *text, size_t len, struct err *e) MUST_USE;
/* A JSON value, which is put. */
int export_json(struct export_out *o, const char *name, json_object *value, struct err *e) MUST_USE;

/* export_docker.c */
int export_docker(struct export_out *o, struct image_place *p, const struct image *images, size_t n,
                  struct err *e) MUST_USE;
/* export_rootfs.c: the tar of one image's files, to fd */
int export_rootfs(struct store *s, const struct image *i, int fd, const struct disk_progress *progress,
                  struct err *e) MUST_USE;

#endif
