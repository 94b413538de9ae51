/* kernels.h: the few inner loops that cost time, in plain C that compilers turn into vector code.
 *
 * kern_tile is a register block of 4 rows x 16 lanes: the compiler keeps the 64 sums in registers,
 * so every value loaded is used 4 or 16 times. Sums run in index order, whatever the threads do.
 */
#ifndef LLM_KERNELS_H
#define LLM_KERNELS_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "kern_exp needs additions in the order written: compile without -ffast-math"
#endif

#define KERN_ROWS 4
#define KERN_LANES 16

/* a * b + c, fused where that is one instruction */
static inline float kern_fma(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* c[i][lane] += sum over k of a[i][k * step] * b[k * 16 + lane], i < 4 */
static inline void kern_tile(const float *const a[KERN_ROWS], size_t step, const float *restrict b,
                             size_t n, float *restrict c)
{
    float c0[KERN_LANES] = {0}, c1[KERN_LANES] = {0}, c2[KERN_LANES] = {0}, c3[KERN_LANES] = {0};
    const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3];
    size_t k, at = 0;
    int j;
    for (k = 0; k < n; k++, at += step, b += KERN_LANES) {
        float w0 = a0[at], w1 = a1[at], w2 = a2[at], w3 = a3[at];
        float x[KERN_LANES];
        for (j = 0; j < KERN_LANES; j++) x[j] = b[j];
        for (j = 0; j < KERN_LANES; j++) c0[j] = kern_fma(w0, x[j], c0[j]);
        for (j = 0; j < KERN_LANES; j++) c1[j] = kern_fma(w1, x[j], c1[j]);
        for (j = 0; j < KERN_LANES; j++) c2[j] = kern_fma(w2, x[j], c2[j]);
        for (j = 0; j < KERN_LANES; j++) c3[j] = kern_fma(w3, x[j], c3[j]);
    }
    for (j = 0; j < KERN_LANES; j++) {
        c[j] += c0[j];
        c[KERN_LANES + j] += c1[j];
        c[2 * KERN_LANES + j] += c2[j];
        c[3 * KERN_LANES + j] += c3[j];
    }
}

/* Sum of a[i] * b[i]. Left to themselves compilers keep the partial sums in memory here, so where
 * there are GNU vectors those say what is meant. */
static inline float kern_dot(const float *a, const float *b, size_t n)
{
    float sum = 0.0f;
    size_t i = 0;
#ifdef __GNUC__
    typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
    v8 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (; i + 32 <= n; i += 32) {
        const v8 *x = (const v8 *)(a + i), *y = (const v8 *)(b + i);
        s0 += x[0] * y[0];
        s1 += x[1] * y[1];
        s2 += x[2] * y[2];
        s3 += x[3] * y[3];
    }
    s0 = (s0 + s1) + (s2 + s3);
    sum = ((s0[0] + s0[4]) + (s0[2] + s0[6])) + ((s0[1] + s0[5]) + (s0[3] + s0[7]));
#endif
    for (; i < n; i++) sum = kern_fma(a[i], b[i], sum);
    return sum;
}

/* exp(x) with a relative error below 2e-7; 0 below -87, 2^127 above 88; NaN stays NaN. 2^n times
 * the Taylor series of degree 7 on |r| <= ln(2) / 2, and masks for branches, so that loops become
 * vector code. */
static inline float kern_exp(float x)
{
    const float magic = 12582912.0f;            /* 1.5 * 2^23: the sum's low bits are the integer */
    float t = x * 1.44269504f + magic, n = t - magic, r, p, scale;
    uint32_t bits, low = 0u - (uint32_t)(x < -87.0f), high = 0u - (uint32_t)(x > 88.0f);
    r = x - n * 0.693145752f;                   /* ln 2 in two parts */
    r = r - n * 1.42860677e-6f;
    p = 1.98412698e-4f;
    p = kern_fma(p, r, 1.38888889e-3f);
    p = kern_fma(p, r, 8.33333333e-3f);
    p = kern_fma(p, r, 4.16666667e-2f);
    p = kern_fma(p, r, 0.166666667f);
    p = kern_fma(p, r, 0.5f);
    p = kern_fma(p, r, 1.0f);
    p = kern_fma(p, r, 1.0f);
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127u) << 23;
    memcpy(&scale, &bits, sizeof scale);
    p *= scale;
    memcpy(&bits, &p, sizeof bits);
    bits = (bits & ~low & ~high) | (high & 0x7f000000u);
    memcpy(&p, &bits, sizeof p);
    return p;
}
#endif
