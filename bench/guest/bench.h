/* The benchmark's own program: what its rows share.
 *
 * A row is one kernel of work that runs the same on the bare machine and in a guest. It sets itself up, says so on
 * standard output (bench_begin), works, says that it is done (bench_end), and then checks what it did. The host takes
 * its time from the two lines as they arrive; the row's own time stands beside it, to find a guest whose clock is off.
 * A row's sum depends on its count alone, so that all machines can be compared with each other.
 *
 * Must not know: which engine runs it. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench {
    const char *row;
    uint64_t count;      /* how much work: the row's own count by --scale */
    const char *tmp;     /* a folder on tmpfs */
    const char *disk;    /* a folder on the disk that is measured */
    const char *root;    /* a Debian tree to chroot into */
    const char *script;  /* python's */
    const char *address; /* of the peer, IPv4 */
    uint16_t port;
    uint64_t began_ns, took_ns, began_cpu_ns, took_cpu_ns;
    char why[160]; /* of a failure */
};

/* The first and the last thing of the measured part; once each. */
void bench_begin(struct bench *b);
void bench_end(struct bench *b);

/* Say why the row failed. Returns false, for `return bench_fail(...)`. */
bool bench_fail(struct bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for a failed call: its name and errno. */
bool bench_fail_call(struct bench *b, const char *call);

/* Stay on the CPU that this thread is on: rows of several processes then measure one CPU, which is what a guest with
 * one vCPU has. */
bool bench_pin(struct bench *b);

/* A step of a random sequence (xorshift64), the same everywhere. *state is never 0. */
static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* Fold a value into a sum. */
static inline uint64_t bench_fold(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 29;
}

/* CRC-32 (IEEE), eight bytes a step; crc is 0 at first. Not thread-safe before the first call is over. */
uint32_t bench_crc(uint32_t crc, const void *data, size_t len);

/* SHA-256 of a buffer. */
void bench_sha(const void *data, size_t len, uint8_t ret_digest[32]);

/* Fill with the sequence that starts at seed. len is a multiple of 8. */
void bench_fill(void *data, size_t len, uint64_t seed);

/* One row: runs, and sets *ret_sum if all its checks hold. */
typedef bool bench_run_fn(struct bench *b, uint64_t *ret_sum);

bench_run_fn row_alu, row_sort, row_chase, row_recursion, row_indirect, row_fp, row_sse2, row_avx2, row_memcpy, row_crc,
    row_sha;
bench_run_fn row_syscall, row_fault, row_fork, row_exec, row_pipe, row_switch, row_tmpfs, row_disk, row_tcp, row_smp1,
    row_smp2;
bench_run_fn row_gzip, row_python, row_compile;

/* What row_exec starts: ends with the status that the word gives. */
int bench_child(const char *word);

/* Serve row_tcp on loopback: say the port, then connection after connection, for ever. Returns an exit code. */
int bench_peer(void);

#endif
