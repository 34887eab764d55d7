/* Row tcp and its other end, and rows smp1 and smp2. The peer runs on the host and serves whoever connects to its port
 * on loopback; a guest reaches it through its user-mode network.
 *
 * One connection: the client sends a little-endian byte count, then as many bytes; the peer answers with their CRC-32
 * (4 bytes) and then as many bytes of its own. */
#include "bench.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 64 << 10, TCP_MAX_CHUNKS = 1 << 20 };

static bool send_all(int fd, const void *data, size_t len)
{
    for (const char *p = data; len;) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool receive_all(int fd, void *data, size_t len)
{
    for (char *p = data; len;) {
        ssize_t n = recv(fd, p, len, 0);
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static void peer_serve(int fd, uint8_t *chunk, const uint8_t *own)
{
    uint64_t chunks;
    uint32_t crc = 0;
    bool ok = receive_all(fd, &chunks, sizeof chunks) && chunks <= TCP_MAX_CHUNKS;
    for (uint64_t i = 0; ok && i < chunks; i++) {
        ok = receive_all(fd, chunk, CHUNK);
        crc = bench_crc(crc, chunk, CHUNK);
    }
    ok = ok && send_all(fd, &crc, sizeof crc);
    for (uint64_t i = 0; ok && i < chunks; i++) {
        ok = send_all(fd, own, CHUNK);
    }
}

int bench_peer(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof address;
    uint8_t *chunk = malloc(CHUNK), *own = malloc(CHUNK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!chunk || !own || listener < 0 || bind(listener, (struct sockaddr *)&address, len) || listen(listener, 16) ||
        getsockname(listener, (struct sockaddr *)&address, &len)) {
        fprintf(stderr, "caisson-bench: cannot serve on loopback: %m\n");
        return 1;
    }
    bench_fill(own, CHUNK, 23);
    printf("CAISSON-PORT %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            fprintf(stderr, "caisson-bench: accept: %m\n");
            return 1;
        }
        peer_serve(fd, chunk, own);
        close(fd);
    }
}

/* The measured part: out, then in. */
static bool tcp_transfer(struct bench *b, int fd, const uint8_t *out, uint8_t *in, uint32_t *ret_crcs)
{
    uint32_t answer, crc_out = 0, crc_in = 0;
    bool ok = send_all(fd, &b->count, sizeof b->count);
    for (uint64_t i = 0; ok && i < b->count; i++) {
        ok = send_all(fd, out, CHUNK);
        crc_out = bench_crc(crc_out, out, CHUNK);
    }
    if (!ok || !receive_all(fd, &answer, sizeof answer)) {
        return bench_fail_call(b, "send");
    }
    for (uint64_t i = 0; ok && i < b->count; i++) {
        ok = receive_all(fd, in, CHUNK);
        crc_in = bench_crc(crc_in, in, CHUNK);
    }
    ret_crcs[0] = crc_out;
    ret_crcs[1] = crc_in;
    if (!ok) {
        return bench_fail_call(b, "recv");
    }
    return answer == crc_out || bench_fail(b, "the peer got other bytes than were sent");
}

bool row_tcp(struct bench *b, uint64_t *ret_sum)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(b->port) };
    if (!b->address || inet_pton(AF_INET, b->address, &address.sin_addr) != 1) {
        return bench_fail(b, "no peer, or its address is not IPv4");
    }
    uint8_t *buffer = malloc(2 * CHUNK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!buffer || fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        return bench_fail_call(b, "connect");
    }
    uint32_t crcs[2] = { 0 }, expected = 0;
    bench_fill(buffer, CHUNK, 29);
    bench_begin(b);
    bool ok = tcp_transfer(b, fd, buffer, buffer + CHUNK, crcs);
    bench_end(b);
    close(fd);
    bench_fill(buffer, CHUNK, 23);
    for (uint64_t i = 0; i < b->count; i++) {
        expected = bench_crc(expected, buffer, CHUNK);
    }
    free(buffer);
    if (!ok) {
        return false;
    }
    *ret_sum = (uint64_t)crcs[0] << 32 | crcs[1];
    return crcs[1] == expected || bench_fail(b, "other bytes came than the peer sent");
}

enum { SMP_MAX = 2, SMP_BATCH = 10000 };

/* Shared by all threads of a row: the total is added up batch by batch, as real programs meet now and then. */
struct smp {
    pthread_barrier_t start;
    uint64_t count;
    _Atomic uint64_t total, batches;
};

static void *smp_thread(void *arg)
{
    struct smp *s = arg;
    uint64_t state = 88172645463325252, sum = 0;
    pthread_barrier_wait(&s->start);
    for (uint64_t i = 0; i < s->count; i++) {
        uint64_t h = bench_random(&state);
        sum += (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd) >> 7;
        if (i % SMP_BATCH == SMP_BATCH - 1 || i == s->count - 1) {
            atomic_fetch_add(&s->total, sum);
            atomic_fetch_add(&s->batches, 1);
            sum = 0;
        }
    }
    return NULL;
}

/* Each of n threads does the whole count, so that perfect scaling takes the time of one. */
static bool smp_run(struct bench *b, unsigned n, uint64_t *ret_sum)
{
    struct smp s = { .count = b->count };
    pthread_t threads[SMP_MAX];
    pthread_barrier_init(&s.start, NULL, n + 1);
    for (unsigned i = 0; i < n; i++) {
        int error = pthread_create(&threads[i], NULL, smp_thread, &s);
        if (error) {
            return bench_fail(b, "pthread_create: %s", strerror(error));
        }
    }
    bench_begin(b);
    pthread_barrier_wait(&s.start);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    bench_end(b);
    pthread_barrier_destroy(&s.start);
    uint64_t batches = n * ((b->count + SMP_BATCH - 1) / SMP_BATCH);
    *ret_sum = s.total;
    return s.batches == batches ||
           bench_fail(b, "%llu of %llu batches", (unsigned long long)s.batches, (unsigned long long)batches);
}

bool row_smp1(struct bench *b, uint64_t *ret_sum)
{
    return smp_run(b, 1, ret_sum);
}

bool row_smp2(struct bench *b, uint64_t *ret_sum)
{
    return smp_run(b, 2, ret_sum);
}
