/* The LUKS1 header as bytes. Everything in it is hostile until it was checked here: after luks_header_parse, offsets
 * lie within the area, slots do not overlap, the work of trying a passphrase is bounded. */
#include "block/luks_priv.h"

#include <endian.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"

#define SLOT_ACTIVE 0x00ac71f3u
#define SLOT_DISABLED 0x0000deadu

/* Offsets in the header, section 2.1 of the specification. */
enum {
    AT_VERSION = 6,
    AT_CIPHER = 8,
    AT_MODE = 40,
    AT_HASH = 72,
    AT_PAYLOAD = 104,
    AT_KEY_LEN = 108,
    AT_DIGEST = 112,
    AT_DIGEST_SALT = 132,
    AT_DIGEST_ROUNDS = 164,
    AT_UUID = 168,
    AT_SLOTS = 208,
    SLOT_LEN = 48,
    SLOT_ROUNDS = 4,
    SLOT_SALT = 8,
    SLOT_SECTOR = 40,
    SLOT_STRIPES = 44,
    NAME_LEN = 32,
};
static const uint8_t magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

static const struct {
    const char *mode;
    unsigned key_len;
    struct luks_cipher cipher;
    const EVP_CIPHER *(*evp)(void);
} ciphers[] = {
    { "xts-plain64", 64, { .mode = LUKS_XTS, .iv = LUKS_PLAIN64 }, EVP_aes_256_xts },
    { "xts-plain64", 32, { .mode = LUKS_XTS, .iv = LUKS_PLAIN64 }, EVP_aes_128_xts },
    { "xts-plain", 64, { .mode = LUKS_XTS, .iv = LUKS_PLAIN }, EVP_aes_256_xts },
    { "xts-plain", 32, { .mode = LUKS_XTS, .iv = LUKS_PLAIN }, EVP_aes_128_xts },
    { "cbc-essiv:sha256", 32, { .mode = LUKS_CBC, .iv = LUKS_ESSIV }, EVP_aes_256_cbc },
    { "cbc-essiv:sha256", 16, { .mode = LUKS_CBC, .iv = LUKS_ESSIV }, EVP_aes_128_cbc },
    { "cbc-plain64", 32, { .mode = LUKS_CBC, .iv = LUKS_PLAIN64 }, EVP_aes_256_cbc },
    { "cbc-plain64", 16, { .mode = LUKS_CBC, .iv = LUKS_PLAIN64 }, EVP_aes_128_cbc },
};
static const struct {
    const char *name;
    const EVP_MD *(*evp)(void);
} hashes[] = { { "sha1", EVP_sha1 }, { "sha256", EVP_sha256 }, { "sha512", EVP_sha512 } };

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static void put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static void put_text(uint8_t *field, const char *text)
{
    memcpy(field, text, strlen(text));
}

static bool name_is(const uint8_t *field, const char *name)
{
    return memcmp(field, name, strlen(name) + 1) == 0;
}

static int parse_cipher(const uint8_t *data, struct luks_header *h, const char **ret_why)
{
    uint32_t key_len = get32(data + AT_KEY_LEN);

    *ret_why =
        "is encrypted with a cipher that is not supported (aes in the modes xts-plain64, xts-plain, cbc-plain64 and "
        "cbc-essiv:sha256 is)";
    if (!name_is(data + AT_CIPHER, "aes"))
        return -ENOTSUP;
    for (unsigned i = 0; i < ARRAY_SIZE(ciphers); i++) {
        if (!name_is(data + AT_MODE, ciphers[i].mode) || ciphers[i].key_len != key_len)
            continue;
        h->cipher = ciphers[i].cipher;
        h->cipher.evp = ciphers[i].evp();
        h->cipher.key_len = key_len;
    }
    if (h->cipher.key_len == 0)
        return -ENOTSUP;
    for (unsigned i = 0; i < ARRAY_SIZE(hashes); i++) {
        if (name_is(data + AT_HASH, hashes[i].name))
            h->hash = hashes[i].evp();
    }
    *ret_why = "derives its key with a hash that is not supported (sha1, sha256 and sha512 are)";
    return h->hash ? 0 : -ENOTSUP;
}

/* The slots' key material lies in the area, behind the header, each for itself. */
static int check_slots(const struct luks_header *h, uint64_t area_len, const char **ret_why)
{
    uint32_t sectors = h->cipher.key_len * LUKS_STRIPES / BLK_SECTOR; /* a whole number for each key_len we know */

    *ret_why = "has a LUKS header whose key slots overlap or lie outside";
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &h->slots[i];
        uint64_t end = (uint64_t)s->key_sector + sectors;

        if (!s->active)
            continue;
        if ((uint64_t)s->key_sector * BLK_SECTOR < LUKS_HEADER_LEN || end * BLK_SECTOR > area_len)
            return -EMEDIUMTYPE;
        for (unsigned j = 0; j < i; j++) {
            const struct luks_slot *t = &h->slots[j];

            if (t->active && s->key_sector < (uint64_t)t->key_sector + sectors && t->key_sector < end)
                return -EMEDIUMTYPE;
        }
    }
    return 0;
}

/* What a try of a passphrase may cost in the worst case: every slot, and the digest after each. */
static int check_rounds(const struct luks_header *h, const char **ret_why)
{
    unsigned hash_len = (unsigned)EVP_MD_get_size(h->hash);
    uint64_t blocks = (h->cipher.key_len + hash_len - 1) / hash_len, sum = 0;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (!h->slots[i].active)
            continue;
        if (h->slots[i].rounds == 0 || h->digest_rounds == 0) {
            *ret_why = "has a LUKS header without rounds of key derivation";
            return -EMEDIUMTYPE;
        }
        sum += h->slots[i].rounds * blocks + h->digest_rounds;
    }
    *ret_why = "has a LUKS header whose key derivation would take many minutes; no tool writes such a header by itself";
    return sum > BLK_LUKS_ROUNDS_MAX ? -ENOTSUP : 0;
}

int luks_header_parse(const uint8_t *data, uint64_t area_len, struct luks_header *ret_header, const char **ret_why)
{
    struct luks_header h = { .payload_sector = get32(data + AT_PAYLOAD),
                             .digest_rounds = get32(data + AT_DIGEST_ROUNDS) };
    int r;

    *ret_why = "has no LUKS header";
    if (memcmp(data, magic, sizeof(magic)) != 0)
        return -EMEDIUMTYPE;
    if (data[AT_VERSION] != 0 || data[AT_VERSION + 1] != 1) {
        *ret_why = "is LUKS of another version than 1 (cryptsetup convert --type luks1 may turn LUKS2 into it)";
        return -ENOTSUP;
    }
    r = parse_cipher(data, &h, ret_why);
    if (r < 0)
        return r;
    memcpy(h.digest, data + AT_DIGEST, sizeof(h.digest));
    memcpy(h.digest_salt, data + AT_DIGEST_SALT, sizeof(h.digest_salt));
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const uint8_t *p = data + AT_SLOTS + i * SLOT_LEN;
        struct luks_slot *s = &h.slots[i];

        s->active = get32(p) == SLOT_ACTIVE;
        s->rounds = get32(p + SLOT_ROUNDS);
        memcpy(s->salt, p + SLOT_SALT, sizeof(s->salt));
        s->key_sector = get32(p + SLOT_SECTOR);
        *ret_why = "has a LUKS header with a damaged key slot";
        if ((!s->active && get32(p) != SLOT_DISABLED) || (s->active && get32(p + SLOT_STRIPES) != LUKS_STRIPES))
            return -EMEDIUMTYPE;
    }
    r = check_slots(&h, area_len, ret_why);
    if (r == 0)
        r = check_rounds(&h, ret_why);
    if (r < 0)
        return r;
    *ret_header = h;
    *ret_why = NULL;
    return 0;
}

uint64_t luks_header_end(const struct luks_header *header)
{
    uint64_t end = LUKS_HEADER_LEN;

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (header->slots[i].active)
            end = MAX(end, (uint64_t)header->slots[i].key_sector * BLK_SECTOR + header->cipher.key_len * LUKS_STRIPES);
    }
    return end;
}

void luks_header_write(const struct luks_header *header, const uint8_t *uuid, uint8_t *ret_data)
{
    uint8_t data[LUKS_HEADER_LEN] = { 0 };
    char text[40];

    memcpy(data, magic, sizeof(magic));
    data[AT_VERSION + 1] = 1;
    put_text(data + AT_CIPHER, "aes");
    put_text(data + AT_MODE, ciphers[0].mode);
    put_text(data + AT_HASH, "sha256");
    put32(data + AT_PAYLOAD, header->payload_sector);
    put32(data + AT_KEY_LEN, header->cipher.key_len);
    memcpy(data + AT_DIGEST, header->digest, sizeof(header->digest));
    memcpy(data + AT_DIGEST_SALT, header->digest_salt, sizeof(header->digest_salt));
    put32(data + AT_DIGEST_ROUNDS, header->digest_rounds);
    snprintf(text, sizeof(text), "%02x%02x%02x%02x-%02x%02x-4%01x%02x-a%01x%02x-%02x%02x%02x%02x%02x%02x", uuid[0],
             uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6] & 15, uuid[7], uuid[8] & 15, uuid[9], uuid[10],
             uuid[11], uuid[12], uuid[13], uuid[14], uuid[15]);
    memcpy(data + AT_UUID, text, sizeof(text));
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        uint8_t *p = data + AT_SLOTS + i * SLOT_LEN;
        const struct luks_slot *s = &header->slots[i];

        put32(p, s->active ? SLOT_ACTIVE : SLOT_DISABLED);
        put32(p + SLOT_ROUNDS, s->rounds);
        memcpy(p + SLOT_SALT, s->salt, sizeof(s->salt));
        put32(p + SLOT_SECTOR, s->key_sector);
        put32(p + SLOT_STRIPES, LUKS_STRIPES);
    }
    memcpy(ret_data, data, sizeof(data));
}
