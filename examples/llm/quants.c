/* quants.c: see quants.h. Block layouts are those of ggml (ggml-common.h), all little endian:
 *
 *   type  elements  bytes  value of an element
 *   Q8_0     32       34   f16 d, i8 q[32]                           d q
 *   Q4_0     32       18   f16 d, 16 bytes of nibbles                d (q - 8)
 *   Q4_1     32       20   f16 d, f16 m, nibbles                     d q + m
 *   Q5_0     32       22   f16 d, 32 high bits, nibbles              d (q - 16)
 *   Q5_1     32       24   f16 d, f16 m, 32 high bits, nibbles       d q + m
 *   Q4_K    256      144   f16 d, f16 m, 12 bytes s, nibbles         d s q - m s'
 *   Q5_K    256      176   the same with 32 bytes of high bits       d s q - m s'
 *   Q6_K    256      210   low nibbles, high bits, i8 s[16], f16 d   d s (q - 32)
 */
#include "quants.h"
#include "kernels.h"
#ifdef __F16C__
#include <immintrin.h>
#endif

#define SEGMENT 256                 /* columns expanded at a time: the longest block */
#define TILE_ROWS 32                /* rows of W that one task expands; its buffers stay in L2 */
#define WORTH_THREADS 65536         /* values touched from which waking threads pays */
#define DOT_TOKENS 3                /* up to here dot products beat lanes of 16 tokens */

typedef unsigned char byte;

size_t quant_block_len(int type)
{
    switch (type) {
    case GGUF_T_F32: case GGUF_T_F16: case GGUF_T_BF16: return 1;
    case GGUF_T_Q4_0: case GGUF_T_Q4_1: case GGUF_T_Q5_0: case GGUF_T_Q5_1: case GGUF_T_Q8_0:
        return 32;
    case GGUF_T_Q4_K: case GGUF_T_Q5_K: case GGUF_T_Q6_K: return 256;
    default: return 0;
    }
}

size_t quant_block_bytes(int type)
{
    switch (type) {
    case GGUF_T_F32:  return 4;
    case GGUF_T_F16:  return 2;
    case GGUF_T_BF16: return 2;
    case GGUF_T_Q4_0: return 18;
    case GGUF_T_Q4_1: return 20;
    case GGUF_T_Q5_0: return 22;
    case GGUF_T_Q5_1: return 24;
    case GGUF_T_Q8_0: return 34;
    case GGUF_T_Q4_K: return 144;
    case GGUF_T_Q5_K: return 176;
    case GGUF_T_Q6_K: return 210;
    default: return 0;
    }
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t load16(const byte *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint16_t h;                     /* the form that compilers turn into vector loads */
    memcpy(&h, p, sizeof h);
    return h;
#else
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
#endif
}

/* float16: moved up 13 bits, exponent and fraction are a float32 that is 2^112 too small, also when
 * subnormal (if the processor does not flush those). Infinity and NaN: an exponent of ones. */
static inline float half_formula(const byte *p)
{
    uint32_t h = load16(p), rest = h & 0x7fffu, bits;
    float f = from_bits(rest << 13) * 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    bits |= (0u - (uint32_t)(rest >= 0x7c00u)) & 0x7f800000u;
    return from_bits(bits | (h & 0x8000u) << 16);
}

/* The same for single scales, where one instruction halves the time of a whole block */
static inline float half(const byte *p)
{
#ifdef __F16C__
    return _cvtsh_ss((unsigned short)load16(p));
#else
    return half_formula(p);
#endif
}

static void expand_f32(const byte *restrict b, size_t n, float *restrict out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = from_bits(load16(b + 4 * i) | load16(b + 4 * i + 2) << 16);
}

static void expand_f16(const byte *restrict b, size_t n, float *restrict out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = half_formula(b + 2 * i);
}

static void expand_bf16(const byte *restrict b, size_t n, float *restrict out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = from_bits(load16(b + 2 * i) << 16);
}

static void expand_q8_0(const byte *restrict b, size_t n, float *restrict out)
{
    size_t i, j;
    for (i = 0; i < n; i += 32, b += 34, out += 32) {
        const signed char *q = (const signed char *)b + 2;
        float d = half(b);
        for (j = 0; j < 32; j++) out[j] = d * (float)q[j];
    }
}

/* Low nibbles of n bytes, then their high nibbles, each as a byte; n a multiple of 8. Bytes stay in
 * order within a word, whatever the machine's byte order. */
static void split_nibbles(const byte *restrict q, size_t n, byte *restrict out)
{
    size_t i;
    for (i = 0; i < n; i += 8) {
        uint64_t w, low, high;
        memcpy(&w, q + i, sizeof w);
        low = w & 0x0f0f0f0f0f0f0f0fu;
        high = w >> 4 & 0x0f0f0f0f0f0f0f0fu;
        memcpy(out + i, &low, sizeof low);
        memcpy(out + n + i, &high, sizeof high);
    }
}

/* u[i] |= (h[i] >> shift & mask) << 4 for n bytes, n a multiple of 8; mask: the same 8 times */
static void add_high_bits(const byte *restrict h, size_t n, int shift, uint64_t mask,
                          byte *restrict u)
{
    size_t i;
    for (i = 0; i < n; i += 8) {
        uint64_t w, v;
        memcpy(&w, h + i, sizeof w);
        memcpy(&v, u + i, sizeof v);
        v |= (w >> shift & mask) << 4;
        memcpy(u + i, &v, sizeof v);
    }
}

static void to_floats(const byte *restrict u, size_t n, float *restrict out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = (float)u[i];
}

/* Q4_0 and Q4_1: elements 0..15 in the low nibbles, 16..31 in the high ones. All bytes of a segment
 * are written before the first is read: a load across fresh narrower stores would wait for them. */
static void expand_q4(const byte *restrict b, size_t n, float *restrict out, int with_min)
{
    const size_t head = with_min ? 4 : 2, block = head + 16;
    size_t i, j, len;
    byte u[SEGMENT];
    for (; n > 0; n -= len) {
        len = n < SEGMENT ? n : SEGMENT;
        for (i = 0; i < len; i += 32) split_nibbles(b + i / 32 * block + head, 16, u + i);
        to_floats(u, len, out);
        for (i = 0; i < len; i += 32, b += block, out += 32) {
            float d = half(b), m = with_min ? half(b + 2) : 0.0f;
            if (with_min)
                for (j = 0; j < 32; j++) out[j] = d * out[j] + m;
            else
                for (j = 0; j < 32; j++) out[j] = d * (out[j] - 8.0f);
        }
    }
}

/* Q5_0 and Q5_1: the nibbles as above, and bit j of a 32-bit word as bit 4 of element j */
static void expand_q5(const byte *restrict b, size_t n, float *restrict out, int with_min)
{
    const size_t head = with_min ? 4 : 2, block = head + 20;
    size_t i, j, len;
    byte u[SEGMENT];
    for (; n > 0; n -= len) {
        len = n < SEGMENT ? n : SEGMENT;
        for (i = 0; i < len; i += 32) split_nibbles(b + i / 32 * block + head + 4, 16, u + i);
        for (i = 0; i < len; i += 32, b += block, out += 32) {
            float d = half(b), m = with_min ? half(b + 2) : 0.0f;
            uint32_t high = load16(b + head) | load16(b + head + 2) << 16;
            if (with_min)
                for (j = 0; j < 32; j++)
                    out[j] = d * (float)(int)(u[i + j] | (high >> j & 1u) << 4) + m;
            else
                for (j = 0; j < 32; j++)
                    out[j] = d * (float)((int)(u[i + j] | (high >> j & 1u) << 4) - 16);
        }
    }
}

/* 6-bit scale and minimum of sub-block j (of 8) in the 12 bytes of Q4_K and Q5_K */
static void k_scale(const byte *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
}

/* Q4_K and Q5_K: four groups of 32 bytes; low nibbles are 32 elements, high nibbles the next 32.
 * In Q5_K bit s of high byte j is bit 4 of element j of sub-block s. */
static void expand_k45(const byte *restrict b, size_t n, float *restrict out, int five)
{
    size_t i, j;
    int s, scale, min;
    byte u[256];
    for (i = 0; i < n; i += 256) {
        float d = half(b), dm = half(b + 2);
        const byte *h = b + 16, *q = five ? h + 32 : h;
        for (s = 0; s < 4; s++) split_nibbles(q + 32 * s, 32, u + 64 * s);
        for (s = 0; s < 8 && five; s++) add_high_bits(h, 32, s, 0x0101010101010101u, u + 32 * s);
        to_floats(u, 256, out);
        for (s = 0; s < 8; s++, out += 32) {
            float ds, ms;
            k_scale(b + 4, s, &scale, &min);
            ds = d * (float)scale;
            ms = dm * (float)min;
            for (j = 0; j < 32; j++) out[j] = ds * out[j] - ms;
        }
        b = q + 128;
    }
}

/* Q6_K: two halves of 128 elements. In each, 64 bytes hold the low nibbles (two passes: low, then
 * high nibbles), 32 bytes the four pairs of high bits; every 16 elements share a signed scale. */
static void expand_q6_k(const byte *restrict b, size_t n, float *restrict out)
{
    size_t i, j;
    int part;
    byte u[256];
    for (i = 0; i < n; i += 256, b += 210) {
        float d = half(b + 208);
        split_nibbles(b, 64, u);
        split_nibbles(b + 64, 64, u + 128);
        for (part = 0; part < 8; part++)
            add_high_bits(b + 128 + 32 * (part / 4), 32, 2 * (part & 3), 0x0303030303030303u,
                          u + 32 * part);
        to_floats(u, 256, out);
        for (part = 0; part < 8; part++, out += 32) {
            const signed char *s = (const signed char *)b + 192 + 2 * part;
            float d0 = d * (float)s[0], d1 = d * (float)s[1];
            for (j = 0; j < 32; j++) out[j] = (j < 16 ? d0 : d1) * (out[j] - 32.0f);
        }
    }
}

void quant_expand(gguf_dtype type, const void *blocks, size_t n, float *out)
{
    const byte *b = blocks;
    switch (type) {
    case GGUF_T_F32:  expand_f32(b, n, out); break;
    case GGUF_T_F16:  expand_f16(b, n, out); break;
    case GGUF_T_BF16: expand_bf16(b, n, out); break;
    case GGUF_T_Q8_0: expand_q8_0(b, n, out); break;
    case GGUF_T_Q4_0: expand_q4(b, n, out, 0); break;
    case GGUF_T_Q4_1: expand_q4(b, n, out, 1); break;
    case GGUF_T_Q5_0: expand_q5(b, n, out, 0); break;
    case GGUF_T_Q5_1: expand_q5(b, n, out, 1); break;
    case GGUF_T_Q4_K: expand_k45(b, n, out, 0); break;
    case GGUF_T_Q5_K: expand_k45(b, n, out, 1); break;
    case GGUF_T_Q6_K: expand_q6_k(b, n, out); break;
    }
}

static size_t panels(int n)
{
    return n <= DOT_TOKENS ? 0 : ((size_t)n + KERN_LANES - 1) / KERN_LANES;
}

size_t quant_pack_floats(int n, size_t cols) { return panels(n) * KERN_LANES * cols + KERN_LANES; }

/* Panels of 16 tokens, [cols][16]; missing tokens are zeros. Few tokens stay as they are. */
void quant_pack(quant_input *in, const float *x, int n, size_t cols, float *room)
{
    int p, n_panels = (int)panels(n);
    in->x = x;
    room += (0u - (uintptr_t)room / sizeof *room) % KERN_LANES;
    in->packed = room;
    in->n = n;
    in->cols = cols;
#ifdef _OPENMP
#pragma omp parallel for if (cols >= WORTH_THREADS / (size_t)n)
#endif
    for (p = 0; p < n_panels; p++) {
        float *to = room + (size_t)p * KERN_LANES * cols;
        int j, t = p * KERN_LANES, held = n - t < KERN_LANES ? n - t : KERN_LANES;
        size_t k;
        if (held < KERN_LANES) memset(to, 0, KERN_LANES * cols * sizeof *to);
        for (k = 0; k < cols; k++, to += KERN_LANES)
            for (j = 0; j < held; j++) to[j] = x[(size_t)(t + j) * cols + k];
    }
}

static const byte *segment_at(const gguf_tensor *w, size_t row, size_t col)
{
    return (const byte *)w->data + row * w->row_bytes +
           col / quant_block_len((int)w->type) * quant_block_bytes((int)w->type);
}

/* A few tokens: rows are expanded by segments and multiplied at once */
static void rows_by_dots(const quant_job *job, const quant_input *in, size_t row, size_t end)
{
    const gguf_tensor *w = job->w;
    float buf[SEGMENT];
    for (; row < end; row++) {
        float sum[DOT_TOKENS] = {0};
        size_t k, t, n = (size_t)in->n;
        for (k = 0; k < in->cols; k += SEGMENT) {
            size_t len = in->cols - k < SEGMENT ? in->cols - k : SEGMENT;
            quant_expand(w->type, segment_at(w, row, k), len, buf);
            for (t = 0; t < n; t++) sum[t] += kern_dot(buf, in->x + t * in->cols + k, len);
        }
        for (t = 0; t < n; t++)
            job->y[t * (size_t)w->ne[1] + row] = sum[t] + (job->bias ? job->bias[row] : 0.0f);
    }
}

/* Many tokens: a tile of expanded rows meets every panel before the next segment is expanded */
static void rows_by_panels(const quant_job *job, const quant_input *in, size_t row, size_t end)
{
    const gguf_tensor *w = job->w;
    float tile[TILE_ROWS][SEGMENT], sum[QUANT_MAX_TOKENS * TILE_ROWS];      /* [panel][row][lane] */
    size_t k, r, p, t, n_panels = panels(in->n), held = end - row, panel = TILE_ROWS * KERN_LANES;
    memset(sum, 0, n_panels * panel * sizeof *sum);
    for (k = 0; k < in->cols; k += SEGMENT) {
        size_t len = in->cols - k < SEGMENT ? in->cols - k : SEGMENT;
        for (r = 0; r < held; r++)
            quant_expand(w->type, segment_at(w, row + r, k), len, tile[r]);
        for (p = 0; p < n_panels; p++) {
            const float *x = in->packed + (p * in->cols + k) * KERN_LANES;
            for (r = 0; r < held; r += KERN_ROWS) {
                const float *a[KERN_ROWS];
                for (t = 0; t < KERN_ROWS; t++) a[t] = tile[r + t < held ? r + t : r];
                kern_tile(a, 1, x, len, sum + p * panel + r * KERN_LANES);
            }
        }
    }
    for (t = 0; t < (size_t)in->n; t++) {
        const float *s = sum + t / KERN_LANES * panel + t % KERN_LANES;
        float *y = job->y + t * (size_t)w->ne[1] + row;
        for (r = 0; r < held; r++)
            y[r] = s[r * KERN_LANES] + (job->bias ? job->bias[row + r] : 0.0f);
    }
}

static size_t row_tiles(const quant_job *job)
{
    return ((size_t)job->w->ne[1] + TILE_ROWS - 1) / TILE_ROWS;
}

void quant_matmul(const quant_job *jobs, int n_jobs, const quant_input *in)
{
    long i, n_tiles = 0;
    int j;
    for (j = 0; j < n_jobs; j++) n_tiles += (long)row_tiles(&jobs[j]);
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) \
    if ((double)n_tiles * TILE_ROWS * in->n * (double)in->cols >= WORTH_THREADS)
#endif
    for (i = 0; i < n_tiles; i++) {
        const quant_job *job = jobs;
        size_t tile = (size_t)i, row, rows;
        for (; tile >= row_tiles(job); job++) tile -= row_tiles(job);
        row = tile * TILE_ROWS;
        rows = (size_t)job->w->ne[1] - row < TILE_ROWS ? (size_t)job->w->ne[1] - row : TILE_ROWS;
        if (in->n <= DOT_TOKENS) rows_by_dots(job, in, row, row + rows);
        else rows_by_panels(job, in, row, row + rows);
    }
}
