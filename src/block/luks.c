/* Volumes of LUKS1, and the format node for a file (or device) that holds nothing else: header, then the disk.
 *
 * Data passes through a buffer of ours, never through the caller's memory in clear and encrypted at once: that memory
 * may be a guest's, which could change it between two steps. */
#include "block/luks.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "block/align.h"
#include "block/luks_priv.h"
#include "block/open.h"

#define LUKS_ALIGN 4096u

static int luks_header_read(struct blk_node *file, uint64_t off, uint64_t len, struct luks_header *ret,
                            struct blk_why *why)
{
    uint8_t data[LUKS_HEADER_LEN];
    const char *text;
    int r;

    if (len < LUKS_HEADER_LEN)
        return blk_why_set(why, EMEDIUMTYPE, file->path, "is too short for a LUKS header");
    r = blk_pread(file, off, data, sizeof(data));
    if (r < 0)
        return r;
    r = luks_header_parse(data, len, ret, &text);
    return r < 0 ? blk_why_set(why, -r, file->path, text) : 0;
}

static void luks_set_places(struct blk_luks *luks, const struct luks_header *header)
{
    luks->payload_off = (uint64_t)header->payload_sector * BLK_SECTOR;
    luks->header_end = luks_header_end(header);
}

int blk_luks_look(struct blk_node *file, uint64_t off, uint64_t len, struct blk_luks **ret_luks, struct blk_why *why)
{
    struct luks_header header;
    struct blk_luks *luks;
    int r = luks_header_read(file, off, len, &header, why);

    if (r < 0)
        return r;
    luks = calloc(1, sizeof(*luks));
    if (!luks)
        return -ENOMEM;
    luks->locked = true;
    luks_set_places(luks, &header);
    *ret_luks = luks;
    return 0;
}

int blk_luks_unlock(struct blk_node *file, uint64_t off, uint64_t len, const uint8_t *secret, size_t secret_len,
                    struct blk_luks **ret_luks, struct blk_why *why)
{
    AUTO(blk_luks) struct blk_luks *luks = NULL;
    struct luks_header header;
    uint8_t *key;
    int r = luks_header_read(file, off, len, &header, why);

    if (r < 0)
        return r;
    if (!secret)
        return blk_why_set(why, ENOKEY, file->path, "is encrypted, and no passphrase was given");
    luks = calloc(1, sizeof(*luks));
    key = luks_secret_new(LUKS_KEY_MAX);
    r = luks && key ? luks_key_open(&header, file, off, secret, secret_len, key) : -ENOMEM;
    if (r == -ENOKEY)
        (void)blk_why_set(why, ENOKEY, file->path, "is encrypted, and the passphrase opens none of its key slots");
    if (r == 0)
        r = luks_cipher_init(&luks->cipher, &header.cipher, key);
    luks_secret_free(key, LUKS_KEY_MAX);
    if (r < 0)
        return r;
    luks_set_places(luks, &header);
    *ret_luks = STEAL(luks);
    return 0;
}

void blk_luks_free(struct blk_luks *luks)
{
    if (!luks)
        return;
    if (!luks->locked)
        luks_cipher_done(&luks->cipher);
    free(luks);
}

uint64_t blk_luks_payload(const struct blk_luks *luks)
{
    return luks->payload_off;
}

static int luks_crypt(struct blk_luks *luks, bool encrypt, uint64_t off, const void *in, void *out, size_t len)
{
    if ((off | len) % BLK_SECTOR != 0)
        return -EINVAL;
    if (luks->locked)
        return -ENOKEY;
    return luks_cipher_run(&luks->cipher, encrypt, off / BLK_SECTOR, in, out, len);
}

int blk_luks_encrypt(struct blk_luks *luks, uint64_t off, const void *in, void *out, size_t len)
{
    return luks_crypt(luks, true, off, in, out, len);
}

int blk_luks_decrypt(struct blk_luks *luks, uint64_t off, const void *in, void *out, size_t len)
{
    return luks_crypt(luks, false, off, in, out, len);
}

int blk_luks_make(const uint8_t *secret, size_t secret_len, unsigned iter_ms, uint8_t *area, struct blk_luks **ret_luks)
{
    AUTO(blk_luks) struct blk_luks *luks = calloc(1, sizeof(*luks));
    struct luks_header header = {
        .cipher = { .mode = LUKS_XTS, .iv = LUKS_PLAIN64, .evp = EVP_aes_256_xts(), .key_len = 64 },
        .hash = EVP_sha256(),
        .payload_sector = BLK_LUKS_AREA / BLK_SECTOR
    };
    /* Each slot begins on 4 KiB, as the tools of the format lay it out. */
    const uint32_t first = LUKS_ALIGN / BLK_SECTOR;
    const uint32_t step = (uint32_t)align_up(64 * LUKS_STRIPES, LUKS_ALIGN) / BLK_SECTOR;
    uint8_t uuid[16], *key;
    int r = -EIO;

    if (!secret)
        return -EINVAL;
    key = luks_secret_new(LUKS_KEY_MAX);
    if (!luks || !key) {
        luks_secret_free(key, LUKS_KEY_MAX);
        return -ENOMEM;
    }
    memset(area, 0, BLK_LUKS_AREA);
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        header.slots[i].key_sector = first + i * step;
    if (RAND_priv_bytes(key, LUKS_KEY_MAX) == 1 && RAND_bytes(uuid, sizeof(uuid)) == 1)
        r = luks_key_store(&header, secret, secret_len, iter_ms, key, area + LUKS_ALIGN);
    if (r == 0)
        r = luks_cipher_init(&luks->cipher, &header.cipher, key);
    luks_secret_free(key, LUKS_KEY_MAX);
    if (r < 0)
        return r;
    luks_header_write(&header, uuid, area);
    luks->payload_off = luks->header_end = BLK_LUKS_AREA;
    if (ret_luks)
        *ret_luks = STEAL(luks);
    return 0;
}

/* ---- the format node ---- */

struct luks_node {
    struct blk_node node;
    struct blk_luks *luks;
    /* Whole sectors are written under the shared lock. A write of a part of a sector reads the rest of it first, and
     * holds the lock alone, so that it does not put back what another thread has just overwritten. */
    pthread_rwlock_t parts;
};

static struct luks_node *luks_of(struct blk_node *n)
{
    return CONTAINER_OF(n, struct luks_node, node);
}

/* Whole sectors, decrypted on their way in and encrypted, in place, on their way out. */
static int luks_flat(void *opaque, bool write, uint64_t off, uint8_t *data, uint64_t len)
{
    struct luks_node *l = opaque;
    const uint64_t at = blk_luks_payload(l->luks) + off;
    int r = write ? blk_luks_encrypt(l->luks, off, data, data, len) : blk_pread(l->node.file, at, data, len);

    if (r < 0)
        return r;
    return write ? blk_pwrite(l->node.file, at, data, len) : blk_luks_decrypt(l->luks, off, data, data, len);
}

static int luks_transfer(struct luks_node *l, bool write, uint64_t off, const struct iovec *iov, unsigned n_iov,
                         uint64_t len)
{
    const struct blk_align a = { .align = BLK_SECTOR, .flat = luks_flat, .opaque = l };

    return blk_align_bounce(&a, write, off, iov, n_iov, 0, len);
}

static int luks_pread(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    return luks_transfer(luks_of(n), false, off, iov, n_iov, len);
}

static int luks_pwrite(struct blk_node *n, uint64_t off, const struct iovec *iov, unsigned n_iov, uint64_t len)
{
    struct luks_node *l = luks_of(n);
    int r;

    if ((off | len) % BLK_SECTOR == 0)
        pthread_rwlock_rdlock(&l->parts);
    else
        pthread_rwlock_wrlock(&l->parts);
    r = luks_transfer(l, true, off, iov, n_iov, len);
    pthread_rwlock_unlock(&l->parts);
    return r;
}

/* What was given back reads as the decryption of zeroes: garbage, which a discard may leave. */
static int luks_discard(struct blk_node *n, uint64_t off, uint64_t len)
{
    uint64_t start = align_up(off, BLK_SECTOR), end = align_down(off + len, BLK_SECTOR);

    return end <= start ? 0 : blk_discard(n->file, blk_luks_payload(luks_of(n)->luks) + start, end - start);
}

static int luks_resize(struct blk_node *n, uint64_t size, enum blk_prealloc prealloc, struct blk_why *why)
{
    uint64_t payload = blk_luks_payload(luks_of(n)->luks);
    int r;

    size = align_up(size, BLK_SECTOR);
    if (size > (uint64_t)INT64_MAX - payload)
        return -EFBIG;
    r = blk_resize(n->file, payload + size, prealloc, why);
    if (r == 0)
        n->size = size;
    return r;
}

static void luks_info(struct blk_node *n, struct blk_info *ret_info)
{
    struct blk_info file;

    blk_node_info(n->file, &file);
    ret_info->actual_size = file.actual_size;
    ret_info->encryption = "luks";
}

static void luks_close(struct blk_node *n)
{
    struct luks_node *l = luks_of(n);

    blk_luks_free(l->luks);
    pthread_rwlock_destroy(&l->parts);
    blk_node_close(n->file);
    free(n->path);
    free(l);
}

static const struct blk_node_ops luks_ops = {
    .name = "luks",
    .pread = luks_pread,
    .pwrite = luks_pwrite,
    .discard = luks_discard,
    .resize = luks_resize,
    .info = luks_info,
    .close = luks_close,
};

static int luks_probe(const uint8_t *head, size_t len)
{
    return len >= 8 && memcmp(head, "LUKS\xba\xbe\0", 7) == 0 && (head[7] == 1 || head[7] == 2) ? 100 : 0;
}

static int luks_open(struct blk_node *file, const struct blk_open_config *config, struct blk_node **ret_node,
                     struct blk_why *why)
{
    AUTO(blk_luks) struct blk_luks *luks = NULL;
    struct luks_node *l;
    int r = config->no_data && !config->secret
                ? blk_luks_look(file, 0, file->size, &luks, why)
                : blk_luks_unlock(file, 0, file->size, config->secret, config->secret_len, &luks, why);

    if (r < 0)
        return r;
    /* A payload inside the header would let a guest write to the key slots. */
    if (blk_luks_payload(luks) < luks->header_end || blk_luks_payload(luks) > file->size)
        return blk_why_set(why, EMEDIUMTYPE, file->path,
                           "has a LUKS header whose disk begins inside it or behind the file");
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->node = (struct blk_node){ .ops = &luks_ops,
                                 .size = align_down(file->size - blk_luks_payload(luks), BLK_SECTOR),
                                 .read_only = config->read_only,
                                 .block_size = MAX(file->block_size, BLK_SECTOR),
                                 .physical_block_size = MAX(file->physical_block_size, BLK_SECTOR),
                                 .file = file };
    l->luks = STEAL(luks);
    pthread_rwlock_init(&l->parts, NULL);
    *ret_node = &l->node;
    return 0;
}

static int luks_create(struct blk_node *file, const struct blk_create_config *config, struct blk_why *why)
{
    AUTO_FREE uint8_t *area = malloc(BLK_LUKS_AREA);
    uint64_t size = config->size;
    int r;

    if (!area)
        return -ENOMEM;
    if (!config->secret)
        return blk_why_set(why, EINVAL, file->path, "is to be encrypted, and no passphrase was given");
    if (size > (uint64_t)INT64_MAX - BLK_LUKS_AREA - BLK_SECTOR)
        return -EFBIG;
    r = blk_luks_make(config->secret, config->secret_len, config->luks_iter_ms, area, NULL);
    if (r == 0)
        r = blk_resize(file, BLK_LUKS_AREA + align_up(size, BLK_SECTOR), config->prealloc, why);
    if (r == 0)
        r = blk_pwrite(file, 0, area, BLK_LUKS_AREA);
    return r < 0 ? r : blk_flush(file);
}

const struct blk_format blk_format_luks = {
    .name = "luks",
    .can_write = true,
    .probe = luks_probe,
    .open = luks_open,
    .create = luks_create,
};
