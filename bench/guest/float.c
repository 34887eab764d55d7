/* Rows of floating point. Scalar code is built without vectorisation; the vector rows say by intrinsics what they use.
 * Only operations that IEEE 754 rounds exactly, so that every machine must get the same bits. */
#include "bench.h"

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct body {
    double x[3], v[3], mass;
};

/* Jupiter and its like around a sun, in units of the solar mass, astronomical unit and day; roughly, which is enough.
 */
static const struct body bodies[5] = {
    { { 0, 0, 0 }, { 0, 0, 0 }, 1 },
    { { 4.84, -1.16, -0.10 }, { 0.00166, 0.00770, -0.00007 }, 0.000955 },
    { { 8.34, 4.12, -0.40 }, { -0.00277, 0.00500, 0.00002 }, 0.000286 },
    { { 12.89, -15.11, -0.22 }, { 0.00296, 0.00238, -0.00003 }, 0.0000437 },
    { { 15.38, -25.92, 0.18 }, { 0.00268, 0.00163, -0.00009 }, 0.0000515 },
};
static const double gravity = 0.00029591220828559;

static double fp_energy(const struct body *w)
{
    double e = 0;
    for (int i = 0; i < 5; i++) {
        e += w[i].mass * (w[i].v[0] * w[i].v[0] + w[i].v[1] * w[i].v[1] + w[i].v[2] * w[i].v[2]) / 2;
        for (int j = i + 1; j < 5; j++) {
            double d = 0;
            for (int k = 0; k < 3; k++) {
                d += (w[i].x[k] - w[j].x[k]) * (w[i].x[k] - w[j].x[k]);
            }
            e -= gravity * w[i].mass * w[j].mass / sqrt(d);
        }
    }
    return e;
}

static void fp_step(struct body *w, double dt)
{
    for (int i = 0; i < 5; i++) {
        for (int j = i + 1; j < 5; j++) {
            double dx = w[i].x[0] - w[j].x[0], dy = w[i].x[1] - w[j].x[1], dz = w[i].x[2] - w[j].x[2];
            double d = dx * dx + dy * dy + dz * dz;
            double m = gravity * dt / (d * sqrt(d));
            double mi = m * w[j].mass, mj = m * w[i].mass;
            w[i].v[0] -= dx * mi;
            w[i].v[1] -= dy * mi;
            w[i].v[2] -= dz * mi;
            w[j].v[0] += dx * mj;
            w[j].v[1] += dy * mj;
            w[j].v[2] += dz * mj;
        }
    }
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 3; k++) {
            w[i].x[k] += dt * w[i].v[k];
        }
    }
}

static uint64_t fp_mandelbrot(int size, int limit)
{
    uint64_t sum = 0;
    for (int py = 0; py < size; py++) {
        for (int px = 0; px < size; px++) {
            double cx = 3.0 * px / size - 2.25, cy = 2.5 * py / size - 1.25, x = 0, y = 0;
            int n = 0;
            for (; n < limit && x * x + y * y <= 4; n++) {
                double t = x * x - y * y + cx;
                y = 2 * x * y + cy;
                x = t;
            }
            sum = bench_fold(sum, (uint64_t)n);
        }
    }
    return sum;
}

static uint64_t fp_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Five bodies and the Mandelbrot set, in doubles. */
bool row_fp(struct bench *b, uint64_t *ret_sum)
{
    struct body w[5];
    memcpy(w, bodies, sizeof w);
    uint64_t sum = 0;
    double before = fp_energy(w);
    bench_begin(b);
    for (uint64_t i = 0; i < b->count; i++) {
        for (int step = 0; step < 10000; step++) {
            fp_step(w, 0.01);
        }
        sum = bench_fold(sum, fp_mandelbrot(64, 100));
    }
    bench_end(b);
    double after = fp_energy(w);
    *ret_sum = bench_fold(sum, fp_bits(after));
    return fabs(after - before) < fabs(before) * 1e-4 || bench_fail(b, "the energy went from %g to %g", before, after);
}

enum { MATRIX = 96 };
typedef float matrix[MATRIX][MATRIX];
typedef void product_fn(const float (*a)[MATRIX], const float (*m)[MATRIX], float (*ret)[MATRIX]);
typedef uint64_t set_fn(int size, int limit);

__attribute__((target("sse2"))) static void sse2_product(const float (*a)[MATRIX], const float (*m)[MATRIX],
                                                         float (*ret)[MATRIX])
{
    for (int i = 0; i < MATRIX; i += 2) {
        for (int j = 0; j < MATRIX; j += 8) {
            __m128 s[2][2] = { { _mm_setzero_ps(), _mm_setzero_ps() }, { _mm_setzero_ps(), _mm_setzero_ps() } };
            for (int k = 0; k < MATRIX; k++) {
                __m128 u = _mm_loadu_ps(&m[k][j]), v = _mm_loadu_ps(&m[k][j + 4]);
                __m128 x = _mm_set1_ps(a[i][k]), y = _mm_set1_ps(a[i + 1][k]);
                s[0][0] = _mm_add_ps(s[0][0], _mm_mul_ps(x, u));
                s[0][1] = _mm_add_ps(s[0][1], _mm_mul_ps(x, v));
                s[1][0] = _mm_add_ps(s[1][0], _mm_mul_ps(y, u));
                s[1][1] = _mm_add_ps(s[1][1], _mm_mul_ps(y, v));
            }
            for (int r = 0; r < 2; r++) {
                _mm_storeu_ps(&ret[i + r][j], s[r][0]);
                _mm_storeu_ps(&ret[i + r][j + 4], s[r][1]);
            }
        }
    }
}

__attribute__((target("sse2"))) static uint64_t sse2_mandelbrot(int size, int limit)
{
    const __m128d two = _mm_set1_pd(2), four = _mm_set1_pd(4);
    uint64_t sum = 0;
    for (int py = 0; py < size; py++) {
        __m128d cy = _mm_set1_pd(2.5 * py / size - 1.25);
        for (int px = 0; px < size; px += 2) {
            __m128d cx = _mm_set_pd(3.0 * (px + 1) / size - 2.25, 3.0 * px / size - 2.25), x = _mm_setzero_pd(), y = x;
            __m128i count = _mm_setzero_si128();
            for (int n = 0; n < limit; n++) {
                __m128d xx = _mm_mul_pd(x, x), yy = _mm_mul_pd(y, y), inside = _mm_cmple_pd(_mm_add_pd(xx, yy), four);
                if (!_mm_movemask_pd(inside)) {
                    break;
                }
                count = _mm_sub_epi64(count, _mm_castpd_si128(inside));
                y = _mm_add_pd(_mm_mul_pd(two, _mm_mul_pd(x, y)), cy);
                x = _mm_add_pd(_mm_sub_pd(xx, yy), cx);
            }
            uint64_t lanes[2];
            _mm_storeu_si128((__m128i *)lanes, count);
            sum = bench_fold(bench_fold(sum, lanes[0]), lanes[1]);
        }
    }
    return sum;
}

__attribute__((target("avx2,fma"))) static void avx2_product(const float (*a)[MATRIX], const float (*m)[MATRIX],
                                                             float (*ret)[MATRIX])
{
    for (int i = 0; i < MATRIX; i += 2) {
        for (int j = 0; j < MATRIX; j += 16) {
            __m256 s[2][2] = { { _mm256_setzero_ps(), _mm256_setzero_ps() },
                               { _mm256_setzero_ps(), _mm256_setzero_ps() } };
            for (int k = 0; k < MATRIX; k++) {
                __m256 u = _mm256_loadu_ps(&m[k][j]), v = _mm256_loadu_ps(&m[k][j + 8]);
                __m256 x = _mm256_broadcast_ss(&a[i][k]), y = _mm256_broadcast_ss(&a[i + 1][k]);
                s[0][0] = _mm256_fmadd_ps(x, u, s[0][0]);
                s[0][1] = _mm256_fmadd_ps(x, v, s[0][1]);
                s[1][0] = _mm256_fmadd_ps(y, u, s[1][0]);
                s[1][1] = _mm256_fmadd_ps(y, v, s[1][1]);
            }
            for (int r = 0; r < 2; r++) {
                _mm256_storeu_ps(&ret[i + r][j], s[r][0]);
                _mm256_storeu_ps(&ret[i + r][j + 8], s[r][1]);
            }
        }
    }
}

__attribute__((target("avx2"))) static uint64_t avx2_mandelbrot(int size, int limit)
{
    const __m256d two = _mm256_set1_pd(2), four = _mm256_set1_pd(4);
    uint64_t sum = 0;
    for (int py = 0; py < size; py++) {
        __m256d cy = _mm256_set1_pd(2.5 * py / size - 1.25);
        for (int px = 0; px < size; px += 4) {
            __m256d cx = _mm256_set_pd(3.0 * (px + 3) / size - 2.25, 3.0 * (px + 2) / size - 2.25,
                                       3.0 * (px + 1) / size - 2.25, 3.0 * px / size - 2.25),
                    x = _mm256_setzero_pd(), y = x;
            __m256i count = _mm256_setzero_si256();
            for (int n = 0; n < limit; n++) {
                __m256d xx = _mm256_mul_pd(x, x), yy = _mm256_mul_pd(y, y);
                __m256d inside = _mm256_cmp_pd(_mm256_add_pd(xx, yy), four, _CMP_LE_OQ);
                if (!_mm256_movemask_pd(inside)) {
                    break;
                }
                count = _mm256_sub_epi64(count, _mm256_castpd_si256(inside));
                y = _mm256_add_pd(_mm256_mul_pd(two, _mm256_mul_pd(x, y)), cy);
                x = _mm256_add_pd(_mm256_sub_pd(xx, yy), cx);
            }
            uint64_t lanes[4];
            _mm256_storeu_si256((__m256i *)lanes, count);
            for (int l = 0; l < 4; l++) {
                sum = bench_fold(sum, lanes[l]);
            }
        }
    }
    return sum;
}

/* A product of two matrices of floats and the Mandelbrot set in doubles. The set must be the scalar code's, point by
 * point. */
static bool float_vectors(struct bench *b, product_fn *product, set_fn *set, uint64_t *ret_sum)
{
    matrix *m = calloc(3, sizeof *m);
    if (!m) {
        return bench_fail_call(b, "calloc");
    }
    for (int i = 0; i < MATRIX; i++) {
        for (int j = 0; j < MATRIX; j++) {
            m[0][i][j] = (float)((i * 7 + j * 3) % 17 - 8) / 16;
            m[1][i][j] = (float)((i * 5 + j * 11) % 13 - 6) / 16;
        }
    }
    uint64_t points = 0;
    bench_begin(b);
    for (uint64_t n = 0; n < b->count; n++) {
        for (int i = 0; i < 20; i++) {
            product(m[0], m[1], m[2]);
            m[0][i % MATRIX][n % MATRIX] += m[2][i][n % MATRIX] / 65536;
        }
        points = set(128, 100);
    }
    bench_end(b);
    uint64_t sum = points;
    for (int i = 0; i < MATRIX; i++) {
        for (int j = 0; j < MATRIX; j++) {
            uint32_t bits;
            memcpy(&bits, &m[2][i][j], sizeof bits);
            sum = bench_fold(sum, bits);
        }
    }
    free(m);
    *ret_sum = sum;
    return points == fp_mandelbrot(128, 100) || bench_fail(b, "vectors and scalars see two different sets");
}

bool row_sse2(struct bench *b, uint64_t *ret_sum)
{
    return float_vectors(b, sse2_product, sse2_mandelbrot, ret_sum);
}

bool row_avx2(struct bench *b, uint64_t *ret_sum)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        return bench_fail(b, "this CPU has no AVX2 or no FMA");
    }
    return float_vectors(b, avx2_product, avx2_mandelbrot, ret_sum);
}
