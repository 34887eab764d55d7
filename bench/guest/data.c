/* Rows that move and sum data: memcpy, CRC-32, SHA-256. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

void bench_fill(void *data, size_t len, uint64_t seed)
{
    uint64_t state = seed | 1, *word = data;
    for (size_t i = 0; i < len / sizeof *word; i++) {
        word[i] = bench_random(&state);
    }
}

enum { COPY_ARENA = 1 << 20 };

/* Sizes as programs copy them: many small ones, some pages, a few big ones; source and destination unaligned. */
bool row_memcpy(struct bench *b, uint64_t *ret_sum)
{
    static const uint32_t sizes[16] = { 8, 15, 16, 24, 32, 40, 64, 100, 128, 200, 256, 700, 1500, 4096, 4096, 65536 };
    uint8_t *from = malloc(COPY_ARENA), *to = calloc(1, COPY_ARENA);
    if (!from || !to) {
        free(from);
        free(to);
        return bench_fail_call(b, "malloc");
    }
    bench_fill(from, COPY_ARENA, 99);
    uint64_t state = 7, bytes = 0;
    size_t last_from = 0, last_to = 0, last_size = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        uint64_t r = bench_random(&state);
        size_t size = sizes[r & 15];
        last_from = (r >> 4) % (COPY_ARENA - 65536);
        last_to = (r >> 34) % (COPY_ARENA - 65536);
        last_size = size;
        memcpy(to + last_to, from + last_from, size);
        bytes += size;
    }
    bench_end(b);
    *ret_sum = bench_fold(bytes, bench_crc(0, to, COPY_ARENA));
    bool equal = !memcmp(to + last_to, from + last_from, last_size);
    free(from);
    free(to);
    return equal || bench_fail(b, "a copy differs from its source");
}

static uint32_t crc_table[8][256];

static void crc_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) {
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
        }
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int t = 1; t < 8; t++) {
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 0xff];
        }
    }
}

uint32_t bench_crc(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    if (!crc_table[0][1]) {
        crc_init();
    }
    crc = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^ crc_table[5][low >> 16 & 0xff] ^
              crc_table[4][low >> 24] ^ crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff] ^
              crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
    }
    for (; len; len--, p++) {
        crc = crc >> 8 ^ crc_table[0][(crc ^ *p) & 0xff];
    }
    return ~crc;
}

enum { DATA_SIZE = 1 << 20 };

bool row_crc(struct bench *b, uint64_t *ret_sum)
{
    uint8_t *data = malloc(DATA_SIZE);
    if (!data) {
        return bench_fail_call(b, "malloc");
    }
    bench_fill(data, DATA_SIZE, 5);
    uint32_t known = bench_crc(0, "123456789", 9), crc = 0;
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        crc = bench_crc(crc, data, DATA_SIZE);
    }
    bench_end(b);
    free(data);
    *ret_sum = crc;
    return known == 0xcbf43926 || bench_fail(b, "the CRC of 123456789 is %08x", known);
}

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t sha_turn(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (sha_turn(x, 7) ^ sha_turn(x, 18) ^ x >> 3) + w[i - 7] +
               (sha_turn(y, 17) ^ sha_turn(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; i++) {
        uint32_t x = k + (sha_turn(e, 6) ^ sha_turn(e, 11) ^ sha_turn(e, 25)) + ((e & f) ^ (~e & g)) + sha_k[i] + w[i];
        uint32_t y = (sha_turn(a, 2) ^ sha_turn(a, 13) ^ sha_turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        k = g;
        g = f;
        f = e;
        e = d + x;
        d = c;
        c = b;
        b = a;
        a = x + y;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
    h[5] += f;
    h[6] += g;
    h[7] += k;
}

void bench_sha(const void *data, size_t len, uint8_t ret_digest[32])
{
    uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    const uint8_t *p = data;
    uint8_t tail[128] = { 0 };
    size_t left = len % 64, tail_len = left < 56 ? 64 : 128;
    for (size_t i = 0; i < len / 64; i++) {
        sha_block(h, p + 64 * i);
    }
    memcpy(tail, p + len - left, left);
    tail[left] = 0x80;
    for (size_t i = 0; i < 8; i++) {
        tail[tail_len - 1 - i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    }
    for (size_t i = 0; i < tail_len; i += 64) {
        sha_block(h, tail + i);
    }
    for (size_t i = 0; i < 32; i++) {
        ret_digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
    }
}

bool row_sha(struct bench *b, uint64_t *ret_sum)
{
    static const uint8_t abc[4] = { 0xba, 0x78, 0x16, 0xbf };
    uint8_t *data = malloc(DATA_SIZE), digest[32];
    if (!data) {
        return bench_fail_call(b, "malloc");
    }
    bench_fill(data, DATA_SIZE, 6);
    bench_sha("abc", 3, digest);
    bool known = !memcmp(digest, abc, sizeof abc);
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        bench_sha(data, DATA_SIZE, digest);
        memcpy(data, digest, sizeof digest);
    }
    bench_end(b);
    memcpy(ret_sum, digest, sizeof *ret_sum);
    free(data);
    return known || bench_fail(b, "the SHA-256 of abc is wrong");
}
