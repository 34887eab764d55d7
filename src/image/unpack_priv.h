/* Shared by the files that unpack a layer: the state of one run. */
#ifndef IMAGE_UNPACK_PRIV_H
#define IMAGE_UNPACK_PRIV_H

#include <limits.h>
#include <time.h>

#include "image/image_priv.h"

struct archive_entry;

#define UNPACK_WHITEOUT ".wh."
#define UNPACK_OPAQUE ".wh..wh..opq"
#define UNPACK_META ".wh..wh." /* aufs's own files: of no meaning */
#define UNPACK_LINKS_MAX 40    /* symbolic links in one path, as the kernel has it */

/* Of an archive that repeats itself for ever. */
#define UNPACK_ENTRIES_MAX 20000000
#define UNPACK_NOTES_MAX (256u << 20) /* bytes: some two million folders */

/* A folder whose time is set at the end, because making files in it changes it. */
struct unpack_folder {
    char *path; /* below root, "." for root itself */
    struct timespec mtime;
};

struct unpack {
    const struct image_unpack *config;
    struct err *e;
    bool waited; /* the parents are complete */
    bool root_seen;
    bool marks;            /* the store lies on an overlayfs: whiteouts and opaque folders are files (sys/overlay.h) */
    char parent[PATH_MAX]; /* the folder of the last entry, as it stood in the entry, and its descriptor (-1: none) */
    char parent_real[PATH_MAX]; /* and where links led to */
    int parent_fd;
    struct unpack_folder *folders;
    size_t n_folders, cap_folders;
    uint64_t notes_bytes; /* of folders */
    uint64_t entries;
};

/* What an entry gives to its file. */
struct unpack_attr {
    uid_t uid;
    gid_t gid;
    mode_t mode; /* with the file's type */
    struct timespec mtime;
    struct archive_entry *entry; /* for xattrs and ACLs; NULL: none */
};

/* Put the failure of a call on an entry into words. Returns r (-errno). */
int unpack_fail(struct unpack *u, int r, const char *path, const char *what);
/* An entry that no layer may have: -EBADMSG. */
int unpack_refuse(struct unpack *u, const char *path, const char *why);

/* ---- unpack_path.c ---- */

/* The entry's path without "./", "/" at the front and behind; "" is the root. -EBADMSG with text: "..", too long, too
 * deep. */
int unpack_path_clean(struct unpack *u, const char *path, char ret_path[PATH_MAX]) MUST_USE;
/* The folder that holds path (clean, not ""), made where it is missing; links in it lead anywhere below root, also
 * links of parents. The descriptor is borrowed until the next call. *ret_name is the last part, inside path.
 * ret_real: the folder's own path, "" for root. make false: -ENOENT without text where it is missing, also in all
 * parents. */
int unpack_path_parent(struct unpack *u, const char *path, bool make, const char **ret_name, const char **ret_real);
/* A folder of this layer by its own path, "." for root, without following a link: an O_PATH descriptor. -errno. */
int unpack_path_folder(const struct unpack *u, const char *real) MUST_USE;
/* Forget the descriptor: its folder goes. */
void unpack_path_forget(struct unpack *u);
/* Until the parents are complete. -ECANCELED: they will not be. */
int unpack_path_wait(struct unpack *u) MUST_USE;
/* Look into the parents for a real path (no links on the way). *ret_fd: an O_PATH descriptor. -ENOENT: none has it, or
 * one hides it. */
int unpack_path_lower(struct unpack *u, const char *real, int *ret_fd) MUST_USE;
/* "a" and "b" to "a/b"; a may be "". False: too long. */
bool unpack_path_join(const char *a, const char *b, char ret_path[PATH_MAX]);
bool unpack_is_whiteout(const struct stat *st);
/* Take away the file that marks name as deleted. False: there was none. */
bool unpack_unmark(const struct unpack *u, int dir, const char *name);

/* ---- unpack_attr.c ---- */

/* Owner, mode, xattrs, ACL and (not for folders) time of a new file name in the folder dir. fd: the file, open; -1: it
 * is opened by name where that is needed. path is for messages. */
int unpack_attr_set(struct unpack *u, int dir, const char *name, int fd, const struct unpack_attr *a,
                    const char *path) MUST_USE;
void unpack_attr_of_entry(struct archive_entry *entry, struct unpack_attr *ret);
/* Owner, mode, xattrs and time of a file of a parent (an O_PATH descriptor) for a copy of it. */
int unpack_attr_copy(struct unpack *u, int from, int dir, const char *name, const char *path) MUST_USE;
/* Note the time of a folder for the end. */
int unpack_folder_add(struct unpack *u, const char *real, struct timespec mtime) MUST_USE;
/* Mark the folder: it hides what parents have there. */
int unpack_set_opaque(struct unpack *u, int fd, const char *path) MUST_USE;
bool unpack_is_opaque(const struct unpack *u, int fd);

#endif
