#include "image/build_source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/inroot.h"

#define SOURCE_CHUNK 65536

int build_open_in(int root, const char *path, int flags)
{
    return sys_inroot_open(root, *path ? path : ".", flags, 0600);
}

static int source_fail(const char *path, int code, struct err *e)
{
    return err_set(e, code, "cannot read '%.200s': %s", path, strerror(code));
}

/* ---- the walk ---- */

struct walk_state {
    const struct build_walk *walk;
    const char *source;
    char context[BUILD_PATH_MAX]; /* of the folder, from the root, for ignoring */
    char path[BUILD_PATH_MAX];    /* from the source */
    unsigned depth;
    struct err *e;
};

static int walk_name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names of a folder in the order of their bytes. dir is borrowed. */
int build_names(int dir, struct inst_strings *ret)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    int r = 0;

    if (!d) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while (r == 0 && (errno = 0, entry = readdir(d)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = inst_strings_add(ret, entry->d_name);
    if (r == 0 && !entry && errno)
        r = -errno;
    closedir(d);
    if (r == 0 && ret->n > 1)
        qsort(ret->at, ret->n, sizeof(*ret->at), walk_name_order);
    return r;
}

/* Append "/name"; *ret_len: what it was before. */
static int walk_push(char *path, const char *name, size_t *ret_len)
{
    size_t len = strlen(path);

    if (len + 1 + strlen(name) >= BUILD_PATH_MAX)
        return -ENAMETOOLONG;
    *ret_len = len;
    snprintf(path + len, BUILD_PATH_MAX - len, "%s%s", len ? "/" : "", name);
    return 0;
}

static int walk_folder(struct walk_state *w, int dir);

static int walk_entry(struct walk_state *w, int dir, const char *name)
{
    size_t context, path;
    struct build_entry entry = { .dir = dir, .name = name, .source = w->source };
    struct stat st;
    bool ignored;
    int r;

    if (walk_push(w->context, name, &context) < 0)
        return source_fail(name, ENAMETOOLONG, w->e);
    if (walk_push(w->path, name, &path) < 0) {
        w->context[context] = '\0';
        return source_fail(name, ENAMETOOLONG, w->e);
    }
    ignored = w->walk->ignore && build_ignore_fits(w->walk->ignore, w->context);
    r = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? source_fail(w->context, errno, w->e) : 0;
    entry.path = w->path;
    entry.st = &st;
    if (r == 0 && !ignored)
        r = w->walk->visit(w->walk->opaque, &entry, w->e);
    if (r == 0 && S_ISDIR(st.st_mode) && (!ignored || w->walk->ignore->negates)) {
        AUTO_FD int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

        r = fd < 0 ? source_fail(w->context, errno, w->e) : walk_folder(w, fd);
    }
    w->context[context] = '\0';
    w->path[path] = '\0';
    return r;
}

static int walk_folder(struct walk_state *w, int dir)
{
    struct inst_strings names = { 0 };
    int r = build_names(dir, &names);

    if (r < 0)
        r = source_fail(w->context, -r, w->e);
    if (r == 0 && ++w->depth > BUILD_DEPTH_MAX)
        r = err_set(w->e, ELOOP, "'%.200s': folders more than %d deep", w->context, BUILD_DEPTH_MAX);
    for (size_t i = 0; i < names.n && r == 0; i++)
        r = walk_entry(w, dir, names.at[i]);
    w->depth--;
    inst_strings_done(&names);
    return r;
}

/* One name without patterns: the source itself, followed where it is a link, then what is in it. */
static int walk_source(const struct build_walk *walk, const char *path, bool *ret_folder, struct err *e)
{
    AUTO_FREE struct walk_state *w = calloc(1, sizeof(*w));
    AUTO_FD int fd = build_open_in(walk->root, path, O_PATH);
    const char *base = strrchr(path, '/');
    char self[64];
    struct stat st;
    struct build_entry entry;
    int r;

    if (!w)
        return err_set(e, ENOMEM, "out of memory");
    if (fd < 0)
        return fd == -ENOENT ? err_set(e, ENOENT, "'%.200s' is not there", path) : source_fail(path, -fd, e);
    if (fstat(fd, &st) < 0)
        return source_fail(path, errno, e);
    w->walk = walk;
    w->e = e;
    w->source = base ? base + 1 : path;
    snprintf(w->context, sizeof(w->context), "%s", path);
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd); /* the file itself, without another look at its name */
    entry =
        (struct build_entry){ .dir = AT_FDCWD, .name = self, .path = "", .source = w->source, .st = &st, .top = true };
    r = walk->visit(walk->opaque, &entry, e);
    if (r == 0 && S_ISDIR(st.st_mode)) {
        AUTO_FD int dir = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (ret_folder)
            *ret_folder = true;
        r = dir < 0 ? source_fail(path, errno, e) : walk_folder(w, dir);
    }
    return r;
}

/* ---- patterns ---- */

/* Names below folder `path` that fit the components of pattern from `at` on, into ret. */
static int source_expand(int root, const char *path, const char *pattern, struct inst_strings *ret, unsigned depth)
{
    size_t len = strcspn(pattern, "/");
    const char *rest = pattern[len] ? pattern + len + 1 : NULL;
    struct inst_strings names = { 0 };
    char component[256], next[BUILD_PATH_MAX];
    AUTO_FD int dir = -1;
    int r;

    if (len >= sizeof(component) || depth > BUILD_DEPTH_MAX)
        return -ENAMETOOLONG;
    snprintf(component, sizeof(component), "%.*s", (int)len, pattern);
    dir = build_open_in(root, path, O_RDONLY | O_DIRECTORY);
    if (dir < 0)
        return dir == -ENOENT || dir == -ENOTDIR ? 0 : dir;
    r = build_names(dir, &names);
    for (size_t i = 0; i < names.n && r == 0; i++) {
        if (!build_match(component, names.at[i]))
            continue;
        if (snprintf(next, sizeof(next), "%s%s%s", path, *path ? "/" : "", names.at[i]) >= (int)sizeof(next))
            r = -ENAMETOOLONG;
        else
            r = rest ? source_expand(root, next, rest, ret, depth + 1) : inst_strings_add(ret, next);
    }
    inst_strings_done(&names);
    return r;
}

/* Without slashes in front, behind and twice, "." and "..", as Docker looks at names before anything else: what is
 * ignored is so by whatever name. size: more than the length of source. */
static void source_clean(const char *source, char *ret, size_t size)
{
    size_t n = 0;

    ret[0] = '\0';
    while (*source) {
        size_t len = strcspn(source, "/");

        if (len == 2 && strncmp(source, "..", 2) == 0) {
            while (n > 0 && ret[--n] != '/')
                ;
            ret[n] = '\0';
        } else if (len > 0 && !(len == 1 && source[0] == '.')) {
            n += (size_t)snprintf(ret + n, size - n, "%s%.*s", n ? "/" : "", (int)len, source);
        }
        source += len;
        source += *source == '/';
    }
}

/* A source that is left out as a whole; a folder may have something in it that is taken back. */
static bool source_ignored(const struct build_walk *w, const char *path)
{
    AUTO_FD int folder = -1;

    if (!path[0] || !w->ignore || !build_ignore_fits(w->ignore, path))
        return false;
    if (w->ignore->negates)
        folder = build_open_in(w->root, path, O_PATH | O_DIRECTORY);
    return folder < 0;
}

int build_walk(const struct build_walk *w, const char *source, size_t *ret_n, bool *ret_folder, struct err *e)
{
    struct inst_strings names = { 0 };
    char path[BUILD_PATH_MAX];
    size_t n = 0;
    int r = 0;

    if (strlen(source) >= sizeof(path))
        return source_fail(source, ENAMETOOLONG, e);
    source_clean(source, path, sizeof(path));
    if (build_match_is_pattern(path))
        r = source_expand(w->root, "", path, &names, 0);
    else
        r = inst_strings_add(&names, path);
    if (r < 0)
        r = source_fail(source, -r, e);
    for (size_t i = 0; i < names.n && r == 0; i++) {
        if (source_ignored(w, names.at[i]))
            continue;
        n++;
        r = walk_source(w, names.at[i], ret_folder, e);
    }
    if (r == 0 && n == 0)
        r = err_set(e, ENOENT, "'%.200s': nothing in the context fits, or what fits is ignored", source);
    inst_strings_done(&names);
    *ret_n += n;
    return r;
}

/* ---- sums ---- */

static int sum_file(EVP_MD_CTX *sum, const struct build_entry *entry, struct err *e)
{
    AUTO_FD int fd = openat(entry->dir, entry->name, O_RDONLY | O_CLOEXEC | (entry->top ? 0 : O_NOFOLLOW) | O_NONBLOCK);
    AUTO_FREE uint8_t *chunk = malloc(SOURCE_CHUNK);
    ssize_t n;

    if (!chunk)
        return err_set(e, ENOMEM, "out of memory");
    if (fd < 0)
        return source_fail(entry->path[0] ? entry->path : entry->source, errno, e);
    while ((n = read(fd, chunk, SOURCE_CHUNK)) > 0)
        EVP_DigestUpdate(sum, chunk, (size_t)n);
    return n < 0 ? source_fail(entry->path, errno, e) : 0;
}

static int sum_visit(void *opaque, const struct build_entry *entry, struct err *e)
{
    EVP_MD_CTX *sum = opaque;
    char line[256], link[BUILD_PATH_MAX];
    int len = snprintf(line, sizeof(line), "%o %u %u %llx %lld\n", entry->st->st_mode, entry->st->st_uid,
                       entry->st->st_gid, (unsigned long long)(entry->st->st_rdev),
                       S_ISREG(entry->st->st_mode) ? (long long)entry->st->st_size : 0LL);

    /* Each piece with its end, so that no two trees give the same bytes. */
    EVP_DigestUpdate(sum, entry->source, strlen(entry->source) + 1);
    EVP_DigestUpdate(sum, entry->path, strlen(entry->path) + 1);
    EVP_DigestUpdate(sum, line, (size_t)len);
    if (S_ISLNK(entry->st->st_mode)) {
        ssize_t n = readlinkat(entry->dir, entry->name, link, sizeof(link));

        if (n < 0)
            return source_fail(entry->path, errno, e);
        EVP_DigestUpdate(sum, link, (size_t)n);
    }
    return S_ISREG(entry->st->st_mode) ? sum_file(sum, entry, e) : 0;
}

int build_sum(int root, const struct build_ignore *ignore, const struct inst_strings *sources, char ret_hex[65],
              struct err *e)
{
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    struct build_walk walk = { .root = root, .ignore = ignore, .visit = sum_visit, .opaque = sum };
    uint8_t bytes[EVP_MAX_MD_SIZE];
    size_t n = 0;
    int r = 0;

    if (!sum || EVP_DigestInit_ex(sum, EVP_sha256(), NULL) != 1)
        r = err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < sources->n && r == 0; i++)
        r = build_walk(&walk, sources->at[i], &n, NULL, e);
    if (r == 0 && EVP_DigestFinal_ex(sum, bytes, NULL) != 1)
        r = err_set(e, ENOMEM, "out of memory");
    for (unsigned i = 0; i < 32 && r == 0; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", bytes[i]);
    EVP_MD_CTX_free(sum);
    return r;
}
