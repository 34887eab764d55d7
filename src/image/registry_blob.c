#include "image/registry_blob.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fdio.h"
#include "image/image_priv.h"

#define BLOB_CHUNK (256U << 10)
#define BLOB_WAIT_MS 100

/* Where they go. */
struct blob_place {
    struct image_add *add;
    int partial; /* the folder */
};

static const char *blob_hex(const struct registry_blob *b)
{
    return b->digest + strlen("sha256:");
}

static int blob_fail(const struct registry_blob *b, int code, struct err *e)
{
    if (code == ENOSPC || code == EDQUOT)
        return err_set(e, code,
                       "no room for %s in %s; free some space ('caisson image prune'), or set CAISSON_STATE_DIR",
                       b->job.what, b->path);
    return err_set(e, code, "cannot write %s to %s: %s", b->job.what, b->path, strerror(code));
}

/* ---- the partial file ---- */

static int blob_hash_reset(struct registry_blob *b)
{
    if (!b->hash)
        b->hash = EVP_MD_CTX_new();
    return b->hash && EVP_DigestInit_ex(b->hash, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* Forget what has arrived. */
static int blob_restart(struct registry_blob *b)
{
    b->job.registry->done_bytes -= b->have;
    b->have = 0;
    b->inherited = false;
    if (ftruncate(b->fd, 0) < 0)
        return -errno;
    return blob_hash_reset(b);
}

/* Hash what an earlier process left. */
static int blob_take_up(struct registry_blob *b)
{
    AUTO_FREE uint8_t *chunk = malloc(BLOB_CHUNK);
    struct stat st;
    int r = chunk ? blob_hash_reset(b) : -ENOMEM;

    if (r < 0)
        return r;
    if (fstat(b->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size > b->size)
        return blob_restart(b);
    while (b->have < (uint64_t)st.st_size) {
        ssize_t n = pread(b->fd, chunk, BLOB_CHUNK, (off_t)b->have);

        if (n <= 0)
            return blob_restart(b);
        if (EVP_DigestUpdate(b->hash, chunk, (size_t)n) != 1)
            return -ENOMEM;
        b->have += (uint64_t)n;
        b->job.registry->done_bytes += (uint64_t)n;
    }
    b->inherited = b->have > 0;
    return 0;
}

/* Whether what is open still has its name: whoever had the lock before may have moved it into the store. */
static bool blob_is_partial(const struct registry_blob *b, const struct blob_place *place)
{
    struct stat st, named;

    return fstat(b->fd, &st) == 0 && fstatat(place->partial, blob_hex(b), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_ino == named.st_ino && st.st_dev == named.st_dev;
}

/* Open and lock it; while another process fetches the same blob, wait. 1: it has done so. */
static int blob_open(struct registry_blob *b, struct blob_place *place, struct err *e)
{
    for (;;) {
        if (image_blob_have(place->add, b->digest, b->size)) {
            char name[96];

            if (image_place_blob_is_sound(&place->add->place, b->digest, b->size))
                return 1;
            image_blob_name(b->digest, name); /* damaged meanwhile: it is fetched again */
            if (unlinkat(place->add->place.fd, name, 0) < 0 && errno != ENOENT)
                return blob_fail(b, errno, e);
        }
        b->fd = openat(place->partial, blob_hex(b), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_APPEND, 0600);
        if (b->fd < 0)
            return blob_fail(b, errno, e);
        if (flock(b->fd, LOCK_EX | LOCK_NB) == 0) {
            if (blob_is_partial(b, place))
                return 0;
        } else if (errno != EWOULDBLOCK) {
            return blob_fail(b, errno, e);
        } else {
            struct timespec pause = { .tv_nsec = BLOB_WAIT_MS * 1000000L };

            nanosleep(&pause, NULL);
        }
        close(STEAL_FD(b->fd));
        if (!registry_step(b->job.registry))
            return err_set(e, ECANCELED, "interrupted");
    }
}

/* ---- the request ---- */

static int blob_sink(struct http_job *http, const void *data, size_t len)
{
    struct registry_blob *b = CONTAINER_OF(http, struct registry_blob, job.http);
    int r = 0;

    if (http->received == 0 && b->have > 0 && http->status == 200) {
        r = blob_restart(b); /* the server knows no ranges */
    } else if (http->received == 0 && http->status == 206 && http->range_from != b->have) {
        b->no_range = true;
        return err_set(&http->e, EIO, "%s: the server sent another part than it was asked for", b->job.what);
    }
    if (r == 0 && len > b->size - b->have)
        return err_set(&http->e, EBADMSG, "%s is larger than the %llu bytes that its manifest says; not taken",
                       b->job.what, (unsigned long long)b->size);
    if (r == 0)
        r = fd_write_all(b->fd, data, len);
    if (r == 0 && EVP_DigestUpdate(b->hash, data, len) != 1)
        r = -ENOMEM;
    if (r < 0)
        return blob_fail(b, -r, &http->e);
    b->have += len;
    b->job.registry->done_bytes += len;
    return 0;
}

/* Everything is there: is it what it should be? */
static int blob_verify(struct registry_blob *b)
{
    struct http_job *http = &b->job.http;
    char digest[REGISTRY_DIGEST_MAX] = "sha256:";
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (EVP_DigestFinal_ex(b->hash, sum, &n) != 1 || n != 32)
        return err_set(&http->e, ENOMEM, "out of memory");
    for (unsigned i = 0; i < n; i++)
        snprintf(digest + 7 + 2 * i, 3, "%02x", sum[i]);
    if (strcmp(digest, b->digest) == 0)
        return HTTP_FINISHED;
    if (b->inherited) { /* perhaps the old part is to blame */
        int r = blob_restart(b);

        return r < 0 ? blob_fail(b, -r, &http->e) : HTTP_AGAIN;
    }
    if (ftruncate(b->fd, 0) < 0)
        return blob_fail(b, errno, &http->e);
    b->have = 0;
    return err_set(&http->e, EBADMSG, "%s: what came has the digest %s; not taken, the registry's copy is damaged",
                   b->job.what, digest);
}

static int blob_verdict(struct http_job *http)
{
    struct registry_blob *b = CONTAINER_OF(http, struct registry_blob, job.http);
    int r;

    b->job.progress = b->have;
    if (http->result == CURLE_OK && http->status == 416 && b->have > 0) {
        r = blob_restart(b);
        r = r < 0 ? blob_fail(b, -r, &http->e) : registry_job_retry(&b->job, EIO, "the server refuses the rest of it");
    } else if (http->error < 0 && b->no_range && b->have > 0) {
        http->e = (struct err){ 0 };
        r = blob_restart(b);
        r = r < 0 ? blob_fail(b, -r, &http->e) : HTTP_AGAIN;
    } else {
        r = registry_job_verdict(http);
    }
    if (r == HTTP_FINISHED && b->have < b->size) {
        char why[96];

        snprintf(why, sizeof(why), "it ends after %llu of %llu bytes", (unsigned long long)b->have,
                 (unsigned long long)b->size);
        r = registry_job_retry(&b->job, EIO, why);
    }
    if (r == HTTP_FINISHED)
        r = blob_verify(b);
    http->from = b->have;
    return r;
}

/* ---- many of them ---- */

static int blob_by_digest(const void *a, const void *b)
{
    const struct registry_blob *const *x = a, *const *y = b;

    return strcmp((*x)->digest, (*y)->digest);
}

static int blob_begin(struct registry_blob *b, struct registry *r, struct blob_place *place, struct err *e)
{
    char path[REGISTRY_REPOSITORY_MAX + 128];
    int rc;

    snprintf(path, sizeof(path), "/v2/%s/blobs/%s", r->repository, b->digest);
    rc = registry_job_init(&b->job, r, "GET", path, e);
    if (rc < 0)
        return rc;
    snprintf(b->job.what, sizeof(b->job.what), "%s %.19s of %.100s", b->config ? "configuration" : "layer", b->digest,
             r->repository);
    snprintf(b->path, sizeof(b->path), "%s/partial", place->add->place.path);
    b->job.http.sink = blob_sink;
    b->job.http.done = blob_verdict;
    rc = blob_open(b, place, e);
    if (rc == 1) {
        b->present = true;
        r->done_bytes += b->size;
        return 0;
    }
    if (rc == 0) {
        rc = blob_take_up(b);
        if (rc < 0)
            rc = blob_fail(b, -rc, e);
    }
    b->job.http.from = b->job.best = b->have;
    return rc;
}

/* Say at once what would fail in the end. */
static int blobs_check_room(struct registry_blob **list, size_t n, const struct blob_place *place, struct err *e)
{
    struct statvfs fs;
    uint64_t wanted = 0, room;

    for (size_t i = 0; i < n; i++)
        wanted += list[i]->present ? 0 : list[i]->size - list[i]->have;
    if (fstatvfs(place->partial, &fs) < 0)
        return 0;
    room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (wanted <= room)
        return 0;
    return err_set(e, ENOSPC,
                   "the image needs %llu MiB more, and %s has room for %llu MiB; free some space ('caisson image "
                   "prune'), or set CAISSON_STATE_DIR",
                   (unsigned long long)(wanted >> 20) + 1, place->add->place.path, (unsigned long long)(room >> 20));
}

static int blobs_run(struct registry *r, struct registry_blob **list, size_t n, struct err *e)
{
    AUTO_FREE struct http_job **jobs = calloc(n, sizeof(*jobs));
    size_t n_jobs = 0;

    if (!jobs)
        return err_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (list[i]->present)
            continue;
        if (list[i]->have == list[i]->size) { /* killed between the last byte and the end */
            int rc = blob_verify(list[i]);

            if (rc < 0) {
                *e = list[i]->job.http.e;
                return rc;
            }
            if (rc == HTTP_FINISHED)
                continue;
            list[i]->job.http.from = 0;
        }
        jobs[n_jobs++] = &list[i]->job.http;
    }
    return n_jobs ? http_run(r->client, jobs, n_jobs, REGISTRY_PARALLEL, e) : 0;
}

static void blob_end(struct registry_blob *b, const struct blob_place *place, bool keep)
{
    struct stat st;

    if (b->fd >= 0 && (!keep || (fstat(b->fd, &st) == 0 && st.st_size == 0)))
        unlinkat(place->partial, blob_hex(b), 0);
    if (b->fd >= 0)
        close(STEAL_FD(b->fd));
    EVP_MD_CTX_free(b->hash);
    b->hash = NULL;
    registry_job_done(&b->job);
}

/* Into the store, where image_add_commit finds it. */
static int blob_adopt(struct registry_blob *b, struct blob_place *place, struct err *e)
{
    char name[96];

    image_blob_name(b->digest, name);
    if (fsync(b->fd) < 0 || renameat(place->partial, blob_hex(b), place->add->place.fd, name) < 0)
        return blob_fail(b, errno, e);
    close(STEAL_FD(b->fd));
    return 0;
}

static int blob_place_open(struct blob_place *place, struct err *e)
{
    int images = place->add->place.fd;

    if (mkdirat(images, "partial", 0700) == 0 || errno == EEXIST)
        place->partial = openat(images, "partial", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return place->partial >= 0
               ? 0
               : err_set(e, errno, "cannot make %s/partial: %s", place->add->place.path, strerror(errno));
}

int registry_blobs_fetch(struct registry *r, struct registry_blob *blobs, size_t n, struct image_add *add,
                         uint64_t *ret_bytes, struct err *e)
{
    AUTO_FREE struct registry_blob **list = calloc(n ? n : 1, sizeof(*list));
    struct blob_place place = { .add = add, .partial = -1 };
    uint64_t before = 0;
    int rc = list ? blob_place_open(&place, e) : err_set(e, ENOMEM, "out of memory");

    if (rc < 0)
        return rc;
    r->done_bytes = r->total_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        list[i] = &blobs[i];
        blobs[i].fd = -1;
        r->total_bytes += blobs[i].size;
    }
    /* Always in one order: two processes that wait for each other's blobs would wait for ever. */
    qsort(list, n, sizeof(*list), blob_by_digest);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = blob_begin(list[i], r, &place, e);
    before = r->done_bytes;
    if (rc == 0)
        rc = blobs_check_room(list, n, &place, e);
    if (rc == 0)
        rc = blobs_run(r, list, n, e);
    for (size_t i = 0; i < n && rc == 0; i++)
        if (!list[i]->present)
            rc = blob_adopt(list[i], &place, e);
    if (rc == 0)
        *ret_bytes = r->done_bytes - MIN(before, r->done_bytes);
    for (size_t i = 0; i < n; i++)
        blob_end(list[i], &place, rc != 0 && rc != -ENOSPC && rc != -EDQUOT);
    close(place.partial);
    return rc;
}

int registry_partial_sweep(const char *images, uint64_t seconds, uint64_t *ret_bytes)
{
    char path[SYS_DIR_MAX + 32];
    const struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/partial", images);
    dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(dir))) {
        AUTO_FD int fd = -1;
        struct stat st;

        if (entry->d_name[0] == '.')
            continue;
        fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0)
            continue; /* somebody fetches it now */
        if ((uint64_t)st.st_mtime + seconds <= (uint64_t)time(NULL) && unlinkat(dirfd(dir), entry->d_name, 0) == 0)
            *ret_bytes += (uint64_t)st.st_blocks * 512;
    }
    closedir(dir);
    return 0;
}
