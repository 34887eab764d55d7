#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "image/image_priv.h"

#define BLOB_CHUNK (256U << 10)

struct image_blob {
    struct image_add *add;
    int fd;
    char name[24]; /* in the temporary folder */
    struct image_sum sum;
    uint64_t size;
};

static int blob_fail(const struct image_place *p, int r, const char *what, struct err *e)
{
    if (r == -ENOSPC || r == -EDQUOT)
        return err_set(e, ENOSPC, "image store %s: no space left; free some ('caisson image prune')", p->path);
    return err_set(e, -r, "image store %s: cannot %s: %s", p->path, what, strerror(-r));
}

int image_blob_begin(struct image_add *a, struct image_blob **ret_blob, struct err *e)
{
    struct image_blob *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return err_set(e, ENOMEM, "out of memory");
    b->add = a;
    snprintf(b->name, sizeof(b->name), "blob-%u", a->serial++);
    image_sum_begin(&b->sum);
    b->fd = openat(a->place.tmp_fd, b->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (b->fd < 0) {
        r = blob_fail(&a->place, -errno, "make a file", e);
        image_blob_free(b);
        return r;
    }
    *ret_blob = b;
    return 0;
}

int image_blob_write(struct image_blob *b, const void *data, size_t len, struct err *e)
{
    int r = b->size + len > OCI_BLOB_MAX ? -EFBIG : fd_write_all(b->fd, data, len);

    if (r < 0)
        return blob_fail(&b->add->place, r, "write a blob", e);
    image_sum_add(&b->sum, data, len);
    b->size += len;
    return 0;
}

void image_blob_free(struct image_blob *b)
{
    if (!b)
        return;
    base_closep(&b->fd);
    unlinkat(b->add->place.tmp_fd, b->name, 0); /* not there any more after image_blob_end */
    image_sum_done(&b->sum);
    free(b);
}

int image_blob_end(struct image_blob *b, const char *digest, uint64_t size, char ret_digest[IMAGE_DIGEST_MAX],
                   uint64_t *ret_size, struct err *e)
{
    AUTO(image_blob) struct image_blob *owned = b;
    const struct image_place *p = &b->add->place;
    char is[IMAGE_DIGEST_MAX], name[96];

    if (image_sum_end(&b->sum, is) < 0)
        return err_set(e, ENOMEM, "out of memory");
    if (size != UINT64_MAX && b->size != size)
        return err_set(e, EBADMSG, "blob %s has %llu bytes instead of %llu: what came is not the image; try again",
                       digest ? digest : is, (unsigned long long)b->size, (unsigned long long)size);
    if (digest && strcmp(digest, is) != 0)
        return err_set(e, EBADMSG, "blob %s is damaged: its content is %s; get the image again", digest, is);
    /* One that is there already is replaced by the same bytes, which heals a damaged one. */
    image_blob_name(is, name);
    if (fdatasync(b->fd) < 0 || renameat(p->tmp_fd, b->name, p->fd, name) < 0)
        return blob_fail(p, -errno, "keep a blob", e);
    if (ret_digest)
        memcpy(ret_digest, is, sizeof(is));
    if (ret_size)
        *ret_size = b->size;
    return 0;
}

int image_blob_put(struct image_add *a, const void *data, size_t len, const char *digest,
                   char ret_digest[IMAGE_DIGEST_MAX], struct err *e)
{
    AUTO(image_blob) struct image_blob *b = NULL;
    int r = image_blob_begin(a, &b, e);

    if (r == 0)
        r = image_blob_write(b, data, len, e);
    return r < 0 ? r : image_blob_end(STEAL(b), digest, UINT64_MAX, ret_digest, NULL, e);
}

bool image_blob_have(struct image_add *a, const char *digest, uint64_t size)
{
    struct stat st;
    char name[96];

    image_blob_name(digest, name);
    return fstatat(a->place.fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size == size;
}

bool image_place_blob_is_sound(const struct image_place *p, const char *digest, uint64_t size)
{
    AUTO_FREE uint8_t *chunk = malloc(BLOB_CHUNK);
    char name[96], is[IMAGE_DIGEST_MAX] = "";
    struct image_sum sum;
    AUTO_FD int fd = -1;
    uint64_t have = 0;
    ssize_t n = 0;

    image_blob_name(digest, name);
    fd = openat(p->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || !chunk)
        return false;
    image_sum_begin(&sum);
    while (have <= size && (n = read(fd, chunk, BLOB_CHUNK)) > 0) {
        image_sum_add(&sum, chunk, (size_t)n);
        have += (uint64_t)n;
    }
    if (image_sum_end(&sum, is) < 0)
        return false;
    return n == 0 && have == size && strcmp(is, digest) == 0;
}

int image_place_blob(const struct image_place *p, const char *digest, uint64_t *ret_size, struct err *e)
{
    AUTO_FD int fd = -1;
    struct stat st;
    char name[96];

    image_blob_name(digest, name);
    fd = openat(p->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return err_set(e, ENOENT, "blob %s is not in the image store; get the image again", digest);
    if (fd < 0 || fstat(fd, &st) < 0)
        return blob_fail(p, -errno, "open a blob", e);
    if (ret_size)
        *ret_size = (uint64_t)st.st_size;
    return STEAL_FD(fd);
}

int image_blob_open(struct image_add *a, const char *digest, uint64_t *ret_size, struct err *e)
{
    return image_place_blob(&a->place, digest, ret_size, e);
}

int image_place_document(const struct image_place *p, const char *digest, struct buf *ret, struct err *e)
{
    char is[IMAGE_DIGEST_MAX];
    AUTO_FD int fd = image_place_blob(p, digest, NULL, e);
    int r;

    buf_init(ret, OCI_DOCUMENT_MAX);
    if (fd < 0)
        return fd;
    r = fd_read_all(fd, ret);
    if (r == -E2BIG)
        return err_set(e, EBADMSG, "document %s is longer than 4 MiB, as no image has it", digest);
    if (r == 0)
        r = image_sum_of(ret->data, ret->len, is);
    if (r < 0)
        return blob_fail(p, r, "read a document", e);
    return strcmp(is, digest) == 0 ? 0 : err_set(e, EBADMSG, "document %s is damaged; get the image again", digest);
}
