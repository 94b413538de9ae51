/* test_report.c: skv_report against the same figures computed here in double from what a cache of
 * the same settings gives back; verdicts on good, poor, broken profiles; bounds; errors; memory. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define TOKENS 300
#define MAX_HEADS 8

static void round_all(float *x, size_t n)       /* so that the exact window holds them exactly */
{
    size_t i;
    for (i = 0; i < n; i++) x[i] = skvi_from_f16(skvi_to_f16(x[i]));
}

static syn_data rounded(const syn *s, uint32_t layer, uint32_t passage, size_t n)
{
    syn_data x = syn_make(s, layer, passage, n);
    round_all(x.k, n * s->shape.n_kv_heads * s->shape.head_dim);
    round_all(x.v, n * s->shape.n_kv_heads * syn_dim_v(&s->shape));
    return x;
}

static skv_report_desc describe(const skv_profile *p, float bpe)
{
    skv_report_desc d = SKV_ZERO;
    d.profile = p;
    d.target.bpe = bpe;
    d.window = 32;
    d.max_queries = 7;
    d.attend_bits = 14;
    return d;
}

static skv_result report(const skv_report_desc *d, uint32_t layer, const syn_data *x,
                         skv_layer_report *out, skv_head_report *heads)
{
    skv_span q = skv_f32(x->q), k = skv_f32(x->k), v = skv_f32(x->v);
    return skv_report(d, layer, &q, &k, &v, x->n, out, heads);
}

/* The figures of one head by the book: rows of the cache back to floats, then naive attention. */
typedef struct book {
    double square, scores, far, mass, mass_max, kl, kl_max, error, norm, ratio, ratio_max;
} book;

static double capped(const skv_layer *l, double s)
{
    return l->softcap > 0 ? (double)l->softcap * tanh(s / (double)l->softcap) : s;
}

static void weights(double *s, size_t from, size_t to)
{
    double top = -INFINITY, sum = 0;
    size_t i;
    for (i = from; i < to; i++) top = s[i] > top ? s[i] : top;
    for (i = from; i < to; i++) sum += s[i] = exp(s[i] - top);
    for (i = from; i < to; i++) s[i] /= sum;
}

static void book_query(book *b, const skv_layer *l, const syn_data *x, size_t h, size_t pos,
                       const size_t paged[2], const float *k2, const float *v2)
{
    size_t d = l->head_dim, dv = syn_dim_v(l), nk = l->n_kv_heads, kv = h / (l->n_q_heads / nk);
    size_t w = l->sliding_window, from = w && pos + 1 > w ? pos + 1 - w : 0, t, i;
    const float *q = x->q + (pos * l->n_q_heads + h) * d;
    static double p[TOKENS], p2[TOKENS];
    double kl = 0, mass = 0, error = 0, norm = 0, ratio;
    for (t = from; t <= pos; t++) {
        double e;
        p[t] = syn_score(l, q, x->k + (t * nk + kv) * d);
        p2[t] = syn_score(l, q, k2 + (t * nk + kv) * d);
        e = fabs(p[t] - p2[t]);
        if (t >= paged[0] && t < paged[1]) {
            b->scores++;
            b->square += e * e;
            b->far = e > b->far ? e : b->far;
        }
        p[t] = capped(l, p[t]);
        p2[t] = capped(l, p2[t]);
    }
    weights(p, from, pos + 1);
    weights(p2, from, pos + 1);
    for (t = from; t <= pos; t++) {
        kl += p[t] > 0 ? p[t] * log(p[t] / p2[t]) : 0;
        mass += t >= paged[0] && t < paged[1] ? p[t] : 0;
    }
    for (i = 0; i < dv; i++) {
        double o = 0, o2 = 0;
        for (t = from; t <= pos; t++) {
            o += p[t] * (double)x->v[(t * nk + kv) * dv + i];
            o2 += p2[t] * (double)v2[(t * nk + kv) * dv + i];
        }
        error += (o - o2) * (o - o2);
        norm += o * o;
    }
    ratio = sqrt(error / norm);
    b->kl += kl;
    b->mass += mass;
    b->error += error;
    b->norm += norm;
    b->ratio += ratio;
    b->kl_max = kl > b->kl_max ? kl : b->kl_max;
    b->mass_max = mass > b->mass_max ? mass : b->mass_max;
    b->ratio_max = ratio > b->ratio_max ? ratio : b->ratio_max;
}

/* Books of all heads over the queries of the report; the cache is filled as the header promises:
 * token by token gives the same pages as any other way. */
static void book_keep(book *b, const skv_report_desc *d, const skv_layer *l, uint32_t layer,
                      const syn_data *x)
{
    size_t wk = (size_t)l->n_kv_heads * l->head_dim, wv = (size_t)l->n_kv_heads * syn_dim_v(l);
    size_t first = 4 + 32 + SKV_PAGE_TOKENS, span = x->n - first, i = 0, t, h;
    float *k2 = (float *)calloc(x->n * wk, 4), *v2 = (float *)calloc(x->n * wv, 4);
    skv_cache_desc c = SKV_ZERO;
    skv_cache *cache = NULL;
    if (!k2 || !v2) abort();
    memset(b, 0, MAX_HEADS * sizeof *b);
    c.profile = d->profile;
    c.target = d->target;
    c.window = 32;
    c.max_tokens = (uint32_t)x->n;
    CHECK(skv_cache_init(&cache, &c) == SKV_OK);
    for (t = 0; t < x->n && cache; t++) {
        skv_span k = skv_f32(x->k + t * wk), v = skv_f32(x->v + t * wv);
        size_t pages = (t - 36) / SKV_PAGE_TOKENS, paged[2], from;
        CHECK(skv_append(cache, layer, &k, &v, 1) == SKV_OK);
        if (t != first + (i + 1) * span / 7 - 1) continue;
        i++;
        from = l->sliding_window && t + 1 > l->sliding_window ? t + 1 - l->sliding_window : 0;
        paged[1] = 4 + pages * SKV_PAGE_TOKENS;
        paged[0] = from > 4 ? from : 4;
        if (paged[0] > paged[1]) paged[0] = paged[1];
        CHECK(skv_reconstruct(cache, layer, from, t + 1 - from, k2 + from * wk,
                              v2 + from * wv) == SKV_OK);
        for (h = 0; h < l->n_q_heads; h++) book_query(&b[h], l, x, h, t, paged, k2, v2);
    }
    CHECK(i == 7);
    skv_cache_free(cache);
    free(k2);
    free(v2);
}

static void close_to(double got, double want)
{
    CHECK_NEAR(got, want, 4e-3 * fabs(want) + 2e-5);        /* the cache attends in 14 bits */
}

static void agrees(const syn *s, uint32_t head_group, float bpe)
{
    skv_profile *p = syn_profile(s, 2, head_group, 3, 400);
    syn_data x = rounded(s, 1, 1, TOKENS);
    skv_report_desc d = describe(p, bpe);
    skv_layer_report out;
    skv_head_report head[MAX_HEADS];
    book b[MAX_HEADS];
    double kl = 0, error = 0, norm = 0, far = 0;
    uint32_t h, n = s->shape.n_q_heads;
    CHECK(p && report(&d, 1, &x, &out, head) == SKV_OK);
    book_keep(b, &d, &s->shape, 1, &x);
    for (h = 0; h < n; h++) {
        close_to(head[h].score_rms, sqrt(b[h].square / b[h].scores));
        close_to(head[h].score_max, b[h].far);
        close_to(head[h].page_mass, b[h].mass / 7);
        close_to(head[h].page_mass_max, b[h].mass_max);
        close_to(head[h].kl_mean, b[h].kl / 7);
        close_to(head[h].kl_max, b[h].kl_max);
        close_to(head[h].output_rms, sqrt(b[h].error / b[h].norm));
        close_to(head[h].output_mean, b[h].ratio / 7);
        close_to(head[h].output_max, b[h].ratio_max);
        close_to(head[h].output_square, b[h].error / 7);
        CHECK(head[h].score_max <= head[h].score_bound * 1.0001 + 1e-5);
        CHECK(head[h].score_max > 0 && head[h].page_mass > 0 && head[h].kl_mean > 0);
        kl += b[h].kl / 7 / n;
        error += b[h].error;
        norm += b[h].norm;
        far = b[h].far > far ? b[h].far : far;
    }
    close_to(out.all.kl_mean, kl);
    close_to(out.all.output_rms, sqrt(error / norm));
    close_to(out.all.output_square, error / 7);
    close_to(out.all.score_max, far);
    CHECK(out.n_queries == 7 && out.n_heads == n && out.layer == 1 && out.tokens == TOKENS);
    CHECK(out.bpe_pages > 0 && out.bpe_pages <= (double)bpe + 0.3);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(figures_by_the_book)
{
    static const syn plain = {{4, 2, 32, 24, 0, 0, 0}, 3, 1.0f, 2.0f, 0.02f, 6};
    static const syn capped_slide = {{6, 2, 16, 0, 150, 0.3f, 5.0f}, 4, 1.0f, 2.0f, 0.0f, 0};
    agrees(&plain, 1, 3.0f);
    agrees(&plain, 2, 2.0f);
    agrees(&capped_slide, 1, 2.5f);
}

/* Errors of latents, found and planned, and how far the output moves. */
TEST(expected_and_measured)
{
    static const syn mha = {{3, 3, 16, 0, 0, 0, 0}, 5, 1.0f, 2.0f, 0.0f, 0};
    skv_profile *p = syn_profile(&mha, 1, 2, 6, 600);
    syn_data x = rounded(&mha, 0, 1, TOKENS), y = rounded(&mha, 0, 2, 900);
    skv_report_desc d = describe(p, 3.0f);
    skv_layer_report out;
    skv_head_report head[MAX_HEADS];
    skv_outlook o = SKV_ZERO;
    CHECK(report(&d, 0, &y, &out, head) == SKV_OK);
    CHECK(skv_profile_outlook(p, &d.target, &o) == SKV_OK);
    CHECK_NEAR(out.all.expected[0] + out.all.expected[1], o.error, 1e-6 * o.error);
    CHECK_NEAR(out.all.measured[0] / out.all.expected[0], 1, 0.3);
    CHECK_NEAR(out.all.measured[1] / out.all.expected[1], 1, 0.3);
    /* heads 0 and 1 share a group, 2 has its own */
    CHECK(head[0].measured[0] == head[1].measured[0] && head[0].measured[0] != head[2].measured[0]);
    CHECK_NEAR(head[0].measured[1] + head[2].measured[1], out.all.measured[1], 1e-12);
    /* the output moves by about as much as was planned, on data like the calibration's */
    CHECK(out.all.output_square < 4 * o.error && out.all.output_square > o.error / 4);
    CHECK(report(&d, 0, &x, &out, NULL) == SKV_OK);
    syn_free(&x);
    syn_free(&y);
    skv_profile_free(p);
}

static const syn usual = {{4, 2, 32, 0, 0, 0, 0}, 9, 1.0f, 2.0f, 0.0f, 0};

TEST(many_bits_are_safe)
{
    skv_profile *p = syn_profile(&usual, 1, 1, 3, 400);
    syn_data x = rounded(&usual, 0, 1, TOKENS);
    skv_report_desc d = describe(p, 8.9f);
    skv_layer_report out;
    skv_head_report head[MAX_HEADS];
    uint32_t h;
    CHECK(report(&d, 0, &x, &out, head) == SKV_OK);
    CHECK(out.all.verdict == SKV_SAFE && skv_report_verdict(&out, 1) == SKV_SAFE);
    CHECK(out.all.kl_mean < 1e-3 && out.all.output_rms < 0.02);
    for (h = 0; h < 4; h++) CHECK(head[h].verdict == SKV_SAFE);
    syn_free(&x);
    skv_profile_free(p);
}

/* Almost no bits, and a profile of other data: unsafe, and more so than before. */
TEST(broken_profiles_are_unsafe)
{
    syn other = usual;
    skv_profile *p = syn_profile(&usual, 1, 1, 3, 400), *wrong;
    syn_data x = rounded(&usual, 0, 1, TOKENS);
    skv_report_desc d = describe(p, 0.3f), e;
    skv_layer_report out, bad;
    other.seed = 4711;
    other.decay = 4;
    wrong = syn_profile(&other, 1, 1, 3, 400);
    e = describe(wrong, 2.0f);
    CHECK(report(&d, 0, &x, &out, NULL) == SKV_OK);
    CHECK(out.all.verdict == SKV_UNSAFE && out.all.output_rms > SKV_UNSAFE_OUTPUT);
    d.target.bpe = 2;
    CHECK(report(&d, 0, &x, &out, NULL) == SKV_OK);
    CHECK(report(&e, 0, &x, &bad, NULL) == SKV_OK);
    CHECK(bad.all.verdict == SKV_UNSAFE && bad.all.kl_mean > 2 * out.all.kl_mean);
    CHECK(bad.all.measured[0] > 3 * bad.all.expected[0]);
    CHECK(out.all.measured[0] < 2 * out.all.expected[0]);
    syn_free(&x);
    skv_profile_free(p);
    skv_profile_free(wrong);
}

/* Bits, seeds and stray tokens: what is certified holds, for every head. */
TEST(bounds_hold)
{
    uint32_t i, h;
    for (i = 0; i < (test_.slow ? 24u : 6u); i++) {
        syn s = usual;
        skv_profile *p;
        syn_data x;
        skv_report_desc d;
        skv_layer_report out;
        skv_head_report head[MAX_HEADS];
        s.seed = 20 + i;
        s.outliers = 0.05f;
        s.gain = 20;
        p = syn_profile(&s, 1, 1 + i % 2, 2, 300);
        x = rounded(&s, 0, 1, 230);
        d = describe(p, 0.5f + (float)i);
        if (i > 5) d.target.bpe = 1.5f;
        CHECK(report(&d, 0, &x, &out, head) == SKV_OK);
        for (h = 0; h < 4; h++)
            CHECK(head[h].score_max <= head[h].score_bound * 1.0001 + 1e-4);
        syn_free(&x);
        skv_profile_free(p);
    }
}

static int same(const skv_layer_report *a, const skv_layer_report *b)
{
    return !memcmp(&a->all.score_rms, &b->all.score_rms, offsetof(skv_head_report, verdict)) &&
           a->all.verdict == b->all.verdict && a->page_bytes == b->page_bytes &&
           a->worst_head == b->worst_head && a->tokens_paged == b->tokens_paged;
}

static void backwards(void *user, size_t n, void (*task)(void *, size_t), void *arg)
{
    ++*(size_t *)user;
    while (n--) task(arg, n);
}

/* A cache of the caller's own, in other dtypes and orders: the same figures; it ends up empty. */
TEST(own_cache_and_parallel)
{
    skv_profile *p = syn_profile(&usual, 2, 1, 3, 400);
    syn_data x = rounded(&usual, 1, 1, TOKENS);
    skv_report_desc d = describe(p, 2.5f), e = SKV_ZERO;
    skv_cache_desc c = SKV_ZERO;
    skv_layer_report a, b;
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
    size_t runs = 0;
    CHECK(report(&d, 1, &x, &a, NULL) == SKV_OK);
    c.profile = p;
    c.target.bpe = 2.5f;
    c.window = 32;
    c.attend_bits = 14;
    c.max_tokens = TOKENS;
    CHECK(skv_cache_init(&e.cache, &c) == SKV_OK);
    CHECK(skv_append(e.cache, 0, &k, &v, 99) == SKV_OK);
    e.max_queries = 7;
    e.parallel.run = backwards;
    e.parallel.user = &runs;
    CHECK(skv_report(&e, 1, &q, &k, &v, TOKENS, &b, NULL) == SKV_OK);
    CHECK(same(&a, &b) && runs >= 7);
    CHECK(skv_cache_tokens(e.cache, 0) == 0 && skv_cache_tokens(e.cache, 1) == 0);
    CHECK(skv_report(&e, 1, &q, &k, &v, TOKENS + 1, &b, NULL) == SKV_ERR_FULL);
    CHECK(skv_report(&e, 2, &q, &k, &v, TOKENS, &b, NULL) == SKV_ERR_ARG);
    skv_cache_free(e.cache);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(bad_arguments)
{
    skv_profile *p = syn_profile(&usual, 1, 1, 3, 400);
    syn_data x = rounded(&usual, 0, 1, TOKENS);
    skv_report_desc d = describe(p, 3), none = SKV_ZERO, half;
    skv_layer_report out, before;
    skv_head_report head[4], head_before[4];
    skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v), no = SKV_ZERO;
    memset(&out, 77, sizeof out);
    memset(head, 77, sizeof head);
    before = out;
    memcpy(head_before, head, sizeof head);
    half = d;
    half.allocator.alloc = syn_count_alloc;
    CHECK(skv_report(NULL, 0, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&none, 0, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&half, 0, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 1, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &no, &k, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &q, NULL, &v, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &q, &k, &no, TOKENS, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &q, &k, &v, 0, &out, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &q, &k, &v, TOKENS, NULL, head) == SKV_ERR_ARG);
    CHECK(skv_report(&d, 0, &q, &k, &v, 100, &out, head) == SKV_ERR_STATE);
    x.v[2 * 32 * 250] = NAN;
    CHECK(skv_report(&d, 0, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_NOT_FINITE);
    x.v[2 * 32 * 250] = 0;
    x.q[4 * 32 * (TOKENS - 1)] = INFINITY;
    CHECK(skv_report(&d, 0, &q, &k, &v, TOKENS, &out, head) == SKV_ERR_NOT_FINITE);
    x.q[4 * 32 * (TOKENS - 1)] = 0;
    d.target.energy = 0.5f;
    CHECK(skv_report(&d, 0, &q, &k, &v, TOKENS, &out, head) < 0);
    CHECK(!memcmp(&out, &before, sizeof out) && !memcmp(head, head_before, sizeof head));
    d.target.energy = 0;
    CHECK(skv_report(&d, 0, &q, &k, &v, 101, &out, head) == SKV_OK && out.n_queries == 1);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(every_allocation_fails_once)
{
    skv_profile *p = syn_profile(&usual, 1, 1, 3, 400);
    syn_data x = rounded(&usual, 0, 1, TOKENS);
    skv_report_desc d = describe(p, 3);
    skv_layer_report out, want, before;
    syn_counter count;
    size_t n, calls;
    memset(&count, 0, sizeof count);
    d.allocator = syn_allocator(&count);
    CHECK(report(&d, 0, &x, &want, NULL) == SKV_OK);
    calls = count.calls;
    CHECK(calls > 4 && count.live_blocks == 0 && count.wrong == 0);
    memset(&before, 5, sizeof before);
    for (n = 1; n <= calls; n++) {
        out = before;
        count.fail_at = n;
        CHECK(report(&d, 0, &x, &out, NULL) == SKV_ERR_MEMORY);
        CHECK(!memcmp(&out, &before, sizeof out) && count.live_blocks == 0 && count.wrong == 0);
    }
    CHECK(report(&d, 0, &x, &out, NULL) == SKV_OK && same(&out, &want));
    syn_free(&x);
    skv_profile_free(p);
}

TEST(text_on_a_page)
{
    skv_profile *p = syn_profile(&usual, 2, 1, 3, 400);
    skv_report_desc d = describe(p, 2);
    skv_layer_report out[2];
    char text[2048], tight[8];
    size_t bytes = 0, need = 0;
    uint32_t i;
    for (i = 0; i < 2; i++) {
        syn_data x = rounded(&usual, i, 1, TOKENS);
        CHECK(report(&d, i, &x, &out[i], NULL) == SKV_OK);
        syn_free(&x);
    }
    CHECK(skv_report_text(out, 2, NULL, 0, &need) == SKV_ERR_ARG);
    CHECK(skv_report_text(out, 2, text, sizeof text, &bytes) == SKV_OK);
    CHECK(bytes == need && strlen(text) + 1 == bytes);
    CHECK(skv_report_text(out, 2, text, bytes, NULL) == SKV_OK);
    CHECK(skv_report_text(out, 2, tight, sizeof tight, NULL) == SKV_ERR_ARG && strlen(tight) == 7);
    CHECK(strstr(text, "\n    0 ") && strstr(text, "\n    1 ") && strstr(text, "\n mean "));
    CHECK(strstr(text, skv_verdict_name(skv_report_verdict(out, 2))) != NULL);
    CHECK(skv_report_text(NULL, 2, text, sizeof text, NULL) == SKV_ERR_ARG);
    CHECK(skv_report_text(out, 0, text, sizeof text, NULL) == SKV_ERR_ARG);
    CHECK(skv_report_verdict(out, 0) == SKV_UNSAFE);
    out[0].all.kl_mean = NAN;
    CHECK(skv_report_verdict(out, 2) == SKV_UNSAFE);
    skv_profile_free(p);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(figures_by_the_book);
    RUN(expected_and_measured);
    RUN(many_bits_are_safe);
    RUN(broken_profiles_are_unsafe);
    RUN(bounds_hold);
    RUN(own_cache_and_parallel);
    RUN(bad_arguments);
    RUN(every_allocation_fails_once);
    RUN(text_on_a_page);
    return TEST_END();
}
