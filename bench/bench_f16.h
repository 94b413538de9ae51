/* bench_f16.h: attention of one query token over an uncompressed f16 cache, as a bar to measure
 * against. Flash decode (online softmax); the query heads of a KV head share every read. A page is
 * 64 tokens, K channel-major [head_dim][64], V token-major [64][head_dim]; head_dim a multiple of
 * 64. Both halves of attention are then one tile: 64 sums over rows of f16 columns, for up to 4
 * heads in registers at a time. Portable C, AVX2 with FMA and F16C, and AVX-512, at run time.
 */
#ifndef BENCH_F16_H
#define BENCH_F16_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__)
#define F16_X86 1
#include <immintrin.h>
#if defined(__clang__)
#define F16_UNROLL _Pragma("clang loop unroll(full)")
#else
#define F16_UNROLL _Pragma("GCC unroll 8")
#endif
#define F16_AVX2   __attribute__((target("avx2,fma,f16c")))
#define F16_AVX512 __attribute__((target("avx512f,avx512dq,avx2,fma,f16c")))
#endif

enum { F16_PAGE = 64, F16_HEADS = 4, F16_MAX_GROUP = 16 };

/* 64 columns: sum[h][j] += sum over i < n of w[h][i] x[i][j]. The tile that will be wanted next
   lies `ahead` elements further on. */
typedef struct f16_tile {
    const uint16_t *x;
    size_t          stride, n, ahead;   /* of x's rows; rows; 0 = nothing to fetch */
    const float    *w;
    float          *sum;
    size_t          w_stride, sum_stride, heads;
} f16_tile;

typedef struct f16_kernel {
    const char *isa;
    void      (*tile)(const f16_tile *t);
    /* 64 scores (base 2) of a page become exp2(score - max); *max, *sum and out [d] follow. */
    void      (*weigh)(float *score, float *max, float *sum, float *out, size_t d);
    uint64_t  (*read)(const void *p, size_t bytes);     /* reads all of it, bytes % 256 == 0 */
} f16_kernel;

/* ---- numbers ---- */

static inline float f16_float(uint16_t h)           /* finite h only */
{
    uint32_t u = (uint32_t)(h & 0x7FFF) << 13;
    float x;
    memcpy(&x, &u, 4);
    x *= 0x1p112f;                                  /* the exponents' offsets: 127 - 15 */
    return h & 0x8000 ? -x : x;
}

static inline uint16_t f16_round(float x)           /* to nearest, even; |x| below 65504 */
{
    uint32_t u, sign;
    float y = fabsf(x) + 0.5f;                      /* its last place is f16's smallest step */
    memcpy(&u, &x, 4);
    sign = u >> 16 & 0x8000;
    u &= 0x7FFFFFFF;
    if (u >= 0x38800000)                            /* exponents: 112 less, in bit 10 and on */
        return (uint16_t)(sign | (((u + 0xFFF + (u >> 13 & 1)) >> 13) - 0x1C000));
    memcpy(&u, &y, 4);                              /* below 2^-14: subnormal */
    return (uint16_t)(sign | (u - 0x3F000000));
}

/* ---- portable ---- */

static void f16_tile_c(const f16_tile *t)
{
    float row[F16_PAGE];
    size_t h, i, j;
    for (i = 0; i < t->n; i++) {
        for (j = 0; j < F16_PAGE; j++) row[j] = f16_float(t->x[i * t->stride + j]);
        for (h = 0; h < t->heads; h++) {
            float w = t->w[h * t->w_stride + i], *sum = t->sum + h * t->sum_stride;
            for (j = 0; j < F16_PAGE; j++) sum[j] += w * row[j];
        }
    }
}

static void f16_weigh_c(float *score, float *max, float *sum, float *out, size_t d)
{
    float top = *max;
    size_t i;
    for (i = 0; i < F16_PAGE; i++)
        if (score[i] > top) top = score[i];
    if (top > *max) {
        float fade = exp2f(*max - top);
        *max = top;
        *sum *= fade;
        for (i = 0; i < d; i++) out[i] *= fade;
    }
    for (i = 0; i < F16_PAGE; i++) {
        score[i] = exp2f(score[i] - top);
        *sum += score[i];
    }
}

static uint64_t f16_read_c(const void *p, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)p, *end = at + bytes;
    uint64_t x[8], sum[8] = {0};
    int i;
    for (; at < end; at += 64) {
        memcpy(x, at, 64);
        for (i = 0; i < 8; i++) sum[i] += x[i];
    }
    for (i = 1; i < 8; i++) sum[0] += sum[i];
    return sum[0];
}

static const f16_kernel f16_c = {"c", f16_tile_c, f16_weigh_c, f16_read_c};

#ifdef F16_X86
/* ---- AVX2: 16 registers, so H heads by V vectors of 8 columns at a time ---- */

#define F16_BLOCK_AVX2(H, V) \
F16_AVX2 static void f16_avx2_##H(const f16_tile *t, size_t column) \
{ \
    const uint16_t *x = t->x + column; \
    const float *w = t->w; \
    float *sum = t->sum + column; \
    size_t i, h, j, ws = t->w_stride; \
    __m256 a[H][V], b[H]; \
    F16_UNROLL \
    for (h = 0; h < H; h++) { \
        F16_UNROLL \
        for (j = 0; j < V; j++) a[h][j] = _mm256_loadu_ps(sum + h * t->sum_stride + 8 * j); \
    } \
    for (i = 0; i < t->n; i++, x += t->stride) { \
        _mm_prefetch((const char *)(x + t->ahead), _MM_HINT_T0); \
        if (V > 4) _mm_prefetch((const char *)(x + t->ahead + 32), _MM_HINT_T0); \
        F16_UNROLL \
        for (h = 0; h < H; h++) b[h] = _mm256_broadcast_ss(w + h * ws + i); \
        F16_UNROLL \
        for (j = 0; j < V; j++) { \
            __m256 y = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + 8 * j))); \
            F16_UNROLL \
            for (h = 0; h < H; h++) a[h][j] = _mm256_fmadd_ps(y, b[h], a[h][j]); \
        } \
    } \
    F16_UNROLL \
    for (h = 0; h < H; h++) { \
        F16_UNROLL \
        for (j = 0; j < V; j++) _mm256_storeu_ps(sum + h * t->sum_stride + 8 * j, a[h][j]); \
    } \
}
F16_BLOCK_AVX2(1, 8)
F16_BLOCK_AVX2(2, 4)
F16_BLOCK_AVX2(3, 4)
F16_BLOCK_AVX2(4, 2)

F16_AVX2 static void f16_tile_avx2(const f16_tile *t)
{
    size_t c;
    if (t->heads == 1) f16_avx2_1(t, 0);
    else if (t->heads == 4) for (c = 0; c < F16_PAGE; c += 16) f16_avx2_4(t, c);
    else if (t->heads == 3) for (c = 0; c < F16_PAGE; c += 32) f16_avx2_3(t, c);
    else for (c = 0; c < F16_PAGE; c += 32) f16_avx2_2(t, c);
}

/* 2^x for x <= 0: Taylor to the fifth power around whole numbers, relative error 3e-6. */
F16_AVX2 static inline __m256 f16_exp2_avx2(__m256 x)
{
    static const float c[5] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 0.24022651f,
                               0.69314718f};
    __m256 n, f, p = _mm256_set1_ps(c[0]);
    size_t i;
    x = _mm256_max_ps(x, _mm256_set1_ps(-126));
    n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    f = _mm256_sub_ps(x, n);
    F16_UNROLL
    for (i = 1; i < 5; i++) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(c[i]));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p),
                                                _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

F16_AVX2 static void f16_weigh_avx2(float *score, float *max, float *sum, float *out, size_t d)
{
    __m256 top = _mm256_loadu_ps(score), s = _mm256_setzero_ps();
    float x[8], highest = *max;
    size_t i;
    for (i = 8; i < F16_PAGE; i += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(score + i));
    _mm256_storeu_ps(x, top);
    for (i = 0; i < 8; i++)
        if (x[i] > highest) highest = x[i];
    if (highest > *max) {
        float fade = exp2f(*max - highest);
        *max = highest;
        *sum *= fade;
        for (i = 0; i < d; i += 8)
            _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(out + i),
                                                    _mm256_set1_ps(fade)));
    }
    for (i = 0; i < F16_PAGE; i += 8) {
        __m256 y = _mm256_sub_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(highest));
        y = f16_exp2_avx2(y);
        _mm256_storeu_ps(score + i, y);
        s = _mm256_add_ps(s, y);
    }
    _mm256_storeu_ps(x, s);
    *sum += ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

F16_AVX2 static uint64_t f16_read_avx2(const void *p, size_t bytes)
{
    const char *at = (const char *)p, *end = at + bytes;
    __m256i s[4];
    uint64_t x[4];
    size_t i;
    F16_UNROLL
    for (i = 0; i < 4; i++) s[i] = _mm256_setzero_si256();
    for (; at < end; at += 128) {
        F16_UNROLL
        for (i = 0; i < 4; i++)
            s[i] = _mm256_add_epi64(s[i], _mm256_loadu_si256((const __m256i *)(at + 32 * i)));
    }
    s[0] = _mm256_add_epi64(_mm256_add_epi64(s[0], s[1]), _mm256_add_epi64(s[2], s[3]));
    _mm256_storeu_si256((__m256i *)x, s[0]);
    return x[0] + x[1] + x[2] + x[3];
}

static const f16_kernel f16_avx2 = {"avx2", f16_tile_avx2, f16_weigh_avx2, f16_read_avx2};

/* ---- AVX-512: 32 registers hold 4 heads by 64 columns ---- */

#define F16_BLOCK_AVX512(H) \
F16_AVX512 static void f16_avx512_##H(const f16_tile *t) \
{ \
    const uint16_t *x = t->x; \
    const float *w = t->w; \
    size_t i, h, j, ws = t->w_stride, ss = t->sum_stride; \
    __m512 a[H][4], y[4]; \
    F16_UNROLL \
    for (h = 0; h < H; h++) { \
        F16_UNROLL \
        for (j = 0; j < 4; j++) a[h][j] = _mm512_loadu_ps(t->sum + h * ss + 16 * j); \
    } \
    for (i = 0; i < t->n; i++, x += t->stride) { \
        _mm_prefetch((const char *)(x + t->ahead), _MM_HINT_T0); \
        _mm_prefetch((const char *)(x + t->ahead + 32), _MM_HINT_T0); \
        F16_UNROLL \
        for (j = 0; j < 4; j++) \
            y[j] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + 16 * j))); \
        F16_UNROLL \
        for (h = 0; h < H; h++) { \
            __m512 b = _mm512_set1_ps(w[h * ws + i]); \
            F16_UNROLL \
            for (j = 0; j < 4; j++) a[h][j] = _mm512_fmadd_ps(y[j], b, a[h][j]); \
        } \
    } \
    F16_UNROLL \
    for (h = 0; h < H; h++) { \
        F16_UNROLL \
        for (j = 0; j < 4; j++) _mm512_storeu_ps(t->sum + h * ss + 16 * j, a[h][j]); \
    } \
}
F16_BLOCK_AVX512(1)
F16_BLOCK_AVX512(2)
F16_BLOCK_AVX512(3)
F16_BLOCK_AVX512(4)

F16_AVX512 static void f16_tile_avx512(const f16_tile *t)
{
    if (t->heads == 1) f16_avx512_1(t);
    else if (t->heads == 2) f16_avx512_2(t);
    else if (t->heads == 3) f16_avx512_3(t);
    else f16_avx512_4(t);
}

F16_AVX512 static void f16_weigh_avx512(float *score, float *max, float *sum, float *out, size_t d)
{
    static const float c[5] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 0.24022651f,
                               0.69314718f};
    __m512 top = _mm512_loadu_ps(score), s = _mm512_setzero_ps();
    float highest;
    size_t i, j;
    for (i = 16; i < F16_PAGE; i += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(score + i));
    highest = _mm512_reduce_max_ps(top);
    if (highest > *max) {
        float fade = exp2f(*max - highest);
        *max = highest;
        *sum *= fade;
        for (i = 0; i < d; i += 16)
            _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(out + i),
                                                    _mm512_set1_ps(fade)));
    }
    for (i = 0; i < F16_PAGE; i += 16) {
        __m512 x = _mm512_sub_ps(_mm512_loadu_ps(score + i), _mm512_set1_ps(*max));
        __m512 n = _mm512_roundscale_ps(x, 8), f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(c[0]);
        F16_UNROLL
        for (j = 1; j < 5; j++) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c[j]));
        p = _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1)), n);
        _mm512_storeu_ps(score + i, p);
        s = _mm512_add_ps(s, p);
    }
    *sum += _mm512_reduce_add_ps(s);
}

F16_AVX512 static uint64_t f16_read_avx512(const void *p, size_t bytes)
{
    const char *at = (const char *)p, *end = at + bytes;
    __m512i s[4];
    size_t i;
    F16_UNROLL
    for (i = 0; i < 4; i++) s[i] = _mm512_setzero_si512();
    for (; at < end; at += 256) {
        F16_UNROLL
        for (i = 0; i < 4; i++)
            s[i] = _mm512_add_epi64(s[i], _mm512_loadu_si512(at + 64 * i));
    }
    s[0] = _mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3]));
    return (uint64_t)_mm512_reduce_add_epi64(s[0]);
}

static const f16_kernel f16_avx512 = {"avx512", f16_tile_avx512, f16_weigh_avx512,
                                      f16_read_avx512};
#endif

/* The best that the processor has, or the one asked for by name; NULL: it has no such. */
static const f16_kernel *f16_pick(const char *isa)
{
#ifdef F16_X86
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  /* then F16C too */
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    if (avx512 && (!isa || !strcmp(isa, "avx512"))) return &f16_avx512;
    if (avx2 && (!isa || !strcmp(isa, "avx2"))) return &f16_avx2;
#endif
    return !isa || !strcmp(isa, "c") ? &f16_c : NULL;
}

/* One KV head: q [heads][d] times scale log2(e), at most 16 heads; out [heads][d]. */
static void f16_attend(const f16_kernel *f, const uint16_t *k, const uint16_t *v, size_t pages,
                       size_t heads, size_t d, const float *q, float *out)
{
    float score[F16_HEADS * F16_PAGE], max[F16_MAX_GROUP], sum[F16_MAX_GROUP];
    size_t p, h, i, c, n;
    for (h = 0; h < heads; h++) {
        max[h] = -1e30f;
        sum[h] = 0;
    }
    memset(out, 0, heads * d * sizeof *out);
    for (p = 0; p < pages; p++, k += F16_PAGE * d, v += F16_PAGE * d)
        for (h = 0; h < heads; h += n) {
            size_t blocks = (heads - h + F16_HEADS - 1) / F16_HEADS;
            size_t ahead = h || p + 1 == pages ? 0 : F16_PAGE * d;
            f16_tile t = {NULL, 0, 0, 0, NULL, NULL, 0, 0, 0};
            t.ahead = ahead;
            t.heads = n = (heads - h + blocks - 1) / blocks;
            t.x = k, t.stride = F16_PAGE, t.n = d;
            t.w = q + h * d, t.w_stride = d;
            t.sum = score, t.sum_stride = F16_PAGE;
            memset(score, 0, sizeof score);
            f->tile(&t);
            for (i = 0; i < n; i++)
                f->weigh(score + i * F16_PAGE, &max[h + i], &sum[h + i], out + (h + i) * d, d);
            t.stride = d, t.n = F16_PAGE;
            t.w = score, t.w_stride = F16_PAGE;
            t.sum_stride = d;
            for (c = 0; c < d; c += F16_PAGE) {
                t.x = v + c, t.sum = out + h * d + c;
                f->tile(&t);
            }
        }
    for (h = 0; h < heads; h++)
        for (c = 0; c < d; c++) out[h * d + c] /= sum[h];
}

#endif
