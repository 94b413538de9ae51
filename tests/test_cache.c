/* test_cache.c: the cache and its attention. The exact cache stands against a naive attention in
 * double; the compressed cache against the same attention over the rows that skv_reconstruct gives;
 * then where tokens lie, memory, errors and usage, as the manual says. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define PAGE SKV_PAGE_TOKENS

/* With queries and weights of 14 bits unless d says otherwise: nearest to what is compared. */
static skv_cache *cache_new(const skv_cache_desc *desc)
{
    skv_cache_desc d = *desc;
    skv_cache *c = NULL;
    skv_result r;
    if (!d.attend_bits) d.attend_bits = 14;
    r = skv_cache_init(&c, &d);
    CHECK(r == SKV_OK);
    if (!c) {
        printf("    skv_cache_init: %s\n", skv_result_name(r));
        exit(1);
    }
    return c;
}

/* One layer of a cache, with the tokens that go into it. */
typedef struct rig {
    skv_cache *c;
    uint32_t layer;
    const skv_layer *l;
    const syn_data *x;
    size_t wq, wk, wv, wo;          /* elements of a token */
} rig;

static rig rig_new(skv_cache *c, uint32_t layer, const syn_data *x)
{
    rig r;
    r.c = c;
    r.layer = layer;
    r.l = &c->layers[layer];
    r.x = x;
    r.wq = (size_t)r.l->n_q_heads * r.l->head_dim;
    r.wk = (size_t)r.l->n_kv_heads * r.l->head_dim;
    r.wv = (size_t)r.l->n_kv_heads * r.l->head_dim_v;
    r.wo = (size_t)r.l->n_q_heads * r.l->head_dim_v;
    return r;
}

static float *floats(size_t n)
{
    float *p = (float *)malloc((n + 1) * sizeof(float));
    if (!p) abort();
    return p;
}

static size_t rig_total(const rig *r) { return skv_cache_tokens(r->c, r->layer); }

static skv_result rig_try_append(const rig *r, size_t n)
{
    size_t at = rig_total(r);
    skv_span k = skv_f32(r->x->k + at * r->wk), v = skv_f32(r->x->v + at * r->wv);
    return skv_append(r->c, r->layer, &k, &v, n);
}

static void rig_append(const rig *r, size_t n) { CHECK(rig_try_append(r, n) == SKV_OK); }

/* The next tokens, n in all, in calls of `piece`. */
static void rig_fill(const rig *r, size_t n, size_t piece)
{
    size_t m;
    for (; n; n -= m) rig_append(r, m = n < piece ? n : piece);
}

static skv_result rig_attend(const rig *r, size_t n, float *out, skv_attn *attn)
{
    skv_span q = skv_f32(r->x->q + (rig_total(r) - n) * r->wq);
    skv_out o = skv_out_f32(out);
    return skv_attend(r->c, r->layer, &q, n, &o, attn);
}

/* All rows held; zeros where a sliding layer has dropped them. */
static void rig_rows(const rig *r, float *k, float *v)
{
    const skvi_clayer *cl = &r->c->cl[r->layer];
    size_t total = rig_total(r), sinks = r->c->sinks < total ? r->c->sinks : total;
    size_t gone = (size_t)cl->dropped * PAGE, from = sinks + gone;
    memset(k + sinks * r->wk, 0, gone * r->wk * sizeof(float));
    memset(v + sinks * r->wv, 0, gone * r->wv * sizeof(float));
    CHECK(skv_reconstruct(r->c, r->layer, 0, sinks, k, v) == SKV_OK);
    CHECK(skv_reconstruct(r->c, r->layer, from, total - from, k + from * r->wk,
                          v + from * r->wv) == SKV_OK);
}

/* What the cache answers to its n newest queries against naive attention over its own rows. */
static void rig_check(const rig *r, size_t n)
{
    size_t total = rig_total(r), i;
    float *k = floats(total * r->wk), *v = floats(total * r->wv), *out = floats(n * r->wo);
    double *want = (double *)malloc(n * r->wo * sizeof(double)), top = 0, far = 0;
    float *lse = floats(n * r->l->n_q_heads);
    double *want_lse = (double *)malloc(n * r->l->n_q_heads * sizeof(double));
    skv_attn a = SKV_ZERO;
    if (!want || !want_lse) abort();
    a.lse = lse;
    out[n * r->wo] = lse[n * r->l->n_q_heads] = 4321.0f;
    rig_rows(r, k, v);
    CHECK(rig_attend(r, n, out, &a) == SKV_OK);
    syn_attention(r->l, r->x->q + (total - n) * r->wq, k, v, total, n, want, want_lse);
    for (i = 0; i < total * r->wv; i++) top = fabs((double)v[i]) > top ? fabs((double)v[i]) : top;
    for (i = 0; i < n * r->l->n_q_heads; i++)       /* scores are rounded in float */
        far = fabs(want_lse[i]) > far ? fabs(want_lse[i]) : far;
    far *= r->c->cl[r->layer].n_pages ? 60 : 1; /* queries to 14 bits, turned means to 16 */
    CHECK_NEAR(syn_worst(out, want, n * r->wo), 0, (2e-5 + 1e-6 * far) * (1 + top));
    CHECK_NEAR(syn_worst(lse, want_lse, n * r->l->n_q_heads), 0, 1e-4 + 8e-6 * far);
    CHECK(out[n * r->wo] == 4321.0f && lse[n * r->l->n_q_heads] == 4321.0f);
    free(k);
    free(v);
    free(out);
    free(want);
    free(lse);
    free(want_lse);
}

/* Tokens as the exact part of the cache holds them. */
static float stored(float x, uint32_t exact_bits)
{
    return exact_bits == 32 ? x : skvi_from_f16(skvi_to_f16(x));
}

/* Hash of what the caller can see of one layer: rows, and the answer to its newest queries. */
static uint64_t rig_answer(const rig *r, size_t n)
{
    size_t total = rig_total(r), i;
    float *k = floats(total * r->wk), *v = floats(total * r->wv), *out = floats(n * r->wo);
    uint64_t h = 1469598103934665603u;
    skv_attn a = SKV_ZERO;
    rig_rows(r, k, v);
    CHECK(rig_attend(r, n, out, &a) == SKV_OK);
    for (i = 0; i < total * r->wk; i++) h = (h ^ skvi_bits(k[i])) * 1099511628211u;
    for (i = 0; i < total * r->wv; i++) h = (h ^ skvi_bits(v[i])) * 1099511628211u;
    for (i = 0; i < n * r->wo; i++) h = (h ^ skvi_bits(out[i])) * 1099511628211u;
    h = (h ^ skvi_bits(a.score_bound)) * 1099511628211u;
    h = (h ^ skvi_bits(a.page_mass)) * 1099511628211u;
    h = (h ^ a.tokens_exact) * 1099511628211u;
    free(k);
    free(v);
    free(out);
    return h ^ total;
}

/* --- exact cache ---------------------------------------------------------------------------- */

static const skv_layer exact_shapes[] = {
    {4, 4, 16, 0, 0, 0, 0},         /* MHA */
    {6, 2, 64, 0, 0, 0, 0},         /* GQA */
    {5, 1, 40, 24, 0, 0, 0},        /* MQA, narrow values */
    {3, 3, 17, 33, 0, 0, 0},        /* odd sizes */
    {2, 1, 80, 96, 0, 0.05f, 0},    /* a scale of its own */
    {4, 2, 32, 0, 20, 0, 0},        /* sliding window */
    {4, 2, 32, 0, 0, 0, 3.0f},      /* soft cap */
    {7, 7, 19, 23, 33, 0.3f, 5.0f}, /* everything */
    {2, 1, 32, 0, 1, 0, 0},         /* sees itself alone */
    {1, 1, 576, 512, 0, 0, 0}       /* latent heads as in MLA */
};

TEST(exact_is_naive_attention)
{
    size_t i, j, n = 150;
    uint32_t bits;
    for (i = 0; i < sizeof exact_shapes / sizeof exact_shapes[0]; i++) {
        syn s = {{0, 0, 0, 0, 0, 0, 0}, 20 + i, 1.0f, 1.0f, 0, 1};
        syn_data x;
        s.shape = exact_shapes[i];
        x = syn_make(&s, 0, 1, n);
        for (bits = 16; bits <= 32; bits += 16) {
            skv_cache_desc d = SKV_ZERO;
            float *k, *v;
            rig r;
            d.model = syn_model(&s, 1);
            d.max_tokens = (uint32_t)n;
            d.exact_bits = bits;
            r = rig_new(cache_new(&d), 0, &x);
            rig_append(&r, 1);
            rig_check(&r, 1);
            rig_append(&r, 6);
            rig_check(&r, 3);
            rig_fill(&r, 143, 100);
            rig_check(&r, 1);
            rig_check(&r, bits == 16 ? 40 : n);
            k = floats(n * r.wk);
            v = floats(n * r.wv);
            rig_rows(&r, k, v);
            for (j = 0; j < n * r.wk; j++) CHECK(k[j] == stored(x.k[j], bits));
            for (j = 0; j < n * r.wv; j++) CHECK(v[j] == stored(x.v[j], bits));
            free(k);
            free(v);
            skv_cache_free(r.c);
        }
        syn_free(&x);
    }
}

/* Scores far apart and far from zero: the running maximum must hold. */
TEST(exact_with_wild_scores)
{
    syn s = {{2, 2, 16, 0, 0, 0, 0}, 40, 0, 0, 0, 1};
    syn_data x = syn_make(&s, 0, 1, 200);
    skv_cache_desc d = SKV_ZERO;
    float out[32];
    size_t i;
    rig r;
    for (i = 0; i < 200 * 32; i++) {
        x.k[i] *= i / 32 % 50 == 7 ? 60.0f : (float)(i / 32) * 0.05f;
        x.q[i] *= 20;
    }
    d.model = syn_model(&s, 1);
    d.max_tokens = 200;
    d.exact_bits = 32;
    r = rig_new(cache_new(&d), 0, &x);
    for (i = 0; i < 200; i++) {
        float k[32], v[32];
        double want[32];
        size_t j, h;
        rig_append(&r, 1);
        if (i % 23) continue;
        CHECK(rig_attend(&r, 1, out, NULL) == SKV_OK);
        syn_attention(r.l, x.q + i * 32, x.k, x.v, i + 1, 1, want, NULL);
        /* scores reach 1e4, so their rounding is 1e-3: compare to that */
        CHECK_NEAR(syn_worst(out, want, 32), 0, 2e-2);
        for (h = 0; h < 2; h++)
            for (j = 0; j < 16; j++) CHECK(skvi_is_finite(out[h * 16 + j]));
        CHECK(skv_reconstruct(r.c, 0, i, 1, k, v) == SKV_OK && k[3] == x.k[i * 32 + 3]);
    }
    skv_cache_free(r.c);
    syn_free(&x);
}

/* Values so large that products overflow: an answer that is finite, or an error, never NaN. */
TEST(exact_overflow_is_not_silent)
{
    static const float scale[] = {0, 4, -1e6f, 1e25f};
    syn s = {{1, 1, 576, 64, 0, 0, 0}, 41, 0, 0, 0, 1};
    syn_data x = syn_make(&s, 0, 1, 8);
    float out[64], size;
    size_t i, j;
    for (size = 1e8f; size < 2e10f; size *= 10)
        for (j = 0; j < 4; j++) {
            skv_cache_desc d = SKV_ZERO;
            skv_cache *c = NULL;
            skv_result r;
            rig t;
            for (i = 0; i < 8 * 576; i++)
                x.k[i] = x.q[i] = (i / 576 % 2 ? 1.0f : -1.0f) * size;
            s.shape.scale = scale[j];
            d.model = syn_model(&s, 1);
            d.max_tokens = 8;
            d.exact_bits = 32;
            r = skv_cache_init(&c, &d);
            CHECK(r == SKV_OK || (r == SKV_ERR_ARG && j == 3));
            if (r != SKV_OK) continue;
            t = rig_new(c, 0, &x);
            r = rig_try_append(&t, 8);
            CHECK(r == (size < 1.1e9f ? SKV_OK : SKV_ERR_RANGE));
            if (r == SKV_OK) r = rig_attend(&t, 1, out, NULL);
            CHECK(r == SKV_OK || r == SKV_ERR_RANGE);
            for (i = 0; r == SKV_OK && i < 64; i++) CHECK(skvi_is_finite(out[i]));
            skv_cache_free(c);
        }
    syn_free(&x);
}

/* --- compressed cache ----------------------------------------------------------------------- */

typedef struct packed_case {
    skv_layer shape;
    uint32_t head_group, sinks, window, max_append, exact_bits;
    float bpe, outlier_tokens;
} packed_case;

static const packed_case packed_cases[] = {
    {{4, 4, 32, 0, 0, 0, 0}, 1, 0, 0, 0, 0, 4, 0},
    {{6, 3, 32, 0, 0, 0, 0}, 3, 0, 0, 0, 32, 3, 0.03f},
    {{6, 3, 16, 24, 0, 0, 0}, 2, 7, 10, 5, 16, 2.5f, 0.05f},    /* uneven last group */
    {{5, 1, 40, 17, 0, 0.2f, 0}, 1, SKV_NONE, SKV_NONE, 1, 32, 3, 0.02f},
    {{4, 2, 33, 48, 0, 0, 4.0f}, 2, 1, 33, 0, 16, 1.5f, 0.05f},
    {{4, 2, 32, 0, 100, 0, 0}, 2, 4, 16, 0, 16, 4, 0.03f},      /* pages are dropped */
    {{3, 3, 20, 0, 150, 0, 2.0f}, 2, SKV_NONE, 40, 300, 32, 3, 0.05f},
    {{2, 2, 16, 0, 30, 0, 0}, 1, 4, 64, 0, 16, 3, 0},           /* no page is ever seen */
    {{2, 2, 64, 0, 0, 0, 0}, 2, 0, 0, 0, 0, 0.7f, 0.02f},       /* some subs may be empty */
    {{3, 3, 16, 0, 0, 0, 0}, 3, 0, 0, 0, 0, 8.0f, 0.02f}
};

static skv_profile *case_profile(const packed_case *p, size_t number, uint32_t layers, syn *s)
{
    syn model = {{0, 0, 0, 0, 0, 0, 0}, 0, 1.0f, 2.0f, 0, 12};
    model.shape = p->shape;
    model.seed = 50 + number;
    *s = model;
    s->outliers = p->outlier_tokens;
    if (layers == 1 && (number == 1 || number == 4 || number == 5))
        return syn_profile(&model, layers, p->head_group, 1, 260);
    if (number % 3 == 2)                            /* and some with keys that turn */
        return syn_profile_turned(&model, layers, p->head_group, 1 + number % 2,
                                  p->shape.head_dim / 2 - (uint32_t)number % 4);
    return syn_profile_direct(&model, layers, p->head_group);
}

static skv_cache_desc case_desc(const packed_case *p, const skv_profile *profile, uint32_t max)
{
    skv_cache_desc d = SKV_ZERO;
    d.profile = profile;
    d.target.bpe = p->bpe;
    d.max_tokens = max;
    d.sinks = p->sinks;
    d.window = p->window;
    d.max_append = p->max_append;
    d.exact_bits = p->exact_bits;
    d.outliers = p->outlier_tokens > 0 ? 0.15f : 0;
    return d;
}

/* Appends and attends in steps of many sizes; the answers must be those of the decoded rows. */
TEST(attention_on_codes_is_attention_on_rows)
{
    static const size_t step[] = {1, 90, 131, 1, 66, 3, 70, 1};
    size_t i, j, paged = 0, dropped = 0, outliers = 0;
    for (i = 0; i < sizeof packed_cases / sizeof packed_cases[0]; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 1, &s);
        syn_data x = syn_make(&s, 0, 1, 363);
        skv_cache_desc d = case_desc(p, profile, 400);
        rig r = rig_new(cache_new(&d), 0, &x);
        for (j = 0; j < sizeof step / sizeof step[0]; j++) {
            skv_usage u;
            skv_attn a = SKV_ZERO;
            float *out = floats(r.wo);
            rig_append(&r, step[j]);
            rig_check(&r, 1);
            if (j % 2) rig_check(&r, step[j] < 9 ? step[j] : 9);
            CHECK(rig_attend(&r, 1, out, &a) == SKV_OK && skv_cache_usage(r.c, &u) == SKV_OK);
            CHECK(a.tokens_exact + a.tokens_paged + PAGE * r.c->cl[0].dropped == rig_total(&r));
            paged += a.tokens_paged;
            dropped += r.c->cl[0].dropped;
            outliers += u.outlier_rows;
            free(out);
        }
        if (i % 3 == 0 && !p->shape.sliding_window)
            rig_check(&r, rig_total(&r));               /* every query of the past */
        skv_cache_free(r.c);
        skv_profile_free(profile);
        syn_free(&x);
    }
    CHECK(paged > 5000 && dropped > 10 && outliers > 20);
}

/* skv_prefill is append and attend in pieces of max_append; each query saw its own time. */
TEST(prefill_is_append_and_attend)
{
    size_t i;
    for (i = 0; i < 7; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 1, &s);
        syn_data x = syn_make(&s, 0, 1, 240);
        skv_cache_desc d = case_desc(p, profile, 240);
        rig a = rig_new(cache_new(&d), 0, &x), b = rig_new(cache_new(&d), 0, &x);
        float *out = floats(240 * a.wo), *want = floats(240 * a.wo);
        skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
        skv_out o = skv_out_f32(out);
        size_t at, m, most = p->max_append ? p->max_append : 64;
        CHECK(skv_prefill(a.c, 0, &q, &k, &v, 240, &o) == SKV_OK);
        for (at = 0; at < 240; at += m) {
            m = 240 - at < most ? 240 - at : most;
            rig_append(&b, m);
            CHECK(rig_attend(&b, m, want + at * b.wo, NULL) == SKV_OK);
        }
        CHECK(!memcmp(out, want, 240 * a.wo * sizeof(float)));
        CHECK(rig_answer(&a, 1) == rig_answer(&b, 1));
        free(out);
        free(want);
        skv_cache_free(a.c);
        skv_cache_free(b.c);
        skv_profile_free(profile);
        syn_free(&x);
    }
}

/* A compressed cache of many bits answers nearly like the exact one. */
TEST(more_bits_are_nearer_to_exact)
{
    syn s = {{6, 3, 32, 0, 0, 0, 0}, 90, 1.0f, 2.0f, 0, 6};
    skv_profile *p = syn_profile(&s, 1, 3, 2, 320);
    syn_data x = syn_make(&s, 0, 1, 500);
    double want[192], last = 1e9;
    float out[192], bpe;
    skv_cache_desc d = SKV_ZERO;
    d.profile = p;
    d.max_tokens = 500;
    d.exact_bits = 32;
    syn_attention(&s.shape, x.q + 499 * 192, x.k, x.v, 500, 1, want, NULL);
    for (bpe = 1; bpe <= 8; bpe *= 2) {
        double e = 0, size = 0;
        size_t i;
        rig r;
        d.target.bpe = bpe;
        r = rig_new(cache_new(&d), 0, &x);
        rig_fill(&r, 500, 64);
        CHECK(rig_attend(&r, 1, out, NULL) == SKV_OK);
        for (i = 0; i < 192; i++) {
            e += ((double)out[i] - want[i]) * ((double)out[i] - want[i]);
            size += want[i] * want[i];
        }
        CHECK(e / size < last * 0.7);
        last = e / size;
        skv_cache_free(r.c);
    }
    CHECK(last < 1e-4);
    skv_profile_free(p);
    syn_free(&x);
}

/* --- where tokens lie ----------------------------------------------------------------------- */

/* Pages that two layers of the same tokens both hold are the same bytes. */
static size_t same_pages(const rig *a, const rig *b)
{
    const skvi_clayer *x = &a->c->cl[a->layer], *y = &b->c->cl[b->layer];
    uint32_t i, n = x->n_pages < y->n_pages ? x->n_pages : y->n_pages;
    size_t same = 0;
    for (i = 0; i < n; i++) {
        size_t bytes = x->page[i] ? skvi_get32(x->page[i] + 4) : 0;
        if (!x->page[i] || !y->page[i]) continue;
        CHECK(skvi_get32(y->page[i] + 4) == bytes && !memcmp(x->page[i], y->page[i], bytes));
        same++;
    }
    return same;
}

TEST(pieces_give_the_same_pages)
{
    size_t i, same = 0;
    for (i = 0; i < sizeof packed_cases / sizeof packed_cases[0]; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 4, &s);
        skv_cache_desc d = case_desc(p, profile, 600);
        syn_data x;
        rig r[4];
        uint32_t l;
        if (s.outliers == 0) s.outliers = 0.02f;
        x = syn_make(&s, 0, 1, 600);
        r[0] = rig_new(cache_new(&d), 0, &x);
        for (l = 0; l < profile->n_streams; l++) {      /* four layers, one profile */
            uint32_t per = profile->n_streams / 4;
            profile->stream[l] = profile->stream[l % per];
        }
        skv_cache_free(r[0].c);
        for (r[0].c = cache_new(&d), l = 0; l < 4; l++) r[l] = rig_new(r[0].c, l, &x);
        rig_fill(&r[0], 600, 600);
        rig_fill(&r[1], 600, 37);
        rig_fill(&r[2], 600, 1);
        rig_fill(&r[3], 600, 250);
        same += same_pages(&r[0], &r[1]) + same_pages(&r[0], &r[2]) + same_pages(&r[0], &r[3]) +
                same_pages(&r[1], &r[2]) + same_pages(&r[2], &r[3]);
        skv_cache_free(r[0].c);
        skv_profile_free(profile);
        syn_free(&x);
    }
    CHECK(same > 200);
}

/* A sliding layer that skipped pages out of sight makes the same later pages as others. */
TEST(skipped_pages_leave_no_trace)
{
    syn s = {{3, 3, 20, 0, 150, 0, 0}, 105, 1.0f, 2.0f, 0.03f, 10};
    skv_profile *p = syn_profile_direct(&s, 2, 1);
    syn_data x = syn_make(&s, 0, 1, 700);
    size_t first, same = 0;
    memcpy(p->stream + 6, p->stream, 6 * sizeof *p->stream);
    for (first = 100; first <= 400; first += 50) {
        skv_cache_desc d = SKV_ZERO;
        rig a, b;
        d.profile = p;
        d.target.bpe = 3;
        d.outliers = 0.1f;
        d.max_tokens = 700;
        d.window = 20;
        d.max_append = 500;
        a = rig_new(cache_new(&d), 0, &x);
        b = rig_new(a.c, 1, &x);
        rig_append(&a, first);
        rig_fill(&a, 700 - first, 1);
        rig_fill(&b, 700, 1);
        same += same_pages(&a, &b);
        skv_cache_free(a.c);
    }
    CHECK(same >= 14);
    skv_profile_free(p);
    syn_free(&x);
}

/* The manual's rule: a page when window + 64 recent tokens have gathered, before adding. */
TEST(exact_tokens_are_as_promised)
{
    syn s = {{2, 1, 16, 0, 0, 0, 0}, 91, 1.0f, 2.0f, 0, 1};
    static const uint32_t window[] = {SKV_NONE, 1, 10, 64, 100}, sinks[] = {SKV_NONE, 4, 70};
    static const size_t piece[] = {1, 5, 64};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 300);
    size_t a, b, c, i;
    for (a = 0; a < 5 * 3 * 3; a++) {
        uint32_t w = window[a % 5], k = sinks[a / 5 % 3], pages = 0, total = 0;
        uint32_t wn = w == SKV_NONE ? 0 : w, kn = k == SKV_NONE ? 0 : k;
        float *rows = floats(300 * 16), *v = floats(300 * 16), out[32];
        skv_cache_desc d = SKV_ZERO;
        rig r;
        c = piece[a / 15];
        d.profile = p;
        d.target.bpe = 2;
        d.outliers = -1;
        d.max_tokens = 300;
        d.window = w;
        d.sinks = k;
        r = rig_new(cache_new(&d), 0, &x);
        while (total + c <= 300) {
            skv_attn n = SKV_ZERO;
            uint32_t exact;
            while ((total > kn ? total - kn : 0) - pages * PAGE >= wn + PAGE) pages++;
            rig_append(&r, c);
            total += (uint32_t)c;
            CHECK(rig_attend(&r, 1, out, &n) == SKV_OK);
            CHECK(n.tokens_paged == pages * PAGE && n.tokens_exact == total - pages * PAGE);
            exact = total - (pages ? kn + pages * PAGE : 0);    /* recent ones */
            CHECK(!pages || (exact >= wn + c && exact <= wn + 63 + c));
        }
        rig_rows(&r, rows, v);
        for (i = 0; i < total; i++) {
            int paged = i >= kn && i < kn + pages * PAGE, same = 1;
            for (b = 0; b < 16; b++) same &= rows[i * 16 + b] == stored(x.k[i * 16 + b], 16);
            CHECK(same == !paged);
        }
        free(rows);
        free(v);
        skv_cache_free(r.c);
    }
    skv_profile_free(p);
    syn_free(&x);
}

TEST(small_capacities)
{
    static const uint32_t max[] = {1, 2, 4, 5, 63, 64, 68, 69, 131, 132, 133, 196};
    syn s = {{2, 1, 16, 0, 0, 0, 0}, 92, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 300);
    size_t i, j;
    for (i = 0; i < sizeof max / sizeof max[0]; i++)
        for (j = 0; j < 4; j++) {
            skv_cache_desc d = SKV_ZERO;
            rig r;
            d.profile = p;
            d.max_tokens = max[i];
            d.window = j & 1 ? 1000000 : 1;
            d.sinks = j & 2 ? 1000000 : SKV_NONE;
            d.max_append = 0xFFFFFFFFu;
            r = rig_new(cache_new(&d), 0, &x);
            rig_append(&r, 1);
            rig_check(&r, 1);
            if (max[i] > 1) rig_append(&r, max[i] - 1);
            rig_check(&r, max[i] < 5 ? max[i] : 5);
            CHECK(rig_try_append(&r, 1) == SKV_ERR_FULL);
            skv_cache_free(r.c);
        }
    skv_profile_free(p);
    syn_free(&x);
}

/* --- scores, bound, mass, merge ------------------------------------------------------------- */

TEST(scores_are_q_dot_rows)
{
    size_t i, j, h;
    for (i = 0; i < 8; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 1, &s);
        syn_data x = syn_make(&s, 0, 1, 310);
        skv_cache_desc d = case_desc(p, profile, 400);
        rig r = rig_new(cache_new(&d), 0, &x);
        float *k = floats(310 * r.wk), *v = floats(310 * r.wv);
        float *out = floats(310 * r.l->n_q_heads);
        skv_span q = skv_f32(x.q + 5 * r.wq);
        size_t from, group = r.l->n_q_heads / r.l->n_kv_heads, gone;
        rig_fill(&r, 310, 20);
        from = r.c->sinks;
        gone = (size_t)r.c->cl[0].dropped * PAGE;
        rig_rows(&r, k, v);
        CHECK(skv_scores(r.c, 0, &q, out) == SKV_OK);
        for (h = 0; h < r.l->n_q_heads; h++) {
            float most = 0;                         /* queries of 14 bits follow the largest */
            for (j = 0; j < 310; j++)
                if (fabsf(out[h * 310 + j]) > most && skvi_is_finite(out[h * 310 + j]))
                    most = fabsf(out[h * 310 + j]);
            for (j = 0; j < 310; j++) {
                float got = out[h * 310 + j];
                if (j >= from && j < from + gone) CHECK(got == -INFINITY);
                else CHECK_NEAR(got, syn_score(r.l, x.q + 5 * r.wq + h * r.l->head_dim,
                                               k + (j * r.l->n_kv_heads + h / group) *
                                               r.l->head_dim), 1e-4 + 5e-4 * (double)most);
            }
        }
        free(k);
        free(v);
        free(out);
        skv_cache_free(r.c);
        skv_profile_free(profile);
        syn_free(&x);
    }
}

/* No score of a token in a page is off by more than score_bound; page_mass is the paged share. */
static void check_bound(const rig *r, size_t n, float *bound)
{
    size_t total = rig_total(r), i, h, j, nq = r->l->n_q_heads, nk = r->l->n_kv_heads;
    size_t d = r->l->head_dim, first = r->c->sinks, last = first + PAGE * r->c->cl[0].n_pages;
    float *k = floats(total * r->wk), *v = floats(total * r->wv), *out = floats(n * r->wo);
    double worst = 0, mass = 0;
    skv_attn a = SKV_ZERO;
    rig_rows(r, k, v);
    CHECK(rig_attend(r, n, out, &a) == SKV_OK);
    for (i = 0; i < n; i++)
        for (h = 0; h < nq; h++) {
            size_t pos = total - n + i, w = r->l->sliding_window;
            size_t begin = w && pos + 1 > w ? pos + 1 - w : 0;
            const float *q = r->x->q + pos * r->wq + h * d;
            double paged = 0, all = 0, top = -INFINITY;
            for (j = begin; j <= pos; j++) {
                size_t at = (j * nk + h / (nq / nk)) * d, x;
                double seen = syn_score(r->l, q, k + at), capped = seen, p, keep;
                float row[SKV_MAX_HEAD_DIM];
                for (x = 0; x < d; x++) row[x] = stored(r->x->k[at + x], r->c->exact_bits);
                if (r->l->softcap > 0)
                    capped = (double)r->l->softcap * tanh(seen / (double)r->l->softcap);
                keep = capped > top ? exp(top - capped) : 1;
                top = capped > top ? capped : top;
                p = exp(capped - top);
                all = all * keep + p;
                paged *= keep;
                if (j < first || j >= last) continue;
                paged += p;
                seen = fabs(seen - syn_score(r->l, q, row));
                worst = seen > worst ? seen : worst;
            }
            mass = paged / all > mass ? paged / all : mass;
        }
    CHECK(worst <= (double)a.score_bound * 1.0001 + 1e-4);
    CHECK(worst > 0.02 * (double)a.score_bound);        /* and the bound is worth something */
    CHECK_NEAR(a.page_mass, mass, r->c->coder.precise ? 2e-4 : 4e-3);
    *bound = a.score_bound;
    free(k);
    free(v);
    free(out);
}

TEST(the_bound_bounds)
{
    size_t i;
    for (i = 0; i < 14; i++) {              /* queries of 14 bits, then of 8 */
        packed_case p = packed_cases[i % 7];
        float bound[2] = {0, 0};
        int j;
        for (j = 0; j < 2; j++) {
            syn s;
            skv_profile *profile = case_profile(&p, i % 7, 1, &s);
            syn_data x = syn_make(&s, 0, 1, 330);
            skv_cache_desc d;
            rig r;
            if (j) p.bpe += 2;
            d = case_desc(&p, profile, 400);
            d.attend_bits = i < 7 ? 14 : 8;
            r = rig_new(cache_new(&d), 0, &x);
            rig_fill(&r, 330, 33);
            check_bound(&r, 20, &bound[j]);
            skv_cache_free(r.c);
            skv_profile_free(profile);
            syn_free(&x);
        }
        CHECK(bound[1] < bound[0] && bound[1] > 0);
    }
}

/* Keys with a mean far above their spread, as biases make them. */
TEST(large_means)
{
    syn s = {{4, 2, 32, 0, 0, 0, 0}, 106, 40.0f, 2.0f, 0, 1}, plain = s;
    skv_profile *p = syn_profile(&s, 1, 2, 1, 260);
    syn_data x = syn_make(&s, 0, 1, 300);
    skv_cache_desc d = SKV_ZERO;
    float bound = 0;
    rig r;
    plain.mean = 0;
    syn_stream(&plain, 0, 0, 1, 0, 300, x.q);       /* queries without one */
    d.profile = p;
    d.max_tokens = 300;
    r = rig_new(cache_new(&d), 0, &x);
    rig_fill(&r, 300, 50);
    check_bound(&r, 10, &bound);
    rig_check(&r, 10);
    skv_cache_free(r.c);
    skv_profile_free(p);
    syn_free(&x);
}

/* An all-exact answer has no bound and no mass, whatever was in attn before. */
TEST(no_pages_no_bound)
{
    syn s = {{2, 1, 16, 0, 0, 0, 0}, 93, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 20);
    skv_cache_desc d = SKV_ZERO;
    skv_attn a = SKV_ZERO;
    float out[32];
    rig r;
    d.profile = p;
    d.max_tokens = 500;
    r = rig_new(cache_new(&d), 0, &x);
    rig_append(&r, 20);
    a.score_bound = a.page_mass = 7;
    a.tokens_exact = a.tokens_paged = 99;
    CHECK(rig_attend(&r, 1, out, &a) == SKV_OK);
    CHECK(a.score_bound == 0 && a.page_mass == 0 && a.tokens_exact == 20 && a.tokens_paged == 0);
    skv_cache_free(r.c);
    skv_profile_free(p);
    syn_free(&x);
}

TEST(merge_of_parts_is_the_whole)
{
    enum { ROWS = 3, DIM = 17, N = 40 };
    static float v[N * DIM], s[ROWS * N];
    float out[3][ROWS * DIM], lse[3][ROWS], again[ROWS * DIM], again_lse[ROWS];
    double want[ROWS * DIM], want_lse[ROWS];
    static const size_t cut[5] = {0, 11, 12, N, N};
    size_t r, j, x, part;
    for (j = 0; j < N * DIM; j++) v[j] = (float)test_normal();
    for (j = 0; j < ROWS * N; j++) s[j] = (float)(20 * test_normal());
    for (part = 0; part < 4; part++)
        for (r = 0; r < ROWS; r++) {
            size_t a = part == 3 ? 0 : cut[part], b = part == 3 ? N : cut[part + 1];
            double top = -INFINITY, sum = 0, o[DIM] = {0};
            for (j = a; j < b; j++) top = (double)s[r * N + j] > top ? (double)s[r * N + j] : top;
            for (j = a; j < b; j++) {
                double p = exp((double)s[r * N + j] - top);
                sum += p;
                for (x = 0; x < DIM; x++) o[x] += p * (double)v[j * DIM + x];
            }
            for (x = 0; x < DIM; x++) {
                if (part == 3) want[r * DIM + x] = o[x] / sum;
                else out[part][r * DIM + x] = (float)(o[x] / sum);
            }
            if (part == 3) want_lse[r] = top + log(sum);
            else lse[part][r] = (float)(top + log(sum));
        }
    memcpy(again, out[2], sizeof again);                /* (0 + 1) + 2 and 2 + (1 + 0) */
    memcpy(again_lse, lse[2], sizeof again_lse);
    skv_merge(again, again_lse, out[1], lse[1], ROWS, DIM);
    skv_merge(again, again_lse, out[0], lse[0], ROWS, DIM);
    skv_merge(out[0], lse[0], out[1], lse[1], ROWS, DIM);
    skv_merge(out[0], lse[0], out[2], lse[2], ROWS, DIM);
    CHECK_NEAR(syn_worst(out[0], want, ROWS * DIM), 0, 1e-5);
    CHECK_NEAR(syn_worst(lse[0], want_lse, ROWS), 0, 1e-5);
    CHECK_NEAR(syn_worst(again, want, ROWS * DIM), 0, 1e-5);
    CHECK_NEAR(syn_worst(again_lse, want_lse, ROWS), 0, 1e-5);
}

/* "No tokens": -infinity on either side or both; rows without tokens may hold anything. */
TEST(merge_with_nothing)
{
    float a[4] = {1, 2, 3, 4}, b[4] = {NAN, INFINITY, NAN, 8}, la[2] = {0.5f, -INFINITY};
    float lb[2] = {-INFINITY, -INFINITY}, c[4] = {5, 6, 7, 8}, lc[2] = {-3, -2};
    float d[2] = {1, 2}, e[2] = {3, 4}, ld = 1000, le = 1000;
    skv_merge(a, la, b, lb, 2, 2);
    CHECK(a[0] == 1 && a[1] == 2 && la[0] == 0.5f && la[1] == -INFINITY);
    skv_merge(b, lb, c, lc, 2, 2);
    CHECK(b[0] == 5 && b[1] == 6 && b[2] == 7 && b[3] == 8 && lb[0] == -3 && lb[1] == -2);
    skv_merge(d, &ld, e, &le, 1, 2);
    CHECK(d[0] == 2 && d[1] == 3);
    CHECK_NEAR(ld, 1000.69315, 1e-3);
    skv_merge(d, &ld, e, &le, 0, 2);
    CHECK(d[0] == 2);
}

/* --- inputs and outputs --------------------------------------------------------------------- */

TEST(output_types_and_strides)
{
    enum { NQ = 4, DV = 24, N = 3, HS = DV + 3, TS = NQ * HS + 5 };
    syn s = {{NQ, 2, 32, DV, 0, 0, 0}, 94, 1.0f, 2.0f, 0.02f, 8};
    skv_profile *p = syn_profile_direct(&s, 1, 2);
    syn_data x = syn_make(&s, 0, 1, 300);
    skv_cache_desc d = SKV_ZERO;
    float plain[N * NQ * DV], wide[N * TS];
    uint16_t half[N * TS];
    unsigned char odd[N * NQ * DV * 4 + 1];
    skv_span q = skv_f32(x.q + 297 * NQ * 32);
    skv_out o = SKV_ZERO;
    int type;
    size_t t, h, i;
    rig r;
    d.profile = p;
    d.max_tokens = 300;
    r = rig_new(cache_new(&d), 0, &x);
    rig_fill(&r, 300, 64);
    CHECK(rig_attend(&r, N, plain, NULL) == SKV_OK);
    for (type = 0; type < 3; type++) {
        for (i = 0; i < N * TS; i++) half[i] = 0xABCD;
        for (i = 0; i < N * TS; i++) wide[i] = 99;
        o = skv_make_out(type == SKV_F32 ? (void *)wide : (void *)half, (skv_dtype)type);
        o.token_stride = TS;
        o.head_stride = HS;
        CHECK(skv_attend(r.c, 0, &q, N, &o, NULL) == SKV_OK);
        for (t = 0; t < N; t++)
            for (i = 0; i < TS; i++) {
                int in = i < NQ * HS && i % HS < DV;
                float f;
                h = i / HS;
                f = in ? plain[(t * NQ + h) * DV + i % HS] : 0;
                if (type == SKV_F32) CHECK(wide[t * TS + i] == (in ? f : 99));
                if (type == SKV_F16) CHECK(half[t * TS + i] == (in ? skvi_to_f16(f) : 0xABCD));
                if (type == SKV_BF16) CHECK(half[t * TS + i] == (in ? skvi_to_bf16(f) : 0xABCD));
            }
    }
    o = skv_make_out(odd + 1, SKV_F32);
    CHECK(skv_attend(r.c, 0, &q, N, &o, NULL) == SKV_OK);
    CHECK(!memcmp(odd + 1, plain, sizeof plain));
    skv_cache_free(r.c);
    skv_profile_free(p);
    syn_free(&x);
}

TEST(input_types_and_strides)
{
    enum { NQ = 4, NK = 2, D = 32, N = 200, HS = D + 7, TS = NK * HS + 9 };
    syn s = {{NQ, NK, D, 0, 0, 0, 0}, 95, 1.0f, 2.0f, 0.02f, 8};
    skv_profile *p = syn_profile_direct(&s, 2, 2);
    syn_data x = syn_make(&s, 0, 1, N);
    static float wide[N * TS];
    static uint16_t v16[N * NK * D], q16[N * NQ * D];
    skv_cache_desc d = SKV_ZERO;
    skv_span k = skv_f32(wide), v = skv_f16(v16), q = skv_bf16(q16);
    float a[N * NQ * D], b[N * NQ * D];
    skv_out oa = skv_out_f32(a);
    size_t t, h, i;
    rig r;
    memcpy(p->stream + 2, p->stream, 2 * sizeof *p->stream);        /* layer 1 as layer 0 */
    for (i = 0; i < N * NK * D; i++) x.v[i] = skvi_from_f16(v16[i] = skvi_to_f16(x.v[i]));
    for (i = 0; i < N * NQ * D; i++) x.q[i] = skvi_from_bf16(q16[i] = skvi_to_bf16(x.q[i]));
    for (t = 0; t < N; t++)
        for (h = 0; h < NK; h++)
            for (i = 0; i < D; i++) wide[t * TS + h * HS + i] = x.k[(t * NK + h) * D + i];
    k.token_stride = TS;
    k.head_stride = HS;
    d.profile = p;
    d.max_tokens = N;
    r = rig_new(cache_new(&d), 0, &x);
    rig_append(&r, N);
    CHECK(rig_attend(&r, N, b, NULL) == SKV_OK);
    CHECK(skv_append(r.c, 1, &k, &v, N) == SKV_OK);
    CHECK(skv_attend(r.c, 1, &q, N, &oa, NULL) == SKV_OK);
    CHECK(!memcmp(a, b, sizeof a));
    skv_cache_reset(r.c);
    CHECK(skv_prefill(r.c, 1, &q, &k, &v, N, &oa) == SKV_OK);       /* pieces with strides */
    q = skv_f32(x.q);
    k = skv_f32(x.k);
    v = skv_f32(x.v);
    oa = skv_out_f32(b);
    CHECK(skv_prefill(r.c, 0, &q, &k, &v, N, &oa) == SKV_OK);
    CHECK(!memcmp(a, b, sizeof a));
    skv_cache_free(r.c);
    skv_profile_free(p);
    syn_free(&x);
}

static void backwards(void *user, size_t n, void (*task)(void *, size_t), void *arg)
{
    ++*(int *)user;
    while (n--) task(arg, n);
}

/* Tasks that run at once have work space of their own. */
static void check_lanes(const rig *r)
{
    const skvi_coder *k = &r->c->coder;
    size_t bytes = k->max_D * PAGE * 2 * sizeof(float), i;
    CHECK(k->n_lanes >= k->max_groups);     /* and as many as there are ranges, up to 16 */
    for (i = 1; i < k->n_lanes; i++)
        CHECK((size_t)((unsigned char *)k->lane[i].ql - (unsigned char *)k->lane[i - 1].ql) >=
              (i < k->max_groups ? bytes : k->max_D * sizeof(float)));
}

/* Queries and weights of 8 bits (the default) against 14: near, and not the same. */
TEST(eight_bits_are_near_fourteen)
{
    size_t i, j;
    for (i = 0; i < 7; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 1, &s);
        syn_data x = syn_make(&s, 0, 1, 300);
        skv_cache_desc d = case_desc(p, profile, 300);
        float *out[2];
        double diff = 0, size = 0;
        size_t n = 0;
        for (j = 0; j < 2; j++) {
            rig r;
            d.attend_bits = j ? 14 : 8;
            r = rig_new(cache_new(&d), 0, &x);
            rig_fill(&r, 300, 50);
            out[j] = floats(n = 20 * r.wo);
            CHECK(rig_attend(&r, 20, out[j], NULL) == SKV_OK);
            skv_cache_free(r.c);
        }
        for (j = 0; j < n; j++) {
            double e = (double)out[0][j] - (double)out[1][j];
            diff += e * e;
            size += (double)out[1][j] * (double)out[1][j];
        }
        CHECK(diff > 0 && diff < 0.03 * 0.03 * size);
        free(out[0]);
        free(out[1]);
        skv_profile_free(profile);
        syn_free(&x);
    }
}

TEST(parallel_does_not_change_a_bit)
{
    size_t i;
    for (i = 0; i < 7; i++) {
        const packed_case *p = &packed_cases[i];
        syn s;
        skv_profile *profile = case_profile(p, i, 1, &s);
        syn_data x = syn_make(&s, 0, 1, 300);
        skv_cache_desc d = case_desc(p, profile, 300);
        int calls = 0;
        rig a = rig_new(cache_new(&d), 0, &x), b;
        d.parallel.user = &calls;
        d.parallel.run = backwards;
        b = rig_new(cache_new(&d), 0, &x);
        rig_fill(&a, 300, 50);
        rig_fill(&b, 300, 50);
        CHECK(rig_answer(&a, 20) == rig_answer(&b, 20));
        same_pages(&a, &b);
        check_lanes(&b);
        CHECK(calls > 0);           /* exact tokens and pages are ranges of their own */
        skv_cache_free(a.c);
        skv_cache_free(b.c);
        skv_profile_free(profile);
        syn_free(&x);
    }
}

/* --- memory --------------------------------------------------------------------------------- */

static const skv_layer memory_layers[3] = {
    {4, 2, 16, 0, 0, 0, 0}, {2, 2, 24, 17, 100, 0, 0}, {2, 1, 32, 0, 30, 0, 0}};

static skv_profile *memory_profile(syn_data *x, size_t n)
{
    syn s = {{0, 0, 0, 0, 0, 0, 0}, 96, 1.0f, 2.0f, 0.05f, 12};
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *pr = NULL;
    skv_profile *p = NULL;
    uint32_t i;
    d.model.n_layers = 3;
    d.model.layers = memory_layers;
    d.max_queries = 16;
    d.head_group = 2;
    CHECK(skv_profiler_init(&pr, &d) == SKV_OK);
    for (i = 0; i < 3; i++) {
        skv_span q, k, v;
        s.shape = memory_layers[i];
        x[i] = syn_make(&s, i, 1, n);
        q = skv_f32(x[i].q);
        k = skv_f32(x[i].k);
        v = skv_f32(x[i].v);
        CHECK(skv_profiler_add(pr, i, &q, &k, &v, 300) == SKV_OK);
    }
    CHECK(skv_profiler_fit(pr, NULL, &p) >= SKV_OK);
    skv_profiler_free(pr);
    return p;
}

static uint64_t fill_three(skv_cache *c, const syn_data *x, size_t n, size_t piece)
{
    uint64_t h = 0;
    size_t at;
    uint32_t i;
    for (at = 0; at < n; at += piece)
        for (i = 0; i < 3; i++) {
            rig r = rig_new(c, i, &x[i]);
            rig_append(&r, n - at < piece ? n - at : piece);
        }
    for (i = 0; i < 3; i++) {
        rig r = rig_new(c, i, &x[i]);
        h = h * 31 + rig_answer(&r, 1);
    }
    return h;
}

TEST(memory_of_exactly_the_size)
{
    enum { N = 700 };
    syn_data x[3];
    skv_profile *p = memory_profile(x, N);
    syn_counter count;
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c;
    size_t bytes = 0, shift, i, again;
    uint64_t want;
    unsigned char *raw;
    d.profile = p;
    d.target.bpe = 3;
    d.max_tokens = N;
    c = cache_new(&d);
    want = fill_three(c, x, N, 9);
    skv_cache_free(c);
    CHECK(skv_cache_size(&d, &bytes) == SKV_OK);
    raw = (unsigned char *)malloc(bytes + 256);
    if (!raw) abort();
    memset(&count, 0, sizeof count);
    d.allocator = syn_allocator(&count);
    for (shift = 0; shift < 64; shift += 9) {
        unsigned char *at = raw + 64 + shift - ((uintptr_t)raw & 63);
        memset(raw, 0xE7, bytes + 256);
        d.memory = at;
        d.memory_bytes = bytes;
        c = cache_new(&d);
        for (again = 0; again < 2; again++) {
            CHECK(fill_three(c, x, N, again ? 64 : 9) == want || again);
            skv_cache_reset(c);
        }
        skv_cache_free(c);
        for (i = 0; raw + i < at; i++) CHECK(raw[i] == 0xE7);
        for (i = (size_t)(at - raw) + bytes; i < bytes + 256; i++) CHECK(raw[i] == 0xE7);
        d.memory_bytes = bytes - 1;
        c = NULL;
        CHECK(skv_cache_init(&c, &d) == SKV_ERR_MEMORY && !c);
    }
    CHECK(count.calls == 0);
    free(raw);
    for (i = 0; i < 3; i++) syn_free(&x[i]);
    skv_profile_free(p);
}

/* The worst that outliers can do: every page spends its whole allowance, and the blocks of the heap
   round up where pages without outliers do not. */
TEST(memory_with_outliers_in_every_page)
{
    enum { N = 64 * 130 };
    syn s = {{1, 1, 16, 19, 0, 0, 0}, 97, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, N);
    size_t i, j;
    int done = 0;
    float bpe;
    for (i = 0; i < N; i += 16)                     /* four huge tokens in every page */
        for (j = 0; j < 19; j++) {
            if (j < 16) x.k[i * 16 + j] *= 300;
            x.v[i * 19 + j] *= 300;
        }
    for (bpe = 0.7f; bpe < 7 && done < 5; bpe += 0.02f) {
        skv_cache_desc d = SKV_ZERO;
        size_t bytes = 0;
        skv_usage u;
        rig r;
        d.profile = p;
        d.target.bpe = bpe;
        d.outliers = 0.12f;
        d.max_tokens = N;
        d.sinks = d.window = SKV_NONE;
        d.max_append = 1;
        CHECK(skv_cache_size(&d, &bytes) == SKV_OK);
        d.memory = malloc(bytes);
        d.memory_bytes = bytes;
        if (!d.memory) abort();
        r = rig_new(cache_new(&d), 0, &x);
        if (r.c->coder.least[0] % 16 < 2) {
            rig_append(&r, N);
            CHECK(skv_cache_usage(r.c, &u) == SKV_OK && u.bpe_pages <= (double)d.target.bpe);
            CHECK(u.outlier_rows > 100);
            done++;
        }
        free(d.memory);
    }
    CHECK(done > 2);
    skv_profile_free(p);
    syn_free(&x);
}

TEST(exact_cache_in_memory)
{
    syn s = {{4, 2, 16, 0, 0, 0, 0}, 98, 1.0f, 2.0f, 0, 1};
    syn_data x = syn_make(&s, 0, 1, 50);
    skv_cache_desc d = SKV_ZERO;
    size_t bytes = 0;
    skv_cache *c = NULL;
    rig r;
    d.model = syn_model(&s, 1);
    d.max_tokens = 50;
    CHECK(skv_cache_size(&d, &bytes) == SKV_OK);
    d.memory = malloc(bytes);
    if (!d.memory) abort();
    d.memory_bytes = bytes - 1;
    CHECK(skv_cache_init(&c, &d) == SKV_ERR_MEMORY && !c);
    d.memory_bytes = bytes;
    r = rig_new(cache_new(&d), 0, &x);
    rig_append(&r, 50);
    rig_check(&r, 50);
    skv_cache_free(r.c);
    free(d.memory);
    syn_free(&x);
}

/* --- truncate, reset, full ------------------------------------------------------------------ */

TEST(truncate_and_append_again)
{
    syn s = {{4, 2, 16, 0, 0, 0, 0}, 99, 1.0f, 2.0f, 0.03f, 10};
    skv_profile *p = syn_profile_direct(&s, 2, 1);
    syn_data x = syn_make(&s, 0, 1, 400), y = syn_make(&s, 0, 2, 400);
    skv_cache_desc d = SKV_ZERO;
    rig a, b, junk;
    size_t first;
    memcpy(p->stream + 4, p->stream, 4 * sizeof *p->stream);
    d.profile = p;
    d.max_tokens = 400;
    a = rig_new(cache_new(&d), 0, &x);
    b = rig_new(a.c, 1, &x);
    junk = rig_new(a.c, 0, &y);                 /* other tokens, to be forgotten */
    rig_append(&a, 2);                          /* within the sinks */
    rig_append(&junk, 1);
    CHECK(skv_truncate(a.c, 0, 2) == SKV_OK && rig_total(&a) == 2);
    rig_fill(&a, 188, 11);
    rig_append(&b, 2);
    rig_fill(&b, 188, 11);
    CHECK(a.c->cl[0].n_pages == a.c->cl[1].n_pages && a.c->cl[0].n_pages >= 1);
    rig_append(&junk, 3);
    CHECK(a.c->cl[0].n_pages == a.c->cl[1].n_pages);        /* no page was due */
    CHECK(skv_truncate(a.c, 0, 190) == SKV_OK);
    CHECK(skv_truncate(a.c, 0, 190) == SKV_OK);             /* nothing to do */
    CHECK(rig_answer(&a, 7) == rig_answer(&b, 7));
    rig_fill(&a, 160, 5);
    rig_fill(&b, 160, 5);
    CHECK(rig_answer(&a, 7) == rig_answer(&b, 7));
    same_pages(&a, &b);
    CHECK(skv_truncate(a.c, 0, 351) == SKV_ERR_ARG);
    first = a.c->sinks + PAGE * a.c->cl[0].n_pages;
    CHECK(skv_truncate(a.c, 0, first - 1) == SKV_ERR_STATE && rig_total(&a) == 350);
    CHECK(skv_truncate(a.c, 0, 0) == SKV_ERR_STATE);
    CHECK(rig_answer(&a, 7) == rig_answer(&b, 7));
    CHECK(skv_truncate(a.c, 0, first) == SKV_OK && rig_total(&a) == first);
    rig_check(&a, 1);                                       /* the newest token is in a page */
    rig_fill(&a, 100, 1);
    rig_check(&a, 10);
    skv_cache_free(a.c);
    syn_free(&x);
    syn_free(&y);
    skv_profile_free(p);
}

/* A truncated sliding layer either can still answer for its next token, or refused. */
TEST(truncate_of_sliding_layers)
{
    syn s = {{2, 1, 16, 0, 70, 0, 0}, 100, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 700);
    uint32_t window;
    size_t n, back, refused = 0, done = 0;
    for (window = 1; window < 90; window += 22)
        for (n = 200; n < 420; n += test_.slow ? 23 : 61)
            for (back = 1; back < 120; back += test_.slow ? 9 : 13) {
                skv_cache_desc d = SKV_ZERO;
                skv_result t;
                float out[32];
                rig r;
                d.profile = p;
                d.max_tokens = 700;
                d.window = window;
                r = rig_new(cache_new(&d), 0, &x);
                rig_fill(&r, n, 64);
                t = skv_truncate(r.c, 0, n - back);
                CHECK(t == SKV_OK || t == SKV_ERR_STATE);
                refused += t != SKV_OK;
                done += t == SKV_OK;
                if (t == SKV_OK) {
                    rig_append(&r, 1);
                    CHECK(rig_attend(&r, 1, out, NULL) == SKV_OK);
                    if (back % 5 == 0) rig_check(&r, 1);
                }
                skv_cache_free(r.c);
            }
    CHECK(refused > 10 && done > 10);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(reset_is_like_new)
{
    syn_data x[3];
    skv_profile *p = memory_profile(x, 400);
    syn_counter count;
    skv_cache_desc d = SKV_ZERO;
    skv_usage fresh, u;
    skv_cache *c;
    size_t bytes;
    uint64_t want;
    uint32_t i;
    memset(&count, 0, sizeof count);
    d.profile = p;
    d.max_tokens = 400;
    d.allocator = syn_allocator(&count);
    c = cache_new(&d);
    bytes = count.live_bytes;
    CHECK(skv_cache_usage(c, &fresh) == SKV_OK && fresh.bytes == bytes && !fresh.elements);
    want = fill_three(c, x, 400, 17);
    CHECK(count.live_bytes > bytes);
    skv_cache_reset(c);
    CHECK(count.live_bytes == bytes && count.live_blocks == 1);
    CHECK(skv_cache_usage(c, &u) == SKV_OK && !memcmp(&u, &fresh, sizeof u));
    for (i = 0; i < 3; i++) CHECK(skv_cache_tokens(c, i) == 0);
    CHECK(fill_three(c, x, 400, 17) == want);
    skv_cache_free(c);
    skv_cache_free(NULL);
    skv_cache_reset(NULL);
    CHECK(count.live_blocks == 0 && count.wrong == 0);
    for (i = 0; i < 3; i++) syn_free(&x[i]);
    skv_profile_free(p);
}

TEST(full_changes_nothing)
{
    syn s = {{4, 2, 16, 0, 0, 0, 0}, 101, 1.0f, 2.0f, 0.03f, 10};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 400);
    skv_cache_desc d = SKV_ZERO;
    float out[400 * 64];
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
    skv_out o = skv_out_f32(out);
    uint64_t before;
    rig r;
    d.profile = p;
    d.max_tokens = 300;
    r = rig_new(cache_new(&d), 0, &x);
    CHECK(skv_prefill(r.c, 0, &q, &k, &v, 301, &o) == SKV_ERR_FULL && rig_total(&r) == 0);
    rig_append(&r, 290);
    before = rig_answer(&r, 3);
    CHECK(rig_try_append(&r, 11) == SKV_ERR_FULL);
    CHECK(skv_append(r.c, 0, &k, &v, (size_t)-1) == SKV_ERR_FULL);
    CHECK(skv_prefill(r.c, 0, &q, &k, &v, 11, &o) == SKV_ERR_FULL);
    CHECK(rig_answer(&r, 3) == before);
    rig_append(&r, 10);
    CHECK(rig_try_append(&r, 1) == SKV_ERR_FULL && rig_total(&r) == 300);
    rig_check(&r, 3);
    skv_cache_free(r.c);
    syn_free(&x);
    skv_profile_free(p);
}

/* --- errors --------------------------------------------------------------------------------- */

TEST(arguments_of_cache_init)
{
    syn s = {{4, 2, 16, 0, 0, 0, 0}, 102, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    static const skv_layer bad[] = {
        {0, 2, 16, 0, 0, 0, 0}, {4, 0, 16, 0, 0, 0, 0}, {4, 3, 16, 0, 0, 0, 0},
        {2, 4, 16, 0, 0, 0, 0}, {4, 2, 15, 0, 0, 0, 0}, {4, 2, 577, 0, 0, 0, 0},
        {4, 2, 16, 15, 0, 0, 0}, {4, 2, 16, 577, 0, 0, 0}, {513, 513, 16, 0, 0, 0, 0}};
    static const skv_layer odd[] = {
        {4, 2, 16, 0, 0, NAN, 0}, {4, 2, 16, 0, 0, INFINITY, 0}, {4, 2, 16, 0, 0, 0, -1},
        {4, 2, 16, 0, 0, 0, NAN}};
    skv_cache_desc d = SKV_ZERO, e;
    skv_cache *c = NULL;
    syn_counter count;
    size_t bytes = 55, i;
    CHECK(skv_cache_init(NULL, &d) == SKV_ERR_ARG && skv_cache_init(&c, NULL) == SKV_ERR_ARG);
    CHECK(skv_cache_size(NULL, &bytes) == SKV_ERR_ARG && skv_cache_size(&d, NULL) == SKV_ERR_ARG);
    d.max_tokens = 10;
    CHECK(skv_cache_init(&c, &d) == SKV_ERR_SHAPE);             /* neither profile nor model */
    CHECK(skv_cache_size(&d, &bytes) == SKV_ERR_SHAPE && bytes == 55);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        d.model = syn_model(&s, 1);
        d.model.layer = bad[i];
        CHECK(skv_cache_init(&c, &d) == SKV_ERR_SHAPE);
    }
    for (i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        d.model.layer = odd[i];
        CHECK(skv_cache_init(&c, &d) == SKV_ERR_ARG);
    }
    d.profile = p;
    e = d;
    e.max_tokens = 0;
    CHECK(skv_cache_init(&c, &e) == SKV_ERR_ARG);
    e = d;
    e.exact_bits = 8;
    CHECK(skv_cache_init(&c, &e) == SKV_ERR_ARG && skv_cache_size(&e, &bytes) == SKV_ERR_ARG);
    for (i = 1; i < 40; i++) {
        e = d;
        e.attend_bits = (uint32_t)i;
        if (i == 8 || i == 14) continue;
        CHECK(skv_cache_init(&c, &e) == SKV_ERR_ARG && skv_cache_size(&e, &bytes) == SKV_ERR_ARG);
    }
    e = d;
    e.target.bpe = -1;
    CHECK(skv_cache_init(&c, &e) == SKV_ERR_ARG && skv_cache_size(&e, &bytes) == SKV_ERR_ARG);
    e.target.bpe = 0.01f;
    memset(&count, 0, sizeof count);
    e.allocator = syn_allocator(&count);
    CHECK(skv_cache_init(&c, &e) == SKV_ERR_TARGET && skv_cache_size(&e, &bytes) == SKV_ERR_TARGET);
    CHECK(count.calls > 0 && count.live_blocks == 0 && count.wrong == 0);
    e = d;
    e.allocator.free = syn_count_free;
    CHECK(skv_cache_init(&c, &e) == SKV_ERR_ARG && skv_cache_size(&e, &bytes) == SKV_ERR_ARG);
    CHECK(!c && bytes == 55);
    CHECK(skv_cache_tokens(NULL, 0) == 0);
    skv_profile_free(p);
}

/* A cache with pages and exact tokens, good spans, and the answer it must keep. */
typedef struct patient {
    skv_profile *p;
    syn_data x;
    rig r;
    skv_span q, k, v;
    skv_out o;
    float out[64 * 80];
    uint64_t before;
} patient;

static patient *patient_new(uint32_t exact_bits)
{
    syn s = {{4, 2, 16, 0, 0, 0, 0}, 103, 1.0f, 2.0f, 0.03f, 10};
    patient *t = (patient *)calloc(1, sizeof *t);
    skv_cache_desc d = SKV_ZERO;
    if (!t) abort();
    t->p = syn_profile_direct(&s, 1, 1);
    t->x = syn_make(&s, 0, 1, 400);
    d.profile = t->p;
    d.max_tokens = 400;
    d.exact_bits = exact_bits;
    t->r = rig_new(cache_new(&d), 0, &t->x);
    rig_fill(&t->r, 250, 30);
    t->q = skv_f32(t->x.q + 250 * 64);
    t->k = skv_f32(t->x.k + 250 * 32);
    t->v = skv_f32(t->x.v + 250 * 32);
    t->o = skv_out_f32(t->out);
    t->before = rig_answer(&t->r, 5);
    return t;
}

/* Still as it was, and it goes on as if nothing had happened. */
static void patient_end(patient *t)
{
    skv_profile *p = t->p;
    skv_cache_desc d = SKV_ZERO;
    rig twin;
    CHECK(rig_answer(&t->r, 5) == t->before && rig_total(&t->r) == 250);
    d.profile = p;
    d.max_tokens = 400;
    d.exact_bits = t->r.c->exact_bits;
    twin = rig_new(cache_new(&d), 0, &t->x);
    rig_fill(&twin, 250, 30);
    rig_fill(&twin, 150, 40);
    rig_fill(&t->r, 150, 40);
    CHECK(rig_answer(&t->r, 5) == rig_answer(&twin, 5));
    same_pages(&t->r, &twin);
    skv_cache_free(twin.c);
    skv_cache_free(t->r.c);
    skv_profile_free(p);
    syn_free(&t->x);
    free(t);
}

TEST(arguments_of_append_and_attend)
{
    patient *t = patient_new(16);
    skv_cache *c = t->r.c;
    skv_span none = skv_f32(NULL), odd = t->k;
    skv_out no_out = skv_out_f32(NULL), odd_out = t->o;
    odd.dtype = (skv_dtype)3;
    odd_out.dtype = (skv_dtype)-1;
    CHECK(skv_append(NULL, 0, &t->k, &t->v, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 1, &t->k, &t->v, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, NULL, &t->v, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &t->k, NULL, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &none, &t->v, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &t->k, &none, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &odd, &t->v, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &t->k, &odd, 1) == SKV_ERR_ARG);
    CHECK(skv_append(c, 0, &t->k, &t->v, 0) == SKV_ERR_ARG);
    CHECK(skv_attend(NULL, 0, &t->q, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 1, &t->q, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, NULL, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &none, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &odd, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &t->q, 0, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &t->q, 251, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &t->q, 1, NULL, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &t->q, 1, &no_out, NULL) == SKV_ERR_ARG);
    CHECK(skv_attend(c, 0, &t->q, 1, &odd_out, NULL) == SKV_ERR_ARG);
    CHECK(skv_prefill(NULL, 0, &t->q, &t->k, &t->v, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 1, &t->q, &t->k, &t->v, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, NULL, &t->k, &t->v, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &t->q, NULL, &t->v, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &t->q, &t->k, NULL, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &odd, &t->k, &t->v, 5, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &t->q, &t->k, &t->v, 0, &t->o) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &t->q, &t->k, &t->v, 5, NULL) == SKV_ERR_ARG);
    CHECK(skv_prefill(c, 0, &t->q, &t->k, &t->v, 5, &no_out) == SKV_ERR_ARG);
    CHECK(rig_total(&t->r) == 250);
    CHECK(skv_prefill(c, 0, &t->q, &t->k, &t->v, 5, &odd_out) == SKV_ERR_ARG);
    CHECK(rig_total(&t->r) == 250);
    patient_end(t);
}

TEST(arguments_of_the_rest)
{
    patient *t = patient_new(16);
    skv_cache *c = t->r.c, *fresh;
    skv_cache_desc d = SKV_ZERO;
    skv_usage u;
    skv_span odd = t->q;
    float scores[4 * 250];
    odd.dtype = (skv_dtype)3;
    CHECK(skv_scores(NULL, 0, &t->q, scores) == SKV_ERR_ARG);
    CHECK(skv_scores(c, 1, &t->q, scores) == SKV_ERR_ARG);
    CHECK(skv_scores(c, 0, NULL, scores) == SKV_ERR_ARG);
    CHECK(skv_scores(c, 0, &odd, scores) == SKV_ERR_ARG);
    CHECK(skv_scores(c, 0, &t->q, NULL) == SKV_ERR_ARG);
    CHECK(skv_truncate(NULL, 0, 0) == SKV_ERR_ARG && skv_truncate(c, 1, 0) == SKV_ERR_ARG);
    CHECK(skv_truncate(c, 0, 251) == SKV_ERR_ARG);
    CHECK(sizeof(size_t) == 4 ||
          skv_truncate(c, 0, (size_t)((uint64_t)1 << 32)) == SKV_ERR_ARG);
    CHECK(skv_cache_usage(NULL, &u) == SKV_ERR_ARG && skv_cache_usage(c, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(NULL, 0, 0, 1, t->out, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(c, 1, 0, 1, t->out, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(c, 0, 251, 0, t->out, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(c, 0, 250, 1, t->out, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(c, 0, 5, (size_t)-2, t->out, NULL) == SKV_ERR_ARG);
    CHECK(skv_reconstruct(c, 0, 250, 0, t->out, NULL) == SKV_OK);
    CHECK(skv_cache_tokens(c, 1) == 0 && skv_cache_tokens(c, 0) == 250);
    d.profile = t->p;
    d.max_tokens = 10;
    fresh = cache_new(&d);                                      /* nothing in it yet */
    CHECK(skv_attend(fresh, 0, &t->q, 1, &t->o, NULL) == SKV_ERR_ARG);
    CHECK(skv_scores(fresh, 0, &t->q, scores) == SKV_ERR_STATE);
    CHECK(skv_truncate(fresh, 0, 0) == SKV_OK);
    skv_cache_free(fresh);
    patient_end(t);
}

TEST(nan_and_infinity_are_refused)
{
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    patient *t = patient_new(16);
    float scores[4 * 250], *at, lse[160];
    skv_attn a = SKV_ZERO;
    size_t i, n = 40;
    a.lse = lse;
    a.score_bound = a.page_mass = lse[0] = scores[0] = 11;
    for (i = 0; i < n * 64; i += 1 + i % 5) {       /* k and v: n * 32 each */
        float old;
        at = i < n * 32 ? t->x.k + 250 * 32 + i : t->x.v + 250 * 32 + (i - n * 32);
        old = *at;
        *at = bad[i % 3];
        CHECK(skv_append(t->r.c, 0, &t->k, &t->v, n) == SKV_ERR_NOT_FINITE);
        CHECK(skv_prefill(t->r.c, 0, &t->q, &t->k, &t->v, n, &t->o) == SKV_ERR_NOT_FINITE);
        *at = old;
    }
    t->out[0] = 5;
    for (i = 0; i < n * 64; i += 1 + i % 5) {
        float old;
        at = t->x.q + 250 * 64 + i;
        old = *at;
        *at = bad[i % 3];
        CHECK(skv_attend(t->r.c, 0, &t->q, n, &t->o, &a) == SKV_ERR_NOT_FINITE);
        CHECK(skv_prefill(t->r.c, 0, &t->q, &t->k, &t->v, n, &t->o) == SKV_ERR_NOT_FINITE);
        if (i < 64) CHECK(skv_scores(t->r.c, 0, &t->q, scores) == SKV_ERR_NOT_FINITE);
        *at = old;
    }
    CHECK(t->out[0] == 5 && a.score_bound == 11 && a.page_mass == 11 && a.tokens_exact == 0);
    CHECK(lse[0] == 11 && scores[0] == 11);
    patient_end(t);
}

TEST(values_beyond_f16)
{
    uint32_t bits;
    for (bits = 16; bits <= 32; bits += 16) {
        patient *t = patient_new(bits);
        float old = t->x.v[250 * 32 + 33];
        skv_result want = bits == 16 ? SKV_ERR_RANGE : SKV_OK;
        t->x.v[250 * 32 + 33] = -65505.0f;
        CHECK(skv_append(t->r.c, 0, &t->k, &t->v, 2) == want);
        if (want == SKV_OK) CHECK(skv_truncate(t->r.c, 0, 250) == SKV_OK);
        t->x.v[250 * 32 + 33] = 65504.0f;
        CHECK(skv_append(t->r.c, 0, &t->k, &t->v, 2) == SKV_OK);
        CHECK(skv_truncate(t->r.c, 0, 250) == SKV_OK);
        t->x.v[250 * 32 + 33] = 1e30f;
        CHECK(skv_append(t->r.c, 0, &t->k, &t->v, 2) == SKV_ERR_RANGE);
        t->x.v[250 * 32 + 33] = old;
        patient_end(t);
    }
}

/* Rows that a sliding layer has dropped: ERR_STATE, and the caller's arrays stay. */
TEST(dropped_rows_are_refused)
{
    syn s = {{2, 1, 16, 0, 70, 0, 0}, 107, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    syn_data x = syn_make(&s, 0, 1, 400);
    skv_cache_desc d = SKV_ZERO;
    static float k[400 * 16], v[400 * 16];
    size_t i, first, wrong = 0;
    rig r;
    d.profile = p;
    d.max_tokens = 400;
    d.window = 20;
    r = rig_new(cache_new(&d), 0, &x);
    rig_fill(&r, 400, 1);
    first = r.c->sinks + (size_t)r.c->cl[0].dropped * PAGE;
    CHECK(first >= 4 + 3 * PAGE);
    for (i = 0; i < 400 * 16; i++) k[i] = v[i] = 3;
    CHECK(skv_reconstruct(r.c, 0, 0, 400, k, v) == SKV_ERR_STATE);
    CHECK(skv_reconstruct(r.c, 0, 2, 3, k, v) == SKV_ERR_STATE);
    CHECK(skv_reconstruct(r.c, 0, first - 1, 2, k, v) == SKV_ERR_STATE);
    for (i = 0; i < 400 * 16; i++) wrong += k[i] != 3 || v[i] != 3;
    CHECK(wrong == 0);
    CHECK(skv_reconstruct(r.c, 0, 0, 4, k, v) == SKV_OK);
    CHECK(skv_reconstruct(r.c, 0, first, 400 - first, k, v) == SKV_OK);
    skv_cache_free(r.c);
    skv_profile_free(p);
    syn_free(&x);
}

/* --- usage ---------------------------------------------------------------------------------- */

TEST(usage_adds_up)
{
    syn_data x[3];
    skv_profile *p = memory_profile(x, 500);
    syn_counter count;
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c;
    size_t step, i, j;
    memset(&count, 0, sizeof count);
    d.profile = p;
    d.max_tokens = 500;
    d.target.bpe = 3;
    d.allocator = syn_allocator(&count);
    c = cache_new(&d);
    for (step = 0; step < 10; step++) {
        size_t elements = 0, pages = 0, page_bytes = 0, rows = 0, row_bytes = 0, exact = 0, n = 0;
        skv_usage u;
        for (i = 0; i < 3; i++) {
            rig r = rig_new(c, (uint32_t)i, &x[i]);
            const skvi_clayer *l = &c->cl[i];
            size_t wide = r.wk + r.wv;
            rig_append(&r, 20 + 10 * i);
            n = rig_total(&r) > n ? rig_total(&r) : n;
            elements += (rig_total(&r) - PAGE * l->dropped) * wide;
            exact += (c->cap + c->sinks) * wide * 2;
            for (j = l->dropped; j < l->n_pages; j++) {
                size_t bytes = skvi_get32(l->page[j] + 4);
                pages += PAGE * wide;
                page_bytes += bytes;
                rows += skvi_get16(l->page[j] + 2);
                row_bytes += bytes - c->coder.least[i];
            }
        }
        CHECK(skv_cache_usage(c, &u) == SKV_OK);
        CHECK(u.tokens == n && u.elements == elements && u.bytes == count.live_bytes);
        CHECK(u.page_elements == pages && u.page_bytes == page_bytes);
        CHECK(u.outlier_rows == rows && u.outlier_bytes == row_bytes && u.exact_bytes == exact);
        CHECK(u.work_bytes > 0 && u.work_bytes + exact + page_bytes < u.bytes);
        CHECK_NEAR(u.bpe, 8.0 * (double)u.bytes / (double)elements, 1e-9);
        if (pages) CHECK_NEAR(u.bpe_pages, 8.0 * (double)page_bytes / (double)pages, 1e-9);
        else CHECK(u.bpe_pages == 0);
    }
    skv_cache_free(c);
    CHECK(count.live_bytes == 0 && count.live_blocks == 0 && count.wrong == 0);
    for (i = 0; i < 3; i++) syn_free(&x[i]);
    skv_profile_free(p);
}

/* Pages, outliers included, never take more than was asked for, page by page. */
TEST(bits_are_at_most_the_target)
{
    syn s = {{4, 2, 32, 0, 0, 0, 0}, 104, 1.0f, 2.0f, 0.06f, 10};
    skv_profile *p = syn_profile(&s, 2, 2, 1, 300);
    syn_data x = syn_make(&s, 0, 1, 700), y = syn_make(&s, 1, 1, 700);
    static const float share[3] = {-1, 0, 0.2f};
    float bpe;
    size_t i;
    for (bpe = 0.9f; bpe < 9; bpe *= 1.5f)
        for (i = 0; i < 3; i++) {
            skv_cache_desc d = SKV_ZERO;
            skv_usage u;
            rig a, b;
            int step;
            d.profile = p;
            d.target.bpe = bpe;
            d.outliers = share[i];
            d.max_tokens = 700;
            a = rig_new(cache_new(&d), 0, &x);
            b = rig_new(a.c, 1, &y);
            for (step = 0; step < 7; step++) {
                rig_append(&a, 100);
                rig_append(&b, 100);
                CHECK(skv_cache_usage(a.c, &u) == SKV_OK && u.bpe_pages <= (double)bpe);
                CHECK(step < 6 || u.bpe_pages > 0.75 * (double)bpe || bpe > 8);
            }
            if (d.outliers < 0) CHECK(u.outlier_rows == 0);
            skv_cache_free(a.c);
        }
    skv_profile_free(p);
    syn_free(&x);
    syn_free(&y);
}

static void run_answers(void)
{
    RUN(exact_is_naive_attention);
    RUN(exact_with_wild_scores);
    RUN(exact_overflow_is_not_silent);
    RUN(attention_on_codes_is_attention_on_rows);
    RUN(prefill_is_append_and_attend);
    RUN(more_bits_are_nearer_to_exact);
    RUN(pieces_give_the_same_pages);
    RUN(skipped_pages_leave_no_trace);
    RUN(exact_tokens_are_as_promised);
    RUN(small_capacities);
    RUN(scores_are_q_dot_rows);
    RUN(the_bound_bounds);
    RUN(large_means);
    RUN(no_pages_no_bound);
    RUN(merge_of_parts_is_the_whole);
    RUN(merge_with_nothing);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    run_answers();
    RUN(output_types_and_strides);
    RUN(input_types_and_strides);
    RUN(eight_bits_are_near_fourteen);
    RUN(parallel_does_not_change_a_bit);
    RUN(memory_of_exactly_the_size);
    RUN(memory_with_outliers_in_every_page);
    RUN(exact_cache_in_memory);
    RUN(truncate_and_append_again);
    RUN(truncate_of_sliding_layers);
    RUN(reset_is_like_new);
    RUN(full_changes_nothing);
    RUN(arguments_of_cache_init);
    RUN(arguments_of_append_and_attend);
    RUN(arguments_of_the_rest);
    RUN(nan_and_infinity_are_refused);
    RUN(values_beyond_f16);
    RUN(dropped_rows_are_refused);
    RUN(usage_adds_up);
    RUN(bits_are_at_most_the_target);
    return TEST_END();
}
