/* Codecs of bench/baselines against the formulas that define them, on random data. */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>
#include "files.h"
#include "parts.h"
#include "quants.h"
#include "spectral_kv.h"
#include "test.h"

enum { D = 32, N = 96 };

static llm_config config(const char *arch, int head_dim)
{
    llm_config c;
    memset(&c, 0, sizeof c);
    snprintf(c.arch, sizeof c.arch, "%s", arch);
    c.n_layers = 2;
    c.n_q_heads = 4;
    c.n_kv_heads = 2;
    c.head_dim = head_dim;
    c.rope_base = 1e4f;
    c.rope_base_local = 1e4f;
    return c;
}

static void fill(float *x, size_t n, double scale)
{
    while (n--) *x++ = (float)(scale * test_normal());
}

static double error2(const float *a, const float *b, size_t n)
{
    double s = 0;
    size_t i;
    for (i = 0; i < n; i++) s += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return s;
}

/* Channels that depend on each other, with very different sizes: rows [n][d]. */
static void fill_spectrum(double *x, int n, int d)
{
    double mix[D * D];
    int t, i, j;
    for (i = 0; i < d * d; i++) mix[i] = test_normal();
    for (t = 0; t < n; t++) {
        double z[D];
        for (i = 0; i < d; i++) z[i] = test_normal() * pow(0.8, i);
        for (i = 0; i < d; i++)
            for (x[t * d + i] = 0, j = 0; j < d; j++) x[t * d + i] += mix[i * d + j] * z[j];
    }
}

static void gram_of(const double *x, int n, int d, double *g)
{
    int t, i, j;
    memset(g, 0, (size_t)d * (size_t)d * sizeof *g);
    for (t = 0; t < n; t++)
        for (i = 0; i < d; i++)
            for (j = 0; j < d; j++) g[i * d + j] += x[t * d + i] * x[t * d + j];
}

TEST(halves)
{
    static const double cases[][2] = {
        {1, 1}, {1.0 + 1.0 / 2048, 1}, {1.0 + 3.0 / 2048, 1.0 + 2.0 / 1024}, {0, 0}, {-2.5, -2.5},
        {1e9, 65504}, {-1e9, -65504}, {65504, 65504}, {65519, 65504}, {65530, 65504},
        {5.9604644775390625e-8, 5.9604644775390625e-8}, {2.9e-8, 0}, {3.1e-8, 5.9604644775390625e-8}
    };
    size_t i;
    int k;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK((double)baseline_half((float)cases[i][0]) == cases[i][1]);
    for (k = 0; k < 5000; k++) {
        float x = (float)(test_normal() * exp2(20 * test_uniform() - 12)), h = baseline_half(x);
        CHECK(fabs((double)h - x) <= fmax(fabs((double)x) / 2048, ldexp(1, -25)));
        CHECK(baseline_half(h) == h);
    }
}

/* The blocks as bytes, expanded by the engine's reader of GGUF files. */
TEST(q8_0_blocks)
{
    float x[32], y[32], d, most;
    unsigned char block[34];
    int k, i;
    for (k = 0; k < 200; k++) {
        fill(x, 32, exp2(k % 20 - 10));
        most = 0;
        for (i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
        baseline_q8_0(x, block);
        quant_expand(GGUF_T_Q8_0, block, 32, y);
        d = baseline_half(most / 127);
        for (i = 0; i < 32; i++) {
            int q = (int)(signed char)block[2 + i];
            CHECK(abs(q - (int)lround((double)x[i] * 127 / most)) <= 1);
            CHECK_NEAR(x[i] * 127 / most, q, 0.5001);
            CHECK(y[i] == (float)q * d);
        }
    }
    memset(x, 0, sizeof x);
    baseline_q8_0(x, block);
    for (i = 0; i < 34; i++) CHECK(block[i] == 0);
}

TEST(q4_0_blocks)
{
    float x[32], y[32];
    unsigned char block[18];
    int k, i;
    for (k = 0; k < 200; k++) {
        float most = 0, d;
        fill(x, 32, exp2(k % 20 - 10));
        for (i = 0; i < 32; i++) most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
        d = most / -8;
        baseline_q4_0(x, block);
        quant_expand(GGUF_T_Q4_0, block, 32, y);
        for (i = 0; i < 32; i++) {
            int q = i < 16 ? block[2 + i] & 15 : block[2 + i - 16] >> 4;
            double want = floor((double)x[i] / d + 8.5);
            CHECK_NEAR(q, want > 15 ? 15 : want, (double)x[i] / d + 8.5 - want < 1e-5 ||
                       (double)x[i] / d + 8.5 - want > 1 - 1e-5);
            CHECK(y[i] == (float)(q - 8) * baseline_half(d));
            if (x[i] == most) CHECK(q == 0);
        }
    }
    memset(x, 0, sizeof x);
    baseline_q4_0(x, block);
    quant_expand(GGUF_T_Q4_0, block, 32, y);
    for (i = 0; i < 32; i++) CHECK(y[i] == 0);
}

TEST(hadamard_is_orthonormal)
{
    float h[64][64];
    int n, i, j, k;
    for (n = 1; n <= 64; n *= 2) {
        memset(h, 0, sizeof h);
        for (i = 0; i < n; i++) {
            h[i][i] = 1;
            baseline_hadamard(h[i], n);
        }
        for (i = 0; i < n; i++)
            for (j = 0; j < n; j++) {
                double dot = 0;
                for (k = 0; k < n; k++) dot += (double)h[i][k] * h[j][k];
                CHECK_NEAR(dot, i == j, 1e-5);
                CHECK_NEAR(h[i][j], h[j][i], 0);
                CHECK_NEAR(fabsf(h[i][j]), 1 / sqrt(n), 1e-6);
            }
    }
    CHECK(baseline_power_of_two(96) == 32 && baseline_power_of_two(256) == 256);
}

/* Every mode through its codec: the bits as published. */
static double coded(const char *name, const baseline_env *env, int kind, int n, float *rows)
{
    char err[GGUF_ERR_BYTES] = "";
    llm_codec codec;
    double bits = 0;
    int r = baseline_open(&codec, name, env, err);
    CHECK(r == 0);
    if (r) {
        printf("    %s\n", err);
        return 0;
    }
    CHECK(codec.code(codec.self, 1, kind, LLM_SINKS, n, rows, &bits) == 0);
    codec.free(codec.self);
    return bits / (n * env->c->n_kv_heads * env->c->head_dim);
}

TEST(bits_of_rtn)
{
    static const struct { const char *name; double bits; } modes[] = {
        {"q8_0", 8.5}, {"q4_0", 4.5}, {"q4_0h", 4.5}, {"kivi:4", 5}, {"kivi:2", 3},
        {"kvarn:4", 4.75}, {"kvarn:2", 2.75}, {"svdq:84420000:v", 0}
    };
    llm_config c = config("llama", 64);
    baseline_env env = {&c, NULL};
    static float rows[64 * 128], was[64 * 128];
    size_t i;
    int kind;
    for (i = 0; i < sizeof modes / sizeof modes[0]; i++)
        for (kind = 0; kind < 2; kind++) {
            double bpe, e;
            fill(was, 64 * 128, 3);
            memcpy(rows, was, sizeof rows);
            bpe = coded(modes[i].name, &env, kind, 64, rows);
            if (modes[i].bits > 0) CHECK_NEAR(bpe, modes[i].bits, 1e-9);
            e = error2(rows, was, 64 * 128) / (64 * 128 * 9);
            CHECK(e > 0 && e < (modes[i].bits < 4 ? 1 : 0.02));
        }
}

TEST(q4_0h_is_q4_0_between_rotations)
{
    llm_config c = config("llama", 128);
    baseline_env env = {&c, NULL};
    static float a[64 * 256], b[64 * 256];
    int kind;
    for (kind = 0; kind < 2; kind++) {
        fill(a, 64 * 256, 1);
        memcpy(b, a, sizeof a);
        coded("q4_0h", &env, kind, 64, a);
        baseline_hadamard_blocks(b, 64 * 256, kind ? 64 : 128);
        coded("q4_0", &env, kind, 64, b);
        baseline_hadamard_blocks(b, 64 * 256, kind ? 64 : 128);
        CHECK(!memcmp(a, b, sizeof a));
    }
}

/* Half a step of the group's range, and what f16 takes from zero and step. */
TEST(kivi_error_bound)
{
    static float x[64 * 2 * D], y[64 * 2 * D];
    int bits, kind, t, i, g, width = 2 * D;
    for (bits = 2; bits <= 4; bits += 2)
        for (kind = 0; kind < 2; kind++) {
            fill(x, 64 * 2 * D, 2);
            memcpy(y, x, sizeof x);
            CHECK_NEAR(baseline_kivi(y, 64, 2, D, kind, bits) / (64 * width), bits + 1, 1e-9);
            for (g = 0; g < 2 * width; g++) {       /* both kinds have as many groups */
                float lo = 1e9f, hi = -1e9f, worst = 0;
                for (i = 0; i < 32; i++) {
                    int at = kind ? g * 32 + i : (g / width * 32 + i) * width + g % width;
                    lo = fminf(lo, x[at]);
                    hi = fmaxf(hi, x[at]);
                    worst = fmaxf(worst, fabsf(x[at] - y[at]));
                }
                t = (1 << bits) - 1;
                CHECK(worst <= (hi - lo) / (float)(2 * t) + 2 * (hi - lo + fabsf(lo)) / 2048);
                CHECK(worst >= (hi - lo) / (float)(20 * t));
            }
        }
}

TEST(kvarn_balances)
{
    enum { R = 24, C = 40 };
    static double x[R * C], y[R * C], row[R], col[C];
    double before[2] = {1e9, 0}, after[2] = {1e9, 0}, e = 0, power = 0;
    int r, c;
    for (r = 0; r < R; r++)
        for (c = 0; c < C; c++)
            x[r * C + c] = test_normal() * exp(0.1 * r) * exp(0.05 * ((7 * c) % C));
    CHECK(!baseline_kvarn_balance(x, R, C, row, col));
    for (c = 0; c < C; c++) {
        double a = 0, b = 0;
        for (r = 0; r < R; r++) {
            a += x[r * C + c] * x[r * C + c];
            b += pow(x[r * C + c] / row[r] / col[c], 2);
        }
        before[0] = fmin(before[0], a);
        before[1] = fmax(before[1], a);
        after[0] = fmin(after[0], b);
        after[1] = fmax(after[1], b);
    }
    CHECK(before[1] / before[0] > 20);
    CHECK(after[1] / after[0] < 2);
    for (c = 0; c < C; c++) CHECK(col[c] >= exp(-0.3) - 1e-12);
    memcpy(y, x, sizeof x);
    CHECK_NEAR(baseline_kvarn_tile(y, R, C, 4), 4 * R * C + 16 * (2 * R + C), 0);
    for (r = 0; r < R; r++) {
        double lo = 0, hi = 0;
        for (c = 0; c < C; c++) {
            lo = fmin(lo, x[r * C + c] / col[c]);
            hi = fmax(hi, x[r * C + c] / col[c]);
        }
        for (c = 0; c < C; c++) {
            CHECK(fabs(x[r * C + c] - y[r * C + c]) <= (hi - lo) * col[c] * (0.5 / 15 + 0.003));
            e += pow(x[r * C + c] - y[r * C + c], 2);
            power += pow(x[r * C + c], 2);
        }
    }
    CHECK(e / power < 0.02);
}

/* |K Q^T - K^ Q^T|^2 is the tail of the singular values of K Q^T: nothing of rank r is closer. */
TEST(kqsvd_meets_the_optimum)
{
    static double k[N * D], q[N * D], kq[N * N], gk[D * D], gq[D * D], down[D * D], up[D * D];
    static double s[N], ut[N * N], vt[N * N], kr[N * D];
    double *room = malloc(skv_svd_scratch(N, N) * sizeof *room), basis[D * D];
    int ranks[] = {1, 5, 16, D}, a, r, t, u, i;
    fill_spectrum(k, N, D);
    fill_spectrum(q, N, D);
    gram_of(k, N, D, gk);
    gram_of(q, N, D, gq);
    for (t = 0; t < N; t++)
        for (u = 0; u < N; u++)
            for (kq[t * N + u] = 0, i = 0; i < D; i++) kq[t * N + u] += k[t * D + i] * q[u * D + i];
    CHECK(room && skv_svd(kq, N, N, N, s, ut, vt, room, 0, NULL) == SKV_OK);
    free(room);
    for (a = 0; a < 4; a++) {
        double tail = 0, error = 0, eigen = 0;
        r = ranks[a];
        CHECK(!baseline_kqsvd(gk, gq, D, r, down, up));
        CHECK(!baseline_eigen(gk, gq, D, r, basis));
        for (i = r; i < N; i++) tail += s[i] * s[i];
        for (u = 0; u < 2; u++) {           /* KQ-SVD, then Eigen Attention's basis */
            const double *lo = u ? basis : down, *hi = u ? basis : up;
            double *sum = u ? &eigen : &error;
            int b, j;
            memset(kr, 0, sizeof kr);
            for (t = 0; t < N; t++)
                for (b = 0; b < r; b++) {
                    double z = 0;
                    for (i = 0; i < D; i++) z += lo[b * D + i] * k[t * D + i];
                    for (i = 0; i < D; i++) kr[t * D + i] += z * hi[b * D + i];
                }
            for (t = 0; t < N; t++)
                for (j = 0; j < N; j++) {
                    double e = -kq[t * N + j];
                    for (i = 0; i < D; i++) e += kr[t * D + i] * q[j * D + i];
                    *sum += e * e;
                }
        }
        CHECK_NEAR(error / (s[0] * s[0]), tail / (s[0] * s[0]), 1e-9);
        CHECK(r == D || (eigen > tail && tail > 0));
    }
}

TEST(eigen_basis_is_the_joint_one)
{
    static double k[N * D], q[N * D], gk[D * D], gq[D * D], basis[D * D];
    double energy, last = 1e300;
    int i, j, b;
    fill_spectrum(k, N, D);
    fill_spectrum(q, N, D);
    gram_of(k, N, D, gk);
    gram_of(q, N, D, gq);
    CHECK(!baseline_eigen(gk, gq, D, D, basis));
    for (b = 0; b < D; b++) {
        double v[D];
        energy = 0;
        for (i = 0; i < D; i++) {
            for (v[i] = 0, j = 0; j < D; j++) v[i] += (gk[i * D + j] + gq[i * D + j]) *
                                                      basis[b * D + j];
            energy += v[i] * basis[b * D + i];
        }
        for (i = 0; i < D; i++) CHECK_NEAR(v[i] - energy * basis[b * D + i], 0, 1e-7 * gk[0]);
        CHECK(energy <= last * (1 + 1e-12));
        last = energy;
    }
}

TEST(think_keeps_the_best)
{
    double score[5] = {3, 9, 1, 7, 9};
    unsigned char keep[5];
    baseline_think(score, 5, 3, keep);
    CHECK(!keep[0] && keep[1] && !keep[2] && keep[3] && keep[4]);
}

/* RoPE on and off again; score of turned rows = that of the distance; both pairings. */
TEST(rope_round_trip)
{
    static const char *const archs[] = {"llama", "qwen2", "gemma3"};
    static float x[10 * 2 * D], y[10 * 2 * D];
    double dot[2];
    int a, i, at;
    for (a = 0; a < 3; a++) {
        llm_config c = config(archs[a], D);
        if (a == 2) {
            c.sliding_window = 16;
            c.sliding_pattern = 2;
            c.rope_base = 1e6f;
        }
        fill(x, 10 * 2 * D, 1);
        memcpy(y, x, sizeof x);
        baseline_rope(&c, 0, 2, 700, 10, -1, y);
        CHECK(error2(x, y, 10 * 2 * D) > 1);
        baseline_rope(&c, 0, 2, 700, 10, 1, y);
        CHECK(error2(x, y, 10 * 2 * D) < 1e-8);
        baseline_rope(&c, 0, 2, 1, 1, 1, y);
        at = a ? D / 2 : 1;
        CHECK_NEAR(y[0], x[0] * cos(1) - x[at] * sin(1), 1e-5);
        CHECK_NEAR(y[at], x[0] * sin(1) + x[at] * cos(1), 1e-5);
        at = a ? D / 2 - 1 : D - 2;                     /* the slowest pair: the layer's base */
        baseline_rope(&c, 1, 2, 1000, 1, 1, memcpy(y, x, sizeof x));
        CHECK_NEAR(y[at], x[at] * cos(1000 * pow(c.rope_base, -1 + 2.0 / D)) -
                   x[a ? D - 1 : D - 1] * sin(1000 * pow(c.rope_base, -1 + 2.0 / D)), 1e-4);
        for (i = 0; i < 2; i++) {
            int e;
            memcpy(y, x, sizeof x);
            baseline_rope(&c, 0, 1, 5 + 40 * i, 1, 1, y);
            baseline_rope(&c, 0, 1, 9 + 40 * i, 1, 1, y + D);
            for (dot[i] = 0, e = 0; e < D; e++) dot[i] += (double)y[e] * y[D + e];
        }
        CHECK_NEAR(dot[0], dot[1], 1e-4);
    }
}

/* Keys of rank 8 before RoPE survive 8 bits in the leading quarter of the channels; the bits. */
TEST(svdq_finds_the_subspace)
{
    enum { W = 2 * D, T = 192 };
    llm_config c = config("llama", D);
    baseline_env env = {&c, NULL};
    static float rows[T * W], was[T * W], mix[8 * W];
    double bpe, want, power = 0;
    int t, i, j, after;
    char err[GGUF_ERR_BYTES];
    llm_codec codec;
    fill(mix, 8 * W, 1);
    for (t = 0; t < T; t++) {
        float z[8];
        fill(z, 8, 1);
        for (i = 0; i < W; i++)
            for (rows[t * W + i] = 3, j = 0; j < 8; j++) rows[t * W + i] += z[j] * mix[j * W + i];
    }
    for (i = 0; i < T * W; i++) power += (double)rows[i] * rows[i];
    baseline_rope(&c, 1, 2, LLM_SINKS, T, 1, rows);
    memcpy(was, rows, sizeof rows);
    bpe = coded("svdq:80000000", &env, 0, T, rows);
    want = (8.0 * 8 * T + 32 * 8 + 16 * W * (1 + 8)) / (T * W);
    CHECK_NEAR(bpe, want, 1e-9);
    CHECK(error2(rows, was, T * W) < 1e-4 * power);
    CHECK(!baseline_open(&codec, "svdq:80000000", &env, err) && codec.prompt == T);
    for (after = 0; after < 2; after++) {               /* later pages use the prompt's basis */
        double bits = 0;
        memcpy(rows, was, sizeof rows);
        CHECK(!codec.code(codec.self, 1, 0, after ? LLM_SINKS + T : LLM_SINKS, after ? 64 : T,
                          rows, &bits));
        if (after) CHECK_NEAR(bits, 8 * 8 * 64 + 32 * 8, 0);
    }
    CHECK(error2(rows, was, 64 * W) > 0.01 * power / T);    /* turned by other positions */
    codec.free(codec.self);
    memcpy(rows, was, sizeof rows);
    CHECK_NEAR(coded("svdq:80000000", &env, 1, T, rows), 16, 1e-9);     /* values: f16 */
    CHECK(error2(rows, was, T * W) < 1e-6 * power);
    CHECK(coded("svdq:2.25", &env, 0, T, rows) == coded("svdq:84420000", &env, 0, T, rows));
}

TEST(spectralquant_parts)
{
    static const double published[4] = {0.2451, 0.7560, 1.3439, 2.1519};
    double mean[2] = {0, 0}, sd[2] = {1, 1}, level[256], far[2] = {-5, 5};
    double w[4] = {4, 4, 0, 0};
    int i, high, low;
    CHECK(!baseline_lloyd_max(mean, sd, 2, 3, level));
    for (i = 0; i < 4; i++) {
        CHECK_NEAR(level[4 + i], published[i], 2e-3);
        CHECK_NEAR(level[3 - i], -published[i], 2e-3);
    }
    CHECK(!baseline_lloyd_max(far, sd, 2, 1, level));
    CHECK_NEAR(level[0], -5, 1e-2);
    CHECK_NEAR(level[1], 5, 1e-2);
    CHECK(baseline_participation(w, 4) == 2);
    w[1] = 0;
    CHECK(baseline_participation(w, 4) == 1);
    w[0] = w[1] = w[2] = w[3] = 1;
    CHECK(baseline_participation(w, 4) == 3);
    baseline_spectralquant_bits(3, 16, 64, &high, &low);
    CHECK(high == 4 && low == 3);
    baseline_spectralquant_bits(3, 48, 64, &high, &low);
    CHECK(high == 3 && low == 2);
    baseline_spectralquant_bits(1, 60, 64, &high, &low);
    CHECK(high == 2 && low == 1);
}

/* Sums, file, and the codecs that are fitted from it. NULL where no file can be made. */
static const char *gram_file(const llm_config *c, float *k, float *q, int n)
{
    static char path[512];
    const char *dir = getenv("TMPDIR");
    char err[GGUF_ERR_BYTES] = "";
    baseline_sums s;
    int at, l, m, fd;
    snprintf(path, sizeof path, "%.400s/skv_grams_XXXXXX", dir ? dir : "/tmp");
    fd = mkstemp(path);
    if (fd < 0) return NULL;
    close(fd);
    CHECK(!baseline_sums_new(&s, c));
    for (l = 0; l < c->n_layers; l++)
        for (at = 0; at < n; at += m) {
            m = n - at < LLM_CHUNK ? n - at : LLM_CHUNK;
            baseline_sums_add(&s, l, at, q + (size_t)at * 4 * D, k + (size_t)at * 2 * D,
                              k + (size_t)at * 2 * D, m);
        }
    CHECK(!baseline_grams_save(&s, path, err));
    baseline_sums_free(&s);
    return path;
}

TEST(grams_round_trip)
{
    static float k[N * 2 * D], q[N * 4 * D];
    llm_config c = config("llama", D), other = config("llama", 2 * D);
    const char *path;
    char err[GGUF_ERR_BYTES] = "";
    struct baseline_grams *g = NULL;
    void *data = NULL;
    size_t bytes = 0;
    double want = 0, trace[2] = {0, 0};
    int t, i;
    fill(k, N * 2 * D, 1);
    fill(q, N * 4 * D, 1);
    path = gram_file(&c, k, q, N);
    if (!path) SKIP("no temporary file can be made; set TMPDIR to a writable directory");
    CHECK(!baseline_grams_load(&g, path, &c, err));
    if (!g) return;
    CHECK(g->n_tokens == N - LLM_SINKS);
    for (t = LLM_SINKS; t < N; t++)                     /* head 1 has query heads 2 and 3 */
        for (i = 2; i < 4; i++)
            want += (double)q[(t * 4 + i) * D + 3] * q[(t * 4 + i) * D + 9];
    CHECK_NEAR(baseline_gram(g, 1, 1, GRAM_Q)[3 * D + 9], want / (N - LLM_SINKS), 1e-4);
    CHECK(baseline_gram(g, 1, 1, GRAM_Q)[9 * D + 3] == baseline_gram(g, 1, 1, GRAM_Q)[3 * D + 9]);
    for (t = LLM_SINKS, want = 0; t < N; t++) want += k[(t * 2 + 1) * D + 7];
    CHECK_NEAR(baseline_mean(g, 0, 1, GRAM_K)[7], want / (N - LLM_SINKS), 1e-5);
    for (i = 0; i < D; i++) {
        trace[0] += baseline_gram(g, 0, 0, GRAM_K)[i * D + i] -
                    baseline_gram(g, 0, 0, GRAM_K_PRE)[i * D + i];
        trace[1] += baseline_gram(g, 0, 0, GRAM_V_UNIT)[i * D + i];
    }
    CHECK_NEAR(trace[0], 0, 1e-4);
    CHECK_NEAR(trace[1], 1, 1e-5);
    baseline_grams_free(g);
    CHECK(baseline_grams_load(&g, path, &other, err) && !g && strstr(err, "another model"));
    CHECK(!llm_read_file(path, &data, &bytes, err));
    CHECK(data && !llm_write_file(path, data, bytes - 4, err));
    CHECK(baseline_grams_load(&g, path, &c, err) && !g && strstr(err, "cut off"));
    ((unsigned char *)data)[100] = ((unsigned char *)data)[99] = 255;
    ((unsigned char *)data)[98] = ((unsigned char *)data)[97] = 255;
    CHECK(!llm_write_file(path, data, bytes, err));
    CHECK(baseline_grams_load(&g, path, &c, err) && !g && strstr(err, "no numbers"));
    CHECK(!llm_write_file(path, data, 10, err));
    CHECK(baseline_grams_load(&g, path, &c, err) && !g);
    free(data);
    remove(path);
}

TEST(fitted_codecs)
{
    static const struct { const char *name; double k, v, most; } modes[] = {
        {"kqsvd:32", 16, 16, 1e-5}, {"eigen:32", 16, 16, 1e-5}, {"eigen:32:post", 16, 16, 1e-5},
        {"eigen:8", 4, 4, 0.9}, {"think:0", 16 + 1.0 / 64, 16, 1e-5},
        {"think:0.5", 8 + 1.0 / 64, 16, 0.5}, {"spectralquant:7", 0, 0, 0.02}
    };
    static float k[N * 2 * D], q[N * 4 * D], rows[64 * 2 * D];
    llm_config c = config("qwen2", D);
    struct baseline_grams *g = NULL;
    baseline_env env = {&c, NULL};
    llm_codec codec;
    char err[GGUF_ERR_BYTES] = "";
    const char *path;
    size_t i;
    int kind;
    fill(k, N * 2 * D, 1);
    fill(q, N * 4 * D, 1);
    CHECK(baseline_open(&codec, "kqsvd:4", &env, err) == -1 && strstr(err, "--grams"));
    path = gram_file(&c, k, q, N);
    if (!path) SKIP("no temporary file can be made; set TMPDIR to a writable directory");
    CHECK(!baseline_grams_load(&g, path, &c, err));
    remove(path);
    env.grams = g;
    if (!g) return;
    for (i = 0; i < sizeof modes / sizeof modes[0]; i++)
        for (kind = 0; kind < 2; kind++) {
            double bpe, e, want = kind ? modes[i].v : modes[i].k;
            if (kind && modes[i].name[0] == 'k') continue;      /* no W_O in these Grams */
            memcpy(rows, k + 4 * 2 * D, sizeof rows);
            bpe = coded(modes[i].name, &env, kind, 64, rows);
            if (want > 0) CHECK_NEAR(bpe, want, 1e-9);
            e = error2(rows, k + 4 * 2 * D, 64 * 2 * D) / (64 * 2 * D);
            CHECK(e <= modes[i].most);
        }
    baseline_grams_free(g);
}

TEST(words)
{
    static const char *const bad[] = {
        "kivi:", "kivi:0", "kivi:9", "kivi:4x", "kvarn:", "kvarn:4:", "kvarn:12345", "svdq:",
        "svdq:9", "svdq:84", "svdq:84420000:w", "svdq:3", "kqsvd:0", "kqsvd:33", "eigen:4:pre",
        "think:1", "think:x", "spectralquant:0", "think:-1", "kqsvd:4:post"
    };
    llm_config c = config("llama", D);
    baseline_env env = {&c, NULL};
    llm_codec codec;
    char err[GGUF_ERR_BYTES];
    size_t i;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err[0] = 0;
        CHECK(baseline_open(&codec, bad[i], &env, err) == -1);
        CHECK(strstr(err, bad[i]) != NULL);
    }
    CHECK(baseline_open(&codec, "turbo:4", &env, err) == 1);
    CHECK(baseline_open(&codec, "q4_0x", &env, err) == 1);
    c.head_dim = 24;
    c.n_kv_heads = 1;
    CHECK(baseline_open(&codec, "q8_0", &env, err) == -1);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(halves);
    RUN(q8_0_blocks);
    RUN(q4_0_blocks);
    RUN(hadamard_is_orthonormal);
    RUN(bits_of_rtn);
    RUN(q4_0h_is_q4_0_between_rotations);
    RUN(kivi_error_bound);
    RUN(kvarn_balances);
    RUN(kqsvd_meets_the_optimum);
    RUN(eigen_basis_is_the_joint_one);
    RUN(think_keeps_the_best);
    RUN(rope_round_trip);
    RUN(svdq_finds_the_subspace);
    RUN(spectralquant_parts);
    RUN(grams_round_trip);
    RUN(fitted_codecs);
    RUN(words);
    return TEST_END();
}
