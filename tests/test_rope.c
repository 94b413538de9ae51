/* test_rope.c: the turned mean of keys (skv_profiler_rope): sums against their definition in
 * double, what it gains, merging, arguments, and the cache's answers far out in a sequence. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define PAGE SKV_PAGE_TOKENS
#define PASSAGE 320

/* A layer whose keys are R(position) mu + noise, and how it turns. */
typedef struct turned {
    syn      s;
    uint32_t style, pairs, head_group;
    float    freq[SKV_MAX_HEAD_DIM / 2];
    float    mu[SKV_MAX_HEAD_DIM * 4];      /* of all KV heads side by side */
} turned;

static const uint32_t shapes[][7] = {   /* n_q, n_kv, d, dv, head group, style, pairs */
    {2, 1, 32, 16, 1, SKV_ROPE_ADJACENT, 16},
    {6, 3, 32, 32, 2, SKV_ROPE_HALVES, 16},
    {4, 2, 40, 24, 2, SKV_ROPE_HALVES, 5},      /* a quarter turns */
    {3, 3, 33, 17, 3, SKV_ROPE_ADJACENT, 11},   /* odd head_dim */
    {4, 4, 17, 16, 1, SKV_ROPE_HALVES, 8}
};
#define SHAPES (sizeof shapes / sizeof shapes[0])

static turned turned_of(size_t number)
{
    const uint32_t *n = shapes[number];
    turned t;
    size_t p, i;
    memset(&t, 0, sizeof t);
    t.s.shape.n_q_heads = n[0];
    t.s.shape.n_kv_heads = n[1];
    t.s.shape.head_dim = n[2];
    t.s.shape.head_dim_v = n[3];
    t.s.seed = 200 + number;
    t.s.decay = 2;
    t.s.gain = 12;
    t.head_group = n[4];
    t.style = n[5];
    t.pairs = n[6];
    for (p = 0; p < t.pairs; p++)
        t.freq[p] = (float)pow(10000, -(double)p / (double)t.pairs);
    for (i = 0; i < (size_t)n[1] * n[2]; i++)   /* in the pairs that turn, and less in the rest */
        t.mu[i] = (float)((i % n[2] < 2 * t.pairs ? 3 : 0.5) * test_normal());
    return t;
}

/* Tokens from position `first` on: small noise, the last the turned mean. */
static syn_data turned_make(const turned *t, uint32_t passage, size_t n, double noise)
{
    syn_data x = syn_make(&t->s, 0, passage, n);
    size_t i, h, c, d = t->s.shape.head_dim, H = t->s.shape.n_kv_heads;
    double row[SKV_MAX_HEAD_DIM];
    for (i = 0; i < n; i++)
        for (h = 0; h < H; h++) {
            float *k = x.k + (i * H + h) * d;
            for (c = 0; c < d; c++)
                row[c] = noise * (double)k[c] +
                         (c < 2 * t->pairs ? 0 : (double)t->mu[h * d + c]);
            syn_turn(t->style, t->pairs, t->freq, t->mu + h * d, (double)i, 1, row);
            for (c = 0; c < d; c++) k[c] = (float)row[c];
        }
    return x;
}

static skv_profiler *profiler_of(const turned *t, int turn)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    d.model = syn_model(&t->s, 1);
    d.head_group = t->head_group;
    d.max_passage = PASSAGE;
    d.max_queries = 32;
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    if (!p) abort();
    if (turn)
        CHECK(skv_profiler_rope(p, 0, (skv_rope)t->style, t->freq, t->pairs) == SKV_OK);
    return p;
}

static void add(skv_profiler *p, const syn_data *x, size_t n)
{
    skv_span q = skv_f32(x->q), k = skv_f32(x->k), v = skv_f32(x->v);
    CHECK(skv_profiler_add(p, 0, &q, &k, &v, n) == SKV_OK);
}

static skv_profile *fit(const turned *t, int turn, double noise)
{
    skv_profiler *p = profiler_of(t, turn);
    skv_profile *f = NULL;
    uint32_t i;
    for (i = 0; i < 3; i++) {
        syn_data x = turned_make(t, 1000 + i, PASSAGE - 20 * i, noise);
        add(p, &x, x.n);
        syn_free(&x);
    }
    CHECK(skv_profiler_fit(p, NULL, &f) >= SKV_OK);
    skv_profiler_free(p);
    if (!f) abort();
    return f;
}

/* --- sums ---------------------------------------------------------------------------------- */

/* skvi_take_turn of one head group against sums over k - R(t) mu. `waves` are the library's own
   cosines in float, else those of double: what differs is only their rounding. */
static void check_group(const turned *t, const skv_profiler *p, const syn_data *x, size_t g,
                        int waves)
{
    const skvi_player *l = &p->player[0];
    size_t d = t->s.shape.head_dim, H = t->s.shape.n_kv_heads, h0 = g * p->head_group, i, j, h, n;
    size_t heads = H - h0 < p->head_group ? H - h0 : p->head_group, D = heads * d;
    double *sum = (double *)calloc(2 * D + 2 * D * D, sizeof(double)), *gram = sum + D;
    double *want = gram + D * D, *want_gram = want + D, row[4 * 64], top = 0, tol;
    float mu[4 * 64], wave[SKV_MAX_HEAD_DIM];
    if (!sum) abort();
    skvi_unturned_mean(l, &l->k[g], heads, mu);
    skvi_take_turn(l, &l->k[g], heads, mu, sum, gram);
    for (n = p->sinks; n < x->n; n++) {
        skvi_wave(&l->turn, (double)n, wave);
        for (h = 0; h < heads; h++) {
            for (i = 0; i < d; i++) row[h * d + i] = (double)x->k[(n * H + h0 + h) * d + i];
            for (j = 0; j < t->pairs && waves; j++) {
                size_t a = h * d + (t->style == SKV_ROPE_ADJACENT ? 2 * j : j);
                size_t b = a + (t->style == SKV_ROPE_ADJACENT ? 1 : t->pairs);
                double c = (double)wave[j], s = (double)wave[t->pairs + j];
                row[a] -= c * (double)mu[a] - s * (double)mu[b];
                row[b] -= s * (double)mu[a] + c * (double)mu[b];
            }
            if (!waves)
                syn_turn(t->style, t->pairs, t->freq, mu + h * d, (double)n, -1, row + h * d);
        }
        for (i = 0; i < D; i++) {
            want[i] += row[i];
            for (j = i; j < D; j++) want_gram[i * D + j] += row[i] * row[j];
        }
    }
    for (i = 0; i < D; i++) top = l->k[g].gram[i * D + i] > top ? l->k[g].gram[i * D + i] : top;
    tol = (waves ? 1e-9 : 1e-5) * top;
    for (i = 0; i < D; i++) {
        CHECK_NEAR(sum[i], want[i], tol);
        for (j = i; j < D; j++) CHECK_NEAR(gram[i * D + j], want_gram[i * D + j], tol);
    }
    for (i = 0; i < D && waves; i++)            /* and it is the mean that was put there */
        CHECK_NEAR(mu[i], i % d < 2 * t->pairs ? t->mu[h0 * d + i] : 0, 0.05);
    free(sum);
}

TEST(sums_are_those_of_unturned_keys)
{
    size_t i, g;
    for (i = 0; i < SHAPES; i++) {
        turned t = turned_of(i);
        skv_profiler *p = profiler_of(&t, 1);
        syn_data x = turned_make(&t, 7, PASSAGE, 0.1);
        add(p, &x, PASSAGE);
        for (g = 0; g < p->player[0].n_groups; g++) {
            check_group(&t, p, &x, g, 1);
            check_group(&t, p, &x, g, 0);
        }
        skv_profiler_free(p);
        syn_free(&x);
    }
}

static skv_profiler *grouped(const turned *t, uint32_t head_group, const float *w_o)
{
    turned other = *t;
    skv_profiler *p;
    skv_span w = skv_f32(w_o);
    other.head_group = head_group;
    p = profiler_of(&other, 1);
    CHECK(skv_profiler_output(p, 0, &w, 6) == SKV_OK);
    CHECK(skv_profiler_price(p, 0, 2, 3) == SKV_OK);
    return p;
}

static void same_profile(const skv_profiler *a, const skv_profiler *b)
{
    skv_profile *f[2] = {NULL, NULL};
    uint32_t i, c;
    CHECK(skv_profiler_fit(a, NULL, &f[0]) == SKV_OK && skv_profiler_fit(b, NULL, &f[1]) == SKV_OK);
    CHECK(f[0]->n_streams == f[1]->n_streams && f[0]->sinks == f[1]->sinks &&
          f[0]->window == f[1]->window && f[0]->n_tokens == f[1]->n_tokens);
    for (i = 0; i < f[0]->n_streams; i++) {
        const skvi_stream *s = &f[0]->stream[i], *t = &f[1]->stream[i];
        CHECK(s->D == t->D && !s->turn == !t->turn);
        for (c = 0; c < s->D; c++) {
            CHECK_NEAR(s->var[c] / t->var[c], 1, 1e-4);
            CHECK_NEAR(s->mean[c], t->mean[c], 1e-5);
            if (s->turn) CHECK_NEAR(s->turn[c], t->turn[c], 1e-5);
        }
    }
    skv_profile_free(f[0]);
    skv_profile_free(f[1]);
}

/* Wider groups give, by narrow and by merge, the sums of a profiler that was narrow at once. */
TEST(narrow_is_a_narrow_profiler)
{
    turned t = turned_of(4);
    syn_data x = turned_make(&t, 7, 300, 0.1);
    float w_o[6 * 4 * 16];
    uint32_t from, to, i;
    for (i = 0; i < 6 * 4 * 16; i++) w_o[i] = (float)test_normal();
    for (from = 2; from <= 5; from++)
        for (to = 1; to <= from; to++) {
            skv_profiler *wide = grouped(&t, from, w_o), *want = grouped(&t, to, w_o), *got = NULL;
            skv_profiler *merged = grouped(&t, to, w_o);
            int fits = from % to == 0 || from >= 4;     /* of 4 heads */
            add(wide, &x, x.n);
            add(want, &x, x.n);
            CHECK(skv_profiler_narrow(wide, to, &got) == (fits ? SKV_OK : SKV_ERR_SHAPE));
            CHECK(skv_profiler_merge(merged, wide) == (fits ? SKV_OK : SKV_ERR_SHAPE));
            CHECK(!fits == !got);
            if (fits) {
                same_profile(got, want);
                same_profile(merged, want);
                skv_profiler_free(got);
            }
            skv_profiler_free(wide);
            skv_profiler_free(want);
            skv_profiler_free(merged);
        }
    CHECK(skv_profiler_narrow(NULL, 1, NULL) == SKV_ERR_ARG);
    syn_free(&x);
}

TEST(merge_is_one_profiler)
{
    turned t = turned_of(1);
    skv_profiler *all = profiler_of(&t, 1), *a = profiler_of(&t, 1), *b = profiler_of(&t, 1), *o;
    syn_data x = turned_make(&t, 7, 200, 0.1), y = turned_make(&t, 8, 131, 0.1);
    size_t D = 64, F = 32, i, j, g;
    float other[16];
    add(all, &x, x.n);
    add(all, &y, y.n);
    add(a, &x, x.n);
    add(b, &y, y.n);
    CHECK(skv_profiler_merge(a, b) == SKV_OK);
    for (g = 0; g < 2; g++, D /= 2)
        for (i = 0; i < D * F; i++)
            CHECK_NEAR(a->player[0].k[g].cross[i], all->player[0].k[g].cross[i], 1e-9);
    for (i = 0; i < F; i++) {
        CHECK_NEAR(a->player[0].wave_sum[i], all->player[0].wave_sum[i], 1e-10);
        for (j = i; j < F; j++)
            CHECK_NEAR(a->player[0].wave[i * F + j], all->player[0].wave[i * F + j], 1e-10);
    }
    o = profiler_of(&t, 0);
    CHECK(skv_profiler_merge(a, o) == SKV_ERR_SHAPE && skv_profiler_merge(o, a) == SKV_ERR_SHAPE);
    CHECK(skv_profiler_rope(o, 0, SKV_ROPE_ADJACENT, t.freq, 16) == SKV_OK);
    CHECK(skv_profiler_merge(a, o) == SKV_ERR_SHAPE);           /* another style */
    CHECK(skv_profiler_rope(o, 0, SKV_ROPE_HALVES, t.freq, 15) == SKV_OK);
    CHECK(skv_profiler_merge(a, o) == SKV_ERR_SHAPE);
    memcpy(other, t.freq, sizeof other);
    other[9] *= 1.001f;
    CHECK(skv_profiler_rope(o, 0, SKV_ROPE_HALVES, other, 16) == SKV_OK);
    CHECK(skv_profiler_merge(a, o) == SKV_ERR_SHAPE);
    CHECK(skv_profiler_rope(o, 0, SKV_ROPE_HALVES, t.freq, 16) == SKV_OK);
    CHECK(skv_profiler_merge(a, o) == SKV_OK);
    skv_profiler_free(all);
    skv_profiler_free(a);
    skv_profiler_free(b);
    skv_profiler_free(o);
    syn_free(&x);
    syn_free(&y);
}

/* --- what it gains ------------------------------------------------------------------------- */

TEST(the_plan_expects_less_error)
{
    size_t i;
    for (i = 0; i < SHAPES; i++) {
        turned t = turned_of(i);
        skv_profile *with = fit(&t, 1, 0.1), *none = fit(&t, 0, 0.1);
        skv_target bits = SKV_ZERO;
        skv_outlook a, b;
        bits.bpe = 3;
        CHECK(skv_profile_outlook(with, &bits, &a) == SKV_OK);
        CHECK(skv_profile_outlook(none, &bits, &b) == SKV_OK);
        CHECK(a.bpe <= 3 && b.bpe <= 3 && a.bpe > 2.9);
        CHECK(a.error < 0.6 * b.error);
        CHECK(with->turn[0].pairs == t.pairs && !none->turn[0].pairs);
        CHECK(with->stream[0].turn && !none->stream[0].turn);
        skv_profile_free(with);
        skv_profile_free(none);
    }
}

/* With frequencies of 0 nothing turns: the mean moves from one place to the other, no more. */
TEST(idle_turn_is_harmless)
{
    turned t = turned_of(0);
    skv_profiler *p;
    skv_profile *f = NULL, *g = fit(&t, 0, 0.3);
    uint32_t i;
    for (i = 0; i < t.pairs; i++) t.freq[i] = 0;
    p = profiler_of(&t, 1);
    for (i = 0; i < t.pairs; i++) t.freq[i] = (float)pow(10000, -(double)i / (double)t.pairs);
    for (i = 0; i < 3; i++) {
        syn_data x = turned_make(&t, 1000 + i, PASSAGE - 20 * i, 0.3);
        add(p, &x, x.n);
        syn_free(&x);
    }
    CHECK(skv_profiler_fit(p, NULL, &f) >= SKV_OK);
    for (i = 0; f && i < 32; i++) {
        CHECK_NEAR(f->stream[0].var[i], g->stream[0].var[i], 1e-4 * (double)g->stream[0].var[0]);
        CHECK_NEAR(f->stream[0].mean[i] + f->stream[0].turn[i], g->stream[0].mean[i], 1e-5);
    }
    skv_profiler_free(p);
    skv_profile_free(f);
    skv_profile_free(g);
}

/* --- the cache ----------------------------------------------------------------------------- */

static float *floats(size_t n)
{
    float *p = (float *)malloc((n + 1) * sizeof(float));
    if (!p) abort();
    return p;
}

/* Largest |x|, at least 1 */
static double largest(const float *x, size_t n)
{
    double top = 1;
    size_t i;
    for (i = 0; i < n; i++) top = fabs((double)x[i]) > top ? fabs((double)x[i]) : top;
    return top;
}

/* attend and scores of the n newest tokens against the rows that the cache gives back; returns the
   outlier rows held. */
static size_t check_cache(skv_cache *c, const skv_layer *l, const syn_data *x, size_t n)
{
    size_t total = skv_cache_tokens(c, 0), nq = l->n_q_heads, nk = l->n_kv_heads, h, j;
    size_t d = l->head_dim, dv = syn_dim_v(l), at = (total - n) * nq * d;
    float *k = floats(total * nk * d), *v = floats(total * nk * dv), *out = floats(n * nq * dv);
    float *score = floats(nq * total);
    double *want = (double *)malloc(n * nq * dv * sizeof *want), worst = 0, size = 0;
    skv_span q = skv_f32(x->q + at), last = skv_f32(x->q + (total - 1) * nq * d);
    skv_out o = skv_out_f32(out);
    skv_usage use = SKV_ZERO;
    if (!want) abort();
    CHECK(skv_reconstruct(c, 0, 0, total, k, v) == SKV_OK);
    CHECK(skv_attend(c, 0, &q, n, &o, NULL) == SKV_OK);
    syn_attention(l, x->q + at, k, v, total, n, want, NULL);
    /* queries and weights of 14 bits, turned means of 16 bits for 128 tokens at once */
    CHECK_NEAR(syn_worst(out, want, n * nq * dv), 0, 1e-3 * largest(v, total * nk * dv));
    CHECK(skv_scores(c, 0, &last, score) == SKV_OK);
    for (h = 0; h < nq; h++)
        for (j = 0; j < total; j++) {
            double s = syn_score(l, x->q + ((total - 1) * nq + h) * d,
                                 k + (j * nk + h / (nq / nk)) * d);
            worst = fabs(s - (double)score[h * total + j]) > worst ?
                    fabs(s - (double)score[h * total + j]) : worst;
            size = fabs(s) > size ? fabs(s) : size;
        }
    CHECK_NEAR(worst, 0, 2e-4 * (1 + size));
    CHECK(skv_cache_usage(c, &use) == SKV_OK && use.page_bytes > 0);
    free(k);
    free(v);
    free(out);
    free(score);
    free(want);
    return use.outlier_rows;
}

static skv_cache *cache_of(const skv_profile *p, uint32_t tokens, float bpe, uint32_t max_append)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL;
    d.profile = p;
    d.target.bpe = bpe;
    d.max_tokens = tokens;
    d.max_append = max_append;
    d.exact_bits = 32;
    d.attend_bits = 14;
    d.outliers = 0.1f;
    CHECK(skv_cache_init(&c, &d) == SKV_OK);
    if (!c) abort();
    return c;
}

static void append(skv_cache *c, const skv_layer *l, const syn_data *x, size_t from, size_t n)
{
    skv_span k = skv_f32(x->k + from * l->n_kv_heads * l->head_dim);
    skv_span v = skv_f32(x->v + from * l->n_kv_heads * syn_dim_v(l));
    CHECK(skv_append(c, 0, &k, &v, n) == SKV_OK);
}

TEST(attention_is_that_of_the_rows)
{
    size_t i, rows = 0;
    for (i = 0; i < SHAPES; i++) {
        turned t = turned_of(i);
        skv_profile *p = fit(&t, 1, 0.3);
        skv_cache *c = cache_of(p, 700, i % 2 ? 2.0f : 4.0f, 0);
        syn_data x;
        t.s.outliers = 0.05f;
        x = turned_make(&t, 1, 601, 0.3);
        append(c, &t.s.shape, &x, 0, 300);
        rows += check_cache(c, &t.s.shape, &x, 1);
        append(c, &t.s.shape, &x, 300, 301);
        rows += check_cache(c, &t.s.shape, &x, 30);
        CHECK(t.pairs == c->coder.profile->turn[0].pairs);
        skv_cache_free(c);
        skv_profile_free(p);
        syn_free(&x);
    }
    CHECK(rows > 20);
}

/* Page 500 and its likes: angles of 32,000 tokens. */
TEST(far_positions)
{
    enum { FAR = 64 * 506 };
    static const uint32_t form[2][6] = {    /* n_q, n_kv, d, head group, style, pairs */
        {4, 2, 16, 2, SKV_ROPE_HALVES, 8}, {2, 2, 17, 1, SKV_ROPE_ADJACENT, 5}};
    size_t i, far = getenv("SKV_SANITIZED") ? FAR / 8 : FAR, rows, pages;
    for (i = 0; i < (test_.slow ? 2 : 1); i++) {
        syn s = {{form[i][0], form[i][1], form[i][2], 16, 0, 0, 0}, 60 + i, 1.0f, 2.0f, 0.01f, 15};
        skv_profile *p = syn_profile_turned(&s, 1, form[i][3], form[i][4], form[i][5]);
        skv_cache *c = cache_of(p, (uint32_t)far, 1.5f, 0);
        syn_data x = syn_make(&s, 0, 1, far);
        append(c, &s.shape, &x, 0, far);
        rows = check_cache(c, &s.shape, &x, 3);
        pages = c->cl[0].n_pages;
        CHECK(rows > far / 1000 && (pages > 500 || far < FAR) && pages > 50);
        CHECK(skvi_get32(c->cl[0].page[0] + 8) == c->sinks);
        CHECK(skvi_get32(c->cl[0].page[pages - 1] + 8) == c->sinks + 64 * (pages - 1));
        skv_cache_free(c);
        skv_profile_free(p);
        syn_free(&x);
    }
}

/* How many rows make a tile depends on max_append; the answers do so by rounding alone. */
TEST(tiles_of_any_size_agree)
{
    static const uint32_t piece[] = {1, 3, 16, 64};
    size_t i, j, m, n;
    for (i = 0; i < SHAPES; i++) {
        turned t = turned_of(i);
        skv_profile *p = fit(&t, 1, 0.3);
        syn_data x = turned_make(&t, 1, 400, 0.3);
        const skv_layer *l = &t.s.shape;
        float *out[4];
        n = 64 * (size_t)l->n_q_heads * l->head_dim_v;
        for (j = 0; j < 4; j++) {
            skv_cache *c = cache_of(p, 400, 3, piece[j]);
            skv_span q = skv_f32(x.q + 336 * (size_t)l->n_q_heads * l->head_dim);
            skv_out o;
            out[j] = floats(n);
            o = skv_out_f32(out[j]);
            for (m = 0; m < 400; m++) append(c, l, &x, m, 1);       /* the same pages for all */
            CHECK(skv_attend(c, 0, &q, 64, &o, NULL) == SKV_OK);
            CHECK(c->coder.tile_rows <= SKVI_ROWS && (j || c->coder.tile_rows < 16));
            CHECK(j < 3 || c->coder.tile_rows == SKVI_ROWS);
            skv_cache_free(c);
        }
        for (j = 1; j < 4; j++)
            for (m = 0; m < n; m++) CHECK_NEAR(out[j][m], out[0][m], 1e-4);
        for (j = 0; j < 4; j++) free(out[j]);
        skv_profile_free(p);
        syn_free(&x);
    }
}

/* --- arguments ----------------------------------------------------------------------------- */

TEST(arguments_of_rope)
{
    turned t = turned_of(0);
    skv_profiler *p = profiler_of(&t, 0);
    syn_data x = turned_make(&t, 1, 100, 0.1);
    static const float bad[] = {NAN, INFINITY, -INFINITY, 10.01f, -10.01f};
    float freq[17];
    size_t i;
    for (i = 0; i < 17; i++) freq[i] = i % 2 ? -10.0f : 10.0f;
    CHECK(skv_profiler_rope(NULL, 0, SKV_ROPE_HALVES, freq, 8) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 1, SKV_ROPE_HALVES, freq, 8) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, NULL, 8) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, 0) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 0, (skv_rope)0, freq, 8) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 0, (skv_rope)3, freq, 8) == SKV_ERR_ARG);
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, 17) == SKV_ERR_SHAPE);
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, (size_t)-1) == SKV_ERR_SHAPE);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        freq[7] = bad[i];
        CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, 8) == SKV_ERR_ARG);
        CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, 7) == SKV_OK);
    }
    CHECK(p->player[0].turn.pairs == 7 && p->player[0].turn.freq[6] == 10);
    freq[7] = 0;
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_ADJACENT, freq, 16) == SKV_OK);     /* all there are */
    add(p, &x, 100);
    CHECK(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, 8) == SKV_ERR_STATE);
    CHECK(p->player[0].turn.style == SKV_ROPE_ADJACENT && p->player[0].turn.pairs == 16);
    skv_profiler_free(p);
    syn_free(&x);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(sums_are_those_of_unturned_keys);
    RUN(narrow_is_a_narrow_profiler);
    RUN(merge_is_one_profiler);
    RUN(the_plan_expects_less_error);
    RUN(idle_turn_is_harmless);
    RUN(attention_is_that_of_the_rows);
    RUN(far_positions);
    RUN(tiles_of_any_size_agree);
    RUN(arguments_of_rope);
    return TEST_END();
}
