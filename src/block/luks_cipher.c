/* Encryption of sectors by libcrypto. A context of libcrypto holds an expanded key and serves one thread at a time; the
 * volume keeps the idle ones, so that a request costs neither an allocation nor a key expansion. */
#include "block/luks_priv.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define IDLE_MAX 16u /* contexts that a volume keeps */
#define IV_LEN 16u

void *luks_secret_new(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /* Both may be refused (RLIMIT_MEMLOCK in a container): then the key is as safe as the host's swap and dumps are. */
    (void)mlock(p, len);
    (void)madvise(p, len, MADV_DONTDUMP);
    return p;
}

void luks_secret_free(void *p, size_t len)
{
    if (!p)
        return;
    explicit_bzero(p, len);
    munmap(p, len);
}

static void ctx_free(struct luks_ctx *ctx)
{
    if (!ctx)
        return;
    EVP_CIPHER_CTX_free(ctx->enc);
    EVP_CIPHER_CTX_free(ctx->dec);
    EVP_CIPHER_CTX_free(ctx->essiv);
    free(ctx);
}

/* ESSIV: the number of the sector, encrypted under the hash of the key. */
static bool essiv_init(EVP_CIPHER_CTX *ctx, const uint8_t *key, unsigned key_len)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    bool ok = ctx && EVP_Digest(key, key_len, hash, NULL, EVP_sha256(), NULL) == 1 &&
              EVP_EncryptInit_ex(ctx, EVP_aes_256_ecb(), NULL, hash, NULL) == 1 &&
              EVP_CIPHER_CTX_set_padding(ctx, 0) == 1;

    explicit_bzero(hash, sizeof(hash));
    return ok;
}

static int ctx_new(const struct luks_volume_cipher *v, struct luks_ctx **ret_ctx)
{
    static const uint8_t zero_iv[IV_LEN];
    struct luks_ctx *ctx = calloc(1, sizeof(*ctx));
    bool ok;

    if (!ctx)
        return -ENOMEM;
    ctx->enc = EVP_CIPHER_CTX_new();
    ctx->dec = EVP_CIPHER_CTX_new();
    ok = ctx->enc && ctx->dec && EVP_EncryptInit_ex(ctx->enc, v->cipher.evp, NULL, v->key, zero_iv) == 1 &&
         EVP_DecryptInit_ex(ctx->dec, v->cipher.evp, NULL, v->key, zero_iv) == 1 &&
         EVP_CIPHER_CTX_set_padding(ctx->enc, 0) == 1 && EVP_CIPHER_CTX_set_padding(ctx->dec, 0) == 1;
    if (ok && v->cipher.iv == LUKS_ESSIV) {
        ctx->essiv = EVP_CIPHER_CTX_new();
        ok = essiv_init(ctx->essiv, v->key, v->cipher.key_len);
    }
    if (!ok) {
        ctx_free(ctx);
        return -EIO;
    }
    *ret_ctx = ctx;
    return 0;
}

static int ctx_get(struct luks_volume_cipher *v, struct luks_ctx **ret_ctx)
{
    struct luks_ctx *ctx;

    pthread_mutex_lock(&v->lock);
    ctx = v->idle;
    if (ctx) {
        v->idle = ctx->next;
        v->n_idle--;
    }
    pthread_mutex_unlock(&v->lock);
    if (!ctx)
        return ctx_new(v, ret_ctx);
    *ret_ctx = ctx;
    return 0;
}

static void ctx_put(struct luks_volume_cipher *v, struct luks_ctx *ctx)
{
    pthread_mutex_lock(&v->lock);
    if (v->n_idle < IDLE_MAX) {
        ctx->next = v->idle;
        v->idle = ctx;
        v->n_idle++;
        ctx = NULL;
    }
    pthread_mutex_unlock(&v->lock);
    ctx_free(ctx);
}

int luks_cipher_init(struct luks_volume_cipher *v, const struct luks_cipher *cipher, const uint8_t *key)
{
    struct luks_ctx *ctx;
    int r;

    *v = (struct luks_volume_cipher){ .cipher = *cipher, .lock = PTHREAD_MUTEX_INITIALIZER };
    v->key = luks_secret_new(LUKS_KEY_MAX);
    if (!v->key)
        return -ENOMEM;
    memcpy(v->key, key, cipher->key_len);
    r = ctx_new(v, &ctx);
    if (r < 0)
        return r;
    ctx_put(v, ctx);
    return 0;
}

void luks_cipher_done(struct luks_volume_cipher *v)
{
    while (v->idle) {
        struct luks_ctx *ctx = v->idle;

        v->idle = ctx->next;
        ctx_free(ctx);
    }
    luks_secret_free(v->key, LUKS_KEY_MAX);
    v->key = NULL;
}

static bool make_iv(const struct luks_volume_cipher *v, struct luks_ctx *ctx, uint64_t sector, uint8_t iv[IV_LEN])
{
    uint64_t number = htole64(v->cipher.iv == LUKS_PLAIN ? (uint32_t)sector : sector);
    int n;

    memset(iv, 0, IV_LEN);
    memcpy(iv, &number, sizeof(number));
    return v->cipher.iv != LUKS_ESSIV || (EVP_EncryptUpdate(ctx->essiv, iv, &n, iv, IV_LEN) == 1 && n == IV_LEN);
}

int luks_cipher_run(struct luks_volume_cipher *v, bool encrypt, uint64_t sector, const uint8_t *in, uint8_t *out,
                    size_t len)
{
    struct luks_ctx *ctx;
    int r = ctx_get(v, &ctx);

    if (r < 0)
        return r;
    for (size_t at = 0; at < len; at += BLK_SECTOR, sector++) {
        EVP_CIPHER_CTX *evp = encrypt ? ctx->enc : ctx->dec;
        uint8_t iv[IV_LEN];
        int n;

        /* No new key, so only the IV is set anew. */
        if (!make_iv(v, ctx, sector, iv) || EVP_CipherInit_ex(evp, NULL, NULL, NULL, iv, encrypt) != 1 ||
            EVP_CipherUpdate(evp, out + at, &n, in + at, BLK_SECTOR) != 1 || n != BLK_SECTOR) {
            ctx_free(ctx);
            return -EIO;
        }
    }
    ctx_put(v, ctx);
    return 0;
}
