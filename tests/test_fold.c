/* test_fold.c: W_O folded with the way back from V's latent (skv_profile_fold, latent_out): what
 * comes out of it is what W_O makes of the plain output; exact tokens, pages, pieces, errors. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

enum { TOKENS = 420, OUT = 40, WIDE = 8 * 144 };   /* OUT: rows of W_O; WIDE: its most columns */

static const syn shapes[] = {
    {{8, 2, 64, 0, 0, 0, 0}, 1, 2.0f, 2.0f, 0.0f, 0.0f},        /* GQA */
    {{3, 3, 80, 0, 0, 0, 0}, 2, 0.5f, 3.0f, 0.01f, 6.0f},       /* MHA, outlier rows */
    {{4, 1, 128, 0, 0, 0, 0}, 3, 2.0f, 2.0f, 0.0f, 0.0f},       /* MQA */
    {{6, 2, 48, 72, 0, 0, 0}, 4, 1.0f, 2.0f, 0.0f, 0.0f},       /* other widths of V */
    {{2, 1, 33, 17, 0, 0, 0}, 5, 1.0f, 1.0f, 0.0f, 0.0f}
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static skv_cache *make(const skv_profile *p, uint32_t latent, uint32_t exact_bits)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL;
    d.profile = p;
    d.target.bpe = 3;
    d.max_tokens = TOKENS;
    d.exact_bits = exact_bits;
    d.latent_out = latent;
    CHECK(skv_cache_init(&c, &d) == SKV_OK);
    return c;
}

static float w_o[OUT * WIDE], folded[OUT * WIDE], bias[OUT];

static void make_w(const skv_profile *p, uint32_t layer, size_t columns)
{
    const skv_span w = skv_f32(w_o);
    size_t i;
    for (i = 0; i < OUT * columns; i++) w_o[i] = (float)(2 * test_uniform() - 1);
    CHECK(skv_profile_fold(p, layer, &w, OUT, folded, bias) == SKV_OK);
}

/* y = matrix x + b */
static void project(const float *matrix, const float *b, const float *x, size_t columns, float *y)
{
    size_t t, i;
    for (t = 0; t < OUT; t++) {
        double sum = b ? (double)b[t] : 0;
        for (i = 0; i < columns; i++) sum += (double)matrix[t * columns + i] * (double)x[i];
        y[t] = (float)sum;
    }
}

/* Relative squared errors of W_O's output for the newest `queries` of n tokens: of latent against
   plain, of latent and of plain against exact attention. */
typedef struct errors { double apart, latent, plain; } errors;

static errors both_ways(skv_cache *plain, skv_cache *latent, const syn *s, const syn_data *x,
                        size_t n, size_t queries, float tolerance)
{
    const size_t columns = s->shape.n_q_heads * syn_dim_v(&s->shape);
    static float o[8 * WIDE], z[8 * WIDE], want[8 * OUT], got[8 * OUT], exact[8 * OUT];
    static float lse[2][8 * 8];
    static double truth[8 * WIDE];
    const float *rows = x->q + (n - queries) * s->shape.n_q_heads * s->shape.head_dim;
    skv_span q = skv_f32(rows);
    skv_out to_o = skv_out_f32(o), to_z = skv_out_f32(z);
    skv_attn attn = SKV_ZERO;
    errors e;
    size_t i;
    attn.tolerance = tolerance;
    attn.lse = lse[0];
    CHECK(skv_attend(plain, 0, &q, queries, &to_o, &attn) == SKV_OK);
    attn.lse = lse[1];
    CHECK(skv_attend(latent, 0, &q, queries, &to_z, &attn) == SKV_OK);
    CHECK((attn.tokens_paged > 0) == (n >= 200));
    for (i = 0; i < queries * s->shape.n_q_heads; i++) CHECK_NEAR(lse[0][i], lse[1][i], 1e-5);
    syn_attention(&s->shape, rows, x->k, x->v, n, queries, truth, NULL);
    for (i = 0; i < queries; i++) {
        project(w_o, NULL, o + i * columns, columns, want + i * OUT);
        project(folded, bias, z + i * columns, columns, got + i * OUT);
    }
    for (i = 0; i < queries * columns; i++) o[i] = (float)truth[i];
    for (i = 0; i < queries; i++)
        project(w_o, NULL, o + i * columns, columns, exact + i * OUT);
    e.apart = syn_relative_error(got, want, queries * OUT);
    e.latent = syn_relative_error(got, exact, queries * OUT);
    e.plain = syn_relative_error(want, exact, queries * OUT);
    return e;
}

/* Exact tokens of 32 bits: the same codes, so float rounding apart. Of 16: latents are rounded in
   place of values, codes differ, errors against exact attention do not. */
static void check_shape(const syn *s, const skv_profile *p, const syn_data *x, uint32_t bits)
{
    static const uint32_t stop[] = {1, 40, 200, 330, TOKENS};   /* pages from 200 on */
    const size_t dk = s->shape.n_kv_heads * s->shape.head_dim;
    const size_t dv = s->shape.n_kv_heads * syn_dim_v(&s->shape);
    skv_cache *plain = make(p, 0, bits), *latent = make(p, 1, bits);
    errors e;
    size_t at, n;
    for (at = n = 0; n < sizeof stop / sizeof *stop; at = stop[n++]) {
        skv_span k = skv_f32(x->k + at * dk), v = skv_f32(x->v + at * dv);
        CHECK(skv_append(plain, 0, &k, &v, stop[n] - at) == SKV_OK);
        CHECK(skv_append(latent, 0, &k, &v, stop[n] - at) == SKV_OK);
        e = both_ways(plain, latent, s, x, stop[n], stop[n] < 8 ? 1 : 8, 0);
        if (bits == 32) CHECK(e.apart < 1e-11);
        else CHECK(e.apart < (stop[n] < 200 ? 1e-6 : 1e-3));
        CHECK(e.latent < 1.2 * e.plain + 1e-6);
    }
    e = both_ways(plain, latent, s, x, TOKENS, 8, 0.05f);
    CHECK(e.apart < (bits == 32 ? 1e-11 : 1e-3));
    skv_cache_free(plain);
    skv_cache_free(latent);
}

TEST(folded_is_unfolded)
{
    uint32_t i;
    for (i = 0; i < SHAPES; i++) {
        const syn *s = &shapes[i];
        skv_profile *p = syn_profile(s, 1, 1, 2, 200);
        syn_data x = syn_make(s, 0, 0, TOKENS);
        CHECK(p != NULL);
        if (p) {
            make_w(p, 0, s->shape.n_q_heads * syn_dim_v(&s->shape));
            check_shape(s, p, &x, 16);
            check_shape(s, p, &x, 32);
        }
        syn_free(&x);
        skv_profile_free(p);
    }
}

/* A prompt at once, by prefill and token by token; reconstructed rows; in the caller's memory. */
TEST(pieces_give_the_same_pages)
{
    enum { N = 324, QK = 2 * 64 };      /* 3 pages, however they go in */
    static float one[N * QK], many[N * QK], o[N * 8 * 64];
    const syn *s = &shapes[0];
    skv_profile *p = syn_profile(s, 1, 1, 2, 200);
    syn_data x = syn_make(s, 0, 0, N);
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
    skv_out out = skv_out_f32(o);
    skv_cache_desc d = SKV_ZERO;
    skv_cache *a = make(p, 1, 16), *b = NULL;
    size_t i;
    d.profile = p;
    d.target.bpe = 3;
    d.max_tokens = TOKENS;
    d.latent_out = 1;
    CHECK(skv_cache_size(&d, &d.memory_bytes) == SKV_OK);
    d.memory = malloc(d.memory_bytes);
    CHECK(skv_cache_init(&b, &d) == SKV_OK);
    if (a && b) {
        CHECK(skv_append(a, 0, &k, &v, N) == SKV_OK);
        CHECK(skv_reconstruct(a, 0, 0, N, NULL, one) == SKV_OK);
        CHECK(syn_relative_error(one, x.v, N * QK) < 0.05);     /* the model's coordinates */
        CHECK(syn_relative_error(one, x.v, 4 * QK) < 1e-6);     /* sinks */
        for (i = 0; i < N; i++) {
            skv_span kk = skv_f32(x.k + i * QK), vv = skv_f32(x.v + i * QK);
            CHECK(skv_append(b, 0, &kk, &vv, 1) == SKV_OK);
        }
        CHECK(skv_reconstruct(b, 0, 0, N, NULL, many) == SKV_OK);
        CHECK(!memcmp(one, many, sizeof one));
        skv_cache_reset(b);
        CHECK(skv_prefill(b, 0, &q, &k, &v, N, &out) == SKV_OK);
        CHECK(skv_reconstruct(b, 0, 0, N, NULL, many) == SKV_OK);
        CHECK(!memcmp(one, many, sizeof one));
    }
    skv_cache_free(a);
    skv_cache_free(b);
    free(d.memory);
    syn_free(&x);
    skv_profile_free(p);
}

/* Strides, f16, and w_o's own memory. */
TEST(fold_reads_any_span)
{
    enum { Q = 3, DV = 80, APART = 7 };
    static uint16_t half[OUT * (Q * DV + APART)];
    static float want[OUT * Q * DV], more[OUT];
    skv_profile *p = syn_profile(&shapes[1], 1, 1, 2, 200);
    skv_span w = skv_f16(half);
    uint32_t i, t;
    make_w(p, 0, Q * DV);
    for (t = 0; t < OUT; t++)
        for (i = 0; i < Q * DV; i++) {
            half[t * (Q * DV + APART) + i] = skvi_to_f16(w_o[t * Q * DV + i]);
            w_o[t * Q * DV + i] = skvi_from_f16(skvi_to_f16(w_o[t * Q * DV + i]));
        }
    w.token_stride = Q * DV + APART;
    CHECK(skv_profile_fold(p, 0, &w, OUT, want, more) == SKV_OK);
    w = skv_f32(w_o);
    CHECK(skv_profile_fold(p, 0, &w, OUT, w_o, bias) == SKV_OK);
    CHECK(!memcmp(w_o, want, sizeof want) && !memcmp(bias, more, sizeof bias));
    skv_profile_free(p);
}

TEST(a_report_sees_the_same_cache)
{
    const syn *s = &shapes[0];
    skv_profile *p = syn_profile(s, 1, 1, 2, 200);
    syn_data x = syn_make(s, 0, 0, TOKENS);
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
    skv_layer_report r[2];
    uint32_t i;
    for (i = 0; i < 2; i++) {
        skv_report_desc d = SKV_ZERO;
        d.cache = make(p, i, 32);
        d.max_queries = 16;
        CHECK(skv_report(&d, 0, &q, &k, &v, TOKENS, &r[i], NULL) == SKV_OK);
        skv_cache_free(d.cache);
    }
    CHECK(r[0].all.output_rms > 0.01);
    CHECK_NEAR(r[1].all.output_rms / r[0].all.output_rms, 1, 1e-4);
    CHECK_NEAR(r[1].all.measured[1] / r[0].all.measured[1], 1, 1e-4);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(refuses)
{
    const syn *s = &shapes[0];
    skv_profile *p = syn_profile(s, 1, 1, 2, 200), *joint = syn_profile(s, 1, 2, 2, 200);
    skv_span w = skv_f32(w_o), none = skv_f32(NULL), k, v;
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL;
    syn_data x = syn_make(s, 0, 0, 2);
    make_w(p, 0, 8 * 64);
    CHECK(skv_profile_fold(NULL, 0, &w, OUT, folded, bias) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(p, 1, &w, OUT, folded, bias) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(p, 0, &w, 0, folded, bias) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(p, 0, &w, OUT, NULL, bias) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(p, 0, &w, OUT, folded, NULL) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(p, 0, &none, OUT, folded, bias) == SKV_ERR_ARG);
    CHECK(skv_profile_fold(joint, 0, &w, OUT, folded, bias) == SKV_ERR_SHAPE);
    w_o[OUT * 8 * 64 - 1] = NAN;
    bias[0] = 42;
    CHECK(skv_profile_fold(p, 0, &w, OUT, folded, bias) == SKV_ERR_NOT_FINITE);
    CHECK_NEAR(bias[0], 42, 0);
    d.model = syn_model(s, 1);
    d.max_tokens = TOKENS;
    d.latent_out = 1;
    CHECK(skv_cache_init(&c, &d) == SKV_ERR_ARG);       /* no profile, no latent */
    d.profile = joint;
    d.target.bpe = 3;
    CHECK(skv_cache_init(&c, &d) == SKV_ERR_SHAPE);
    d.profile = p;
    d.latent_out = 2;
    CHECK(skv_cache_init(&c, &d) == SKV_ERR_ARG && !c);
    c = make(p, 1, 16);
    k = skv_f32(x.k);
    v = skv_f32(x.v);
    x.v[130] = 65000;                                   /* f16, but not its latent for sure */
    CHECK(skv_append(c, 0, &k, &v, 2) == SKV_ERR_RANGE && skv_cache_tokens(c, 0) == 0);
    x.v[130] = 100;
    CHECK(skv_append(c, 0, &k, &v, 2) == SKV_OK);
    skv_cache_free(c);
    syn_free(&x);
    skv_profile_free(p);
    skv_profile_free(joint);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(folded_is_unfolded);
    RUN(pieces_give_the_same_pages);
    RUN(fold_reads_any_span);
    RUN(a_report_sees_the_same_cache);
    RUN(refuses);
    return TEST_END();
}
