/* The parts of LUKS1: header (luks_header.c), keys (luks_key.c), sectors (luks_cipher.c). */
#ifndef BLOCK_LUKS_PRIV_H
#define BLOCK_LUKS_PRIV_H

#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>

#include "block/luks.h"

#define LUKS_HEADER_LEN 592u
#define LUKS_SLOTS 8u
#define LUKS_STRIPES 4000u
#define LUKS_KEY_MAX 64u
#define LUKS_SALT_LEN 32u
#define LUKS_DIGEST_LEN 20u
#define LUKS_ROUNDS_MIN 1000u /* of a slot that we write */

struct luks_slot {
    bool active;
    uint32_t rounds;
    uint8_t salt[LUKS_SALT_LEN];
    uint32_t key_sector; /* of the key material, from the header */
};

/* How sectors are encrypted. */
struct luks_cipher {
    enum { LUKS_XTS, LUKS_CBC } mode;
    enum { LUKS_PLAIN, LUKS_PLAIN64, LUKS_ESSIV } iv;
    const EVP_CIPHER *evp;
    unsigned key_len;
};

struct luks_header {
    struct luks_cipher cipher;
    const EVP_MD *hash;
    uint32_t payload_sector;
    uint8_t digest[LUKS_DIGEST_LEN], digest_salt[LUKS_SALT_LEN];
    uint32_t digest_rounds;
    struct luks_slot slots[LUKS_SLOTS];
};

/* Parse LUKS_HEADER_LEN bytes. area_len: bytes that the header and the key material may take. Errors as
 * blk_luks_unlock. */
int luks_header_parse(const uint8_t *data, uint64_t area_len, struct luks_header *ret_header,
                      const char **ret_why) MUST_USE;
/* Byte behind the key material of the last slot in use. */
uint64_t luks_header_end(const struct luks_header *header);
/* The LUKS_HEADER_LEN bytes of a header that blk_luks_make makes: one slot, the names of its cipher and hash. uuid: 16
 * random bytes. */
void luks_header_write(const struct luks_header *header, const uint8_t *uuid, uint8_t *ret_data);

/* Memory for keys: not swapped out where the limits allow it, not in core dumps, cleared when it is freed. */
void *luks_secret_new(size_t len);
void luks_secret_free(void *p, size_t len);

/* Find the key in the slots: 0, -ENOKEY, or -errno. key: room for header->cipher.key_len bytes. */
int luks_key_open(const struct luks_header *header, struct blk_node *file, uint64_t off, const uint8_t *secret,
                  size_t secret_len, uint8_t *key) MUST_USE;
/* Fill slot 0 and the digest for the key; material: key_len * LUKS_STRIPES bytes. */
int luks_key_store(struct luks_header *header, const uint8_t *secret, size_t secret_len, unsigned iter_ms,
                   const uint8_t *key, uint8_t *material) MUST_USE;

/* Contexts of libcrypto for one key; each is used by one thread at a time. */
struct luks_ctx {
    EVP_CIPHER_CTX *enc, *dec, *essiv;
    struct luks_ctx *next;
};
struct luks_volume_cipher {
    struct luks_cipher cipher;
    uint8_t *key; /* luks_secret_new, LUKS_KEY_MAX bytes */
    pthread_mutex_t lock;
    struct luks_ctx *idle; /* under lock */
    unsigned n_idle;
};
/* Takes a copy of the key. luks_cipher_done accepts what a failed luks_cipher_init left. */
int luks_cipher_init(struct luks_volume_cipher *v, const struct luks_cipher *cipher, const uint8_t *key) MUST_USE;
void luks_cipher_done(struct luks_volume_cipher *v);
/* len: whole sectors, the first is number `sector`. -ENOMEM, -EIO. Any thread. */
int luks_cipher_run(struct luks_volume_cipher *v, bool encrypt, uint64_t sector, const uint8_t *in, uint8_t *out,
                    size_t len) MUST_USE;

struct blk_luks {
    struct luks_volume_cipher cipher;
    bool locked;                      /* only the header was looked at: there is no cipher */
    uint64_t payload_off, header_end; /* header_end: behind the key material in use */
};

#endif
