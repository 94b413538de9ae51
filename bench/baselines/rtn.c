/* rtn.c: round-to-nearest formats without calibration.
 *
 *   q8_0, q4_0   ggml's blocks of 32 along the row of all heads; 8.5 and 4.5 bits
 *   q4_0h        q4_0 of rows times a Hadamard matrix, as llama.cpp does since 2026 (#21038): K in
 *                blocks of the largest power of two that divides a head, V in blocks of 64. Queries
 *                are rotated as well there, which cancels; here the rows are rotated back.
 *   kivi:B       KIVI (2402.02750): keys per channel in groups of 32 tokens, values per token in
 *                groups of 32 channels, asymmetric, f16 zero and step; B + 1 bits
 */
#include "parts.h"
#include "quants.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct rtn {
    llm_config c;
    int bits, kivi, rotate;
} rtn;

static void put_half(unsigned char *p, float x)     /* x is an f16 value already */
{
    float a = fabsf(x);
    unsigned h = x < 0 ? 0x8000u : 0;
    int e;
    if (a > 0) {
        (void)frexpf(a, &e);
        if (e < -13) e = -13;
        h |= (unsigned)ldexpf(a, 11 - e) + ((unsigned)(e + 13) << 10);
    }
    p[0] = (unsigned char)(h & 255u);
    p[1] = (unsigned char)(h >> 8);
}

/* d = max |x| / 127; q = round(x / d) with d before it becomes f16. */
void baseline_q8_0(const float *x, unsigned char block[34])
{
    float most = 0, d, id;
    int i;
    for (i = 0; i < BASELINE_BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
    d = most / 127.0f;
    id = d > 0 ? 1.0f / d : 0;
    put_half(block, baseline_half(d));
    for (i = 0; i < BASELINE_BLOCK; i++) {
        float q = roundf(x[i] * id);
        block[2 + i] = (unsigned char)((int)fminf(fmaxf(q, -127.0f), 127.0f) & 255);
    }
}

/* d = m / -8 with m the element of largest size; q = floor(x / d + 8.5), at most 15. */
void baseline_q4_0(const float *x, unsigned char block[18])
{
    float most = 0, m = 0, d, id;
    int i, q[BASELINE_BLOCK];
    for (i = 0; i < BASELINE_BLOCK; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            m = x[i];
        }
    d = m / -8.0f;
    id = most > 0 ? 1.0f / d : 0;
    put_half(block, baseline_half(d));
    for (i = 0; i < BASELINE_BLOCK; i++) {
        q[i] = (int)(x[i] * id + 8.5f);
        if (q[i] > 15) q[i] = 15;
    }
    for (i = 0; i < BASELINE_BLOCK / 2; i++)
        block[2 + i] = (unsigned char)(q[i] | q[i + BASELINE_BLOCK / 2] << 4);
}

double baseline_kivi(float *rows, int n, int heads, int d, int kind, int bits)
{
    size_t width = (size_t)heads * (size_t)d, i;
    double sum = 0;
    int t, at, len;
    if (kind == 0) {
        for (t = 0; t < n; t += len) {
            len = n - t < BASELINE_BLOCK ? n - t : BASELINE_BLOCK;
            for (i = 0; i < width; i++)
                sum += baseline_asymmetric(rows + (size_t)t * width + i, len, width, bits);
        }
        return sum;
    }
    for (i = 0; i < (size_t)n * (size_t)heads; i++)
        for (at = 0; at < d; at += len) {
            len = d - at < BASELINE_BLOCK ? d - at : BASELINE_BLOCK;
            sum += baseline_asymmetric(rows + i * (size_t)d + at, len, 1, bits);
        }
    return sum;
}

static int rtn_code(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    const rtn *r = self;
    int d = r->c.head_dim, rotation = baseline_power_of_two(d);
    size_t total = (size_t)n * (size_t)r->c.n_kv_heads * (size_t)d, i;
    unsigned char block[34];
    (void)layer;
    (void)first;
    if (r->kivi) {
        *bits += baseline_kivi(rows, n, r->c.n_kv_heads, d, kind, r->bits);
        return 0;
    }
    if (kind && rotation > 64) rotation = 64;
    if (r->rotate) baseline_hadamard_blocks(rows, total, rotation);
    for (i = 0; i < total; i += BASELINE_BLOCK) {
        if (r->bits == 8) baseline_q8_0(rows + i, block);
        else baseline_q4_0(rows + i, block);
        quant_expand(r->bits == 8 ? GGUF_T_Q8_0 : GGUF_T_Q4_0, block, BASELINE_BLOCK, rows + i);
    }
    if (r->rotate) baseline_hadamard_blocks(rows, total, rotation);
    *bits += (double)total * r->bits + (double)(total / BASELINE_BLOCK) * 16;
    return 0;
}

int baseline_rtn_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    rtn r, *self;
    memset(&r, 0, sizeof r);
    r.c = *env->c;
    if (!strncmp(name, "kivi:", 5)) {
        r.kivi = 1;
        if (baseline_whole(name + 5, 1, 8, &r.bits))
            return baseline_refuse(err, name, "give the bits, 1 to 8, such as kivi:4");
    } else if (!strcmp(name, "q8_0")) {
        r.bits = 8;
    } else if (!strcmp(name, "q4_0") || !strcmp(name, "q4_0h")) {
        r.bits = 4;
        r.rotate = name[4] == 'h';
    } else {
        return 1;
    }
    if (!r.kivi && r.c.n_kv_heads * r.c.head_dim % BASELINE_BLOCK)
        return baseline_refuse(err, name, "rows of this model are no multiple of 32 elements");
    self = malloc(sizeof *self);
    if (!self) return baseline_refuse(err, name, "out of memory");
    *self = r;
    out->self = self;
    out->code = rtn_code;
    out->free = free;
    return 0;
}
