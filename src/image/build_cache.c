/* Layers that builds made before: small documents STATE/images/cache/KEY. The layer itself lives as long as an image
 * has it; without it the document means nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fdio.h"
#include "image/build_priv.h"
#include "proto/json.h"

#define CACHE_FILE_MAX 4096

int build_key_next(char key[BUILD_KEY_MAX], const char *const *texts)
{
    char digest[IMAGE_DIGEST_MAX];
    struct image_sum sum;
    int r;

    image_sum_begin(&sum);
    image_sum_add(&sum, key, strlen(key) + 1);
    for (; *texts; texts++) /* each with its end, so that no two lists give the same bytes */
        image_sum_add(&sum, *texts, strlen(*texts) + 1);
    r = image_sum_end(&sum, digest);
    if (r == 0)
        memcpy(key, image_hex(digest), BUILD_KEY_MAX);
    return r;
}

static int cache_open(struct builder *b, const char *key, int flags)
{
    char name[128];

    if (mkdirat(b->add->place.fd, "cache", 0700) < 0 && errno != EEXIST)
        return -errno;
    snprintf(name, sizeof(name), "cache/%s", key);
    return openat(b->add->place.fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

bool build_cache_find(struct builder *b, const char *key, struct image_layer *ret_layer, int64_t *ret_created_ns)
{
    AUTO_FD int fd = b->config->no_cache ? -1 : cache_open(b, key, O_RDONLY);
    struct image_layer layer = { .compress = IMAGE_COMPRESS_GZIP };
    json_object *o = NULL, *v;
    struct err ignored = { 0 };
    bool found = false;
    uint64_t created = 0;
    struct buf text;

    buf_init(&text, CACHE_FILE_MAX);
    if (fd >= 0 && fd_read_text(fd, &text) == 0) {
        if (proto_json_object((char *)text.data, "cache", &o, &ignored) == 0)
            found = json_object_object_get_ex(o, "created_ns", &v) &&
                    proto_json_uint(v, "cache", "created_ns", 1, INT64_MAX, &created, &ignored) == 0;
    }
    layer.empty = found && !json_object_object_get_ex(o, "digest", &v);
    if (found && !layer.empty) {
        found = proto_json_text(v, "cache", "digest", layer.digest, sizeof(layer.digest), &ignored) == 0 &&
                json_object_object_get_ex(o, "diff_id", &v) &&
                proto_json_text(v, "cache", "diff_id", layer.diff_id, sizeof(layer.diff_id), &ignored) == 0 &&
                json_object_object_get_ex(o, "size", &v) &&
                proto_json_uint(v, "cache", "size", 0, INT64_MAX, &layer.size, &ignored) == 0 &&
                oci_digest_ok(layer.digest) && oci_digest_ok(layer.diff_id) &&
                image_blob_have(b->add, layer.digest, layer.size);
    }
    json_object_put(o);
    buf_done(&text);
    if (found) {
        *ret_layer = layer;
        *ret_created_ns = (int64_t)created;
    }
    return found;
}

void build_cache_add(struct builder *b, const char *key, const struct image_layer *layer, int64_t created_ns)
{
    char text[512];
    AUTO_FD int fd = cache_open(b, key, O_WRONLY | O_CREAT | O_TRUNC);

    if (layer->empty)
        snprintf(text, sizeof(text), "{\"created_ns\":%lld}", (long long)created_ns);
    else
        snprintf(text, sizeof(text), "{\"created_ns\":%lld,\"digest\":\"%s\",\"diff_id\":\"%s\",\"size\":%llu}",
                 (long long)created_ns, layer->digest, layer->diff_id, (unsigned long long)layer->size);
    if (fd >= 0 && fd_write_all(fd, text, strlen(text)) < 0)
        (void)!ftruncate(fd, 0);
}
