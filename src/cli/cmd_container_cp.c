/* caisson cp: files between this host and an instance. A container's side is walked by descriptors below its root
 * (sys/inroot.h, sys/tree_copy.h), whatever links its owner has laid there. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/vm_agent.h"
#include "instance/container_root.h"
#include "instance/container_tar.h"
#include "proto/exit_code.h"
#include "sys/inroot.h"
#include "sys/tree_copy.h"

/* One side. */
struct cp_side {
    struct store_instance *instance; /* NULL: this host */
    const char *path;
    int root; /* of the container; the host's is AT_FDCWD */
};

/* NAME:PATH is a path in an instance, unless the name is a path itself. */
static const char *cp_split(const char *text, char *ret_name, size_t size)
{
    const char *colon = strchr(text, ':');

    if (!colon || colon == text || text[0] == '/' || text[0] == '.' || memchr(text, '/', (size_t)(colon - text)))
        return NULL;
    snprintf(ret_name, size, "%.*s", (int)(colon - text), text);
    return colon + 1;
}

static int cp_open(const struct cp_side *s, const char *path, int flags)
{
    int fd;

    if (s->instance)
        return sys_inroot_open(s->root, path, flags, 0);
    fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* The directory that holds path, and its last part. */
static int cp_parent(const struct cp_side *s, const char *path, char ret_name[NAME_MAX + 1])
{
    AUTO_FREE char *copy = NULL;
    char *slash;
    size_t len = strlen(path);

    if (s->instance)
        return sys_inroot_parent(s->root, path, ret_name, NAME_MAX + 1);
    copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    while (len > 1 && copy[len - 1] == '/')
        copy[--len] = '\0';
    slash = strrchr(copy, '/');
    if (snprintf(ret_name, NAME_MAX + 1, "%s", slash ? slash + 1 : copy) > NAME_MAX)
        return -ENAMETOOLONG;
    if (!ret_name[0] || strcmp(ret_name, ".") == 0 || strcmp(ret_name, "..") == 0)
        return -EINVAL;
    if (slash)
        slash[slash == copy] = '\0';
    return cp_open(s, slash ? copy : ".", O_PATH | O_DIRECTORY);
}

static int cp_fail(const struct cp_side *s, const char *path, int r, struct err *e)
{
    return err_set(e, -r, "%s%s%s: %s", s->instance ? s->instance->name : "", s->instance ? ":" : "", path,
                   strerror(-r));
}

/* The side that failed, and where in what was copied. */
static int cp_fail_in(const struct cp_side *from, const struct cp_side *to, const struct sys_tree_failure *f, int r,
                      struct err *e)
{
    const struct cp_side *s = f->set && f->source ? from : to;
    char path[2 * PATH_MAX];

    snprintf(path, sizeof(path), "%s%s%s", s->path, f->path[0] ? "/" : "", f->path);
    return cp_fail(s, path, r, e);
}

/* A container's device nodes would open this host's devices to whoever may read the copy. */
static void cp_device(void *opaque, const char *path)
{
    const struct cp_side *from = opaque;

    fprintf(stderr, "caisson: %s:%s%s%s: a device node; not copied to this host\n", from->instance->name, from->path,
            path[0] ? "/" : "", path);
}

/* Whether a path asks for what is in a folder, not for the folder itself. */
static bool cp_wants_content(const char *path)
{
    const size_t len = strlen(path);

    return strcmp(path, ".") == 0 || strcmp(path, "..") == 0 || strcmp(path, "/") == 0 ||
           (len > 1 && strcmp(path + len - 2, "/.") == 0) || (len > 2 && strcmp(path + len - 3, "/..") == 0);
}

/* The content of folder from goes into to_name below to (made where it is missing) or, with to_name NULL, into to. */
static int cp_content(int from, int to, const char *to_name, const struct sys_tree_how *how)
{
    AUTO_FD int in = -1;

    if (!to_name)
        return sys_tree_copy_content(from, to, how);
    if (mkdirat(to, to_name, 0755) < 0)
        return -errno;
    in = openat(to, to_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (in < 0)
        return -errno;
    if (how->owner && fchown(in, how->owner->uid, how->owner->gid) < 0 && errno != EPERM)
        return -errno;
    return sys_tree_copy_content(from, in, how);
}

/* The target is a folder that is there. */
static int cp_into_dir(int from_dir, const char *from_name, int from, int to, const struct sys_tree_how *how)
{
    return from_name ? sys_tree_copy_entry(from_dir, from_name, to, from_name, how) : cp_content(from, to, NULL, how);
}

/* The source: the folder that holds it and its name, or (content) the folder whose content it is. */
struct cp_source {
    int dir, content;
    char name[NAME_MAX + 1];
    bool is_dir;
};

static int cp_source_open(const struct cp_side *s, bool follow, struct cp_source *ret, struct err *e)
{
    struct stat st;
    int r;

    if (cp_wants_content(s->path)) {
        ret->content = cp_open(s, s->path, O_RDONLY | O_DIRECTORY);
        ret->is_dir = true;
        return ret->content < 0 ? cp_fail(s, s->path, ret->content, e) : 0;
    }
    r = ret->dir = cp_parent(s, s->path, ret->name);
    if (r >= 0 && fstatat(ret->dir, ret->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    if (r < 0)
        return cp_fail(s, s->path, r, e);
    ret->is_dir = S_ISDIR(st.st_mode);
    if (S_ISLNK(st.st_mode) && follow) { /* the folder and name of what it leads to, below the same root */
        AUTO_FD int target = cp_open(s, s->path, O_PATH);
        char path[PATH_MAX], link[64];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", target);
        n = target < 0 ? -1 : readlink(link, path, sizeof(path) - 1);
        if (n <= 0 || fstat(target, &st) < 0)
            return cp_fail(s, s->path, target < 0 ? target : -errno, e);
        ret->is_dir = S_ISDIR(st.st_mode);
        ret->content = openat(target, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (!ret->is_dir)
            ret->content = cp_open(s, s->path, O_RDONLY | O_NONBLOCK);
        if (ret->content < 0)
            return cp_fail(s, s->path, -errno, e);
    }
    return 0;
}

static void cp_source_done(struct cp_source *s)
{
    base_closep(&s->dir);
    base_closep(&s->content);
}

static int cp_copy(const struct cp_side *from, const struct cp_side *to, bool follow, const struct sys_tree_how *how,
                   struct err *e)
{
    struct cp_source src = { .dir = -1, .content = -1 };
    AUTO_FD int dir = -1, parent = -1;
    char name[NAME_MAX + 1];
    const size_t len = strlen(to->path);
    int r = cp_source_open(from, follow, &src, e);

    if (r < 0) {
        cp_source_done(&src);
        return r;
    }
    dir = cp_open(to, to->path, O_RDONLY | O_DIRECTORY);
    if (dir >= 0) {
        if (src.content >= 0 && !src.is_dir)
            r = sys_tree_copy_file(src.content, dir, src.name, how);
        else if (src.content >= 0 && src.dir >= 0) /* a link to a folder */
            r = cp_content(src.content, dir, src.name, how);
        else
            r = cp_into_dir(src.dir, src.content < 0 ? src.name : NULL, src.content, dir, how);
    } else if (dir == -ENOENT || dir == -ENOTDIR) {
        r = parent = cp_parent(to, to->path, name);
        if (r >= 0 && dir == -ENOTDIR && src.is_dir)
            r = -ENOTDIR;
        else if (r >= 0 && len > 0 && to->path[len - 1] == '/' && !src.is_dir)
            r = -ENOENT; /* a folder that is not there */
        else if (r >= 0 && src.content >= 0 && src.is_dir)
            r = cp_content(src.content, parent, name, how);
        else if (r >= 0 && src.content >= 0)
            r = sys_tree_copy_file(src.content, parent, name, how);
        else if (r >= 0)
            r = sys_tree_copy_entry(src.dir, src.name, parent, name, how);
    } else {
        r = dir;
    }
    cp_source_done(&src);
    return r < 0 ? cp_fail_in(from, to, how->failure, r, e) : 0;
}

/* "-": a tar archive on standard input or output. */
static int cp_tar(const struct cp_side *from, const struct cp_side *to, struct err *e)
{
    struct cp_source src = { .dir = -1, .content = -1 };
    AUTO_FD int dir = -1;
    int r;

    if (to->instance) {
        dir = cp_open(to, to->path, O_PATH | O_DIRECTORY);
        return dir < 0 ? cp_fail(to, to->path, dir, e)
                       : inst_tar_extract(STDIN_FILENO, dir, &(struct inst_tar_take){ 0 }, e);
    }
    r = cp_source_open(from, false, &src, e);
    if (r == 0)
        r = src.content >= 0 ? inst_tar_create(STDOUT_FILENO, src.content, ".", e)
                             : inst_tar_create(STDOUT_FILENO, src.dir, src.name, e);
    cp_source_done(&src);
    return r;
}

static int cp_sides(const struct cli_args *args, struct store_instance *i, struct cp_side *from, struct cp_side *to,
                    struct err *e)
{
    char name[2][300] = { "", "" };
    struct cp_side *sides[2] = { from, to };
    AUTO(store) struct store *store = NULL;
    int side = -1, r;

    if (args->n_operands != 2)
        return err_set(e, EINVAL, "cp needs a source and a target; give both, one of them as NAME:PATH");
    for (int n = 0; n < 2; n++) {
        const char *inside = cp_split(args->operands[n], name[n], sizeof(name[n]));

        sides[n]->path = inside ? inside[0] ? inside : "/" : args->operands[n];
        if (inside && side >= 0)
            return err_set(e, EINVAL, "cp: both are in instances; copy to this host first");
        side = inside ? n : side;
    }
    if (side < 0)
        return err_set(e, EINVAL, "cp: neither is in an instance; give one as NAME:PATH");
    r = cli_inst_open(STORE_READ, &store, e);
    if (r == 0)
        r = store_instance_get(store, name[side], i, e);
    if (r == 0)
        sides[side]->instance = i;
    return r;
}

static int cp_run(const struct cli_args *args, const struct cp_side *from, const struct cp_side *to, struct err *e)
{
    const bool archive = cli_value(args, "archive") != NULL, follow = cli_value(args, "follow-link") != NULL;
    struct sys_tree_owner owner = { geteuid(), getegid() };
    struct sys_tree_failure failure = { .set = false };
    struct sys_tree_how how;
    int r = 0;

    /* Without --archive: what goes in belongs to who runs in there, what comes out to who asked for it. */
    if (to->instance)
        r = inst_container_owner(to->instance, to->root, &owner.uid, &owner.gid, e);
    if (r < 0)
        return r;
    if (strcmp(to->instance ? from->path : to->path, "-") == 0)
        return cp_tar(from, to, e);
    how = (struct sys_tree_how){ .owner = archive ? NULL : &owner,
                                 .device = to->instance ? NULL : cp_device,
                                 .opaque = (void *)(uintptr_t)from,
                                 .failure = &failure };
    return cp_copy(from, to, follow, &how, e);
}

int cli_cmd_cp(const struct cli_args *args)
{
    AUTO_FREE struct store_instance *i = calloc(1, sizeof(*i));
    struct cp_side from = { .root = -1 }, to = { .root = -1 };
    AUTO_FD int root = -1, here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct sys_place place = { .lock = -1, .socket = -1 };
    struct err e = { 0 };
    int wait_ms = 0, r = i ? cli_vm_agent_wait(args, &wait_ms, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r == 0)
        r = cp_sides(args, i, &from, &to, &e);
    if (r == 0 && i->spec.kind == INST_VM) {
        r = cli_vm_cp(&(struct cli_vm_copy){ .instance = i,
                                             .wait_ms = wait_ms,
                                             .host = to.instance ? from.path : to.path,
                                             .guest = to.instance ? to.path : from.path,
                                             .in = to.instance != NULL,
                                             .follow = cli_value(args, "follow-link") },
                      &e);
        store_instance_done(i);
    } else if (r == 0) {
        r = inst_container_root(i, &place, &root, &e);
        from.root = to.root = root;
        if (r == 0 && here >= 0) /* joining a mount namespace leads to its root */
            (void)!fchdir(here);
        if (r == 0)
            r = cp_run(args, &from, &to, &e);
        sys_place_leave(&place);
        store_instance_done(i);
    }
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
