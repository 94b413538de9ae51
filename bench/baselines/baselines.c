/* baselines.c: see baselines.h and parts.h. The list of families, and what they share. */
#include "parts.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int baseline_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    static int (*const families[])(llm_codec *, const char *, const baseline_env *, char *) = {
        baseline_rtn_open, baseline_kvarn_open, baseline_lowrank_open, baseline_svdq_open,
        baseline_spectralquant_open
    };
    size_t i;
    memset(out, 0, sizeof *out);
    for (i = 0; i < sizeof families / sizeof families[0]; i++) {
        int r = families[i](out, name, env, err);
        if (r != 1) return r;
    }
    return 1;
}

int baseline_refuse(char *err, const char *name, const char *what)
{
    snprintf(err, GGUF_ERR_BYTES, "mode %.60s: %s", name, what);
    return -1;
}

int baseline_whole(const char *s, int least, int most, int *out)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (*s < '0' || *s > '9' || *end || v < least || v > most) return -1;
    *out = (int)v;
    return 0;
}

float baseline_half(float x)
{
    float a = fabsf(x), step;
    int e;
    if (!(a < 65504.0f)) a = 65504.0f;
    (void)frexpf(a, &e);                        /* 2^(e-1) <= a < 2^e: eleven bits from there */
    step = ldexpf(1.0f, e < -13 ? -24 : e - 11);
    a = nearbyintf(a / step) * step;
    return x < 0 ? -a : a;
}

void baseline_half_rows(float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) x[i] = baseline_half(x[i]);
}

int baseline_power_of_two(int n) { return n & -n; }

void baseline_hadamard(float *x, int n)
{
    float scale = 1.0f / sqrtf((float)n);
    int half, i, j;
    for (half = 1; half < n; half *= 2)
        for (i = 0; i < n; i += 2 * half)
            for (j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
    for (i = 0; i < n; i++) x[i] *= scale;
}

void baseline_hadamard_blocks(float *x, size_t n, int block)
{
    size_t i;
    for (i = 0; i + (size_t)block <= n; i += (size_t)block) baseline_hadamard(x + i, block);
}

double baseline_asymmetric(float *x, int n, size_t stride, int bits)
{
    float lo = x[0], hi = x[0], step, top = (float)((1 << bits) - 1);
    int i;
    for (i = 1; i < n; i++) {
        float v = x[(size_t)i * stride];
        if (v < lo) lo = v;
        if (v > hi) hi = v;
    }
    lo = baseline_half(lo);
    step = baseline_half((hi - lo) / top);
    for (i = 0; i < n; i++) {
        float *v = x + (size_t)i * stride, q = step > 0 ? nearbyintf((*v - lo) / step) : 0;
        *v = lo + step * (q < 0 ? 0 : q > top ? top : q);
    }
    return (double)n * bits + 32;
}

void baseline_rope(const llm_config *c, int layer, int heads, int first, int n, int turn,
                   float *rows)
{
    int d = c->head_dim, half = d / 2, adjacent = !strcmp(c->arch, "llama"), t, h, i;
    double base = llm_layer_window(c, layer) > 0 ? c->rope_base_local : c->rope_base;
    for (i = 0; i < half; i++) {
        double freq = pow(base, -2.0 * i / d);
        for (t = 0; t < n; t++) {
            double angle = (double)(first + t) * freq;
            float cs = (float)cos(angle), sn = (float)(turn * sin(angle));
            for (h = 0; h < heads; h++) {
                float *row = rows + (size_t)(t * heads + h) * (size_t)d;
                float *a = row + (adjacent ? 2 * i : i), *b = a + (adjacent ? 1 : half);
                float u = *a, v = *b;
                *a = u * cs - v * sn;
                *b = u * sn + v * cs;
            }
        }
    }
}
