/* Owners, modes, times, extended attributes and ACLs of unpacked files. What belongs to this machine and not to the
 * image is left out: security labels, and the marks of overlayfs itself, by which an image could make overlayfs show
 * other files. */
#include <archive.h>
#include <archive_entry.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "image/unpack_priv.h"
#include "sys/overlay.h"

#define ATTR_ACL_MAX (64u << 10)
#define ATTR_XATTR_MAX (64u << 10) /* the kernel's limits */
#define ATTR_LIST_MAX (64u << 10)

static const char *attr_opaque_name(const struct unpack *u)
{
    return u->config->userxattr ? "user.overlay.opaque" : "trusted.overlay.opaque";
}

int unpack_set_opaque(struct unpack *u, int fd, const char *path)
{
    if (u->marks) {
        AUTO_FD int mark = openat(fd, SYS_OVERLAY_OPAQUE, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0);

        return mark >= 0 && fchmod(mark, SYS_OVERLAY_MARK_MODE) == 0
                   ? 0
                   : unpack_fail(u, -errno, path, "mark it as opaque");
    }
    return fsetxattr(fd, attr_opaque_name(u), "y", 1, 0) == 0 ? 0 : unpack_fail(u, -errno, path, "mark it as opaque");
}

bool unpack_is_opaque(const struct unpack *u, int fd)
{
    char proc[40], value[2];

    if (u->marks)
        return faccessat(fd, SYS_OVERLAY_OPAQUE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd); /* also for O_PATH */
    return getxattr(proc, attr_opaque_name(u), value, sizeof(value)) == 1 && value[0] == 'y';
}

static bool attr_wanted(const struct unpack *u, const char *name)
{
    if (strncmp(name, "user.", 5) == 0)
        return strncmp(name, "user.overlay.", 13) != 0 && strncmp(name, "user.fuseoverlayfs.", 19) != 0;
    if (strncmp(name, "trusted.", 8) == 0)
        return strncmp(name, "trusted.overlay.", 16) != 0 && u->config->ids == IMAGE_IDS_ALL && !u->config->userxattr;
    return strcmp(name, "security.capability") == 0 || strcmp(name, "system.posix_acl_access") == 0 ||
           strcmp(name, "system.posix_acl_default") == 0;
}

/* fd is open for reading or writing. */
static int attr_set_xattr(struct unpack *u, int fd, const char *name, const void *value, size_t size, const char *path)
{
    if (!attr_wanted(u, name) || fsetxattr(fd, name, value, size, 0) == 0)
        return 0;
    /* A file system that has no attributes for users, or an id in an ACL that this user does not have. */
    if ((errno == EOPNOTSUPP && strncmp(name, "user.", 5) == 0) ||
        (u->config->ids == IMAGE_IDS_FLAT && errno != ENOSPC))
        return 0;
    return unpack_fail(u, -errno, path, "set an extended attribute");
}

/* ---- ACLs ---- */

/* The kernel's form of an ACL: version 2, then tag, permissions and id of each entry. */
static int attr_set_acl(struct unpack *u, int fd, struct archive_entry *entry, bool is_default, const char *path)
{
    static const int tags[][2] = { { ARCHIVE_ENTRY_ACL_USER_OBJ, 1 },  { ARCHIVE_ENTRY_ACL_USER, 2 },
                                   { ARCHIVE_ENTRY_ACL_GROUP_OBJ, 4 }, { ARCHIVE_ENTRY_ACL_GROUP, 8 },
                                   { ARCHIVE_ENTRY_ACL_MASK, 16 },     { ARCHIVE_ENTRY_ACL_OTHER, 32 } };
    int want = is_default ? ARCHIVE_ENTRY_ACL_TYPE_DEFAULT : ARCHIVE_ENTRY_ACL_TYPE_ACCESS, type, perms, tag, id, r = 0;
    const char *name;
    struct buf b;
    const uint32_t version = htole32(2);

    /* Three entries say no more than the mode. */
    if (archive_entry_acl_reset(entry, want) <= (is_default ? 0 : 3))
        return 0;
    buf_init(&b, ATTR_ACL_MAX);
    buf_append(&b, &version, sizeof(version));
    /* The kernel wants them in the order of the tags. */
    for (size_t i = 0; i < ARRAY_SIZE(tags); i++) {
        archive_entry_acl_reset(entry, want);
        while (archive_entry_acl_next(entry, want, &type, &perms, &tag, &id, &name) == ARCHIVE_OK) {
            const uint16_t head[2] = { htole16((uint16_t)tags[i][1]), htole16((uint16_t)(perms & 7)) };
            const uint32_t who = htole32(id < 0 ? UINT32_MAX : (uint32_t)id);

            if (tag != tags[i][0])
                continue;
            buf_append(&b, head, sizeof(head));
            buf_append(&b, &who, sizeof(who));
        }
    }
    r = buf_error(&b);
    if (r == 0)
        r = attr_set_xattr(u, fd, is_default ? "system.posix_acl_default" : "system.posix_acl_access", b.data, b.len,
                           path);
    buf_done(&b);
    return r;
}

static int attr_set_extended(struct unpack *u, int fd, struct archive_entry *entry, bool folder, const char *path)
{
    const char *name;
    const void *value;
    size_t size;
    int r = 0;

    archive_entry_xattr_reset(entry);
    while (r == 0 && archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (!name || size > ATTR_XATTR_MAX)
            return unpack_refuse(u, path, "has an extended attribute that is too long");
        r = attr_set_xattr(u, fd, name, value, size, path);
    }
    if (r == 0)
        r = attr_set_acl(u, fd, entry, false, path);
    return r == 0 && folder ? attr_set_acl(u, fd, entry, true, path) : r;
}

/* ---- all of a file ---- */

static bool attr_ids_ok(uid_t uid, gid_t gid)
{
    return uid != (uid_t)-1 && gid != (gid_t)-1;
}

static int attr_set_owner(struct unpack *u, int dir, const char *name, const struct unpack_attr *a, const char *path)
{
    if (!attr_ids_ok(a->uid, a->gid))
        return unpack_refuse(u, path, "has an owner that is none");
    if (u->config->ids == IMAGE_IDS_FLAT || fchownat(dir, name, a->uid, a->gid, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (errno == EINVAL)
        return err_set(
            u->e, EPERM,
            "%s: '%s' belongs to %u:%u, for which there is no subordinate id; give this user more of them in "
            "/etc/subuid and /etc/subgid",
            u->config->what, path, a->uid, a->gid);
    return unpack_fail(u, -errno, path, "set its owner");
}

int unpack_attr_set(struct unpack *u, int dir, const char *name, int fd, const struct unpack_attr *a, const char *path)
{
    const struct timespec times[2] = { a->mtime, a->mtime };
    bool folder = S_ISDIR(a->mode), file = S_ISREG(a->mode);
    AUTO_FD int own = -1;
    int r = attr_set_owner(u, dir, name, a, path);

    if (r < 0)
        return r;
    if (fd < 0 && (folder || file)) {
        fd = own = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | (folder ? O_DIRECTORY : 0));
        if (fd < 0)
            return unpack_fail(u, -errno, path, "open it");
    }
    /* After the owner, which clears the bits; before the attributes, since a mode changes an ACL. */
    if (fd >= 0 ? fchmod(fd, a->mode & 07777) < 0 : !S_ISLNK(a->mode) && fchmodat(dir, name, a->mode & 07777, 0) < 0)
        return unpack_fail(u, -errno, path, "set its mode");
    if (fd >= 0 && a->entry)
        r = attr_set_extended(u, fd, a->entry, folder, path);
    if (r == 0 && !folder && utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        r = unpack_fail(u, -errno, path, "set its time");
    return r;
}

void unpack_attr_of_entry(struct archive_entry *entry, struct unpack_attr *ret)
{
    la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
    long ns = archive_entry_mtime_nsec(entry);

    *ret = (struct unpack_attr){
        .uid = uid < 0 || uid >= UINT32_MAX ? (uid_t)-1 : (uid_t)uid,
        .gid = gid < 0 || gid >= UINT32_MAX ? (gid_t)-1 : (gid_t)gid,
        .mode = archive_entry_filetype(entry) | (archive_entry_perm(entry) & 07777),
        .mtime = { .tv_sec = archive_entry_mtime(entry), .tv_nsec = ns < 0 || ns > 999999999 ? 0 : ns },
        .entry = entry,
    };
}

static int attr_copy_xattrs(struct unpack *u, int from, int to, const char *path)
{
    AUTO_FREE char *list = malloc(ATTR_LIST_MAX), *value = malloc(ATTR_XATTR_MAX);
    char proc[40];
    ssize_t n;
    int r = 0;

    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", from);
    if (!list || !value)
        return err_set(u->e, ENOMEM, "out of memory");
    n = listxattr(proc, list, ATTR_LIST_MAX);
    if (n < 0)
        return errno == EOPNOTSUPP ? 0 : unpack_fail(u, -errno, path, "list its extended attributes");
    for (ssize_t i = 0; r == 0 && i < n; i += (ssize_t)strlen(list + i) + 1) {
        ssize_t size = attr_wanted(u, list + i) ? getxattr(proc, list + i, value, ATTR_XATTR_MAX) : -1;

        if (size >= 0)
            r = attr_set_xattr(u, to, list + i, value, (size_t)size, path);
    }
    return r;
}

int unpack_attr_copy(struct unpack *u, int from, int dir, const char *name, const char *path)
{
    AUTO_FD int to = -1;
    struct unpack_attr a;
    struct stat st;
    int r;

    if (fstat(from, &st) < 0)
        return unpack_fail(u, -errno, path, "look at it");
    a = (struct unpack_attr){ .uid = st.st_uid, .gid = st.st_gid, .mode = st.st_mode, .mtime = st.st_mtim };
    r = unpack_attr_set(u, dir, name, -1, &a, path);
    if (r == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        to = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        r = to < 0 ? unpack_fail(u, -errno, path, "open it") : attr_copy_xattrs(u, from, to, path);
    }
    return r == 0 && S_ISDIR(st.st_mode) ? unpack_folder_add(u, path, st.st_mtim) : r;
}

int unpack_folder_add(struct unpack *u, const char *real, struct timespec mtime)
{
    struct unpack_folder *f;

    u->notes_bytes += sizeof(*f) + strlen(real) + 2;
    if (u->notes_bytes > UNPACK_NOTES_MAX)
        return unpack_refuse(u, real, "is one folder too many; no image needs so many in one layer");
    if (u->n_folders == u->cap_folders) {
        size_t cap = u->cap_folders ? 2 * u->cap_folders : 64;

        f = reallocarray(u->folders, cap, sizeof(*f));
        if (!f)
            return err_set(u->e, ENOMEM, "out of memory");
        u->folders = f;
        u->cap_folders = cap;
    }
    f = &u->folders[u->n_folders];
    f->path = strdup(*real ? real : ".");
    if (!f->path)
        return err_set(u->e, ENOMEM, "out of memory");
    f->mtime = mtime;
    u->n_folders++;
    return 0;
}
