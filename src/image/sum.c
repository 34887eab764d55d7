#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "image/image_priv.h"

#define SUM_BYTES 32
#define SUM_PREFIX "sha256:"

void image_sum_begin(struct image_sum *s)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();

    s->context = c;
    s->failed = !c || EVP_DigestInit_ex(c, EVP_sha256(), NULL) != 1;
}

void image_sum_add(struct image_sum *s, const void *data, size_t len)
{
    s->failed = s->failed || EVP_DigestUpdate(s->context, data, len) != 1;
}

int image_sum_end(struct image_sum *s, char ret_digest[IMAGE_DIGEST_MAX])
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    s->failed = s->failed || EVP_DigestFinal_ex(s->context, sum, &len) != 1 || len != SUM_BYTES;
    image_sum_done(s);
    if (s->failed)
        return -ENOMEM;
    memcpy(ret_digest, SUM_PREFIX, sizeof(SUM_PREFIX));
    for (unsigned i = 0; i < SUM_BYTES; i++)
        snprintf(ret_digest + sizeof(SUM_PREFIX) - 1 + 2 * i, 3, "%02x", sum[i]);
    return 0;
}

void image_sum_done(struct image_sum *s)
{
    EVP_MD_CTX_free(s->context);
    s->context = NULL;
}

int image_sum_of(const void *data, size_t len, char ret_digest[IMAGE_DIGEST_MAX])
{
    struct image_sum s;

    image_sum_begin(&s);
    image_sum_add(&s, data, len);
    return image_sum_end(&s, ret_digest);
}

const char *image_hex(const char *digest)
{
    const char *colon = strchr(digest, ':');

    return colon ? colon + 1 : digest;
}
