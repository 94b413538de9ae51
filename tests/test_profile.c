/* Profiler and fit against plain double sums: Grams, output-aware weights, the latent transform,
 * KQ-SVD's optimum, degenerate streams, memory.
 * cc -std=c99 -O2 -I. tests/test_profile.c -o test_profile -lm
 */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "profile_build.h"
#include "synthetic.h"
#include "test.h"

#define NMAX 192        /* tokens */
#define QMAX 6          /* query heads */
#define KMAX 3          /* KV heads */
#define DMAX 24         /* head_dim */
#define OUTMAX 20       /* rows of W_O */

/* ---- data ---- */

/* One passage, dense: q [n][n_q][d], k [n][n_kv][d], v [n][n_kv][dv]. */
typedef struct data {
    size_t n;
    skv_layer l;
    float *q, *k, *v;
} data;

static data make(size_t n, skv_layer l)
{
    syn s;
    syn_data x;
    data out;
    memset(&s, 0, sizeof s);
    s.shape = l;
    s.seed = test_.seed;
    s.mean = 0.5f;
    s.decay = 2;
    x = syn_make(&s, 0, (uint32_t)test_u64(), n);
    out.n = n;
    out.l = l;
    out.q = x.q;
    out.k = x.k;
    out.v = x.v;
    return out;
}

static void drop(data *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
}

static void scale_data(data *x, double q, double k, double v)
{
    size_t i;
    for (i = 0; i < x->n * x->l.n_q_heads * x->l.head_dim; i++) x->q[i] *= (float)q;
    for (i = 0; i < x->n * x->l.n_kv_heads * x->l.head_dim; i++) x->k[i] *= (float)k;
    for (i = 0; i < x->n * x->l.n_kv_heads * x->l.head_dim_v; i++) x->v[i] *= (float)v;
}

static skv_profiler_desc desc_of(const data *x, uint32_t head_group, uint32_t sinks,
                                 uint32_t window)
{
    skv_profiler_desc d;
    memset(&d, 0, sizeof d);
    d.model.n_layers = 1;
    d.model.layer = x->l;
    d.head_group = head_group;
    d.sinks = sinks;
    d.window = window;
    d.max_passage = NMAX;
    return d;
}

static skv_result add(skv_profiler *p, const data *x)
{
    skv_span q = skv_f32(x->q), k = skv_f32(x->k), v = skv_f32(x->v);
    return skv_profiler_add(p, 0, &q, &k, &v, x->n);
}

static skv_profiler *profiler_of(const data *x, const skv_profiler_desc *d)
{
    skv_profiler *p = NULL;
    CHECK(skv_profiler_init(&p, d) == SKV_OK);
    CHECK(p && add(p, x) == SKV_OK);
    return p;
}

static skv_profile *fit_of(const data *x, const skv_profiler_desc *d)
{
    skv_profiler *p = profiler_of(x, d);
    skv_profile *f = NULL;
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK);
    skv_profiler_free(p);
    return f;
}

/* ---- the oracle: one layer's sums by their definitions, in double ---- */

static struct oracle {
    double sum[2][KMAX * DMAX], gram[2][KMAX * DMAX * KMAX * DMAX];
    double plain[KMAX * DMAX * DMAX], mk[KMAX * DMAX * DMAX], mass[QMAX];
    double wo[OUTMAX * QMAX * DMAX];        /* [n_out][n_q][dv]; n_out 0: the identity */
    double tokens, queries;
    size_t n_out;
} oracle;

static void oracle_clear(void) { memset(&oracle, 0, sizeof oracle); }

static void oracle_gram(int kind, const float *x, size_t n, size_t D, size_t first)
{
    size_t t, i, j;
    for (t = first; t < n; t++)
        for (i = 0; i < D; i++) {
            double xi = (double)x[t * D + i];
            oracle.sum[kind][i] += xi;
            for (j = 0; j < D; j++) oracle.gram[kind][i * D + j] += xi * (double)x[t * D + j];
        }
}

/* |W_O,h y|^2 by multiplying */
static double oracle_output(const double *y, size_t h, size_t nq, size_t dv)
{
    double sum = 0, s;
    size_t r, i;
    for (i = 0; i < dv && !oracle.n_out; i++) sum += y[i] * y[i];
    for (r = 0; r < oracle.n_out; r++, sum += s * s)
        for (s = 0, i = 0; i < dv; i++) s += oracle.wo[(r * nq + h) * dv + i] * y[i];
    return sum;
}

/* a_i and sum_j p_ij^2 of query i of head h */
static void oracle_weights(const data *x, size_t h, size_t i, size_t sinks, size_t window,
                           double *a, double *mass)
{
    const skv_layer *l = &x->l;
    size_t d = l->head_dim, dv = l->head_dim_v, nk = l->n_kv_heads, j, c;
    size_t kh = h / (l->n_q_heads / nk);
    size_t begin = l->sliding_window && i + 1 > l->sliding_window ? i + 1 - l->sliding_window : 0;
    double p[NMAX], slope[NMAX], top = -1e300, sum = 0, o[DMAX] = {0}, y[DMAX];
    double scale = l->scale != 0 ? (double)l->scale : 1 / sqrt((double)d), cap = l->softcap;
    for (j = begin; j <= i; j++) {
        for (p[j] = 0, c = 0; c < d; c++)
            p[j] += (double)x->q[(i * l->n_q_heads + h) * d + c] *
                    (double)x->k[(j * nk + kh) * d + c];
        p[j] *= scale;
        slope[j] = 1;
        if (cap > 0) {
            double th = tanh(p[j] / cap);
            p[j] = cap * th;
            slope[j] = 1 - th * th;
        }
        top = p[j] > top ? p[j] : top;
    }
    for (j = begin; j <= i; j++) sum += p[j] = exp(p[j] - top);
    for (j = begin; j <= i; j++)
        for (p[j] /= sum, c = 0; c < dv; c++) o[c] += p[j] * (double)x->v[(j * nk + kh) * dv + c];
    for (*a = *mass = 0, j = begin; j <= i; j++) {
        if (j < sinks || j + window > i) continue;
        for (c = 0; c < dv; c++) y[c] = (double)x->v[(j * nk + kh) * dv + c] - o[c];
        *a += p[j] * slope[j] * p[j] * slope[j] * oracle_output(y, h, l->n_q_heads, dv);
        *mass += p[j] * p[j];
    }
}

/* One passage; every `step`-th query from `start` on counts. */
static void oracle_add(const data *x, size_t sinks, size_t window, size_t start, size_t step)
{
    const skv_layer *l = &x->l;
    size_t d = l->head_dim, h, i, r, c, first = sinks < x->n ? sinks : x->n;
    double scale = l->scale != 0 ? (double)l->scale : 1 / sqrt((double)d);
    oracle_gram(SKV_K, x->k, x->n, l->n_kv_heads * d, first);
    oracle_gram(SKV_V, x->v, x->n, (size_t)l->n_kv_heads * l->head_dim_v, first);
    for (h = 0; h < l->n_q_heads; h++) {
        size_t kh = h / (l->n_q_heads / l->n_kv_heads);
        for (i = start; i < x->n; i += step) {
            const float *q = x->q + (i * l->n_q_heads + h) * d;
            double a, mass;
            oracle_weights(x, h, i, sinks, window, &a, &mass);
            oracle.mass[h] += mass;
            for (r = 0; r < d; r++)
                for (c = 0; c < d; c++) {
                    double y = scale * (double)q[r] * scale * (double)q[c];
                    oracle.plain[(kh * d + r) * d + c] += y;
                    oracle.mk[(kh * d + r) * d + c] += a * y;
                }
            oracle.queries += h == 0;
        }
    }
    oracle.tokens += (double)(x->n - first);
}

/* largest |a_ij - b_ij| of the upper triangle against the largest |b_ij|; a [n][n], b's rows ldb */
static double gap(const double *a, const double *b, size_t n, size_t ldb)
{
    double worst = 0, top = 0;
    size_t i, j;
    for (i = 0; i < n; i++)
        for (j = i; j < n; j++) {
            double e = fabs(a[i * n + j] - b[i * ldb + j]);
            if (!(e <= worst)) worst = e;
            if (fabs(b[i * ldb + j]) > top) top = fabs(b[i * ldb + j]);
        }
    return top > 0 ? worst / top : worst;
}

/* Grams are sums of exact products (tolerance: rounding of the sum); weights go through a float
   softmax in the library. */
static void check_sums(const skv_profiler *p, double tol)
{
    const skvi_player *l = &p->player[0];
    const skv_layer *s = &l->shape;
    size_t d = s->head_dim, g, h, i;
    int kind;
    CHECK(l->n_tokens == oracle.tokens && l->n_queries == oracle.queries);
    for (kind = 0; kind < 2; kind++)
        for (g = 0; g < l->n_groups; g++) {
            size_t dim = kind ? s->head_dim_v : d, D = s->n_kv_heads * dim;
            size_t h0 = g * p->head_group, left = s->n_kv_heads - h0;
            size_t m = (left < p->head_group ? left : p->head_group) * dim, at = h0 * dim;
            const skvi_gram *x = kind ? &l->v[g] : &l->k[g];
            CHECK_NEAR(gap(x->gram, oracle.gram[kind] + at * D + at, m, D), 0, 1e-13);
            for (i = 0; i < m; i++)
                CHECK_NEAR(x->sum[i], oracle.sum[kind][at + i],
                           1e-12 * sqrt(oracle.tokens * oracle.gram[kind][(at + i) * (D + 1)]));
        }
    for (h = 0; h < s->n_kv_heads; h++) {
        CHECK_NEAR(gap(l->mk_plain + h * d * d, oracle.plain + h * d * d, d, d), 0, 1e-6);
        CHECK_NEAR(gap(l->mk + h * d * d, oracle.mk + h * d * d, d, d), 0, tol);
    }
    for (h = 0; h < s->n_q_heads; h++)
        CHECK_NEAR(l->mass[h], oracle.mass[h], tol * (1e-3 + oracle.mass[h]));
}

/* ---- sums ---- */

TEST(sums_of_one_passage)
{
    data x;
    skv_profiler_desc d;
    skv_profiler *p;
    uint32_t group;
    x = make(150, layer_of(6, 3, 20, 24));
    oracle_clear();
    oracle_add(&x, 4, 64, 0, 1);
    CHECK(oracle.mass[0] > 0);
    for (group = 0; group <= 4; group++) {      /* 0 = per head, 2 leaves a smaller last group */
        d = desc_of(&x, group, 0, 0);
        p = profiler_of(&x, &d);
        check_sums(p, 1e-4);
        skv_profiler_free(p);
    }
    drop(&x);
}

static double half_value(uint16_t h)
{
    double m = h & 1023, e = (h >> 10) & 31, x;
    x = e > 0 ? ldexp(m + 1024, (int)e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -x : x;
}

static double bf16_value(uint16_t h)
{
    double m = h & 127, e = (h >> 7) & 255, x;
    x = e > 0 ? ldexp(m + 128, (int)e - 134) : ldexp(m, -133);
    return h & 0x8000 ? -x : x;
}

/* Writes x [n][heads][d] as dtype with strides into `to`, gaps full of NaN, and puts the rounded
   values back into x. Unaligned: `to` may be odd. */
static skv_span spread(float *x, size_t n, size_t heads, size_t d, skv_dtype type,
                       size_t token_stride, size_t head_stride, unsigned char *to, size_t bytes)
{
    size_t es = type == SKV_F32 ? 4 : 2, t, h, i;
    skv_span s = skv_make_span(to, type);
    s.token_stride = (ptrdiff_t)token_stride;
    s.head_stride = (ptrdiff_t)head_stride;
    memset(to, 0xFF, bytes);
    if (!head_stride) head_stride = d;
    if (!token_stride) token_stride = heads * head_stride;
    for (t = 0; t < n; t++)
        for (h = 0; h < heads; h++)
            for (i = 0; i < d; i++) {
                float *f = &x[(t * heads + h) * d + i];
                size_t at = (t * token_stride + h * head_stride + i) * es;
                uint16_t half = type == SKV_F16 ? skvi_to_f16(*f) : skvi_to_bf16(*f);
                if (type == SKV_F16) *f = (float)half_value(half);
                if (type == SKV_BF16) *f = (float)bf16_value(half);
                if (at + es > bytes) abort();
                if (type == SKV_F32) memcpy(to + at, f, 4);
                else memcpy(to + at, &half, 2);
            }
    return s;
}

TEST(sums_of_types_and_strides)
{
    static unsigned char raw[3][NMAX * QMAX * (DMAX + 8) * 4 + 1];
    size_t n = 100, bytes = sizeof raw[0] - 1, lay;
    int type;
    for (type = 0; type < 3; type++)
        for (lay = 0; lay < 3; lay++) {         /* dense, padded, heads outermost */
            size_t hs[3] = {0, 0, 0}, ts[3] = {0, 0, 0}, i, heads[3] = {4, 2, 2};
            data x;
            skv_profiler_desc d;
            skv_profiler *p = NULL;
            skv_span q, k, v;
            x = make(n, layer_of(4, 2, 16, 20));
            for (i = 0; i < 3 && lay; i++) {
                size_t dim = i == 2 ? 20 : 16;
                hs[i] = lay == 1 ? dim + 3 : n * dim;
                ts[i] = lay == 1 ? heads[i] * (dim + 3) + 5 : dim;
            }
            q = spread(x.q, n, 4, 16, (skv_dtype)type, ts[0], hs[0], raw[0] + 1, bytes);
            k = spread(x.k, n, 2, 16, (skv_dtype)type, ts[1], hs[1], raw[1] + 1, bytes);
            v = spread(x.v, n, 2, 20, (skv_dtype)type, ts[2], hs[2], raw[2] + 1, bytes);
            oracle_clear();
            oracle_add(&x, 4, 16, 0, 1);
            d = desc_of(&x, 2, 4, 16);
            CHECK(skv_profiler_init(&p, &d) == SKV_OK);
            CHECK(skv_profiler_add(p, 0, &q, &k, &v, n) == SKV_OK);
            check_sums(p, 1e-4);
            skv_profiler_free(p);
            drop(&x);
        }
}

/* W_O, soft cap, sliding window, sinks, window, scale: one profiler each against the oracle. */
static void weights_case(size_t n_out, float softcap, uint32_t sliding, uint32_t sinks,
                         uint32_t window, float scale)
{
    static float wo[OUTMAX * QMAX * DMAX];
    data x;
    skv_profiler_desc d;
    skv_profiler *p = NULL;
    skv_span w = skv_f32(wo);
    skv_layer l = layer_of(4, 2, 16, 20);
    size_t i;
    l.softcap = softcap;
    l.sliding_window = sliding;
    l.scale = scale;
    x = make(120, l);
    oracle_clear();
    oracle.n_out = n_out;
    for (i = 0; i < n_out * 4 * 20; i++) oracle.wo[i] = (double)(wo[i] = (float)test_normal());
    oracle_add(&x, sinks == SKV_NONE ? 0 : sinks, window == SKV_NONE ? 0 : window, 0, 1);
    d = desc_of(&x, 1, sinks, window);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    if (n_out) CHECK(skv_profiler_output(p, 0, &w, n_out) == SKV_OK);
    CHECK(add(p, &x) == SKV_OK);
    check_sums(p, 2e-4);
    skv_profiler_free(p);
    drop(&x);
}

TEST(weights_plain) { weights_case(0, 0, 0, 4, 16, 0); }
TEST(weights_with_output_projection) { weights_case(20, 0, 0, 4, 16, 0); }
TEST(weights_with_narrow_output) { weights_case(3, 0, 0, 4, 16, 0); }
TEST(weights_with_softcap) { weights_case(0, 2, 0, 4, 16, 0); }
TEST(weights_with_sliding_window) { weights_case(0, 0, 40, 4, 16, 0); }
TEST(weights_with_sliding_window_inside_the_exact_one)
{
    weights_case(0, 0, 12, 4, 16, 0);
    CHECK(oracle.mass[0] == 0);                 /* nothing is ever read from pages */
}
TEST(weights_without_sinks_and_window) { weights_case(0, 0, 0, SKV_NONE, SKV_NONE, 0); }
TEST(weights_with_many_sinks) { weights_case(0, 0, 0, 50, 20, 0); }
TEST(weights_with_scale) { weights_case(0, 0, 0, 4, 16, 0.07f); }
TEST(weights_with_everything) { weights_case(12, 3, 70, 2, 24, 0.5f); }

/* v_j - o_i must survive a mean that is much larger than the spread. */
TEST(weights_with_large_value_mean)
{
    data x;
    skv_profiler_desc d;
    skv_profiler *p;
    size_t i;
    x = make(120, layer_of(2, 1, 16, 16));
    for (i = 0; i < x.n * 16; i++) x.v[i] += (float)(1000 + 30 * (double)(i % 16));
    oracle_clear();
    oracle_add(&x, 4, 16, 0, 1);
    d = desc_of(&x, 1, 4, 16);
    p = profiler_of(&x, &d);
    check_sums(p, 1e-2);
    skv_profiler_free(p);
    drop(&x);
}

/* max_queries = n / 3: the middle one of every three queries */
TEST(queries_are_sampled_evenly)
{
    data x;
    skv_profiler_desc d;
    skv_profiler *p;
    x = make(120, layer_of(4, 2, 16, 16));
    oracle_clear();
    oracle_add(&x, 4, 16, 1, 3);
    d = desc_of(&x, 1, 4, 16);
    d.max_queries = 40;
    p = profiler_of(&x, &d);
    check_sums(p, 1e-4);
    skv_profiler_free(p);
    drop(&x);
}

TEST(passages_shorter_than_the_sinks)
{
    data x;
    skv_profiler_desc d;
    skv_profiler *p;
    x = make(3, layer_of(2, 1, 16, 16));
    oracle_clear();
    oracle_add(&x, 4, 16, 0, 1);
    d = desc_of(&x, 1, 4, 16);
    p = profiler_of(&x, &d);
    check_sums(p, 1e-4);
    CHECK(p->player[0].n_tokens == 0);
    skv_profiler_free(p);
    drop(&x);
}

/* ---- order and merge ---- */

static double same_sums(const skv_profiler *p, const skv_profiler *o)
{
    const skvi_player *a = &p->player[0], *b = &o->player[0];
    const skv_layer *s = &a->shape;
    double worst = 0, e;
    size_t g, h, d = s->head_dim;
    for (g = 0; g < a->n_groups; g++) {
        size_t left = s->n_kv_heads - g * p->head_group;
        size_t heads = left < p->head_group ? left : p->head_group;
        e = gap(a->k[g].gram, b->k[g].gram, heads * d, heads * d);
        worst = e > worst ? e : worst;
        e = gap(a->v[g].gram, b->v[g].gram, heads * s->head_dim_v, heads * s->head_dim_v);
        worst = e > worst ? e : worst;
    }
    for (h = 0; h < s->n_kv_heads; h++) {
        e = gap(a->mk + h * d * d, b->mk + h * d * d, d, d);
        worst = e > worst ? e : worst;
        e = gap(a->mk_plain + h * d * d, b->mk_plain + h * d * d, d, d);
        worst = e > worst ? e : worst;
    }
    for (h = 0; h < s->n_q_heads; h++) {
        e = fabs(a->mass[h] - b->mass[h]) / (b->mass[h] + 1e-30);
        worst = e > worst ? e : worst;
    }
    CHECK(a->n_tokens == b->n_tokens && a->n_queries == b->n_queries);
    return worst;
}

/* Sums of doubles in another order: the tolerance is rounding only. */
TEST(order_and_merge)
{
    data set[3];
    skv_profiler_desc d;
    skv_profiler *all, *back, *part[3];
    int i;
    for (i = 0; i < 3; i++) set[i] = make(70 + 31 * (size_t)i, layer_of(4, 2, 16, 20));
    d = desc_of(&set[0], 2, 4, 16);
    all = profiler_of(&set[0], &d);
    CHECK(add(all, &set[1]) == SKV_OK && add(all, &set[2]) == SKV_OK);
    back = profiler_of(&set[2], &d);
    CHECK(add(back, &set[0]) == SKV_OK && add(back, &set[1]) == SKV_OK);
    CHECK_NEAR(same_sums(back, all), 0, 1e-13);
    for (i = 0; i < 3; i++) part[i] = profiler_of(&set[i], &d);
    CHECK(skv_profiler_merge(part[1], part[2]) == SKV_OK);
    CHECK(skv_profiler_merge(part[0], part[1]) == SKV_OK);
    CHECK_NEAR(same_sums(part[0], all), 0, 1e-13);
    skv_profiler_free(all);
    skv_profiler_free(back);
    for (i = 0; i < 3; i++) {
        skv_profiler_free(part[i]);
        drop(&set[i]);
    }
}

/* Sums taken out of one profiler and given to another are as if it had seen the passages. */
TEST(sums_travel)
{
    static const float freqs[3] = {1, 0.3f, 0.01f};
    data x = make(90, layer_of(6, 3, 16, 20));
    skv_profiler_desc d = desc_of(&x, 2, 4, 16);
    skv_profiler *a = NULL, *b = NULL;
    size_t n = 0, i = 0;
    double *s, *t;
    CHECK(skv_profiler_init(&a, &d) == SKV_OK && skv_profiler_init(&b, &d) == SKV_OK);
    CHECK(skv_profiler_rope(a, 0, SKV_ROPE_HALVES, freqs, 3) == SKV_OK);
    CHECK(skv_profiler_sums(b, 0, NULL, 0, &i) == SKV_OK);
    CHECK(skv_profiler_rope(b, 0, SKV_ROPE_HALVES, freqs, 3) == SKV_OK);
    CHECK(skv_profiler_sums(a, 0, NULL, 0, &n) == SKV_OK && n > i);
    s = malloc(2 * n * sizeof *s);
    t = s + n;
    CHECK(add(a, &x) == SKV_OK);
    CHECK(skv_profiler_sums(a, 0, s, n - 1, &n) == SKV_ERR_ARG);
    CHECK(skv_profiler_sums(a, 1, s, n, &n) == SKV_ERR_ARG);
    CHECK(skv_profiler_sums(a, 0, s, n, &n) == SKV_OK);
    CHECK(s[0] == 86 && s[1] == a->player[0].n_queries && s[n - 1] == a->player[0].mass[5]);
    CHECK(skv_profiler_add_sums(b, 0, s, n + 1) == SKV_ERR_SHAPE);
    CHECK(skv_profiler_add_sums(b, 1, s, n) == SKV_ERR_ARG);
    for (i = 0; i < 4; i++) {                   /* nothing of what is refused is added */
        double keep = s[i < 2 ? n - 1 : 0];
        s[i < 2 ? n - 1 : 0] = i == 0 ? NAN : i == 1 ? INFINITY : i == 2 ? -1 : 0.5;
        CHECK(skv_profiler_add_sums(b, 0, s, n) == (i < 2 ? SKV_ERR_NOT_FINITE : SKV_ERR_ARG));
        s[i < 2 ? n - 1 : 0] = keep;
    }
    CHECK(b->player[0].n_tokens == 0 && b->player[0].k[0].gram[0] == 0);
    CHECK(skv_profiler_add_sums(b, 0, s, n) == SKV_OK);
    CHECK(skv_profiler_sums(b, 0, t, n, &n) == SKV_OK && !memcmp(s, t, n * sizeof *s));
    CHECK(skv_profiler_add_sums(b, 0, s, n) == SKV_OK);         /* adds, not sets */
    CHECK(skv_profiler_sums(b, 0, t, n, &n) == SKV_OK);
    for (i = 0; i < n; i++) CHECK(t[i] == 2 * s[i]);
    free(s);
    skv_profiler_free(a);
    skv_profiler_free(b);
    drop(&x);
}

/* Heads that say the same but for a little noise: sharing a latent space must pay. */
static data alike(size_t n, uint32_t n_kv, size_t d)
{
    data x = make(n, layer_of(n_kv, n_kv, (uint32_t)d, (uint32_t)d));
    size_t t, h, i;
    for (t = 0; t < n; t++)
        for (h = 1; h < n_kv; h++)
            for (i = 0; i < d; i++) {
                float *k = x.k + (t * n_kv + h) * d + i, *v = x.v + (t * n_kv + h) * d + i;
                *k = x.k[t * n_kv * d + i] + 0.01f * *k;
                *v = x.v[t * n_kv * d + i] + 0.01f * *v;
            }
    return x;
}

TEST(head_group_by_price)
{
    uint32_t g = 0, like;
    for (like = 0; like < 2; like++) {
        data x = like ? alike(NMAX, 4, 16) : make(NMAX, layer_of(4, 4, 16, 16));
        skv_profiler_desc d = desc_of(&x, 4, 4, 16);
        skv_profiler *p = profiler_of(&x, &d), *two = NULL;
        skv_target t = SKV_ZERO;
        t.bpe = 3;
        CHECK(skv_profiler_choose_group(p, &t, 0, &g) == SKV_OK && g == 4);
        CHECK(skv_profiler_choose_group(p, &t, 100, &g) == SKV_OK && g == 1);
        /* three more heads at 0.3 bits: worth it only where they are alike */
        CHECK(skv_profiler_choose_group(p, &t, 0.3, &g) == SKV_OK && g == (like ? 4u : 1u));
        CHECK(skv_profiler_narrow(p, 2, &two) == SKV_OK);
        CHECK(skv_profiler_choose_group(two, NULL, 0, &g) == SKV_OK && g == 2);
        skv_profiler_free(two);
        CHECK(skv_profiler_narrow(p, 3, &two) == SKV_OK);   /* 4 heads: 3 and 1 */
        skv_profiler_free(two);
        CHECK(skv_profiler_choose_group(p, &t, -1, &g) == SKV_ERR_ARG);
        CHECK(skv_profiler_choose_group(p, &t, NAN, &g) == SKV_ERR_ARG);
        CHECK(skv_profiler_choose_group(NULL, &t, 1, &g) == SKV_ERR_ARG);
        CHECK(skv_profiler_choose_group(p, &t, 1, NULL) == SKV_ERR_ARG);
        skv_profiler_free(p);
        drop(&x);
    }
}

TEST(merge_refuses_other_models)
{
    skv_profiler_desc d, other;
    skv_profiler *p = NULL, *o = NULL;
    float wo[64];
    skv_span w = skv_f32(wo);
    int i;
    for (i = 0; i < 64; i++) wo[i] = 1;
    memset(&d, 0, sizeof d);
    d.model.n_layers = 2;
    d.model.layer = layer_of(4, 2, 16, 16);
    d.max_passage = 64;
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    CHECK(skv_profiler_merge(p, p) == SKV_ERR_ARG && skv_profiler_merge(p, NULL) == SKV_ERR_ARG);
    for (i = 0; i < 12; i++) {
        other = d;
        if (i == 0) other.model.n_layers = 1;
        if (i == 1) other.head_group = 2;       /* holds groups of 1, not the other way */
        if (i == 2) other.sinks = 5;
        if (i == 3) other.window = 65;
        if (i == 4) other.model.layer.n_q_heads = 8;
        if (i == 5) other.model.layer.n_kv_heads = 4;
        if (i == 6) other.model.layer.head_dim = 17;
        if (i == 7) other.model.layer.head_dim_v = 17;
        if (i == 8) other.model.layer.scale = 0.2f;
        if (i == 9) other.model.layer.softcap = 50;
        if (i == 10) other.model.layer.sliding_window = 512;
        CHECK(skv_profiler_init(&o, &other) == SKV_OK);
        if (i == 11) CHECK(skv_profiler_output(o, 1, &w, 1) == SKV_OK);
        CHECK((i == 1 ? skv_profiler_merge(o, p) : skv_profiler_merge(p, o)) == SKV_ERR_SHAPE);
        skv_profiler_free(o);
    }
    other = d;
    d.model.fingerprint = 1;
    other.model.fingerprint = 2;        /* the same shapes of another model */
    skv_profiler_free(p);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK && skv_profiler_init(&o, &other) == SKV_OK);
    CHECK(skv_profiler_merge(p, o) == SKV_ERR_MODEL);
    skv_profiler_free(p);
    skv_profiler_free(o);
}

/* ---- the fit ---- */

/* M of one KV head by its definition, with the share of an idle head: 1 % of the layer's mean
   weight in the shape of the plain Gram. */
static void oracle_metric(const skv_layer *l, int kind, size_t head, double *m)
{
    size_t d = kind ? l->head_dim_v : l->head_dim, nk = l->n_kv_heads, g = l->n_q_heads / nk;
    size_t h, i, j, r;
    double trace = 0, plain_trace = 0;
    static double w[QMAX][DMAX * DMAX], plain[DMAX * DMAX];
    memset(plain, 0, sizeof plain);
    memset(m, 0, d * d * sizeof *m);
    memset(w, 0, sizeof w);
    for (h = 0; kind && h < l->n_q_heads; h++)
        for (i = 0; i < d; i++)
            for (j = 0; j < d; j++) {
                w[h][i * d + j] = !oracle.n_out && i == j;
                for (r = 0; r < oracle.n_out; r++)
                    w[h][i * d + j] += oracle.wo[(r * l->n_q_heads + h) * d + i] *
                                       oracle.wo[(r * l->n_q_heads + h) * d + j];
            }
    for (h = 0; h < l->n_q_heads && kind; h++)
        for (i = 0; i < d * d; i++) {
            trace += i % (d + 1) ? 0 : oracle.mass[h] * w[h][i];
            m[i] += h / g == head ? oracle.mass[h] * w[h][i] : 0;
            plain[i] += h / g == head ? w[h][i] : 0;
        }
    for (h = 0; h < nk && !kind; h++)
        for (i = 0; i < d * d; i++) {
            trace += i % (d + 1) ? 0 : oracle.mk[h * d * d + i];
            m[i] += h == head ? oracle.mk[h * d * d + i] : 0;
            plain[i] += h == head ? oracle.plain[h * d * d + i] : 0;
        }
    for (i = 0; i < d; i++) plain_trace += plain[i * d + i];
    for (i = 0; i < d * d; i++)
        m[i] = (m[i] + 0.01 * trace / (double)nk * plain[i] / plain_trace) / oracle.queries;
}

/* Mean and covariance of the whitened latents of one stream over the oracle's sums: 0 and 1. */
static void check_decorrelated(const skv_profile *f, int kind, size_t g)
{
    const skvi_stream *s = skvi_stream_at(f, 0, kind, g);
    size_t D = s->D, all = f->layers[0].n_kv_heads * (size_t)s->dim, i, j, x, y;
    size_t at = g * f->head_group * s->dim;
    double n = oracle.tokens, worst = 0;
    const double *sum = oracle.sum[kind] + at, *gram = oracle.gram[kind] + at * all + at;
    for (i = 0; i < D; i++)
        CHECK_NEAR(s->mean[i], sum[i] / n, 1e-6 * sqrt(gram[i * (all + 1)] / n));
    for (i = 0; i < D; i++)
        for (j = i; j < D; j++) {
            double e = 0;
            for (x = 0; x < D; x++)
                for (y = 0; y < D; y++)
                    e += (double)s->enc[i * D + x] * (double)s->enc[j * D + y] *
                         (gram[x * all + y] / n - sum[x] / n * (sum[y] / n));
            e = fabs(e - (i == j));
            if (!(e <= worst)) worst = e;
        }
    CHECK_NEAR(worst, 0, 1e-3);
}

/* enc dec^T = 1, variances fall, and |z|^2 = sum var u^2 = x^T M x for any x. */
static void check_transform(const skv_profile *f, int kind, size_t g)
{
    const skvi_stream *s = skvi_stream_at(f, 0, kind, g);
    size_t D = s->D, d = s->dim, i, j, c, h, trial;
    static double m[KMAX][DMAX * DMAX];
    double worst = 0, x[KMAX * DMAX];
    for (i = 0; i < D; i++)
        for (j = 0; j < D; j++) {
            double e = 0;
            for (c = 0; c < D; c++)
                e += (double)s->enc[i * D + c] * (double)s->dec[j * D + c];
            e = fabs(e - (i == j)) * sqrt((double)s->var[i] / (double)s->var[j]);
            if (!(e <= worst)) worst = e;
        }
    CHECK_NEAR(worst, 0, 1e-4);
    for (c = 0; c < D; c++) CHECK(s->var[c] > 0 && (!c || s->var[c] <= s->var[c - 1]));
    for (h = 0; h < s->heads; h++)
        oracle_metric(&f->layers[0], kind, g * f->head_group + h, m[h]);
    for (trial = 0; trial < 20; trial++) {
        double z2 = 0, xmx = 0;
        for (i = 0; i < D; i++) x[i] = test_normal();
        for (c = 0; c < D; c++) {
            double u = 0;
            for (i = 0; i < D; i++) u += (double)s->enc[c * D + i] * x[i];
            z2 += (double)s->var[c] * u * u;
        }
        for (h = 0; h < s->heads; h++)
            for (i = 0; i < d; i++)
                for (j = 0; j < d; j++) xmx += x[h * d + i] * m[h][i * d + j] * x[h * d + j];
        CHECK_NEAR(z2 / xmx, 1, 2e-3);
    }
}

static void fit_case(uint32_t head_group, size_t n_out)
{
    static float wo[OUTMAX * QMAX * DMAX];
    skv_layer l = layer_of(6, 3, 16, 20);
    skv_profiler_desc d;
    skv_profiler *p = NULL;
    skv_profile *f = NULL;
    skv_span w = skv_f32(wo);
    data x = make(180, l);
    size_t i, g;
    oracle_clear();
    oracle.n_out = n_out;
    for (i = 0; i < n_out * 6 * 20; i++) oracle.wo[i] = (double)(wo[i] = (float)test_normal());
    oracle_add(&x, 4, 32, 0, 1);
    d = desc_of(&x, head_group, 4, 32);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    if (n_out) CHECK(skv_profiler_output(p, 0, &w, n_out) == SKV_OK);
    CHECK(add(p, &x) == SKV_OK && skv_profiler_fit(p, NULL, &f) == SKV_OK);
    for (g = 0; g < skvi_groups(&l, head_group); g++)
        for (i = 0; i < 2; i++) {
            const float *var = NULL;
            size_t n = 0;
            check_decorrelated(f, (int)i, g);
            check_transform(f, (int)i, g);
            CHECK(skv_profile_spectrum(f, 0, (skv_kind)i, (uint32_t)g, &var, &n) == SKV_OK);
            CHECK(var == skvi_stream_at(f, 0, (int)i, g)->var && n % (i ? 20 : 16) == 0);
        }
    skv_profile_free(f);
    skv_profiler_free(p);
    drop(&x);
}

TEST(latents_per_head) { fit_case(1, 0); }
TEST(latents_of_pairs) { fit_case(2, 0); }
TEST(latents_joint) { fit_case(3, 0); }
TEST(latents_with_output_projection) { fit_case(3, 20); }

/* A projection with singular values from 1 to 1/100: its Gram's eigenvalues span four decades, and
   the metric keeps all of them, not only the large ones. */
TEST(weak_directions_of_the_metric)
{
    data x = make(150, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 32);
    skv_profiler *p = NULL;
    skv_profile *f = NULL;
    float wo[16 * 32];
    static double m[DMAX * DMAX];
    skv_span w = skv_f32(wo);
    size_t i, c;
    oracle_clear();
    oracle.n_out = 16;
    for (i = 0; i < 16 * 32; i++) {
        wo[i] = i / 32 == i % 16 ? (float)pow(10, -2 * (double)(i % 16) / 15) : 0;
        oracle.wo[i] = (double)wo[i];
    }
    oracle_add(&x, 4, 32, 0, 1);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK && skv_profiler_output(p, 0, &w, 16) == SKV_OK);
    CHECK(add(p, &x) == SKV_OK && skv_profiler_fit(p, NULL, &f) == SKV_OK);
    oracle_metric(&x.l, SKV_V, 0, m);
    for (i = 0; i < 16; i++) {
        const skvi_stream *s = skvi_stream_at(f, 0, SKV_V, 0);
        double z2 = 0;
        for (c = 0; c < 16; c++)
            z2 += (double)s->var[c] * (double)s->enc[c * 16 + i] * (double)s->enc[c * 16 + i];
        CHECK_NEAR(z2 / m[i * 17], 1, 0.02);
    }
    skv_profile_free(f);
    skv_profiler_free(p);
    drop(&x);
}

/* |(K - K^) Q^T|^2 of one head group, K^ from the first r channels; K centred by the fit's mean.
   a [n][heads * g * n] is scratch for the exact product. */
static double truncated(const data *x, const skv_profile *f, size_t g, size_t r)
{
    const skvi_stream *s = skvi_stream_at(f, 0, SKV_K, g);
    size_t D = s->D, d = s->dim, nk = x->l.n_kv_heads, nq = x->l.n_q_heads, per = nq / nk;
    size_t t, i, c, h, first = g * f->head_group;
    double total = 0, e[KMAX * DMAX];
    for (t = 0; t < x->n; t++) {
        for (i = 0; i < D; i++)
            e[i] = (double)x->k[t * nk * d + first * d + i] - (double)s->mean[i];
        for (c = 0; c < r; c++) {
            double u = 0;
            for (i = 0; i < D; i++)
                u += (double)s->enc[c * D + i] *
                     ((double)x->k[t * nk * d + first * d + i] - (double)s->mean[i]);
            for (i = 0; i < D; i++) e[i] -= u * (double)s->dec[c * D + i];
        }
        for (h = first * per; h < (first + s->heads) * per; h++)
            for (i = 0; i < x->n; i++) {
                double score = 0;
                for (c = 0; c < d; c++)
                    score += e[(h / per - first) * d + c] * (double)x->q[(i * nq + h) * d + c];
                total += score * score;
            }
    }
    return total;
}

/* Singular values of [K_h - mean] Q_h^T, the heads of the group side by side. */
static void exact_svd(const data *x, const skv_profile *f, size_t g, double *sv)
{
    const skvi_stream *s = skvi_stream_at(f, 0, SKV_K, g);
    size_t d = s->dim, n = x->n, nk = x->l.n_kv_heads, nq = x->l.n_q_heads, per = nq / nk;
    size_t first = g * f->head_group, cols = s->heads * per * n, t, h, i, c;
    double *a = (double *)calloc(n * cols + n * n + n * cols, sizeof *a), *ut = a + n * cols;
    double *work = (double *)malloc(skv_svd_scratch(n, cols) * sizeof *work);
    double mean[KMAX * DMAX];
    for (c = 0; c < s->D; c++)
        for (mean[c] = 0, t = 0; t < n; t++)
            mean[c] += (double)x->k[t * nk * d + first * d + c] / (double)n;
    for (t = 0; t < n; t++)
        for (h = 0; h < s->heads * per; h++)
            for (i = 0; i < n; i++)
                for (c = 0; c < d; c++)
                    a[t * cols + h * n + i] +=
                        ((double)x->k[(t * nk + first + h / per) * d + c] - mean[h / per * d + c]) *
                        (double)x->q[(i * nq + first * per + h) * d + c];
    CHECK(skv_svd(a, n, cols, cols, sv, ut, ut + n * n, work, 0, NULL) == SKV_OK);
    free(work);
    free(a);
}

/* No token is ever far, so that M_K is the plain query Gram: KQ-SVD. The first r channels reach
   the best rank r, and the rest of the spectrum says how far off that is. */
static void kq_svd_case(uint32_t head_group)
{
    data x = make(72, layer_of(4, 2, 16, 16));
    skv_profiler_desc d = desc_of(&x, head_group, SKV_NONE, 4096);
    skv_profile *f = fit_of(&x, &d);
    double sv[72];
    size_t g, r, i;
    for (g = 0; g < 2 / head_group; g++) {
        const skvi_stream *s = skvi_stream_at(f, 0, SKV_K, g);
        exact_svd(&x, f, g, sv);
        for (r = 1; r < s->D; r += 5) {
            double best = 0, tail = 0, scale2 = 1.0 / 16;
            for (i = r; i < s->D; i++) best += sv[i] * sv[i];
            for (i = r; i < s->D; i++) tail += (double)s->var[i] * 72 * 72;
            CHECK_NEAR(truncated(&x, f, g, r) / best, 1, 1e-3);
            CHECK_NEAR(tail / (scale2 * best), 1, 1e-3);
        }
    }
    skv_profile_free(f);
    drop(&x);
}

TEST(kq_svd_optimum_per_head) { kq_svd_case(1); }
TEST(kq_svd_optimum_joint) { kq_svd_case(2); }

/* The heads of synthetic.h share 0.64 of their variance, so one latent space for all wins. */
TEST(joint_groups_beat_single_heads)
{
    data x = make(190, layer_of(6, 3, 16, 16));
    skv_profile *f[2];
    skv_outlook o[2];
    skv_target t;
    double bpe;
    uint32_t i;
    memset(&t, 0, sizeof t);
    for (i = 0; i < 2; i++) {
        skv_profiler_desc d = desc_of(&x, i ? 3 : 1, 4, 32);
        f[i] = fit_of(&x, &d);
    }
    for (bpe = 1.5; bpe < 5; bpe += 0.5) {
        t.bpe = (float)bpe;
        for (i = 0; i < 2; i++) CHECK(skv_profile_outlook(f[i], &t, &o[i]) == SKV_OK);
        CHECK(o[1].error < 0.9 * o[0].error);
    }
    for (i = 0; i < 2; i++) skv_profile_free(f[i]);
    drop(&x);
}

/* ---- invariances ---- */

static double sum_var(const skv_profile *f, int kind)
{
    const float *var = NULL;
    size_t n = 0, i;
    double sum = 0;
    CHECK(skv_profile_spectrum(f, 0, (skv_kind)kind, 0, &var, &n) == SKV_OK);
    for (i = 0; i < n; i++) sum += (double)var[i];
    return sum;
}

/* Every variance of b is `ratio` times that of a, of K and of V. */
static void check_ratio(const skv_profile *a, const skv_profile *b, double k, double v)
{
    int kind;
    size_t i, g, n_groups = skvi_groups(&a->layers[0], a->head_group);
    for (kind = 0; kind < 2; kind++)
        for (g = 0; g < n_groups; g++) {
            const skvi_stream *s = skvi_stream_at(a, 0, kind, g);
            const skvi_stream *t = skvi_stream_at(b, 0, kind, g);
            double want = kind ? v : k, top = want * (double)s->var[0];
            for (i = 0; i < s->D; i++)
                CHECK_NEAR((double)t->var[i], want * (double)s->var[i],
                           1e-5 * want * (double)s->var[i] + 1e-12 * top);
        }
}

TEST(prices_scale_variances)
{
    data x = make(150, layer_of(4, 2, 16, 20));
    skv_profiler_desc d = desc_of(&x, 2, 4, 32);
    skv_profiler *p = profiler_of(&x, &d);
    skv_profile *a = NULL, *b = NULL;
    CHECK(skv_profiler_fit(p, NULL, &a) == SKV_OK);
    CHECK(skv_profiler_price(p, 0, 3, 0.25) == SKV_OK);
    CHECK(skv_profiler_fit(p, NULL, &b) == SKV_OK);
    check_ratio(a, b, 3, 0.25);
    skv_profile_free(b);
    CHECK(skv_profiler_price(p, 0, 1e-9, 1e9) == SKV_OK);
    CHECK(skv_profiler_fit(p, NULL, &b) == SKV_OK);
    check_ratio(a, b, 1e-9, 1e9);
    skv_profile_free(b);
    CHECK(skv_profiler_price(p, 1, 1, 1) == SKV_ERR_ARG);
    CHECK(skv_profiler_price(p, 0, -1, 1) == SKV_ERR_ARG);
    CHECK(skv_profiler_price(p, 0, 1, NAN) == SKV_ERR_ARG);
    CHECK(skv_profiler_price(p, 0, INFINITY, 1) == SKV_ERR_ARG);
    CHECK(skv_profiler_price(NULL, 0, 1, 1) == SKV_ERR_ARG);
    CHECK(skv_profiler_fit(p, NULL, &b) == SKV_OK);        /* refused prices change nothing */
    check_ratio(a, b, 1e-9, 1e9);
    skv_profile_free(b);
    skv_profile_free(a);
    skv_profiler_free(p);
    drop(&x);
}

/* Errors that cost nothing: no bits, but a transform that still works. */
TEST(price_zero)
{
    data x = make(150, layer_of(4, 2, 16, 16));
    skv_profiler_desc d = desc_of(&x, 2, 4, 32);
    skv_profiler *p = profiler_of(&x, &d);
    skv_profile *a = NULL;
    skv_target t;
    skv_outlook o;
    memset(&t, 0, sizeof t);
    t.bpe = 2;
    CHECK(skv_profiler_price(p, 0, 0, 1) == SKV_OK);
    CHECK(skv_profiler_fit(p, NULL, &a) == SKV_OK);
    CHECK(a && skv_profile_outlook(a, &t, &o) == SKV_OK);
    CHECK(o.bpe_k < 0.05 && o.bpe_v > 3);
    CHECK(sum_var(a, SKV_K) < 1e-9 * sum_var(a, SKV_V));
    skv_profile_free(a);
    skv_profiler_free(p);
    drop(&x);
}

/* The fit is a mean over queries and tokens: seeing everything twice changes nothing, with far
   tokens or without. */
TEST(more_of_the_same_changes_nothing)
{
    uint32_t window;
    for (window = 32; window <= 4096; window += 4096 - 32) {
        data x = make(100, layer_of(4, 2, 16, 20));
        skv_profiler_desc d = desc_of(&x, 2, 4, window);
        skv_profiler *p = profiler_of(&x, &d);
        skv_profile *a = NULL, *b = NULL;
        CHECK(skv_profiler_fit(p, NULL, &a) == SKV_OK);
        CHECK(add(p, &x) == SKV_OK && skv_profiler_fit(p, NULL, &b) == SKV_OK);
        check_ratio(a, b, 1, 1);
        skv_profile_free(a);
        skv_profile_free(b);
        skv_profiler_free(p);
        drop(&x);
    }
}

/* Powers of two are exact: scores stay, errors are in units of V. */
TEST(units)
{
    static const double shift[4] = {1, 1.0 / (1 << 20), 1 << 14, 1.0 / 64};
    int i, j;
    for (i = 0; i < 4; i++)
        for (j = 0; j < 2; j++) {
            data x = make(120, layer_of(4, 2, 16, 16));
            skv_profiler_desc d = desc_of(&x, 1, 4, 32);
            skv_profile *a = fit_of(&x, &d), *b;
            double s = shift[i];
            if (j) scale_data(&x, 1 / s, s, 1);
            else scale_data(&x, 1, 1, s);
            b = fit_of(&x, &d);
            check_ratio(a, b, j ? 1 : s * s, j ? 1 : s * s);
            skv_profile_free(a);
            skv_profile_free(b);
            drop(&x);
        }
}

/* ---- degenerate input ---- */

/* All numbers finite, variances positive and falling, enc and dec inverse to each other. */
static void check_sound(const skv_profile *f)
{
    uint32_t i;
    CHECK(f != NULL);
    for (i = 0; f && i < f->n_streams; i++) {
        const skvi_stream *s = &f->stream[i];
        size_t D = s->D, c, j, x;
        double worst = 0;
        int bad = 0;
        for (c = 0; c < D * D; c++)
            bad |= !skvi_is_finite(s->enc[c]) || !skvi_is_finite(s->dec[c]);
        for (c = 0; c < D; c++)
            bad |= !skvi_is_finite(s->mean[c]) || !skvi_is_finite(s->var[c]) || !(s->var[c] > 0) ||
                   (c && s->var[c] > s->var[c - 1]);
        CHECK(!bad);
        for (c = 0; c < D; c++)
            for (j = 0; j < D; j++) {
                double e = 0, sd = sqrt((double)s->var[c] / (double)s->var[j]);
                for (x = 0; x < D; x++)
                    e += (double)s->enc[c * D + x] * (double)s->dec[j * D + x];
                e = fabs(e - (c == j)) * sd;
                if (!(e <= worst)) worst = e;
            }
        CHECK_NEAR(worst, 0, 1e-3);
    }
}

enum { ZERO_K = 1, ZERO_V = 2, FLAT_K = 4, FLAT_V = 8, RANK_K = 16, RANK_V = 32, ZERO_Q = 64,
       TWINS = 128 };

static void degenerate(data *x, int how)
{
    size_t t, i, nk = x->l.n_kv_heads, d = x->l.head_dim, dv = x->l.head_dim_v, K = nk * d;
    size_t V = nk * dv;
    if (how & ZERO_Q) memset(x->q, 0, x->n * x->l.n_q_heads * d * sizeof(float));
    if (how & ZERO_K) memset(x->k, 0, x->n * K * sizeof(float));
    if (how & ZERO_V) memset(x->v, 0, x->n * V * sizeof(float));
    for (t = 1; t < x->n; t++) {
        for (i = 0; i < K && (how & FLAT_K); i++) x->k[t * K + i] = x->k[i];
        for (i = 0; i < V && (how & FLAT_V); i++) x->v[t * V + i] = x->v[i];
    }
    for (t = 0; t < x->n; t++) {                /* two directions only */
        float a = x->k[t * K], b = x->k[t * K + 1], y = x->v[t * V], z = x->v[t * V + 1];
        for (i = 0; i < K && (how & RANK_K); i++)
            x->k[t * K + i] = a * (float)(i % 5) + b * (float)(i % 3);
        for (i = 0; i < V && (how & RANK_V); i++)
            x->v[t * V + i] = y * (float)(i % 7) - z * (float)(i % 2);
        for (i = 0; i < d && (how & TWINS); i++) x->k[t * K + d + i] = x->k[t * K + i];
        for (i = 0; i < dv && (how & TWINS); i++) x->v[t * V + dv + i] = x->v[t * V + i];
    }
}

TEST(degenerate_streams_stay_finite)
{
    static const int how[] = {ZERO_K, ZERO_V, FLAT_K, FLAT_V, RANK_K, RANK_V, ZERO_Q, TWINS,
                              ZERO_K | ZERO_V, ZERO_K | ZERO_V | ZERO_Q, FLAT_K | FLAT_V,
                              RANK_K | RANK_V, RANK_K | FLAT_V, RANK_K | TWINS};
    static const double size[] = {1, 1e-6, 1e4};
    size_t i, j, group;
    for (i = 0; i < sizeof how / sizeof how[0]; i++)
        for (j = 0; j < 3; j++)
            for (group = 1; group <= 2; group++) {
                data x = make(100, layer_of(4, 2, 16, 20));
                skv_profiler_desc d = desc_of(&x, (uint32_t)group, 4, 32);
                skv_profile *f;
                degenerate(&x, how[i]);
                scale_data(&x, size[j], size[j], size[j]);
                f = fit_of(&x, &d);
                check_sound(f);
                skv_profile_free(f);
                drop(&x);
            }
}

/* 64 tokens in a joint space of 96 channels */
TEST(fewer_tokens_than_channels)
{
    data x = make(68, layer_of(6, 3, 32, 32));
    skv_profiler_desc d = desc_of(&x, 3, 4, 16);
    skv_profile *f = fit_of(&x, &d);
    check_sound(f);
    skv_profile_free(f);
    drop(&x);
}

/* A stream that never moves needs no bits, however small the numbers of the others are. */
TEST(constant_keys_take_no_bits)
{
    static const double size[] = {1, 1e-3, 1e-6};
    int i, how;
    for (i = 0; i < 3; i++)
        for (how = ZERO_K; how <= FLAT_K; how += FLAT_K - ZERO_K) {
            data x = make(120, layer_of(4, 2, 16, 16));
            skv_profiler_desc d = desc_of(&x, 1, 4, 32);
            skv_profile *f;
            skv_outlook o;
            skv_target t;
            memset(&t, 0, sizeof t);
            t.bpe = 2;
            degenerate(&x, how);
            scale_data(&x, 1, 1, size[i]);
            f = fit_of(&x, &d);
            CHECK(skv_profile_outlook(f, &t, &o) == SKV_OK);
            CHECK(o.bpe_k < 0.05 + 32.0 / 1024 && o.bpe_v > 3);
            skv_profile_free(f);
            drop(&x);
        }
}

/* Values of head 0 are constant, so that no score error of head 0 can be felt here: its keys keep
   1 % of the layer's mean weight, and get bits. */
TEST(idle_head_is_not_starved)
{
    data x = make(150, layer_of(4, 2, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 32);
    skv_codec_desc cd = SKV_ZERO;
    skv_codec *c = NULL;
    skv_profile *f;
    size_t t, i;
    for (t = 0; t < x.n; t++)
        for (i = 0; i < 16; i++) x.v[t * 32 + i] = 1;
    f = fit_of(&x, &d);
    oracle_clear();
    oracle_add(&x, 4, 32, 0, 1);
    CHECK(oracle.mk[0] < 1e-9 * oracle.mk[256]);
    check_transform(f, SKV_K, 0);
    cd.profile = f;
    cd.target.bpe = 4;
    CHECK(skv_codec_init(&c, &cd) == SKV_OK);
    CHECK(c && c->coder.plan[0].coded >= 8);
    skv_codec_free(c);
    skv_profile_free(f);
    drop(&x);
}

/* Finite input of any size is either refused, sums unchanged, or gives a finite fit. */
TEST(huge_magnitudes)
{
    static const double size[] = {1e4, 1e8, 1e9, 1e12, 1e30};
    static float wo[20 * 2 * 16];
    int i, which;
    size_t j;
    for (i = 0; i < 5; i++)
        for (which = 0; which < 16; which++) {
            data x = make(100, layer_of(2, 1, 16, 16)), y = make(100, layer_of(2, 1, 16, 16));
            skv_profiler_desc d = desc_of(&x, 1, 4, 32);
            skv_profiler *p = NULL;
            skv_profile *f = NULL;
            skv_span w = skv_f32(wo);
            skv_result r;
            for (j = 0; j < 20 * 2 * 16; j++)
                wo[j] = (float)(test_uniform() * (which & 8 ? size[i] : 1));
            scale_data(&y, which & 1 ? size[i] : 1, which & 2 ? size[i] : 1,
                       which & 4 ? size[i] : 1);
            for (j = 0; j < 100 * 16 && i == 2 && which & 4; j++)   /* as large as is taken */
                y.v[j] = y.v[j] > 0 ? 1e9f : -1e9f;
            CHECK(skv_profiler_init(&p, &d) == SKV_OK);
            r = skv_profiler_output(p, 0, &w, 20);
            CHECK(r == SKV_OK || (r == SKV_ERR_RANGE && i > 0));
            CHECK(add(p, &x) == SKV_OK);
            r = add(p, &y);
            CHECK(r == SKV_OK || (r == SKV_ERR_RANGE && i > 0));
            CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK);
            if (f) check_sound(f);
            skv_profile_free(f);
            skv_profiler_free(p);
            drop(&x);
            drop(&y);
        }
}

/* ---- states and arguments ---- */

TEST(too_few_tokens)
{
    data x = make(68, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, SKV_NONE, 16);
    skv_profiler *p;
    skv_profile *f = NULL, *unset = NULL;
    x.n = 63;
    p = profiler_of(&x, &d);
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_ERR_STATE && f == unset);
    x.n = 1;
    CHECK(add(p, &x) == SKV_OK && skv_profiler_fit(p, NULL, &f) == SKV_OK);
    check_sound(f);
    skv_profile_free(f);
    skv_profiler_free(p);
    f = NULL;
    x.n = 68;
    d.sinks = 4;                                /* 64 that are not sinks */
    p = profiler_of(&x, &d);
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK);
    skv_profile_free(f);
    skv_profiler_free(p);
    f = NULL;
    d.model.n_layers = 2;                       /* every layer must have seen them */
    p = profiler_of(&x, &d);
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_ERR_STATE && f == unset);
    skv_profiler_free(p);
    drop(&x);
}

TEST(not_finite_is_refused_and_nothing_changes)
{
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    data x = make(90, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 16);
    skv_profiler *p = profiler_of(&x, &d);
    unsigned char *before = (unsigned char *)malloc(p->bytes);
    int i, j;
    memcpy(before, p->block, p->bytes);
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) {
            float *at = i == 0 ? &x.q[90 * 32 - 1] : i == 1 ? &x.k[90 * 16 - 1] : &x.v[90 * 16 - 1];
            float keep = *at;
            *at = bad[j];
            CHECK(add(p, &x) == SKV_ERR_NOT_FINITE);
            *at = keep;
        }
    CHECK(!memcmp(before, p->block, p->bytes));
    CHECK(add(p, &x) == SKV_OK);
    CHECK(memcmp(before, p->block, p->bytes) != 0);
    free(before);
    skv_profiler_free(p);
    drop(&x);
}

TEST(arguments_of_add)
{
    data x = make(90, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 16);
    skv_profiler *p = NULL;
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v), bad = skv_f32(NULL);
    skv_span type = skv_make_span(x.k, (skv_dtype)3);
    skv_profile *f = NULL;
    d.max_passage = 89;
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    CHECK(skv_profiler_add(NULL, 0, &q, &k, &v, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 1, &q, &k, &v, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, &k, &v, 0) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, &k, &v, 90) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, NULL, &k, &v, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, NULL, &v, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, &k, NULL, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &bad, &k, &v, 80) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, &type, &v, 80) == SKV_ERR_ARG);
    CHECK(p->player[0].n_tokens == 0 && p->player[0].n_queries == 0);
    CHECK(skv_profiler_fit(NULL, NULL, &f) == SKV_ERR_ARG);
    CHECK(skv_profiler_fit(p, NULL, NULL) == SKV_ERR_ARG);
    CHECK(skv_profiler_add(p, 0, &q, &k, &v, 89) == SKV_OK);
    CHECK(skv_profiler_bytes(NULL) == 0);
    skv_profiler_free(NULL);
    skv_profiler_free(p);
    skv_profile_free(NULL);
    drop(&x);
}

TEST(arguments_of_output)
{
    data x = make(3, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 16);
    skv_profiler *p = NULL;
    float w[4 * 2 * 16];
    skv_span s = skv_f32(w), none = skv_f32(NULL);
    size_t i;
    for (i = 0; i < 4 * 2 * 16; i++) w[i] = (float)test_normal();
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    CHECK(skv_profiler_output(NULL, 0, &s, 4) == SKV_ERR_ARG);
    CHECK(skv_profiler_output(p, 1, &s, 4) == SKV_ERR_ARG);
    CHECK(skv_profiler_output(p, 0, &s, 0) == SKV_ERR_ARG);
    CHECK(skv_profiler_output(p, 0, NULL, 4) == SKV_ERR_ARG);
    CHECK(skv_profiler_output(p, 0, &none, 4) == SKV_ERR_ARG);
    w[127] = NAN;
    CHECK(skv_profiler_output(p, 0, &s, 4) == SKV_ERR_NOT_FINITE);
    w[127] = 1e30f;                             /* its square overflows */
    CHECK(skv_profiler_output(p, 0, &s, 4) == SKV_ERR_RANGE);
    CHECK(p->player[0].wo[0] == 1 && p->player[0].wo[1] == 0);      /* still the identity */
    w[127] = 1;
    CHECK(skv_profiler_output(p, 0, &s, 4) == SKV_OK);
    CHECK(skv_profiler_output(p, 0, &s, 4) == SKV_OK);              /* again: replaces */
    CHECK_NEAR(p->player[0].wo[0],
               w[0] * w[0] + w[32] * w[32] + w[64] * w[64] + w[96] * w[96], 1e-5);
    CHECK(add(p, &x) == SKV_OK);                /* queries count, even of sinks only */
    CHECK(skv_profiler_output(p, 0, &s, 4) == SKV_ERR_STATE);
    skv_profiler_free(p);
    drop(&x);
}

static skv_result init_with(skv_layer l, uint32_t n_layers, uint32_t head_group)
{
    skv_profiler_desc d;
    skv_profiler *p = NULL;
    skv_result r;
    size_t bytes = 7;
    memset(&d, 0, sizeof d);
    d.model.n_layers = n_layers;
    d.model.layer = l;
    d.head_group = head_group;
    d.max_passage = 64;
    r = skv_profiler_init(&p, &d);
    CHECK(skv_profiler_size(&d, &bytes) == r);
    CHECK((r == SKV_OK) == (p != NULL) && (r == SKV_OK) == (bytes != 7));
    skv_profiler_free(p);
    return r;
}

TEST(descriptions_are_checked)
{
    skv_layer l = layer_of(4, 2, 16, 0);
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    syn_counter count = {0, 0, 0, 0, 0, 0, 0};
    size_t bytes;
    CHECK(init_with(l, 1, 0) == SKV_OK && init_with(l, 1, 64) == SKV_OK);
    CHECK(init_with(l, 0, 0) == SKV_ERR_SHAPE && init_with(l, 1u << 17, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(l, 1, 1u << 17) == SKV_ERR_ARG);
    CHECK(init_with(layer_of(0, 2, 16, 0), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 0, 16, 0), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 3, 16, 0), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 2, 15, 0), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 2, 577, 0), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 2, 16, 15), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(4, 2, 16, 577), 1, 0) == SKV_ERR_SHAPE);
    CHECK(init_with(layer_of(1026, 513, 16, 0), 1, 0) == SKV_ERR_SHAPE);
    l.scale = NAN;
    CHECK(init_with(l, 1, 0) == SKV_ERR_ARG);
    l.scale = 0;
    l.softcap = -1;
    CHECK(init_with(l, 1, 0) == SKV_ERR_ARG);
    l.softcap = INFINITY;
    CHECK(init_with(l, 1, 0) == SKV_ERR_ARG);
    d.model.n_layers = 1;
    d.model.layer = layer_of(4, 2, 16, 0);
    CHECK(skv_profiler_init(NULL, &d) == SKV_ERR_ARG && skv_profiler_init(&p, NULL) == SKV_ERR_ARG);
    CHECK(skv_profiler_size(&d, NULL) == SKV_ERR_ARG);
    CHECK(skv_profiler_size(NULL, &bytes) == SKV_ERR_ARG);
    d.allocator.alloc = syn_count_alloc;        /* half an allocator */
    CHECK(skv_profiler_init(&p, &d) == SKV_ERR_ARG && p == NULL);
    d.allocator = syn_allocator(&count);
    count.fail_at = 1;
    d.model.layer = layer_of(65536, 512, 576, 576);
    d.model.n_layers = 65536;                   /* more than any machine has */
    CHECK(skv_profiler_init(&p, &d) == SKV_ERR_MEMORY && p == NULL);
}

/* The default target is checked where it is given, not where it is used. */
TEST(default_target_is_checked)
{
    data x = make(90, layer_of(2, 1, 16, 16));
    skv_profiler_desc d = desc_of(&x, 1, 4, 16);
    skv_profiler *p = profiler_of(&x, &d);
    skv_profile *f = NULL;
    skv_target t;
    int i;
    for (i = 0; i < 5; i++) {
        memset(&t, 0, sizeof t);
        if (i == 0) t.bpe = NAN;
        if (i == 1) t.bpe = -1;
        if (i == 2) t.energy = 1.5f;
        if (i == 3) t.error = INFINITY;
        if (i == 4) t.bpe = t.energy = 0.5f;
        CHECK(skv_profiler_fit(p, &t, &f) == SKV_ERR_ARG && f == NULL);
        skv_profile_free(f);
        f = NULL;
    }
    skv_profiler_free(p);
    drop(&x);
}

/* ---- memory ---- */

TEST(in_the_callers_memory)
{
    data x = make(120, layer_of(4, 2, 16, 20));
    skv_profiler_desc d = desc_of(&x, 2, 4, 32);
    skv_profiler *p = NULL, *q = profiler_of(&x, &d);
    skv_profile *f = NULL, *g = NULL;
    syn_counter count = {0, 0, 0, 0, 0, 0, 0};
    size_t need = 0, shift, i;
    unsigned char *block;
    d.allocator = syn_allocator(&count);
    d.max_passage = 120;
    CHECK(skv_profiler_size(&d, &need) == SKV_OK && need > 0);
    CHECK(skv_profiler_fit(q, NULL, &g) == SKV_OK);
    for (shift = 0; shift < 65; shift += 13) {  /* any alignment */
        count.calls = 0;
        block = (unsigned char *)malloc(need + shift);
        memset(block, 0xA5, need + shift);
        d.memory = block + shift;
        d.memory_bytes = need - 1;
        p = NULL;
        CHECK(skv_profiler_init(&p, &d) == SKV_ERR_MEMORY && p == NULL);
        d.memory_bytes = need;
        CHECK(skv_profiler_init(&p, &d) == SKV_OK);
        CHECK(skv_profiler_bytes(p) == need);
        CHECK(add(p, &x) == SKV_OK && count.calls == 0);
        CHECK(same_sums(p, q) == 0);
        CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK && count.calls == 1);
        skv_profiler_free(p);
        CHECK(count.live_blocks == 1 && count.live_bytes == skv_profile_bytes(f));
        memset(block, 0xEE, need + shift);      /* the profile does not live there */
        free(block);
        check_ratio(g, f, 1, 1);
        for (i = 0; i < 4; i++)
            CHECK(!memcmp(g->stream[i % 2].enc, f->stream[i % 2].enc,
                          (size_t)f->stream[i % 2].D * f->stream[i % 2].D * sizeof(float)));
        skv_profile_free(f);
        CHECK(count.live_blocks == 0 && count.wrong == 0);
    }
    skv_profile_free(g);
    skv_profiler_free(q);
    drop(&x);
}

TEST(allocations)
{
    data x = make(120, layer_of(4, 2, 16, 20));
    skv_profiler_desc d = desc_of(&x, 2, 4, 32);
    skv_profiler *p = NULL;
    skv_profile *f = NULL;
    syn_counter count = {0, 0, 0, 0, 0, 0, 0};
    unsigned char *before;
    size_t i;
    d.allocator = syn_allocator(&count);
    count.fail_at = 1;
    CHECK(skv_profiler_init(&p, &d) == SKV_ERR_MEMORY && p == NULL && count.live_blocks == 0);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    CHECK(skv_profiler_bytes(p) == count.live_bytes);
    CHECK(add(p, &x) == SKV_OK && skv_profiler_bytes(p) == count.live_bytes);
    before = (unsigned char *)malloc(p->bytes);
    memcpy(before, p->block, p->bytes);
    count.fail_at = 1;
    CHECK(add(p, &x) == SKV_ERR_MEMORY);
    for (i = 1; i <= 2; i++) {
        count.fail_at = i;
        CHECK(skv_profiler_fit(p, NULL, &f) == SKV_ERR_MEMORY && f == NULL);
        CHECK(count.live_bytes == skv_profiler_bytes(p));
    }
    CHECK(!memcmp(before, p->block, p->bytes));
    count.fail_at = 0;
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK);
    CHECK(count.live_bytes == skv_profiler_bytes(p) + skv_profile_bytes(f));
    skv_profiler_free(p);
    skv_profile_free(f);
    CHECK(count.live_bytes == 0 && count.live_blocks == 0 && count.wrong == 0);
    free(before);
    drop(&x);
}

/* Layers of different shapes, added in turn, do not touch each other; the description is copied. */
TEST(layers_are_independent)
{
    skv_layer l[2];
    char name[80] = "a name that is longer than the sixty-three bytes that are kept of it.........";
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    skv_profile *f = NULL, *alone;
    int i;
    data x[2];
    const skv_model *m;
    l[0] = layer_of(4, 2, 16, 20);
    l[1] = layer_of(2, 2, 20, 16);
    l[1].softcap = 5;
    d.model.n_layers = 2;
    d.model.layers = l;
    d.model.name = name;
    d.model.fingerprint = 77;
    d.head_group = 2;
    d.window = 32;
    d.max_passage = NMAX;
    for (i = 0; i < 2; i++) x[i] = make(100 + 20 * (size_t)i, l[i]);
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    memset(l, 0xFF, sizeof l);
    memset(name, 0, sizeof name);
    for (i = 1; i >= 0; i--) {
        skv_span q = skv_f32(x[i].q), k = skv_f32(x[i].k), v = skv_f32(x[i].v);
        CHECK(skv_profiler_add(p, (uint32_t)i, &q, &k, &v, x[i].n) == SKV_OK);
    }
    CHECK(skv_profiler_fit(p, NULL, &f) == SKV_OK);
    skv_profiler_free(p);
    m = skv_profile_model(f);
    CHECK(m->n_layers == 2 && m->fingerprint == 77 && strlen(m->name) == 63);
    CHECK(m->layers[1].head_dim == 20 && m->layers[1].softcap == 5);
    for (i = 0; i < 2; i++) {
        skv_profiler_desc one = desc_of(&x[i], 2, 4, 32);
        const skvi_stream *s = skvi_stream_at(f, (uint32_t)i, SKV_V, 0), *t;
        alone = fit_of(&x[i], &one);
        t = skvi_stream_at(alone, 0, SKV_V, 0);
        CHECK(s->D == t->D && !memcmp(s->var, t->var, s->D * sizeof(float)));
        CHECK(!memcmp(s->enc, t->enc, (size_t)s->D * s->D * sizeof(float)));
        skv_profile_free(alone);
        drop(&x[i]);
    }
    skv_profile_free(f);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(sums_of_one_passage);
    RUN(sums_of_types_and_strides);
    RUN(weights_plain);
    RUN(weights_with_output_projection);
    RUN(weights_with_narrow_output);
    RUN(weights_with_softcap);
    RUN(weights_with_sliding_window);
    RUN(weights_with_sliding_window_inside_the_exact_one);
    RUN(weights_without_sinks_and_window);
    RUN(weights_with_many_sinks);
    RUN(weights_with_scale);
    RUN(weights_with_everything);
    RUN(weights_with_large_value_mean);
    RUN(queries_are_sampled_evenly);
    RUN(passages_shorter_than_the_sinks);
    RUN(order_and_merge);
    RUN(sums_travel);
    RUN(head_group_by_price);
    RUN(merge_refuses_other_models);
    RUN(latents_per_head);
    RUN(latents_of_pairs);
    RUN(latents_joint);
    RUN(latents_with_output_projection);
    RUN(weak_directions_of_the_metric);
    RUN(kq_svd_optimum_per_head);
    RUN(kq_svd_optimum_joint);
    RUN(joint_groups_beat_single_heads);
    RUN(prices_scale_variances);
    RUN(price_zero);
    RUN(more_of_the_same_changes_nothing);
    RUN(units);
    RUN(degenerate_streams_stay_finite);
    RUN(fewer_tokens_than_channels);
    RUN(constant_keys_take_no_bits);
    RUN(idle_head_is_not_starved);
    RUN(huge_magnitudes);
    RUN(too_few_tokens);
    RUN(not_finite_is_refused_and_nothing_changes);
    RUN(arguments_of_add);
    RUN(arguments_of_output);
    RUN(descriptions_are_checked);
    RUN(default_target_is_checked);
    RUN(in_the_callers_memory);
    RUN(allocations);
    RUN(layers_are_independent);
    return TEST_END();
}
