/* The volume's key under a passphrase: PBKDF2, the anti-forensic splitter, the digest that tells a right key from a
 * wrong one. Spec: LUKS On-Disk Format 1.2.3, sections 2.4 (AF), 3 (PBKDF2), 4.1 and 4.3. */
#include "block/luks_priv.h"

#include <endian.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>
#include <time.h>

#define MATERIAL_MAX (LUKS_KEY_MAX * LUKS_STRIPES)
#define SECRET_MAX (1u << 20)
#define ITER_MS_MAX 60000u
#define ROUNDS_MAX (1u << 25) /* of a slot that we write: two blocks each, so a quarter of BLK_LUKS_ROUNDS_MAX */

static int pbkdf2(const EVP_MD *hash, const uint8_t *secret, size_t secret_len, const uint8_t *salt, uint32_t rounds,
                  uint8_t *out, size_t out_len)
{
    if (secret_len > SECRET_MAX || rounds > BLK_LUKS_ROUNDS_MAX)
        return -EINVAL;
    return PKCS5_PBKDF2_HMAC((const char *)secret, (int)secret_len, salt, LUKS_SALT_LEN, (int)rounds, hash,
                             (int)out_len, out) == 1
               ? 0
               : -EIO;
}

/* H1 of the splitter: each block of the hash's length becomes hash(number || block), the last one cut. In place. */
static int af_diffuse(const EVP_MD *hash, EVP_MD_CTX *ctx, uint8_t *data, size_t len)
{
    size_t hash_len = (size_t)EVP_MD_get_size(hash);
    uint8_t digest[EVP_MAX_MD_SIZE];
    uint32_t number = 0;

    for (size_t at = 0; at < len; at += hash_len, number++) {
        uint32_t be = htobe32(number);
        size_t n = MIN(hash_len, len - at);

        if (EVP_DigestInit_ex(ctx, hash, NULL) != 1 || EVP_DigestUpdate(ctx, &be, sizeof(be)) != 1 ||
            EVP_DigestUpdate(ctx, data + at, n) != 1 || EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
            return -EIO;
        memcpy(data + at, digest, n);
    }
    explicit_bzero(digest, sizeof(digest));
    return 0;
}

/* Fold all stripes but the last into state (len bytes, zeroed by the caller). */
static int af_fold(const EVP_MD *hash, const uint8_t *stripes, size_t len, uint8_t *state)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int r = ctx ? 0 : -ENOMEM;

    for (unsigned i = 0; i < LUKS_STRIPES - 1 && r == 0; i++) {
        for (size_t j = 0; j < len; j++)
            state[j] ^= stripes[i * len + j];
        r = af_diffuse(hash, ctx, state, len);
    }
    EVP_MD_CTX_free(ctx);
    return r;
}

/* The key out of its stripes, or (where key and stripes are ours) the last stripe out of the key: the same xor. */
static int af_last(const EVP_MD *hash, const uint8_t *stripes, size_t len, const uint8_t *other, uint8_t *ret)
{
    uint8_t state[LUKS_KEY_MAX] = { 0 };
    int r = af_fold(hash, stripes, len, state);

    for (size_t j = 0; j < len && r == 0; j++)
        ret[j] = state[j] ^ other[j];
    explicit_bzero(state, sizeof(state));
    return r;
}

/* Encrypt or decrypt key material in place under the key that the passphrase gave. */
static int crypt_material(const struct luks_cipher *cipher, bool encrypt, const uint8_t *slot_key, uint8_t *material)
{
    struct luks_volume_cipher v;
    int r = luks_cipher_init(&v, cipher, slot_key);

    if (r == 0)
        r = luks_cipher_run(&v, encrypt, 0, material, material, cipher->key_len * LUKS_STRIPES);
    luks_cipher_done(&v);
    return r;
}

/* -ENOKEY: the passphrase is not this slot's. scratch: MATERIAL_MAX bytes. */
static int slot_open(const struct luks_header *h, const struct luks_slot *slot, struct blk_node *file, uint64_t off,
                     const uint8_t *secret, size_t secret_len, uint8_t *key, uint8_t *scratch)
{
    size_t len = h->cipher.key_len;
    uint8_t digest[LUKS_DIGEST_LEN];
    int r = pbkdf2(h->hash, secret, secret_len, slot->salt, slot->rounds, key, len);

    if (r == 0)
        r = blk_pread(file, off + (uint64_t)slot->key_sector * BLK_SECTOR, scratch, len * LUKS_STRIPES);
    if (r == 0)
        r = crypt_material(&h->cipher, false, key, scratch);
    if (r == 0)
        r = af_last(h->hash, scratch, len, scratch + (LUKS_STRIPES - 1) * len, key);
    if (r == 0)
        r = pbkdf2(h->hash, key, len, h->digest_salt, h->digest_rounds, digest, sizeof(digest));
    if (r == 0 && CRYPTO_memcmp(digest, h->digest, sizeof(digest)) != 0)
        r = -ENOKEY;
    return r;
}

int luks_key_open(const struct luks_header *header, struct blk_node *file, uint64_t off, const uint8_t *secret,
                  size_t secret_len, uint8_t *key)
{
    uint8_t *scratch = luks_secret_new(MATERIAL_MAX);
    int r = -ENOKEY;

    if (!scratch)
        return -ENOMEM;
    for (unsigned i = 0; i < LUKS_SLOTS && r == -ENOKEY; i++) {
        if (header->slots[i].active)
            r = slot_open(header, &header->slots[i], file, off, secret, secret_len, key, scratch);
    }
    luks_secret_free(scratch, MATERIAL_MAX);
    return r;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Rounds that take iter_ms of CPU time on this machine for out_len bytes of key. The clock is the thread's own, so that
 * a busy machine does not weaken the key. */
static int measure_rounds(const EVP_MD *hash, size_t out_len, unsigned iter_ms, uint32_t *ret_rounds)
{
    uint8_t salt[LUKS_SALT_LEN] = { 0 }, out[LUKS_KEY_MAX];
    uint32_t rounds = 1 << 13;
    uint64_t took = 0, want;

    for (;; rounds *= 2) {
        uint64_t start = cpu_ns();
        int r = pbkdf2(hash, salt, sizeof(salt), salt, rounds, out, out_len);

        if (r < 0)
            return r;
        took = cpu_ns() - start;
        if (took >= 20000000 || rounds >= ROUNDS_MAX)
            break;
    }
    want = (uint64_t)rounds * iter_ms * 1000 / MAX(took / 1000, 1);
    *ret_rounds = (uint32_t)MIN(MAX(want, LUKS_ROUNDS_MIN), ROUNDS_MAX);
    return 0;
}

int luks_key_store(struct luks_header *header, const uint8_t *secret, size_t secret_len, unsigned iter_ms,
                   const uint8_t *key, uint8_t *material)
{
    struct luks_slot *slot = &header->slots[0];
    size_t len = header->cipher.key_len;
    uint8_t slot_key[LUKS_KEY_MAX];
    int r = -EIO;

    iter_ms = MIN(iter_ms ? iter_ms : 2000, ITER_MS_MAX);
    if (RAND_bytes(slot->salt, sizeof(slot->salt)) == 1 &&
        RAND_bytes(header->digest_salt, sizeof(header->digest_salt)) == 1 &&
        RAND_bytes(material, (int)((LUKS_STRIPES - 1) * len)) == 1)
        r = measure_rounds(header->hash, len, iter_ms, &slot->rounds);
    if (r == 0) /* an eighth: it is paid for each slot, and its input has full entropy */
        header->digest_rounds = MAX(slot->rounds / 8, LUKS_ROUNDS_MIN);
    if (r == 0)
        r = pbkdf2(header->hash, key, len, header->digest_salt, header->digest_rounds, header->digest, LUKS_DIGEST_LEN);
    if (r == 0)
        r = pbkdf2(header->hash, secret, secret_len, slot->salt, slot->rounds, slot_key, len);
    if (r == 0)
        r = af_last(header->hash, material, len, key, material + (LUKS_STRIPES - 1) * len);
    if (r == 0)
        r = crypt_material(&header->cipher, true, slot_key, material);
    explicit_bzero(slot_key, sizeof(slot_key));
    slot->active = r == 0;
    return r;
}
