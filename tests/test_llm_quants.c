/* test_llm_quants.c: quants.c and kernels.h against slow formulas and against values that another
 * program computed. */
#include "test.h"
#include "kernels.h"
#include "quants.h"
#ifdef _OPENMP
#include <omp.h>
#endif

static const gguf_dtype types[] = {
    GGUF_T_F32, GGUF_T_F16, GGUF_T_BF16, GGUF_T_Q8_0, GGUF_T_Q4_0, GGUF_T_Q4_1, GGUF_T_Q5_0,
    GGUF_T_Q5_1, GGUF_T_Q4_K, GGUF_T_Q5_K, GGUF_T_Q6_K
};
#define N_TYPES ((int)(sizeof types / sizeof types[0]))

/* ---- the slow formulas: one element at a time, in double ---- */

static double slow_half(const unsigned char *p)
{
    int h = p[0] + 256 * p[1], e = h >> 10 & 31, f = h & 1023;
    double v = e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    if (e == 31) v = f ? NAN : HUGE_VAL;
    return h >> 15 ? -v : v;
}

static int bit(const unsigned char *p, int i) { return p[i / 8] >> (i % 8) & 1; }
static int nibble(const unsigned char *p, int i, int half)      /* half: bytes that hold 2 half */
{
    return i < half ? p[i] % 16 : p[i - half] / 16;
}
static double signed_byte(unsigned char b) { return b < 128 ? b : b - 256; }

/* Scale (which 0) or minimum (1) of sub-block s: 6 bits each, the first four in the low bits of
 * bytes 0 to 7, the others in nibbles of bytes 8 to 11, with the high bits of the former. */
static int slow_scale(const unsigned char *p, int s, int which)
{
    if (s < 4) return p[4 * which + s] % 64;
    return (which ? p[s + 4] / 16 : p[s + 4] % 16) + 16 * (p[4 * which + s - 4] / 64);
}

static double slow_k45(const unsigned char *b, int i, int five)
{
    int s = i / 32, q = nibble(b + (five ? 48 : 16) + s / 2 * 32, i % 64, 32);
    if (five) q += 16 * (b[16 + i % 32] >> s & 1);
    return slow_half(b) * slow_scale(b + 4, s, 0) * q - slow_half(b + 2) * slow_scale(b + 4, s, 1);
}

static double slow_q6(const unsigned char *b, int i)
{
    int half = i / 128, j = i % 128;
    int q = nibble(b + 64 * half, j, 64) + 16 * (b[128 + 32 * half + j % 32] >> j / 32 * 2 & 3);
    return slow_half(b + 208) * signed_byte(b[192 + i / 16]) * (q - 32);
}

/* Element i of a block */
static double slow_value(gguf_dtype type, const unsigned char *b, int i)
{
    uint32_t bits = (uint32_t)b[0] | (uint32_t)b[1] << 8;
    float f;
    switch (type) {
    case GGUF_T_F32:
        bits |= (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy(&f, &bits, 4);
        return f;
    case GGUF_T_BF16:
        bits <<= 16;
        memcpy(&f, &bits, 4);
        return f;
    case GGUF_T_F16:  return slow_half(b);
    case GGUF_T_Q8_0: return slow_half(b) * signed_byte(b[2 + i]);
    case GGUF_T_Q4_0: return slow_half(b) * (nibble(b + 2, i, 16) - 8);
    case GGUF_T_Q4_1: return slow_half(b) * nibble(b + 4, i, 16) + slow_half(b + 2);
    case GGUF_T_Q5_0: return slow_half(b) * (nibble(b + 6, i, 16) + 16 * bit(b + 2, i) - 16);
    case GGUF_T_Q5_1:
        return slow_half(b) * (nibble(b + 8, i, 16) + 16 * bit(b + 4, i)) + slow_half(b + 2);
    case GGUF_T_Q4_K: return slow_k45(b, i, 0);
    case GGUF_T_Q5_K: return slow_k45(b, i, 1);
    case GGUF_T_Q6_K: return slow_q6(b, i);
    }
    return NAN;
}

/* Random blocks whose scales are finite and ordinary in size */
static void fill_blocks(gguf_dtype type, unsigned char *p, size_t blocks)
{
    size_t size = quant_block_bytes((int)type), i, j;
    for (i = 0; i < blocks; i++, p += size) {
        for (j = 0; j < size; j++) p[j] = (unsigned char)test_u64();
        if (type == GGUF_T_F32) p[3] = (unsigned char)((p[3] & 0x80) | 0x3d), p[2] |= 0x80;
        else if (type == GGUF_T_BF16) p[1] = (unsigned char)((p[1] & 0x80) | 0x3d);
        else if (type == GGUF_T_Q6_K) p[209] = (unsigned char)((p[209] & 0x80) | (0x04 + i % 4));
        else p[1] = (unsigned char)((p[1] & 0x80) | (0x20 + i % 16));
        if (type == GGUF_T_Q4_1 || type == GGUF_T_Q5_1 || type == GGUF_T_Q4_K ||
            type == GGUF_T_Q5_K)
            p[3] = (unsigned char)((p[3] & 0x80) | (0x20 + i % 16));
    }
}

/* ---- tests ---- */

TEST(block_sizes)
{
    CHECK(quant_block_len(2) == 32 && quant_block_bytes(2) == 18);
    CHECK(quant_block_len(14) == 256 && quant_block_bytes(14) == 210);
    CHECK(quant_block_len(4) == 0 && quant_block_bytes(4) == 0);
    CHECK(quant_block_len(-1) == 0 && quant_block_len(1000) == 0);
}

TEST(half_floats_exhaustively)
{
    unsigned char b[2];
    int h, wrong = 0;
    for (h = 0; h < 65536; h++) {
        float v;
        double wanted;
        b[0] = (unsigned char)(h & 255);
        b[1] = (unsigned char)(h >> 8);
        quant_expand(GGUF_T_F16, b, 1, &v);
        wanted = slow_half(b);
        if (isnan(wanted) ? !isnan(v) : (double)v != wanted) wrong++;
        if (!signbit(v) != !(h >> 15)) wrong++;
    }
    CHECK(wrong == 0);
}

/* Every type, several blocks, from an address that is not aligned */
TEST(expand_equals_the_formulas)
{
    static unsigned char raw[8 * 256 + 1];
    static float out[8 * 256 + 1];
    int t, b, round;
    for (t = 0; t < N_TYPES; t++)
        for (round = 0; round < 20; round++) {
            size_t len = quant_block_len((int)types[t]), size = quant_block_bytes((int)types[t]);
            size_t i, wrong = 0, n = 8 * len;
            fill_blocks(types[t], raw + 1, 8);
            out[n] = 12345.0f;
            quant_expand(types[t], raw + 1, n, out);
            for (b = 0; b < 8; b++)
                for (i = 0; i < len; i++) {
                    double wanted = slow_value(types[t], raw + 1 + (size_t)b * size, (int)i);
                    float got = out[(size_t)b * len + i];
                    wrong += !((double)got == (double)(float)wanted);
                }
            CHECK(wrong == 0);
            CHECK(out[n] == 12345.0f);
            if (wrong) printf("    type %s: %d of %d wrong\n", gguf_dtype_name((int)types[t]),
                              (int)wrong, (int)n);
        }
}

/* FNV-1a of the float bits that the Python package gguf (gguf.quants.dequantize) computes for the
 * block whose byte i is 37 i + 11 (mod 256), with scales 0x2e66 and, where there is one, 0x2f77. */
TEST(expand_equals_another_program)
{
    static const struct { gguf_dtype type; int scale, min; float first; uint64_t hash; } known[] = {
        {GGUF_T_Q8_0, 0, -1, 8.4979248046875f, 0x9a2d9007cf216a5fu},
        {GGUF_T_Q4_0, 0, -1, -0.2999267578125f, 0xae123959ad0e7351u},
        {GGUF_T_Q4_1, 0, 2, 1.61627197265625f, 0x1e91a2dd7fe9028au},
        {GGUF_T_Q5_0, 0, -1, 0.8997802734375f, 0xb9c7e813f4539fc5u},
        {GGUF_T_Q5_1, 0, 2, 2.01617431640625f, 0x82ee1d18c2d3a107u},
        {GGUF_T_Q4_K, 0, 2, 28.14312744140625f, 0x53834c7aee3ffb60u},
        {GGUF_T_Q5_K, 0, 2, 77.73101806640625f, 0x2f08697adc17c62cu},
        {GGUF_T_Q6_K, 208, -1, -143.0650634765625f, 0x2e0bc21687306126u}
    };
    unsigned char b[256];
    float out[256];
    size_t k, i, j;
    for (k = 0; k < sizeof known / sizeof known[0]; k++) {
        uint64_t hash = 0xcbf29ce484222325u;
        size_t len = quant_block_len((int)known[k].type);
        for (i = 0; i < 256; i++) b[i] = (unsigned char)(37 * i + 11);
        b[known[k].scale] = 0x66, b[known[k].scale + 1] = 0x2e;
        if (known[k].min >= 0) b[known[k].min] = 0x77, b[known[k].min + 1] = 0x2f;
        quant_expand(known[k].type, b, len, out);
        for (i = 0; i < len; i++) {
            uint32_t bits;
            memcpy(&bits, &out[i], 4);
            for (j = 0; j < 4; j++) hash = (hash ^ (bits >> 8 * j & 255)) * 0x100000001b3u;
        }
        CHECK(out[0] == known[k].first);
        CHECK(hash == known[k].hash);
    }
}

/* ---- products ---- */

typedef struct product {
    gguf_tensor w;
    unsigned char *raw;
    float *expanded, *x, *y, *bias, *room;
    int n;
} product;

static void make_product(product *p, gguf_dtype type, size_t rows, size_t cols, int n)
{
    size_t i, len = quant_block_len((int)type), size = quant_block_bytes((int)type);
    size_t blocks = rows * cols / len;
    memset(p, 0, sizeof *p);
    p->n = n;
    p->w.type = type;
    p->w.n_dims = 2;
    p->w.ne[0] = cols, p->w.ne[1] = rows, p->w.ne[2] = p->w.ne[3] = 1;
    p->w.row_bytes = cols / len * size;
    p->w.bytes = rows * p->w.row_bytes;
    p->raw = malloc(p->w.bytes);
    p->expanded = malloc(rows * cols * sizeof(float));
    p->x = malloc((size_t)n * cols * sizeof(float));
    p->y = malloc(((size_t)n * rows + 1) * sizeof(float));
    p->bias = malloc(rows * sizeof(float));
    p->room = malloc((quant_pack_floats(n, cols) + 1) * sizeof(float));
    if (!p->raw || !p->expanded || !p->x || !p->y || !p->bias || !p->room) exit(2);
    fill_blocks(type, p->raw, blocks);
    p->w.data = p->raw;
    for (i = 0; i < blocks * len; i++)
        p->expanded[i] = (float)slow_value(type, p->raw + i / len * size, (int)(i % len));
    for (i = 0; i < (size_t)n * cols; i++) p->x[i] = (float)test_normal();
    for (i = 0; i < rows; i++) p->bias[i] = (float)test_normal();
    p->y[(size_t)n * rows] = 12345.0f;
}

static void free_product(product *p)
{
    free(p->raw), free(p->expanded), free(p->x), free(p->y), free(p->bias), free(p->room);
}

static void run_product(product *p, int with_bias)
{
    quant_input in;
    quant_job job;
    quant_pack(&in, p->x, p->n, (size_t)p->w.ne[0], p->room);
    job.w = &p->w;
    job.bias = with_bias ? p->bias : NULL;
    job.y = p->y;
    quant_matmul(&job, 1, &in);
}

/* Largest error relative to the sum of the absolute terms */
static double product_error(const product *p, int with_bias)
{
    size_t rows = (size_t)p->w.ne[1], cols = (size_t)p->w.ne[0], t, r, k;
    double worst = 0.0;
    for (t = 0; t < (size_t)p->n; t++)
        for (r = 0; r < rows; r++) {
            double sum = with_bias ? p->bias[r] : 0.0, scale = fabs(sum), e;
            for (k = 0; k < cols; k++) {
                double term = (double)p->expanded[r * cols + k] * p->x[t * cols + k];
                sum += term;
                scale += fabs(term);
            }
            e = fabs(sum - p->y[t * rows + r]) / scale;
            worst = e > worst || isnan(e) ? e : worst;
        }
    return worst;
}

TEST(matmul_equals_double)
{
    static const int ns[] = {1, 2, 3, 4, 15, 16, 17, 33, 64};
    static const size_t rows[] = {1, 3, 4, 33, 70};
    static const size_t widths[] = {1, 5, 3};           /* blocks per row */
    size_t i, j, k;
    int t;
    for (t = 0; t < N_TYPES; t++)
        for (i = 0; i < sizeof ns / sizeof ns[0]; i++) {
            size_t len = quant_block_len((int)types[t]);
            product p;
            j = (i + (size_t)t) % 5;
            k = (i + (size_t)t) % 3;
            make_product(&p, types[t], rows[j], len == 1 ? 77 * widths[k] : len * widths[k], ns[i]);
            run_product(&p, (int)(i & 1));
            CHECK(product_error(&p, (int)(i & 1)) < 1e-6);
            CHECK(p.y[(size_t)p.n * rows[j]] == 12345.0f);
            free_product(&p);
        }
}

/* Whoever shares the chunk, and however many threads there are: the same bits */
TEST(matmul_is_deterministic)
{
    product p;
    float *all, *x;
    size_t rows = 133, cols = 512;
    int n;
    make_product(&p, GGUF_T_Q4_K, rows, cols, 64);
    run_product(&p, 1);
    all = malloc(64 * rows * sizeof *all);
    if (!all) exit(2);
    memcpy(all, p.y, 64 * rows * sizeof *all);
    x = p.x;
    for (n = 4; n <= 64; n += 13) {
        p.n = n;
        p.x = x + (size_t)(64 - n) * cols;
        run_product(&p, 1);
        CHECK(!memcmp(p.y, all + (size_t)(64 - n) * rows, (size_t)n * rows * sizeof *all));
    }
    p.x = x;
#ifdef _OPENMP
    for (n = 1; n <= 3; n++) {
        int before = omp_get_max_threads();
        p.n = 64;
        omp_set_num_threads(n);
        run_product(&p, 1);
        omp_set_num_threads(before);
        CHECK(!memcmp(p.y, all, 64 * rows * sizeof *all));
    }
#endif
    free(all);
    free_product(&p);
}

/* Several products of one X together are the same as one by one */
TEST(jobs_share_an_input)
{
    static const size_t rows[3] = {70, 1, 33};
    product p[3];
    quant_job jobs[3];
    quant_input in;
    int i, n;
    for (n = 2; n <= 20; n += 18) {
        for (i = 0; i < 3; i++) {
            make_product(&p[i], types[3 + 2 * i], rows[i], 96, n);
            memcpy(p[i].x, p[0].x, (size_t)n * 96 * sizeof(float));
            jobs[i].w = &p[i].w;
            jobs[i].bias = p[i].bias;
            jobs[i].y = p[i].y;
        }
        quant_pack(&in, p[0].x, n, 96, p[0].room);
        quant_matmul(jobs, 3, &in);
        for (i = 0; i < 3; i++) {
            CHECK(product_error(&p[i], 1) < 1e-6);
            free_product(&p[i]);
        }
    }
}

/* ---- kernels ---- */

TEST(exp_is_accurate)
{
    double worst = 0.0;
    int i;
    for (i = 0; i < 200000; i++) {
        float x = (float)(test_uniform() * 174.0 - 87.0);
        double e = fabs(kern_exp(x) / exp((double)x) - 1.0);
        worst = e > worst || isnan(e) ? e : worst;
    }
    CHECK(worst < 2e-7);
    CHECK(kern_exp(0.0f) == 1.0f);
    CHECK(kern_exp(-87.1f) == 0.0f && kern_exp(-1e30f) == 0.0f && kern_exp(-HUGE_VALF) == 0.0f);
    CHECK(kern_exp(1e30f) > 1e38f && kern_exp(HUGE_VALF) > 1e38f);
    CHECK(isnan(kern_exp(NAN)));
}

TEST(dot_takes_any_length)
{
    float a[101], b[101];
    size_t n, i;
    for (i = 0; i < 101; i++) a[i] = (float)test_normal(), b[i] = (float)test_normal();
    for (n = 0; n <= 100; n++) {
        double sum = 0.0;
        for (i = 0; i < n; i++) sum += (double)a[i + 1] * b[i];
        CHECK_NEAR(kern_dot(a + 1, b, n), sum, 1e-5);
    }
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(block_sizes);
    RUN(half_floats_exhaustively);
    RUN(expand_equals_the_formulas);
    RUN(expand_equals_another_program);
    RUN(matmul_equals_double);
    RUN(matmul_is_deterministic);
    RUN(jobs_share_an_input);
    RUN(exp_is_accurate);
    RUN(dot_takes_any_length);
    return TEST_END();
}
